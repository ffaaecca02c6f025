//! What stands in a request's address: the queue's name and the query. Bodies are not read here.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use utoipa::IntoParams;

use super::problem::Failure;
use crate::domain::queue::QueueName;
use crate::domain::{Error, Result};

/// The query's parameters by name: each at most once, and no others.
///
/// # Errors
/// [`Error::Invalid`] naming the parameter.
pub(super) fn query<const N: usize>(
    parts: &Parts,
    names: [&str; N],
) -> Result<[Option<String>; N]> {
    let mut found = [const { None }; N];
    if parts.uri.query().is_none_or(str::is_empty) {
        return Ok(found);
    }
    let Query(pairs) =
        Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(|error| {
            Error::Malformed {
                detail: error.body_text(),
            }
        })?;
    for (name, value) in pairs {
        let Some(at) = names.iter().position(|known| *known == name) else {
            let rule = if N == 0 {
                "this operation has no query parameters".to_owned()
            } else {
                format!(
                    "this operation has the query parameters {}",
                    names.join(", ")
                )
            };
            return Err(Error::invalid(name, value, rule));
        };
        if found[at].is_some() {
            return Err(Error::invalid(name, value, "a parameter is given once"));
        }
        found[at] = Some(value);
    }
    Ok(found)
}

/// For a route without query parameters: refuses them.
pub(super) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        Ok(Self)
    }
}

/// The queue of a route below `/v1/queues/{queue}`; no such route has query parameters.
pub(super) struct QueueInPath(pub(super) QueueName);

impl<S: Send + Sync> FromRequestParts<S> for QueueInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::Malformed {
                detail: error.body_text(),
            })?;
        Ok(Self(QueueName::parse("queue", &name)?))
    }
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes; `QueueInPath` reads")]
pub(super) struct QueueParameter {
    /// The queue's name: 1 to 80 letters, digits, hyphens and underscores.
    #[param(example = "orders", pattern = "^[A-Za-z0-9_-]{1,80}$")]
    queue: String,
}

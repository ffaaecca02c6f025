//! What stands in a request's address: the queue's name and the query. Bodies are not read here.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use utoipa::IntoParams;

use super::problem::Failure;
use crate::domain::message::IdempotencyKey;
use crate::domain::queue::QueueName;
use crate::domain::trace::{TraceContext, Traceparent, Tracestate};
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
pub(in crate::http) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        Ok(Self)
    }
}

/// The queue of a route below `/v1/queues/{queue}` without query parameters.
pub(super) struct QueueInPath(pub(super) QueueName);

impl<S: Send + Sync> FromRequestParts<S> for QueueInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        Ok(Self(queue_in_path(parts, state).await?))
    }
}

/// The queue of a route that has nothing else in its path.
pub(super) async fn queue_in_path<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<QueueName> {
    let Path(name) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|error| Error::Malformed {
            detail: error.body_text(),
        })?;
    QueueName::parse("queue", &name)
}

/// The queue of a route that reads its query parameters itself.
pub(super) struct QueueAlone(pub(super) QueueName);

impl<S: Send + Sync> FromRequestParts<S> for QueueAlone {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Ok(Self(queue_in_path(parts, state).await?))
    }
}

/// The queue of a delete, and whether it goes although others need it.
pub(super) struct QueueToDelete {
    pub(super) queue: QueueName,
    pub(super) force: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for QueueToDelete {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let [force] = query(parts, ["force"])?;
        let force = match force.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                return Err(Error::invalid("force", other, "true or false").into());
            }
        };
        Ok(Self {
            queue: queue_in_path(parts, state).await?,
            force,
        })
    }
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes; `QueueToDelete` reads")]
pub(super) struct ForceParameter {
    /// Deletes the queue although others send their dead letters there; they deliver on.
    #[param(nullable = false, default = false)]
    force: Option<bool>,
}

/// The header that makes a send repeatable.
pub(super) struct IdempotencyKeyHeader(pub(super) Option<IdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKeyHeader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        const NAME: &str = "idempotency-key";
        let mut given = parts.headers.get_all(NAME).iter();
        let Some(key) = given.next() else {
            return Ok(Self(None));
        };
        let key = String::from_utf8_lossy(key.as_bytes());
        if given.next().is_some() {
            let rule = "a header that is given once";
            return Err(Error::invalid("Idempotency-Key", key, rule).into());
        }
        Ok(Self(Some(IdempotencyKey::parse("Idempotency-Key", &key)?)))
    }
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes; `IdempotencyKeyHeader` reads")]
pub(super) struct IdempotencyKeyParameter {
    /// Names the request, so that it can be repeated: 1 to 255 visible ASCII characters, new for each
    /// request that is not a repetition.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        pattern = "^[!-~]{1,255}$"
    )]
    idempotency_key: Option<String>,
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

/// The headers of W3C Trace Context.
pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";

/// The trace and the span that a request is of. What is not well formed is as if it was not there: it
/// may be the work of any proxy.
pub(super) fn trace_of(headers: &HeaderMap) -> Option<Arc<TraceContext>> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let traceparent = given.next()?.to_str().ok()?;
    let traceparent = Traceparent::parse(TRACEPARENT, traceparent).ok()?;
    if given.next().is_some() {
        return None;
    }
    let lists = headers.get_all(TRACESTATE).iter();
    let lists = lists
        .map(|list| list.to_str().ok())
        .collect::<Option<Vec<_>>>();
    let tracestate = lists.and_then(|lists| Tracestate::parse(TRACESTATE, &lists.join(",")).ok());
    Some(Arc::new(TraceContext {
        traceparent,
        tracestate,
    }))
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes; `trace_of` reads")]
pub(super) struct TraceParameters {
    /// The trace and the span that the messages are sent in, for those that do not say themselves (W3C
    /// Trace Context). Ignored when it is not well formed.
    #[param(nullable = false)]
    traceparent: Option<String>,
    /// What vendors add to `traceparent`.
    #[param(nullable = false)]
    tracestate: Option<String>,
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes; `octets::Times` reads")]
pub(super) struct TimesParameters {
    /// For `application/octet-stream`: how long the message stays hidden; when left out, as the queue
    /// says.
    #[param(nullable = false, minimum = 0, maximum = 315360000)]
    delay_seconds: Option<i64>,
    /// For `application/octet-stream`: how long the message lives; when left out, for as long as the
    /// queue keeps messages.
    #[param(nullable = false, minimum = 1, maximum = 315360000)]
    time_to_live_seconds: Option<i64>,
}

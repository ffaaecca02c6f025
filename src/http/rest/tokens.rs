//! Tokens over REST: wire types and the handler.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Json;
use super::json::{Input, not_null};
use super::parameters::NoQuery;
use super::problem::Failure;
use crate::auth::Subject;
use crate::domain::access::{Right, Rights};
use crate::domain::queue::seconds;
use crate::domain::{Error, Result, limits};
use crate::http::Gate;
use crate::http::authorized::{Authorized, needs};
use crate::http::request_id::RequestId;

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateToken {
    /// Who will hold it: up to 128 characters without control characters.
    #[schema(min_length = 1, max_length = 128, example = "orders-worker")]
    subject: String,
    /// What it allows: words of `read_metadata`, `configure`, `send`, `receive`, `delete`, `purge` and
    /// `administer`, separated by spaces. All but `administer` when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, example = "send receive delete")]
    scope: Option<String>,
    /// How long it holds: as long as the server allows at most, a day when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 2592000, default = 86400)]
    lifetime_seconds: Option<i64>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedToken {
    /// The token: whoever has it may do what its scope says.
    token: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// Issue a token
///
/// It goes into the header `Authorization: Bearer <token>`. The server keeps no copy.
#[utoipa::path(
    post, path = "/v1/tokens", operation_id = "createToken", tag = "tokens",
    request_body(content = CreateToken, description = "Who, what and how long",
        example = json!({"subject": "orders-worker", "scope": "send receive delete"})),
    responses((status = 200, description = "The token", body = CreatedToken,
        example = json!({"token": "eyJ…", "expires_at": "2026-11-21T12:00:00Z"}))),
)]
pub(super) async fn create_token(
    caller: Authorized<needs::Administer>,
    _query: NoQuery,
    State(gate): State<Arc<Gate>>,
    Input(request, _place): Input<CreateToken>,
) -> Result<(Extension<Issued>, Json<CreatedToken>), Failure> {
    let subject = Subject::parse("/subject", &request.subject)?;
    let rights = request
        .scope
        .as_deref()
        .map_or_else(|| Ok(Rights::application()), scope)?;
    let issuer = gate.http.authenticator.issuer();
    let lifetime = request
        .lifetime_seconds
        .map_or_else(|| Ok(issuer.default_lifetime()), lifetime)?;
    let now = gate.http.clock.utc();
    let minted = issuer.mint(&subject, rights, lifetime, now)?;
    let issued = Issued {
        id: minted.id,
        subject,
        rights,
        expires_at: minted.expires_at,
        by: caller.subject.clone(),
    };
    let created = CreatedToken {
        token: minted.token,
        expires_at: minted.expires_at,
    };
    Ok((Extension(issued), Json(created)))
}

/// What the log says of a new token: all but the token. It travels on the answer to the top of the
/// stack, which knows the request's id.
#[derive(Clone)]
pub(super) struct Issued {
    id: Uuid,
    subject: Subject,
    rights: Rights,
    expires_at: OffsetDateTime,
    by: Subject,
}

/// Logs the token that an answer brings, if it brings one.
pub(in crate::http) fn log(response: &mut Response, request_id: &RequestId) {
    let Some(issued) = response.extensions_mut().remove::<Issued>() else {
        return;
    };
    tracing::info!(
        %request_id,
        jti = %issued.id,
        subject = issued.subject.as_str(),
        scope = issued.rights.scope(),
        expires_at = %issued.expires_at,
        by = issued.by.as_str(),
        "a token was issued"
    );
}

fn lifetime(given: i64) -> Result<Duration> {
    let range = Duration::from_secs(1)..=limits::MAX_TOKEN_LIFETIME;
    seconds("/lifetime_seconds", given, range)
}

fn scope(given: &str) -> Result<Rights> {
    let rule = || {
        let names: Vec<_> = Right::ALL.into_iter().map(Right::name).collect();
        format!("one or more of {}, separated by spaces", names.join(", "))
    };
    match Rights::from_scope(given) {
        Ok(rights) if rights != Rights::default() => Ok(rights),
        Ok(_) => Err(Error::invalid("/scope", given, rule())),
        Err(word) => Err(Error::invalid("/scope", word, rule())),
    }
}

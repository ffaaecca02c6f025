//! Redrives over REST: wire types and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Json;
use super::json::{Input, not_null, object};
use super::parameters::{QueueInPath, QueueParameter, query};
use super::problem::Failure;
use crate::domain::attribute::AttributeName;
use crate::domain::queue::{QueueName, seconds};
use crate::domain::redrive::{NewRedrive, RedriveFilter, RedriveState};
use crate::domain::{self, Error, Result, limits};
use crate::http::Gate;
use crate::http::authorized::{Authorized, needs};
use crate::service::Service;

/// What is to be taken out of a queue, and where it goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartRedrive {
    /// The queue that messages go to. Left out, each goes to the queue that gave it up last.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,80}$")]
    to: Option<String>,
    /// Which messages; all of them when left out.
    #[serde(default, deserialize_with = "object")]
    #[schema(nullable = false, value_type = RedriveFilterInput)]
    filter: Option<RedriveFilterInput>,
    /// Most messages that move within a second; as fast as they can when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 100000)]
    max_messages_per_second: Option<i64>,
    /// Only counts what would move.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, default = false)]
    dry_run: Option<bool>,
}

/// What is asked of a message: all that is given must hold.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RedriveFilter)]
pub(super) struct RedriveFilterInput {
    /// It has an attribute of this name.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    attribute: Option<String>,
    /// The attribute has exactly this value; of a Binary one its base64. Goes with `attribute`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1)]
    attribute_value: Option<String>,
    /// It was first sent at least so long ago.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 315360000)]
    older_than_seconds: Option<i64>,
    /// The `text` of its newest death has this in it.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 1024,
        pattern = "^[^\\u0000]*$"
    )]
    reason_contains: Option<String>,
    /// It is one of these.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_items = 1, max_items = 1000)]
    message_ids: Option<Vec<String>>,
}

impl RedriveFilterInput {
    fn read(self) -> Result<RedriveFilter> {
        let place = |field: &str| format!("/filter/{field}");
        let attribute = self
            .attribute
            .map(|name| AttributeName::parse(place("attribute"), name));
        if let (Some(value), None) = (&self.attribute_value, &attribute) {
            let rule = "given together with attribute";
            return Err(Error::invalid(place("attribute_value"), value, rule));
        }
        for (field, text) in [
            ("attribute_value", &self.attribute_value),
            ("reason_contains", &self.reason_contains),
        ] {
            if let Some(text) = text {
                check_text(place(field), text, field == "reason_contains")?;
            }
        }
        let older_than = self.older_than_seconds.map(|least| {
            let range = Duration::ZERO..=limits::MAX_LIFE;
            seconds(&place("older_than_seconds"), least, range)
        });
        Ok(RedriveFilter {
            attribute: attribute.transpose()?,
            attribute_value: self.attribute_value,
            older_than: older_than.transpose()?,
            reason_contains: self.reason_contains,
            message_ids: self.message_ids.map(|ids| message_ids(&ids)).transpose()?,
        })
    }
}

fn check_text(field: String, text: &str, is_reason: bool) -> Result<()> {
    let most = if is_reason {
        limits::MAX_REASON
    } else {
        limits::MAX_MESSAGE_BYTES
    };
    if text.is_empty() || text.len() > most || text.contains('\0') {
        let rule = format!("1 to {most} bytes of UTF-8 without U+0000");
        return Err(Error::invalid(field, text, rule));
    }
    Ok(())
}

fn message_ids(ids: &[String]) -> Result<std::collections::BTreeSet<Uuid>> {
    if !(1..=limits::MAX_REDRIVE_IDS).contains(&ids.len()) {
        return Err(Error::invalid(
            "/filter/message_ids",
            format!("{} ids", ids.len()),
            format!("1 to {} message ids", limits::MAX_REDRIVE_IDS),
        ));
    }
    let id = |(index, id): (usize, &String)| {
        Uuid::try_parse(id).map_err(|_not_a_uuid| {
            let field = format!("/filter/message_ids/{index}");
            Error::invalid(field, id, "a message's id, which is a UUID")
        })
    };
    ids.iter().enumerate().map(id).collect()
}

impl StartRedrive {
    fn read(self) -> Result<(NewRedrive, bool)> {
        let to = self.to.map(|name| QueueName::parse("/to", &name));
        let rate = self.max_messages_per_second.map(|given| {
            u32::try_from(given)
                .ok()
                .filter(|rate| (1..=limits::MAX_REDRIVE_RATE).contains(rate))
                .ok_or_else(|| {
                    let rule = format!("a whole number from 1 to {}", limits::MAX_REDRIVE_RATE);
                    Error::invalid("/max_messages_per_second", given.to_string(), rule)
                })
        });
        let redrive = NewRedrive {
            to: to.transpose()?,
            filter: self.filter.unwrap_or_default().read()?,
            max_per_second: rate.transpose()?,
        };
        Ok((redrive, self.dry_run.unwrap_or_default()))
    }
}

/// What a redrive would move now.
#[derive(Serialize, ToSchema)]
pub(super) struct RedriveCount {
    /// Messages that can be received and are meant.
    #[schema(minimum = 0)]
    matching: u64,
    /// Whether all of the queue was looked at; otherwise there may be more.
    complete: bool,
}

/// A redrive.
#[derive(Serialize, ToSchema)]
pub(super) struct Redrive {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    redrive_id: Uuid,
    /// The queue that messages are taken out of.
    queue: String,
    /// The queue that they go to; missing when each goes to the queue that gave it up last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    to: Option<String>,
    /// How far it is.
    #[schema(value_type = RedriveStateName)]
    state: &'static str,
    /// Messages that moved; what a node had moved just before it died may be missing.
    #[schema(minimum = 0)]
    moved: u64,
    /// Messages that were meant and stay, since they have nowhere to go.
    #[schema(minimum = 0)]
    skipped: u64,
    /// Messages that were meant and could not be moved; missing when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    failed: Option<u64>,
    /// When it was started.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When something was last said of it.
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    /// When it ended.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    ended_at: Option<OffsetDateTime>,
    /// Why it could not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
}

/// How far a redrive is.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `state_name` writes")]
enum RedriveStateName {
    Running,
    Completed,
    Cancelled,
    Failed,
}

const fn state_name(state: RedriveState) -> &'static str {
    match state {
        RedriveState::Running => "running",
        RedriveState::Completed => "completed",
        RedriveState::Cancelled => "cancelled",
        RedriveState::Failed => "failed",
    }
}

impl Redrive {
    fn of(queue: &QueueName, redrive: domain::redrive::Redrive) -> Self {
        Self {
            redrive_id: redrive.id,
            queue: queue.as_str().to_owned(),
            to: redrive.to.map(|to| to.as_str().to_owned()),
            state: state_name(redrive.state),
            moved: redrive.moved,
            skipped: redrive.skipped,
            failed: Some(redrive.failed).filter(|failed| *failed > 0),
            created_at: redrive.created_at,
            updated_at: redrive.updated_at,
            ended_at: redrive.ended_at,
            error: redrive.error,
        }
    }
}

/// Redrives of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct RedriveList {
    /// The newest first: those of the last 14 days, up to 100.
    items: Vec<Redrive>,
}

/// What a start answers.
pub(super) enum Started {
    Counted(RedriveCount),
    Running(Redrive),
}

impl IntoResponse for Started {
    fn into_response(self) -> Response {
        match self {
            Self::Counted(count) => Json(count).into_response(),
            Self::Running(redrive) => (StatusCode::ACCEPTED, Json(redrive)).into_response(),
        }
    }
}

fn redrive_example() -> serde_json::Value {
    json!({
        "redrive_id": "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210",
        "queue": "orders-dead",
        "state": "running",
        "moved": 1200,
        "skipped": 0,
        "created_at": "2026-11-20T12:00:00.123456Z",
        "updated_at": "2026-11-20T12:00:05.5Z",
    })
}

/// Move messages out of a queue
///
/// Usually out of a dead-letter queue: each message goes back to the queue that gave it up last, or all of
/// them to one queue. It goes on in the background, on whichever node, until nothing that was there at the start is
/// left. Messages that somebody has received stay. A message keeps its id, its body, its first send and its
/// deaths; its deliveries count anew. With `dry_run` nothing moves, and what would is counted.
///
/// It needs the right `configure`: it decides for a whole queue where messages are, as its settings do, and they
/// come to queues that the request does not even name. Who may only receive and send cannot do that to others.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/redrives", operation_id = "startRedrive", tag = "redrives",
    params(QueueParameter),
    request_body(content = StartRedrive, description = "What moves, and where",
        example = json!({"filter": {"reason_contains": "timeout"}, "max_messages_per_second": 100})),
    responses(
        (status = 200, description = "A dry run: how many would move", body = RedriveCount,
            example = json!({"matching": 1200, "complete": true})),
        (status = 202, description = "It runs", body = Redrive,
            example = json!(redrive_example())),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Another redrive of the queue runs"),
    ),
)]
pub(super) async fn start_redrive(
    caller: Authorized<needs::Configure>,
    QueueInPath(name): QueueInPath,
    State(gate): State<Arc<Gate>>,
    Input(body, _place): Input<StartRedrive>,
) -> Result<Started, Failure> {
    let (redrive, is_dry) = body.read()?;
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    if is_dry {
        let count = service.count_redrive(&tenant, &name, &redrive).await?;
        return Ok(Started::Counted(RedriveCount {
            matching: count.matching,
            complete: count.complete,
        }));
    }
    let start = async move { service.start_redrive(&tenant, &name, redrive).await };
    let (queue, redrive) = gate.change(start).await?;
    Ok(Started::Running(Redrive::of(&queue.name, redrive)))
}

/// List the redrives of a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}/redrives", operation_id = "listRedrives", tag = "redrives",
    params(QueueParameter),
    responses(
        (status = 200, description = "The newest first", body = RedriveList,
            example = json!({"items": [redrive_example()]})),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn list_redrives(
    caller: Authorized<needs::ReadMetadata>,
    QueueInPath(name): QueueInPath,
    State(service): State<Service>,
) -> Result<Json<RedriveList>, Failure> {
    let redrives = service.list_redrives(&caller.tenant, &name).await?;
    let items = redrives.into_iter();
    Ok(Json(RedriveList {
        items: items.map(|redrive| Redrive::of(&name, redrive)).collect(),
    }))
}

/// A redrive in a route's path.
pub(super) struct RedriveInPath {
    queue: QueueName,
    id: Uuid,
}

impl<S: Send + Sync> FromRequestParts<S> for RedriveInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        let Path((queue, id)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::Malformed {
                detail: error.body_text(),
            })?;
        let queue = QueueName::parse("queue", &queue)?;
        let id = Uuid::try_parse(&id).map_err(|_not_a_uuid| {
            Error::invalid("redrive_id", &id, "the id of a redrive, which is a UUID")
        })?;
        Ok(Self { queue, id })
    }
}

/// The same for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes; `RedriveInPath` reads")]
pub(super) struct RedriveParameter {
    /// The redrive's id.
    #[param(value_type = String, format = Uuid, example = "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210")]
    redrive_id: Uuid,
}

/// Get a redrive
///
/// Its counts are those of a second ago, about.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/redrives/{redrive_id}", operation_id = "getRedrive",
    tag = "redrives",
    params(QueueParameter, RedriveParameter),
    responses(
        (status = 200, description = "The redrive", body = Redrive,
            example = json!(redrive_example())),
        (status = 404, description = "There is no such queue, or no such redrive of it"),
    ),
)]
pub(super) async fn get_redrive(
    caller: Authorized<needs::ReadMetadata>,
    RedriveInPath { queue, id }: RedriveInPath,
    State(service): State<Service>,
) -> Result<Json<Redrive>, Failure> {
    let redrive = service.get_redrive(&caller.tenant, &queue, id).await?;
    Ok(Json(Redrive::of(&queue, redrive)))
}

/// Cancel a redrive
///
/// What has moved stays where it is; the rest is visible again about a second later. One that has ended
/// stays as it is, so the request can be repeated.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/redrives/{redrive_id}/cancel",
    operation_id = "cancelRedrive", tag = "redrives",
    params(QueueParameter, RedriveParameter),
    responses(
        (status = 200, description = "It has ended", body = Redrive,
            example = json!({
                "redrive_id": "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210", "queue": "orders-dead",
                "state": "cancelled", "moved": 1200, "skipped": 0,
                "created_at": "2026-11-20T12:00:00.123456Z", "updated_at": "2026-11-20T12:00:05.5Z",
                "ended_at": "2026-11-20T12:00:05.5Z",
            })),
        (status = 404, description = "There is no such queue, or no such redrive of it"),
    ),
)]
pub(super) async fn cancel_redrive(
    caller: Authorized<needs::Configure>,
    RedriveInPath { queue, id }: RedriveInPath,
    State(gate): State<Arc<Gate>>,
) -> Result<Json<Redrive>, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let cancel = async move {
        let redrive = service.cancel_redrive(&tenant, &queue, id).await?;
        Ok((queue, redrive))
    };
    let (queue, redrive) = gate.change(cancel).await?;
    Ok(Json(Redrive::of(&queue, redrive)))
}

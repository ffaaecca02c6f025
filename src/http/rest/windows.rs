//! More time, less time and giving up, over REST: wire types and handlers.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Json;
use super::batch::{EntryError, ended, entries};
use super::json::{Input, not_null, objects};
use super::parameters::{QueueInPath, QueueParameter};
use super::problem::Failure;
use crate::domain::message::{Extension, check_reason};
use crate::domain::queue::seconds;
use crate::domain::{Result, limits};
use crate::http::authorized::{Authorized, needs};
use crate::service::{Service, WindowRequest};

/// Messages that are to stay hidden for another time.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExtendMessages {
    /// One entry per message.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MessageToExtend>,
}

/// A message that is to stay hidden for another time.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToExtend {
    /// The handle that came with the newest delivery.
    #[schema(min_length = 1, max_length = 1024)]
    receipt_handle: String,
    /// How long from now on it stays hidden from others; 0 makes it visible at once.
    #[schema(minimum = 0, maximum = 43200)]
    visibility_timeout_seconds: i64,
}

impl MessageToExtend {
    fn into_domain(self, index: usize) -> Result<WindowRequest> {
        let field = format!("/messages/{index}/visibility_timeout_seconds");
        let range = Duration::ZERO..=limits::MAX_VISIBILITY_TIMEOUT;
        Ok(WindowRequest {
            window: Some(seconds(&field, self.visibility_timeout_seconds, range)?),
            receipt_handle: self.receipt_handle,
            reason: None,
        })
    }
}

/// Messages that are given up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NackMessages {
    /// One entry per message.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MessageToNack>,
}

/// A message that is given up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToNack {
    /// The handle that came with the newest delivery.
    #[schema(min_length = 1, max_length = 1024)]
    receipt_handle: String,
    /// After how long others may receive it; when left out, as the queue's `retry_policy` says, or at once
    /// where it has none.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 315360000)]
    delay_seconds: Option<i64>,
    /// Why, for whoever finds it in the dead-letter queue: up to 1024 bytes of UTF-8 without U+0000.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, max_length = 1024, pattern = "^[^\\u0000]*$")]
    reason: Option<String>,
}

impl MessageToNack {
    fn into_domain(self, index: usize) -> Result<WindowRequest> {
        let field = format!("/messages/{index}/delay_seconds");
        let delay = self
            .delay_seconds
            .map(|delay| seconds(&field, delay, Duration::ZERO..=limits::MAX_LIFE));
        let window = delay.transpose()?;
        if let Some(reason) = &self.reason {
            check_reason(format_args!("/messages/{index}/reason"), reason)?;
        }
        Ok(WindowRequest {
            window,
            receipt_handle: self.receipt_handle,
            reason: self.reason,
        })
    }
}

/// How the entries ended.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangedMessages {
    /// In the order of the request.
    messages: Vec<ChangedMessage>,
}

/// How one entry ended: one of the fields is there.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct ChangedMessage {
    /// When others may receive it, unless it is deleted before.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    visible_at: Option<OffsetDateTime>,
    /// It was received as often as the queue allows: it goes to the dead-letter queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    dead_lettered: Option<bool>,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<EntryError>,
}

impl From<Extension> for ChangedMessage {
    fn from(extension: Extension) -> Self {
        match extension {
            Extension::VisibleAt(at) => Self {
                visible_at: Some(at),
                ..Self::default()
            },
            Extension::DeadLettered => Self {
                dead_lettered: Some(true),
                ..Self::default()
            },
            Extension::Stale(violation) => Self {
                error: Some(EntryError::stale(violation)),
                ..Self::default()
            },
        }
    }
}

/// Give messages that were received more time, or less
///
/// Each entry ends for itself. Only the newest delivery of a message can do it, and only within its time;
/// when not one of the handles is of such a delivery, the answer is 409.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages/extend", operation_id = "extendMessages",
    tag = "messages",
    params(QueueParameter),
    request_body(content = ExtendMessages, description = "1 to 1000 receipt handles and times",
        example = json!({"messages": [{
            "receipt_handle": super::openapi::RECEIPT_HANDLE, "visibility_timeout_seconds": 60}]})),
    responses(
        (status = 200, description = "How each entry ended", body = ChangedMessages,
            example = json!({"messages": [{"visible_at": "2026-11-20T12:01:01.5Z"}]})),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Every handle is of an old delivery"),
    ),
)]
pub(super) async fn extend_messages(
    caller: Authorized<needs::Receive>,
    QueueInPath(queue): QueueInPath,
    State(service): State<Service>,
    Input(request, _place): Input<ExtendMessages>,
) -> Result<Json<ChangedMessages>, Failure> {
    let requests = entries(request.messages, MessageToExtend::into_domain)?;
    let extensions = service
        .extend_messages(&caller.tenant, &queue, requests)
        .await?;
    changed(extensions)
}

/// Give up messages that were received
///
/// Others may receive them, after the delay that is given, else after that of the queue's `retry_policy`,
/// else at once. One that was received as often as its queue allows
/// goes to the dead-letter queue. Each entry ends for itself; when not one of the handles is of a newest
/// delivery within its time, the answer is 409.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages/nack", operation_id = "nackMessages",
    tag = "messages",
    params(QueueParameter),
    request_body(content = NackMessages, description = "1 to 1000 receipt handles",
        example = json!({"messages": [{
            "receipt_handle": super::openapi::RECEIPT_HANDLE, "delay_seconds": 10,
            "reason": "the payment service does not answer"}]})),
    responses(
        (status = 200, description = "How each entry ended", body = ChangedMessages,
            example = json!({"messages": [{"visible_at": "2026-11-20T12:00:11.5Z"}]})),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Every handle is of an old delivery"),
    ),
)]
pub(super) async fn nack_messages(
    caller: Authorized<needs::Receive>,
    QueueInPath(queue): QueueInPath,
    State(service): State<Service>,
    Input(request, _place): Input<NackMessages>,
) -> Result<Json<ChangedMessages>, Failure> {
    let requests = entries(request.messages, MessageToNack::into_domain)?;
    let extensions = service
        .nack_messages(&caller.tenant, &queue, requests)
        .await?;
    changed(extensions)
}

fn changed(extensions: Vec<Extension>) -> Result<Json<ChangedMessages>, Failure> {
    let messages = ended(extensions, Extension::stale)?;
    Ok(Json(ChangedMessages { messages }))
}

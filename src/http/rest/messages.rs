//! Messages over REST: wire types and handlers.

use std::time::Duration;

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Json;
use super::json::{Input, not_null, objects};
use super::parameters::{
    IdempotencyKeyHeader, IdempotencyKeyParameter, QueueInPath, QueueParameter,
};
use super::problem::Failure;
use crate::domain::message::{Body, BodyKind, DeathCause, Deletion, NewMessage, ReceivedMessage};
use crate::domain::queue::seconds;
use crate::domain::{Error, Result, Violation, limits, message};
use crate::http::authorized::{Authorized, needs};
use crate::service::{ReceiveRequest, Service};

/// Messages to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendMessages {
    /// All of them are sent, or none.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MessageToSend>,
}

/// A message to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToSend {
    /// Its text, without U+0000: up to 1048576 bytes of UTF-8, which are fewer characters than
    /// `maxLength` where a character has more bytes than one.
    #[schema(min_length = 1, max_length = 1048576, pattern = "^[^\\u0000]*$")]
    body: String,
    /// How long it stays hidden; when left out, as the queue says. Shorter than the queue keeps
    /// messages.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 315360000)]
    delay_seconds: Option<i64>,
    /// How long it lives; when left out, for as long as the queue keeps messages.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 315360000)]
    time_to_live_seconds: Option<i64>,
}

impl MessageToSend {
    fn into_domain(self, index: usize) -> Result<NewMessage> {
        let body = Body::text(format_args!("/messages/{index}/body"), self.body)?;
        let within = |field: &str, given: Option<i64>, least: Duration| {
            given
                .map(|given| {
                    let field = format!("/messages/{index}/{field}");
                    seconds(&field, given, least..=limits::MAX_LIFE)
                })
                .transpose()
        };
        let second = Duration::from_secs(1);
        Ok(NewMessage {
            body,
            delay: within("delay_seconds", self.delay_seconds, Duration::ZERO)?,
            time_to_live: within("time_to_live_seconds", self.time_to_live_seconds, second)?,
        })
    }
}

/// What was sent.
#[derive(Serialize, ToSchema)]
pub(super) struct SentMessages {
    /// In the order of the request.
    messages: Vec<SentMessage>,
}

/// A message that was sent.
#[derive(Serialize, ToSchema)]
pub(super) struct SentMessage {
    /// Its id.
    message_id: Uuid,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    sent_at: OffsetDateTime,
}

impl From<message::SentMessage> for SentMessage {
    fn from(sent: message::SentMessage) -> Self {
        Self {
            message_id: sent.message_id,
            sent_at: sent.sent_at,
        }
    }
}

/// Send messages
///
/// When this is answered by 200, the messages are on disk, unless the queue's durability is `async`.
/// With an `Idempotency-Key` the request can be repeated within the queue's deduplication window: it is
/// answered as the first time, and nothing is sent again.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages", operation_id = "sendMessages", tag = "messages",
    params(QueueParameter, IdempotencyKeyParameter),
    request_body(content = SendMessages, description = "1 to 1000 messages",
        example = json!({"messages": [{"body": "hello"}]})),
    responses(
        (status = 200, description = "The messages were sent", body = SentMessages,
            example = json!({"messages": [{
                "message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18",
                "sent_at": "2026-11-20T12:00:00.123456Z"}]})),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn send_messages(
    caller: Authorized<needs::Send>,
    QueueInPath(queue): QueueInPath,
    State(service): State<Service>,
    IdempotencyKeyHeader(key): IdempotencyKeyHeader,
    Input(request, _place): Input<SendMessages>,
) -> Result<Json<SentMessages>, Failure> {
    require_batch(request.messages.len())?;
    let messages = request
        .messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| message.into_domain(index))
        .collect::<Result<_>>()?;
    let sent = service
        .send_messages(&caller.tenant, &queue, messages, key)
        .await?;
    Ok(Json(SentMessages {
        messages: sent.into_iter().map(SentMessage::from).collect(),
    }))
}

/// How to receive.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReceiveMessages {
    /// Most messages to receive; 1 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 1000, default = 1)]
    max_messages: Option<i64>,
    /// How long to wait for a first message; when left out, as the queue says.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 20)]
    wait_seconds: Option<i64>,
    /// How long the messages stay hidden from others; when left out, as the queue says.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 43200)]
    visibility_timeout_seconds: Option<i64>,
}

impl ReceiveMessages {
    fn request(&self) -> Result<ReceiveRequest> {
        let max = self.max_messages.unwrap_or(1);
        let batch = usize::try_from(max)
            .ok()
            .filter(|max| (1..=limits::MAX_BATCH).contains(max))
            .ok_or_else(|| {
                let rule = format!("a whole number from 1 to {}", limits::MAX_BATCH);
                Error::invalid("/max_messages", max.to_string(), rule)
            })?;
        let wait = self.wait_seconds.map(|given| {
            seconds(
                "/wait_seconds",
                given,
                Duration::ZERO..=limits::MAX_RECEIVE_WAIT,
            )
        });
        let visibility_timeout = self.visibility_timeout_seconds.map(|given| {
            let field = "/visibility_timeout_seconds";
            seconds(
                field,
                given,
                Duration::ZERO..=limits::MAX_VISIBILITY_TIMEOUT,
            )
        });
        Ok(ReceiveRequest {
            max: batch,
            wait: wait.transpose()?,
            visibility_timeout: visibility_timeout.transpose()?,
        })
    }
}

/// What was received.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceivedMessages {
    /// None when nothing came in time.
    messages: Vec<MessageInFlight>,
}

/// A message in the hands of this receiver until `visible_at`.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageInFlight {
    /// Its id.
    message_id: Uuid,
    /// The proof of this delivery: deletes the message.
    receipt_handle: String,
    /// What it carries.
    body: String,
    /// How to read `body`: as it stands, as JSON text, or as base64.
    #[schema(value_type = BodyKindName)]
    body_kind: &'static str,
    /// When it was sent.
    #[serde(with = "time::serde::rfc3339")]
    sent_at: OffsetDateTime,
    /// When it was first received.
    #[serde(with = "time::serde::rfc3339")]
    first_received_at: OffsetDateTime,
    /// How often it was received, this time included.
    #[schema(minimum = 1)]
    receive_count: i32,
    /// When others may receive it, unless it is deleted before.
    #[serde(with = "time::serde::rfc3339")]
    visible_at: OffsetDateTime,
    /// In a dead-letter queue: how it came there, the newest time last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    deaths: Vec<Death>,
}

/// One time that a message came to a dead-letter queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Death {
    /// The queue that it came from.
    queue: String,
    /// Why.
    #[schema(value_type = DeathReason)]
    reason: &'static str,
    /// What the last receiver said when it gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// How often it had been received there.
    #[schema(minimum = 1)]
    receive_count: i32,
}

/// Why a message came to a dead-letter queue.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `Death` writes")]
enum DeathReason {
    MaxReceiveCount,
}

impl From<message::Death> for Death {
    fn from(death: message::Death) -> Self {
        Self {
            queue: death.queue,
            reason: match death.cause {
                DeathCause::MaxReceiveCount => "max_receive_count",
            },
            text: death.text,
            at: death.at,
            receive_count: death.receive_count,
        }
    }
}

/// How to read a body.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `body` writes")]
enum BodyKindName {
    Text,
    Json,
    Base64,
}

impl MessageInFlight {
    fn new(received: ReceivedMessage) -> Result<Self> {
        let (body, body_kind) = body(received.body)?;
        Ok(Self {
            message_id: received.message_id,
            receipt_handle: received.receipt_handle,
            body,
            body_kind,
            sent_at: received.sent_at,
            first_received_at: received.first_received_at,
            receive_count: received.receive_count,
            visible_at: received.visible_at,
            deaths: received.deaths.into_iter().map(Death::from).collect(),
        })
    }
}

fn body(body: Body) -> Result<(String, &'static str)> {
    let text = |bytes| String::from_utf8(Vec::from(bytes)).map_err(Error::internal);
    match body.kind {
        BodyKind::Text => Ok((text(body.bytes)?, "text")),
        BodyKind::Json => Ok((text(body.bytes)?, "json")),
        BodyKind::Bytes => Ok((STANDARD.encode(body.bytes), "base64")),
    }
}

/// Receive messages
///
/// They stay hidden from other receivers until `visible_at`; delete them before, or they are
/// delivered again. An empty body means all defaults.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages/receive", operation_id = "receiveMessages",
    tag = "messages",
    params(QueueParameter),
    request_body(content = ReceiveMessages, description = "How many, and how long to wait",
        example = json!({"max_messages": 10, "wait_seconds": 20})),
    responses(
        (status = 200, description = "The messages received, or none", body = ReceivedMessages,
            example = json!({"messages": [super::openapi::message_example()]})),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn receive_messages(
    caller: Authorized<needs::Receive>,
    QueueInPath(queue): QueueInPath,
    State(service): State<Service>,
    body: Option<Input<ReceiveMessages>>,
) -> Result<Json<ReceivedMessages>, Failure> {
    let request = body
        .map_or_else(ReceiveMessages::default, |Input(body, _place)| body)
        .request()?;
    let received = service
        .receive_messages(&caller.tenant, &queue, request)
        .await?;
    let messages = received
        .into_iter()
        .map(MessageInFlight::new)
        .collect::<Result<_>>()?;
    Ok(Json(ReceivedMessages { messages }))
}

/// Messages to be deleted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteMessages {
    /// One entry per message.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<MessageToDelete>,
}

/// A message to be deleted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToDelete {
    /// The handle that came with the message.
    #[schema(min_length = 1, max_length = 1024)]
    receipt_handle: String,
}

/// How the deletes ended.
#[derive(Serialize, ToSchema)]
pub(super) struct DeletedMessages {
    /// In the order of the request.
    messages: Vec<DeletedMessage>,
}

/// How one delete ended.
#[derive(Serialize, ToSchema)]
pub(super) struct DeletedMessage {
    /// Whether the message is gone, now or already before.
    deleted: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<EntryError>,
}

/// Why one entry of a batch failed.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryError {
    /// What went wrong, for programs: the `code` that a problem would have.
    #[schema(example = "receipt_stale")]
    code: &'static str,
    /// What would be right.
    detail: String,
}

impl EntryError {
    pub(super) fn stale(violation: Violation) -> Self {
        Self {
            code: "receipt_stale",
            detail: violation.rule,
        }
    }
}

impl From<Deletion> for DeletedMessage {
    fn from(deletion: Deletion) -> Self {
        match deletion {
            Deletion::Deleted => Self {
                deleted: true,
                error: None,
            },
            Deletion::Stale(violation) => Self {
                deleted: false,
                error: Some(EntryError::stale(violation)),
            },
        }
    }
}

/// Delete messages that were received
///
/// Each entry ends for itself. When not one of the handles belongs to a delivery any more, the
/// answer is 409.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages/delete", operation_id = "deleteMessages",
    tag = "messages",
    params(QueueParameter),
    request_body(content = DeleteMessages, description = "1 to 1000 receipt handles",
        example = json!({"messages": [{"receipt_handle": super::openapi::RECEIPT_HANDLE}]})),
    responses(
        (status = 200, description = "How each entry ended", body = DeletedMessages,
            example = json!({"messages": [{"deleted": true}]})),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Every handle is of an old delivery"),
    ),
)]
pub(super) async fn delete_messages(
    caller: Authorized<needs::Delete>,
    QueueInPath(queue): QueueInPath,
    State(service): State<Service>,
    Input(request, _place): Input<DeleteMessages>,
) -> Result<Json<DeletedMessages>, Failure> {
    require_batch(request.messages.len())?;
    let handles = request
        .messages
        .into_iter()
        .map(|message| message.receipt_handle)
        .collect();
    let deletions = service
        .delete_messages(&caller.tenant, &queue, handles)
        .await?;
    let stale: Vec<_> = deletions
        .iter()
        .filter_map(|deletion| match deletion {
            Deletion::Stale(violation) => Some(violation.clone()),
            Deletion::Deleted => None,
        })
        .collect();
    if stale.len() == deletions.len() {
        return Err(Error::ReceiptStale(stale).into());
    }
    Ok(Json(DeletedMessages {
        messages: deletions.into_iter().map(DeletedMessage::from).collect(),
    }))
}

pub(super) fn require_batch(messages: usize) -> Result<()> {
    if (1..=limits::MAX_BATCH).contains(&messages) {
        return Ok(());
    }
    let rule = format!("a request has 1 to {} messages", limits::MAX_BATCH);
    Err(Error::invalid(
        "/messages",
        format!("{messages} messages"),
        rule,
    ))
}

//! Messages over REST: wire types and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use uuid::Uuid;

use super::batch::{EntryError, ended, entries};
use super::json::{Input, not_null, objects};
use super::message::{Death, MessageContent, MessageToSend};
use super::parameters::{
    IdempotencyKeyHeader, IdempotencyKeyParameter, QueueAlone, QueueInPath, QueueParameter,
    TimesParameters, TraceParameters, trace_of,
};
use super::problem::Failure;
use super::{Json, json, octets};
use crate::domain::message::{Deletion, NewMessage, ReceivedMessage};
use crate::domain::queue::seconds;
use crate::domain::{Error, Result, limits, message};
use crate::http::Gate;
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

/// What a request sends, in either media type.
pub(super) struct ToSend {
    messages: Vec<NewMessage>,
    /// Whether it is one message as it is, outside of JSON.
    is_octets: bool,
    /// Among the bytes that the server keeps of requests.
    _place: OwnedSemaphorePermit,
}

impl FromRequest<Arc<Gate>> for ToSend {
    type Rejection = Failure;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Self, Failure> {
        const SUPPORTED: &str = "application/json or application/octet-stream";
        let (head, body) = request.into_parts();
        let headers = &head.headers;
        let is_octets = json::is_of(headers, octets::MEDIA_TYPE);
        let times = octets::Times::of(&head, !is_octets)?;
        if is_octets {
            json::require_no_coding(headers, SUPPORTED)?;
        } else {
            json::require(headers, SUPPORTED)?;
            octets::refuse_attributes(headers)?;
        }
        let (body, place) = json::read(body, gate).await?;
        let messages = if is_octets {
            let message = octets::message(headers, body, &times);
            vec![message.map_err(octets::retold)?]
        } else {
            let request: SendMessages = json::parse(&body)?;
            let trace = trace_of(headers);
            entries(request.messages, |message, index| {
                message.into_domain(index, trace.as_ref())
            })?
        };
        Ok(Self {
            messages,
            is_octets,
            _place: place,
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
///
/// As `application/octet-stream`, the request's body is the body of one message. Each header
/// `Towpath-Attribute-<name>` is then an attribute of the type `String`, whose name has lower-case letters
/// only, as headers do.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/messages", operation_id = "sendMessages", tag = "messages",
    params(QueueParameter, TimesParameters, IdempotencyKeyParameter, TraceParameters),
    request_body(description = "1 to 1000 messages, or the bytes of one", content(
        (SendMessages = "application/json", example = json!({"messages": [
            {"body": "hello"},
            {"body_json": {"order": 4711}, "attributes": {"colour": {"value": "red"}}}]})),
        (inline(octets::Octets) = "application/octet-stream"),
    )),
    responses(
        (status = 200, description = "The messages were sent", body = SentMessages,
            example = json!({"messages": [{
                "message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18",
                "sent_at": "2026-11-20T12:00:00.123456Z"}]})),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Sending is paused"),
    ),
)]
pub(super) async fn send_messages(
    caller: Authorized<needs::Send>,
    QueueAlone(queue): QueueAlone,
    State(service): State<Service>,
    IdempotencyKeyHeader(key): IdempotencyKeyHeader,
    to_send: ToSend,
) -> Result<Json<SentMessages>, Failure> {
    let sent = service
        .send_messages(&caller.tenant, &queue, to_send.messages, key)
        .await;
    let sent = if to_send.is_octets {
        sent.map_err(octets::retold)?
    } else {
        sent?
    };
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
    #[serde(flatten)]
    #[schema(inline)]
    content: MessageContent,
    /// When it was sent.
    #[serde(with = "time::serde::rfc3339")]
    sent_at: OffsetDateTime,
    /// When it was first received.
    #[serde(with = "time::serde::rfc3339")]
    first_received_at: OffsetDateTime,
    /// How often it was received, this time included.
    #[schema(minimum = 1, maximum = 2147483647)]
    receive_count: i32,
    /// When others may receive it, unless it is deleted before.
    #[serde(with = "time::serde::rfc3339")]
    visible_at: OffsetDateTime,
    /// In a dead-letter queue: how it came there, the newest time last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    deaths: Vec<Death>,
}

impl MessageInFlight {
    fn new(received: ReceivedMessage) -> Result<Self> {
        Ok(Self {
            message_id: received.message_id,
            receipt_handle: received.receipt_handle,
            content: MessageContent::new(received.content)?,
            sent_at: received.sent_at,
            first_received_at: received.first_received_at,
            receive_count: received.receive_count,
            visible_at: received.visible_at,
            deaths: received.deaths.into_iter().map(Death::from).collect(),
        })
    }
}

/// Receive messages
///
/// They stay hidden from other receivers until `visible_at`; delete them before, or they are
/// delivered again. An empty body means all defaults.
///
/// With `Accept: application/octet-stream` one message is received, and the answer's body is the
/// message's; 204 says that there was none. What can be said in headers is there: also each attribute whose
/// value can, as `Towpath-Attribute-<name>` (a `Binary` one as base64), 2 KiB together at most, and in
/// `Towpath-Attributes-Left-Out` how many cannot. The others are `Towpath-Message-Id`,
/// `Towpath-Receipt-Handle`, `Towpath-Receive-Count`, `Towpath-Sent-At` and `Towpath-Visible-At`. This
/// document lists JSON only, or clients made from it would have answers of two types.
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
    octets::IsAccepted(as_octets): octets::IsAccepted,
    body: Option<Input<ReceiveMessages>>,
) -> Result<Response, Failure> {
    let request = body
        .map_or_else(ReceiveMessages::default, |Input(body, _place)| body)
        .request()?;
    if as_octets && request.max > 1 {
        let rule = "1 with Accept: application/octet-stream, which has one message in an answer";
        return Err(Error::invalid("/max_messages", request.max.to_string(), rule).into());
    }
    let mut received = service
        .receive_messages(&caller.tenant, &queue, request)
        .await?;
    if as_octets {
        return Ok(octets::answer(received.pop())?);
    }
    let messages = received
        .into_iter()
        .map(MessageInFlight::new)
        .collect::<Result<_>>()?;
    Ok(Json(ReceivedMessages { messages }).into_response())
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
    let handle = |message: MessageToDelete, _index| Ok(message.receipt_handle);
    let handles = entries(request.messages, handle)?;
    let deletions = service
        .delete_messages(&caller.tenant, &queue, handles)
        .await?;
    let messages = ended(deletions, Deletion::stale)?;
    Ok(Json(DeletedMessages { messages }))
}

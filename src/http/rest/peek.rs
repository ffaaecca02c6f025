//! Looking at messages without receiving them, and changing those that nobody holds, over REST: wire types
//! and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Json;
use super::json::Input;
use super::message::{Death, MessageContent};
use super::page;
use super::parameters::{QueueParameter, query, queue_in_path};
use super::problem::Failure;
use crate::domain::attribute::AttributeName;
use crate::domain::peek::{AttributeFilter, BodyText, ContentFilter, MessageState, StoredMessage};
use crate::domain::queue::{QueueName, seconds};
use crate::domain::{Error, Result, limits};
use crate::http::Gate;
use crate::http::authorized::{Authorized, needs};
use crate::service::{LocatedMessage, PeekRequest, Service};

/// A message as it is seen without being received.
#[derive(Serialize, ToSchema)]
pub(super) struct PeekedMessage {
    /// Its id.
    message_id: Uuid,
    /// The queue that it is in; on a page of a queue's messages it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    queue: Option<String>,
    /// What can happen to it next.
    #[schema(value_type = MessageStateName)]
    state: &'static str,
    #[serde(flatten)]
    #[schema(inline)]
    content: MessageContent,
    /// When it was sent.
    #[serde(with = "time::serde::rfc3339")]
    sent_at: OffsetDateTime,
    /// When it was first received; left out when it never was.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[schema(nullable = false)]
    first_received_at: Option<OffsetDateTime>,
    /// How often it was received.
    #[schema(minimum = 0, maximum = 2147483647)]
    receive_count: i32,
    /// From when on others may receive it; left out when it is visible and was neither received nor
    /// delayed.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[schema(nullable = false)]
    visible_at: Option<OffsetDateTime>,
    /// In a dead-letter queue: how it came there, the newest time last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    deaths: Vec<Death>,
}

impl PeekedMessage {
    fn new(message: StoredMessage, queue: Option<QueueName>) -> Result<Self> {
        Ok(Self {
            message_id: message.message_id,
            queue: queue.map(|queue| queue.as_str().to_owned()),
            state: message.state.name(),
            content: MessageContent::new(message.frame.content)?,
            sent_at: message.sent_at,
            first_received_at: message.first_received_at,
            receive_count: message.receive_count,
            visible_at: message.visible_at,
            deaths: message.frame.deaths.into_iter().map(Death::from).collect(),
        })
    }

    fn located(located: LocatedMessage) -> Result<Json<Self>, Failure> {
        let message = Self::new(located.message, Some(located.queue))?;
        Ok(Json(message))
    }
}

/// What can happen to a message next: a receive may get it, somebody has it or gave it up with a delay that
/// has not passed, or it waits for its time.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `MessageState` names")]
enum MessageStateName {
    Visible,
    InFlight,
    Delayed,
}

/// Some messages of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct MessagePage {
    /// The messages: those that were sent to be received at once before those that were delayed, each in
    /// the order in which one node stored them.
    items: Vec<PeekedMessage>,
    /// Leads on; missing when all was looked at. A page may have fewer messages than asked for, or none,
    /// and still lead on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Which messages of which queue.
pub(super) struct PeekMessages {
    queue: QueueName,
    request: PeekRequest,
}

impl<S: Send + Sync> FromRequestParts<S> for PeekMessages {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        const NAMES: [&str; 6] = [
            "state",
            "limit",
            "cursor",
            "attribute",
            "attribute_value",
            "text",
        ];
        let [in_state, limit, cursor, attribute, value, text] = query(parts, NAMES)?;
        let in_state = in_state.map(|name| MessageState::parse("state", &name));
        let text = text.map(|text| BodyText::parse("text", text));
        let request = PeekRequest {
            state: in_state.transpose()?,
            filter: ContentFilter {
                attribute: attribute_filter(attribute, value)?,
                text: text.transpose()?,
            },
            cursor,
            limit: page::limit_up_to(limit.as_deref(), limits::DEFAULT_PEEK, limits::MAX_PEEK)?,
        };
        Ok(Self {
            queue: queue_in_path(parts, state).await?,
            request,
        })
    }
}

fn attribute_filter(
    name: Option<String>,
    value: Option<String>,
) -> Result<Option<AttributeFilter>> {
    match (name, value) {
        (None, None) => Ok(None),
        (Some(name), value) => Ok(Some(AttributeFilter {
            name: AttributeName::parse("attribute", name)?,
            value,
        })),
        (None, Some(value)) => {
            let rule = "given together with attribute, whose value it is";
            Err(Error::invalid("attribute_value", value, rule))
        }
    }
}

/// The same for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes; `PeekMessages` reads")]
pub(super) struct PeekParameters {
    /// Only messages in this state; all when left out.
    #[param(nullable = false, value_type = Option<MessageStateName>, inline)]
    state: Option<String>,
    /// Most messages on the page; 20 when left out.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<i32>,
    /// The `next_cursor` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// Only messages that have an attribute of this name.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_.-]{1,256}$")]
    attribute: Option<String>,
    /// Only messages whose `attribute` has this value: all of it, of a Binary one as base64.
    #[param(nullable = false)]
    attribute_value: Option<String>,
    /// Only messages whose body has this text, letters in the same case. A JSON value is looked through as
    /// it is stored, without the space between its parts, and bytes where they are UTF-8.
    #[param(nullable = false, min_length = 1, max_length = 1024)]
    text: Option<String>,
}

/// A queue and a message in a path.
pub(super) struct MessageInPath {
    queue: QueueName,
    message_id: Uuid,
}

impl<S: Send + Sync> FromRequestParts<S> for MessageInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        query(parts, [])?;
        let Path((queue, id)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::Malformed {
                detail: error.body_text(),
            })?;
        Ok(Self {
            queue: QueueName::parse("queue", &queue)?,
            message_id: message_id(&id)?,
        })
    }
}

fn message_id(id: &str) -> Result<Uuid> {
    Uuid::try_parse(id)
        .ok()
        // Not one of the other forms of a UUID.
        .filter(|_| id.len() == uuid::fmt::Hyphenated::LENGTH)
        .ok_or_else(|| {
            let rule = "the `message_id` of a message, a UUID with hyphens";
            Error::invalid("message_id", id, rule)
        })
}

/// The same for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes; `MessageInPath` reads")]
pub(super) struct MessageParameter {
    /// The message's id.
    #[param(example = "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18")]
    message_id: Uuid,
}

/// Look at messages without receiving them
///
/// Nothing is leased, hidden or counted, and nobody who receives has to wait. A page says how messages were
/// at one moment. It ends early where much was looked at for little: go on with `next_cursor`.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/messages", operation_id = "peekMessages", tag = "messages",
    params(QueueParameter, PeekParameters),
    responses(
        (status = 200, description = "A page of messages", body = MessagePage,
            example = json!({
                "items": [super::openapi::peeked_message_example()],
                "next_cursor": "AAAAAAQAAAAAAAAAAAAAAQ"})),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn peek_messages(
    caller: Authorized<needs::Receive>,
    PeekMessages { queue, request }: PeekMessages,
    State(service): State<Service>,
) -> Result<Json<MessagePage>, Failure> {
    let page = service
        .peek_messages(&caller.tenant, &queue, request)
        .await?;
    let items = page.items.into_iter();
    let items = items.map(|message| PeekedMessage::new(message, None));
    Ok(Json(MessagePage {
        items: items.collect::<Result<_>>()?,
        next_cursor: page.next,
    }))
}

/// Look at one message without receiving it
///
/// By its id, wherever it is now: `queue` says where. The queue in the path is that one, or the one that it
/// was sent to.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/messages/{message_id}", operation_id = "getMessage",
    tag = "messages",
    params(QueueParameter, MessageParameter),
    responses(
        (status = 200, description = "The message", body = PeekedMessage,
            example = json!(super::openapi::located_message_example())),
        (status = 404, description = "There is no such queue, or the message is gone"),
    ),
)]
pub(super) async fn get_message(
    caller: Authorized<needs::Receive>,
    MessageInPath { queue, message_id }: MessageInPath,
    State(service): State<Service>,
) -> Result<Json<PeekedMessage>, Failure> {
    let found = service
        .get_message(&caller.tenant, &queue, message_id)
        .await?;
    PeekedMessage::located(found)
}

/// Delete a message by its id
///
/// One that nobody holds: it is delayed, or visible again after somebody received it. One in flight is deleted
/// by its receipt handle.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}/messages/{message_id}", operation_id = "cancelMessage",
    tag = "messages",
    params(QueueParameter, MessageParameter),
    responses(
        (status = 204, description = "The message is gone"),
        (status = 404, description = "There is no such queue, or the message was gone before"),
        (status = 409, description = "The message is in flight, or ready and was never received"),
    ),
)]
pub(super) async fn cancel_message(
    caller: Authorized<needs::Delete>,
    MessageInPath { queue, message_id }: MessageInPath,
    State(gate): State<Arc<Gate>>,
) -> Result<StatusCode, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move { service.cancel_message(&tenant, &queue, message_id).await };
    gate.change(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When a message is to be visible.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RescheduleMessage {
    /// After how long from now others may receive it; 0 means at once. It must end before the message's
    /// life does.
    #[schema(minimum = 0, maximum = 315360000)]
    delay_seconds: i64,
}

/// Change when a message is visible
///
/// One that nobody holds: it is delayed, or visible again after somebody received it. It is delayed from now
/// on then, for more time or less; a receive that waits gets it when its time comes.
#[utoipa::path(
    patch, path = "/v1/queues/{queue}/messages/{message_id}", operation_id = "rescheduleMessage",
    tag = "messages",
    params(QueueParameter, MessageParameter),
    request_body(content = RescheduleMessage, description = "Its new delay",
        example = json!({"delay_seconds": 60})),
    responses(
        (status = 200, description = "The message as it is now", body = PeekedMessage,
            example = json!(super::openapi::located_message_example())),
        (status = 404, description = "There is no such queue, or the message is gone"),
        (status = 409, description = "The message is in flight, or ready and was never received"),
    ),
)]
pub(super) async fn reschedule_message(
    caller: Authorized<needs::Delete>,
    MessageInPath { queue, message_id }: MessageInPath,
    State(gate): State<Arc<Gate>>,
    Input(request, _place): Input<RescheduleMessage>,
) -> Result<Json<PeekedMessage>, Failure> {
    let range = Duration::ZERO..=limits::MAX_LIFE;
    let delay = seconds("/delay_seconds", request.delay_seconds, range)?;
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move {
        service
            .reschedule_message(&tenant, &queue, message_id, delay)
            .await
    };
    PeekedMessage::located(gate.change(change).await?)
}

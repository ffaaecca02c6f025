//! One message as `application/octet-stream`, for curl: its body is that of the request or of the
//! answer, and what else it has is in headers and in the query.

use axum::extract::FromRequestParts;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use super::json;
use super::message::{delay, time_to_live};
use super::parameters::{TRACEPARENT, TRACESTATE, query, trace_of};
use super::problem::Failure;
use crate::domain::attribute::{
    Attribute, AttributeName, AttributeType, AttributeValue, Attributes,
};
use crate::domain::message::{Body, Content, NewMessage, ReceivedMessage};
use crate::domain::trace::Tracestate;
use crate::domain::{Error, Result};

pub(super) const MEDIA_TYPE: &str = "application/octet-stream";

/// A body that is the body of a message, for the OpenAPI document.
pub(super) struct Octets;

impl PartialSchema for Octets {
    fn schema() -> RefOr<Schema> {
        let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
        let schema = ObjectBuilder::new().schema_type(Type::String);
        schema.format(Some(binary)).into()
    }
}

impl ToSchema for Octets {}

/// What a header begins with that is an attribute.
const ATTRIBUTE: &str = "towpath-attribute-";

/// Most bytes of headers that are attributes in an answer. Proxies allow some thousands for all.
const MAX_ATTRIBUTE_HEADERS: usize = 2048;

/// Where the message would be in JSON. Rules below know no other form, so this is what they name.
const PLACE: &str = "/messages/0";

/// How long the message of a request is delayed, and how long it lives, as the query says.
#[derive(Default)]
pub(super) struct Times {
    delay: Option<i64>,
    time_to_live: Option<i64>,
}

impl Times {
    /// # Errors
    /// [`Error::Invalid`] for what is no number, for other parameters, and for any where messages are JSON.
    pub(super) fn of(parts: &Parts, is_json: bool) -> Result<Self> {
        let names = ["delay_seconds", "time_to_live_seconds"];
        let given = query(parts, names)?;
        let [delay, time_to_live] = std::array::from_fn(|at| {
            let Some(text) = &given[at] else {
                return Ok(None);
            };
            if is_json {
                let rule =
                    "a parameter of application/octet-stream; in JSON every message has its own";
                return Err(Error::invalid(names[at], text, rule));
            }
            let number = text.parse().map(Some);
            number.map_err(|_error| Error::invalid(names[at], text, "a whole number of seconds"))
        });
        Ok(Self {
            delay: delay?,
            time_to_live: time_to_live?,
        })
    }
}

/// The message that a request is.
pub(super) fn message(headers: &HeaderMap, body: Bytes, times: &Times) -> Result<NewMessage> {
    let field = |member| format!("{PLACE}/{member}");
    let body = Body::bytes(field("body"), body)?;
    let content = Content::new(PLACE, body, attributes(headers)?, trace_of(headers))?;
    Ok(NewMessage {
        content,
        delay: delay(field("delay_seconds"), times.delay)?,
        time_to_live: time_to_live(field("time_to_live_seconds"), times.time_to_live)?,
    })
}

/// An error about the message of a request, told for where it stands here.
pub(super) fn retold(error: Error) -> Error {
    match error {
        Error::Invalid(mut violations) => {
            for violation in &mut violations {
                if let Some(member) = violation.field.strip_prefix(PLACE) {
                    let member = member.trim_start_matches('/');
                    violation.field = Some(member)
                        .filter(|it| *it != "body")
                        .unwrap_or_default()
                        .to_owned();
                }
            }
            Error::Invalid(violations)
        }
        Error::TooLarge { field, limit_bytes } => Error::TooLarge {
            field: match field.strip_prefix(PLACE) {
                Some("") => "message with its attributes".to_owned(),
                Some(_body) => "request body".to_owned(),
                None => field,
            },
            limit_bytes,
        },
        other => other,
    }
}

/// Refuses attributes in the headers of a request whose messages are JSON.
pub(super) fn refuse_attributes(headers: &HeaderMap) -> Result<()> {
    let Some(name) = headers
        .keys()
        .find(|name| name.as_str().starts_with(ATTRIBUTE))
    else {
        return Ok(());
    };
    let rule = "a header of application/octet-stream; in JSON every message has its own attributes";
    Err(Error::invalid(name.as_str(), "", rule))
}

fn attributes(headers: &HeaderMap) -> Result<Attributes> {
    let mut attributes = Vec::new();
    for (field, value) in headers {
        let Some(name) = field.as_str().strip_prefix(ATTRIBUTE) else {
            continue;
        };
        let name = AttributeName::parse(field, name.to_owned())?;
        let value = str::from_utf8(value.as_bytes()).map_err(|_error| {
            let shown = String::from_utf8_lossy(value.as_bytes());
            Error::invalid(field.as_str(), shown, "text in UTF-8")
        })?;
        let value = AttributeValue::Text(value.to_owned());
        attributes.push(Attribute::new(field, name, AttributeType::STRING, value)?);
    }
    Attributes::new("Towpath-Attribute-*", attributes)
}

/// Whether a receive is to be answered by one message in this form.
pub(super) struct IsAccepted(pub(super) bool);

impl<S: Sync> FromRequestParts<S> for IsAccepted {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let accepts = |media_type: &str| {
            let lists = parts.headers.get_all(ACCEPT).iter();
            let mut ranges = lists.flat_map(|list| list.as_bytes().split(|c| *c == b','));
            ranges.any(|range| {
                let essence = range.split(|c| *c == b';').next().unwrap_or_default();
                let essence = essence.trim_ascii();
                essence.eq_ignore_ascii_case(media_type.as_bytes())
            })
        };
        Ok(Self(accepts(MEDIA_TYPE) && !accepts(json::MEDIA_TYPE)))
    }
}

/// The answer that is a message, or none.
pub(super) fn answer(received: Option<ReceivedMessage>) -> Result<Response> {
    let Some(received) = received else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let at = |at: OffsetDateTime| at.format(&Rfc3339).map_err(Error::internal);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    for (name, value) in [
        ("towpath-message-id", received.message_id.to_string()),
        ("towpath-receipt-handle", received.receipt_handle),
        ("towpath-receive-count", received.receive_count.to_string()),
        ("towpath-sent-at", at(received.sent_at)?),
        ("towpath-visible-at", at(received.visible_at)?),
    ] {
        let value = HeaderValue::try_from(value).map_err(Error::internal)?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let Content {
        body,
        attributes,
        trace,
    } = received.content;
    if let Some(trace) = trace {
        let tracestate = trace.tracestate.as_ref().map(Tracestate::as_str);
        let traceparent = Some(trace.traceparent.as_str());
        for (name, value) in [(TRACEPARENT, traceparent), (TRACESTATE, tracestate)] {
            if let Some(value) = value {
                let value = HeaderValue::from_str(value).map_err(Error::internal)?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
    put_attributes(&attributes, &mut headers);
    Ok((headers, body.bytes).into_response())
}

/// Attributes as headers, as far as they can be; how many cannot is in a header of its own.
fn put_attributes(attributes: &Attributes, headers: &mut HeaderMap) {
    let mut room = MAX_ATTRIBUTE_HEADERS;
    let mut left_out = 0_u32;
    for attribute in attributes.iter() {
        let Some((name, value)) = header(attribute).filter(|(name, _)| !headers.contains_key(name))
        else {
            left_out += 1;
            continue;
        };
        match room.checked_sub(name.as_str().len() + value.len()) {
            Some(left) => {
                room = left;
                headers.insert(name, value);
            }
            None => left_out += 1,
        }
    }
    if left_out > 0 {
        let name = HeaderName::from_static("towpath-attributes-left-out");
        headers.insert(name, left_out.into());
    }
}

/// None for a value that would not arrive as it is: with a control character, or with space around it.
fn header(attribute: &Attribute) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(format!("{ATTRIBUTE}{}", attribute.name())).ok()?;
    let value = match attribute.value() {
        AttributeValue::Text(text) if text.trim() != text => return None,
        AttributeValue::Text(text) => HeaderValue::from_bytes(text.as_bytes()).ok()?,
        AttributeValue::Bytes(bytes) => HeaderValue::try_from(STANDARD.encode(bytes)).ok()?,
    };
    Some((name, value))
}

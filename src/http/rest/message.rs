//! What a message is on the wire, in both directions: its body in one of three members, its
//! attributes, its trace. Every answer that shows messages has it from here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::json::{escaped, named_objects, not_null};
use super::json_body;
use crate::domain::attribute::{self, AttributeKind, AttributeName, AttributeType, AttributeValue};
use crate::domain::message::{self, Body, BodyKind, Content, DeathCause, NewMessage};
use crate::domain::queue::seconds;
use crate::domain::trace::{TraceContext, Traceparent, Tracestate};
use crate::domain::{Error, Result, limits};

/// What a message carries, in an answer. For `#[serde(flatten)]` with `#[schema(inline)]`: the members
/// stand beside those of the answer, in the document too.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageContent {
    /// Its text, when it was sent as `body`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    body: Option<String>,
    /// Its JSON value, when it was sent as `body_json`: as it was given, without the space between its
    /// parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<serde_json::Value>)]
    body_json: Option<Box<RawValue>>,
    /// Its bytes as base64, when they were sent as `body_base64` or as `application/octet-stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    body_base64: Option<String>,
    /// Which of the three it has: `body`, `body_json` or `body_base64`.
    #[schema(value_type = BodyKindName)]
    body_kind: &'static str,
    /// Its attributes by name, in the order of their names; left out when it has none.
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    #[schema(required = false, value_type = std::collections::BTreeMap<String, Attribute<'_>>)]
    attributes: Attributes,
    /// The trace and the span that it was sent in (W3C Trace Context), when its sender said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    traceparent: Option<String>,
    /// What vendors add to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tracestate: Option<String>,
}

impl MessageContent {
    /// # Errors
    /// [`Error::Internal`] when what is stored is not what its kind says.
    pub(super) fn new(content: Content) -> Result<Self> {
        let Content {
            body: Body { kind, bytes },
            attributes,
            trace,
        } = content;
        let trace = trace.as_deref();
        let tracestate = trace.and_then(|trace| trace.tracestate.as_ref());
        let mut said = Self {
            body: None,
            body_json: None,
            body_base64: None,
            body_kind: "text",
            attributes: Attributes(attributes),
            traceparent: trace.map(|trace| trace.traceparent.as_str().to_owned()),
            tracestate: tracestate.map(|state| state.as_str().to_owned()),
        };
        let text = |bytes| String::from_utf8(Vec::from(bytes)).map_err(Error::internal);
        match kind {
            BodyKind::Text => said.body = Some(text(bytes)?),
            BodyKind::Json => {
                let value = RawValue::from_string(text(bytes)?).map_err(Error::internal)?;
                (said.body_json, said.body_kind) = (Some(value), "json");
            }
            BodyKind::Bytes => {
                (said.body_base64, said.body_kind) = (Some(STANDARD.encode(bytes)), "base64");
            }
        }
        Ok(said)
    }
}

/// Which member has the body.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `MessageContent` writes")]
enum BodyKindName {
    Text,
    Json,
    Base64,
}

/// An object of attributes by name.
struct Attributes(attribute::Attributes);

impl Attributes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = |it| (attribute::Attribute::name(it), Attribute::of(it));
        serializer.collect_map(self.0.iter().map(named))
    }
}

/// An attribute of a message.
#[derive(Serialize, ToSchema)]
pub(super) struct Attribute<'a> {
    /// Its type: `String`, `Number` or `Binary`, perhaps with a label behind a dot.
    r#type: &'a str,
    /// Its value: text, or base64 for `Binary`.
    #[serde(serialize_with = "value")]
    #[schema(value_type = String)]
    value: &'a AttributeValue,
}

impl<'a> Attribute<'a> {
    fn of(attribute: &'a attribute::Attribute) -> Self {
        Self {
            r#type: attribute.data_type().as_str(),
            value: attribute.value(),
        }
    }
}

fn value<S: Serializer>(value: &AttributeValue, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        AttributeValue::Text(text) => serializer.serialize_str(text),
        AttributeValue::Bytes(bytes) => {
            serializer.collect_str(&Base64Display::new(bytes, &STANDARD))
        }
    }
}

/// One time that a message came to a dead-letter queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Death {
    /// The queue that it came from.
    queue: String,
    /// Why.
    #[schema(value_type = DeathReason)]
    reason: &'static str,
    /// The reason of the last nack that gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// How often it had been received there.
    #[schema(minimum = 1, maximum = 2147483647)]
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

/// A message to be sent, with exactly one of `body`, `body_json` and `body_base64`.
///
/// The body and the names, types and values of the attributes have up to 1048576 bytes together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageToSend {
    /// Its text, without U+0000: up to 1048576 bytes of UTF-8, which are fewer characters than
    /// `maxLength` where a character has more bytes than one.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 1048576,
        pattern = "^[^\\u0000]*$"
    )]
    body: Option<String>,
    /// Or any JSON value. Numbers, strings and the order of members are kept as they are written; the
    /// space between them is not. Up to 1048576 bytes, nested up to 100 deep.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, value_type = Option<serde_json::Value>)]
    body_json: Option<Box<RawValue>>,
    /// Or bytes, as base64 with its padding: up to 1048576 of them.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(
        nullable = false,
        min_length = 4,
        max_length = 1398104,
        pattern = "^[A-Za-z0-9+/]+={0,2}$"
    )]
    body_base64: Option<String>,
    /// Up to 64 attributes by name. A name has 1 to 256 letters, digits, underscores, hyphens and dots,
    /// no dot at its ends and no two in a row, and does not begin with `AWS.` or `Amazon.` in any case.
    #[serde(
        default,
        deserialize_with = "named_objects::<_, _, { limits::MAX_ATTRIBUTES }>"
    )]
    #[schema(required = false, value_type = std::collections::BTreeMap<String, AttributeToSend>)]
    attributes: Vec<(String, AttributeToSend)>,
    /// The trace and the span that it is sent in (W3C Trace Context); when left out, those of the
    /// request's headers.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 55, max_length = 128)]
    traceparent: Option<String>,
    /// What vendors add to `traceparent`, without which it is refused.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 1, max_length = 512)]
    tracestate: Option<String>,
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
    /// The message that stands at `index`. Without a trace of its own it belongs to that of the request.
    pub(super) fn into_domain(
        self,
        index: usize,
        trace_of_request: Option<&Arc<TraceContext>>,
    ) -> Result<NewMessage> {
        let body = body(index, self.body, self.body_json, self.body_base64)?;
        let attributes = if self.attributes.is_empty() {
            attribute::Attributes::default()
        } else {
            attributes(index, self.attributes)?
        };
        let own = trace(index, self.traceparent, self.tracestate)?;
        let trace = own.or_else(|| trace_of_request.cloned());
        let content = Content::new(format_args!("/messages/{index}"), body, attributes, trace)?;
        Ok(NewMessage {
            content,
            delay: delay(
                format_args!("/messages/{index}/delay_seconds"),
                self.delay_seconds,
            )?,
            time_to_live: time_to_live(
                format_args!("/messages/{index}/time_to_live_seconds"),
                self.time_to_live_seconds,
            )?,
        })
    }
}

pub(super) fn delay(field: impl fmt::Display, given: Option<i64>) -> Result<Option<Duration>> {
    within(field, given, Duration::ZERO)
}

pub(super) fn time_to_live(
    field: impl fmt::Display,
    given: Option<i64>,
) -> Result<Option<Duration>> {
    within(field, given, Duration::from_secs(1))
}

fn within(
    field: impl fmt::Display,
    given: Option<i64>,
    least: Duration,
) -> Result<Option<Duration>> {
    given
        .map(|given| seconds(&field.to_string(), given, least..=limits::MAX_LIFE))
        .transpose()
}

fn body(
    index: usize,
    text: Option<String>,
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Body> {
    match (text, json, base64) {
        (Some(text), None, None) => Body::text(format_args!("/messages/{index}/body"), text),
        (None, Some(value), None) => {
            let field = format_args!("/messages/{index}/body_json");
            Body::json(field, json_body::compact(field, value)?)
        }
        (None, None, Some(text)) => {
            Body::base64(format_args!("/messages/{index}/body_base64"), &text)
        }
        _none_or_several => {
            let rule = "a message has exactly one of body, body_json and body_base64";
            Err(Error::invalid(format!("/messages/{index}"), "", rule))
        }
    }
}

fn attributes(
    index: usize,
    given: Vec<(String, AttributeToSend)>,
) -> Result<attribute::Attributes> {
    let attributes = given.into_iter().map(|(name, attribute)| {
        let field = format!("/messages/{index}/attributes/{}", escaped(&name));
        attribute.into_domain(&field, name)
    });
    let attributes = attributes.collect::<Result<_>>()?;
    attribute::Attributes::new(format_args!("/messages/{index}/attributes"), attributes)
}

fn trace(
    index: usize,
    traceparent: Option<String>,
    tracestate: Option<String>,
) -> Result<Option<Arc<TraceContext>>> {
    let field = |member| format!("/messages/{index}/{member}");
    let Some(traceparent) = traceparent else {
        return tracestate.map_or(Ok(None), |orphan| {
            let rule = "a tracestate goes with a traceparent";
            Err(Error::invalid(field("tracestate"), orphan, rule))
        });
    };
    Ok(Some(Arc::new(TraceContext {
        traceparent: Traceparent::parse(field("traceparent"), &traceparent)?,
        tracestate: tracestate
            .map(|text| Tracestate::parse(field("tracestate"), &text))
            .transpose()?,
    })))
}

/// An attribute of a message to be sent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributeToSend {
    /// Its type: `String`, which it is when this is left out, `Number` or `Binary`, perhaps with a label
    /// behind a dot, such as `Number.int`; 256 bytes at most.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(
        nullable = false,
        default = "String",
        min_length = 6,
        max_length = 256,
        pattern = "^(String|Number|Binary)(\\..+)?$"
    )]
    r#type: Option<String>,
    /// Its value, not empty: text without U+0000; for `Number` a decimal number of up to 38 digits; for
    /// `Binary` base64 with its padding.
    #[schema(min_length = 1, max_length = 1398104)]
    value: String,
}

impl AttributeToSend {
    fn into_domain(self, field: &str, name: String) -> Result<attribute::Attribute> {
        let name = AttributeName::parse(field, name)?;
        let data_type = self.r#type.map_or(Ok(AttributeType::STRING), |name| {
            AttributeType::parse(format_args!("{field}/type"), &name)
        })?;
        let value_field = format_args!("{field}/value");
        let value = match data_type.kind() {
            AttributeKind::Binary => AttributeValue::base64(value_field, &self.value)?,
            AttributeKind::String | AttributeKind::Number => AttributeValue::Text(self.value),
        };
        attribute::Attribute::new(value_field, name, data_type, value)
    }
}

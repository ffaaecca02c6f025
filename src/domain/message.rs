//! Messages as callers hand them in and get them back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::attribute::{Attributes, not_base64};
use super::error::{Error, Result, Violation};
use super::limits;
use super::trace::TraceContext;

/// What an attribute begins with in a digest.
const DIGEST_ATTRIBUTE: u8 = 255;

/// How a body was given, so that it is given back the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// UTF-8 text without NUL.
    Text,
    /// A JSON value, as compact text.
    Json,
    /// Bytes without meaning to us.
    Bytes,
}

/// What a message is sent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// How it was given.
    pub kind: BodyKind,
    /// Its bytes, 1 to [`limits::MAX_BODY_BYTES`].
    pub bytes: Bytes,
}

impl Body {
    /// A text body that a caller sent in `field`, which is written out only to name it in an error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty text or one with U+0000 (SQS refuses both),
    /// [`Error::TooLarge`] for one over the limit.
    pub fn text(field: impl fmt::Display, text: String) -> Result<Self> {
        check_text(&field, &text, "a text body", limits::MAX_BODY_BYTES)?;
        Self::sized(field, BodyKind::Text, text.into())
    }

    /// A JSON value that a caller sent in `field`, as compact text.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for one over the limit.
    pub fn json(field: impl fmt::Display, compact: String) -> Result<Self> {
        Self::sized(field, BodyKind::Json, compact.into())
    }

    /// Bytes that a caller sent as base64 in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no base64, or empty; [`Error::TooLarge`] for what is over the
    /// limit.
    pub fn base64(field: impl fmt::Display, text: &str) -> Result<Self> {
        match STANDARD.decode(text) {
            Ok(bytes) => Self::bytes(field, bytes.into()),
            Err(error) => Err(not_base64(field, text, error)),
        }
    }

    /// Bytes that a caller sent in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are none, [`Error::TooLarge`] when they are over the limit.
    pub fn bytes(field: impl fmt::Display, bytes: Bytes) -> Result<Self> {
        Self::sized(field, BodyKind::Bytes, bytes)
    }

    fn sized(field: impl fmt::Display, kind: BodyKind, bytes: Bytes) -> Result<Self> {
        if bytes.is_empty() {
            let rule = match kind {
                BodyKind::Text | BodyKind::Json => "a body has at least one character",
                BodyKind::Bytes => "a body has at least one byte",
            };
            return Err(Error::invalid(field.to_string(), "", rule));
        }
        if bytes.len() > limits::MAX_BODY_BYTES {
            return Err(Error::TooLarge {
                field: field.to_string(),
                limit_bytes: limits::MAX_BODY_BYTES,
            });
        }
        Ok(Self { kind, bytes })
    }
}

/// What a message carries from its sender to its receivers, wherever it goes meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What it is sent for.
    pub body: Body,
    /// What is said beside the body.
    pub attributes: Attributes,
    /// The trace that it belongs to. Messages of one request share it.
    pub trace: Option<Arc<TraceContext>>,
}

impl Content {
    /// What a caller sent in `field`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when body and attributes together are over the limit.
    pub fn new(
        field: impl fmt::Display,
        body: Body,
        attributes: Attributes,
        trace: Option<Arc<TraceContext>>,
    ) -> Result<Self> {
        let content = Self {
            body,
            attributes,
            trace,
        };
        if content.size() > limits::MAX_MESSAGE_BYTES {
            return Err(Error::TooLarge {
                field: field.to_string(),
                limit_bytes: limits::MAX_MESSAGE_BYTES,
            });
        }
        Ok(content)
    }

    /// What counts of it: the body and the attributes, in bytes.
    pub fn size(&self) -> usize {
        self.body.bytes.len() + self.attributes.size()
    }
}

impl From<Body> for Content {
    fn from(body: Body) -> Self {
        Self {
            body,
            attributes: Attributes::default(),
            trace: None,
        }
    }
}

/// Checks what a caller, who gives a message up, says in `field`: up to [`limits::MAX_REASON`] bytes.
///
/// # Errors
/// As [`Body::text`], but it may be empty.
pub fn check_reason(field: impl fmt::Display, text: &str) -> Result<()> {
    check_text(&field, text, "a reason", limits::MAX_REASON)
}

fn check_text(field: &impl fmt::Display, text: &str, what: &str, limit_bytes: usize) -> Result<()> {
    let field = || field.to_string();
    if text.len() > limit_bytes {
        return Err(Error::TooLarge {
            field: field(),
            limit_bytes,
        });
    }
    if text.contains('\0') {
        return Err(Error::invalid(
            field(),
            text,
            format!("{what} has no U+0000"),
        ));
    }
    Ok(())
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// What it carries.
    pub content: Content,
    /// How long it stays hidden, if not as the queue says.
    pub delay: Option<Duration>,
    /// How long it lives, if not for as long as the queue keeps messages.
    pub time_to_live: Option<Duration>,
}

impl From<Body> for NewMessage {
    fn from(body: Body) -> Self {
        Self {
            content: body.into(),
            delay: None,
            time_to_live: None,
        }
    }
}

/// What a caller repeats when it repeats a send, and what it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the caller calls the send: 1 to [`limits::MAX_IDEMPOTENCY_KEY`] visible ASCII characters.
    name: String,
}

impl IdempotencyKey {
    /// Checks a key that a caller sent in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it breaks the rule.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        let good = |c: char| c.is_ascii_graphic();
        if name.is_empty() || name.len() > limits::MAX_IDEMPOTENCY_KEY || !name.chars().all(good) {
            let rule = "1 to 255 visible ASCII characters";
            return Err(Error::invalid(field, name, rule));
        }
        Ok(Self {
            name: name.to_owned(),
        })
    }

    /// What it is stored as. Keys of other kinds have other hashes.
    pub fn hash(&self) -> Uuid {
        let hash = Sha256::new()
            .chain_update(b"idempotency key ")
            .chain_update(&self.name)
            .finalize();
        let (half, _) = hash.split_first_chunk().expect("the hash has 32 bytes");
        Uuid::from_bytes(*half)
    }
}

impl NewMessage {
    /// What a request sends, in short: another request has another digest. The trace is not part of it,
    /// because a caller that tries again may do so in a span of its own.
    pub fn digest(messages: &[Self]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for message in messages {
            let seconds = |duration: Option<Duration>| {
                duration.map_or(-1, |duration| {
                    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
                })
            };
            let Content {
                body, attributes, ..
            } = &message.content;
            let kind = match body.kind {
                BodyKind::Text => 0,
                BodyKind::Json => 1,
                BodyKind::Bytes => 2,
            };
            let counted = |hash: &mut Sha256, bytes: &[u8]| {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            };
            hash.update([kind]);
            hash.update(seconds(message.delay).to_be_bytes());
            hash.update(seconds(message.time_to_live).to_be_bytes());
            counted(&mut hash, &body.bytes);
            for attribute in attributes.iter() {
                // No kind of a body, with which the next message begins.
                hash.update([DIGEST_ATTRIBUTE]);
                counted(&mut hash, attribute.name().as_bytes());
                counted(&mut hash, attribute.data_type().as_str().as_bytes());
                counted(&mut hash, attribute.value().as_bytes());
            }
        }
        hash.finalize().into()
    }
}

/// One time that a message came to a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The name of the queue that it came from.
    pub queue: String,
    /// Why.
    pub cause: DeathCause,
    /// What a receiver said last when it gave up, if one did.
    pub text: Option<String>,
    /// When, on the clock of the node that moved it.
    pub at: OffsetDateTime,
    /// How often it had been received there.
    pub receive_count: i32,
}

/// Why a message came to a dead-letter queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathCause {
    /// It was received as often as its queue allows.
    MaxReceiveCount,
}

/// What a message that was moved keeps of its time before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub message_id: Uuid,
    /// How often it was received in other queues.
    pub deliveries: i32,
    /// When first.
    pub first_received_at: Option<OffsetDateTime>,
}

/// What the sender of a message learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Its id, for as long as it lives.
    pub message_id: Uuid,
    /// When it was stored, on the database's clock.
    pub sent_at: OffsetDateTime,
}

/// A message in the hands of one receiver until `visible_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Its id.
    pub message_id: Uuid,
    /// The proof of this delivery: deletes the message.
    pub receipt_handle: String,
    /// What it carries.
    pub content: Content,
    /// When it was sent.
    pub sent_at: OffsetDateTime,
    /// When it was first received.
    pub first_received_at: OffsetDateTime,
    /// How often it was received, this time included.
    pub receive_count: i32,
    /// When others may receive it, unless it is deleted before.
    pub visible_at: OffsetDateTime,
    /// How it came to be a dead letter, the newest last.
    pub deaths: Vec<Death>,
}

/// How one entry of an extend or a nack ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// Others may receive the message from then on.
    VisibleAt(OffsetDateTime),
    /// The message goes to the dead-letter queue.
    DeadLettered,
    /// The receipt is not of the newest delivery, or its time is over; nothing was changed.
    Stale(Violation),
}

impl Extension {
    /// What is wrong with a stale receipt.
    pub fn stale(&self) -> Option<&Violation> {
        match self {
            Self::Stale(violation) => Some(violation),
            Self::VisibleAt(_) | Self::DeadLettered => None,
        }
    }
}

/// How one entry of a delete ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The message is gone, now or already before.
    Deleted,
    /// The receipt is of a delivery that the queue no longer knows; nothing was deleted.
    Stale(Violation),
}

impl Deletion {
    /// What is wrong with a stale receipt.
    pub fn stale(&self) -> Option<&Violation> {
        match self {
            Self::Stale(violation) => Some(violation),
            Self::Deleted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attribute::{Attribute, AttributeName, AttributeType, AttributeValue};

    fn message(text: &str) -> NewMessage {
        Body::text("body", text.to_owned()).unwrap().into()
    }

    fn with(mut message: NewMessage, attributes: &[(&str, &str, &str)]) -> NewMessage {
        let attributes = attributes.iter().map(|(name, data_type, value)| {
            let name = AttributeName::parse("name", (*name).to_owned()).unwrap();
            let data_type = AttributeType::parse("type", data_type).unwrap();
            let value = AttributeValue::Text((*value).to_owned());
            Attribute::new("value", name, data_type, value).unwrap()
        });
        message.content.attributes = Attributes::new("attributes", attributes.collect()).unwrap();
        message
    }

    #[test]
    fn the_digest_of_messages_without_attributes_is_what_it_always_was() {
        let first = NewMessage {
            time_to_live: Some(Duration::from_secs(60)),
            ..message("hello")
        };
        let second = NewMessage {
            delay: Some(Duration::from_secs(5)),
            ..message("x")
        };
        let digest = NewMessage::digest(&[first, second]);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = "2784d6db7715428e440827f109f69d84df132e944af7f54aede08ea4ff764eb5";
        assert_eq!(digest, expected);
    }

    #[test]
    fn messages_with_other_attributes_have_other_digests() {
        let sends = [
            vec![message("a"), message("b")],
            vec![with(message("a"), &[("x", "String", "1")]), message("b")],
            vec![message("a"), with(message("b"), &[("x", "String", "1")])],
            vec![with(message("a"), &[("x", "String", "2")]), message("b")],
            vec![with(message("a"), &[("x", "Number", "1")]), message("b")],
            vec![with(message("a"), &[("x", "String.a", "1")]), message("b")],
            vec![with(message("a"), &[("xS", "String", "1")]), message("b")],
            vec![
                with(message("a"), &[("x", "String", "1"), ("y", "String", "1")]),
                message("b"),
            ],
        ];
        let digests: std::collections::BTreeSet<_> =
            sends.iter().map(|send| NewMessage::digest(send)).collect();
        assert_eq!(digests.len(), sends.len());
    }

    #[test]
    fn the_digest_does_not_depend_on_the_trace() {
        let traced = |parent: &str| {
            let traceparent = crate::domain::trace::Traceparent::parse("t", parent).unwrap();
            let mut message = message("a");
            message.content.trace = Some(Arc::new(TraceContext {
                traceparent,
                tracestate: None,
            }));
            NewMessage::digest(&[message])
        };
        let one = traced("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let other = traced("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
        assert_eq!(one, other);
    }
}

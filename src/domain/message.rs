//! Messages as callers hand them in and get them back.

use std::fmt;

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::{Error, Result, Violation};
use super::limits;

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

/// What a message carries.
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
        if text.is_empty() {
            return Err(Error::invalid(
                field.to_string(),
                "",
                "a body has at least one character",
            ));
        }
        if text.len() > limits::MAX_BODY_BYTES {
            return Err(Error::TooLarge {
                field: field.to_string(),
                limit_bytes: limits::MAX_BODY_BYTES,
            });
        }
        if text.contains('\0') {
            let rule = "a text body has no U+0000";
            return Err(Error::invalid(field.to_string(), text, rule));
        }
        Ok(Self {
            kind: BodyKind::Text,
            bytes: Bytes::from(text),
        })
    }
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// What it carries.
    pub body: Body,
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
    pub body: Body,
    /// When it was sent.
    pub sent_at: OffsetDateTime,
    /// When it was first received.
    pub first_received_at: OffsetDateTime,
    /// How often it was received, this time included.
    pub receive_count: i32,
    /// When others may receive it, unless it is deleted before.
    pub visible_at: OffsetDateTime,
}

/// How one entry of a delete ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The message is gone, now or already before.
    Deleted,
    /// The receipt is of a delivery that the queue no longer knows; nothing was deleted.
    Stale(Violation),
}

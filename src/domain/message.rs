//! Messages as callers hand them in and get them back.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
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
    /// How long it stays hidden, if not as the queue says.
    pub delay: Option<Duration>,
    /// How long it lives, if not for as long as the queue keeps messages.
    pub time_to_live: Option<Duration>,
}

impl From<Body> for NewMessage {
    fn from(body: Body) -> Self {
        Self {
            body,
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
    /// What a request sends, in short: another request has another digest.
    pub fn digest(messages: &[Self]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for message in messages {
            let seconds = |duration: Option<Duration>| {
                duration.map_or(-1, |duration| {
                    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
                })
            };
            let kind = match message.body.kind {
                BodyKind::Text => 0,
                BodyKind::Json => 1,
                BodyKind::Bytes => 2,
            };
            hash.update([kind]);
            hash.update(seconds(message.delay).to_be_bytes());
            hash.update(seconds(message.time_to_live).to_be_bytes());
            hash.update((message.body.bytes.len() as u64).to_be_bytes());
            hash.update(&message.body.bytes);
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
    /// What the last receiver said when it gave up, if anything.
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
    pub body: Body,
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

/// How one entry of a delete ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The message is gone, now or already before.
    Deleted,
    /// The receipt is of a delivery that the queue no longer knows; nothing was deleted.
    Stale(Violation),
}

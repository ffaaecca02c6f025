//! Queues: their names and settings, and what each may be.

use std::ops::RangeInclusive;
use std::time::Duration;

use time::OffsetDateTime;

use super::error::{Error, Result};
use super::lane::QueueId;
use super::limits;

/// A name that follows SQS's rule: 1 to 80 ASCII letters, digits, hyphens and underscores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(String);

impl QueueName {
    /// Checks a name that a caller sent in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name breaks the rule.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > limits::MAX_QUEUE_NAME || !name.chars().all(good) {
            return Err(Error::invalid(
                field,
                name,
                "a queue's name is 1 to 80 letters, digits, hyphens and underscores",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose queues: every name, limit and key belongs to a tenant. One exists so far.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tenant(pub String);

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// When an answer is given, and so what a crash of the database may undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Everything is flushed before it is answered: a crash undoes nothing.
    #[default]
    Strict,
    /// Sends are flushed; a crash may undo the last receives and deletes, whose messages come again.
    Relaxed,
    /// A crash may undo the last sends too.
    Async,
}

/// Where messages go that are received too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The name of the queue, which may have been deleted since.
    pub queue: QueueName,
    /// After how many deliveries, 1 to 1000.
    pub max_receive_count: i32,
}

/// What a user sets on a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a received message stays hidden, whole seconds, 0 to 12 hours.
    pub visibility_timeout: Duration,
    /// How long a receive waits when it does not say, whole seconds, 0 to 20.
    pub receive_wait: Duration,
    /// How long a message stays hidden after it was sent when it does not say, whole seconds.
    pub delay: Duration,
    /// How long after it was sent a message lives, whole seconds, from a minute on.
    pub retention: Duration,
    /// Where messages go that are received too often.
    pub dead_letter: Option<DeadLetter>,
    /// When answers are given.
    pub durability: Durability,
    /// For how long a send under a key is recognised when it comes again, whole seconds.
    pub deduplication_window: Duration,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            visibility_timeout: limits::DEFAULT_VISIBILITY_TIMEOUT,
            receive_wait: Duration::ZERO,
            delay: Duration::ZERO,
            retention: limits::DEFAULT_RETENTION,
            dead_letter: None,
            durability: Durability::Strict,
            deduplication_window: limits::DEFAULT_DEDUPLICATION_WINDOW,
        }
    }
}

/// A living queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its number.
    pub id: QueueId,
    /// Its name, unique among the living queues of its tenant.
    pub name: QueueName,
    /// What its user set.
    pub settings: QueueSettings,
    /// The number of its dead-letter queue; `None` also when that was deleted.
    pub dead_letters_to: Option<QueueId>,
    /// When it was created, on the database's clock.
    pub created_at: OffsetDateTime,
    /// Counts the changes of its settings, from 1.
    pub version: i64,
}

impl Queue {
    /// After how many deliveries its messages go to its dead-letter queue, if there is one.
    pub fn max_receives(&self) -> Option<i32> {
        self.dead_letters_to?;
        let dead_letter = self.settings.dead_letter.as_ref()?;
        Some(dead_letter.max_receive_count)
    }
}

/// What a queue holds. Messages that have expired count until they are passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages that a receive could get now.
    pub visible: u64,
    /// Messages that somebody received, or gave up with a delay that has not passed.
    pub in_flight: u64,
    /// Messages whose delay has not passed.
    pub delayed: u64,
    /// How long ago the oldest one that is still there was sent.
    pub oldest_age: Option<Duration>,
}

/// Whole seconds within a range, from a number that a caller sent.
///
/// # Errors
/// [`Error::Invalid`] naming the field and the range.
pub fn seconds(field: &str, value: i64, range: RangeInclusive<Duration>) -> Result<Duration> {
    u64::try_from(value)
        .ok()
        .map(Duration::from_secs)
        .filter(|given| range.contains(given))
        .ok_or_else(|| {
            Error::invalid(
                field,
                value.to_string(),
                format!(
                    "whole seconds from {} to {}",
                    range.start().as_secs(),
                    range.end().as_secs()
                ),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule_of_sqs() {
        for good in ["a", "orders", "Orders_2026-q3", &"x".repeat(80)] {
            assert_eq!(QueueName::parse("queue", good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a.b", "ö", "a/b", "a\0b", "..", &"x".repeat(81)] {
            let error = QueueName::parse("queue", bad).unwrap_err();
            assert!(
                matches!(error, Error::Invalid(ref v) if v[0].field == "queue"),
                "{bad}"
            );
        }
    }

    #[test]
    fn seconds_say_their_range() {
        let wait = |given| {
            let range = Duration::ZERO..=limits::MAX_RECEIVE_WAIT;
            seconds("wait_seconds", given, range)
        };
        let error = wait(21).unwrap_err();
        assert_eq!(
            error.to_string(),
            "wait_seconds is \"21\": whole seconds from 0 to 20"
        );
        assert!(wait(-1).is_err());
        assert_eq!(wait(20).unwrap().as_secs(), 20);
    }
}

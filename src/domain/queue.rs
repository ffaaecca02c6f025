//! Queues: their names and settings, and what each may be.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use time::OffsetDateTime;

use super::error::{Error, Result};
use super::lane::QueueId;
use super::limits;
use super::retry::RetryPolicy;

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

/// Texts by names, which a user keeps with a queue and the server makes nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Checks what a caller sent in `field`: at most 50 tags, keys of 1 to 128 characters, values of up to
    /// 256, no U+0000.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first tag that breaks the rule.
    pub fn parse(field: &str, tags: BTreeMap<String, String>) -> Result<Self> {
        if tags.len() > limits::MAX_TAGS {
            let rule = format!("at most {} tags", limits::MAX_TAGS);
            return Err(Error::invalid(field, format!("{} tags", tags.len()), rule));
        }
        for (key, value) in &tags {
            let place = || format!("{field}/{}", key.replace('~', "~0").replace('/', "~1"));
            let length = key.chars().count();
            if !(1..=limits::MAX_TAG_KEY).contains(&length) || key.contains('\0') {
                let rule = "a tag's key is 1 to 128 characters without U+0000";
                return Err(Error::invalid(place(), key, rule));
            }
            if value.chars().count() > limits::MAX_TAG_VALUE || value.contains('\0') {
                let rule = "a tag's value is at most 256 characters without U+0000";
                return Err(Error::invalid(place(), value, rule));
            }
        }
        Ok(Self(tags))
    }

    /// Their keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// What a user sets on a queue.
#[derive(Debug, Clone, PartialEq)]
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
    /// What its user keeps with it.
    pub tags: Tags,
    /// Sends are refused.
    pub sending_paused: bool,
    /// Receives find nothing.
    pub receiving_paused: bool,
    /// After how long a message comes back that was given up; at once without one.
    pub retry_policy: Option<RetryPolicy>,
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
            tags: Tags::default(),
            sending_paused: false,
            receiving_paused: false,
            retry_policy: None,
        }
    }
}

/// A living queue.
#[derive(Debug, Clone, PartialEq)]
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

/// What a caller wants to be so before a queue is changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Precondition {
    /// Whatever is there.
    #[default]
    None,
    /// There is no queue of the name.
    Absent,
    /// There is one.
    Exists,
    /// There is one, of one of these versions.
    Version(Vec<i64>),
}

impl Precondition {
    /// Whether it is so, for the version of the queue that has the name.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`].
    pub fn check(&self, name: &QueueName, version: Option<i64>) -> Result<()> {
        let (holds, header) = match self {
            Self::None => return Ok(()),
            Self::Absent => (version.is_none(), "If-None-Match"),
            Self::Exists => (version.is_some(), "If-Match"),
            Self::Version(versions) => {
                let is_one = version.is_some_and(|version| versions.contains(&version));
                (is_one, "If-Match")
            }
        };
        if holds {
            return Ok(());
        }
        Err(Error::PreconditionFailed {
            name: name.as_str().to_owned(),
            version,
            header,
        })
    }
}

/// What a queue holds. Messages that have expired count until they are passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    fn tags_have_bounds() {
        let one = |key: &str, value: &str| {
            Tags::parse("/tags", [(key.to_owned(), value.to_owned())].into())
        };
        for (key, value) in [
            ("a", ""),
            ("ö/~", "\u{1f682}"),
            (&"é".repeat(128), &"é".repeat(256)),
        ] {
            let tags = one(key, value).unwrap();
            assert_eq!(tags.iter().collect::<Vec<_>>(), [(key, value)]);
        }
        for (key, value, said) in [
            ("", "", "/tags/: a tag's key"),
            (&"x".repeat(129), "", "a tag's key is 1 to 128"),
            ("a\0", "", "a tag's key"),
            ("a/~", "a\0", "/tags/a~1~0 is"),
            ("a", &"x".repeat(257), "a tag's value is at most 256"),
        ] {
            let error = one(key, value).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let many = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        assert!(Tags::parse("/tags", many(50)).is_ok());
        let error = Tags::parse("/tags", many(51)).unwrap_err();
        assert_eq!(error.to_string(), "/tags is \"51 tags\": at most 50 tags");
    }

    #[test]
    fn a_precondition_holds_of_the_version_that_is_there() {
        let name = QueueName::parse("queue", "orders").unwrap();
        for (precondition, none, first, second) in [
            (Precondition::None, true, true, true),
            (Precondition::Absent, true, false, false),
            (Precondition::Exists, false, true, true),
            (Precondition::Version(vec![2, 3]), false, false, true),
            (Precondition::Version(vec![]), false, false, false),
        ] {
            let holds =
                [None, Some(1), Some(2)].map(|version| precondition.check(&name, version).is_ok());
            assert_eq!(holds, [none, first, second], "{precondition:?}");
        }
        let error = Precondition::Absent.check(&name, Some(4)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "If-None-Match does not hold: queue \"orders\" has version 4; read it, and decide again"
        );
        let error = Precondition::Exists.check(&name, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "If-Match does not hold: there is no queue \"orders\"; read it, and decide again"
        );
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

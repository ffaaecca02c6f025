//! A queue's settings over REST: what a request says, and the rules for it.

use std::time::Duration;

use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

use super::json::{Members, not_null, object};
use super::retry_policy::RetryPolicy;
use crate::domain::queue::{DeadLetter, Durability, QueueName, QueueSettings, Tags, seconds};
use crate::domain::{self, limits};

/// What a user sets on a queue. What is left out has its default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQueue {
    /// How long a received message stays hidden from others; 30 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 43200, default = 30)]
    pub(super) visibility_timeout_seconds: Option<i64>,
    /// How long a receive waits for a message when it does not say; 0 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 20, default = 0)]
    pub(super) receive_wait_seconds: Option<i64>,
    /// How long a message stays hidden after it was sent when it does not say; 0 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 315360000, default = 0)]
    pub(super) delay_seconds: Option<i64>,
    /// How long messages live after they were sent, whatever their state; 345600 (4 days) when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 60, maximum = 315360000, default = 345600)]
    pub(super) retention_seconds: Option<i64>,
    /// The queue that messages go to when they were received `max_receive_count` times and not deleted.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,80}$")]
    pub(super) dead_letter_queue: Option<String>,
    /// After how many deliveries; goes with `dead_letter_queue`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    pub(super) max_receive_count: Option<i64>,
    /// What is on disk before it is answered: everything (`strict`, when left out), sends only
    /// (`relaxed`), or nothing (`async`).
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, value_type = DurabilityName, default = "strict")]
    pub(super) durability: Option<String>,
    /// For how long a send with an `Idempotency-Key` is recognised when it comes again; 300 when left
    /// out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 2592000, default = 300)]
    pub(super) deduplication_window_seconds: Option<i64>,
    #[serde(default, deserialize_with = "not_null")]
    #[schema(required = false, schema_with = tags_to_set)]
    pub(super) tags: Option<Members<String>>,
    /// Refuses sends; dead letters come in all the same. `false` when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, default = false)]
    pub(super) sending_paused: Option<bool>,
    /// Answers receives as if the queue were empty. `false` when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, default = false)]
    pub(super) receiving_paused: Option<bool>,
    /// After how long a message comes back that was given up without a delay; at once when left out.
    #[serde(default, deserialize_with = "object")]
    #[schema(nullable = false, value_type = RetryPolicy)]
    pub(super) retry_policy: Option<RetryPolicy>,
}

/// What is on disk before it is answered.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `durability_name` writes")]
pub(super) enum DurabilityName {
    Strict,
    Relaxed,
    Async,
}

pub(super) const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Strict => "strict",
        Durability::Relaxed => "relaxed",
        Durability::Async => "async",
    }
}

fn tags_to_set() -> Object {
    const TEXT: &str = "What you keep with the queue: at most 50 texts of up to 256 characters by keys of 1 \
        to 128, without U+0000. They replace those that it had.";
    tags(Type::String, TEXT).schema_type(Type::Object).build()
}

/// Tags with their bounds, which no attribute can say.
pub(super) fn tags(value: impl Into<SchemaType>, text: &str) -> ObjectBuilder {
    const WITHOUT_NUL: &str = "^[^\\u0000]*$";
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(limits::MAX_TAG_KEY))
        .pattern(Some(WITHOUT_NUL));
    let value = ObjectBuilder::new()
        .schema_type(value)
        .max_length(Some(limits::MAX_TAG_VALUE))
        .pattern(Some(WITHOUT_NUL));
    ObjectBuilder::new()
        .description(Some(text))
        .property_names(Some(key))
        .additional_properties(Some(value))
        .max_properties(Some(limits::MAX_TAGS))
}

impl PutQueue {
    /// What a queue has, as a request would say it.
    pub(super) fn of(settings: QueueSettings) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).ok();
        let dead_letter = settings.dead_letter;
        let tags = settings.tags.iter();
        let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            visibility_timeout_seconds: seconds(settings.visibility_timeout),
            receive_wait_seconds: seconds(settings.receive_wait),
            delay_seconds: seconds(settings.delay),
            retention_seconds: seconds(settings.retention),
            max_receive_count: dead_letter.as_ref().map(|to| to.max_receive_count.into()),
            dead_letter_queue: dead_letter.map(|to| to.queue.as_str().to_owned()),
            durability: Some(durability_name(settings.durability).to_owned()),
            deduplication_window_seconds: seconds(settings.deduplication_window),
            tags: Some(Members(tags.collect())),
            sending_paused: Some(settings.sending_paused),
            receiving_paused: Some(settings.receiving_paused),
            retry_policy: settings.retry_policy.map(RetryPolicy::from),
        }
    }

    /// What it sets. The rules for each setting are here, or behind what this calls; those for several of
    /// them together are in the operation.
    pub(super) fn settings(&self) -> domain::Result<QueueSettings> {
        let default = QueueSettings::default();
        let or = |field, given: Option<i64>, range, default| {
            given.map_or(Ok(default), |given| seconds(field, given, range))
        };
        let zero = Duration::ZERO;
        Ok(QueueSettings {
            visibility_timeout: or(
                "/visibility_timeout_seconds",
                self.visibility_timeout_seconds,
                zero..=limits::MAX_VISIBILITY_TIMEOUT,
                default.visibility_timeout,
            )?,
            receive_wait: or(
                "/receive_wait_seconds",
                self.receive_wait_seconds,
                zero..=limits::MAX_RECEIVE_WAIT,
                default.receive_wait,
            )?,
            delay: or(
                "/delay_seconds",
                self.delay_seconds,
                zero..=limits::MAX_LIFE,
                default.delay,
            )?,
            retention: or(
                "/retention_seconds",
                self.retention_seconds,
                limits::MIN_RETENTION..=limits::MAX_LIFE,
                default.retention,
            )?,
            dead_letter: self.dead_letter()?,
            durability: self.durability()?,
            deduplication_window: or(
                "/deduplication_window_seconds",
                self.deduplication_window_seconds,
                Duration::from_secs(1)..=limits::MAX_DEDUPLICATION_WINDOW,
                default.deduplication_window,
            )?,
            tags: match &self.tags {
                None => default.tags,
                Some(Members(tags)) => Tags::parse("/tags", tags.clone())?,
            },
            sending_paused: self.sending_paused.unwrap_or(default.sending_paused),
            receiving_paused: self.receiving_paused.unwrap_or(default.receiving_paused),
            retry_policy: self
                .retry_policy
                .as_ref()
                .map(RetryPolicy::parse)
                .transpose()?,
        })
    }

    fn dead_letter(&self) -> domain::Result<Option<DeadLetter>> {
        let (queue, count) = match (&self.dead_letter_queue, self.max_receive_count) {
            (None, None) => return Ok(None),
            (Some(queue), Some(count)) => (queue, count),
            (Some(_), None) => {
                let rule = "given together with dead_letter_queue";
                return Err(domain::Error::invalid("/max_receive_count", "", rule));
            }
            (None, Some(_)) => {
                let rule = "given together with max_receive_count";
                return Err(domain::Error::invalid("/dead_letter_queue", "", rule));
            }
        };
        let max_receive_count = i32::try_from(count)
            .ok()
            .filter(|count| (1..=limits::MAX_RECEIVE_COUNT).contains(count))
            .ok_or_else(|| {
                let rule = format!("a whole number from 1 to {}", limits::MAX_RECEIVE_COUNT);
                domain::Error::invalid("/max_receive_count", count.to_string(), rule)
            })?;
        Ok(Some(DeadLetter {
            queue: QueueName::parse("/dead_letter_queue", queue)?,
            max_receive_count,
        }))
    }

    fn durability(&self) -> domain::Result<Durability> {
        let all = [Durability::Strict, Durability::Relaxed, Durability::Async];
        match &self.durability {
            None => Ok(Durability::default()),
            Some(given) => all
                .into_iter()
                .find(|durability| durability_name(*durability) == given)
                .ok_or_else(|| {
                    let rule = "one of strict, relaxed and async";
                    domain::Error::invalid("/durability", given, rule)
                }),
        }
    }
}

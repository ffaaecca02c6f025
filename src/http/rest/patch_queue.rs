//! Patches of a queue's settings: what changes, and what comes of it. The rules are those of a PUT.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::PartialSchema as _;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema, SchemaType, Type};

use super::json::{Change, Members, change_of_object};
use super::queue_settings::{PutQueue, tags};
use super::retry_policy::RetryPolicy;
use crate::domain::Result;
use crate::domain::queue::Queue;
use crate::service::NewSettings;

/// Settings that are to change. `null` stands for the default.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchQueue {
    /// How long a received message stays hidden from others; `null` for 30.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 43200)]
    visibility_timeout_seconds: Change<i64>,
    /// How long a receive waits for a message when it does not say; `null` for 0.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 20)]
    receive_wait_seconds: Change<i64>,
    /// How long a message stays hidden after it was sent when it does not say; `null` for 0.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 315360000)]
    delay_seconds: Change<i64>,
    /// How long messages live after they were sent, whatever their state; `null` for 345600 (4 days).
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 60, maximum = 315360000)]
    retention_seconds: Change<i64>,
    /// The queue that messages go to when they were received `max_receive_count` times and not deleted;
    /// `null` for none.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_-]{1,80}$")]
    dead_letter_queue: Change<String>,
    /// After how many deliveries; goes with `dead_letter_queue`.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 1000)]
    max_receive_count: Change<i64>,
    /// What is on disk before it is answered: `strict`, `relaxed` or `async`; `null` for `strict`.
    #[serde(default)]
    #[schema(value_type = Option<String>, pattern = "^(strict|relaxed|async)$")]
    durability: Change<String>,
    /// For how long a send with an `Idempotency-Key` is recognised when it comes again; `null` for 300.
    #[serde(default)]
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 2592000)]
    deduplication_window_seconds: Change<i64>,
    #[serde(default)]
    #[schema(required = false, schema_with = tags_to_change)]
    tags: Change<Members<Option<String>>>,
    /// Refuses sends; dead letters come in all the same. `null` for `false`.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    sending_paused: Change<bool>,
    /// Answers receives as if the queue were empty. `null` for `false`.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    receiving_paused: Change<bool>,
    #[serde(default, deserialize_with = "change_of_object")]
    #[schema(required = false, schema_with = retry_policy_or_null)]
    retry_policy: Change<PatchRetryPolicy>,
}

/// What changes in a retry policy.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PatchRetryPolicy {
    r#type: Change<String>,
    delay_seconds: Change<i64>,
    delays_seconds: Change<Vec<i64>>,
    factor: Change<f64>,
    max_delay_seconds: Change<i64>,
    jitter: Change<f64>,
}

impl PatchQueue {
    /// What comes of a queue's settings.
    pub(super) fn settings_of(&self, queue: &Queue) -> Result<NewSettings> {
        let names_a_dead_letter_queue = self.dead_letter_queue != Change::Keep;
        let put = self.clone().onto(PutQueue::of(queue.settings.clone()));
        Ok(NewSettings {
            settings: put.settings()?,
            keeps_dead_letter_queue: !names_a_dead_letter_queue,
        })
    }

    fn onto(self, now: PutQueue) -> PutQueue {
        PutQueue {
            visibility_timeout_seconds: self
                .visibility_timeout_seconds
                .onto(now.visibility_timeout_seconds),
            receive_wait_seconds: self.receive_wait_seconds.onto(now.receive_wait_seconds),
            delay_seconds: self.delay_seconds.onto(now.delay_seconds),
            retention_seconds: self.retention_seconds.onto(now.retention_seconds),
            dead_letter_queue: self.dead_letter_queue.onto(now.dead_letter_queue),
            max_receive_count: self.max_receive_count.onto(now.max_receive_count),
            durability: self.durability.onto(now.durability),
            deduplication_window_seconds: self
                .deduplication_window_seconds
                .onto(now.deduplication_window_seconds),
            tags: match self.tags {
                Change::Set(changes) => Some(tags_onto(changes, now.tags)),
                Change::Reset => None,
                Change::Keep => now.tags,
            },
            sending_paused: self.sending_paused.onto(now.sending_paused),
            receiving_paused: self.receiving_paused.onto(now.receiving_paused),
            retry_policy: match self.retry_policy {
                Change::Set(changes) => Some(changes.onto(now.retry_policy)),
                Change::Reset => None,
                Change::Keep => now.retry_policy,
            },
        }
    }
}

fn tags_onto(
    Members(changes): Members<Option<String>>,
    now: Option<Members<String>>,
) -> Members<String> {
    let mut tags = now.map_or_else(BTreeMap::new, |Members(tags)| tags);
    for (key, change) in changes {
        match change {
            Some(value) => tags.insert(key, value),
            None => tags.remove(&key),
        };
    }
    Members(tags)
}

impl PatchRetryPolicy {
    /// A policy of another type begins anew: the members of the old one do not go with it.
    fn onto(self, now: Option<RetryPolicy>) -> RetryPolicy {
        let is_kept = |now: &RetryPolicy| match &self.r#type {
            Change::Set(to) => *to == now.r#type,
            Change::Keep | Change::Reset => true,
        };
        let now = now.filter(is_kept).unwrap_or_default();
        RetryPolicy {
            r#type: self.r#type.onto(Some(now.r#type)).unwrap_or_default(),
            delay_seconds: self.delay_seconds.onto(now.delay_seconds),
            delays_seconds: self.delays_seconds.onto(now.delays_seconds),
            factor: self.factor.onto(now.factor),
            max_delay_seconds: self.max_delay_seconds.onto(now.max_delay_seconds),
            jitter: self.jitter.onto(now.jitter),
        }
    }
}

fn tags_to_change() -> Object {
    const TEXT: &str = "Tags to add or change, and with `null` to remove; `null` for none at all.";
    tags(or_null(Type::String), TEXT)
        .schema_type(or_null(Type::Object))
        .build()
}

/// As that of a PUT, but nothing is required, and everything may be `null`.
fn retry_policy_or_null() -> Schema {
    let RefOr::T(Schema::Object(mut policy)) = RetryPolicy::schema() else {
        unreachable!("a struct is an object");
    };
    let text = "What changes in the retry policy, or all of one of another type; `null` for none.";
    policy.description = Some(text.to_owned());
    policy.required.clear();
    policy.schema_type = or_null(Type::Object);
    for member in policy.properties.values_mut() {
        let schema_type = match member {
            RefOr::T(Schema::Object(member)) => &mut member.schema_type,
            RefOr::T(Schema::Array(member)) => &mut member.schema_type,
            // The type.
            _ => continue,
        };
        if let SchemaType::Type(of) = schema_type {
            *schema_type = or_null(of.clone());
        }
    }
    Schema::Object(policy)
}

fn or_null(of: Type) -> SchemaType {
    SchemaType::from_iter([of, Type::Null])
}

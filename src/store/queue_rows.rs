//! How a queue stands in its row: what is read of it, and what is bound to the statements that write
//! it. The statements are in `queues`.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Query;
use super::queues::PutOutcome;
use crate::domain::lane::QueueId;
use crate::domain::queue::{DeadLetter, Durability, Queue, QueueName, QueueSettings, Tags};
use crate::domain::retry::{Backoff, RetryPolicy};

/// What a statement that writes settings did; `None` when it was not for the queue that is there.
pub(super) fn outcome(rows: &[PgRow]) -> Result<Option<(Queue, PutOutcome)>, sqlx::Error> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let outcome = if row.try_get("created")? {
        PutOutcome::Created
    } else if row.try_get("changed")? {
        PutOutcome::Updated
    } else {
        PutOutcome::Unchanged
    };
    Ok(Some((queue(row)?, outcome)))
}

/// The number of a row's queue.
pub(super) fn queue_id(row: &PgRow) -> Result<QueueId, sqlx::Error> {
    let raw: i32 = row.try_get("queue_id")?;
    QueueId::new(raw).ok_or_else(|| sqlx::Error::Decode(format!("queue number {raw}").into()))
}

/// Binds a queue's settings, the parameters $3 to $19 of the statements that write them.
pub(super) fn given(
    statement: Query<'static>,
    settings: &QueueSettings,
    dead_letters_to: Option<QueueId>,
) -> Query<'static> {
    let max_receives = settings.dead_letter.as_ref();
    let (keys, values): (Vec<_>, Vec<_>) = settings
        .tags
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .unzip();
    let retry = RetryColumns::of(settings.retry_policy.as_ref());
    statement
        .bind(seconds(settings.visibility_timeout))
        .bind(seconds(settings.receive_wait))
        .bind(seconds(settings.delay))
        .bind(seconds(settings.retention))
        .bind(dead_letters_to.map(QueueId::get))
        .bind(max_receives.map(|dead_letter| dead_letter.max_receive_count))
        .bind(durability_code(settings.durability))
        .bind(seconds(settings.deduplication_window))
        .bind(keys)
        .bind(values)
        .bind(settings.sending_paused)
        .bind(settings.receiving_paused)
        .bind(retry.kind)
        .bind(retry.delays)
        .bind(retry.factor)
        .bind(retry.max_delay)
        .bind(retry.jitter)
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// A retry policy as the row has it.
#[derive(Default)]
struct RetryColumns {
    kind: Option<i16>,
    delays: Option<Vec<i32>>,
    factor: Option<f64>,
    max_delay: Option<i32>,
    jitter: Option<f64>,
}

impl RetryColumns {
    fn of(policy: Option<&RetryPolicy>) -> Self {
        let Some(RetryPolicy { backoff, jitter }) = policy else {
            return Self::default();
        };
        let (kind, delays, factor, max_delay) = match backoff {
            Backoff::Fixed { delay } => (0, vec![seconds(*delay)], None, None),
            Backoff::Ladder { delays } => {
                let delays = delays.iter().map(|delay| seconds(*delay)).collect();
                (1, delays, None, None)
            }
            Backoff::Exponential {
                delay,
                factor,
                max_delay,
            } => {
                let max_delay = Some(seconds(*max_delay));
                (2, vec![seconds(*delay)], Some(*factor), max_delay)
            }
        };
        Self {
            kind: Some(kind),
            delays: Some(delays),
            factor,
            max_delay,
            jitter: Some(*jitter),
        }
    }
}

fn tags(row: &PgRow) -> Result<Tags, sqlx::Error> {
    let keys: Vec<String> = row.try_get("tag_keys")?;
    let values: Vec<String> = row.try_get("tag_values")?;
    Tags::parse("tags", keys.into_iter().zip(values).collect())
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

/// `None` also for one that a newer release may add.
fn retry_policy(row: &PgRow) -> Result<Option<RetryPolicy>, sqlx::Error> {
    let Some(kind) = row.try_get::<Option<i16>, _>("retry_kind")? else {
        return Ok(None);
    };
    let duration = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let delays: Vec<i32> = row.try_get("retry_delays_seconds")?;
    let delays: Vec<Duration> = delays.into_iter().map(duration).collect();
    let delay = delays.first().copied().unwrap_or_default();
    let backoff = match kind {
        0 => Backoff::Fixed { delay },
        1 => Backoff::Ladder { delays },
        2 => Backoff::Exponential {
            delay,
            factor: row.try_get("retry_factor")?,
            max_delay: duration(row.try_get("retry_max_delay_seconds")?),
        },
        _ => return Ok(None),
    };
    let jitter = row.try_get("retry_jitter")?;
    Ok(Some(RetryPolicy { backoff, jitter }))
}

/// The queue of a row.
pub(super) fn queue(row: &PgRow) -> Result<Queue, sqlx::Error> {
    let seconds = |column| {
        let value: i32 = row.try_get(column)?;
        Ok::<_, sqlx::Error>(Duration::from_secs(
            u64::try_from(value).unwrap_or_default(),
        ))
    };
    let name = |name: &str| {
        QueueName::parse("name", name).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let dead_letter_name: Option<&str> = row.try_get("dead_letter_name")?;
    let max_receive_count: Option<i32> = row.try_get("max_receive_count")?;
    let dead_letter_id: Option<i32> = row.try_get("dead_letter_id")?;
    let dead_letter = match (dead_letter_name, max_receive_count) {
        (Some(queue), Some(max_receive_count)) => Some(DeadLetter {
            queue: name(queue)?,
            max_receive_count,
        }),
        _ => None,
    };
    Ok(Queue {
        id: queue_id(row)?,
        name: name(row.try_get("name")?)?,
        settings: QueueSettings {
            visibility_timeout: seconds("visibility_timeout_seconds")?,
            receive_wait: seconds("receive_wait_seconds")?,
            delay: seconds("delay_seconds")?,
            retention: seconds("retention_seconds")?,
            dead_letter,
            durability: durability(row.try_get("durability")?),
            deduplication_window: seconds("deduplication_window_seconds")?,
            tags: tags(row)?,
            sending_paused: row.try_get("sending_paused")?,
            receiving_paused: row.try_get("receiving_paused")?,
            retry_policy: retry_policy(row)?,
        },
        dead_letters_to: dead_letter_id.and_then(QueueId::new),
        created_at: row.try_get("created_at")?,
        version: row.try_get("version")?,
    })
}

fn durability_code(durability: Durability) -> i16 {
    match durability {
        Durability::Strict => 0,
        Durability::Relaxed => 1,
        Durability::Async => 2,
    }
}

fn durability(code: i16) -> Durability {
    match code {
        1 => Durability::Relaxed,
        2 => Durability::Async,
        // What a newer release may add is kept as safely as this one can.
        _ => Durability::Strict,
    }
}

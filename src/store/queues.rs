//! Queues as rows.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Failure, Store, query};
use crate::domain::lane::{QueueId, SubscriptionId};
use crate::domain::queue::{
    Counts, DeadLetter, Durability, Queue, QueueName, QueueSettings, Tenant,
};

/// Sources that a refusal to delete a dead-letter queue names.
const SHOWN_SOURCES: i64 = 10;

/// Decides the race between two creators in the database: both are answered, one with the row
/// that the other made.
pub(super) const PUT: &str = "
    with old as materialized (
        select queue_id, version from towpath.queue
        where tenant = $1 and name = $2 and deleted_at is null
    ),
    put as (
        insert into towpath.queue as q (
            tenant, name, created_at, visibility_timeout_seconds, receive_wait_seconds,
            delay_seconds, retention_seconds, dead_letter_queue_id, max_receive_count, durability,
            deduplication_window_seconds
        )
        values ($1, $2, towpath.clock(), $3, $4, $5, $6, $7, $8, $9, $10)
        on conflict (tenant, name) where deleted_at is null do update
        set visibility_timeout_seconds = excluded.visibility_timeout_seconds,
            receive_wait_seconds = excluded.receive_wait_seconds,
            delay_seconds = excluded.delay_seconds,
            retention_seconds = excluded.retention_seconds,
            dead_letter_queue_id = excluded.dead_letter_queue_id,
            max_receive_count = excluded.max_receive_count,
            durability = excluded.durability,
            deduplication_window_seconds = excluded.deduplication_window_seconds,
            version = q.version + ((
                q.visibility_timeout_seconds, q.receive_wait_seconds, q.delay_seconds,
                q.retention_seconds, q.dead_letter_queue_id, q.max_receive_count, q.durability,
                q.deduplication_window_seconds
            ) is distinct from (
                excluded.visibility_timeout_seconds, excluded.receive_wait_seconds,
                excluded.delay_seconds, excluded.retention_seconds, excluded.dead_letter_queue_id,
                excluded.max_receive_count, excluded.durability,
                excluded.deduplication_window_seconds
            ))::int
        returning q.*, xmax = 0 as created
    )
    select p.queue_id, p.name, p.visibility_timeout_seconds, p.receive_wait_seconds,
        p.delay_seconds, p.retention_seconds, p.max_receive_count, p.durability,
        p.deduplication_window_seconds, p.created_at, p.version, p.created,
        p.version is distinct from o.version as changed,
        d.name as dead_letter_name,
        case when d.deleted_at is null then d.queue_id end as dead_letter_id
    from put p
    left join old o on o.queue_id = p.queue_id
    left join towpath.queue d on d.queue_id = p.dead_letter_queue_id";

pub(super) const GET: &str = "
    select q.queue_id, q.name, q.visibility_timeout_seconds, q.receive_wait_seconds,
        q.delay_seconds, q.retention_seconds, q.max_receive_count, q.durability,
        q.deduplication_window_seconds, q.created_at, q.version,
        d.name as dead_letter_name,
        case when d.deleted_at is null then d.queue_id end as dead_letter_id
    from towpath.queue q
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id
    where q.tenant = $1 and q.name = $2 and q.deleted_at is null";

pub(super) const LIST: &str = "
    select q.queue_id, q.name, q.visibility_timeout_seconds, q.receive_wait_seconds,
        q.delay_seconds, q.retention_seconds, q.max_receive_count, q.durability,
        q.deduplication_window_seconds, q.created_at, q.version,
        d.name as dead_letter_name,
        case when d.deleted_at is null then d.queue_id end as dead_letter_id
    from towpath.queue q
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id
    where q.tenant = $1 and q.name > $2 and starts_with(q.name, $3) and q.deleted_at is null
    order by q.name
    limit $4";

/// The living queues whose dead letters go to a queue.
pub(super) const SOURCES: &str = "
    select s.name
    from towpath.queue q
    join towpath.queue s on s.dead_letter_queue_id = q.queue_id and s.deleted_at is null
    where q.tenant = $1 and q.name = $2 and q.deleted_at is null
    order by s.name
    limit $3";

/// The note in `wake` has the queue's lanes looked at, so that their space comes back.
pub(super) const DELETE: &str = "
    with gone as (
        update towpath.queue q set deleted_at = towpath.clock()
        where q.tenant = $1 and q.name = $2 and q.deleted_at is null
            and ($3 or not exists (
                select 1 from towpath.queue s
                where s.dead_letter_queue_id = q.queue_id and s.deleted_at is null
                    and s.queue_id <> q.queue_id
            ))
        returning q.queue_id
    ),
    lanes as (
        select array_agg(l.lane_id) as ids
        from gone g
        join towpath.lane l on l.queue_id = g.queue_id
    ),
    noted as (
        insert into towpath.wake (lane_ids)
        select ids from lanes where ids is not null
    )
    select queue_id from gone";

pub(super) const PURGE: &str = "select towpath.floor_2($1, $2)";

pub(super) const COUNTS: &str =
    "select visible, in_flight, delayed, oldest_at, at from towpath.counts_1($1, $2)";

pub(super) const PING: &str = "select 1 from towpath.queue limit 0";

/// What a put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// There was no queue of this name.
    Created,
    /// Its settings were others.
    Updated,
    /// Its settings were the same.
    Unchanged,
}

/// What a delete did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// The queue is gone.
    Deleted(QueueId),
    /// There was no such queue.
    NotFound,
    /// Nothing was done: these queues, and perhaps more, send their dead letters there.
    InUse(Vec<String>),
}

/// A page of a listing, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePage {
    /// The queues.
    pub items: Vec<Queue>,
    /// The last name of this page, when more follow.
    pub next: Option<QueueName>,
}

impl Store {
    /// Creates a queue or replaces the settings of the one that has the name. `dead_letters_to` is
    /// the number of the queue that `settings.dead_letter` names.
    ///
    /// # Errors
    /// As every statement.
    pub async fn put_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        settings: &QueueSettings,
        dead_letters_to: Option<QueueId>,
    ) -> Result<(Queue, PutOutcome), Failure> {
        let seconds = |of: Duration| i32::try_from(of.as_secs()).unwrap_or(i32::MAX);
        let max_receives = settings.dead_letter.as_ref();
        let put = query(PUT)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned())
            .bind(seconds(settings.visibility_timeout))
            .bind(seconds(settings.receive_wait))
            .bind(seconds(settings.delay))
            .bind(seconds(settings.retention))
            .bind(dead_letters_to.map(QueueId::get))
            .bind(max_receives.map(|dead_letter| dead_letter.max_receive_count))
            .bind(durability_code(settings.durability))
            .bind(seconds(settings.deduplication_window));
        let rows = self.write(put).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let outcome = if row.try_get("created")? {
            PutOutcome::Created
        } else if row.try_get("changed")? {
            PutOutcome::Updated
        } else {
            PutOutcome::Unchanged
        };
        Ok((queue(row)?, outcome))
    }

    /// The living queue of a name.
    ///
    /// # Errors
    /// As every statement.
    pub async fn get_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
    ) -> Result<Option<Queue>, Failure> {
        let get = query(GET)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned());
        let rows = self.read(get).await?;
        Ok(rows.first().map(queue).transpose()?)
    }

    /// Up to `limit` living queues with a prefix, by name, behind one.
    ///
    /// # Errors
    /// As every statement.
    pub async fn list_queues(
        &self,
        tenant: &Tenant,
        prefix: &str,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<QueuePage, Failure> {
        // One more than asked for says whether there is another page.
        let list = query(LIST)
            .bind(tenant.0.clone())
            .bind(after.map_or("", QueueName::as_str).to_owned())
            .bind(prefix.to_owned())
            .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let rows = self.read(list).await?;
        let mut items = rows.iter().map(queue).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items
            .last()
            .filter(|_| more)
            .map(|queue| queue.name.clone());
        Ok(QueuePage { items, next })
    }

    /// Deletes the living queue of a name. Unless `force`, not one that others send their dead letters
    /// to.
    ///
    /// # Errors
    /// As every statement.
    pub async fn delete_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        force: bool,
    ) -> Result<DeleteOutcome, Failure> {
        let delete = query(DELETE)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned())
            .bind(force);
        if let Some(row) = self.write(delete).await?.first() {
            return Ok(DeleteOutcome::Deleted(queue_id(row)?));
        }
        let sources = query(SOURCES)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned())
            .bind(SHOWN_SOURCES);
        let rows = self.read(sources).await?;
        let sources: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(match sources? {
            none if none.is_empty() => DeleteOutcome::NotFound,
            sources => DeleteOutcome::InUse(sources),
        })
    }

    /// Drops everything that a queue holds. Sends that run meanwhile may survive.
    ///
    /// # Errors
    /// As every statement.
    pub async fn purge_queue(&self, queue: QueueId) -> Result<(), Failure> {
        let purge = query(PURGE).bind(SubscriptionId::QUEUE.0).bind(queue.get());
        self.write(purge).await?;
        Ok(())
    }

    /// What a queue holds at this moment.
    ///
    /// # Errors
    /// As every statement.
    pub async fn count_messages(&self, queue: QueueId) -> Result<Counts, Failure> {
        let counts = query(COUNTS)
            .bind(SubscriptionId::QUEUE.0)
            .bind(queue.get());
        let rows = self.read(counts).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let count = |column| {
            let value: i64 = row.try_get(column)?;
            Ok::<_, sqlx::Error>(u64::try_from(value).unwrap_or_default())
        };
        let oldest: Option<OffsetDateTime> = row.try_get("oldest_at")?;
        let at: OffsetDateTime = row.try_get("at")?;
        Ok(Counts {
            visible: count("visible")?,
            in_flight: count("in_flight")?,
            delayed: count("delayed")?,
            oldest_age: oldest.map(|sent| (at - sent).try_into().unwrap_or_default()),
        })
    }

    /// Whether the database answers and has our schema.
    ///
    /// # Errors
    /// As every statement.
    pub async fn ping(&self) -> Result<(), Failure> {
        self.read(query(PING)).await?;
        Ok(())
    }
}

fn queue_id(row: &PgRow) -> Result<QueueId, sqlx::Error> {
    let raw: i32 = row.try_get("queue_id")?;
    QueueId::new(raw).ok_or_else(|| sqlx::Error::Decode(format!("queue number {raw}").into()))
}

fn queue(row: &PgRow) -> Result<Queue, sqlx::Error> {
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

//! Queues as rows.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::queue_rows::{given, outcome, queue, queue_id};
use super::{Failure, Store, query};
use crate::domain::lane::{QueueId, SubscriptionId};
use crate::domain::queue::{Counts, Queue, QueueName, QueueSettings, Tenant};

/// Sources that a refusal to delete a dead-letter queue names.
const SHOWN_SOURCES: i64 = 10;

/// The columns of a queue's settings, each behind what names the row: the one list of them, for every
/// statement that writes them.
#[rustfmt::skip]
macro_rules! settings {
    ($of:literal) => {
        concat!(
            $of, "visibility_timeout_seconds, ", $of, "receive_wait_seconds, ",
            $of, "delay_seconds, ", $of, "retention_seconds, ",
            $of, "dead_letter_queue_id, ", $of, "max_receive_count, ",
            $of, "durability, ", $of, "deduplication_window_seconds, ", $of, "tags, ",
            $of, "sending_paused, ", $of, "receiving_paused, ",
            $of, "retry_kind, ", $of, "retry_delays_seconds, ", $of, "retry_factor, ",
            $of, "retry_max_delay_seconds, ", $of, "retry_jitter"
        )
    };
}

/// What [`given`] binds to them.
#[rustfmt::skip]
macro_rules! given {
    ($dead_letter_queue_id:literal) => {
        concat!(
            "$3, $4, $5, $6, ", $dead_letter_queue_id, ", $8, $9, $10,
            jsonb_object($11::text[], $12::text[]), $13, $14, $15, $16, $17, $18, $19"
        )
    };
}

/// A queue as `queue_rows` reads it, from rows `q` and `d`, its dead-letter queue.
#[rustfmt::skip]
macro_rules! shown {
    () => {
        concat!(
            "q.queue_id, q.name, q.created_at, q.version, ", settings!("q."), ",
            array(select t.key from jsonb_each_text(q.tags) t order by t.key) as tag_keys,
            array(select t.value from jsonb_each_text(q.tags) t order by t.key) as tag_values,
            d.name as dead_letter_name,
            case when d.deleted_at is null then d.queue_id end as dead_letter_id"
        )
    };
}

/// Decides the race between two creators in the database: both are answered, one with the row
/// that the other made; unless $20, which wants to be the first.
#[rustfmt::skip]
pub(super) const PUT: &str = concat!(
    "
    with old as materialized (
        select queue_id, version from towpath.queue
        where tenant = $1 and name = $2 and deleted_at is null
    ),
    put as (
        insert into towpath.queue as q (tenant, name, created_at, ", settings!(""), ")
        values ($1, $2, towpath.clock(), ", given!("$7"), ")
        on conflict (tenant, name) where deleted_at is null do update
        set (", settings!(""), ") = (", settings!("excluded."), "),
            version = q.version
                + ((", settings!("q."), ") is distinct from (", settings!("excluded."), "))::int
        where not $20
        returning q.*, xmax = 0 as created
    )
    select ", shown!(), ", q.created, q.version is distinct from o.version as changed
    from put q
    left join old o on o.queue_id = q.queue_id
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id"
);

/// Of queue $1, if it has version $2. With a dead-letter queue that is not named by a number it keeps
/// the one that it has, which may be deleted.
#[rustfmt::skip]
pub(super) const REPLACE: &str = concat!(
    "
    with put as (
        update towpath.queue q
        set (", settings!(""), ") = (
                ", given!("case when $8::int is not null then coalesce($7::int, q.dead_letter_queue_id) end"), "
            ),
            version = q.version + ((", settings!("q."), ") is distinct from (
                ", given!("case when $8::int is not null then coalesce($7::int, q.dead_letter_queue_id) end"), "
            ))::int
        where q.queue_id = $1 and q.version = $2 and q.deleted_at is null
        returning q.*
    )
    select ", shown!(), ", false as created, q.version <> $2 as changed
    from put q
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id"
);

#[rustfmt::skip]
pub(super) const GET: &str = concat!(
    "
    select ", shown!(), "
    from towpath.queue q
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id
    where q.tenant = $1 and q.name = $2 and q.deleted_at is null"
);

/// With a tag that is $5: its key, or its key and its value behind a colon.
#[rustfmt::skip]
pub(super) const LIST: &str = concat!(
    "
    select ", shown!(), "
    from towpath.queue q
    left join towpath.queue d on d.queue_id = q.dead_letter_queue_id
    where q.tenant = $1 and q.name > $2 and starts_with(q.name, $3) and q.deleted_at is null
        and ($5::text is null or exists (
            select 1 from jsonb_each_text(q.tags) t
            where t.key = $5 or t.key || ':' || t.value = $5
        ))
    order by q.name
    limit $4"
);

/// The queue that was deleted, if one was, and the living queues whose dead letters go to it: in one
/// statement, or one that is in use could look like one that is not there. With $3 those do not count;
/// with $4 and $5 it is only that queue of that version. The note in `wake` has the queue's lanes
/// looked at, so that their space comes back.
pub(super) const DELETE: &str = "
    with gone as (
        update towpath.queue q set deleted_at = towpath.clock()
        where q.tenant = $1 and q.name = $2 and q.deleted_at is null
            and ($4::int is null or (q.queue_id = $4 and q.version = $5))
            and ($3 or not exists (
                select 1 from towpath.queue s
                where s.dead_letter_queue_id = q.queue_id and s.deleted_at is null
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
    select (select g.queue_id from gone g) as queue_id,
        array(
            select s.name
            from towpath.queue q
            join towpath.queue s on s.dead_letter_queue_id = q.queue_id and s.deleted_at is null
            where not $3 and q.tenant = $1 and q.name = $2 and q.deleted_at is null
                and ($4::int is null or (q.queue_id = $4 and q.version = $5))
            order by s.name
            limit $6
        ) as sources";

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
    /// There was no such queue, or it was another one, or of another version.
    NotFound,
    /// Nothing was done: these queues, and perhaps more, send their dead letters there.
    InUse(Vec<String>),
}

/// A page of a listing, by name.
#[derive(Debug, Clone, PartialEq)]
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
        let put = query(PUT)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned());
        let put = given(put, settings, dead_letters_to).bind(false);
        let done = outcome(&self.write(put).await?)?;
        Ok(done.ok_or(sqlx::Error::RowNotFound)?)
    }

    /// Creates a queue; `None` when the name is taken.
    ///
    /// # Errors
    /// As every statement.
    pub async fn create_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        settings: &QueueSettings,
        dead_letters_to: Option<QueueId>,
    ) -> Result<Option<(Queue, PutOutcome)>, Failure> {
        let create = query(PUT)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned());
        let create = given(create, settings, dead_letters_to).bind(true);
        Ok(outcome(&self.write(create).await?)?)
    }

    /// Replaces the settings of a queue as it was read; `None` when it has changed since, or is gone.
    /// With `settings.dead_letter` and without `dead_letters_to` its dead letters go where they went.
    ///
    /// # Errors
    /// As every statement.
    pub async fn replace_queue(
        &self,
        queue: &Queue,
        settings: &QueueSettings,
        dead_letters_to: Option<QueueId>,
    ) -> Result<Option<(Queue, PutOutcome)>, Failure> {
        let replace = query(REPLACE).bind(queue.id.get()).bind(queue.version);
        let replace = given(replace, settings, dead_letters_to);
        Ok(outcome(&self.write(replace).await?)?)
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

    /// Up to `limit` living queues with a prefix and a tag (`key` or `key:value`), by name, behind one.
    ///
    /// # Errors
    /// As every statement.
    pub async fn list_queues(
        &self,
        tenant: &Tenant,
        prefix: &str,
        tag: Option<&str>,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<QueuePage, Failure> {
        // One more than asked for says whether there is another page.
        let list = query(LIST)
            .bind(tenant.0.clone())
            .bind(after.map_or("", QueueName::as_str).to_owned())
            .bind(prefix.to_owned())
            .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
            .bind(tag.map(str::to_owned));
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

    /// Deletes the living queue of a name, and with `only` no other than that, as it was read. Unless
    /// `force`, not one that others send their dead letters to.
    ///
    /// # Errors
    /// As every statement.
    pub async fn delete_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        force: bool,
        only: Option<&Queue>,
    ) -> Result<DeleteOutcome, Failure> {
        let delete = query(DELETE)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned())
            .bind(force)
            .bind(only.map(|queue| queue.id.get()))
            .bind(only.map(|queue| queue.version))
            .bind(SHOWN_SOURCES);
        let rows = self.write(delete).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        if row.try_get::<Option<i32>, _>("queue_id")?.is_some() {
            return Ok(DeleteOutcome::Deleted(queue_id(row)?));
        }
        let sources: Vec<String> = row.try_get("sources")?;
        Ok(if sources.is_empty() {
            DeleteOutcome::NotFound
        } else {
            DeleteOutcome::InUse(sources)
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
        let count = query(COUNTS)
            .bind(SubscriptionId::QUEUE.0)
            .bind(queue.get());
        let rows = self.read(count).await?;
        Ok(counts(rows.first().ok_or(sqlx::Error::RowNotFound)?)?)
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

/// What `counts_1` says.
pub(super) fn counts(row: &PgRow) -> Result<Counts, sqlx::Error> {
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

//! Queues as rows.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::time::Duration;

use super::{Failure, Store, query};
use crate::domain::lane::QueueId;
use crate::domain::queue::{Queue, QueueName, QueueSettings, Tenant};

/// Decides the race between two creators in the database: both are answered, one with the row
/// that the other made.
pub(super) const PUT: &str = "
    with old as materialized (
        select queue_id, version from towpath.queue
        where tenant = $1 and name = $2 and deleted_at is null
    ),
    put as (
        insert into towpath.queue as q
            (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
        values ($1, $2, $3, $4, towpath.clock())
        on conflict (tenant, name) where deleted_at is null do update
        set visibility_timeout_seconds = excluded.visibility_timeout_seconds,
            receive_wait_seconds = excluded.receive_wait_seconds,
            version = q.version + (
                (q.visibility_timeout_seconds, q.receive_wait_seconds)
                is distinct from (excluded.visibility_timeout_seconds, excluded.receive_wait_seconds)
            )::int
        returning queue_id, name, visibility_timeout_seconds, receive_wait_seconds, created_at,
            version, xmax = 0 as created
    )
    select p.queue_id, p.name, p.visibility_timeout_seconds, p.receive_wait_seconds, p.created_at,
        p.version, p.created, p.version is distinct from o.version as changed
    from put p left join old o on o.queue_id = p.queue_id";

pub(super) const GET: &str = "
    select queue_id, name, visibility_timeout_seconds, receive_wait_seconds, created_at, version
    from towpath.queue
    where tenant = $1 and name = $2 and deleted_at is null";

pub(super) const LIST: &str = "
    select queue_id, name, visibility_timeout_seconds, receive_wait_seconds, created_at, version
    from towpath.queue
    where tenant = $1 and name > $2 and starts_with(name, $3) and deleted_at is null
    order by name
    limit $4";

pub(super) const DELETE: &str = "
    update towpath.queue set deleted_at = towpath.clock()
    where tenant = $1 and name = $2 and deleted_at is null
    returning queue_id";

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

/// A page of a listing, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePage {
    /// The queues.
    pub items: Vec<Queue>,
    /// The last name of this page, when more follow.
    pub next: Option<QueueName>,
}

impl Store {
    /// Creates a queue or replaces the settings of the one that has the name.
    ///
    /// # Errors
    /// As every statement.
    pub async fn put_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        settings: QueueSettings,
    ) -> Result<(Queue, PutOutcome), Failure> {
        let seconds = |of: Duration| i32::try_from(of.as_secs()).unwrap_or(i32::MAX);
        let put = query(PUT)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned())
            .bind(seconds(settings.visibility_timeout))
            .bind(seconds(settings.receive_wait));
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

    /// Deletes the living queue of a name; its number, if there was one.
    ///
    /// # Errors
    /// As every statement.
    pub async fn delete_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
    ) -> Result<Option<QueueId>, Failure> {
        let delete = query(DELETE)
            .bind(tenant.0.clone())
            .bind(name.as_str().to_owned());
        let rows = self.write(delete).await?;
        Ok(rows.first().map(queue_id).transpose()?)
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
    let name: &str = row.try_get("name")?;
    Ok(Queue {
        id: queue_id(row)?,
        name: QueueName::parse("name", name).map_err(|error| sqlx::Error::Decode(error.into()))?,
        settings: QueueSettings {
            visibility_timeout: seconds("visibility_timeout_seconds")?,
            receive_wait: seconds("receive_wait_seconds")?,
        },
        created_at: row.try_get("created_at")?,
        version: row.try_get("version")?,
    })
}

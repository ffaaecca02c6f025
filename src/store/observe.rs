//! What is looked at now and then for the sake of operators: what queues hold, who holds back vacuum, and what
//! that costs. None of it is on the hot path.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use super::queue_rows::queue_id;
use super::queues::counts;
use super::{Failure, Store, column, query};
use crate::domain::lane::{QueueId, SubscriptionId};
use crate::domain::queue::{Counts, QueueName};

/// Holders of snapshots that are listed, the oldest first.
const MAX_HOLDERS: i64 = 100;

/// Of the living queues among those asked for.
pub(super) const HOLDINGS: &str = "
    select q.queue_id, q.name, c.visible, c.in_flight, c.delayed, c.oldest_at, c.at
    from unnest($2::int[]) as asked (queue_id)
    join towpath.queue q on q.queue_id = asked.queue_id and q.deleted_at is null
    cross join lateral towpath.counts_1($1, q.queue_id) as c";

/// Who keeps dead rows of this database from being removed. By PostgreSQL's own clock, which dates its
/// transactions. What we may not see of a session is null; its number, name and user are for everybody.
/// Vacuum itself holds back nobody.
pub(super) const HOLDERS: &str = "
    select h.kind, h.pid, h.name, h.application_name, h.user_name, h.state, h.since, h.xmin,
        extract(epoch from clock_timestamp() - h.since)::float8 as age
    from (
        select 0::smallint as kind, a.pid, null::text as name, a.application_name,
            a.usename::text as user_name, a.state, a.xact_start as since,
            coalesce(a.backend_xid, a.backend_xmin)::text as xmin
        from pg_catalog.pg_stat_activity a
        where a.datname = current_database() and a.pid <> pg_backend_pid()
            and (a.backend_xid is not null or a.backend_xmin is not null)
            and a.backend_type is distinct from 'walsender'
            and not exists (
                select 1 from pg_catalog.pg_stat_progress_vacuum v where v.pid = a.pid
            )
        union all
        select 1::smallint, null, p.gid, null, p.owner::text, null, p.prepared,
            p.transaction::text
        from pg_catalog.pg_prepared_xacts p
        where p.database = current_database()
        union all
        select 2::smallint, s.active_pid, s.slot_name::text, null, null,
            case when s.active then 'active' else 'inactive' end, null, s.xmin::text
        from pg_catalog.pg_replication_slots s
        where s.xmin is not null
        union all
        select 3::smallint, r.pid, null, r.application_name, r.usename::text, r.state, null,
            r.backend_xmin::text
        from pg_catalog.pg_stat_replication r
        where r.backend_xmin is not null
    ) h
    order by h.since nulls first
    limit $1";

pub(super) const DEAD_ROWS: &str = "
    select s.relname::text as name, s.n_dead_tup as rows
    from pg_catalog.pg_stat_all_tables s
    where s.schemaname = 'towpath'
        and s.relname in ('cur', 'dedup', 'lease', 'log', 'moved', 'wake')
    order by s.relname";

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Its number.
    pub queue: QueueId,
    /// Its name.
    pub name: QueueName,
    /// What it holds.
    pub counts: Counts,
}

/// What kind of thing keeps dead rows from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HolderKind {
    /// A session with a snapshot or a transaction that wrote something.
    Session,
    /// A transaction that was prepared and neither committed nor rolled back.
    PreparedTransaction,
    /// A replication slot: its standby's feedback, or what is left of it.
    ReplicationSlot,
    /// A standby's feedback, without a slot.
    Standby,
}

/// Something that keeps dead rows from being removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// What it is.
    pub kind: HolderKind,
    /// The number of its process, if it has one.
    pub pid: Option<i32>,
    /// Its own name: a prepared transaction's or a slot's.
    pub name: Option<String>,
    /// What the client calls itself; `None` also when we may not see it.
    pub application_name: Option<String>,
    /// Whose it is.
    pub user: Option<String>,
    /// What it is at; `None` also when we may not see it.
    pub state: Option<String>,
    /// The beginning of its transaction; `None` when nobody knows or we may not see it.
    pub since: Option<OffsetDateTime>,
    /// How long ago that was.
    pub age: Option<Duration>,
    /// The transaction from which on it sees or keeps everything.
    pub xmin: Option<String>,
}

/// Dead rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRows {
    /// The table.
    pub table: String,
    /// As PostgreSQL estimates them.
    pub rows: u64,
}

impl Store {
    /// What these queues hold; nothing of those that are deleted. It takes as long as many messages are in
    /// flight: a few queues at once.
    ///
    /// # Errors
    /// As every statement.
    pub async fn holdings(&self, queues: &[QueueId]) -> Result<Vec<Holding>, Failure> {
        let holdings = query(HOLDINGS)
            .bind(SubscriptionId::QUEUE.0)
            .bind(column(queues, |queue| queue.get()));
        let rows = self.read(holdings).await?;
        rows.iter().map(|row| Ok(holding(row)?)).collect()
    }

    /// Who keeps dead rows from being removed at this moment, up to a hundred.
    ///
    /// # Errors
    /// As every statement.
    pub async fn snapshot_holders(&self) -> Result<Vec<Holder>, Failure> {
        let rows = self.read(query(HOLDERS).bind(MAX_HOLDERS)).await?;
        rows.iter().map(|row| Ok(holder(row)?)).collect()
    }

    /// Dead rows of the tables that turn over all the time.
    ///
    /// # Errors
    /// As every statement.
    pub async fn dead_rows(&self) -> Result<Vec<DeadRows>, Failure> {
        let rows = self.read(query(DEAD_ROWS)).await?;
        rows.iter()
            .map(|row| {
                let dead: i64 = row.try_get("rows")?;
                Ok(DeadRows {
                    table: row.try_get("name")?,
                    rows: u64::try_from(dead).unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn holding(row: &PgRow) -> Result<Holding, sqlx::Error> {
    let name = QueueName::parse("name", row.try_get("name")?);
    Ok(Holding {
        queue: queue_id(row)?,
        name: name.map_err(|error| sqlx::Error::Decode(error.into()))?,
        counts: counts(row)?,
    })
}

fn holder(row: &PgRow) -> Result<Holder, sqlx::Error> {
    let age: Option<f64> = row.try_get("age")?;
    Ok(Holder {
        kind: match row.try_get::<i16, _>("kind")? {
            0 => HolderKind::Session,
            1 => HolderKind::PreparedTransaction,
            2 => HolderKind::ReplicationSlot,
            _ => HolderKind::Standby,
        },
        pid: row.try_get("pid")?,
        name: row.try_get("name")?,
        application_name: row.try_get("application_name")?,
        user: row.try_get("user_name")?,
        state: row.try_get("state")?,
        since: row.try_get("since")?,
        age: age.map(|age| Duration::try_from_secs_f64(age).unwrap_or_default()),
        xmin: row.try_get("xmin")?,
    })
}

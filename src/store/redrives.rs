//! Redrives as rows: started, taken by nodes, told of, ended; and what can be received, for those who only
//! count. What a redrive holds of its queue is in `held`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Failure, Store, query};
use crate::domain::attribute::AttributeName;
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};
use crate::domain::limits;
use crate::domain::queue::{QueueName, Tenant};
use crate::domain::redrive::{NewRedrive, Redrive, RedriveFilter, RedriveState, RedriveTask};

pub(super) const START: &str =
    "select towpath.start_redrive_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

pub(super) const GET: &str = "
    select r.redrive_id, r.state, r.moved, r.skipped, r.failed, r.error, r.created_at, r.updated_at,
        r.ended_at, t.name as target_name
    from towpath.redrive r
    left join towpath.queue t on t.queue_id = r.target_queue_id
    where r.queue_id = $1 and r.redrive_id = $2";

pub(super) const LIST: &str = "
    select r.redrive_id, r.state, r.moved, r.skipped, r.failed, r.error, r.created_at, r.updated_at,
        r.ended_at, t.name as target_name
    from towpath.redrive r
    left join towpath.queue t on t.queue_id = r.target_queue_id
    where r.queue_id = $1
    order by r.created_at desc, r.redrive_id desc
    limit $2";

/// The holder finds out, and gives back what it holds.
pub(super) const CANCEL: &str = "
    update towpath.redrive r
    set state = 2, updated_at = towpath.clock(), ended_at = towpath.clock()
    where r.queue_id = $1 and r.redrive_id = $2 and r.state = 0";

pub(super) const TAKE: &str = "
    select towpath.take_redrives_1($1, $2, make_interval(secs => $3), make_interval(secs => $4))";

pub(super) const READ: &str = "
    select r.redrive_id, q.tenant, q.queue_id, q.name, r.target_queue_id, t.name as target_name,
        r.attribute, r.attribute_value, r.older_than_seconds, r.reason_contains, r.message_ids,
        r.max_messages_per_second, r.lanes, r.ends
    from towpath.redrive r
    join towpath.queue q on q.queue_id = r.queue_id
    left join towpath.queue t on t.queue_id = r.target_queue_id
    where r.redrive_id = $1";

/// The counts go on also when the redrive was cancelled meanwhile: what has moved has moved.
pub(super) const REPORT: &str = "
    update towpath.redrive r
    set moved = r.moved + $3, skipped = r.skipped + $4, failed = r.failed + $5,
        updated_at = towpath.clock(), until = towpath.clock() + make_interval(secs => $6),
        unsettled_until = case
            when $7 then towpath.clock() + make_interval(secs => $8) else r.unsettled_until
        end
    where r.redrive_id = $1 and r.holder = $2
    returning r.state";

/// Whether nobody else may still hold messages of a redrive's queue on behalf of a redrive: a node that
/// died under this one, or whoever did an earlier one.
pub(super) const SETTLED: &str = "
    select coalesce(r.unsettled_until <= towpath.clock(), true) and not exists (
        select 1 from towpath.redrive o
        where o.queue_id = r.queue_id and o.redrive_id <> r.redrive_id and o.holder is not null
            and o.until + make_interval(secs => $2) > towpath.clock()
    ) as settled
    from towpath.redrive r
    where r.redrive_id = $1";

/// Of one that was cancelled the state stays.
pub(super) const END: &str = "
    update towpath.redrive r
    set holder = null, until = null, updated_at = towpath.clock(),
        error = case when r.state = 0 then $4 end,
        ended_at = case when r.state = 0 then towpath.clock() else r.ended_at end,
        state = case when r.state = 0 then $3 else r.state end
    where r.redrive_id = $1 and r.holder = $2";

pub(super) const RELEASE: &str = "
    update towpath.redrive r set holder = null, until = null
    where r.redrive_id = $1 and r.holder = $2";

pub(super) const FORGET: &str =
    "select towpath.forget_redrives_1($1, make_interval(secs => $2), $3)";

pub(super) const LANES: &str =
    "select l.lane_id from towpath.lane l where l.queue_id = $1 order by l.lane_id";

pub(super) const VISIBLE: &str = "
    select seq, mask, salt, sent_at, body, towpath.clock() as at
    from towpath.redrive_visible_1($1, $2, $3, $4, $5)";

/// What became of a redrive that was to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartOutcome {
    /// It runs.
    Started,
    /// Another one runs.
    Running(Uuid),
    /// Another one ran, and has ended since.
    Again,
}

/// What happened since the last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages that moved.
    pub moved: u64,
    /// Messages that have nowhere to go.
    pub skipped: u64,
    /// Messages that could not be moved.
    pub failed: u64,
    /// Something was lost on the way: messages may be held that nobody has in hand.
    pub unsettled: bool,
}

/// How long a node holds a redrive, and what comes back when it dies.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How long a node holds a redrive without saying so again.
    pub term: Duration,
    /// How long messages that are to move are hidden.
    pub move_window: Duration,
    /// How long those are hidden that are not meant.
    pub hold_window: Duration,
}

/// A chunk with messages that can be received.
#[derive(Debug, Clone)]
pub struct VisibleChunk {
    /// The number of its first message.
    pub seq: i64,
    /// Those that can be received, a bit each.
    pub mask: u64,
    /// The salt of its messages.
    pub salt: u32,
    /// When they were first sent.
    pub sent_at: OffsetDateTime,
    /// The encoded frames.
    pub body: Bytes,
}

/// Chunks of a lane with messages that can be received.
#[derive(Debug, Clone, Default)]
pub struct VisiblePage {
    /// The chunks, in order.
    pub chunks: Vec<VisibleChunk>,
    /// The database's clock.
    pub at: Option<OffsetDateTime>,
    /// Where the next page begins, unless this was the last.
    pub next: Option<i64>,
}

impl Store {
    /// Starts a redrive of a queue, unless one runs.
    ///
    /// # Errors
    /// As every statement.
    pub async fn start_redrive(
        &self,
        id: Uuid,
        queue: QueueId,
        to: Option<QueueId>,
        redrive: &NewRedrive,
    ) -> Result<StartOutcome, Failure> {
        let filter = &redrive.filter;
        let attribute = filter.attribute.as_ref();
        let older_than = filter.older_than.map(|least| least.as_secs());
        let ids = filter.message_ids.as_ref();
        let start = query(START)
            .bind(SubscriptionId::QUEUE.0)
            .bind(id)
            .bind(queue.get())
            .bind(to.map(QueueId::get))
            .bind(attribute.map(|name| name.as_str().to_owned()))
            .bind(filter.attribute_value.clone())
            .bind(older_than.map(u64::cast_signed))
            .bind(filter.reason_contains.clone())
            .bind(ids.map(|ids| ids.iter().copied().collect::<Vec<_>>()))
            .bind(redrive.max_per_second.map(u32::cast_signed));
        let rows = self.write(start).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(match row.try_get::<Option<Uuid>, _>(0)? {
            Some(running) if running == id => StartOutcome::Started,
            Some(running) => StartOutcome::Running(running),
            None => StartOutcome::Again,
        })
    }

    /// A redrive of a queue.
    ///
    /// # Errors
    /// As every statement.
    pub async fn get_redrive(&self, queue: QueueId, id: Uuid) -> Result<Option<Redrive>, Failure> {
        let rows = self.read(query(GET).bind(queue.get()).bind(id)).await?;
        Ok(rows.first().map(redrive).transpose()?)
    }

    /// The newest redrives of a queue, the newest first.
    ///
    /// # Errors
    /// As every statement.
    pub async fn list_redrives(
        &self,
        queue: QueueId,
        limit: usize,
    ) -> Result<Vec<Redrive>, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.read(query(LIST).bind(queue.get()).bind(limit)).await?;
        let redrives: Result<Vec<_>, _> = rows.iter().map(redrive).collect();
        Ok(redrives?)
    }

    /// Cancels a redrive of a queue, if it runs.
    ///
    /// # Errors
    /// As every statement.
    pub async fn cancel_redrive(&self, queue: QueueId, id: Uuid) -> Result<(), Failure> {
        self.write(query(CANCEL).bind(queue.get()).bind(id)).await?;
        Ok(())
    }

    /// Makes a node the holder of redrives that run and that nobody holds.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] the node may be the holder of some that it does not know
    /// of, until their terms run out.
    pub async fn take_redrives(
        &self,
        node: Uuid,
        limit: usize,
        terms: Terms,
    ) -> Result<Vec<RedriveTask>, Failure> {
        let take = query(TAKE)
            .bind(node)
            .bind(i32::try_from(limit).unwrap_or(i32::MAX))
            .bind(terms.term.as_secs_f64())
            .bind(terms.move_window.as_secs_f64());
        let mut tasks = Vec::new();
        for row in self.write(take).await? {
            let id: Uuid = row.try_get(0)?;
            let rows = self.read(query(READ).bind(id)).await?;
            tasks.extend(rows.first().map(task).transpose()?);
        }
        Ok(tasks)
    }

    /// Adds to the counts of a redrive, and holds it for another term: how far it is, or nothing when
    /// another node holds it now.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] the counts may have been added.
    pub async fn report_redrive(
        &self,
        id: Uuid,
        node: Uuid,
        progress: Progress,
        terms: Terms,
    ) -> Result<Option<RedriveState>, Failure> {
        let report = query(REPORT)
            .bind(id)
            .bind(node)
            .bind(progress.moved.cast_signed())
            .bind(progress.skipped.cast_signed())
            .bind(progress.failed.cast_signed())
            .bind(terms.term.as_secs_f64())
            .bind(progress.unsettled)
            .bind(terms.move_window.as_secs_f64());
        let rows = self.write(report).await?;
        let state = rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(state.map(state_of))
    }

    /// Whether nothing of what a redrive may be after is held on behalf of another, or of a node that died.
    ///
    /// # Errors
    /// As every statement.
    pub async fn is_redrive_settled(&self, id: Uuid, terms: Terms) -> Result<bool, Failure> {
        let settled = query(SETTLED)
            .bind(id)
            .bind(terms.hold_window.as_secs_f64());
        let rows = self.read(settled).await?;
        Ok(rows.first().map_or(Ok(true), |row| row.try_get(0))?)
    }

    /// Ends a redrive that a node holds, with what kept it from going on, if anything. One that was
    /// cancelled stays so.
    ///
    /// # Errors
    /// As every statement.
    pub async fn end_redrive(
        &self,
        id: Uuid,
        node: Uuid,
        error: Option<String>,
    ) -> Result<(), Failure> {
        let state: i16 = if error.is_some() { 3 } else { 1 };
        let end = query(END).bind(id).bind(node).bind(state).bind(error);
        self.write(end).await?;
        Ok(())
    }

    /// Lets another node have a redrive at once.
    ///
    /// # Errors
    /// As every statement.
    pub async fn release_redrive(&self, id: Uuid, node: Uuid) -> Result<(), Failure> {
        self.write(query(RELEASE).bind(id).bind(node)).await?;
        Ok(())
    }

    /// Forgets redrives that ended long ago or that many newer ones of their queue followed, up to `limit`;
    /// how many.
    ///
    /// # Errors
    /// As every statement.
    pub async fn forget_redrives(&self, limit: i32) -> Result<i32, Failure> {
        let forget = query(FORGET)
            .bind(limit)
            .bind(limits::REDRIVES_KEPT_FOR.as_secs_f64())
            .bind(limits::MAX_REDRIVES_KEPT);
        let rows = self.write(forget).await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
    }

    /// The lanes of a queue, by number: at most two for each writer.
    ///
    /// # Errors
    /// As every statement.
    pub async fn lanes_of(&self, queue: QueueId) -> Result<Vec<LaneId>, Failure> {
        let rows = self.read(query(LANES).bind(queue.get())).await?;
        let lanes: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(lanes?.into_iter().filter_map(LaneId::from_raw).collect())
    }

    /// What can be received of a lane, looking at `limit` chunks from number `from` on, and at about so many
    /// bytes of those. Takes nothing.
    ///
    /// # Errors
    /// As every statement.
    pub async fn visible(
        &self,
        lane: LaneId,
        from: i64,
        limit: i32,
        bytes: i64,
    ) -> Result<VisiblePage, Failure> {
        let visible = query(VISIBLE)
            .bind(SubscriptionId::QUEUE.0)
            .bind(lane.raw())
            .bind(from)
            .bind(limit)
            .bind(bytes);
        let mut page = VisiblePage::default();
        for row in self.read(visible).await? {
            page.at = row.try_get(5)?;
            let body: Option<Vec<u8>> = row.try_get(4)?;
            match body {
                None => page.next = row.try_get(0)?,
                Some(body) => page.chunks.push(VisibleChunk {
                    seq: row.try_get(0)?,
                    mask: row.try_get::<i64, _>(1)?.cast_unsigned(),
                    salt: row.try_get::<i32, _>(2)?.cast_unsigned(),
                    sent_at: row.try_get(3)?,
                    body: body.into(),
                }),
            }
        }
        Ok(page)
    }
}

fn state_of(code: i16) -> RedriveState {
    match code {
        0 => RedriveState::Running,
        1 => RedriveState::Completed,
        2 => RedriveState::Cancelled,
        _ => RedriveState::Failed,
    }
}

fn name(text: &str) -> Result<QueueName, sqlx::Error> {
    QueueName::parse("name", text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn redrive(row: &PgRow) -> Result<Redrive, sqlx::Error> {
    let count = |column| {
        let value: i64 = row.try_get(column)?;
        Ok::<_, sqlx::Error>(u64::try_from(value).unwrap_or_default())
    };
    let to: Option<&str> = row.try_get("target_name")?;
    Ok(Redrive {
        id: row.try_get("redrive_id")?,
        to: to.map(name).transpose()?,
        state: state_of(row.try_get("state")?),
        moved: count("moved")?,
        skipped: count("skipped")?,
        failed: count("failed")?,
        error: row.try_get("error")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

fn task(row: &PgRow) -> Result<RedriveTask, sqlx::Error> {
    let queue = |number: i32| {
        let id = QueueId::new(number);
        id.ok_or_else(|| sqlx::Error::Decode(format!("queue number {number}").into()))
    };
    let target: Option<i32> = row.try_get("target_queue_id")?;
    let target_name: Option<&str> = row.try_get("target_name")?;
    let to = match target.zip(target_name) {
        Some((id, text)) => Some((queue(id)?, name(text)?)),
        None => None,
    };
    let attribute: Option<String> = row.try_get("attribute")?;
    let attribute = attribute.map(|name| AttributeName::parse("attribute", name));
    let older_than: Option<i64> = row.try_get("older_than_seconds")?;
    let ids: Option<Vec<Uuid>> = row.try_get("message_ids")?;
    let rate: Option<i32> = row.try_get("max_messages_per_second")?;
    let lanes: Vec<i64> = row.try_get("lanes")?;
    let ends: Vec<i64> = row.try_get("ends")?;
    Ok(RedriveTask {
        id: row.try_get("redrive_id")?,
        tenant: Tenant(row.try_get("tenant")?),
        source: (
            queue(row.try_get("queue_id")?)?,
            name(row.try_get("name")?)?,
        ),
        to,
        filter: RedriveFilter {
            attribute: attribute
                .transpose()
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            attribute_value: row.try_get("attribute_value")?,
            older_than: older_than
                .and_then(|least| u64::try_from(least).ok())
                .map(Duration::from_secs),
            reason_contains: row.try_get("reason_contains")?,
            message_ids: ids.map(|ids| ids.into_iter().collect::<BTreeSet<_>>()),
        },
        max_per_second: rate.and_then(|rate| u32::try_from(rate).ok()),
        ends: lanes
            .into_iter()
            .zip(ends)
            .filter_map(|(lane, end)| Some((LaneId::from_raw(lane)?, end)))
            .collect(),
    })
}

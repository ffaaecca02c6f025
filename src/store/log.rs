//! Appending to the log and claiming from it: the calls of `append_1` and `claim_1`.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Failure, Session, column, query};
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};

pub(super) const APPEND: &str =
    "select * from towpath.append_1($1, $2, $3, $4, $5, $6, $7, $8, $9)";
pub(super) const CLAIM: &str = "select * from towpath.claim_1($1, $2, $3, $4, $5, $6, $7, $8, $9)";
pub(super) const DEDUP_PROBE: &str = "select towpath.dedup_probe_1($1, $2)";

/// The end of a lane as a node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The number that the next message gets; -1 when the node has not seen the lane yet.
    pub next: i64,
    /// Number of the newest chunk.
    pub last_chunk: i64,
    /// Bytes of all chunks so far, freed ones included.
    pub bytes_total: i64,
    /// Messages so far.
    pub live_total: i64,
}

impl Tail {
    /// Of a lane that the node has not seen: an append learns the tail and stores nothing.
    pub const UNKNOWN: Self = Self {
        next: -1,
        last_chunk: -1,
        bytes_total: 0,
        live_total: 0,
    };
}

/// What is to be appended to one lane.
#[derive(Debug)]
pub struct AppendLane {
    /// The lane.
    pub lane: LaneId,
    /// Its end as the caller knows it.
    pub tail: Tail,
    /// The salt of this opening of the lane.
    pub salt: u32,
    /// Encoded chunks with the number of messages in each, in order.
    pub chunks: Vec<(i32, Vec<u8>)>,
}

/// Lanes to append to in one transaction.
pub type AppendBatch = [AppendLane];

/// What became of a lane of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Its chunks are stored, from the tail that the caller knew on; this is the new tail.
    Stored {
        /// The tail behind what was stored.
        tail: Tail,
        /// When, on the database's clock.
        at: OffsetDateTime,
    },
    /// The tail is another than the caller knew: this one. Nothing was stored in the lane.
    Stale(Tail),
    /// The queue is deleted. Nothing was stored in the lane.
    QueueGone,
}

/// Up to where a lane's expired leases were all seen, on the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct LowWater {
    /// The lane.
    pub lane: LaneId,
    /// Leases that ended before this need not be looked at.
    pub before: OffsetDateTime,
}

/// Who asks for messages. A slot is a place for one message; slots stand in the order of their
/// queues.
#[derive(Debug, Default)]
pub struct ClaimBatch {
    /// The queues, each once.
    pub queues: Vec<QueueId>,
    /// For each queue, which slot (from 0) is its first.
    pub first_slots: Vec<usize>,
    /// For each slot, the token of its lease.
    pub tokens: Vec<i32>,
    /// For each slot, how long its lease lasts.
    pub windows: Vec<Duration>,
    /// Bytes of chunks after which a queue's claim ends early; it hands out at least one message.
    pub byte_budget: i64,
    /// What need not be scanned again.
    pub low_waters: Vec<LowWater>,
    /// Waits for the lanes of the batch's one queue instead of passing over busy ones.
    pub wait: bool,
}

/// One message handed into one slot.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedDelivery {
    /// Which slot, from 0.
    pub slot: usize,
    /// The message's lane.
    pub lane: LaneId,
    /// The message's number.
    pub seq: i64,
    /// The lease's token.
    pub token: i32,
    /// The subscription's epoch.
    pub epoch: i32,
    /// How often the message was received, this time included.
    pub receive_count: i32,
    /// The end of the lease.
    pub visible_at: OffsetDateTime,
    /// The message's first delivery.
    pub first_received_at: OffsetDateTime,
}

/// A chunk that deliveries point into.
#[derive(Debug, Clone)]
pub struct ClaimedChunk {
    /// Its lane.
    pub lane: LaneId,
    /// The number of its first message.
    pub seq: i64,
    /// The salt of its messages.
    pub salt: u32,
    /// When its messages were sent.
    pub sent_at: OffsetDateTime,
    /// The encoded frames.
    pub body: Bytes,
}

/// How far a claim went in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every lane was looked at, but for the busy ones.
    Whole,
    /// A limit of the call ended it: there may be more.
    More,
    /// Not every lane was looked at: other queues had used up the call's locks.
    Cut,
    /// The queue was deleted.
    Gone,
}

/// How a queue stands after a claim.
#[derive(Debug, Clone, Copy)]
pub struct QueueReport {
    /// How far the claim went.
    pub reach: Reach,
    /// Lanes that another claim held: what is in them was not looked at.
    pub busy_lanes: i32,
    /// The database's clock.
    pub now: OffsetDateTime,
}

/// Everything that a claim says.
#[derive(Debug, Default)]
pub struct Claims {
    /// Messages handed out.
    pub deliveries: Vec<ClaimedDelivery>,
    /// The chunks that hold them.
    pub chunks: Vec<ClaimedChunk>,
    /// Lanes whose expired leases were all seen.
    pub scanned: Vec<LowWater>,
    /// A report for each queue, in the order of the batch.
    pub reports: Vec<QueueReport>,
}

impl Session {
    /// Appends to many lanes at once.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when a rival appended to one of the lanes; then nothing was stored.
    pub async fn append(&mut self, batch: &AppendBatch) -> Result<Vec<Appended>, Failure> {
        let chunks = || {
            batch.iter().zip(1_i32..).flat_map(|(lane, ix)| {
                let chunks = lane.chunks.iter();
                chunks.map(move |(size, body)| (ix, *size, body.as_slice()))
            })
        };
        let query = query(APPEND)
            .bind(column(batch, |lane| lane.lane.raw()))
            .bind(column(batch, |lane| lane.tail.next))
            .bind(column(batch, |lane| lane.tail.last_chunk))
            .bind(column(batch, |lane| lane.salt.cast_signed()))
            .bind(column(batch, |lane| lane.tail.bytes_total))
            .bind(column(batch, |lane| lane.tail.live_total))
            .bind(chunks().map(|(ix, _, _)| ix).collect::<Vec<_>>())
            .bind(chunks().map(|(_, size, _)| size).collect::<Vec<_>>())
            .bind(chunks().map(|(_, _, body)| body).collect::<Vec<_>>());
        let rows = self.fetch_all(query).await?;
        rows.iter()
            .map(|row| appended(row).map_err(Failure::from))
            .collect()
    }

    /// Hands out messages to many receivers at once.
    ///
    /// # Errors
    /// As every statement; a [`Failure::Lost`] claim may have leased messages, which come back
    /// when their leases end.
    pub async fn claim(
        &mut self,
        subscription: SubscriptionId,
        batch: &ClaimBatch,
    ) -> Result<Claims, Failure> {
        let query = query(CLAIM)
            .bind(subscription.0)
            .bind(column(&batch.queues, |queue| queue.get()))
            .bind(column(&batch.first_slots, |first| to_sql(*first)))
            .bind(&batch.tokens)
            .bind(column(&batch.windows, |window| milliseconds(*window)))
            .bind(batch.byte_budget)
            .bind(column(&batch.low_waters, |low| low.lane.raw()))
            .bind(column(&batch.low_waters, |low| low.before))
            .bind(batch.wait);
        let rows = self.fetch_all(query).await?;
        let mut claims = Claims::default();
        for row in &rows {
            claimed(row, &mut claims)?;
        }
        Ok(claims)
    }

    /// Which deduplication keys were accepted before, and for which message.
    ///
    /// # Errors
    /// As every statement.
    pub async fn probe_dedup(
        &mut self,
        keys: &[(QueueId, Uuid)],
    ) -> Result<Vec<Option<Uuid>>, Failure> {
        let query = query(DEDUP_PROBE)
            .bind(column(keys, |(queue, _)| queue.get()))
            .bind(column(keys, |(_, hash)| *hash));
        let rows = self.fetch_all(query).await?;
        rows.first()
            .map_or(Ok(Vec::new()), |row| Ok(row.try_get(0)?))
    }
}

fn appended(row: &sqlx::postgres::PgRow) -> Result<Appended, sqlx::Error> {
    let tail = Tail {
        next: row.try_get(2)?,
        last_chunk: row.try_get(3)?,
        bytes_total: row.try_get(4)?,
        live_total: row.try_get(5)?,
    };
    Ok(match row.try_get::<i16, _>(1)? {
        0 => Appended::Stored {
            tail,
            at: row.try_get(6)?,
        },
        1 => Appended::Stale(tail),
        _ => Appended::QueueGone,
    })
}

fn claimed(row: &sqlx::postgres::PgRow, claims: &mut Claims) -> Result<(), sqlx::Error> {
    let code = || row.try_get::<i32, _>(5);
    match row.try_get::<i16, _>(0)? {
        0 => claims.deliveries.push(ClaimedDelivery {
            slot: from_sql(row.try_get(1)?),
            lane: lane(row)?,
            seq: row.try_get(3)?,
            receive_count: row.try_get(4)?,
            token: code()?,
            epoch: row.try_get(6)?,
            visible_at: row.try_get(7)?,
            first_received_at: row.try_get(8)?,
        }),
        1 => claims.chunks.push(ClaimedChunk {
            lane: lane(row)?,
            seq: row.try_get(3)?,
            salt: code()?.cast_unsigned(),
            sent_at: row.try_get(7)?,
            body: row.try_get::<Vec<u8>, _>(9)?.into(),
        }),
        2 => claims.scanned.push(LowWater {
            lane: lane(row)?,
            before: row.try_get(7)?,
        }),
        _ => claims.reports.push(QueueReport {
            reach: match code()? {
                0 => Reach::Whole,
                1 => Reach::More,
                2 => Reach::Gone,
                _ => Reach::Cut,
            },
            busy_lanes: row.try_get(4)?,
            now: row.try_get(7)?,
        }),
    }
    Ok(())
}

fn lane(row: &sqlx::postgres::PgRow) -> Result<LaneId, sqlx::Error> {
    let raw: i64 = row.try_get(2)?;
    LaneId::from_raw(raw)
        .ok_or_else(|| sqlx::Error::Decode(format!("{raw} is no lane's number").into()))
}

/// SQL counts from 1.
fn to_sql(index: usize) -> i32 {
    i32::try_from(index + 1).expect("a batch has at most some thousands of entries")
}

fn from_sql(index: i32) -> usize {
    usize::try_from(index - 1).unwrap_or_default()
}

pub(super) fn milliseconds(window: Duration) -> i32 {
    i32::try_from(window.as_millis()).unwrap_or(i32::MAX)
}

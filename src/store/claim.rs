//! Claiming from the log: the call of `claim_3`.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::leases::LeaseRow;
use super::{Failure, Session, column, milliseconds, query, size, to_sql};
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};

pub(super) const CLAIM: &str = "
    select * from towpath.claim_3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// Up to where a lane's expired leases were all seen, on the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct LowWater {
    /// The lane.
    pub lane: LaneId,
    /// Leases that ended before this need not be looked at.
    pub before: OffsetDateTime,
}

/// A queue that is asked for messages.
#[derive(Debug, Clone, Copy)]
pub struct ClaimQueue {
    /// The queue.
    pub queue: QueueId,
    /// Which receiver of the batch (from 0) is the queue's first.
    pub first_receiver: usize,
}

/// Who asks for messages.
#[derive(Debug, Clone, Copy)]
pub struct ClaimReceiver {
    /// Most messages, at least 1.
    pub size: usize,
    /// How long the leases last.
    pub window: Duration,
}

/// Receivers in the order of their queues.
#[derive(Debug, Default)]
pub struct ClaimBatch {
    /// The queues, each once.
    pub queues: Vec<ClaimQueue>,
    /// The receivers of all queues, at least one for each queue.
    pub receivers: Vec<ClaimReceiver>,
    /// The token of the first lease, positive; those of others follow in steps of two.
    pub first_token: i32,
    /// Most messages under one lease, 1 to 62.
    pub run: i32,
    /// Bytes of chunks after which a queue's claim ends early; it hands out at least one message.
    pub byte_budget: i64,
    /// What need not be scanned again.
    pub low_waters: Vec<LowWater>,
    /// Waits for the lanes of the batch's one queue instead of passing over busy ones.
    pub wait: bool,
}

/// Messages of one chunk, handed to one receiver.
#[derive(Debug, Clone, Copy)]
pub struct ClaimedLease {
    /// Which receiver, from 0.
    pub receiver: usize,
    /// The messages' lane.
    pub lane: LaneId,
    /// The number that the mask counts from.
    pub lo: i64,
    /// The messages, a bit each.
    pub mask: u64,
    /// The lease's token.
    pub token: i32,
    /// The subscription's epoch.
    pub epoch: i32,
    /// How often the messages were received here, this time included.
    pub receive_count: i32,
    /// The end of the lease.
    pub visible_at: OffsetDateTime,
    /// The messages' first delivery.
    pub first_received_at: OffsetDateTime,
}

/// A chunk that leases point into.
#[derive(Debug, Clone)]
pub struct ClaimedChunk {
    /// Its lane.
    pub lane: LaneId,
    /// The number of its first message.
    pub seq: i64,
    /// The salt of its messages.
    pub salt: u32,
    /// When its messages were first sent.
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
    /// Not every lane was looked at: the call's locks or bytes were used up.
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
    pub leases: Vec<ClaimedLease>,
    /// The chunks that hold them.
    pub chunks: Vec<ClaimedChunk>,
    /// Lanes whose expired leases were all seen.
    pub scanned: Vec<LowWater>,
    /// A report for each queue, in the order of the batch.
    pub reports: Vec<QueueReport>,
    /// Leases that were received too often: the mover's.
    pub exhausted: Vec<LeaseRow>,
}

impl Session {
    /// Hands messages of many queues to receivers.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] messages may be leased that nobody got.
    pub async fn claim(
        &mut self,
        subscription: SubscriptionId,
        batch: &ClaimBatch,
    ) -> Result<Claims, Failure> {
        let query = query(CLAIM)
            .bind(subscription.0)
            .bind(column(&batch.queues, |queue| queue.queue.get()))
            .bind(column(&batch.queues, |queue| to_sql(queue.first_receiver)))
            .bind(column(&batch.receivers, |receiver| size(receiver.size)))
            .bind(column(&batch.receivers, |receiver| {
                milliseconds(receiver.window)
            }))
            .bind(batch.first_token)
            .bind(batch.run)
            .bind(batch.byte_budget)
            .bind(column(&batch.low_waters, |low| low.lane.raw()))
            .bind(column(&batch.low_waters, |low| low.before))
            .bind(batch.wait);
        let rows = self.fetch_all(query).await?;
        let mut claims = Claims::default();
        for row in &rows {
            claimed(row, batch, &mut claims)?;
        }
        Ok(claims)
    }
}

fn claimed(
    row: &sqlx::postgres::PgRow,
    batch: &ClaimBatch,
    claims: &mut Claims,
) -> Result<(), sqlx::Error> {
    let lane = || super::lane(row.try_get(2)?);
    let code = || row.try_get::<i32, _>(6);
    match row.try_get::<i16, _>(0)? {
        0 => claims.leases.push(ClaimedLease {
            receiver: from_sql(row.try_get(1)?),
            lane: lane()?,
            lo: row.try_get(3)?,
            mask: row.try_get::<i64, _>(4)?.cast_unsigned(),
            receive_count: row.try_get(5)?,
            token: code()?,
            epoch: row.try_get(7)?,
            visible_at: row.try_get(8)?,
            first_received_at: row.try_get(9)?,
        }),
        1 => claims.chunks.push(ClaimedChunk {
            lane: lane()?,
            seq: row.try_get(3)?,
            salt: code()?.cast_unsigned(),
            sent_at: row.try_get(8)?,
            body: row.try_get::<Vec<u8>, _>(10)?.into(),
        }),
        2 => claims.scanned.push(LowWater {
            lane: lane()?,
            before: row.try_get(8)?,
        }),
        5 => new_leases(row, batch, &mut claims.leases)?,
        4 => claims.exhausted.push(LeaseRow {
            lane: lane()?,
            lo: row.try_get(3)?,
            token: code()?,
        }),
        _ => claims.reports.push(QueueReport {
            reach: match code()? {
                0 => Reach::Whole,
                1 => Reach::More,
                2 => Reach::Gone,
                _ => Reach::Cut,
            },
            busy_lanes: row.try_get(5)?,
            now: row.try_get(8)?,
        }),
    }
    Ok(())
}

/// The new leases of a lane, which stand in one row.
fn new_leases(
    row: &sqlx::postgres::PgRow,
    batch: &ClaimBatch,
    leases: &mut Vec<ClaimedLease>,
) -> Result<(), sqlx::Error> {
    let lane = super::lane(row.try_get(2)?)?;
    let epoch = row.try_get(7)?;
    let now: OffsetDateTime = row.try_get(8)?;
    let los: Vec<i64> = row.try_get(11)?;
    let masks: Vec<i64> = row.try_get(12)?;
    let tokens: Vec<i32> = row.try_get(13)?;
    let receivers: Vec<i32> = row.try_get(14)?;
    for (((lo, mask), token), receiver) in los.into_iter().zip(masks).zip(tokens).zip(receivers) {
        let receiver = from_sql(receiver);
        let window = batch.receivers.get(receiver).map(|asked| asked.window);
        let window = window
            .ok_or_else(|| sqlx::Error::Decode(format!("{receiver} is no receiver").into()))?;
        leases.push(ClaimedLease {
            receiver,
            lane,
            lo,
            mask: mask.cast_unsigned(),
            token,
            epoch,
            receive_count: 1,
            visible_at: now + window,
            first_received_at: now,
        });
    }
    Ok(())
}

fn from_sql(index: i32) -> usize {
    usize::try_from(index - 1).unwrap_or_default()
}

//! What becomes of messages in flight: the calls of `ack_2`, `ack_rest_1`, `extend_3`, `moving_1`.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Failure, Session, column, milliseconds, query};
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};

pub(super) const ACK: &str = "select towpath.ack_2($1, $2, $3, $4, $5, $6)";
pub(super) const ACK_REST: &str = "select towpath.ack_rest_1($1, $2, $3, $4, $5, $6, $7)";
pub(super) const EXTEND: &str =
    "select * from towpath.extend_3($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
pub(super) const MOVING: &str = "select * from towpath.moving_1($1, $2, $3, $4)";

/// A row of `lease`. Batches are sorted by it, so that two nodes lock rows in one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseRow {
    /// The messages' lane.
    pub lane: LaneId,
    /// The number that the mask counts from.
    pub lo: i64,
    /// The token of the delivery.
    pub token: i32,
}

/// A lease as a receipt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    /// Its row.
    pub row: LeaseRow,
    /// The subscription's epoch at the delivery.
    pub epoch: i32,
}

/// A lease and all that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldLease {
    /// The messages' lane.
    pub lane: LaneId,
    /// The number that the mask counts from.
    pub lo: i64,
    /// The token of the delivery.
    pub token: i32,
    /// The messages, a bit each.
    pub mask: u64,
}

/// Messages of a lease that are to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The lease.
    pub row: LeaseRow,
    /// The messages, a bit each.
    pub mask: u64,
    /// Whether these are all that the lease was given out with.
    pub whole: bool,
}

/// A message that is to be deleted and was not in the lease that its receipt names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AckRest {
    /// The message's lane.
    pub lane: LaneId,
    /// Its number.
    pub seq: i64,
    /// The token of the receipt.
    pub token: i32,
    /// The epoch of the receipt.
    pub epoch: i32,
    /// The salt of the receipt.
    pub salt: u32,
    /// The id that goes with its place.
    pub id: Uuid,
}

/// What became of a message that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// Deleted.
    Deleted,
    /// Deleted, although a newer receiver holds it.
    DeletedUnderNewer,
    /// It was gone before.
    Gone,
    /// The database knows of no such delivery; nothing was deleted.
    Stale,
    /// Somebody is at it at this moment; nothing was deleted.
    Busy,
}

/// Messages of a lease whose end is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extend {
    /// The lease.
    pub lease: LeaseKey,
    /// The messages, a bit each.
    pub mask: u64,
    /// How long from now on they stay hidden.
    pub window: Duration,
    /// Instead, by how often they were received: after 1, 2 and more deliveries; the last one for all
    /// that follow. Empty: the window.
    pub delays: Vec<Duration>,
    /// After how many deliveries they are the mover's instead, if ever.
    pub max_receives: Option<i32>,
    /// What the receiver says about it.
    pub reason: Option<String>,
}

/// What became of messages whose end was to be moved. What is in no mask is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// Those that it was moved for.
    pub moved: u64,
    /// Those that somebody is at just now; nothing was changed.
    pub busy: u64,
    /// Those among the moved that are the mover's now.
    pub exhausted: u64,
    /// The new end.
    pub at: OffsetDateTime,
    /// How far from now it is.
    pub window: Duration,
}

/// Everything that an extend says.
#[derive(Debug, Default)]
pub struct Extensions {
    /// For each entry, in its order.
    pub entries: Vec<Extended>,
    /// Leases that are the mover's now.
    pub exhausted: Vec<LeaseRow>,
}

/// A lease of the mover's, with the chunk that it points into.
#[derive(Debug, Clone)]
pub struct Moving {
    /// The dead-letter queue of their queue, unless it is gone.
    pub target: Option<QueueId>,
    /// The lease.
    pub lease: HeldLease,
    /// How often its messages were received.
    pub receive_count: i32,
    /// When first.
    pub first_received_at: Option<OffsetDateTime>,
    /// What a receiver said last.
    pub reason: Option<String>,
    /// The number of the chunk's first message.
    pub chunk: i64,
    /// The salt of its messages.
    pub salt: u32,
    /// When its messages were first sent.
    pub sent_at: OffsetDateTime,
    /// The encoded frames.
    pub body: Bytes,
}

impl Session {
    /// Deletes messages by their leases, which are sorted, each once: the masks of those deleted.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] some or all may be deleted.
    pub async fn ack(
        &mut self,
        subscription: SubscriptionId,
        acks: &[Ack],
    ) -> Result<Vec<u64>, Failure> {
        assert!(
            acks.is_sorted_by(|a, b| a.row < b.row),
            "leases of one statement are sorted and each is there once: rows are locked in that order"
        );
        let statement = query(ACK)
            .bind(subscription.0)
            .bind(column(acks, |ack| ack.row.lane.raw()))
            .bind(column(acks, |ack| ack.row.lo))
            .bind(column(acks, |ack| ack.row.token))
            .bind(column(acks, |ack| ack.mask.cast_signed()))
            .bind(column(acks, |ack| ack.whole));
        let rows = self.fetch_all(statement).await?;
        let masks: Vec<i64> = rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?;
        Ok(masks.into_iter().map(i64::cast_unsigned).collect())
    }

    /// Deletes messages that [`Session::ack`] did not find where their receipts say.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] some or all may be deleted.
    pub async fn ack_rest(
        &mut self,
        subscription: SubscriptionId,
        rest: &[AckRest],
    ) -> Result<Vec<Acked>, Failure> {
        let statement = query(ACK_REST)
            .bind(subscription.0)
            .bind(column(rest, |ack| ack.lane.raw()))
            .bind(column(rest, |ack| ack.seq))
            .bind(column(rest, |ack| ack.token))
            .bind(column(rest, |ack| ack.epoch))
            .bind(column(rest, |ack| ack.salt.cast_signed()))
            .bind(column(rest, |ack| ack.id));
        let rows = self.fetch_all(statement).await?;
        let codes: Vec<i16> = rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?;
        let outcome = |code| match code {
            0 => Acked::Deleted,
            1 => Acked::DeletedUnderNewer,
            2 => Acked::Gone,
            3 => Acked::Stale,
            _ => Acked::Busy,
        };
        Ok(codes.into_iter().map(outcome).collect())
    }

    /// Moves the ends of leases; zero makes messages visible at once.
    ///
    /// # Errors
    /// As every statement.
    pub async fn extend(
        &mut self,
        subscription: SubscriptionId,
        entries: &[Extend],
    ) -> Result<Extensions, Failure> {
        self.move_ends(subscription, entries, false).await
    }

    /// Takes deliveries back as if they had not been: visible at once, not counted.
    ///
    /// # Errors
    /// As every statement; then the messages come back when their leases end.
    pub async fn hand_back(
        &mut self,
        subscription: SubscriptionId,
        leases: &[(LeaseKey, u64)],
    ) -> Result<Extensions, Failure> {
        let back = column(leases, |(lease, mask)| Extend {
            lease: *lease,
            mask: *mask,
            window: Duration::ZERO,
            delays: Vec::new(),
            max_receives: None,
            reason: None,
        });
        self.move_ends(subscription, &back, true).await
    }

    async fn move_ends(
        &mut self,
        subscription: SubscriptionId,
        entries: &[Extend],
        hand_back: bool,
    ) -> Result<Extensions, Failure> {
        let mut delays: Vec<i64> = Vec::new();
        let mut firsts: Vec<i32> = Vec::with_capacity(entries.len());
        for entry in entries {
            firsts.push(super::to_sql(delays.len()));
            delays.extend(entry.delays.iter().map(|delay| milliseconds(*delay)));
        }
        let statement = query(EXTEND)
            .bind(subscription.0)
            .bind(column(entries, |entry| entry.lease.row.lane.raw()))
            .bind(column(entries, |entry| entry.lease.row.lo))
            .bind(column(entries, |entry| entry.lease.row.token))
            .bind(column(entries, |entry| entry.lease.epoch))
            .bind(column(entries, |entry| entry.mask.cast_signed()))
            .bind(column(entries, |entry| milliseconds(entry.window)))
            .bind(column(entries, |entry| entry.max_receives.unwrap_or(0)))
            .bind(column(entries, |entry| entry.reason.clone()))
            .bind(hand_back)
            .bind(delays)
            .bind(firsts)
            .bind(column(entries, |entry| super::size(entry.delays.len())));
        let rows = self.fetch_all(statement).await?;
        let mut extensions = Extensions::default();
        for row in &rows {
            if let Some(lane) = row.try_get::<Option<i64>, _>(6)? {
                extensions.exhausted.push(LeaseRow {
                    lane: super::lane(lane)?,
                    lo: row.try_get(7)?,
                    token: row.try_get(8)?,
                });
                continue;
            }
            let mask = |column| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
            extensions.entries.push(Extended {
                moved: mask(1)?,
                busy: mask(2)?,
                exhausted: mask(3)?,
                at: row.try_get(4)?,
                window: Duration::from_millis(row.try_get::<i64, _>(5)?.unsigned_abs()),
            });
        }
        Ok(extensions)
    }

    /// What leases of the mover's hold; nothing for those that are no longer there.
    ///
    /// # Errors
    /// As every statement.
    pub async fn moving(
        &mut self,
        subscription: SubscriptionId,
        leases: &[LeaseRow],
    ) -> Result<Vec<Moving>, Failure> {
        let statement = query(MOVING)
            .bind(subscription.0)
            .bind(column(leases, |lease| lease.lane.raw()))
            .bind(column(leases, |lease| lease.lo))
            .bind(column(leases, |lease| lease.token));
        let rows = self.fetch_all(statement).await?;
        let mut moving = Vec::with_capacity(rows.len());
        for row in &rows {
            let ix: i32 = row.try_get(0)?;
            let LeaseRow { lane, lo, token } = *usize::try_from(ix - 1)
                .ok()
                .and_then(|ix| leases.get(ix))
                .ok_or_else(|| sqlx::Error::Decode(format!("{ix} is no entry").into()))?;
            let target: Option<i32> = row.try_get(1)?;
            let mask: i64 = row.try_get(2)?;
            moving.push(Moving {
                target: target.and_then(QueueId::new),
                lease: HeldLease {
                    lane,
                    lo,
                    token,
                    mask: mask.cast_unsigned(),
                },
                receive_count: row.try_get(4)?,
                first_received_at: row.try_get(5)?,
                reason: row.try_get(6)?,
                chunk: row.try_get(7)?,
                salt: row.try_get::<i32, _>(8)?.cast_unsigned(),
                sent_at: row.try_get(9)?,
                body: row.try_get::<Vec<u8>, _>(10)?.into(),
            });
        }
        Ok(moving)
    }
}

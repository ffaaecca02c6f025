//! What becomes of messages in flight: the calls of `ack_1`, `extend_1` and `floor_1`.

use std::time::Duration;

use sqlx::Row as _;
use time::OffsetDateTime;

use super::log::milliseconds;
use super::{Failure, Session, column, query};
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};

pub(super) const ACK: &str = "select towpath.ack_1($1, $2, $3, $4, $5, $6)";
pub(super) const EXTEND: &str = "select towpath.extend_1($1, $2, $3, $4, $5, $6, $7)";
pub(super) const FLOOR: &str = "select towpath.floor_1($1, $2)";

/// What names a lease. Batches are sorted by it, so that two nodes lock rows in one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The message's lane.
    pub lane: LaneId,
    /// The number of the lease's first message.
    pub lo: i64,
    /// The lease's token.
    pub token: i32,
    /// The subscription's epoch at the delivery.
    pub epoch: i32,
}

/// What became of a message that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Deleted.
    Deleted,
    /// Deleted, although a newer receiver holds it.
    DeletedUnderNewer,
    /// It was gone before.
    Gone,
    /// The database knows of no such delivery; nothing was deleted.
    Stale,
}

/// The new end of a lease, or `None` when it was not there to be moved.
pub type Extended = Option<OffsetDateTime>;

impl Session {
    /// Deletes messages by their leases and the salts of their numbers: sorted, each once.
    ///
    /// # Errors
    /// As every statement; after [`Failure::Lost`] some or all may be deleted.
    pub async fn ack(
        &mut self,
        subscription: SubscriptionId,
        leases: &[(LeaseKey, u32)],
    ) -> Result<Vec<Ack>, Failure> {
        assert_sorted(leases);
        let statement = query(ACK)
            .bind(subscription.0)
            .bind(column(leases, |(lease, _)| lease.lane.raw()))
            .bind(column(leases, |(lease, _)| lease.lo))
            .bind(column(leases, |(lease, _)| lease.token))
            .bind(column(leases, |(lease, _)| lease.epoch))
            .bind(column(leases, |(_, salt)| salt.cast_signed()));
        let rows = self.fetch_all(statement).await?;
        let codes: Vec<i16> = rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?;
        Ok(codes
            .into_iter()
            .map(|code| match code {
                0 => Ack::Deleted,
                1 => Ack::DeletedUnderNewer,
                2 => Ack::Gone,
                _ => Ack::Stale,
            })
            .collect())
    }

    /// Moves the ends of leases to a window from now; zero makes messages visible at once.
    ///
    /// # Errors
    /// As every statement.
    pub async fn extend(
        &mut self,
        subscription: SubscriptionId,
        leases: &[(LeaseKey, Duration)],
    ) -> Result<Vec<Extended>, Failure> {
        self.move_ends(subscription, leases, false).await
    }

    /// Takes deliveries back as if they had not been: visible at once, not counted.
    ///
    /// # Errors
    /// As every statement; then the messages come back when their leases end.
    pub async fn hand_back(
        &mut self,
        subscription: SubscriptionId,
        leases: &[LeaseKey],
    ) -> Result<Vec<Extended>, Failure> {
        let leases = leases
            .iter()
            .map(|lease| (*lease, Duration::ZERO))
            .collect::<Vec<_>>();
        self.move_ends(subscription, &leases, true).await
    }

    async fn move_ends(
        &mut self,
        subscription: SubscriptionId,
        leases: &[(LeaseKey, Duration)],
        hand_back: bool,
    ) -> Result<Vec<Extended>, Failure> {
        let statement = query(EXTEND)
            .bind(subscription.0)
            .bind(column(leases, |(lease, _)| lease.lane.raw()))
            .bind(column(leases, |(lease, _)| lease.lo))
            .bind(column(leases, |(lease, _)| lease.token))
            .bind(column(leases, |(lease, _)| lease.epoch))
            .bind(column(leases, |(_, window)| milliseconds(*window)))
            .bind(hand_back);
        let rows = self.fetch_all(statement).await?;
        rows.first()
            .map_or(Ok(Vec::new()), |row| Ok(row.try_get(0)?))
    }

    /// Drops everything that a queue holds. Sends that run meanwhile may survive.
    ///
    /// # Errors
    /// As every statement.
    pub async fn floor(
        &mut self,
        subscription: SubscriptionId,
        queue: QueueId,
    ) -> Result<(), Failure> {
        self.fetch_all(query(FLOOR).bind(subscription.0).bind(queue.get()))
            .await?;
        Ok(())
    }
}

fn assert_sorted(leases: &[(LeaseKey, u32)]) {
    assert!(
        leases.is_sorted_by(|a, b| a < b),
        "leases of one statement are sorted and each is there once: rows are locked in that order"
    );
}

//! What a redrive holds of its queue: the calls of `redrive_hold_1` and `redrive_keep_1`.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::leases::LeaseRow;
use super::{Failure, Session, column, milliseconds, query};
use crate::domain::lane::SubscriptionId;

pub(super) const HOLD: &str = "select towpath.redrive_hold_1($1, $2, $3, $4, $5, $6, $7, $8)";
pub(super) const KEEP: &str = "select towpath.redrive_keep_1($1, $2, $3, $4, $5)";

/// Messages of a lease that are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The lease as the claim gave it out.
    pub row: LeaseRow,
    /// The messages, a bit each.
    pub mask: u64,
    /// The token of the lease that they come to be under. That of `row` for the last entry of a lease, which
    /// keeps the row.
    pub token: i32,
    /// Whether they are about to move.
    pub to_move: bool,
    /// How long they stay hidden.
    pub window: Duration,
}

impl Session {
    /// Takes messages over from claims, uncounted. Entries are sorted by their lease, and name all of its
    /// messages. Says for each which messages it holds.
    ///
    /// # Errors
    /// As every statement; then the messages come back when their leases end.
    pub async fn hold(
        &mut self,
        subscription: SubscriptionId,
        entries: &[Hold],
    ) -> Result<Vec<u64>, Failure> {
        assert!(
            entries.is_sorted_by_key(|entry| entry.row),
            "leases of one statement are sorted: rows are locked in that order"
        );
        let statement = query(HOLD)
            .bind(subscription.0)
            .bind(column(entries, |entry| entry.row.lane.raw()))
            .bind(column(entries, |entry| entry.row.lo))
            .bind(column(entries, |entry| entry.row.token))
            .bind(column(entries, |entry| entry.mask.cast_signed()))
            .bind(column(entries, |entry| entry.token))
            .bind(column(entries, |entry| entry.to_move))
            .bind(column(entries, |entry| milliseconds(entry.window)));
        masks(&self.fetch_all(statement).await?)
    }

    /// Lets what is held stay hidden for so long from now on; zero gives it back. Leases are sorted, each
    /// once. Says for each which messages it holds: none when it is not there any more.
    ///
    /// # Errors
    /// As every statement.
    pub async fn keep(
        &mut self,
        subscription: SubscriptionId,
        leases: &[LeaseRow],
        window: Duration,
    ) -> Result<Vec<u64>, Failure> {
        assert!(
            leases.is_sorted_by(|a, b| a < b),
            "leases of one statement are sorted and each is there once: rows are locked in that order"
        );
        let statement = query(KEEP)
            .bind(subscription.0)
            .bind(column(leases, |lease| lease.lane.raw()))
            .bind(column(leases, |lease| lease.lo))
            .bind(column(leases, |lease| lease.token))
            .bind(milliseconds(window));
        masks(&self.fetch_all(statement).await?)
    }
}

fn masks(rows: &[PgRow]) -> Result<Vec<u64>, Failure> {
    let masks: Vec<i64> = rows.first().map_or(Ok(Vec::new()), |row| row.try_get(0))?;
    Ok(masks.into_iter().map(i64::cast_unsigned).collect())
}

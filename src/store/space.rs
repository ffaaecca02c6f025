//! Giving space back: the call of `free_2`, the lanes to call it for, and what is forgotten in time.

use std::time::Duration;

use sqlx::Row as _;

use super::{Failure, Session, query};
use crate::domain::lane::LaneId;

pub(super) const FREE: &str = "select freed, survivor, next, more, idle from towpath.free_2($1, $2, $3, make_interval(secs => $4), $5)";
pub(super) const TAKE_WAKES: &str = "select lane_ids, last, more from towpath.take_wakes_1($1, $2)";
pub(super) const FORGET: &str = "select towpath.forget_1($1)";
pub(super) const LANES: &str = "
    select lane_id from towpath.lane
    where lane_id > $1
    order by lane_id
    limit $2";

/// Where a sweep of a lane goes on: a number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceCursor(pub i64);

/// What one call freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freed {
    /// Rows of all kinds.
    pub rows: i32,
    /// The first chunk that must stay for now: the next sweep may begin there.
    pub survivor: Option<SpaceCursor>,
    /// Behind the last chunk that was looked at.
    pub next: SpaceCursor,
    /// There was more to look at.
    pub more: bool,
    /// Nothing is left in the lane, until something new comes.
    pub idle: bool,
}

/// Lanes that were written to.
#[derive(Debug)]
pub struct Written {
    /// The lanes, each once.
    pub lanes: Vec<LaneId>,
    /// Where the next call goes on.
    pub last: i64,
    /// There may be more.
    pub more: bool,
}

impl Session {
    /// Frees what is dead in a lane, looking at `limit` chunks from `from` on. No chunk younger
    /// than `min_age` goes. With `begin` everything before `from` is freed already; then what has expired
    /// ends, too.
    ///
    /// # Errors
    /// As every statement.
    pub async fn free(
        &mut self,
        lane: LaneId,
        from: SpaceCursor,
        limit: i32,
        min_age: Duration,
        begin: bool,
    ) -> Result<Freed, Failure> {
        let statement = query(FREE)
            .bind(lane.raw())
            .bind(from.0)
            .bind(limit)
            .bind(min_age.as_secs_f64())
            .bind(begin);
        let rows = self.fetch_all(statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(Freed {
            rows: row.try_get(0)?,
            survivor: row.try_get::<Option<i64>, _>(1)?.map(SpaceCursor),
            next: SpaceCursor(row.try_get(2)?),
            more: row.try_get(3)?,
            idle: row.try_get(4)?,
        })
    }

    /// Takes up to `limit` of the oldest notes of lanes that were written to, from number `from` on.
    ///
    /// # Errors
    /// As every statement.
    pub async fn take_wakes(&mut self, from: i64, limit: i32) -> Result<Written, Failure> {
        let rows = self
            .fetch_all(query(TAKE_WAKES).bind(from).bind(limit))
            .await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let lanes: Vec<i64> = row.try_get(0)?;
        Ok(Written {
            lanes: lanes.into_iter().filter_map(LaneId::from_raw).collect(),
            last: row.try_get(1)?,
            more: row.try_get(2)?,
        })
    }

    /// Forgets keys and movements whose time is over, up to `limit` of each; whether there may be more.
    ///
    /// # Errors
    /// As every statement.
    pub async fn forget(&mut self, limit: i32) -> Result<bool, Failure> {
        let rows = self.fetch_all(query(FORGET).bind(limit)).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(row.try_get(0)?)
    }

    /// Up to `limit` lanes behind one, by number.
    ///
    /// # Errors
    /// As every statement.
    pub async fn lanes(
        &mut self,
        after: Option<LaneId>,
        limit: i32,
    ) -> Result<Vec<LaneId>, Failure> {
        let statement = query(LANES)
            .bind(after.map_or(0, LaneId::raw))
            .bind(i64::from(limit));
        let rows = self.fetch_all(statement).await?;
        rows.iter()
            .filter_map(|row| row.try_get(0).map(LaneId::from_raw).transpose())
            .map(|lane| Ok(lane?))
            .collect()
    }
}

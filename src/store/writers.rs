//! Writer numbers: which appender writes which lane of a queue.
//!
//! A number is a hint that keeps appenders out of each other's way. Two that share one are slow,
//! never wrong: the fence is in the log's key.

use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;

use super::{Failure, Store, query};
use crate::domain::lane::Writer;

/// The lowest number that is free or unseen for longer than $2 seconds. Two nodes that see the
/// same free number collide on the key; the loser gets no row and asks again.
pub(super) const TAKE: &str = "
    with free as (
        select g.writer::smallint as writer
        from generate_series(0, 255) as g (writer)
        where not exists (
            select 1 from towpath.node n
            where n.writer = g.writer
                and n.seen_at > towpath.clock() - make_interval(secs => $2)
        )
        order by g.writer
        limit 1
    )
    insert into towpath.node as n (writer, node_id, seen_at)
    select f.writer, $1, towpath.clock() from free f
    on conflict (writer) do update
    set node_id = excluded.node_id, seen_at = excluded.seen_at
    where n.seen_at <= towpath.clock() - make_interval(secs => $2)
    returning n.writer";

pub(super) const BEAT: &str = "
    update towpath.node set seen_at = towpath.clock()
    where writer = $1 and node_id = $2
    returning exists (
        select 1 from towpath.node n
        where n.node_id <> $2 and n.seen_at > towpath.clock() - make_interval(secs => $3)
    )";

pub(super) const RELEASE: &str = "delete from towpath.node where writer = $1 and node_id = $2";

impl Store {
    /// Takes a writer number for a node; `None` when a rival took it first or all are in use.
    ///
    /// # Errors
    /// As every statement.
    pub async fn take_writer(
        &self,
        node: Uuid,
        unseen_for: Duration,
    ) -> Result<Option<Writer>, Failure> {
        let take = query(TAKE).bind(node).bind(unseen_for.as_secs_f64());
        let rows = self.write(take).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number: i16 = row.try_get(0)?;
        Ok(u8::try_from(number).ok().map(Writer))
    }

    /// Says that a node is still there, and learns whether others are; `None` when its number has
    /// gone to another.
    ///
    /// # Errors
    /// As every statement.
    pub async fn beat_writer(
        &self,
        writer: Writer,
        node: Uuid,
        unseen_for: Duration,
    ) -> Result<Option<bool>, Failure> {
        let beat = query(BEAT)
            .bind(i16::from(writer.0))
            .bind(node)
            .bind(unseen_for.as_secs_f64());
        let rows = self.write(beat).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Gives a writer number back.
    ///
    /// # Errors
    /// As every statement.
    pub async fn release_writer(&self, writer: Writer, node: Uuid) -> Result<(), Failure> {
        self.write(query(RELEASE).bind(i16::from(writer.0)).bind(node))
            .await?;
        Ok(())
    }
}

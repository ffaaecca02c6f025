//! Appending to the log: the calls of `append_2` and `append_careful_1`.

use std::time::Duration;

use sqlx::Row as _;
use time::OffsetDateTime;
use uuid::Uuid;

use super::leases::HeldLease;
use super::{Failure, Query, Session, column, milliseconds, query, seconds};
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};

pub(super) const APPEND: &str = "
    select * from towpath.append_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, null)";
pub(super) const APPEND_CAREFUL: &str = "
    select * from towpath.append_careful_1(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21, $22, $23, $24, $25, $26)";
pub(super) const APPEND_FROM_OUTBOX: &str = "
    select * from towpath.append_from_outbox_1(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
pub(super) const DEDUP_PROBE: &str =
    "select ix, digest, answer, sent_at from towpath.dedup_probe_2($1, $2)";

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

/// A chunk to be appended. Its messages share their times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChunk {
    /// How many messages, 1 to 62.
    pub messages: i32,
    /// How long they stay hidden; in lanes of delayed messages only.
    pub delay: Duration,
    /// How long they live, if not for as long as the queue keeps messages.
    pub time_to_live: Option<Duration>,
    /// When they were first sent, if they come from another queue.
    pub sent_at: Option<OffsetDateTime>,
    /// The encoded frames.
    pub body: Vec<u8>,
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
    /// Chunks, in order.
    pub chunks: Vec<NewChunk>,
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

/// A deduplication key: a queue's, and the hash of what the caller gave.
pub type KeyHash = (QueueId, Uuid);

/// A deduplication key to be taken by an append.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The key.
    pub key: KeyHash,
    /// How long it holds.
    pub window: Duration,
    /// What is sent under it, in short.
    pub digest: Vec<u8>,
    /// Where it goes, for whoever sends it again.
    pub answer: Vec<u8>,
    /// The id of the first message.
    pub message_id: Uuid,
}

/// What was sent under a key before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// What was sent, in short.
    pub digest: Vec<u8>,
    /// Where it went.
    pub answer: Vec<u8>,
    /// When.
    pub sent_at: OffsetDateTime,
}

/// Where a message that leaves its place is from then on.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    /// The message's id.
    pub id: Uuid,
    /// Its new lane.
    pub lane: LaneId,
    /// Its number there.
    pub seq: i64,
}

/// What an append does beside appending, in the same transaction. With rows of the outbox nothing else.
#[derive(Debug, Default)]
pub struct Care {
    /// Rows of the outbox whose messages these are: they go. Sorted.
    pub outbox: Vec<i64>,
    /// Leases whose messages move: they end, with all their messages. Sorted.
    pub sources: Vec<HeldLease>,
    /// Keys to be taken. Sorted by key, each once.
    pub keys: Vec<NewKey>,
    /// Where messages went.
    pub moved: Vec<Moved>,
}

impl Session {
    /// Appends to many lanes at once; a lane whose tail is another gets nothing.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when a rival appended to one of the lanes; then nothing was stored.
    pub async fn append(&mut self, batch: &AppendBatch) -> Result<Vec<Appended>, Failure> {
        self.appended(bind_lanes(query(APPEND), batch)).await
    }

    /// Appends to many lanes and does what goes with it: all or nothing.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when a tail is another or a queue is gone, [`Failure::KeyTaken`],
    /// [`Failure::SourceGone`]; then nothing was done.
    pub async fn append_careful(
        &mut self,
        subscription: SubscriptionId,
        batch: &AppendBatch,
        care: &Care,
    ) -> Result<Vec<Appended>, Failure> {
        let Care {
            outbox,
            sources,
            keys,
            moved,
        } = care;
        assert!(
            outbox.is_sorted() && sources.is_sorted() && keys.is_sorted_by(|a, b| a.key < b.key),
            "rows of one statement are sorted: they are locked in that order"
        );
        if !outbox.is_empty() {
            let statement = query(APPEND_FROM_OUTBOX).bind(outbox);
            return self.appended(bind_lanes(statement, batch)).await;
        }
        let statement = query(APPEND_CAREFUL)
            .bind(subscription.0)
            .bind(column(sources, |source| source.lane.raw()))
            .bind(column(sources, |source| source.lo))
            .bind(column(sources, |source| source.token))
            .bind(column(sources, |source| source.mask.cast_signed()))
            .bind(column(keys, |key| key.key.0.get()))
            .bind(column(keys, |key| key.key.1))
            .bind(column(keys, |key| seconds(key.window)))
            .bind(column(keys, |key| key.digest.clone()))
            .bind(column(keys, |key| key.answer.clone()))
            .bind(column(keys, |key| key.message_id))
            .bind(column(moved, |moved| moved.id))
            .bind(column(moved, |moved| moved.lane.raw()))
            .bind(column(moved, |moved| moved.seq));
        self.appended(bind_lanes(statement, batch)).await
    }

    async fn appended(&mut self, statement: Query<'_>) -> Result<Vec<Appended>, Failure> {
        let rows = self.fetch_all(statement).await?;
        rows.iter()
            .map(|row| appended(row).map_err(Failure::from))
            .collect()
    }

    /// What was sent under each of these keys, as long as they hold.
    ///
    /// # Errors
    /// As every statement.
    pub async fn probe_dedup(
        &mut self,
        keys: &[KeyHash],
    ) -> Result<Vec<Option<KnownKey>>, Failure> {
        let query = query(DEDUP_PROBE)
            .bind(column(keys, |(queue, _)| queue.get()))
            .bind(column(keys, |(_, hash)| *hash));
        let mut known = vec![None; keys.len()];
        for row in self.fetch_all(query).await? {
            let ix: i32 = row.try_get(0)?;
            let place = usize::try_from(ix - 1).ok();
            if let Some(place) = place.and_then(|place| known.get_mut(place)) {
                // Without an answer the key is of a release that gave none.
                let answer: Option<Vec<u8>> = row.try_get(2)?;
                *place = answer
                    .map(|answer| {
                        Ok::<_, sqlx::Error>(KnownKey {
                            digest: row.try_get(1)?,
                            answer,
                            sent_at: row.try_get(3)?,
                        })
                    })
                    .transpose()?;
            }
        }
        Ok(known)
    }
}

fn bind_lanes<'q>(statement: Query<'q>, batch: &'q AppendBatch) -> Query<'q> {
    let chunks = || {
        batch
            .iter()
            .zip(1_i32..)
            .flat_map(|(lane, ix)| lane.chunks.iter().map(move |chunk| (ix, chunk)))
    };
    statement
        .bind(column(batch, |lane| lane.lane.raw()))
        .bind(column(batch, |lane| lane.tail.next))
        .bind(column(batch, |lane| lane.tail.last_chunk))
        .bind(column(batch, |lane| lane.salt.cast_signed()))
        .bind(column(batch, |lane| lane.tail.bytes_total))
        .bind(column(batch, |lane| lane.tail.live_total))
        .bind(chunks().map(|(ix, _)| ix).collect::<Vec<_>>())
        .bind(
            chunks()
                .map(|(_, chunk)| chunk.messages)
                .collect::<Vec<_>>(),
        )
        .bind(
            chunks()
                .map(|(_, chunk)| milliseconds(chunk.delay))
                .collect::<Vec<_>>(),
        )
        .bind(
            chunks()
                .map(|(_, chunk)| chunk.time_to_live.map_or(0, milliseconds))
                .collect::<Vec<_>>(),
        )
        .bind(chunks().map(|(_, chunk)| chunk.sent_at).collect::<Vec<_>>())
        .bind(
            chunks()
                .map(|(_, chunk)| chunk.body.as_slice())
                .collect::<Vec<_>>(),
        )
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

//! Looking at messages without receiving them, and changing those that nobody holds: the calls of `peek_1`,
//! `find_message_1`, `cancel_1` and `reschedule_1`.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Failure, Store, milliseconds, query};
use crate::domain::lane::{LaneId, Position, QueueId, SubscriptionId};
use crate::domain::peek::{MessageState, PeekCursor};
use crate::domain::queue::{QueueName, Tenant};

pub(super) const PEEK: &str = "select * from towpath.peek_1($1, $2, $3, $4, $5, $6, $7, $8)";
pub(super) const FIND: &str = "select * from towpath.find_message_1($1, $2, $3, $4, $5)";
pub(super) const CANCEL: &str = "select towpath.cancel_1($1, $2, $3, $4)";
pub(super) const RESCHEDULE: &str =
    "select code, at from towpath.reschedule_1($1, $2, $3, $4, $5, $6)";

/// What the leases of delayed messages have as their state.
const DELAYED: i16 = 1;

/// How much of a queue is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Peek {
    /// Only messages in this state.
    pub state: Option<MessageState>,
    /// Where to begin; `None` for the beginning of the queue.
    pub from: Option<PeekCursor>,
    /// Most chunks that are looked at.
    pub chunks: usize,
    /// Enough messages.
    pub messages: usize,
    /// Enough bytes of chunks.
    pub bytes: usize,
}

/// Chunks that have messages in the state that was asked for, and how far that went.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The chunks, by lane and number.
    pub chunks: Vec<PeekedChunk>,
    /// How many chunks were looked at.
    pub looked_at: usize,
    /// Where to go on; `None` at the end of the queue.
    pub next: Option<PeekCursor>,
    /// It took long to find nothing: behind somebody's old snapshot lies what was deleted.
    pub is_slow: bool,
}

/// A chunk, and what became of its messages.
#[derive(Debug, Clone)]
pub struct PeekedChunk {
    /// Its lane.
    pub lane: LaneId,
    /// The number of its first message.
    pub seq: i64,
    /// How many messages it has.
    pub messages: i64,
    /// The salt of its messages.
    pub salt: u32,
    /// The number of the first message that was asked for.
    pub first: i64,
    /// Nobody has received the messages from this number on.
    pub ahead: i64,
    /// The database's clock.
    pub now: OffsetDateTime,
    /// When its messages were first sent.
    pub sent_at: OffsetDateTime,
    /// The encoded frames.
    pub body: Bytes,
    /// The leases that point into it.
    pub leases: Vec<PeekedLease>,
}

/// A lease, as it is seen by somebody who has none of its messages.
#[derive(Debug, Clone, Copy)]
pub struct PeekedLease {
    /// The number that the mask counts from.
    pub lo: i64,
    /// The messages, a bit each.
    pub mask: u64,
    /// When it ends.
    pub visible_at: OffsetDateTime,
    /// How often its messages were received here.
    pub receive_count: i32,
    /// When first, if ever.
    pub first_received_at: Option<OffsetDateTime>,
    /// Whether they wait for their time rather than being received.
    pub is_delayed: bool,
}

/// How a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What can happen to it next.
    pub state: MessageState,
    /// How often it was received here.
    pub receive_count: i32,
    /// When first, if ever.
    pub first_received_at: Option<OffsetDateTime>,
    /// The end of its lease, if it has one.
    pub visible_at: Option<OffsetDateTime>,
}

impl PeekedChunk {
    /// How the message of a number is; `None` when it is gone.
    pub fn standing(&self, seq: i64) -> Option<Standing> {
        if seq >= self.ahead {
            return Some(Standing {
                state: MessageState::Visible,
                receive_count: 0,
                first_received_at: None,
                visible_at: None,
            });
        }
        let names = |lease: &&PeekedLease| {
            let bit = u32::try_from(seq - lease.lo).ok();
            bit.and_then(|bit| lease.mask.checked_shr(bit))
                .is_some_and(|rest| rest & 1 == 1)
        };
        let lease = self.leases.iter().find(names)?;
        let state = if lease.visible_at <= self.now {
            MessageState::Visible
        } else if lease.is_delayed {
            MessageState::Delayed
        } else {
            MessageState::InFlight
        };
        Some(Standing {
            state,
            receive_count: lease.receive_count,
            first_received_at: lease.first_received_at,
            visible_at: Some(lease.visible_at),
        })
    }

    /// The numbers of the messages that were asked for.
    pub fn seqs(&self) -> std::ops::Range<i64> {
        self.first..self.seq + self.messages
    }
}

/// A message that was looked for by its id.
#[derive(Debug, Clone)]
pub struct FoundMessage {
    /// The queue that it is in.
    pub queue: QueueName,
    /// Its chunk, whose `first` is the message.
    pub chunk: PeekedChunk,
}

/// What became of a message that was to be changed although nobody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<T> {
    /// It was changed.
    Done(T),
    /// It is not there.
    Gone,
    /// It is ahead of the cursor: there is nothing of it that could be changed.
    Ahead,
    /// Somebody has it.
    InFlight,
    /// Somebody is at it at this moment.
    Busy,
    /// Its life ends before.
    Expires(OffsetDateTime),
}

impl<T> Change<T> {
    /// The same with something else of what was done.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Done(done) => Change::Done(of(done)),
            Self::Gone => Change::Gone,
            Self::Ahead => Change::Ahead,
            Self::InFlight => Change::InFlight,
            Self::Busy => Change::Busy,
            Self::Expires(until) => Change::Expires(until),
        }
    }
}

impl Store {
    /// Looks at messages of a queue, without receiving them; `None` when the queue is gone.
    ///
    /// # Errors
    /// As every statement.
    pub async fn peek(&self, queue: QueueId, peek: &Peek) -> Result<Option<Peeked>, Failure> {
        let statement = query(PEEK)
            .bind(SubscriptionId::QUEUE.0)
            .bind(queue.get())
            .bind(peek.state.map(state_code))
            .bind(peek.from.map_or(0, |from| from.lane.raw()))
            .bind(peek.from.map_or(0, |from| from.seq))
            .bind(i32::try_from(peek.chunks).unwrap_or(i32::MAX))
            .bind(i64::try_from(peek.messages).unwrap_or(i64::MAX))
            .bind(i64::try_from(peek.bytes).unwrap_or(i64::MAX));
        let mut peeked = Peeked::default();
        for row in &self.read(statement).await? {
            if row.try_get::<i16, _>("kind")? == 0 {
                peeked.chunks.push(chunk(row)?);
                continue;
            }
            match row.try_get("code")? {
                0 => {}
                1 => peeked.is_slow = true,
                _ => return Ok(None),
            }
            peeked.looked_at = usize::try_from(row.try_get::<i32, _>("n")?).unwrap_or_default();
            let lane: Option<i64> = row.try_get("lane_id")?;
            peeked.next = match lane {
                None => None,
                Some(lane) => Some(PeekCursor {
                    lane: super::lane(lane)?,
                    seq: row.try_get("seq")?,
                }),
            };
        }
        Ok(Some(peeked))
    }

    /// The message of an id and, as far as the id says so, of a place; wherever it is now. Whether it is
    /// that message its frame, its place and its salt must show.
    ///
    /// # Errors
    /// As every statement.
    pub async fn find_message(
        &self,
        tenant: &Tenant,
        id: Uuid,
        place: Option<Position>,
    ) -> Result<Option<FoundMessage>, Failure> {
        let statement = query(FIND)
            .bind(SubscriptionId::QUEUE.0)
            .bind(tenant.0.clone())
            .bind(id)
            .bind(place.map(|place| place.lane.raw()))
            .bind(place.map(|place| place.seq));
        let rows = self.read(statement).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let queue = QueueName::parse("queue", row.try_get("queue")?)
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some(FoundMessage {
            queue,
            chunk: chunk(row)?,
        }))
    }

    /// Deletes a message that nobody holds.
    ///
    /// # Errors
    /// As every statement.
    pub async fn cancel_message(&self, place: Position) -> Result<Change<()>, Failure> {
        let statement = query(CANCEL)
            .bind(SubscriptionId::QUEUE.0)
            .bind(place.lane.raw())
            .bind(place.seq)
            .bind(place.salt.cast_signed());
        let rows = self.write(statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        change(row.try_get(0)?, || Ok(()), || Err(no_time()))
    }

    /// Has a message that nobody holds wait for so long from now; from when on it is visible. `token` is
    /// a new one, positive.
    ///
    /// # Errors
    /// As every statement.
    pub async fn reschedule_message(
        &self,
        place: Position,
        delay: Duration,
        token: i32,
    ) -> Result<Change<OffsetDateTime>, Failure> {
        let statement = query(RESCHEDULE)
            .bind(SubscriptionId::QUEUE.0)
            .bind(place.lane.raw())
            .bind(place.seq)
            .bind(place.salt.cast_signed())
            .bind(milliseconds(delay))
            .bind(token);
        let rows = self.write(statement).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let at = || row.try_get("at");
        change(row.try_get("code")?, at, at)
    }
}

fn change<T>(
    code: i16,
    done: impl FnOnce() -> Result<T, sqlx::Error>,
    until: impl FnOnce() -> Result<OffsetDateTime, sqlx::Error>,
) -> Result<Change<T>, Failure> {
    Ok(match code {
        0 => Change::Done(done()?),
        2 => Change::Gone,
        3 => Change::Ahead,
        4 => Change::InFlight,
        6 => Change::Expires(until()?),
        _ => Change::Busy,
    })
}

fn no_time() -> sqlx::Error {
    sqlx::Error::Decode("a message that is to go has no time to wait for".into())
}

const fn state_code(state: MessageState) -> i16 {
    match state {
        MessageState::Visible => 0,
        MessageState::InFlight => 1,
        MessageState::Delayed => 2,
    }
}

fn chunk(row: &PgRow) -> Result<PeekedChunk, sqlx::Error> {
    Ok(PeekedChunk {
        lane: super::lane(row.try_get("lane_id")?)?,
        seq: row.try_get("seq")?,
        messages: row.try_get::<i32, _>("n")?.into(),
        salt: row.try_get::<i32, _>("code")?.cast_unsigned(),
        first: row.try_get("first")?,
        ahead: row.try_get("ahead")?,
        now: row.try_get("at")?,
        sent_at: row.try_get("sent_at")?,
        body: row.try_get::<Vec<u8>, _>("body")?.into(),
        leases: leases(row)?,
    })
}

/// The leases stand in columns of lists, which are missing where there is none.
fn leases(row: &PgRow) -> Result<Vec<PeekedLease>, sqlx::Error> {
    let Some(los) = row.try_get::<Option<Vec<i64>>, _>("los")? else {
        return Ok(Vec::new());
    };
    let masks: Vec<i64> = row.try_get("masks")?;
    let ends: Vec<OffsetDateTime> = row.try_get("ends")?;
    let counts: Vec<i32> = row.try_get("counts")?;
    let states: Vec<i16> = row.try_get("states")?;
    let firsts: Vec<Option<OffsetDateTime>> = row.try_get("firsts")?;
    let columns = los.into_iter().zip(masks).zip(ends).zip(counts);
    let columns = columns.zip(states).zip(firsts);
    Ok(columns
        .map(
            |(((((lo, mask), visible_at), receive_count), state), first_received_at)| PeekedLease {
                lo,
                mask: mask.cast_unsigned(),
                visible_at,
                receive_count,
                first_received_at,
                is_delayed: state == DELAYED,
            },
        )
        .collect())
}

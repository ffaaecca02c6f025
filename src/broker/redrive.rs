//! What a redrive asks of the hot path: messages to be moved, and their move.
//!
//! Whoever redrives is a receiver like others, and a mover like the one of dead letters: it gets leases,
//! takes them over, and has them end here and their messages appear there in one transaction.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::append::{self, Outgoing, With};
use super::claim::{self, Delivery};
use super::{Broker, Receive, ask, commit_of};
use crate::domain::chunk::Frame;
use crate::domain::lane::Position;
use crate::domain::message::Origin;
use crate::domain::queue::Queue;
use crate::domain::{Error, Result};
use crate::store::{HeldLease, LeaseRow};

/// Messages under one lease, for one who is to move them.
#[derive(Debug)]
pub struct Taken {
    /// The lease.
    pub row: LeaseRow,
    /// All of its messages, a bit each.
    pub mask: u64,
    /// When they were taken, on the database's clock.
    pub at: OffsetDateTime,
    /// Those that can be read.
    pub messages: Vec<TakenMessage>,
}

/// A message to be moved.
#[derive(Debug, Clone)]
pub struct TakenMessage {
    /// Its place in the lease.
    pub index: u8,
    /// Its number in its lane.
    pub seq: i64,
    /// Its id.
    pub message_id: Uuid,
    /// The id that goes with the place it is at.
    place_id: Uuid,
    /// When it was first sent.
    pub sent_at: OffsetDateTime,
    /// The rest.
    pub frame: Frame,
}

/// Messages that are to move: all of a lease that is the mover's, to one queue.
#[derive(Debug)]
pub struct Redriven<'a> {
    /// The lease.
    pub lease: HeldLease,
    /// Its messages, in order.
    pub messages: &'a [TakenMessage],
    /// Where they go.
    pub target: &'a Arc<Queue>,
}

impl TakenMessage {
    /// A message by its place in the lease, its number, its id and that of its place.
    pub fn new(
        index: u8,
        seq: i64,
        [message_id, place_id]: [Uuid; 2],
        sent_at: OffsetDateTime,
        frame: Frame,
    ) -> Self {
        Self {
            index,
            seq,
            message_id,
            place_id,
            sent_at,
            frame,
        }
    }
}

impl Broker {
    /// Hands out messages of a queue to one who is to move them. An empty answer means that there was nothing
    /// to receive.
    ///
    /// # Errors
    /// As [`Broker::claim`].
    pub async fn take(
        &self,
        queue: &Arc<Queue>,
        max: usize,
        window: Duration,
    ) -> Result<Vec<Taken>> {
        let (reply, answer) = oneshot::channel();
        let item = claim::Item {
            queue: Arc::clone(queue),
            receive: Receive {
                max,
                wait: Duration::ZERO,
                window,
            },
            reply,
        };
        let batcher = &self.claims[commit_of(queue)];
        let mut taken: Vec<Taken> = Vec::new();
        for delivery in ask(batcher, item, answer, "receives waiting").await? {
            let row = LeaseRow {
                lane: delivery.lease.lane,
                lo: delivery.lease.lo,
                token: delivery.lease.token,
            };
            if taken.last().is_none_or(|last| last.row != row) {
                taken.push(Taken {
                    row,
                    mask: delivery.lease.mask,
                    at: delivery.lease.visible_at - window,
                    messages: Vec::new(),
                });
            }
            if let Some(last) = taken.last_mut() {
                last.messages.push(self.taken(delivery));
            }
        }
        Ok(taken)
    }

    fn taken(&self, delivery: Delivery) -> TakenMessage {
        let seq = delivery.seq();
        let place = Position {
            lane: delivery.lease.lane,
            seq,
            salt: delivery.salt,
        };
        let ids = [
            self.message_id(place, &delivery.frame),
            self.keys.id.seal(place),
        ];
        TakenMessage::new(delivery.index, seq, ids, delivery.sent_at, delivery.frame)
    }

    /// The id of a message, by where it is and what is stored of it.
    pub fn message_id(&self, place: Position, frame: &Frame) -> Uuid {
        let origin = frame.origin.as_ref();
        origin.map_or_else(|| self.keys.id.seal(place), |origin| origin.message_id)
    }

    /// Moves messages: each lease with all of its messages or not at all. Says for each whether it did.
    ///
    /// # Errors
    /// For each lease: [`Error::QueueNotFound`] when the target is gone; [`Error::UnknownOutcome`] when it may
    /// have moved; [`Error::Unavailable`] also when the lease is not as it was. The other errors mean that
    /// nothing moved.
    pub async fn redrive(&self, batch: &[Redriven<'_>]) -> Vec<Result<()>> {
        let mut answers = Vec::with_capacity(batch.len());
        for redriven in batch {
            let (reply, answer) = oneshot::channel();
            let item = append::Item {
                target: redriven.target.id,
                queue: Arc::clone(redriven.target),
                messages: redriven.messages.iter().map(anew).collect(),
                with: With::Source(
                    redriven.lease,
                    redriven
                        .messages
                        .iter()
                        .map(|message| [message.message_id, message.place_id])
                        .collect(),
                ),
                _room: None,
                reply,
            };
            // The batcher ends after all who hold a broker.
            let _ended = self.appends.careful.send(item).await;
            answers.push(answer);
        }
        let mut moved = Vec::with_capacity(batch.len());
        for answer in answers {
            let answer = answer.await.unwrap_or(Err(Error::UnknownOutcome(None)));
            moved.push(answer.map(|_stored| ()));
        }
        moved
    }
}

/// The message as it comes to its new queue: what it is and was stays, and deliveries count anew.
fn anew(message: &TakenMessage) -> Outgoing {
    Outgoing {
        frame: Frame {
            origin: Some(Origin {
                message_id: message.message_id,
                deliveries: 0,
                first_received_at: None,
            }),
            ..message.frame.clone()
        },
        delay: Duration::ZERO,
        time_to_live: None,
        sent_at: Some(message.sent_at),
    }
}

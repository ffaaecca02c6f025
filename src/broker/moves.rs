//! The mover: takes messages that were received too often to their dead-letter queue.
//!
//! It is a receiver like others: what it moves is leased to it, and goes there and from here in one
//! transaction. What it does not get done comes back when its lease ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::append::{self, Outgoing, With};
use crate::clock::Clock;
use crate::domain::Result;
use crate::domain::chunk::{self, Frame};
use crate::domain::lane::{Position, SubscriptionId};
use crate::domain::limits;
use crate::domain::message::{Death, DeathCause, Origin};
use crate::domain::message_id::IdKey;
use crate::domain::queue::Queue;
use crate::metrics::{Count, Metrics};
use crate::store::{LeaseRow, Moving, Session};

/// Leases that may wait to be moved; more come back when they end.
const MAX_WAITING: usize = 1_000;
/// Leases that are read at once: with large messages, 64 MiB.
const BATCH: usize = 64;

/// Where leases of messages to be moved are handed in.
#[derive(Debug, Clone)]
pub(super) struct Mover {
    leases: mpsc::Sender<(Arc<Queue>, LeaseRow)>,
}

/// What the mover shares with others.
#[derive(Debug)]
pub(super) struct Shared {
    /// The careful appends.
    pub(super) append: mpsc::Sender<append::Item>,
    pub(super) ids: IdKey,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
}

/// Moves messages, one batch after another.
#[derive(Debug)]
pub(super) struct Batcher {
    session: Session,
    shared: Shared,
    leases: mpsc::Receiver<(Arc<Queue>, LeaseRow)>,
}

impl Mover {
    /// The mover's two ends. It runs until the first one is dropped everywhere.
    pub(super) fn new(session: Session, shared: Shared) -> (Self, Batcher) {
        let (sender, leases) = mpsc::channel(MAX_WAITING);
        let batcher = Batcher {
            session,
            shared,
            leases,
        };
        (Self { leases: sender }, batcher)
    }

    /// Takes leases that are the mover's. Those that it has no room for come back in time.
    pub(super) fn take(&self, queue: &Arc<Queue>, leases: impl IntoIterator<Item = LeaseRow>) {
        for lease in leases {
            let _full = self.leases.try_send((Arc::clone(queue), lease));
        }
    }
}

impl Batcher {
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        while self.leases.recv_many(&mut batch, BATCH).await > 0 {
            let mut queues: Vec<(Arc<Queue>, Vec<LeaseRow>)> = Vec::new();
            for (queue, lease) in batch.drain(..) {
                match queues.iter_mut().find(|(known, _)| known.id == queue.id) {
                    Some((_, leases)) => leases.push(lease),
                    None => queues.push((queue, vec![lease])),
                }
            }
            for (queue, leases) in queues {
                self.move_leases(&queue, &leases).await;
            }
        }
    }

    async fn move_leases(&mut self, queue: &Arc<Queue>, leases: &[LeaseRow]) {
        let moving = match self.session.moving(SubscriptionId::QUEUE, leases).await {
            Ok(moving) => moving,
            Err(failure) => {
                tracing::warn!(
                    error = &failure as &dyn std::error::Error,
                    leases = leases.len(),
                    "dead letters are not moved yet"
                );
                return;
            }
        };
        let mut answers = Vec::new();
        for moving in &moving {
            let (reply, answer) = oneshot::channel();
            let Some(item) = self.dead_letters(queue, moving, reply) else {
                continue;
            };
            let messages = item.messages.len();
            // The batcher ends after this task.
            let _ended = self.shared.append.send(item).await;
            answers.push((messages, answer));
        }
        for (messages, answer) in answers {
            // A failure was logged where it was met; the lease comes back.
            if let Ok(Ok(_)) = answer.await {
                let counts = [(Count::DeadLettered, messages)];
                self.shared.metrics.count(queue, &counts);
            }
        }
    }

    /// The messages of a lease as they go to the dead-letter queue.
    fn dead_letters(
        &self,
        queue: &Arc<Queue>,
        moving: &Moving,
        reply: oneshot::Sender<Result<append::Stored>>,
    ) -> Option<append::Item> {
        let target = moving.target?;
        let frames = match chunk::read(&moving.body) {
            Ok(frames) => frames,
            Err(unreadable) => {
                tracing::error!(
                    error = &unreadable as &dyn std::error::Error,
                    lane = moving.lease.lane.raw(),
                    seq = moving.chunk,
                    "dead letters cannot be moved"
                );
                return None;
            }
        };
        let mut ids = Vec::new();
        let mut messages = Vec::new();
        for offset in (0..u64::BITS).filter(|offset| moving.lease.mask >> offset & 1 == 1) {
            let seq = moving.lease.lo + i64::from(offset);
            let at = usize::try_from(seq - moving.chunk).ok();
            let Some(frame) = at.and_then(|at| frames.get(at)) else {
                tracing::error!(
                    lane = moving.lease.lane.raw(),
                    seq,
                    "dead letters cannot be moved: their chunk does not hold this one"
                );
                return None;
            };
            let position = Position {
                lane: moving.lease.lane,
                seq,
                salt: moving.salt,
            };
            let here = self.shared.ids.seal(position);
            let id = frame.origin.map_or(here, |origin| origin.message_id);
            ids.push([id, here]);
            messages.push(Outgoing {
                frame: self.dead(queue, moving, frame, id),
                delay: Duration::ZERO,
                time_to_live: None,
                sent_at: Some(moving.sent_at),
            });
        }
        Some(append::Item {
            target,
            queue: Arc::clone(queue),
            messages,
            with: With::Source(moving.lease, ids),
            _room: None,
            reply,
        })
    }

    fn dead(&self, queue: &Queue, moving: &Moving, frame: &Frame, id: Uuid) -> Frame {
        let before = frame.origin.as_ref();
        let mut deaths = frame.deaths.clone();
        deaths.push(Death {
            queue: queue.name.as_str().to_owned(),
            cause: DeathCause::MaxReceiveCount,
            text: moving.reason.clone(),
            at: self.shared.clock.utc(),
            receive_count: moving.receive_count,
        });
        if deaths.len() > limits::MAX_DEATHS {
            deaths.remove(0);
        }
        Frame {
            content: frame.content.clone(),
            origin: Some(Origin {
                message_id: id,
                deliveries: before.map_or(0, |before| before.deliveries) + moving.receive_count,
                first_received_at: before
                    .and_then(|before| before.first_received_at)
                    .or(moving.first_received_at),
            }),
            deaths,
            unknown: frame.unknown.clone(),
        }
    }
}

//! The hot path: turns many concurrent requests into few statements, and wakes whoever waits.
//!
//! Three batchers, each a task with a connection of its own: append, claim, ack. A request is an
//! item on a bounded channel and a one-shot answer; while one batch is at the database the next
//! one gathers, so a batch closes when the previous one returns and nothing is added when idle.
//! A caller that goes away drops its answer, never a statement.

mod ack;
mod append;
mod claim;
mod dues;
mod lanes;
mod lines;
mod low_water;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use lanes::WriterLease;

use crate::clock::Clock;
use crate::domain::lane::{Position, QueueId, SubscriptionId};
use crate::domain::message::{NewMessage, ReceivedMessage, SentMessage};
use crate::domain::message_id::IdKey;
use crate::domain::queue::Queue;
use crate::domain::receipt::{Receipt, ReceiptKey};
use crate::domain::{Error, Result};
use crate::store::{Ack, ClaimedDelivery, LeaseKey, Store};
use waiters::Wakes;

/// Bodies of sends that may wait for the append batcher, in KiB.
const MAX_WAITING_KIB: usize = 128 * 1024;

/// What an operator sets on the batchers.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Most messages in one append.
    pub append_batch: usize,
    /// Most receivers in one claim.
    pub claim_batch: usize,
    /// Most messages in one ack.
    pub ack_batch: usize,
    /// Requests that may wait for each batcher; more are refused as overload.
    pub queue_length: usize,
    /// Receives that may wait for a message at once; more are refused as overload.
    pub max_waiting_receives: usize,
    /// How often a queue with waiting receivers is looked at although nothing was heard of it.
    pub safety_probe: Duration,
    /// When the database cancels a statement.
    pub statement_timeout: Duration,
}

/// The keys that seal what leaves the broker.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Seals message ids.
    pub id: IdKey,
    /// Seals receipt handles.
    pub receipt: ReceiptKey,
}

/// A request to receive.
#[derive(Debug, Clone, Copy)]
pub struct Receive {
    /// Most messages, at least 1.
    pub max: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// How long the receiver has for what it gets.
    pub window: Duration,
}

/// The handle that requests use; clones share the batchers.
#[derive(Debug, Clone)]
pub struct Broker {
    append: mpsc::Sender<append::Item>,
    claim: mpsc::Sender<claim::Item>,
    ack: mpsc::Sender<ack::Item>,
    wakes: Arc<Wakes>,
    keys: Arc<Keys>,
    room: Arc<Semaphore>,
}

/// What the batchers run on.
#[derive(Debug)]
pub struct BrokerParts<'a> {
    /// The database, to open each batcher's session on.
    pub store: &'a Store,
    /// The keys of the cluster.
    pub keys: Keys,
    /// This node's writer number.
    pub writer: WriterLease,
    /// This node's clock.
    pub clock: Clock,
    /// Who keeps the batchers' tasks.
    pub tracker: &'a TaskTracker,
    /// Ends long polls: those that wait get an empty answer.
    pub draining: CancellationToken,
    /// Cancelled when a batcher ends by a bug: without it the node is of no use.
    pub failed: CancellationToken,
}

impl Broker {
    /// Starts the batchers. They end when the last handle is dropped and their queues are empty.
    pub fn start(options: &BrokerOptions, parts: BrokerParts<'_>) -> Self {
        let (append, append_items) = mpsc::channel(options.queue_length);
        let (claim, claim_items) = mpsc::channel(options.queue_length);
        let (ack, ack_items) = mpsc::channel(options.queue_length);
        let wakes = Arc::new(Wakes::default());
        let session = || parts.store.session(options.statement_timeout);
        let append_batcher = append::Batcher::new(
            session(),
            parts.writer,
            Arc::clone(&wakes),
            options.append_batch,
        );
        let claim_batcher = claim::Batcher::new(
            session(),
            Arc::clone(&wakes),
            parts.clock,
            options,
            parts.draining,
        );
        let ack_batcher = ack::run(session(), options.ack_batch, ack_items);
        let tracker = parts.tracker;
        tracker.spawn(watched(
            parts.failed.clone(),
            append_batcher.run(append_items),
        ));
        tracker.spawn(watched(
            parts.failed.clone(),
            claim_batcher.run(claim_items),
        ));
        tracker.spawn(watched(parts.failed, ack_batcher));
        Self {
            append,
            claim,
            ack,
            wakes,
            keys: Arc::new(parts.keys),
            room: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
        }
    }

    /// Stores messages of one queue, all or none, and says so once they are durable.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] and [`Error::Internal`] when messages may have been stored; the
    /// other errors mean that none was.
    pub async fn append(
        &self,
        queue: &Arc<Queue>,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<SentMessage>> {
        let count = messages.len();
        let bytes: usize = messages
            .iter()
            .map(|message| message.body.bytes.len())
            .sum();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib);
        let room = room.map_err(|_full| Error::Overloaded {
            what: "bytes of sends waiting",
        })?;
        let frames = messages
            .into_iter()
            .map(|message| message.body.into())
            .collect();
        let (reply, answer) = oneshot::channel();
        let item = append::Item {
            queue: Arc::clone(queue),
            frames,
            _room: room,
            reply,
        };
        let stored = ask(&self.append, item, answer, "sends waiting").await?;
        Ok((0..)
            .take(count)
            .map(|offset| SentMessage {
                message_id: self.keys.id.seal(Position {
                    lane: stored.lane,
                    seq: stored.first + offset,
                    salt: stored.salt,
                }),
                sent_at: stored.at,
            })
            .collect())
    }

    /// Hands out messages of a queue, waiting for the first as long as asked.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`] when the queue is deleted meanwhile; [`Error::UnknownOutcome`] when
    /// messages may have been claimed that come back when their windows end;
    /// [`Error::Unavailable`].
    pub async fn claim(
        &self,
        queue: &Arc<Queue>,
        receive: Receive,
    ) -> Result<Vec<ReceivedMessage>> {
        let (reply, answer) = oneshot::channel();
        let item = claim::Item {
            queue: Arc::clone(queue),
            receive,
            reply,
        };
        let deliveries = ask(&self.claim, item, answer, "receives waiting").await?;
        Ok(deliveries
            .into_iter()
            .map(|delivery| self.received(delivery))
            .collect())
    }

    fn received(&self, delivery: claim::Delivery) -> ReceivedMessage {
        let claim::Delivery {
            lease,
            salt,
            sent_at,
            body,
        } = delivery;
        let position = Position {
            lane: lease.lane,
            seq: lease.seq,
            salt,
        };
        let receipt = Receipt {
            position,
            subscription: SubscriptionId::QUEUE,
            epoch: lease.epoch,
            token: lease.token,
            lease_size: 1,
            lease_index: 0,
            moved: false,
        };
        ReceivedMessage {
            message_id: self.keys.id.seal(position),
            receipt_handle: self.keys.receipt.seal(&receipt),
            body,
            sent_at,
            first_received_at: lease.first_received_at,
            receive_count: lease.receive_count,
            visible_at: lease.visible_at,
        }
    }

    /// What a receipt handle of this cluster says.
    pub fn open_receipt(&self, handle: &str) -> Option<Receipt> {
        self.keys.receipt.open(handle)
    }

    /// Deletes messages by their receipts, and says so once that is durable.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] and [`Error::Internal`] when messages may have been deleted; the
    /// other errors mean that none was.
    pub async fn ack(&self, receipts: &[Receipt]) -> Result<Vec<Ack>> {
        let leases = receipts
            .iter()
            .map(|receipt| {
                let lease = LeaseKey {
                    lane: receipt.position.lane,
                    lo: receipt.position.seq,
                    token: receipt.token,
                    epoch: receipt.epoch,
                };
                (lease, receipt.position.salt)
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        ask(
            &self.ack,
            ack::Item { leases, reply },
            answer,
            "deletes waiting",
        )
        .await
    }

    /// Has the receivers that wait on a queue look at it again.
    pub fn wake(&self, queue: QueueId) {
        self.wakes.wake([queue]);
    }
}

/// A delivery's key, as a batcher uses it.
fn lease_key(delivery: &ClaimedDelivery) -> LeaseKey {
    LeaseKey {
        lane: delivery.lane,
        lo: delivery.seq,
        token: delivery.token,
        epoch: delivery.epoch,
    }
}

async fn watched(failed: CancellationToken, batcher: impl Future<Output = ()>) {
    let unless_it_ends = failed.drop_guard();
    batcher.await;
    unless_it_ends.disarm();
}

async fn ask<I, T>(
    batcher: &mpsc::Sender<I>,
    item: I,
    answer: oneshot::Receiver<Result<T>>,
    limit: &'static str,
) -> Result<T> {
    match batcher.try_send(item) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Err(Error::Overloaded { what: limit }),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(Error::Unavailable(None)),
    }
    // A batcher that is gone has taken its connection along: what it had sent may have happened.
    answer.await.unwrap_or(Err(Error::UnknownOutcome(None)))
}

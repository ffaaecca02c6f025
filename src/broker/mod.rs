//! The hot path: turns many concurrent requests into few statements, and wakes whoever waits.
//!
//! Batchers, each a task with a connection of its own: append, claim, leases (deletes and extends). A
//! request is an item on a bounded channel and a one-shot answer; while one batch is at the database
//! the next one gathers, so a batch closes when the previous one has returned and what has arrived
//! by then is in it; nothing is added when idle. A caller that goes away drops its answer, never a
//! statement.
//!
//! There are two of each: one whose commits are flushed before they are answered, and one for queues
//! that trade that for speed. A third append batcher takes what goes with more than a plain append.

mod append;
mod claim;
mod dues;
mod lanes;
mod leases;
mod lines;
mod low_water;
mod moves;
mod neighbours;
mod outbox;
mod redrive;
mod runs;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use lanes::WriterLease;
pub use redrive::{Redriven, Taken, TakenMessage};

use crate::clock::Clock;
use crate::domain::chunk::Frame;
use crate::domain::lane::{Position, QueueId, SubscriptionId};
use crate::domain::message::{NewMessage, ReceivedMessage, SentMessage};
use crate::domain::message_id::IdKey;
use crate::domain::queue::{Durability, Queue};
use crate::domain::receipt::{Receipt, ReceiptKey};
use crate::domain::{Error, Result};
use crate::metrics::{Count, Metrics};
use crate::store::{Acked, Commit, Session, Store};
use append::{Outgoing, SendKey, With};
use claim::Delivery;
use dues::Dues;
use moves::Mover;
use outbox::Relay;
use waiters::Wakes;

/// Bodies of sends that may wait for the append batchers, in KiB.
const MAX_WAITING_KIB: usize = 128 * 1024;

/// Turns of the runtime for which a batch stays open: one to read requests, the others for what the
/// requests wait for on their way to the batcher.
const TURNS: u32 = 4;

/// What an operator sets on the batchers.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Messages after which an append takes no more requests.
    pub append_batch: usize,
    /// Most receivers in one claim.
    pub claim_batch: usize,
    /// Messages after which a delete or an extend takes no more requests.
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

/// A send that may come again.
#[derive(Debug, Clone)]
pub struct OnceKey {
    /// What it is known by.
    pub hash: Uuid,
    /// What it sends, in short.
    pub digest: [u8; 32],
}

/// A message whose window is to be another.
#[derive(Debug, Clone)]
pub struct NewWindow {
    /// The delivery.
    pub receipt: Receipt,
    /// How long from now on the message stays hidden; else as the queue's retry policy says, and without
    /// one it is visible at once.
    pub window: Option<Duration>,
    /// The receiver gives it up: after so many deliveries it goes to the dead-letter queue.
    pub gives_up: bool,
    /// What the receiver says about it.
    pub reason: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Others may receive the message from then on.
    VisibleAt(time::OffsetDateTime),
    /// The message goes to the dead-letter queue.
    DeadLettered,
    /// The delivery is not the newest, or its window is over; nothing was changed.
    Stale,
}

/// The handle that requests use; clones share the batchers.
#[derive(Debug, Clone)]
pub struct Broker {
    appends: Appends,
    claims: [mpsc::Sender<claim::Item>; 2],
    leases: [mpsc::Sender<leases::Item>; 2],
    wakes: Arc<Wakes>,
    dues: Arc<Dues>,
    clock: Clock,
    keys: Arc<Keys>,
    room: Arc<Semaphore>,
    queues_changed: watch::Receiver<u64>,
    metrics: Metrics,
}

/// The append batchers.
#[derive(Debug, Clone)]
struct Appends {
    flushed: mpsc::Sender<append::Item>,
    soon: mpsc::Sender<append::Item>,
    careful: mpsc::Sender<append::Item>,
}

/// What the batchers run on.
#[derive(Debug)]
pub struct BrokerParts<'a> {
    /// The database, to open each batcher's session on.
    pub store: &'a Store,
    /// The keys of the cluster.
    pub keys: Keys,
    /// This node.
    pub node: Uuid,
    /// This node's writer number, and that of its careful appends.
    pub writers: [WriterLease; 2],
    /// This node's clock.
    pub clock: Clock,
    /// Who keeps the batchers' tasks.
    pub tracker: &'a TaskTracker,
    /// Ends long polls: those that wait get an empty answer.
    pub draining: CancellationToken,
    /// Ends what runs beside requests.
    pub background: CancellationToken,
    /// Cancelled when a batcher ends by a bug: without it the node is of no use.
    pub failed: CancellationToken,
    /// Where it is counted what the broker does.
    pub metrics: Metrics,
}

/// What is needed to start a batcher.
struct Starter<'a> {
    options: &'a BrokerOptions,
    store: &'a Store,
    ids: IdKey,
    wakes: Arc<Wakes>,
    dues: Arc<Dues>,
    clock: Clock,
    tracker: &'a TaskTracker,
    draining: CancellationToken,
    background: CancellationToken,
    failed: CancellationToken,
    metrics: Metrics,
}

/// The flush of each of the two batchers for claims and leases.
const COMMITS: [Commit; 2] = [Commit::Flushed, Commit::Soon];

impl Starter<'_> {
    fn session(&self, commit: Commit) -> Session {
        self.store.session(self.options.statement_timeout, commit)
    }

    fn spawn(&self, batcher: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(watched(self.failed.clone(), batcher));
    }

    fn append(&self, commit: Commit, writer: WriterLease) -> mpsc::Sender<append::Item> {
        let (sender, items) = mpsc::channel(self.options.queue_length);
        let shared = append::Shared {
            wakes: Arc::clone(&self.wakes),
            dues: Arc::clone(&self.dues),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
            max_messages: self.options.append_batch,
        };
        self.spawn(append::Batcher::new(self.session(commit), writer, shared).run(items));
        sender
    }

    fn mover(&self, append: mpsc::Sender<append::Item>) -> Mover {
        let shared = moves::Shared {
            append,
            ids: self.ids.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let (mover, moves) = Mover::new(self.session(Commit::Flushed), shared);
        self.spawn(moves.run());
        mover
    }

    fn claim(&self, inbox: usize, mover: &Mover) -> mpsc::Sender<claim::Item> {
        let (sender, items) = mpsc::channel(self.options.queue_length);
        let shared = claim::Shared {
            wakes: Arc::clone(&self.wakes),
            inbox,
            dues: Arc::clone(&self.dues),
            mover: mover.clone(),
            clock: self.clock.clone(),
            draining: self.draining.clone(),
            metrics: self.metrics.clone(),
        };
        let session = self.session(COMMITS[inbox]);
        self.spawn(claim::Batcher::new(session, self.options, shared).run(items));
        sender
    }

    fn leases(&self, commit: Commit, mover: &Mover) -> mpsc::Sender<leases::Item> {
        let (sender, items) = mpsc::channel(self.options.queue_length);
        let batcher = leases::Batcher {
            session: self.session(commit),
            wakes: Arc::clone(&self.wakes),
            dues: Arc::clone(&self.dues),
            mover: mover.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
            max_messages: self.options.ack_batch,
        };
        self.spawn(batcher.run(items));
        sender
    }

    /// What runs beside requests: other nodes are told and heard, the outbox is relayed, and due times
    /// wake those who wait.
    fn beside(
        &self,
        node: Uuid,
        writers: [WriterLease; 2],
        append: mpsc::Sender<append::Item>,
    ) -> watch::Receiver<u64> {
        let (queues_changed, changes) = watch::channel(0);
        let relay = Relay {
            store: self.store.clone(),
            session: self.session(Commit::Flushed),
            node,
            append,
            clock: self.clock.clone(),
            nudge: Arc::default(),
        };
        let tell = neighbours::tell(
            self.session(Commit::Soon),
            node,
            Arc::clone(&self.wakes),
            self.background.clone(),
        );
        let hear = neighbours::hear(
            self.store.clone(),
            node,
            Arc::clone(&self.wakes),
            Arc::clone(&relay.nudge),
            queues_changed,
            self.background.clone(),
        );
        self.tracker.spawn(relay.run(self.background.clone()));
        self.tracker.spawn(tell);
        self.tracker.spawn(hear);
        for writer in writers {
            let wakes = Arc::clone(&self.wakes);
            let others = move |has_others| wakes.set_others(has_others);
            let kept = writer.keep(others, self.background.clone());
            self.tracker.spawn(kept);
        }
        let (wakes, dues) = (Arc::clone(&self.wakes), Arc::clone(&self.dues));
        let (clock, background) = (self.clock.clone(), self.background.clone());
        self.tracker.spawn(async move {
            let timers = dues.run(&wakes, &clock);
            background.run_until_cancelled(timers).await;
        });
        changes
    }
}

impl Broker {
    /// Starts the batchers. They end when the last handle is dropped and their queues are empty.
    pub fn start(options: &BrokerOptions, parts: BrokerParts<'_>) -> Self {
        let starter = Starter {
            options,
            store: parts.store,
            ids: parts.keys.id.clone(),
            wakes: Arc::default(),
            dues: Arc::new(Dues::new(parts.clock.instant())),
            clock: parts.clock,
            tracker: parts.tracker,
            draining: parts.draining,
            background: parts.background,
            failed: parts.failed,
            metrics: parts.metrics,
        };
        let [writer, careful_writer] = parts.writers.clone();
        // A queue is either synchronous or not, so that the two do not meet in a lane.
        let appends = Appends {
            flushed: starter.append(Commit::Flushed, writer.clone()),
            soon: starter.append(Commit::Soon, writer),
            careful: starter.append(Commit::Flushed, careful_writer),
        };
        let mover = starter.mover(appends.careful.clone());
        let queues_changed = starter.beside(parts.node, parts.writers, appends.careful.clone());
        Self {
            appends,
            claims: [0, 1].map(|inbox| starter.claim(inbox, &mover)),
            leases: COMMITS.map(|commit| starter.leases(commit, &mover)),
            queues_changed,
            wakes: starter.wakes,
            dues: starter.dues,
            clock: starter.clock,
            metrics: starter.metrics,
            keys: Arc::new(parts.keys),
            room: Arc::new(Semaphore::new(MAX_WAITING_KIB)),
        }
    }

    /// Whether queues may have been made, changed or deleted by other nodes: the number changes then.
    pub fn queues_changed(&self) -> u64 {
        *self.queues_changed.borrow()
    }

    /// Where it is counted what the node does.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Says whether there are other nodes to tell of what can be received, as each heartbeat does.
    pub fn set_others(&self, has_others: bool) {
        self.wakes.set_others(has_others);
    }

    /// Stores messages of one queue, all or none, and says so once they are as durable as the queue
    /// wants. With `once`, a send that was stored before is answered as then.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] and [`Error::Internal`] when messages may have been stored; the
    /// other errors mean that none was; [`Error::IdempotencyKeyReused`] that something else was sent
    /// under the key.
    pub async fn append(
        &self,
        queue: &Arc<Queue>,
        messages: Vec<NewMessage>,
        once: Option<OnceKey>,
    ) -> Result<Vec<SentMessage>> {
        let bytes: usize = messages.iter().map(|message| message.content.size()).sum();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib);
        let room = room.map_err(|_full| Error::Overloaded {
            what: "bytes of sends waiting",
        })?;
        let delay = queue.settings.delay;
        let count = messages.len();
        let messages = messages
            .into_iter()
            .map(|message| Outgoing {
                frame: message.content.into(),
                delay: message.delay.unwrap_or(delay),
                time_to_live: message.time_to_live,
                sent_at: None,
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        let item = append::Item {
            target: queue.id,
            queue: Arc::clone(queue),
            messages,
            with: once.map_or(With::Nothing, |OnceKey { hash, digest }| {
                With::Key(SendKey { hash, digest })
            }),
            _room: Some(room),
            reply,
        };
        let batcher = match queue.settings.durability {
            _ if item.needs_care() => &self.appends.careful,
            Durability::Strict | Durability::Relaxed => &self.appends.flushed,
            Durability::Async => &self.appends.soon,
        };
        let stored = ask(batcher, item, answer, "sends waiting").await?;
        if !stored.is_repeated {
            let counts = [(Count::Sent, count), (Count::SentBytes, bytes)];
            self.metrics.count(queue, &counts);
        }
        let positions = stored.runs.iter().flat_map(runs::Run::positions);
        Ok(positions
            .map(|position| SentMessage {
                message_id: self.keys.id.seal(position),
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
        let batcher = &self.claims[commit_of(queue)];
        let deliveries = ask(batcher, item, answer, "receives waiting").await?;
        self.count_deliveries(queue, &deliveries);
        Ok(deliveries
            .into_iter()
            .map(|delivery| self.received(delivery))
            .collect())
    }

    fn count_deliveries(&self, queue: &Queue, deliveries: &[Delivery]) {
        if deliveries.is_empty() {
            return self.metrics.count(queue, &[(Count::EmptyReceives, 1)]);
        }
        self.metrics
            .count(queue, &[(Count::Received, deliveries.len())]);
        // Messages of one lease were sent at one time, and stand together.
        let same = |a: &Delivery, b: &Delivery| a.lease.token == b.lease.token;
        for of_lease in deliveries.chunk_by(same) {
            let Delivery { lease, sent_at, .. } = &of_lease[0];
            // A dead letter waited for its first receiver elsewhere.
            let first = |delivery: &&Delivery| delivery.frame.origin.is_none();
            let count = of_lease.iter().filter(first).count();
            if lease.receive_count == 1 && count > 0 {
                let wait = lease.first_received_at - *sent_at;
                self.metrics
                    .waited(wait.try_into().unwrap_or_default(), count);
            }
        }
    }

    fn received(&self, delivery: Delivery) -> ReceivedMessage {
        let lease = &delivery.lease;
        let position = Position {
            lane: lease.lane,
            seq: delivery.seq(),
            salt: delivery.salt,
        };
        let receipt = Receipt {
            position,
            subscription: SubscriptionId::QUEUE,
            epoch: lease.epoch,
            token: lease.token,
            lease_size: u8::try_from(lease.mask.count_ones()).expect("a mask has 64 bits"),
            lease_index: delivery.index,
            moved: delivery.frame.origin.is_some(),
        };
        let Frame {
            content,
            origin,
            deaths,
            ..
        } = delivery.frame;
        let before = origin.as_ref();
        ReceivedMessage {
            message_id: before
                .map_or_else(|| self.keys.id.seal(position), |before| before.message_id),
            receipt_handle: self.keys.receipt.seal(&receipt),
            content,
            sent_at: delivery.sent_at,
            first_received_at: before
                .and_then(|before| before.first_received_at)
                .unwrap_or(lease.first_received_at),
            receive_count: before.map_or(0, |before| before.deliveries) + lease.receive_count,
            visible_at: lease.visible_at,
            deaths,
        }
    }

    /// What a receipt handle of this cluster says.
    pub fn open_receipt(&self, handle: &str) -> Option<Receipt> {
        self.keys.receipt.open(handle)
    }

    /// Deletes messages of a queue by their receipts, and says so once that is as durable as the queue
    /// wants.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] and [`Error::Internal`] when messages may have been deleted;
    /// [`Error::Unavailable`] when somebody is at one of them for long: the others may be deleted. The
    /// other errors mean that none was.
    pub async fn ack(&self, queue: &Queue, receipts: Vec<Receipt>) -> Result<Vec<Acked>> {
        let (reply, answer) = oneshot::channel();
        let item = leases::Item::Ack { receipts, reply };
        let batcher = &self.leases[commit_of(queue)];
        let acked = ask(batcher, item, answer, "deletes waiting").await?;
        let is_deleted = |ack: &&Acked| matches!(ack, Acked::Deleted | Acked::DeletedUnderNewer);
        let deleted = acked.iter().filter(is_deleted).count();
        self.metrics.count(queue, &[(Count::Deleted, deleted)]);
        Ok(acked)
    }

    /// Gives messages of a queue other windows, each for itself.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] and [`Error::Internal`] when windows may have been changed;
    /// [`Error::Unavailable`] as for deletes.
    pub async fn extend(&self, queue: &Arc<Queue>, windows: Vec<NewWindow>) -> Result<Vec<Window>> {
        let (reply, answer) = oneshot::channel();
        let item = leases::Item::Extend {
            queue: Arc::clone(queue),
            entries: windows,
            reply,
        };
        let batcher = &self.leases[commit_of(queue)];
        ask(batcher, item, answer, "extends waiting").await
    }

    /// The id of the message at a place.
    pub fn seal_id(&self, position: Position) -> Uuid {
        self.keys.id.seal(position)
    }

    /// The place that an id names, if it is one of this cluster's.
    pub fn open_id(&self, id: Uuid) -> Option<Position> {
        self.keys.id.open(id)
    }

    /// Has the receivers that wait on a queue look at it again.
    pub fn wake(&self, queue: QueueId) {
        self.wakes.wake([queue]);
    }

    /// The same once a message is visible there that waits for so long from before now.
    pub fn wake_after(&self, queue: QueueId, delay: Duration) {
        if delay.is_zero() {
            self.wake(queue);
        } else {
            self.dues.add(queue, self.clock.instant() + delay);
        }
    }
}

/// Which of two batchers serves the receivers of a queue.
fn commit_of(queue: &Queue) -> usize {
    match queue.settings.durability {
        Durability::Strict => 0,
        Durability::Relaxed | Durability::Async => 1,
    }
}

/// Whether so much of a window has passed at the database that the receiver must not get it: its
/// answer could come after the end of its own window, when somebody else holds the message.
fn is_late(elapsed: Duration, window: Duration) -> bool {
    !window.is_zero() && elapsed > window / 2
}

async fn watched(failed: CancellationToken, batcher: impl Future<Output = ()>) {
    let unless_it_ends = failed.drop_guard();
    batcher.await;
    unless_it_ends.disarm();
}

/// Lets what has arrived join a batch before it closes. The batcher is woken by the database ahead of
/// the connections whose requests are in their sockets already, and what a statement costs hardly
/// depends on how much it carries: docs/benchmarks.md. When idle it takes microseconds.
async fn gather_arrivals() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
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

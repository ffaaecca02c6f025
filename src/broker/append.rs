//! The append batcher: gathers sends into chunks, a run of chunks per lane.
//!
//! What does more than append to one lane (a deduplication key, a move from another queue, messages
//! for two lanes) is stored all or nothing, with all that goes with it; it has a batcher of its own,
//! so that plain sends never wait for it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use uuid::Uuid;

use super::dues::Dues;
use super::gather_arrivals;
use super::lanes::{OpenLane, OpenLanes, WriterLease};
use super::runs::{self, Run};
use super::waiters::Wakes;
use crate::clock::Clock;
use crate::domain::chunk::{ChunkWriter, Frame};
use crate::domain::lane::{Class, LaneId, Position, QueueId, SubscriptionId, Writer};
use crate::domain::message_id::IdKey;
use crate::domain::queue::Queue;
use crate::domain::{Error, Result};
use crate::metrics::{Metrics, Operation};
use crate::store::{
    AppendLane, Appended, Care, Failure, HeldLease, KeyHash, Moved, NewChunk, NewKey, Session,
};

/// Bytes of bodies after which a batch is closed: about what one statement should carry.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How often a batch is tried whose lanes rivals were faster at, and the step by which the pauses
/// between two tries grow.
const MAX_ROUNDS: u32 = 16;
const PAUSE_STEP: Duration = Duration::from_millis(1);

/// One message on its way into the log.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) frame: Frame,
    pub(super) delay: Duration,
    pub(super) time_to_live: Option<Duration>,
    /// When it was first sent, if it comes from another queue.
    pub(super) sent_at: Option<OffsetDateTime>,
}

impl Outgoing {
    fn class(&self) -> Class {
        if self.delay.is_zero() {
            Class::READY
        } else {
            Class::DELAYED
        }
    }

    /// Whether it can share a chunk with another message.
    fn times(&self) -> (Duration, Option<Duration>, Option<OffsetDateTime>) {
        (self.delay, self.time_to_live, self.sent_at)
    }
}

/// What a send is known by when it comes again.
#[derive(Debug, Clone)]
pub(super) struct SendKey {
    pub(super) hash: Uuid,
    pub(super) digest: [u8; 32],
}

/// What goes with an append.
#[derive(Debug)]
pub(super) enum With {
    Nothing,
    Key(SendKey),
    /// The lease that holds the messages where they are now; for each message the id that it keeps, and
    /// the one that goes with the place it leaves.
    Source(HeldLease, Vec<[Uuid; 2]>),
    /// The rows of the outbox that hold the messages now.
    Outbox(Vec<i64>),
}

/// The messages of one request: stored together or not at all.
#[derive(Debug)]
pub(super) struct Item {
    /// The queue that they go to.
    pub(super) target: QueueId,
    /// The queue that the caller named: for its settings, and to be told of.
    pub(super) queue: Arc<Queue>,
    pub(super) messages: Vec<Outgoing>,
    pub(super) with: With,
    /// The room that they take in memory.
    pub(super) _room: Option<OwnedSemaphorePermit>,
    pub(super) reply: oneshot::Sender<Result<Stored>>,
}

impl Item {
    /// Whether the careful batcher must store it.
    pub(super) fn needs_care(&self) -> bool {
        let class = self.messages.first().map(Outgoing::class);
        !matches!(self.with, With::Nothing)
            || self
                .messages
                .iter()
                .any(|message| Some(message.class()) != class)
    }

    fn key(&self) -> Option<KeyHash> {
        match &self.with {
            With::Key(key) => Some((self.target, key.hash)),
            With::Nothing | With::Source(..) | With::Outbox(_) => None,
        }
    }

    /// Whether both may be stored in one statement.
    fn goes_with(&self, other: &Self) -> bool {
        let takes_from = |item: &Self| match item.with {
            With::Nothing | With::Key(_) => 0,
            With::Source(..) => 1,
            With::Outbox(_) => 2,
        };
        takes_from(self) == takes_from(other)
    }

    fn weight(&self) -> usize {
        let messages = self.messages.iter();
        messages.map(|message| message.frame.content.size()).sum()
    }
}

/// Where the messages of a request are, in their order.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) runs: Vec<Run>,
    pub(super) at: OffsetDateTime,
    /// An earlier send under the same key stored them.
    pub(super) is_repeated: bool,
}

/// What all append batchers of a node share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) wakes: Arc<Wakes>,
    pub(super) dues: Arc<Dues>,
    pub(super) clock: Clock,
    pub(super) ids: IdKey,
    pub(super) metrics: Metrics,
    pub(super) max_messages: usize,
}

/// Runs appends one after another on a session of its own.
#[derive(Debug)]
pub(super) struct Batcher {
    session: Session,
    writer: WriterLease,
    shared: Shared,
    open: OpenLanes,
}

/// How a batch is to be stored: its lanes, and where the messages of each item come to be.
struct Plan {
    lanes: Vec<AppendLane>,
    runs: Vec<Vec<Run>>,
}

impl Batcher {
    pub(super) fn new(session: Session, writer: WriterLease, shared: Shared) -> Self {
        Self {
            session,
            writer,
            shared,
            open: OpenLanes::default(),
        }
    }

    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(item) => item,
                None => match items.recv().await {
                    Some(item) => item,
                    None => return,
                },
            };
            gather_arrivals().await;
            let batch;
            (batch, held) = self.gather(first, &mut items);
            self.store(batch).await;
        }
    }

    /// A batch, and an item that must wait for its end: because it is the same send once more, or because
    /// what takes messages from elsewhere waits for whoever holds them, and sends should not.
    fn gather(&self, first: Item, items: &mut mpsc::Receiver<Item>) -> (Vec<Item>, Option<Item>) {
        let (mut messages, mut bytes) = (first.messages.len(), first.weight());
        let mut keys: HashSet<_> = first.key().into_iter().collect();
        let mut batch = vec![first];
        while messages < self.shared.max_messages && bytes < MAX_BATCH_BYTES {
            let Ok(item) = items.try_recv() else { break };
            if !item.goes_with(&batch[0]) || item.key().is_some_and(|key| !keys.insert(key)) {
                return (batch, Some(item));
            }
            messages += item.messages.len();
            bytes += item.weight();
            batch.push(item);
        }
        (batch, None)
    }

    /// Answers every item of a batch. One that the database refuses is found by halving, so that
    /// it fails alone.
    async fn store(&mut self, mut batch: Vec<Item>) {
        // Whoever has left may have been told already that it took too long.
        batch.retain(|item| !item.reply.is_closed());
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let Some(failure) = self.try_store(&mut batch).await else {
                continue;
            };
            match failure {
                Failure::Rejected(_) | Failure::SourceGone if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    batches.extend([second, batch]);
                }
                failure => refuse(batch, failure),
            }
        }
    }

    /// Answers the items that were stored or whose queue is gone; the rest stay in the batch,
    /// with the reason.
    async fn try_store(&mut self, batch: &mut Vec<Item>) -> Option<Failure> {
        // Once for all rounds: a number that changed in between would store messages twice.
        let writer = self.writer.writer();
        let careful = batch.iter().any(Item::needs_care);
        for round in 0..MAX_ROUNDS {
            if batch.is_empty() {
                return None;
            }
            let stored = if careful {
                self.store_carefully(batch, writer).await
            } else {
                self.store_plainly(batch, writer).await
            };
            match stored {
                Ok(()) => {}
                Err(failure @ (Failure::Conflict | Failure::KeyTaken)) => {
                    if matches!(failure, Failure::Conflict) {
                        self.open.forget();
                    }
                    tokio::time::sleep(PAUSE_STEP * round).await;
                }
                // Nothing of it was tried: what is known of the tails holds.
                Err(failure @ Failure::SourceGone) => return Some(failure),
                Err(failure) => {
                    self.open.forget();
                    return Some(failure);
                }
            }
        }
        (!batch.is_empty()).then_some(Failure::Conflict)
    }

    async fn store_plainly(
        &mut self,
        batch: &mut Vec<Item>,
        writer: Writer,
    ) -> Result<(), Failure> {
        let plan = self.plan(batch, writer);
        let began = self.shared.clock.instant();
        let outcomes = self.session.append(&plan.lanes).await;
        self.measure(&plan.lanes, began);
        self.settle(batch, plan, &outcomes?);
        Ok(())
    }

    /// A statement that only asks for tails carries nothing.
    fn measure(&self, lanes: &[AppendLane], began: Instant) {
        let Shared { clock, metrics, .. } = &self.shared;
        let chunks = lanes.iter().flat_map(|lane| &lane.chunks);
        let messages: i32 = chunks.map(|chunk| chunk.messages).sum();
        let messages = usize::try_from(messages).unwrap_or_default();
        metrics.statement(Operation::Append, clock.instant() - began, messages);
    }

    async fn store_carefully(
        &mut self,
        batch: &mut Vec<Item>,
        writer: Writer,
    ) -> Result<(), Failure> {
        self.answer_known(batch).await?;
        let mut plan = self.plan(batch, writer);
        if plan.lanes.iter().any(|lane| lane.tail.next < 0) {
            // A careful append cannot learn a tail: it does all or nothing.
            for lane in &mut plan.lanes {
                lane.chunks.clear();
            }
            let outcomes = self.session.append(&plan.lanes).await?;
            self.learn(&plan.lanes, &outcomes);
            let gone = gone(&plan.lanes, &outcomes);
            let homeless = batch.extract_if(.., |item| gone.contains(&item.target));
            homeless.for_each(tell_gone);
            return Ok(());
        }
        if batch.is_empty() {
            return Ok(());
        }
        let care = self.care(batch, &plan);
        let began = self.shared.clock.instant();
        let outcomes = self
            .session
            .append_careful(SubscriptionId::QUEUE, &plan.lanes, &care)
            .await;
        self.measure(&plan.lanes, began);
        self.settle(batch, plan, &outcomes?);
        Ok(())
    }

    /// Answers those whose send was stored before.
    async fn answer_known(&mut self, batch: &mut Vec<Item>) -> Result<(), Failure> {
        let keys: Vec<KeyHash> = batch.iter().filter_map(Item::key).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let known = self.session.probe_dedup(&keys).await?;
        let mut known: HashMap<_, _> = keys
            .into_iter()
            .zip(known)
            .filter_map(|(key, known)| Some((key, known?)))
            .collect();
        let mut left = Vec::new();
        for item in batch.drain(..) {
            let known = item.key().and_then(|key| known.remove(&key));
            match (known, &item.with) {
                (Some(known), With::Key(key)) => {
                    let answer = if known.digest == key.digest {
                        runs::read(&known.answer).map(|runs| Stored {
                            runs,
                            at: known.sent_at,
                            is_repeated: true,
                        })
                    } else {
                        Err(Error::IdempotencyKeyReused)
                    };
                    let _gone = item.reply.send(answer);
                }
                _ => left.push(item),
            }
        }
        *batch = left;
        Ok(())
    }

    /// Lays the items' messages into chunks, in their order. A lane that is not open yet is only
    /// asked for its tail.
    fn plan(&self, batch: &[Item], writer: Writer) -> Plan {
        let mut planned: HashMap<LaneId, PlannedLane> = HashMap::new();
        let mut runs = Vec::with_capacity(batch.len());
        for item in batch {
            let mut of_item: Vec<Run> = Vec::new();
            for message in &item.messages {
                let id = LaneId::new(item.target, message.class(), writer);
                let lane = planned
                    .entry(id)
                    .or_insert_with(|| PlannedLane::at(self.open.get(id)));
                let (seq, salt) = (lane.next, lane.open.salt);
                lane.push(message);
                match of_item.last_mut() {
                    Some(run) if run.lane == id => run.count += 1,
                    _ => of_item.push(Run {
                        lane: id,
                        first: seq,
                        salt,
                        count: 1,
                    }),
                }
            }
            runs.push(of_item);
        }
        let mut lanes: Vec<_> = planned
            .into_iter()
            .map(|(id, lane)| lane.finish(id))
            .collect();
        // A rival in one of the lanes is waited for: everybody takes them in one order.
        lanes.sort_unstable_by_key(|lane| lane.lane);
        Plan { lanes, runs }
    }

    /// What goes with a batch into its transaction.
    fn care(&self, batch: &[Item], plan: &Plan) -> Care {
        let mut care = Care::default();
        let ids = &self.shared.ids;
        for (item, runs) in batch.iter().zip(&plan.runs) {
            let mut positions = runs.iter().flat_map(Run::positions);
            match &item.with {
                With::Nothing => {}
                With::Outbox(rows) => care.outbox.extend(rows),
                With::Key(key) => care.keys.push(NewKey {
                    key: (item.target, key.hash),
                    window: item.queue.settings.deduplication_window,
                    digest: key.digest.to_vec(),
                    answer: runs::write(runs),
                    message_id: positions
                        .next()
                        .map_or_else(Uuid::nil, |position| ids.seal(position)),
                }),
                With::Source(lease, moving) => {
                    care.sources.push(*lease);
                    for (ids, Position { lane, seq, .. }) in moving.iter().zip(positions) {
                        let ids: BTreeSet<_> = ids.iter().copied().collect();
                        let moved = ids.into_iter().map(|id| Moved { id, lane, seq });
                        care.moved.extend(moved);
                    }
                }
            }
        }
        care.outbox.sort_unstable();
        care.sources.sort_unstable();
        care.keys.sort_unstable_by_key(|key| key.key);
        care
    }

    fn learn(&mut self, lanes: &[AppendLane], outcomes: &[Appended]) {
        for (lane, outcome) in lanes.iter().zip(outcomes) {
            match *outcome {
                Appended::Stored { tail, .. } => {
                    let salt = lane.salt;
                    self.open.set(lane.lane, OpenLane { tail, salt });
                }
                Appended::Stale(tail) => self.open.set(lane.lane, OpenLane::at(tail)),
                Appended::QueueGone => {}
            }
        }
    }

    fn settle(&mut self, batch: &mut Vec<Item>, plan: Plan, outcomes: &[Appended]) {
        self.learn(&plan.lanes, outcomes);
        let gone = gone(&plan.lanes, outcomes);
        let stored: HashMap<LaneId, OffsetDateTime> = plan
            .lanes
            .iter()
            .zip(outcomes)
            .filter_map(|(lane, outcome)| match outcome {
                Appended::Stored { at, .. } => Some((lane.lane, *at)),
                Appended::Stale(_) | Appended::QueueGone => None,
            })
            .collect();
        let mut left = Vec::new();
        let mut woken = HashSet::new();
        let now = self.shared.clock.instant();
        for (item, runs) in batch.drain(..).zip(plan.runs) {
            if gone.contains(&item.target) {
                tell_gone(item);
                continue;
            }
            let at = runs.first().and_then(|run| stored.get(&run.lane)).copied();
            let Some(at) = at else {
                left.push(item);
                continue;
            };
            for message in &item.messages {
                if message.delay.is_zero() {
                    woken.insert(item.target);
                } else {
                    self.shared.dues.add(item.target, now + message.delay);
                }
            }
            // Nobody listens any more: the message is stored all the same.
            let _gone = item.reply.send(Ok(Stored {
                runs,
                at,
                is_repeated: false,
            }));
        }
        *batch = left;
        if !woken.is_empty() {
            self.shared.wakes.wake(woken);
        }
    }
}

/// Chunks of one lane while they are laid.
struct PlannedLane {
    open: OpenLane,
    next: i64,
    chunks: Vec<NewChunk>,
    chunk: ChunkWriter,
    times: (Duration, Option<Duration>, Option<OffsetDateTime>),
}

impl PlannedLane {
    fn at(open: OpenLane) -> Self {
        Self {
            open,
            next: open.tail.next,
            chunks: Vec::new(),
            chunk: ChunkWriter::default(),
            times: Default::default(),
        }
    }

    fn push(&mut self, message: &Outgoing) {
        let times = message.times();
        if self.chunk.count() > 0
            && (times != self.times || !self.chunk.has_room_for(&message.frame))
        {
            self.end_chunk();
        }
        self.times = times;
        self.chunk.push(&message.frame);
        self.next += 1;
    }

    fn end_chunk(&mut self) {
        let writer = std::mem::take(&mut self.chunk);
        let (delay, time_to_live, sent_at) = self.times;
        self.chunks.push(NewChunk {
            messages: i32::try_from(writer.count()).expect("a chunk has at most 62 messages"),
            delay,
            time_to_live,
            sent_at,
            body: writer.finish(),
        });
    }

    fn finish(mut self, lane: LaneId) -> AppendLane {
        self.end_chunk();
        let OpenLane { tail, salt } = self.open;
        if tail.next < 0 {
            self.chunks.clear();
        }
        AppendLane {
            lane,
            tail,
            salt,
            chunks: self.chunks,
        }
    }
}

/// The queues that were found deleted.
fn gone(lanes: &[AppendLane], outcomes: &[Appended]) -> HashSet<QueueId> {
    lanes
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| matches!(outcome, Appended::QueueGone))
        .map(|(lane, _)| lane.lane.queue())
        .collect()
}

fn tell_gone(item: Item) {
    let name = item.queue.name.as_str().to_owned();
    let _gone = item.reply.send(Err(Error::QueueNotFound { name }));
}

fn refuse(batch: Vec<Item>, failure: Failure) {
    // Somebody deleted a message that was about to move: nothing went wrong.
    let expected = matches!(failure, Failure::SourceGone);
    let error = Error::from(failure);
    if !expected {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            requests = batch.len(),
            "an append failed"
        );
    }
    for item in batch {
        let _gone = item.reply.send(Err(error.for_each_caller()));
    }
}

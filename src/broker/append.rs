//! The append batcher: gathers sends into chunks, a run of chunks per lane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::lanes::{OpenLane, OpenLanes, WriterLease};
use super::waiters::Wakes;
use crate::domain::chunk::{ChunkWriter, Frame};
use crate::domain::lane::{Class, LaneId, Writer};
use crate::domain::queue::Queue;
use crate::domain::{Error, Result};
use crate::store::{AppendLane, Appended, Failure, Session};

/// Bytes of bodies after which a batch is closed: about what one statement should carry.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How often a batch is tried whose lanes rivals were faster at, and the step by which the pauses
/// between two tries grow.
const MAX_ROUNDS: u32 = 16;
const PAUSE_STEP: Duration = Duration::from_millis(1);

/// The messages of one request: stored together or not at all.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) queue: Arc<Queue>,
    pub(super) frames: Vec<Frame>,
    /// The room that they take in memory.
    pub(super) _room: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Result<Stored>>,
}

/// Where the messages of a request are: numbered from `first` on, in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) lane: LaneId,
    pub(super) first: i64,
    pub(super) salt: u32,
    pub(super) at: OffsetDateTime,
}

/// The number of messages in a chunk, and its bytes.
type SizedChunk = (i32, Vec<u8>);

/// Runs appends one after another on a session of its own.
#[derive(Debug)]
pub(super) struct Batcher {
    session: Session,
    writer: WriterLease,
    wakes: Arc<Wakes>,
    max_messages: usize,
    open: OpenLanes,
}

impl Batcher {
    pub(super) fn new(
        session: Session,
        writer: WriterLease,
        wakes: Arc<Wakes>,
        max_messages: usize,
    ) -> Self {
        Self {
            session,
            writer,
            wakes,
            max_messages,
            open: OpenLanes::default(),
        }
    }

    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(first) = items.recv().await {
            let batch = self.gather(first, &mut items);
            self.store(batch).await;
        }
    }

    fn gather(&self, first: Item, items: &mut mpsc::Receiver<Item>) -> Vec<Item> {
        let weigh = |item: &Item| {
            item.frames
                .iter()
                .map(|frame| frame.body.bytes.len())
                .sum::<usize>()
        };
        let (mut messages, mut bytes) = (first.frames.len(), weigh(&first));
        let mut batch = vec![first];
        while messages < self.max_messages && bytes < MAX_BATCH_BYTES {
            let Ok(item) = items.try_recv() else { break };
            messages += item.frames.len();
            bytes += weigh(&item);
            batch.push(item);
        }
        batch
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
                Failure::Rejected(_) if batch.len() > 1 => {
                    let second = batch.split_off(batch.len() / 2);
                    batches.extend([second, batch]);
                }
                failure => refuse(batch, failure.into()),
            }
        }
    }

    /// Answers the items that were stored or whose queue is gone; the rest stay in the batch,
    /// with the reason.
    async fn try_store(&mut self, batch: &mut Vec<Item>) -> Option<Failure> {
        // Once for all rounds: a number that changed in between would store messages twice.
        let writer = self.writer.writer();
        for round in 0..MAX_ROUNDS {
            let lanes = self.plan(batch, writer);
            match self.session.append(&lanes).await {
                Ok(outcomes) => self.settle(batch, writer, &lanes, &outcomes),
                Err(failure) => {
                    self.open.forget();
                    if !matches!(failure, Failure::Conflict) {
                        return Some(failure);
                    }
                    tokio::time::sleep(PAUSE_STEP * round).await;
                }
            }
            if batch.is_empty() {
                return None;
            }
        }
        Some(Failure::Conflict)
    }

    /// Lays the items' messages into chunks, in their order. A lane that is not open yet is only
    /// asked for its tail.
    fn plan(&self, batch: &[Item], writer: Writer) -> Vec<AppendLane> {
        let mut planned: HashMap<LaneId, (Vec<SizedChunk>, ChunkWriter)> = HashMap::new();
        let mut order = Vec::new();
        for item in batch {
            let lane = LaneId::new(item.queue.id, Class::READY, writer);
            let (chunks, chunk) = planned.entry(lane).or_insert_with(|| {
                order.push(lane);
                Default::default()
            });
            for frame in &item.frames {
                if !chunk.has_room_for(frame) {
                    chunks.push(finish(std::mem::take(chunk)));
                }
                chunk.push(frame);
            }
        }
        // A rival in one of the lanes is waited for: everybody takes them in one order.
        order.sort_unstable();
        order
            .into_iter()
            .map(|lane| {
                let (mut chunks, chunk) = planned.remove(&lane).unwrap_or_default();
                chunks.push(finish(chunk));
                let OpenLane { tail, salt } = self.open.get(lane);
                if tail.next < 0 {
                    chunks.clear();
                }
                AppendLane {
                    lane,
                    tail,
                    salt,
                    chunks,
                }
            })
            .collect()
    }

    fn settle(
        &mut self,
        batch: &mut Vec<Item>,
        writer: Writer,
        lanes: &[AppendLane],
        outcomes: &[Appended],
    ) {
        let mut ends = HashMap::new();
        for (lane, outcome) in lanes.iter().zip(outcomes) {
            match *outcome {
                Appended::Stored { tail, .. } => {
                    self.open.set(
                        lane.lane,
                        OpenLane {
                            tail,
                            salt: lane.salt,
                        },
                    );
                }
                Appended::Stale(tail) => self.open.set(lane.lane, OpenLane::at(tail)),
                Appended::QueueGone => {}
            }
            ends.insert(lane.lane, (lane.tail.next, lane.salt, *outcome));
        }
        let mut left = Vec::new();
        let mut woken = Vec::new();
        for item in batch.drain(..) {
            let lane = LaneId::new(item.queue.id, Class::READY, writer);
            match ends.get_mut(&lane) {
                Some((next, salt, Appended::Stored { at, .. })) => {
                    let first = *next;
                    *next += i64::try_from(item.frames.len()).unwrap_or_default();
                    woken.push(item.queue.id);
                    let stored = Stored {
                        lane,
                        first,
                        salt: *salt,
                        at: *at,
                    };
                    // Nobody listens any more: the message is stored all the same.
                    let _gone = item.reply.send(Ok(stored));
                }
                Some((_, _, Appended::QueueGone)) => {
                    let name = item.queue.name.as_str().to_owned();
                    let _gone = item.reply.send(Err(Error::QueueNotFound { name }));
                }
                Some((_, _, Appended::Stale(_))) | None => left.push(item),
            }
        }
        *batch = left;
        self.wakes.wake(woken);
    }
}

fn finish(writer: ChunkWriter) -> SizedChunk {
    let messages = i32::try_from(writer.count()).expect("a chunk has at most 62 messages");
    (messages, writer.finish())
}

fn refuse(batch: Vec<Item>, error: Error) {
    tracing::error!(
        error = &error as &dyn std::error::Error,
        requests = batch.len(),
        "an append failed"
    );
    for item in batch {
        let _gone = item.reply.send(Err(error.for_each_caller()));
    }
}

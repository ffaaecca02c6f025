//! The claim batcher: hands messages to receivers, and keeps those who wait.
//!
//! A receiver that waits is an entry in memory: it holds no connection and costs no query. Its queue
//! is looked at when something is sent to it on this node, when a lease is due to end, when the
//! receiver's time is up, and now and then for safety.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::dues::Dues;
use super::lines::{Lines, Receiver};
use super::low_water::LowWaters;
use super::moves::Mover;
use super::waiters::Wakes;
use super::{BrokerOptions, Receive, gather_arrivals, is_late};
use crate::clock::Clock;
use crate::domain::chunk::{self, Frame};
use crate::domain::error::BoxError;
use crate::domain::lane::{LaneId, QueueId, SubscriptionId};
use crate::domain::queue::Queue;
use crate::domain::{Error, Result};
use crate::metrics::{Metrics, Operation};
use crate::store::{
    ClaimBatch, ClaimQueue, ClaimReceiver, ClaimedChunk, ClaimedLease, Claims, Failure, LeaseKey,
    LeaseRow, QueueReport, Reach, Session,
};

/// Bytes of chunks that one claim reads for a queue while it holds the lane's lock.
const BYTE_BUDGET: i64 = 1024 * 1024;
/// Most queues in one claim.
const MAX_QUEUES: usize = 64;
/// How long a lane that another node is claiming from is passed over, and how often it is tried
/// meanwhile, before a claim of the queue's own waits for it.
const BUSY_WAIT: Duration = Duration::from_millis(50);
const BUSY_PAUSE: Duration = Duration::from_millis(3);
/// After a claim has waited for them in vain, how long until the next.
const STUCK_PAUSE: Duration = Duration::from_secs(1);
/// How long beyond its time a receiver is kept because there may be more to look at.
const PATIENCE: Duration = Duration::from_secs(2);
/// About the most messages that the receivers of one claim want together.
const MAX_MESSAGES: usize = 4_096;
/// Most messages under one lease.
const RUN: i32 = 62;
/// A due time is never waited for in shorter steps.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// One request to receive.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) queue: Arc<Queue>,
    pub(super) receive: Receive,
    pub(super) reply: oneshot::Sender<Result<Vec<Delivery>>>,
}

/// One message for one receiver.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) lease: ClaimedLease,
    /// Its place in the lease.
    pub(super) index: u8,
    pub(super) salt: u32,
    pub(super) sent_at: OffsetDateTime,
    pub(super) frame: Frame,
}

impl Delivery {
    /// The message's number.
    pub(super) fn seq(&self) -> i64 {
        self.lease.lo + i64::from(self.index)
    }
}

/// What becomes of a queue after a claim.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It was seen to.
    Settled,
    /// It was not looked at, and comes before all others.
    First,
}

/// Receivers of one queue that take part in a claim.
struct Taken {
    queue: Arc<Queue>,
    receivers: Vec<Receiver>,
}

/// What a claim batcher shares with others.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) wakes: Arc<Wakes>,
    /// Which of the inboxes is this batcher's.
    pub(super) inbox: usize,
    pub(super) dues: Arc<Dues>,
    pub(super) mover: Mover,
    pub(super) clock: Clock,
    pub(super) draining: CancellationToken,
    pub(super) metrics: Metrics,
}

/// Runs claims one after another on a session of its own.
#[derive(Debug)]
pub(super) struct Batcher {
    session: Session,
    shared: Shared,
    max_receivers: usize,
    max_waiting: usize,
    safety_probe: Duration,
    lines: Lines,
    low_waters: LowWaters,
    /// How many of the queues at the head of the list are claimed for one by one, since one of
    /// them failed a shared claim.
    alone: usize,
}

impl Batcher {
    pub(super) fn new(session: Session, options: &BrokerOptions, shared: Shared) -> Self {
        Self {
            session,
            shared,
            max_receivers: options.claim_batch,
            max_waiting: options.max_waiting_receives,
            safety_probe: options.safety_probe,
            lines: Lines::default(),
            low_waters: LowWaters::default(),
            alone: 0,
        }
    }

    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let wakes = Arc::clone(&self.shared.wakes);
        let inbox = &wakes.claims[self.shared.inbox];
        let draining = self.shared.draining.clone();
        let mut drained = false;
        let mut shown = 0;
        loop {
            // After a claim, those whom it did not serve.
            let waiting = self.lines.waiting();
            self.shared.metrics.waiters_changed(shown, waiting);
            shown = waiting;
            gather_arrivals().await;
            while let Ok(item) = items.try_recv() {
                self.admit(item);
            }
            let heard = inbox.take();
            if heard.all {
                self.lines.heat_all();
            }
            for queue in heard.queues {
                self.lines.heat(queue);
            }
            let now = self.shared.clock.instant();
            if !drained && draining.is_cancelled() {
                drained = true;
                self.lines.end_waits(now);
            }
            self.lines.fire_timers(now);
            if self.lines.next().is_some() {
                self.claim().await;
                continue;
            }
            let pause = self.lines.until_next_timer(now);
            tokio::select! {
                item = items.recv() => match item {
                    Some(item) => self.admit(item),
                    None => return,
                },
                () = inbox.some() => {}
                () = tokio::time::sleep(pause.unwrap_or(self.safety_probe)) => {}
                () = draining.cancelled(), if !drained => {}
            }
        }
    }

    fn admit(&mut self, item: Item) {
        let Item {
            queue,
            receive,
            reply,
        } = item;
        if self.lines.waiting() >= self.max_waiting {
            let _gone = reply.send(Err(Error::Overloaded {
                what: "receives waiting",
            }));
            return;
        }
        let wait = if self.shared.draining.is_cancelled() {
            Duration::ZERO
        } else {
            receive.wait
        };
        let receiver = Receiver {
            receive,
            deadline: self.shared.clock.instant() + wait,
            reply,
        };
        self.lines.join(queue, receiver);
    }

    /// One claim for the queues at the head of the list.
    async fn claim(&mut self) {
        let (taken, wait) = self.take();
        if taken.is_empty() {
            return;
        }
        let started = self.shared.clock.instant();
        let batch = self.batch(&taken, wait, started);
        let claimed = self.session.claim(SubscriptionId::QUEUE, &batch).await;
        let took = self.shared.clock.instant() - started;
        let receivers = batch.receivers.len();
        self.shared
            .metrics
            .statement(Operation::Claim, took, receivers);
        match claimed {
            Ok(claims) => {
                self.low_waters.learn(&batch.low_waters, &claims, started);
                self.hand_out(taken, claims, started).await;
            }
            Err(Failure::NotNow(source)) if wait => self.give_up_waiting(taken, source),
            Err(Failure::Rejected(_) | Failure::NotNow(_)) if taken.len() > 1 => {
                self.alone = taken.len();
                let queues: Vec<_> = taken.iter().map(|taken| taken.queue.id).collect();
                for Taken { queue, receivers } in taken {
                    self.lines.put_back(queue.id, receivers);
                }
                self.lines.heat_all_first(queues.into_iter());
            }
            Err(failure) => self.refuse(taken, failure),
        }
    }

    /// Receivers from the head of the list, and whether their claim waits for busy lanes: then it
    /// is for one queue.
    fn take(&mut self) -> (Vec<Taken>, bool) {
        let mut room = (self.max_receivers, MAX_MESSAGES);
        let mut max_queues = if self.alone > 0 { 1 } else { MAX_QUEUES };
        self.alone = self.alone.saturating_sub(1);
        let mut wait = false;
        let mut taken = Vec::new();
        while room.0 > 0 && room.1 > 0 && taken.len() < max_queues {
            let Some((_, insists)) = self.lines.next() else {
                break;
            };
            if insists && !taken.is_empty() {
                break;
            }
            let Some((queue, receivers)) = self.lines.take_next(room.0, room.1) else {
                continue;
            };
            let messages: usize = receivers.iter().map(|receiver| receiver.receive.max).sum();
            room = (room.0 - receivers.len(), room.1.saturating_sub(messages));
            taken.push(Taken { queue, receivers });
            if insists {
                wait = true;
                max_queues = 1;
            }
        }
        (taken, wait)
    }

    fn batch(&self, taken: &[Taken], wait: bool, now: Instant) -> ClaimBatch {
        let mut batch = ClaimBatch {
            first_token: first_token(),
            run: RUN,
            byte_budget: BYTE_BUDGET,
            wait,
            ..ClaimBatch::default()
        };
        for Taken { queue, receivers } in taken {
            batch.queues.push(ClaimQueue {
                queue: queue.id,
                first_receiver: batch.receivers.len(),
            });
            for receiver in receivers {
                let Receive { max, window, .. } = receiver.receive;
                batch.receivers.push(ClaimReceiver { size: max, window });
            }
            self.low_waters.of(queue.id, now, &mut batch.low_waters);
        }
        batch
    }

    /// Gives receivers what was claimed for them, and takes back what came too late for them.
    async fn hand_out(&mut self, taken: Vec<Taken>, claims: Claims, started: Instant) {
        let elapsed = self
            .shared
            .clock
            .instant()
            .saturating_duration_since(started);
        let chunks = decode(claims.chunks);
        let mut exhausted = claims.exhausted;
        let mut leases = claims.leases;
        leases.sort_unstable_by_key(|lease| lease.receiver);
        let mut leases = leases.into_iter().peekable();
        let mut receivers_before = 0;
        let mut late = Vec::new();
        let mut settled = Vec::new();
        for (Taken { queue, receivers }, report) in taken.into_iter().zip(claims.reports) {
            let dead =
                exhausted.extract_if(.., |lease: &mut LeaseRow| lease.lane.queue() == queue.id);
            self.shared.mover.take(&queue, dead);
            let mut unserved = Vec::new();
            let late_before = late.len();
            for receiver in receivers {
                receivers_before += 1;
                let share: Vec<ClaimedLease> = std::iter::from_fn(|| {
                    leases.next_if(|lease| lease.receiver < receivers_before)
                })
                .collect();
                let window = receiver.receive.window;
                if is_late(elapsed, window) {
                    late.extend(share.iter().map(|lease| (lease_key(lease), lease.mask)));
                    unserved.push(receiver);
                    continue;
                }
                let share: Vec<Delivery> = share
                    .into_iter()
                    .flat_map(|lease| deliver(lease, &chunks))
                    .collect();
                if share.is_empty() {
                    unserved.push(receiver);
                    continue;
                }
                self.shared
                    .dues
                    .add_end(queue.id, started + elapsed + window);
                // The receiver hung up meanwhile.
                if let Err(Ok(back)) = receiver.reply.send(Ok(share)) {
                    late.extend(
                        back.iter()
                            .map(|delivery| (lease_key(&delivery.lease), 1 << delivery.index)),
                    );
                }
            }
            settled.push((queue.id, unserved, report, late.len() > late_before));
        }
        // Before anybody is told that there is nothing.
        if !late.is_empty() {
            self.take_back(late).await;
        }
        let mut cut = Vec::new();
        for (queue, unserved, mut report, gave_back) in settled {
            // What was taken back is there for those who got nothing.
            if gave_back && report.reach == Reach::Whole {
                report.reach = Reach::More;
            }
            if self.settle(queue, unserved, &report) == Next::First {
                cut.push(queue);
            }
        }
        self.lines.heat_all_first(cut.into_iter());
    }

    /// Decides what those who got nothing do next.
    fn settle(&mut self, queue: QueueId, unserved: Vec<Receiver>, report: &QueueReport) -> Next {
        let all_served = unserved.is_empty();
        self.lines.put_back(queue, unserved);
        let now = self.shared.clock.instant();
        let Some(line) = self.lines.get_mut(queue) else {
            return Next::Settled;
        };
        let is_busy = report.busy_lanes > 0;
        let busy_since = line.busy_since.take().unwrap_or(now);
        if report.reach == Reach::Gone {
            let name = line.queue.name.as_str().to_owned();
            for receiver in self.lines.end(queue) {
                let name = name.clone();
                let _gone = receiver.reply.send(Err(Error::QueueNotFound { name }));
            }
            return Next::Settled;
        }
        if matches!(report.reach, Reach::More | Reach::Cut) {
            self.end_patience(queue, now);
        }
        if self.lines.remove_if_empty(queue) {
            return Next::Settled;
        }
        match report.reach {
            Reach::Cut => return Next::First,
            Reach::More => self.lines.heat(queue),
            _ if all_served => self.lines.heat(queue),
            _ if is_busy => self.wait_for_lanes(queue, busy_since, now),
            _ => self.wait(queue),
        }
        Next::Settled
    }

    /// Where there is always more to look at, nobody is kept for long beyond their time.
    fn end_patience(&mut self, queue: QueueId, now: Instant) {
        let Some(long_ago) = now.checked_sub(PATIENCE) else {
            return;
        };
        for receiver in self.lines.take_overdue(queue, long_ago).0 {
            let _gone = receiver.reply.send(Err(Error::Overloaded {
                what: "claims for one queue",
            }));
        }
    }

    /// Somebody holds a lane for longer than a commit takes. Whose time is up is told to try again.
    fn give_up_waiting(&mut self, taken: Vec<Taken>, source: BoxError) {
        let now = self.shared.clock.instant();
        let error = Error::Unavailable(Some(source));
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a lane is held by a claim that does not end"
        );
        for Taken { queue, receivers } in taken {
            let queue = queue.id;
            self.lines.put_back(queue, receivers);
            for receiver in self.lines.take_overdue(queue, now).0 {
                let _gone = receiver.reply.send(Err(error.for_each_caller()));
            }
            if !self.lines.remove_if_empty(queue) {
                self.lines.set_timer(queue, Some(now + STUCK_PAUSE));
            }
        }
    }

    /// An empty answer means that every lane was looked at: busy ones are tried again for a while,
    /// and then waited for.
    fn wait_for_lanes(&mut self, queue: QueueId, since: Instant, now: Instant) {
        let Some(line) = self.lines.get_mut(queue) else {
            return;
        };
        if now.saturating_duration_since(since) < BUSY_WAIT {
            line.busy_since = Some(since);
            self.lines.set_timer(queue, Some(now + BUSY_PAUSE));
        } else {
            line.insist = true;
            self.lines.heat(queue);
        }
    }

    /// Answers those whose time is up; the others wait for the next thing that can happen.
    fn wait(&mut self, queue: QueueId) {
        let now = self.shared.clock.instant();
        let (overdue, earliest) = self.lines.take_overdue(queue, now);
        for receiver in overdue {
            let _gone = receiver.reply.send(Ok(Vec::new()));
        }
        let Some(earliest) = earliest else {
            self.lines.remove_if_empty(queue);
            return;
        };
        let jitter = rand::random_range(0.5..0.9);
        let at = earliest.min(now + self.safety_probe.mul_f64(jitter));
        self.lines.set_timer(queue, Some(at.max(now + MIN_PAUSE)));
    }

    /// Deliveries that nobody got become visible again, uncounted.
    async fn take_back(&mut self, late: Vec<(LeaseKey, u64)>) {
        let mut leases: BTreeMap<LeaseKey, u64> = BTreeMap::new();
        for (lease, mask) in late {
            *leases.entry(lease).or_default() |= mask;
        }
        let late: Vec<_> = leases.into_iter().collect();
        if let Err(failure) = self.session.hand_back(SubscriptionId::QUEUE, &late).await {
            tracing::warn!(
                error = &failure as &dyn std::error::Error,
                messages = late.len(),
                "could not take back deliveries that nobody got: they are hidden for their window"
            );
        }
        let queues = late.iter().map(|(lease, _)| lease.row.lane.queue());
        self.shared.wakes.wake(queues);
    }

    fn refuse(&mut self, taken: Vec<Taken>, failure: Failure) {
        if matches!(failure, Failure::Lost(_) | Failure::Unreachable(_)) {
            self.low_waters.forget();
            self.alone = 0;
        }
        let error = Error::from(failure);
        tracing::error!(
            error = &error as &dyn std::error::Error,
            requests = taken
                .iter()
                .map(|taken| taken.receivers.len())
                .sum::<usize>(),
            "a receive failed"
        );
        for Taken { queue, receivers } in taken {
            for receiver in receivers {
                let _gone = receiver.reply.send(Err(error.for_each_caller()));
            }
            if !self.lines.remove_if_empty(queue.id) {
                self.lines.heat(queue.id);
            }
        }
    }
}

/// Positive: the top bit is for messages split off a lease. Far from the maximum, since those of other
/// leases follow.
fn first_token() -> i32 {
    rand::random_range(1..i32::MAX / 2)
}

/// A lease as those who change it name it.
fn lease_key(lease: &ClaimedLease) -> LeaseKey {
    LeaseKey {
        row: LeaseRow {
            lane: lease.lane,
            lo: lease.lo,
            token: lease.token,
        },
        epoch: lease.epoch,
    }
}

type Chunks = BTreeMap<(LaneId, i64), (ClaimedChunk, Vec<Frame>)>;

fn decode(chunks: Vec<ClaimedChunk>) -> Chunks {
    let mut decoded = BTreeMap::new();
    for chunk in chunks {
        match chunk::read(&chunk.body) {
            Ok(frames) => {
                decoded.insert((chunk.lane, chunk.seq), (chunk, frames));
            }
            Err(unreadable) => tracing::error!(
                error = &unreadable as &dyn std::error::Error,
                lane = chunk.lane.raw(),
                seq = chunk.seq,
                "messages cannot be delivered"
            ),
        }
    }
    decoded
}

/// The messages of a lease. None when the chunk could not be read: they stay leased until the window
/// ends.
fn deliver(lease: ClaimedLease, chunks: &Chunks) -> Vec<Delivery> {
    let found = chunks.range(..=(lease.lane, lease.lo)).next_back();
    let Some((_, (chunk, frames))) = found.filter(|(_, (chunk, _))| chunk.lane == lease.lane)
    else {
        return Vec::new();
    };
    (0_u8..64)
        .filter(|index| lease.mask >> index & 1 == 1)
        .filter_map(|index| {
            let at = lease.lo + i64::from(index) - chunk.seq;
            let frame = frames.get(usize::try_from(at).ok()?)?;
            Some(Delivery {
                lease,
                index,
                salt: chunk.salt,
                sent_at: chunk.sent_at,
                frame: frame.clone(),
            })
        })
        .collect()
}

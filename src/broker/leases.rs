//! The lease batcher: gathers deletes and extends into few statements.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::dues::Dues;
use super::moves::Mover;
use super::waiters::Wakes;
use super::{NewWindow, Window, gather_arrivals, is_late};
use crate::clock::Clock;
use crate::domain::lane::SubscriptionId;
use crate::domain::message_id::IdKey;
use crate::domain::queue::Queue;
use crate::domain::receipt::Receipt;
use crate::domain::{Error, Result};
use crate::metrics::{Metrics, Operation};
use crate::store::{Ack, AckRest, Acked, Extend, Extended, Failure, LeaseKey, LeaseRow, Session};

/// How often messages that somebody else is at are tried, and the step by which the pauses between
/// two tries grow: whoever is at them is about to commit.
const MAX_ROUNDS: u32 = 16;
const PAUSE_STEP: Duration = Duration::from_millis(1);

/// The deletes or extends of one request.
#[derive(Debug)]
pub(super) enum Item {
    Ack {
        receipts: Vec<Receipt>,
        reply: oneshot::Sender<Result<Vec<Acked>>>,
    },
    Extend {
        queue: Arc<Queue>,
        entries: Vec<NewWindow>,
        reply: oneshot::Sender<Result<Vec<Window>>>,
    },
}

/// The deletes of one request on their way through a batch.
type AckItem = (Vec<Receipt>, oneshot::Sender<Result<Vec<Acked>>>);

/// The extends of one request on their way through a batch.
struct ExtendItem {
    queue: Arc<Queue>,
    entries: Vec<NewWindow>,
    reply: oneshot::Sender<Result<Vec<Window>>>,
}

/// Runs deletes and extends one batch after another on a session of its own.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) session: Session,
    pub(super) wakes: Arc<Wakes>,
    pub(super) dues: Arc<Dues>,
    pub(super) mover: Mover,
    pub(super) clock: Clock,
    pub(super) ids: IdKey,
    pub(super) metrics: Metrics,
    pub(super) max_messages: usize,
}

impl Batcher {
    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(first) = items.recv().await {
            gather_arrivals().await;
            let (mut acks, mut extends) = (Vec::new(), Vec::new());
            let mut messages = 0;
            let mut next = Some(first);
            while let Some(item) = next {
                match item {
                    Item::Ack { receipts, reply } => {
                        messages += receipts.len();
                        acks.push((receipts, reply));
                    }
                    Item::Extend {
                        queue,
                        entries,
                        reply,
                    } => {
                        messages += entries.len();
                        extends.push(ExtendItem {
                            queue,
                            entries,
                            reply,
                        });
                    }
                }
                next = if messages < self.max_messages {
                    items.try_recv().ok()
                } else {
                    None
                };
            }
            if !acks.is_empty() {
                self.ack(acks).await;
            }
            if !extends.is_empty() {
                self.extend(extends).await;
            }
        }
    }

    async fn ack(&mut self, batch: Vec<AckItem>) {
        let mut leases: BTreeMap<LeaseRow, (u64, u32)> = BTreeMap::new();
        for receipt in batch.iter().flat_map(|(receipts, _)| receipts) {
            let (mask, size) = leases.entry(row(receipt)).or_default();
            *mask |= bit(receipt);
            *size = u32::from(receipt.lease_size);
        }
        let acks: Vec<Ack> = leases
            .iter()
            .map(|(row, (mask, size))| Ack {
                row: *row,
                mask: *mask,
                whole: mask.count_ones() == *size,
            })
            .collect();
        let began = self.clock.instant();
        let deleted = self.session.ack(SubscriptionId::QUEUE, &acks).await;
        let messages = batch.iter().map(|(receipts, _)| receipts.len()).sum();
        self.measure(Operation::Ack, began, messages);
        let deleted = match deleted {
            Ok(deleted) => deleted,
            // Somebody holds one of them for long: those that nobody holds need not wait for it.
            Err(Failure::NotNow(_)) => vec![0; acks.len()],
            Err(failure) => return refuse_acks(batch, failure),
        };
        let deleted: HashMap<LeaseRow, u64> = leases.into_keys().zip(deleted).collect();
        let was_deleted = |receipt: &Receipt| {
            let mask = deleted.get(&row(receipt)).copied().unwrap_or_default();
            mask & bit(receipt) != 0
        };
        let mut rest: Vec<AckRest> = batch
            .iter()
            .flat_map(|(receipts, _)| receipts)
            .filter(|receipt| !was_deleted(receipt))
            .map(|receipt| self.rest_of(receipt))
            .collect();
        rest.sort_unstable();
        rest.dedup();
        let rest = self.ack_rest(rest).await;
        if let Err(failure) = &rest {
            log("deletes", failure);
        }
        for (receipts, reply) in batch {
            let outcomes = receipts.iter().map(|receipt| {
                if was_deleted(receipt) {
                    return Ok(Acked::Deleted);
                }
                // Some of the request may be deleted.
                let rest = rest
                    .as_ref()
                    .map_err(|_logged| Error::UnknownOutcome(None))?;
                match rest.get(&self.rest_of(receipt)) {
                    Some(Acked::Busy) => Err(Error::UnknownOutcome(None)),
                    Some(outcome) => Ok(*outcome),
                    None => Err(Error::internal("a delete was not answered")),
                }
            });
            // Nobody listens any more: the messages are deleted all the same.
            let _gone = reply.send(outcomes.collect());
        }
    }

    fn measure(&self, operation: Operation, began: Instant, messages: usize) {
        let took = self.clock.instant() - began;
        self.metrics.statement(operation, took, messages);
    }

    /// Deletes what was not in the lease that its receipt names, waiting a while for those who are
    /// at it.
    async fn ack_rest(
        &mut self,
        mut rest: Vec<AckRest>,
    ) -> Result<HashMap<AckRest, Acked>, Failure> {
        let mut done = HashMap::new();
        for round in 1..=MAX_ROUNDS {
            if rest.is_empty() {
                break;
            }
            let outcomes = self.session.ack_rest(SubscriptionId::QUEUE, &rest).await?;
            let mut busy = Vec::new();
            for (ack, outcome) in rest.into_iter().zip(outcomes) {
                if outcome == Acked::Busy {
                    busy.push(ack);
                }
                done.insert(ack, outcome);
            }
            rest = busy;
            if !rest.is_empty() {
                tokio::time::sleep(PAUSE_STEP * round).await;
            }
        }
        Ok(done)
    }

    fn rest_of(&self, receipt: &Receipt) -> AckRest {
        AckRest {
            lane: receipt.position.lane,
            seq: receipt.position.seq,
            token: receipt.token,
            epoch: receipt.epoch,
            salt: receipt.position.salt,
            id: self.ids.seal(receipt.position),
        }
    }

    async fn extend(&mut self, batch: Vec<ExtendItem>) {
        let started = self.clock.instant();
        let (extends, places) = merge(&batch);
        let outcomes = self.extend_all(&batch, extends).await;
        let elapsed = self.clock.instant().saturating_duration_since(started);
        for (item, places) in batch.into_iter().zip(places) {
            for (entry, place) in item.entries.iter().zip(&places) {
                let outcome = outcomes.as_ref().ok();
                let outcome = outcome.and_then(|outcomes| outcomes.get(*place));
                // Without an answer it may have been done.
                let window = outcome.map_or(entry.window, |outcome| Some(outcome.window));
                match window {
                    Some(window) if !window.is_zero() => {
                        self.dues.add(item.queue.id, started + elapsed + window);
                    }
                    _ => self.wakes.wake([item.queue.id]),
                }
            }
            let answer = item.entries.iter().zip(places).map(|(entry, place)| {
                let outcomes = outcomes.as_ref().map_err(Error::for_each_caller)?;
                let window = entry.window.unwrap_or_default();
                if !entry.gives_up && is_late(elapsed, window) {
                    // Whoever reads it could take a window for its own that is over.
                    return Err(Error::UnknownOutcome(None));
                }
                let bit = bit(&entry.receipt);
                match outcomes.get(place) {
                    Some(outcome) if outcome.exhausted & bit != 0 => Ok(Window::DeadLettered),
                    Some(outcome) if outcome.moved & bit != 0 => Ok(Window::VisibleAt(outcome.at)),
                    Some(outcome) if outcome.busy & bit != 0 => Err(Error::UnknownOutcome(None)),
                    _ => Ok(Window::Stale),
                }
            });
            let _gone = item.reply.send(answer.collect());
        }
    }

    /// What became of each extend, waiting a while for those who are at their messages.
    async fn extend_all(
        &mut self,
        batch: &[ExtendItem],
        mut extends: Vec<Extend>,
    ) -> Result<Vec<Extended>> {
        let mut outcomes: Vec<Option<Extended>> = vec![None; extends.len()];
        let mut open: Vec<usize> = (0..extends.len()).collect();
        for round in 1..=MAX_ROUNDS {
            let asked: Vec<Extend> = open.iter().map(|ix| extends[*ix].clone()).collect();
            let began = self.clock.instant();
            let said = self.session.extend(SubscriptionId::QUEUE, &asked).await;
            let messages = asked.iter().map(|extend| extend.mask.count_ones());
            let messages = messages.sum::<u32>();
            self.measure(Operation::Extend, began, messages.try_into().unwrap_or(0));
            let said = said.map_err(|failure| {
                log("extends", &failure);
                match round {
                    1 => failure.into(),
                    // Some of it was done.
                    _ => Error::UnknownOutcome(None),
                }
            })?;
            for lease in said.exhausted {
                let queue = lease.lane.queue();
                let item = batch.iter().find(|item| item.queue.id == queue);
                if let Some(item) = item {
                    self.mover.take(&item.queue, [lease]);
                }
            }
            let mut busy = Vec::new();
            for (ix, extended) in open.into_iter().zip(said.entries) {
                let before = outcomes[ix].take();
                outcomes[ix] = Some(Extended {
                    moved: extended.moved | before.map_or(0, |before| before.moved),
                    exhausted: extended.exhausted | before.map_or(0, |before| before.exhausted),
                    ..extended
                });
                if extended.busy != 0 {
                    extends[ix].mask = extended.busy;
                    busy.push(ix);
                }
            }
            open = busy;
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE_STEP * round).await;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }
}

/// What the statement is asked for: neighbours of one lease that want the same are one. And for each item,
/// which of them its entries have become.
fn merge(batch: &[ExtendItem]) -> (Vec<Extend>, Vec<Vec<usize>>) {
    let mut extends: Vec<Extend> = Vec::new();
    let mut places = Vec::with_capacity(batch.len());
    for item in batch {
        let mut of_item = Vec::with_capacity(item.entries.len());
        for entry in &item.entries {
            let extend = Extend {
                lease: LeaseKey {
                    row: row(&entry.receipt),
                    epoch: entry.receipt.epoch,
                },
                mask: bit(&entry.receipt),
                window: entry.window.unwrap_or_default(),
                delays: delays(&item.queue, entry),
                max_receives: item.queue.max_receives().filter(|_| entry.gives_up),
                reason: entry.reason.clone(),
            };
            let same = |other: &Extend| {
                Extend {
                    mask: 0,
                    ..other.clone()
                } == Extend {
                    mask: 0,
                    ..extend.clone()
                }
            };
            if let Some(last) = extends.last_mut().filter(|last| same(last)) {
                last.mask |= extend.mask;
            } else {
                extends.push(extend);
            }
            of_item.push(extends.len() - 1);
        }
        places.push(of_item);
    }
    (extends, places)
}

/// What an entry without a window waits for, by how often its message was received.
fn delays(queue: &Queue, entry: &NewWindow) -> Vec<Duration> {
    match &queue.settings.retry_policy {
        Some(policy) if entry.window.is_none() => policy.delays(rand::random()),
        _ => Vec::new(),
    }
}

/// The row that a receipt names.
fn row(receipt: &Receipt) -> LeaseRow {
    LeaseRow {
        lane: receipt.position.lane,
        lo: receipt.position.seq - i64::from(receipt.lease_index),
        token: receipt.token,
    }
}

/// The message's place in its lease.
fn bit(receipt: &Receipt) -> u64 {
    1_u64.checked_shl(receipt.lease_index.into()).unwrap_or(0)
}

fn log(what: &str, failure: &Failure) {
    tracing::error!(
        error = failure as &dyn std::error::Error,
        "a batch of {what} failed"
    );
}

fn refuse_acks(batch: Vec<AckItem>, failure: Failure) {
    log("deletes", &failure);
    let error = Error::from(failure);
    for (_, reply) in batch {
        let _gone = reply.send(Err(error.for_each_caller()));
    }
}

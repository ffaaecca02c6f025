//! Looks at the database for the sake of operators: what queues hold, who holds back vacuum, and what that costs.
//!
//! It runs where the node is elected to give space back, which knows the queues that may hold something: a queue
//! that nobody writes to and that is empty is never asked about. However often somebody scrapes, the database is
//! asked at an interval.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::culprits::Culprits;
use super::space;
use crate::clock::Clock;
use crate::domain::lane::QueueId;
use crate::metrics::{Connections, Database, DeadRows, Metrics, QueueHolds};
use crate::store::{ConnectionCounts, Failure, Holding, Store};

const TASK: &str = "observe";

/// Queues that one statement counts.
const QUEUES_AT_ONCE: usize = 20;

/// Most queues that are counted at all: the first ones by number.
const MAX_QUEUES: usize = 10_000;

/// How often what histograms were given is taken in.
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);

/// What the task runs on.
#[derive(Debug)]
pub struct Observe {
    /// What is looked at.
    pub store: Store,
    /// Where it is said what was seen.
    pub metrics: Metrics,
    /// Which queues may hold something, where this node is elected.
    pub holding: watch::Receiver<space::Holding>,
    /// The pause between two looks. A look takes about half of it at most.
    pub interval: Duration,
    /// From which age on a transaction is warned of.
    pub old_snapshot: Duration,
    /// This node's clock.
    pub clock: Clock,
}

/// Looks while this node is elected, until cancelled.
pub async fn run(observe: Observe, cancel: CancellationToken) {
    let _cancelled = cancel.run_until_cancelled(observe.look_for_ever()).await;
}

/// Keeps the metrics of a node in order, whether it is elected or not, until cancelled.
pub async fn upkeep(metrics: Metrics, store: Store, clock: Clock, cancel: CancellationToken) {
    let pause = || tokio::time::sleep(UPKEEP_PAUSE);
    while cancel.run_until_cancelled(pause()).await.is_some() {
        metrics.upkeep(clock.instant());
        let ConnectionCounts {
            idle,
            used,
            dedicated,
        } = store.connections();
        metrics.set_connections(Connections {
            idle,
            used,
            dedicated,
        });
    }
}

/// What was seen so far.
struct Seen {
    holds: HashMap<QueueId, QueueHolds>,
    /// The queue that was counted last.
    last: Option<QueueId>,
    culprits: Culprits,
}

impl Observe {
    async fn look_for_ever(mut self) {
        // Ends when the other task does.
        while self.holding.wait_for(Option::is_some).await.is_ok() {
            let mut seen = Seen {
                holds: HashMap::new(),
                last: None,
                culprits: Culprits::new(self.old_snapshot),
            };
            loop {
                let holding = self.holding.borrow().clone();
                let Some(queues) = holding else { break };
                self.look(&mut seen, &queues).await;
                tokio::time::sleep(self.interval).await;
            }
            // Another node looks now; what this one saw grows old.
            self.metrics.set_queues(None);
            self.metrics.set_database(None);
        }
    }

    async fn look(&self, seen: &mut Seen, queues: &BTreeSet<QueueId>) {
        let counted = self.count(seen, queues).await;
        let holds = seen.holds.values().cloned().collect();
        self.metrics.set_queues(Some(holds));
        let looked = self.look_at_database(seen).await;
        match counted.and(looked) {
            Ok(()) => self.metrics.task_succeeded(TASK, self.clock.utc()),
            Err(failure) => tracing::warn!(
                error = &failure as &dyn std::error::Error,
                "some metrics of the database are not up to date"
            ),
        }
    }

    /// Counts what queues hold, from where the last look ended, for half of the interval.
    async fn count(&self, seen: &mut Seen, queues: &BTreeSet<QueueId>) -> Result<(), Failure> {
        let began = self.clock.instant();
        let Seen { holds, last, .. } = seen;
        holds.retain(|queue, _| queues.contains(queue));
        let first = queues.iter().take(MAX_QUEUES).copied();
        let (behind, before): (Vec<_>, Vec<_>) = first.partition(|queue| Some(*queue) > *last);
        let order = [behind, before].concat();
        let mut refused = Ok(());
        for few in order.chunks(QUEUES_AT_ONCE) {
            if self.clock.instant() - began > self.interval / 2 {
                break;
            }
            *last = few.last().copied();
            let found = match self.store.holdings(few).await {
                Ok(found) => found,
                Err(failure @ (Failure::Lost(_) | Failure::Unreachable(_))) => return Err(failure),
                // One of them takes too long: the others go on.
                Err(failure) => {
                    refused = Err(failure);
                    continue;
                }
            };
            for queue in few {
                holds.remove(queue);
            }
            for Holding {
                queue,
                name,
                counts,
            } in found
            {
                let held = QueueHolds {
                    queue,
                    name,
                    counts,
                };
                holds.insert(queue, held);
            }
            for gone in few.iter().filter(|queue| !holds.contains_key(queue)) {
                self.metrics.forget(*gone);
            }
        }
        refused
    }

    async fn look_at_database(&self, seen: &mut Seen) -> Result<(), Failure> {
        let holders = self.store.snapshot_holders().await?;
        let dead_rows = self.store.dead_rows().await?.into_iter();
        let dead_rows = dead_rows.map(|dead| DeadRows {
            table: dead.table,
            rows: dead.rows,
        });
        self.metrics.set_database(Some(Database {
            snapshots: seen.culprits.look(holders, self.clock.instant()),
            dead_rows: dead_rows.collect(),
        }));
        Ok(())
    }
}

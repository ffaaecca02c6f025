//! Does redrives: takes messages out of a queue, and moves those that are meant to where they belong.
//!
//! Each redrive is a row that one node holds for a while at a time; when it dies another one goes on. A
//! redrive is a receiver: nobody else has what it has in hand. Messages that are about to move are hidden
//! for a short window, those that are not meant for a longer one that is renewed, so that they are not met
//! again and again; all of them are given back uncounted when the redrive ends. Wherever it is cut off, the
//! windows end and the messages are as they were, or they have moved.

mod moving;
mod pace;
mod parts;
mod targets;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::Broker;
use crate::clock::Clock;
use crate::store::{Failure, Session, Store, Terms};
use moving::Moving;

/// How long a node holds a redrive, and what it has in hand.
const TERMS: Terms = Terms {
    term: Duration::from_secs(10),
    move_window: Duration::from_secs(15),
    hold_window: Duration::from_secs(300),
};
/// How often a node looks for redrives that nobody does.
const PAUSE: Duration = Duration::from_secs(3);
/// Redrives that a node does at once; others wait for a place, on whichever node.
const MAX_AT_ONCE: usize = 32;
/// Who forgets those that ended long ago, how often, and how many at once.
const FORGETS: &str = "redrives";
const FORGET_EVERY: Duration = Duration::from_secs(600);
const FORGET_TERM: Duration = Duration::from_secs(60);
const FORGOTTEN: i32 = 1_000;

/// What redrives run on.
#[derive(Debug, Clone)]
pub struct Redrives {
    /// For the rows of redrives, and for queues.
    pub store: Store,
    /// For what all redrives of this node hold.
    pub session: Arc<Mutex<Session>>,
    /// For messages.
    pub broker: Broker,
    /// This node.
    pub node: Uuid,
    /// Told when somebody started or cancelled a redrive on this node.
    pub wanted: Arc<Notify>,
    /// This node's clock.
    pub clock: Clock,
}

/// Does redrives, until cancelled: then it gives back what it holds, for another node to go on.
pub async fn run(redrives: Redrives, cancel: CancellationToken) {
    let mut running = JoinSet::new();
    let mut forgot_at: Option<Instant> = None;
    while !cancel.is_cancelled() {
        let room = MAX_AT_ONCE - running.len().min(MAX_AT_ONCE);
        let taken = match room {
            0 => Ok(Vec::new()),
            _ => {
                let take = redrives.store.take_redrives(redrives.node, room, TERMS);
                take.await
            }
        };
        match taken {
            Ok(tasks) => {
                for task in tasks {
                    let moving = Moving::new(redrives.clone(), task);
                    running.spawn(moving.run(cancel.child_token()));
                }
            }
            Err(failure) => warn(&failure, "redrives are not looked for"),
        }
        let now = redrives.clock.instant();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= FORGET_EVERY;
        if forgot_at.is_none_or(is_due) {
            forgot_at = Some(now);
            if let Err(failure) = redrives.forget().await {
                warn(&failure, "old redrives are not forgotten yet");
            }
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = redrives.wanted.notified() => {}
            () = tokio::time::sleep(PAUSE) => {}
            Some(ended) = running.join_next() => log_bug(ended),
        }
    }
    while let Some(ended) = running.join_next().await {
        log_bug(ended);
    }
}

impl Redrives {
    async fn forget(&self) -> Result<(), Failure> {
        if !self.store.elect(FORGETS, self.node, FORGET_TERM).await? {
            return Ok(());
        }
        while self.store.forget_redrives(FORGOTTEN).await? == FORGOTTEN {}
        self.store.resign(FORGETS, self.node).await
    }
}

/// The row stays, and this or another node takes it when its term is over.
fn log_bug(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a redrive ended by a bug; it is begun again");
    }
}

fn warn(failure: &Failure, what: &str) {
    tracing::warn!(error = failure as &dyn std::error::Error, "{what}");
}

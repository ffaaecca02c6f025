//! How those who make messages visible wake those who wait for them, on this node and on others.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::lane::QueueId;

/// Queues that may have something new, for one who looks at them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queues: Mutex<Heard>,
    some: Notify,
}

/// What was said since the last time. Bounded by the number of queues: each is there once.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) queues: HashSet<QueueId>,
    /// Any queue may have something new.
    pub(super) all: bool,
}

impl Inbox {
    fn say(&self, queues: impl IntoIterator<Item = QueueId>, all: bool) {
        let mut heard = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        heard.queues.extend(queues);
        heard.all |= all;
        drop(heard);
        self.some.notify_one();
    }

    /// Takes what was said since the last time.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends when something was said, also when that was before.
    pub(super) async fn some(&self) {
        self.some.notified().await;
    }
}

/// Who is told about queues that may have something new.
#[derive(Debug)]
pub(super) struct Wakes {
    /// The claim batchers of this node.
    pub(super) claims: [Inbox; 2],
    /// Whoever tells other nodes.
    pub(super) others: Inbox,
    has_others: AtomicBool,
}

impl Default for Wakes {
    fn default() -> Self {
        Self {
            claims: Default::default(),
            others: Inbox::default(),
            // Until this node knows better.
            has_others: AtomicBool::new(true),
        }
    }
}

impl Wakes {
    /// Says that queues may have something to receive.
    pub(super) fn wake(&self, queues: impl IntoIterator<Item = QueueId>) {
        let queues: HashSet<_> = queues.into_iter().collect();
        if self.has_others.load(Ordering::Relaxed) {
            self.others.say(queues.iter().copied(), false);
        }
        self.hear(&queues);
    }

    /// The same, by another node.
    pub(super) fn hear(&self, queues: &HashSet<QueueId>) {
        for inbox in &self.claims {
            inbox.say(queues.iter().copied(), false);
        }
    }

    /// Another node says that any queue may have something to receive, or could not be heard.
    pub(super) fn hear_all(&self) {
        for inbox in &self.claims {
            inbox.say([], true);
        }
    }

    /// Whether there are other nodes to tell.
    pub(super) fn set_others(&self, has_others: bool) {
        self.has_others.store(has_others, Ordering::Relaxed);
    }
}

//! How those who make messages visible wake those who wait for them, inside one node.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::lane::QueueId;

/// Queues that may have something new. Bounded by the number of queues: each is there once.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    queues: Mutex<HashSet<QueueId>>,
    some: Notify,
}

impl Wakes {
    /// Says that queues may have something to receive.
    pub(super) fn wake(&self, queues: impl IntoIterator<Item = QueueId>) {
        self.queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(queues);
        self.some.notify_one();
    }

    /// Takes what was said since the last time.
    pub(super) fn take(&self) -> HashSet<QueueId> {
        std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends when something was said, also when that was before.
    pub(super) async fn some(&self) {
        self.some.notified().await;
    }
}

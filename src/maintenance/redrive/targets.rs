//! Where messages of a redrive go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::broker::TakenMessage;
use crate::domain::lane::QueueId;
use crate::domain::queue::{Queue, QueueName};
use crate::domain::redrive::RedriveTask;
use crate::store::{Failure, Store};

/// How long a queue is remembered, as everywhere, and how many are.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);
const MAX_REMEMBERED: usize = 1_000;

/// The queues that messages go to.
#[derive(Debug)]
pub(super) struct Targets {
    known: HashMap<QueueName, Option<Arc<Queue>>>,
    since: Instant,
}

/// Where one message goes.
#[derive(Debug)]
pub(super) enum Goes {
    To(Arc<Queue>),
    /// Its queue is gone, or it never had another, or it would end there at once.
    Nowhere,
    /// The queue that all were to go to was deleted.
    TargetGone,
}

impl Targets {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            known: HashMap::new(),
            since: now,
        }
    }

    /// Forgets what is old.
    pub(super) fn refresh(&mut self, now: Instant) {
        let is_old = now.saturating_duration_since(self.since) >= REMEMBERED_FOR;
        if is_old || self.known.len() > MAX_REMEMBERED {
            self.known.clear();
            self.since = now;
        }
    }

    /// A queue was found to be gone.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    pub(super) async fn of(
        &mut self,
        store: &Store,
        task: &RedriveTask,
        message: &TakenMessage,
        now: OffsetDateTime,
    ) -> Result<Goes, Failure> {
        let found = if let Some((id, name)) = &task.to {
            match self.get(store, task, name).await? {
                Some(queue) if queue.id == *id => queue,
                _ => return Ok(Goes::TargetGone),
            }
        } else {
            let last = message.frame.deaths.last();
            let name = last.and_then(|death| QueueName::parse("queue", &death.queue).ok());
            let Some(name) = name else {
                return Ok(Goes::Nowhere);
            };
            match self.get(store, task, &name).await? {
                Some(queue) => queue,
                None => return Ok(Goes::Nowhere),
            }
        };
        let (source, _): &(QueueId, _) = &task.source;
        // It counts from the first send: such a message would be dropped without a word.
        let ends_at_once = message.sent_at + found.settings.retention <= now;
        if found.id == *source || ends_at_once {
            return Ok(Goes::Nowhere);
        }
        Ok(Goes::To(found))
    }

    async fn get(
        &mut self,
        store: &Store,
        task: &RedriveTask,
        name: &QueueName,
    ) -> Result<Option<Arc<Queue>>, Failure> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let found = store.get_queue(&task.tenant, name).await?.map(Arc::new);
        self.known.insert(name.clone(), found.clone());
        Ok(found)
    }
}

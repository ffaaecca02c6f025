//! What can be asked of Towpath, whatever the protocol: a function per operation.
//!
//! An operation looks up what it names, checks what the domain cannot know, and makes one call of
//! the broker or the store. Whether the caller has the right is the adapter's to ask before.

mod messages;
mod peek;
mod queues;
mod redrives;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::broker::Broker;
use crate::domain::lane::QueueId;
use crate::domain::queue::{Counts, Queue, QueueName, Tenant};
use crate::domain::{Error, Result};
use crate::metrics::Metrics;
use crate::store::Store;

pub use crate::store::{PutOutcome, QueuePage};
pub use messages::{ReceiveRequest, WindowRequest};
pub use peek::{LocatedMessage, PeekPage, PeekRequest};
pub use queues::NewSettings;
pub use redrives::RedriveCount;

/// How long a node may go on with a queue's settings after another node changed them. A deleted
/// queue is noticed by the database at once, whatever is cached.
const QUEUE_TTL: Duration = Duration::from_secs(1);
/// Queues that are remembered.
const MAX_QUEUES: u64 = 10_000;
/// Peeks at once; others wait. Each reads up to some MiB, and connections of the pool are for all.
const MAX_PEEKS: usize = 4;
/// How long counts are good for.
const COUNTS_TTL: Duration = Duration::from_secs(1);
/// How long the database may take to say that it is there.
const READY_DEADLINE: Duration = Duration::from_secs(1);

/// The operations; clones share everything.
#[derive(Debug, Clone)]
pub struct Service(Arc<Parts>);

impl Deref for Service {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What the operations work with. One count of references for all of it: a handle is cloned for every
/// request.
#[derive(Debug)]
pub struct Parts {
    broker: Broker,
    store: Store,
    node: Uuid,
    tasks: TaskTracker,
    queues: Cache<(Tenant, QueueName), Arc<Queue>>,
    /// Which changes of queues by other nodes the cache has heard of.
    queues_heard: AtomicU64,
    counts: Cache<QueueId, Counts>,
    /// Told when a redrive is there to be done.
    redrives_wanted: Arc<Notify>,
    /// Places of peeks.
    peeks: Semaphore,
}

impl Service {
    /// The operations over a broker and a store.
    pub fn new(broker: Broker, store: Store, node: Uuid, tasks: TaskTracker) -> Self {
        Self(Arc::new(Parts {
            broker,
            store,
            node,
            tasks,
            queues: Cache::builder()
                .max_capacity(MAX_QUEUES)
                .time_to_live(QUEUE_TTL)
                .build(),
            queues_heard: AtomicU64::default(),
            counts: Cache::builder()
                .max_capacity(MAX_QUEUES)
                .time_to_live(COUNTS_TTL)
                .build(),
            redrives_wanted: Arc::default(),
            peeks: Semaphore::new(MAX_PEEKS),
        }))
    }

    /// Told when a redrive was started here, for whoever does them.
    pub fn redrives_wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.redrives_wanted)
    }

    /// Where it is counted what the node does.
    pub fn metrics(&self) -> &Metrics {
        self.broker.metrics()
    }

    /// Whether requests can be served: the database answers and has the schema.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn is_ready(&self) -> Result<()> {
        match tokio::time::timeout(READY_DEADLINE, self.store.ping()).await {
            Ok(ready) => ready.map_err(|failure| Error::Unavailable(Some(Box::new(failure)))),
            Err(elapsed) => Err(Error::Unavailable(Some(Box::new(elapsed)))),
        }
    }

    /// The living queue of a name, as of a second ago at the most.
    async fn queue(&self, tenant: &Tenant, name: &QueueName) -> Result<Arc<Queue>> {
        let key = (tenant.clone(), name.clone());
        let heard = self.broker.queues_changed();
        if self.queues_heard.swap(heard, Ordering::Relaxed) != heard {
            self.queues.invalidate_all();
        }
        if let Some(queue) = self.queues.get(&key).await {
            return Ok(queue);
        }
        self.queues
            .try_get_with(key, async {
                self.get_queue(tenant, name).await.map(Arc::new)
            })
            .await
            .map_err(|error| error.for_each_caller())
    }

    /// Forgets a queue that an operation found deleted: the name may already be another's.
    async fn forget_if_gone<T>(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        done: Result<T>,
    ) -> Result<T> {
        if matches!(done, Err(Error::QueueNotFound { .. })) {
            self.forget(tenant, name).await;
        }
        done
    }

    /// After a change: this node forgets the queue, and others all of theirs.
    async fn spread(&self, tenant: &Tenant, name: &QueueName) {
        self.forget(tenant, name).await;
        // Nobody waits for it: it is a hint.
        let (store, node) = (self.store.clone(), self.node);
        self.tasks.spawn(async move {
            if let Err(failure) = store.notify_queues(node).await {
                tracing::debug!(
                    error = &failure as &dyn std::error::Error,
                    "other nodes were not told of a change; they notice within a second"
                );
            }
        });
    }

    async fn forget(&self, tenant: &Tenant, name: &QueueName) {
        self.queues
            .invalidate(&(tenant.clone(), name.clone()))
            .await;
    }
}

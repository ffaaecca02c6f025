//! Operations on queues.

use super::{PutOutcome, QueuePage, Service};
use crate::domain::queue::{Counts, Queue, QueueName, QueueSettings, Tenant};
use crate::domain::{Error, Result};
use crate::store::DeleteOutcome;

impl Service {
    /// Creates a queue, or replaces the settings of the one that has the name.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the dead-letter queue is not there, or is the queue itself;
    /// [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn put_queue(
        &self,
        tenant: &Tenant,
        name: QueueName,
        settings: QueueSettings,
    ) -> Result<(Queue, PutOutcome)> {
        let dead_letters_to = match &settings.dead_letter {
            None => None,
            Some(dead_letter) => {
                let field = "/dead_letter_queue";
                let target = dead_letter.queue.as_str();
                if dead_letter.queue == name {
                    let rule = "the name of another queue";
                    return Err(Error::invalid(field, target, rule));
                }
                let found = self.store.get_queue(tenant, &dead_letter.queue).await?;
                let found = found.ok_or_else(|| {
                    let rule = "the name of a queue that exists; create it first";
                    Error::invalid(field, target, rule)
                })?;
                Some(found.id)
            }
        };
        let put = self
            .store
            .put_queue(tenant, &name, &settings, dead_letters_to)
            .await;
        self.spread(tenant, &name).await;
        Ok(put?)
    }

    /// A queue by its name.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`].
    pub async fn get_queue(&self, tenant: &Tenant, name: &QueueName) -> Result<Queue> {
        self.store
            .get_queue(tenant, name)
            .await?
            .ok_or_else(|| Error::QueueNotFound {
                name: name.as_str().to_owned(),
            })
    }

    /// Up to `limit` queues by name, behind `after`, whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list_queues(
        &self,
        tenant: &Tenant,
        prefix: Option<&str>,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<QueuePage> {
        Ok(self
            .store
            .list_queues(tenant, prefix.unwrap_or_default(), after, limit)
            .await?)
    }

    /// Deletes a queue with everything in it. Who waits on it is told. Without `force`, not one that
    /// others send their dead letters to.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::QueueInUse`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    pub async fn delete_queue(&self, tenant: &Tenant, name: &QueueName, force: bool) -> Result<()> {
        let deleted = self.store.delete_queue(tenant, name, force).await;
        self.spread(tenant, name).await;
        let name = name.as_str().to_owned();
        match deleted? {
            DeleteOutcome::Deleted(queue) => {
                self.broker.wake(queue);
                Ok(())
            }
            DeleteOutcome::NotFound => Err(Error::QueueNotFound { name }),
            DeleteOutcome::InUse(sources) => Err(Error::QueueInUse { name, sources }),
        }
    }

    /// Drops everything that a queue holds: waiting, in flight and delayed. Messages sent meanwhile may
    /// survive.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn purge_queue(&self, tenant: &Tenant, name: &QueueName) -> Result<()> {
        let queue = self.get_queue(tenant, name).await?;
        self.store.purge_queue(queue.id).await?;
        self.counts.invalidate(&queue.id).await;
        Ok(())
    }

    /// What a queue holds, as of a second ago at the most.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`].
    pub async fn count_messages(&self, tenant: &Tenant, name: &QueueName) -> Result<Counts> {
        let queue = self.queue(tenant, name).await?;
        let counting = async { Ok(self.store.count_messages(queue.id).await?) };
        self.counts
            .try_get_with(queue.id, counting)
            .await
            .map_err(|error: std::sync::Arc<Error>| error.for_each_caller())
    }
}

//! Operations on queues.

use super::{PutOutcome, QueuePage, Service};
use crate::domain::queue::{Queue, QueueName, QueueSettings, Tenant};
use crate::domain::{Error, Result};

impl Service {
    /// Creates a queue, or replaces the settings of the one that has the name.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn put_queue(
        &self,
        tenant: &Tenant,
        name: QueueName,
        settings: QueueSettings,
    ) -> Result<(Queue, PutOutcome)> {
        let put = self.store.put_queue(tenant, &name, settings).await;
        self.forget(tenant, &name).await;
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

    /// Deletes a queue with everything in it. Who waits on it is told.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn delete_queue(&self, tenant: &Tenant, name: &QueueName) -> Result<()> {
        let deleted = self.store.delete_queue(tenant, name).await;
        self.forget(tenant, name).await;
        match deleted? {
            Some(queue) => {
                self.broker.wake(queue);
                Ok(())
            }
            None => Err(Error::QueueNotFound {
                name: name.as_str().to_owned(),
            }),
        }
    }
}

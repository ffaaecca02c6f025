//! Operations on queues.

use std::time::Duration;

use super::{PutOutcome, QueuePage, Service};
use crate::domain::lane::QueueId;
use crate::domain::queue::{Counts, Precondition, Queue, QueueName, QueueSettings, Tenant};
use crate::domain::{Error, Result};
use crate::store::DeleteOutcome;

/// How often a change is tried that goes by what was read: each time that it is too late another change
/// was made. And the longest pause before the second try; it grows with each.
const CHANGE_ATTEMPTS: u32 = 32;
const CHANGE_PAUSE: Duration = Duration::from_millis(2);

/// Settings that are to replace a queue's.
#[derive(Debug, Clone)]
pub struct NewSettings {
    /// All of them.
    pub settings: QueueSettings,
    /// Its dead letters go on to where they went, whatever has the name of that now.
    pub keeps_dead_letter_queue: bool,
}

impl Service {
    /// Creates a queue, or replaces the settings of the one that has the name.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the delay is not shorter than the queue keeps messages, or the
    /// dead-letter queue is not there or is the queue itself; [`Error::PreconditionFailed`], [`Error::Overloaded`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    pub async fn put_queue(
        &self,
        tenant: &Tenant,
        name: QueueName,
        settings: QueueSettings,
        precondition: &Precondition,
    ) -> Result<(Queue, PutOutcome)> {
        check(&settings)?;
        let put = match precondition {
            Precondition::None | Precondition::Absent => {
                self.create_or_replace(tenant, &name, &settings, precondition)
                    .await
            }
            Precondition::Exists | Precondition::Version(_) => {
                let new = |_found: &Queue| {
                    Ok(NewSettings {
                        settings: settings.clone(),
                        keeps_dead_letter_queue: false,
                    })
                };
                self.replace(tenant, &name, precondition, new).await
            }
        };
        self.changed(tenant, &name, put).await
    }

    /// Replaces the settings of a queue by those that `change` makes of what they are. Of two such changes
    /// at once the second one goes by what the first one left.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`]; else as [`Service::put_queue`], and those of `change`.
    pub async fn change_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        precondition: &Precondition,
        change: impl Fn(&Queue) -> Result<NewSettings>,
    ) -> Result<(Queue, PutOutcome)> {
        // To change what is not there fails in any case, and then no precondition counts.
        self.get_queue(tenant, name).await?;
        let changed = self.replace(tenant, name, precondition, change).await;
        self.changed(tenant, name, changed).await
    }

    /// A queue by its name.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`].
    pub async fn get_queue(&self, tenant: &Tenant, name: &QueueName) -> Result<Queue> {
        self.store
            .get_queue(tenant, name)
            .await?
            .ok_or_else(|| not_found(name))
    }

    /// Up to `limit` queues by name, behind `after`, whose names begin with `prefix`, and which have a
    /// tag: `key`, or `key:value`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list_queues(
        &self,
        tenant: &Tenant,
        prefix: Option<&str>,
        tag: Option<&str>,
        after: Option<&QueueName>,
        limit: usize,
    ) -> Result<QueuePage> {
        Ok(self
            .store
            .list_queues(tenant, prefix.unwrap_or_default(), tag, after, limit)
            .await?)
    }

    /// Deletes a queue with everything in it. Who waits on it is told. Without `force`, not one that
    /// others send their dead letters to.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::QueueInUse`], [`Error::PreconditionFailed`],
    /// [`Error::Overloaded`], [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn delete_queue(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        force: bool,
        precondition: &Precondition,
    ) -> Result<()> {
        let deleted = self.delete(tenant, name, force, precondition).await;
        self.spread(tenant, name).await;
        let queue = deleted?;
        self.broker.wake(queue);
        self.metrics().forget(queue);
        Ok(())
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

impl Service {
    async fn create_or_replace(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        settings: &QueueSettings,
        precondition: &Precondition,
    ) -> Result<(Queue, PutOutcome)> {
        let store = &self.store;
        let dead_letters_to = self.dead_letters_to(tenant, name, settings).await?;
        if *precondition == Precondition::None {
            let put = store.put_queue(tenant, name, settings, dead_letters_to);
            return Ok(put.await?);
        }
        for attempt in 1..=CHANGE_ATTEMPTS {
            let created = store
                .create_queue(tenant, name, settings, dead_letters_to)
                .await?;
            if let Some(created) = created {
                return Ok(created);
            }
            let found = store.get_queue(tenant, name).await?;
            precondition.check(name, found.map(|queue| queue.version))?;
            // It was deleted in between.
            pause(attempt).await;
        }
        Err(too_many_changes())
    }

    /// Replaces the settings of the queue that is there, if it is as the caller wants it, and is still so
    /// when it is replaced.
    async fn replace(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        precondition: &Precondition,
        new: impl Fn(&Queue) -> Result<NewSettings>,
    ) -> Result<(Queue, PutOutcome)> {
        for attempt in 1..=CHANGE_ATTEMPTS {
            let found = self.store.get_queue(tenant, name).await?;
            let version = found.as_ref().map(|queue| queue.version);
            precondition.check(name, version)?;
            let found = found.ok_or_else(|| not_found(name))?;
            let NewSettings {
                settings,
                keeps_dead_letter_queue,
            } = new(&found)?;
            check(&settings)?;
            let dead_letters_to = match keeps_dead_letter_queue {
                true => None,
                false => self.dead_letters_to(tenant, name, &settings).await?,
            };
            let replaced = self
                .store
                .replace_queue(&found, &settings, dead_letters_to)
                .await?;
            if let Some(replaced) = replaced {
                return Ok(replaced);
            }
            pause(attempt).await;
        }
        Err(too_many_changes())
    }

    async fn delete(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        force: bool,
        precondition: &Precondition,
    ) -> Result<QueueId> {
        for attempt in 1..=CHANGE_ATTEMPTS {
            let only = match precondition {
                Precondition::None => None,
                _ => {
                    let found = self.get_queue(tenant, name).await?;
                    precondition.check(name, Some(found.version))?;
                    Some(found)
                }
            };
            let deleted = self.store.delete_queue(tenant, name, force, only.as_ref());
            match deleted.await? {
                DeleteOutcome::Deleted(queue) => return Ok(queue),
                DeleteOutcome::InUse(sources) => {
                    let name = name.as_str().to_owned();
                    return Err(Error::QueueInUse { name, sources });
                }
                DeleteOutcome::NotFound if only.is_some() => pause(attempt).await,
                DeleteOutcome::NotFound => return Err(not_found(name)),
            }
        }
        Err(too_many_changes())
    }

    /// The number of the dead-letter queue that settings name.
    async fn dead_letters_to(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        settings: &QueueSettings,
    ) -> Result<Option<QueueId>> {
        let Some(dead_letter) = &settings.dead_letter else {
            return Ok(None);
        };
        let field = "/dead_letter_queue";
        let target = dead_letter.queue.as_str();
        if dead_letter.queue == *name {
            let rule = "the name of another queue";
            return Err(Error::invalid(field, target, rule));
        }
        let found = self.store.get_queue(tenant, &dead_letter.queue).await?;
        let found = found.ok_or_else(|| {
            let rule = "the name of a queue that exists; create it first";
            Error::invalid(field, target, rule)
        })?;
        Ok(Some(found.id))
    }

    /// After a change of settings, done or not: nodes forget what they know, and those who wait look
    /// again, since receiving may be resumed.
    async fn changed(
        &self,
        tenant: &Tenant,
        name: &QueueName,
        change: Result<(Queue, PutOutcome)>,
    ) -> Result<(Queue, PutOutcome)> {
        self.spread(tenant, name).await;
        let (queue, outcome) = change?;
        if outcome == PutOutcome::Updated && !queue.settings.receiving_paused {
            self.broker.wake(queue.id);
        }
        Ok((queue, outcome))
    }
}

/// Lets those who change the same queue get out of step.
async fn pause(attempt: u32) {
    let longest = CHANGE_PAUSE * attempt;
    tokio::time::sleep(longest.mul_f64(rand::random())).await;
}

fn too_many_changes() -> Error {
    Error::Overloaded {
        what: "changes of one queue at once",
    }
}

fn not_found(name: &QueueName) -> Error {
    Error::QueueNotFound {
        name: name.as_str().to_owned(),
    }
}

/// What holds for several settings together.
fn check(settings: &QueueSettings) -> Result<()> {
    if settings.delay < settings.retention {
        return Ok(());
    }
    let rule = "less than retention_seconds, or no message would ever be received";
    let delay = settings.delay.as_secs().to_string();
    Err(Error::invalid("/delay_seconds", delay, rule))
}

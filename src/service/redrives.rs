//! Operations on redrives. They are rows; who does them is in `maintenance`.

use std::time::Duration;

use uuid::Uuid;

use super::Service;
use crate::domain::chunk;
use crate::domain::lane::{LaneId, Position, QueueId};
use crate::domain::queue::{Queue, QueueName, Tenant};
use crate::domain::redrive::{Candidate, NewRedrive, Redrive, RedriveFilter};
use crate::domain::{Error, Result, limits};
use crate::store::{StartOutcome, VisiblePage};

/// How often a start is tried that another redrive, which has ended since, kept from starting.
const START_ROUNDS: usize = 5;
/// Chunks, and bytes of them, that one statement of a count looks at.
const COUNT_CHUNKS: i32 = 1_000;
const COUNT_BYTES: i64 = 4 * 1024 * 1024;
/// How long a count may take: the longest time for an answer is longer.
const COUNT_DEADLINE: Duration = Duration::from_secs(15);

/// How many messages a redrive would take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RedriveCount {
    /// Messages that can be received and are meant.
    pub matching: u64,
    /// Whether the whole queue was looked at.
    pub complete: bool,
}

impl Service {
    /// Starts a redrive of a queue.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`]; [`Error::Invalid`] when the target is not there, or is the queue itself;
    /// [`Error::RedriveRunning`]; [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn start_redrive(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        redrive: NewRedrive,
    ) -> Result<(Queue, Redrive)> {
        let source = self.get_queue(tenant, queue).await?;
        let to = self.redrive_target(tenant, &source, &redrive).await?;
        let id = Uuid::now_v7();
        for _round in 0..START_ROUNDS {
            let started = self
                .store
                .start_redrive(id, source.id, to, &redrive)
                .await?;
            match started {
                StartOutcome::Started => {
                    self.redrives_wanted.notify_one();
                    let redrive = self.redrive_of(&source, id).await?;
                    return Ok((source, redrive));
                }
                StartOutcome::Running(running) => {
                    return Err(Error::RedriveRunning {
                        name: queue.as_str().to_owned(),
                        id: running.to_string(),
                    });
                }
                StartOutcome::Again => {}
            }
        }
        Err(Error::Overloaded {
            what: "redrives of one queue",
        })
    }

    async fn redrive_target(
        &self,
        tenant: &Tenant,
        source: &Queue,
        redrive: &NewRedrive,
    ) -> Result<Option<QueueId>> {
        let Some(name) = &redrive.to else {
            return Ok(None);
        };
        let refuse = |rule| Err(Error::invalid("/to", name.as_str(), rule));
        if *name == source.name {
            return refuse("the name of another queue");
        }
        match self.store.get_queue(tenant, name).await? {
            Some(target) => Ok(Some(target.id)),
            None => refuse("the name of a queue that exists; create it first"),
        }
    }

    /// Counts what a redrive would take, and takes nothing.
    ///
    /// # Errors
    /// As [`Service::start_redrive`], but for those that run.
    pub async fn count_redrive(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        redrive: &NewRedrive,
    ) -> Result<RedriveCount> {
        let source = self.get_queue(tenant, queue).await?;
        self.redrive_target(tenant, &source, redrive).await?;
        let mut count = RedriveCount::default();
        let counted = self.count_matching(&source, &redrive.filter, &mut count);
        // What was counted by then is told.
        match tokio::time::timeout(COUNT_DEADLINE, counted).await {
            Ok(counted) => counted?,
            Err(_elapsed) => return Ok(count),
        }
        count.complete = true;
        Ok(count)
    }

    async fn count_matching(
        &self,
        source: &Queue,
        filter: &RedriveFilter,
        count: &mut RedriveCount,
    ) -> Result<()> {
        for lane in self.store.lanes_of(source.id).await? {
            let mut from = 0;
            loop {
                let visible = self.store.visible(lane, from, COUNT_CHUNKS, COUNT_BYTES);
                let page = visible.await?;
                count.matching += self.matching(lane, &page, filter);
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn matching(&self, lane: LaneId, page: &VisiblePage, filter: &RedriveFilter) -> u64 {
        let mut matching = 0;
        for visible in &page.chunks {
            // Who receives it hears of it, in the log.
            let Ok(frames) = chunk::read(&visible.body) else {
                continue;
            };
            let age = page
                .at
                .and_then(|now| Duration::try_from(now - visible.sent_at).ok());
            for (index, frame) in (0_u32..u64::BITS).zip(&frames) {
                let place = Position {
                    lane,
                    seq: visible.seq + i64::from(index),
                    salt: visible.salt,
                };
                let candidate = Candidate {
                    message_id: self.broker.message_id(place, frame),
                    age: age.unwrap_or_default(),
                    frame,
                };
                let is_visible = visible.mask >> index & 1 == 1;
                matching += u64::from(is_visible && filter.matches(candidate));
            }
        }
        matching
    }

    /// A redrive of a queue.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::RedriveNotFound`], [`Error::Unavailable`].
    pub async fn get_redrive(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        id: Uuid,
    ) -> Result<Redrive> {
        let source = self.get_queue(tenant, queue).await?;
        self.redrive_of(&source, id).await
    }

    async fn redrive_of(&self, source: &Queue, id: Uuid) -> Result<Redrive> {
        let found = self.store.get_redrive(source.id, id).await?;
        found.ok_or_else(|| Error::RedriveNotFound {
            name: source.name.as_str().to_owned(),
            id: id.to_string(),
        })
    }

    /// The redrives of a queue that are remembered, the newest first.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Unavailable`].
    pub async fn list_redrives(&self, tenant: &Tenant, queue: &QueueName) -> Result<Vec<Redrive>> {
        let source = self.get_queue(tenant, queue).await?;
        let most = usize::try_from(limits::MAX_REDRIVES_KEPT).unwrap_or_default();
        Ok(self.store.list_redrives(source.id, most).await?)
    }

    /// Cancels a redrive, if it runs. What has moved stays where it is.
    ///
    /// # Errors
    /// As [`Service::get_redrive`], and [`Error::UnknownOutcome`].
    pub async fn cancel_redrive(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        id: Uuid,
    ) -> Result<Redrive> {
        let source = self.get_queue(tenant, queue).await?;
        self.store.cancel_redrive(source.id, id).await?;
        self.redrive_of(&source, id).await
    }
}

//! This node's writer number, and what it knows of the ends of lanes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::domain::Result;
use crate::domain::lane::{LaneId, Position, Writer};
use crate::store::{Store, Tail};

/// How often a node says that it is there, and after how long of silence its number is free.
const HEARTBEAT: Duration = Duration::from_secs(15);
const UNSEEN: Duration = Duration::from_secs(60);
/// Rivals for one number settle at once; this many lost races mean that all numbers are taken.
const ATTEMPTS: usize = 64;

/// The writer number of this node, kept as long as the node beats.
#[derive(Debug, Clone)]
pub struct WriterLease {
    store: Store,
    node: Uuid,
    writer: Arc<AtomicU8>,
}

impl WriterLease {
    /// Takes the lowest free number. With all of them in use, shares one: that is slow, not wrong.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn take(store: Store, node: Uuid) -> Result<Self> {
        let lease = Self {
            store,
            node,
            writer: Arc::new(AtomicU8::new(u8::MAX)),
        };
        lease.retake().await?;
        Ok(lease)
    }

    /// The number.
    pub fn writer(&self) -> Writer {
        Writer(self.writer.load(Ordering::Relaxed))
    }

    /// Beats until cancelled, then gives the number back. Says with each beat whether there are other
    /// nodes.
    pub async fn keep(self, others: impl Fn(bool), cancel: CancellationToken) {
        while cancel
            .run_until_cancelled(tokio::time::sleep(HEARTBEAT))
            .await
            .is_some()
        {
            match self
                .store
                .beat_writer(self.writer(), self.node, UNSEEN)
                .await
            {
                Ok(Some(has_others)) => others(has_others),
                Ok(None) => {
                    if let Err(error) = self.retake().await {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "no writer number"
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "heartbeat failed");
                }
            }
        }
        if let Err(error) = self.store.release_writer(self.writer(), self.node).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the writer number will be free a minute from now"
            );
        }
    }

    async fn retake(&self) -> Result<()> {
        for _attempt in 0..ATTEMPTS {
            if let Some(writer) = self.store.take_writer(self.node, UNSEEN).await? {
                self.writer.store(writer.0, Ordering::Relaxed);
                return Ok(());
            }
        }
        tracing::warn!(
            writer = self.writer().0,
            "no free writer number: sharing one"
        );
        Ok(())
    }
}

/// A lane that this node has opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenLane {
    /// Its end.
    pub(super) tail: Tail,
    /// The salt of this opening.
    pub(super) salt: u32,
}

impl OpenLane {
    /// Opens a lane at a tail that the database named.
    pub(super) fn at(tail: Tail) -> Self {
        Self {
            tail,
            salt: rand::random::<u32>() & Position::SALT_MASK,
        }
    }
}

/// The ends of lanes as this node knows them. A hint: an append at a wrong one stores nothing.
#[derive(Debug, Default)]
pub(super) struct OpenLanes {
    lanes: HashMap<LaneId, OpenLane>,
}

/// Lanes whose ends are remembered; beyond it all are forgotten and opened again when needed.
const MAX_OPEN_LANES: usize = 100_000;

impl OpenLanes {
    pub(super) fn get(&self, lane: LaneId) -> OpenLane {
        self.lanes.get(&lane).copied().unwrap_or(OpenLane {
            tail: Tail::UNKNOWN,
            salt: 0,
        })
    }

    pub(super) fn set(&mut self, lane: LaneId, open: OpenLane) {
        if self.lanes.len() >= MAX_OPEN_LANES {
            self.lanes.clear();
        }
        self.lanes.insert(lane, open);
    }

    /// Forgets everything: after a lost connection numbers may have been given out again.
    pub(super) fn forget(&mut self) {
        self.lanes.clear();
    }
}

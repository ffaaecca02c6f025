//! Gives back the space of what was deleted, purged or belonged to a deleted queue.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::lane::LaneId;
use crate::store::{Failure, Session, SpaceCursor, Store};

const TASK: &str = "space";
/// How long an elected node holds the task without saying so again.
const TERM: Duration = Duration::from_secs(10);
/// The shortest pause between two sweeps over all lanes.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times longer than a sweep that found nothing the pause after it is: with many idle
/// lanes, sweeping must stay a small part of the load.
const PAUSE_PER_IDLE_SWEEP: u32 = 20;
/// Every so many sweeps begin at the beginning, for what another sweep was at in passing.
const SWEEPS_FROM_START: u32 = 60;
/// Lanes that are asked for at once.
const LANES: i32 = 256;
/// Chunks that one call looks at: it must end well within the statement timeout.
const CHUNKS: i32 = 1_000;
/// Calls in a row for one lane, before the others have their turn.
const CALLS: usize = 20;

/// What the task runs on.
#[derive(Debug)]
pub struct Space {
    /// For the election.
    pub store: Store,
    /// For the sweeps.
    pub session: Session,
    /// This node.
    pub node: Uuid,
    /// No chunk younger than this is freed: twice what a paused append may live, so that it finds
    /// either the chunk or its trace.
    pub min_age: Duration,
    /// This node's clock.
    pub clock: Clock,
}

/// Sweeps while this node is elected, until cancelled.
pub async fn run(mut space: Space, cancel: CancellationToken) {
    let mut places = Places::new();
    let mut pause = PAUSE;
    let mut sweeps = 0_u32;
    while cancel
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        let began = space.clock.instant();
        let term = TERM.max(pause * 2);
        let freed = match space.store.elect(TASK, space.node, term).await {
            Ok(true) => {
                if sweeps.is_multiple_of(SWEEPS_FROM_START) {
                    places.clear();
                }
                sweeps = sweeps.wrapping_add(1);
                space.sweep(&mut places, &cancel).await
            }
            Ok(false) => Ok(false),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &freed {
            warn(failure);
        }
        let took = space.clock.instant() - began;
        let idle = !matches!(freed, Ok(true));
        pause = PAUSE.max(took * if idle { PAUSE_PER_IDLE_SWEEP } else { 1 });
    }
    // Unreachable now means that the term runs out instead.
    let _resigned = space.store.resign(TASK, space.node).await;
}

/// Where the next sweep of each lane goes on.
type Places = HashMap<LaneId, Place>;

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    at: SpaceCursor,
    /// The first chunk that had to stay since the lane was last begun.
    survivor: Option<SpaceCursor>,
}

impl Space {
    /// One sweep over all lanes; whether anything was freed. A lane that fails keeps its place.
    async fn sweep(
        &mut self,
        places: &mut Places,
        cancel: &CancellationToken,
    ) -> Result<bool, Failure> {
        let mut before = std::mem::take(places);
        let mut after = None;
        let mut any = false;
        loop {
            let lanes = match self.session.lanes(after, LANES).await {
                Ok(lanes) => lanes,
                Err(failure) => {
                    before.extend(places.drain());
                    *places = before;
                    return Err(failure);
                }
            };
            let Some(last) = lanes.last().copied() else {
                return Ok(any);
            };
            after = Some(last);
            for lane in lanes {
                if cancel.is_cancelled() {
                    return Ok(any);
                }
                let mut place = before.remove(&lane).unwrap_or_default();
                let swept = self.sweep_lane(lane, &mut place).await;
                places.insert(lane, place);
                match swept {
                    Ok(freed) => any |= freed,
                    Err(failure @ (Failure::Lost(_) | Failure::Unreachable(_))) => {
                        before.extend(places.drain());
                        *places = before;
                        return Err(failure);
                    }
                    // Of this lane only.
                    Err(failure) => warn(&failure),
                }
            }
        }
    }

    /// Frees what can be freed in a lane, for some calls; whether that was anything.
    async fn sweep_lane(&mut self, lane: LaneId, place: &mut Place) -> Result<bool, Failure> {
        let mut any = false;
        for _call in 0..CALLS {
            let freed = self
                .session
                .free(lane, place.at, CHUNKS, self.min_age)
                .await?;
            any |= freed.rows > 0;
            place.survivor = place.survivor.or(freed.survivor);
            place.at = freed.next;
            if !freed.more {
                // At the end: from the first survivor again.
                place.at = place.survivor.take().unwrap_or(place.at);
                break;
            }
        }
        Ok(any)
    }
}

fn warn(failure: &Failure) {
    tracing::warn!(
        error = failure as &dyn std::error::Error,
        "no space was given back"
    );
}

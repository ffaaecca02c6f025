//! Gives back the space of what was deleted, purged or belonged to a deleted queue, and ends what has
//! expired.
//!
//! Lanes that hold nothing are not looked at: whoever writes to one leaves a note in `wake`. The task
//! alone reads the notes, and deletes them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::lane::{LaneId, QueueId};
use crate::metrics::Metrics;
use crate::store::{Failure, Session, SpaceCursor, Store};

const TASK: &str = "space";
/// How long an elected node holds the task without saying so again.
const TERM: Duration = Duration::from_secs(10);
/// The shortest pause between two sweeps.
const PAUSE: Duration = Duration::from_secs(1);
/// How many times longer than a sweep that found nothing the pause after it is: with many lanes that
/// hold messages and change nothing, sweeping must stay a small part of the load.
const PAUSE_PER_IDLE_SWEEP: u32 = 20;
/// The longest pause: what has expired ends within it, and what a sweep takes.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// How often all lanes are looked at, for whatever the notes did not tell.
const FULL_EVERY: Duration = Duration::from_secs(600);
/// Lanes that are asked for at once.
const LANES: i32 = 256;
/// Notes that one call takes, and calls in a row.
const NOTES: i32 = 2_000;
const NOTE_CALLS: usize = 20;
/// How far behind the last one taken notes are looked for: what commits late has a lower number.
const LATE_NOTES: i64 = 20_000;
/// Lanes that hold nothing whose ends are remembered; beyond it all are forgotten.
const MAX_ENDS: usize = 100_000;
/// Chunks that one call looks at: it must end well within the statement timeout.
const CHUNKS: i32 = 1_000;
/// Calls in a row for one lane, before the others have their turn.
const CALLS: usize = 20;
/// Keys and movements that one call forgets, and calls in a row.
const FORGOTTEN: i32 = 1_000;
const FORGET_CALLS: usize = 20;

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
    /// Where it is said which queues may hold something.
    pub holding: watch::Sender<Holding>,
    /// Where it is counted what the node does.
    pub metrics: Metrics,
}

/// Queues that may hold something, as who holds the task knows them; `None` on the other nodes.
pub type Holding = Option<Arc<BTreeSet<QueueId>>>;

/// Sweeps while this node is elected, until cancelled.
pub async fn run(mut space: Space, cancel: CancellationToken) {
    let mut known = None;
    let mut pause = PAUSE;
    while cancel
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        let began = space.clock.instant();
        let term = TERM.max(pause * 2);
        let freed = match space.store.elect(TASK, space.node, term).await {
            Ok(true) => {
                let known = known.get_or_insert_with(Known::default);
                let swept = space.sweep(known, began, &cancel).await;
                let queues = known.places.keys().map(|lane| lane.queue());
                space.holding.send_replace(Some(Arc::new(queues.collect())));
                swept
            }
            Ok(false) => {
                // Whoever holds the task takes the notes: what this node knew is old.
                known = None;
                space.holding.send_replace(None);
                Ok(false)
            }
            Err(failure) => Err(failure),
        };
        match &freed {
            Ok(_) if known.is_some() => space.metrics.task_succeeded(TASK, space.clock.utc()),
            Ok(_) => {}
            Err(failure) => warn(failure),
        }
        let took = space.clock.instant() - began;
        let idle = !matches!(freed, Ok(true));
        pause = (took * if idle { PAUSE_PER_IDLE_SWEEP } else { 1 }).clamp(PAUSE, MAX_PAUSE);
    }
    // Unreachable now means that the term runs out instead.
    let _resigned = space.store.resign(TASK, space.node).await;
}

/// What the holder of the task knows.
#[derive(Debug, Default)]
struct Known {
    /// Lanes that may hold something, and where the next sweep of each goes on.
    places: HashMap<LaneId, Place>,
    /// Where lanes that hold nothing end: behind an old snapshot, what was freed before is still
    /// walked past.
    ends: HashMap<LaneId, SpaceCursor>,
    /// The last note that was taken.
    notes: i64,
    /// When all lanes were listed.
    listed_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    at: SpaceCursor,
    /// The first chunk that had to stay since the lane was last begun.
    survivor: Option<SpaceCursor>,
    /// The last sweep did not come to the end.
    halfway: bool,
}

impl Space {
    /// One sweep over the lanes that may hold something; whether anything was freed. A lane that
    /// fails keeps its place.
    async fn sweep(
        &mut self,
        known: &mut Known,
        now: Instant,
        cancel: &CancellationToken,
    ) -> Result<bool, Failure> {
        lasting(self.note(known).await)?;
        let is_due = |at: Instant| now.saturating_duration_since(at) >= FULL_EVERY;
        if known.listed_at.is_none_or(is_due) {
            self.list(known).await?;
            known.listed_at = Some(now);
        }
        let mut any = lasting(self.forget().await)?.unwrap_or_default();
        let mut lanes: Vec<_> = known.places.keys().copied().collect();
        lanes.sort_unstable();
        for lane in lanes {
            if cancel.is_cancelled() {
                return Ok(any);
            }
            let place = known.places.entry(lane).or_default();
            match lasting(self.sweep_lane(lane, place).await)? {
                Some(Swept::Idle) => {
                    if known.ends.len() >= MAX_ENDS {
                        known.ends.clear();
                    }
                    known.ends.insert(lane, place.at);
                    known.places.remove(&lane);
                }
                Some(Swept::Freed) => any = true,
                Some(Swept::Nothing) | None => {}
            }
        }
        Ok(any)
    }

    /// Takes the notes of lanes that were written to.
    async fn note(&mut self, known: &mut Known) -> Result<(), Failure> {
        let mut from = known.notes - LATE_NOTES;
        for _call in 0..NOTE_CALLS {
            let written = self.session.take_wakes(from, NOTES).await?;
            for lane in written.lanes {
                let end = known.ends.remove(&lane).unwrap_or_default();
                known.places.entry(lane).or_insert(Place {
                    at: end,
                    ..Place::default()
                });
            }
            from = written.last;
            known.notes = known.notes.max(written.last);
            if !written.more {
                break;
            }
        }
        Ok(())
    }

    /// All lanes, each from its beginning: for what another holder was at in passing.
    async fn list(&mut self, known: &mut Known) -> Result<(), Failure> {
        known.notes = 0;
        known.ends.clear();
        let mut after = None;
        loop {
            let lanes = self.session.lanes(after, LANES).await?;
            let Some(last) = lanes.last().copied() else {
                return Ok(());
            };
            after = Some(last);
            for lane in lanes {
                known.places.insert(lane, Place::default());
            }
        }
    }

    async fn forget(&mut self) -> Result<bool, Failure> {
        for _call in 0..FORGET_CALLS {
            if !self.session.forget(FORGOTTEN).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Frees what can be freed in a lane, for some calls.
    async fn sweep_lane(&mut self, lane: LaneId, place: &mut Place) -> Result<Swept, Failure> {
        let mut swept = Swept::Nothing;
        for _call in 0..CALLS {
            let begin = !place.halfway;
            let freed = self
                .session
                .free(lane, place.at, CHUNKS, self.min_age, begin)
                .await?;
            if freed.rows > 0 {
                swept = Swept::Freed;
            }
            place.survivor = place.survivor.or(freed.survivor);
            place.at = freed.next;
            place.halfway = freed.more;
            if !freed.more {
                // At the end: from the first survivor again.
                place.at = place.survivor.take().unwrap_or(place.at);
                if freed.idle {
                    swept = Swept::Idle;
                }
                break;
            }
        }
        Ok(swept)
    }
}

/// What a sweep of a lane did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swept {
    Freed,
    Nothing,
    /// Nothing is left in the lane.
    Idle,
}

/// A failure that ends a sweep. Any other is of one step only, and the others go on without it.
fn lasting<T>(step: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match step {
        Ok(done) => Ok(Some(done)),
        Err(failure @ (Failure::Lost(_) | Failure::Unreachable(_))) => Err(failure),
        Err(failure) => {
            warn(&failure);
            Ok(None)
        }
    }
}

fn warn(failure: &Failure) {
    tracing::warn!(
        error = failure as &dyn std::error::Error,
        "no space was given back"
    );
}

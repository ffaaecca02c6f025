//! Up to where expired leases were seen, so that a claim need not walk past the same dead index
//! entries again: behind somebody's old snapshot they stay for as long as it does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::domain::lane::{LaneId, QueueId};
use crate::store::{Claims, LowWater};

/// A mark is good for a scan that follows the last one this closely.
const FRESH: Duration = Duration::from_secs(1);
/// How far behind the mark a scan begins: a lease that ends at once (a hand-back) may become
/// visible this much later than the clock that it was stamped with.
const MARGIN: Duration = Duration::from_secs(5);
/// A commit can take longer than the margin, so now and then a scan has no lower bound at all.
const UNBOUNDED_EVERY: Duration = Duration::from_secs(30);
/// Queues whose marks are kept; beyond it all are forgotten.
const MAX_QUEUES: usize = 10_000;

#[derive(Debug)]
struct Mark {
    /// On the database's clock.
    seen: OffsetDateTime,
    at: Instant,
    unbounded_at: Instant,
}

/// The marks of the lanes that this node claims from.
#[derive(Debug, Default)]
pub(super) struct LowWaters {
    queues: HashMap<QueueId, HashMap<LaneId, Mark>>,
    /// The database's clock and ours at one moment: marks hold while both run alike.
    clocks: Option<(OffsetDateTime, Instant)>,
}

impl LowWaters {
    /// Adds the marks of a queue's lanes that hold now.
    pub(super) fn of(&self, queue: QueueId, now: Instant, marks: &mut Vec<LowWater>) {
        let Some(lanes) = self.queues.get(&queue) else {
            return;
        };
        marks.extend(
            lanes
                .iter()
                .filter(|(_, mark)| {
                    now.saturating_duration_since(mark.at) < FRESH
                        && now.saturating_duration_since(mark.unbounded_at) < UNBOUNDED_EVERY
                })
                .map(|(lane, mark)| LowWater {
                    lane: *lane,
                    before: mark.seen - MARGIN,
                }),
        );
    }

    /// Takes in what a claim that began at `started` has seen, below `used` marks.
    pub(super) fn learn(&mut self, used: &[LowWater], claims: &Claims, started: Instant) {
        if let Some(report) = claims.reports.first() {
            self.check_clocks(report.now, started);
        }
        if self.queues.len() >= MAX_QUEUES {
            self.queues.clear();
        }
        for scanned in &claims.scanned {
            let lanes = self.queues.entry(scanned.lane.queue()).or_default();
            let bounded = used.iter().any(|mark| mark.lane == scanned.lane);
            let unbounded_at = match (lanes.get(&scanned.lane), bounded) {
                (Some(mark), true) => mark.unbounded_at,
                // The mark that bounded it has been dropped meanwhile: it proves nothing.
                (None, true) => continue,
                (_, false) => started,
            };
            lanes.insert(
                scanned.lane,
                Mark {
                    seen: scanned.before,
                    at: started,
                    unbounded_at,
                },
            );
        }
    }

    /// Forgets every mark.
    pub(super) fn forget(&mut self) {
        self.queues.clear();
        self.clocks = None;
    }

    /// A clock that was set back leaves new leases below the marks.
    fn check_clocks(&mut self, database: OffsetDateTime, ours: Instant) {
        if let Some((database_then, ours_then)) = self.clocks {
            let ours_ran = ours.saturating_duration_since(ours_then);
            let drift = (database - database_then) - ours_ran;
            if drift.abs() > MARGIN / 2 {
                tracing::warn!(drift = %drift, "the database's clock jumped against this node's");
                self.queues.clear();
            }
        }
        self.clocks = Some((database, ours));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lane::{Class, Writer};
    use crate::store::{QueueReport, Reach};

    struct Scene {
        marks: LowWaters,
        lane: LaneId,
        start: (OffsetDateTime, Instant),
    }

    impl Scene {
        fn new() -> Self {
            let clock = crate::clock::Clock::default();
            let lane = LaneId::new(QueueId::new(1).unwrap(), Class::READY, Writer(0));
            Self {
                marks: LowWaters::default(),
                lane,
                start: (clock.utc(), clock.instant()),
            }
        }

        fn offered(&self, ms: u64) -> Option<OffsetDateTime> {
            let mut marks = Vec::new();
            let now = self.start.1 + Duration::from_millis(ms);
            self.marks.of(self.lane.queue(), now, &mut marks);
            marks.first().map(|mark| mark.before)
        }

        /// A claim at `ms` on our clock that finds the database's clock off by `jump_ms`.
        fn scan(&mut self, ms: u64, jump_ms: i64) {
            let ours = self.start.1 + Duration::from_millis(ms);
            let database =
                self.start.0 + Duration::from_millis(ms) + time::Duration::milliseconds(jump_ms);
            let mut used = Vec::new();
            self.marks.of(self.lane.queue(), ours, &mut used);
            let claims = Claims {
                scanned: vec![LowWater {
                    lane: self.lane,
                    before: database,
                }],
                reports: vec![QueueReport {
                    reach: Reach::Whole,
                    busy_lanes: 0,
                    now: database,
                }],
                ..Claims::default()
            };
            self.marks.learn(&used, &claims, ours);
        }
    }

    #[test]
    fn a_mark_holds_for_a_second_and_leaves_a_margin() {
        let mut scene = Scene::new();
        assert_eq!(scene.offered(0), None);
        scene.scan(0, 0);
        assert_eq!(scene.offered(999), Some(scene.start.0 - MARGIN));
        assert_eq!(scene.offered(1_000), None);
    }

    #[test]
    fn every_half_minute_a_scan_has_no_bound() {
        let mut scene = Scene::new();
        let unbounded = (0..600)
            .map(|step| step * 100)
            .filter(|ms| {
                let offered = scene.offered(*ms).is_none();
                scene.scan(*ms, 0);
                offered
            })
            .collect::<Vec<_>>();
        assert_eq!(unbounded, [0, 30_000]);
    }

    #[test]
    fn a_clock_that_was_set_back_takes_the_marks_away() {
        let mut scene = Scene::new();
        let other = LaneId::new(QueueId::new(2).unwrap(), Class::READY, Writer(0));
        scene.scan(0, 0);
        scene.marks.queues.insert(
            other.queue(),
            HashMap::from([(
                other,
                Mark {
                    seen: scene.start.0,
                    at: scene.start.1,
                    unbounded_at: scene.start.1,
                },
            )]),
        );
        scene.scan(100, -10_000);
        let mut marks = Vec::new();
        scene.marks.of(
            other.queue(),
            scene.start.1 + Duration::from_millis(200),
            &mut marks,
        );
        assert!(marks.is_empty());
        // The scan itself began at a mark of the time before.
        assert_eq!(scene.offered(200), None);
        scene.scan(300, -10_000);
        assert!(scene.offered(400).is_some());
    }
}

//! When the leases that this node gave out end, so that a receiver that waits is served on time.
//!
//! The database is not asked: behind somebody's old snapshot the answer would lie behind every
//! lease that was deleted meanwhile. Leases of other nodes are found by the safety probe.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::domain::lane::QueueId;

/// Ends are rounded up to steps of this: it bounds what is kept for a queue, whatever its rate.
const STEP: Duration = Duration::from_millis(5);
/// Ends that are known, of all queues; beyond it all are forgotten, and the safety probe serves.
const MAX_ENDS: usize = 1_000_000;

/// The ends of leases, deleted messages' included: a look too many is harmless.
#[derive(Debug)]
pub(super) struct Dues {
    /// Before every end that will be added.
    origin: Instant,
    queues: HashMap<QueueId, BTreeSet<u128>>,
    count: usize,
}

impl Dues {
    /// For leases that end after `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            queues: HashMap::new(),
            count: 0,
        }
    }

    /// A lease of a queue's message ends then.
    pub(super) fn add(&mut self, queue: QueueId, end: Instant) {
        let since_origin = end.saturating_duration_since(self.origin);
        let step = since_origin.as_nanos() / STEP.as_nanos() + 1;
        if self.count >= MAX_ENDS {
            self.queues.clear();
            self.count = 0;
        }
        if self.queues.entry(queue).or_default().insert(step) {
            self.count += 1;
        }
    }

    /// The next end after `now`.
    pub(super) fn next(&mut self, queue: QueueId, now: Instant) -> Option<Instant> {
        let passed = now.saturating_duration_since(self.origin).as_nanos() / STEP.as_nanos();
        let ends = self.queues.get_mut(&queue)?;
        let ahead = ends.split_off(&(passed + 1));
        self.count -= ends.len();
        *ends = ahead;
        let Some(step) = ends.first() else {
            self.queues.remove(&queue);
            return None;
        };
        let nanos = u64::try_from(*step * STEP.as_nanos()).ok()?;
        Some(self.origin + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_come_in_order_and_never_early() {
        let queue = QueueId::new(1).unwrap();
        let now = crate::clock::Clock::default().instant();
        let mut dues = Dues::new(now);
        assert_eq!(dues.next(queue, now), None);
        dues.add(queue, now + Duration::from_millis(103));
        dues.add(queue, now + Duration::from_millis(12));
        let first = dues.next(queue, now).unwrap();
        assert!(first >= now + Duration::from_millis(12));
        assert!(first <= now + Duration::from_millis(12) + STEP);
        let second = dues.next(queue, first).unwrap();
        assert!(second >= now + Duration::from_millis(103));
        assert!(second <= now + Duration::from_millis(103) + STEP);
        assert_eq!(dues.next(queue, second), None);
    }
}

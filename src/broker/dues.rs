//! When messages become visible again: the ends of leases that this node gave out, and the due times
//! of messages that were delayed here.
//!
//! The database is not asked: behind somebody's old snapshot the answer would lie behind every
//! lease that was deleted meanwhile. What other nodes know they say themselves, and if they die the
//! safety probe finds it.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::waiters::Wakes;
use crate::clock::Clock;
use crate::domain::lane::QueueId;

/// Times are rounded up to whole ones of these.
const STEP: Duration = Duration::from_millis(1);
/// Ends of leases are rounded up further: it bounds what is kept for a queue, whatever its rate.
const STEPS_PER_END: u64 = 5;
/// Times that are known, of all queues; beyond it all are forgotten, and the safety probe serves.
const MAX_TIMES: usize = 1_000_000;
/// Timers of the runtime have an end.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Due times, deleted messages' included: a look too many is harmless.
#[derive(Debug)]
pub(super) struct Dues {
    /// Before every time that will be added.
    origin: Instant,
    times: Mutex<BTreeSet<(u64, QueueId)>>,
    earlier: Notify,
}

impl Dues {
    /// For times after `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            times: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    /// A message of a queue was delayed until then.
    pub(super) fn add(&self, queue: QueueId, at: Instant) {
        self.insert(queue, self.step(at) + 1);
    }

    /// A lease of a queue's messages ends then.
    pub(super) fn add_end(&self, queue: QueueId, at: Instant) {
        let step = self.step(at) + 1;
        self.insert(queue, step.next_multiple_of(STEPS_PER_END));
    }

    fn insert(&self, queue: QueueId, step: u64) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if times.len() >= MAX_TIMES {
            times.clear();
        }
        let is_first = times.first().is_none_or(|(first, _)| step < *first);
        times.insert((step, queue));
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Takes the queues whose times have come, and says when the next one does.
    fn take(&self, now: Instant) -> (HashSet<QueueId>, Option<Instant>) {
        let passed = self.step(now);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = HashSet::new();
        while let Some((step, queue)) = times.first().copied() {
            if step > passed {
                return (due, Some(self.origin + Duration::from_millis(step)));
            }
            due.insert(queue);
            times.pop_first();
        }
        (due, None)
    }

    fn step(&self, at: Instant) -> u64 {
        let since_origin = at.saturating_duration_since(self.origin);
        u64::try_from(since_origin.as_nanos() / STEP.as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// Wakes those who wait on a queue when its times come. Runs until it is dropped.
    pub(super) async fn run(&self, wakes: &Wakes, clock: &Clock) {
        loop {
            let now = clock.instant();
            let (due, next) = self.take(now);
            if !due.is_empty() {
                wakes.wake(due);
            }
            let pause = next.map_or(Duration::MAX, |next| next.saturating_duration_since(now));
            tokio::select! {
                () = self.earlier.notified() => {}
                () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_order_never_early_and_each_queue_once() {
        let [one, two] = [1, 2].map(|raw| QueueId::new(raw).unwrap());
        let now = Clock::default().instant();
        let ms = Duration::from_millis;
        let dues = Dues::new(now);
        assert_eq!(dues.take(now), (HashSet::new(), None));
        dues.add(one, now + ms(103));
        dues.add(two, now + ms(12));
        dues.add_end(two, now + ms(9));
        dues.add_end(two, now + ms(8));
        let (due, next) = dues.take(now + ms(9));
        assert!(due.is_empty());
        let first = next.unwrap();
        assert_eq!(first, now + ms(10));
        let (due, next) = dues.take(first);
        assert_eq!((due, next), (HashSet::from([two]), Some(now + ms(13))));
        let (due, next) = dues.take(now + ms(13));
        assert_eq!(due, HashSet::from([two]));
        let second = next.unwrap();
        assert_eq!(second, now + ms(104));
        assert_eq!(dues.take(second), (HashSet::from([one]), None));
    }
}

//! How fast a redrive may go.

use std::time::{Duration, Instant};

/// Parts of a second into which a rate is cut, so that messages come evenly.
const STEPS_PER_SECOND: u32 = 4;
/// How much is claimed at once: what may move within this time, but a few messages at least and no more than
/// a claim gives.
const AHEAD_SECONDS: u32 = 5;
const MIN_CLAIM: u32 = 5;
const MAX_CLAIM: u32 = 1_000;

/// Never more messages than a rate allows, counted from the beginning: each is paid for before it moves.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: Option<u32>,
    /// When all that was allowed so far has been paid for.
    paid_at: Instant,
}

impl Pace {
    pub(super) fn new(per_second: Option<u32>, now: Instant) -> Self {
        Self {
            per_second: per_second.map(|rate| rate.max(1)),
            paid_at: now,
        }
    }

    /// Most messages that move at once.
    pub(super) fn step(&self) -> usize {
        let step = |rate: u32| (rate / STEPS_PER_SECOND).max(1);
        whole(self.per_second.map_or(MAX_CLAIM, step))
    }

    /// Most messages that are claimed at once.
    pub(super) fn claim(&self) -> usize {
        let ahead = |rate: u32| rate.saturating_mul(AHEAD_SECONDS);
        let claim = self.per_second.map_or(MAX_CLAIM, ahead);
        whole(claim.clamp(MIN_CLAIM, MAX_CLAIM))
    }

    /// When so many messages may move. What was not used before is not made up for.
    pub(super) fn allow(&mut self, messages: usize, now: Instant) -> Instant {
        let Some(rate) = self.per_second else {
            return now;
        };
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let price = Duration::from_secs(messages.into()) / rate;
        self.paid_at = self.paid_at.max(now) + price;
        self.paid_at
    }
}

fn whole(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn at_no_moment_more_has_moved_than_the_rate_allows() {
        for rate in [1, 2, 3, 7, 100, 100_000] {
            let began = Clock::default().instant();
            let mut pace = Pace::new(Some(rate), began);
            let (mut now, mut moved) = (began, 0);
            for round in 0..50 {
                let messages = pace.step().min(round + 1);
                now = pace.allow(messages, now);
                moved += u32::try_from(messages).unwrap();
                let allowed = (now - began).as_secs_f64() * f64::from(rate);
                assert!(f64::from(moved) <= allowed + 0.01, "{moved} of {allowed}");
                // Some time that nobody uses.
                now += Duration::from_millis(u64::from(round % 7 == 0) * 300);
            }
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let now = Clock::default().instant();
        let mut pace = Pace::new(None, now);
        assert_eq!(pace.allow(1_000_000, now), now);
        assert_eq!((pace.step(), pace.claim()), (1_000, 1_000));
    }

    #[test]
    fn what_is_claimed_can_move_well_within_its_window() {
        for rate in [1, 2, 50, 199, 200, 100_000] {
            let pace = Pace::new(Some(rate), Clock::default().instant());
            let seconds = pace.claim() / usize::try_from(rate).unwrap();
            assert!(seconds <= 5, "{rate}: {seconds}");
        }
    }
}

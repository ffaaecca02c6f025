//! After how long a message that was given up comes back, when its receiver does not say.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{Error, Result};
use super::limits;

/// How the delay goes with the number of deliveries.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// The same after each delivery.
    Fixed {
        /// That long.
        delay: Duration,
    },
    /// One for each delivery; the last one also for all that follow.
    Ladder {
        /// 1 to 32 of them.
        delays: Vec<Duration>,
    },
    /// Longer after each delivery.
    Exponential {
        /// After the first one.
        delay: Duration,
        /// By how much each delay is longer than the one before, 1 to 10.
        factor: f64,
        /// The longest.
        max_delay: Duration,
    },
}

/// After how long a message comes back that a receiver gave up without a delay of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// How the delay goes with the number of deliveries.
    pub backoff: Backoff,
    /// By what part of itself a delay may be shorter, 0 to 1: dice decide.
    pub jitter: f64,
}

impl RetryPolicy {
    /// The delay after so many deliveries in this queue, at least 1. `random` is 0 to 1: what the dice
    /// say of the jitter. From the 32nd delivery on it grows no further.
    pub fn delay(&self, receive_count: usize, random: f64) -> Duration {
        let count = receive_count.clamp(1, limits::MAX_RETRY_DELAYS);
        let longest = match &self.backoff {
            Backoff::Fixed { delay } => *delay,
            Backoff::Ladder { delays } => {
                let step = delays.get(count - 1).or(delays.last());
                step.copied().unwrap_or_default()
            }
            Backoff::Exponential {
                delay,
                factor,
                max_delay,
            } => {
                let power = i32::try_from(count - 1).unwrap_or(i32::MAX);
                let grown = delay.as_secs_f64() * factor.powi(power);
                Duration::from_secs_f64(grown.min(max_delay.as_secs_f64()))
            }
        };
        longest.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0))
    }

    /// The delays after 1, 2 and more deliveries, 32 at most; the last one is that of all that follow.
    pub fn delays(&self, random: f64) -> Vec<Duration> {
        let steps = match &self.backoff {
            Backoff::Fixed { .. } => 1,
            Backoff::Ladder { delays } => delays.len(),
            Backoff::Exponential { max_delay, .. } => (1..limits::MAX_RETRY_DELAYS)
                .find(|count| self.delay(*count, 0.0) >= *max_delay)
                .unwrap_or(limits::MAX_RETRY_DELAYS),
        };
        (1..=steps).map(|count| self.delay(count, random)).collect()
    }
}

/// A number within a range that a caller sent.
///
/// # Errors
/// [`Error::Invalid`] naming the field and the range.
pub fn number(field: &str, value: f64, range: RangeInclusive<f64>) -> Result<f64> {
    if range.contains(&value) {
        return Ok(value);
    }
    let rule = format!("a number from {} to {}", range.start(), range.end());
    Err(Error::invalid(field, value.to_string(), rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUNDING: Duration = Duration::from_micros(1);

    fn delays() -> impl Strategy<Value = Duration> {
        (0..=limits::MAX_VISIBILITY_TIMEOUT.as_secs()).prop_map(Duration::from_secs)
    }

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        let ladder = prop::collection::vec(delays(), 1..=limits::MAX_RETRY_DELAYS);
        let exponential = (delays(), 1.0..=10.0, delays());
        let backoff = prop_oneof![
            delays().prop_map(|delay| Backoff::Fixed { delay }),
            ladder.prop_map(|delays| Backoff::Ladder { delays }),
            exponential.prop_map(|(delay, factor, longer)| Backoff::Exponential {
                delay,
                factor,
                max_delay: delay.max(longer),
            }),
        ];
        (backoff, 0.0..=1.0).prop_map(|(backoff, jitter)| RetryPolicy { backoff, jitter })
    }

    proptest! {
        #[test]
        fn jitter_shortens_a_delay_by_its_part_at_the_most(
            policy in policies(), count in 0..2000_usize, random in 0.0..=1.0,
        ) {
            let longest = policy.delay(count, 0.0);
            let delay = policy.delay(count, random);
            prop_assert!(delay <= longest + ROUNDING);
            prop_assert!(delay + ROUNDING >= longest.mul_f64(1.0 - policy.jitter));
            prop_assert!(longest <= limits::MAX_VISIBILITY_TIMEOUT);
        }

        #[test]
        fn the_list_of_delays_says_them_all(
            policy in policies(), count in 1..2000_usize, random in 0.0..=1.0,
        ) {
            let delays = policy.delays(random);
            prop_assert!((1..=limits::MAX_RETRY_DELAYS).contains(&delays.len()));
            prop_assert_eq!(delays[count.min(delays.len()) - 1], policy.delay(count, random));
        }

        #[test]
        fn an_exponential_delay_begins_as_it_says_and_grows_up_to_its_longest(
            delay in delays(), factor in 1.0..=10.0, longer in delays(), count in 1..100_usize,
        ) {
            let max_delay = delay.max(longer);
            let backoff = Backoff::Exponential { delay, factor, max_delay };
            let policy = RetryPolicy { backoff, jitter: 0.0 };
            let [this, next] = [count, count + 1].map(|count| policy.delay(count, 0.0));
            prop_assert_eq!(policy.delay(1, 0.0), delay);
            prop_assert!(this <= next && next <= max_delay);
            let grown = this.mul_f64(factor).min(max_delay);
            let is_last = count >= limits::MAX_RETRY_DELAYS;
            prop_assert!(is_last || next.abs_diff(grown) < ROUNDING, "{:?} {:?}", next, grown);
        }
    }

    #[test]
    fn each_kind_goes_by_the_number_of_deliveries() {
        let seconds = |all: &[u64]| -> Vec<_> {
            let all = all.iter().copied();
            all.map(Duration::from_secs).collect()
        };
        let first = |backoff| {
            let policy = RetryPolicy {
                backoff,
                jitter: 0.0,
            };
            (1..=5)
                .map(|count| policy.delay(count, 1.0))
                .collect::<Vec<_>>()
        };
        let delay = Duration::from_secs(3);
        assert_eq!(first(Backoff::Fixed { delay }), seconds(&[3, 3, 3, 3, 3]));
        let delays = seconds(&[5, 1, 60]);
        assert_eq!(
            first(Backoff::Ladder { delays }),
            seconds(&[5, 1, 60, 60, 60])
        );
        let exponential = Backoff::Exponential {
            delay,
            factor: 2.0,
            max_delay: Duration::from_secs(20),
        };
        assert_eq!(first(exponential), seconds(&[3, 6, 12, 20, 20]));
    }

    #[test]
    fn a_number_says_its_range() {
        assert!(number("/factor", 1.5, 1.0..=10.0).is_ok());
        let error = number("/factor", 0.5, 1.0..=10.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/factor is \"0.5\": a number from 1 to 10"
        );
        assert!(number("/factor", f64::NAN, 1.0..=10.0).is_err());
    }
}

//! Counting what a round did: rates, latencies, and medians over rounds.

use std::time::Duration;

use serde::Serialize;

/// What one worker or all of them counted in a window of time.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Successful requests whose latency is measured.
    pub(super) latencies: Vec<Duration>,
    /// Requests of any kind, also outside of the window.
    pub(super) requests: u64,
    /// Messages that went the whole way.
    pub(super) messages: u64,
    /// Requests that were answered with something else than success.
    pub(super) failed: u64,
    /// The first of them, in the server's words.
    pub(super) failure: Option<String>,
}

impl Count {
    pub(super) fn fail(&mut self, why: impl ToString) {
        self.failed += 1;
        self.failure.get_or_insert_with(|| why.to_string());
    }

    pub(super) fn add(&mut self, other: Self) {
        let Self {
            latencies,
            requests,
            messages,
            failed,
            failure,
        } = other;
        self.latencies.extend(latencies);
        self.requests += requests;
        self.messages += messages;
        self.failed += failed;
        self.failure = self.failure.take().or(failure);
    }

    /// The rates over `window`, for which this process worked `cpu` long.
    pub(super) fn rate(&mut self, window: Duration, cpu: Duration) -> Rate {
        Rate {
            requests_per_second: per_second(self.latencies.len() as u64, window),
            messages_per_second: per_second(self.messages, window),
            p50_ms: percentile(&mut self.latencies, 50).as_secs_f64() * 1e3,
            p99_ms: percentile(&mut self.latencies, 99).as_secs_f64() * 1e3,
            client_cpu_us: 1e6 / per_second(self.requests, cpu),
        }
    }
}

/// One round's figures of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) requests_per_second: f64,
    pub(super) messages_per_second: f64,
    /// Of the measured requests.
    pub(super) p50_ms: f64,
    /// Of the measured requests.
    pub(super) p99_ms: f64,
    /// What a request costs this process.
    pub(super) client_cpu_us: f64,
}

/// A figure over all rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values = Vec::from_iter(values);
        Self {
            min: values.iter().copied().fold(f64::NAN, f64::min),
            max: values.iter().copied().fold(f64::NAN, f64::max),
            median: median(values),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark stay far below 2^52"
)]
fn per_second(count: u64, window: Duration) -> f64 {
    count as f64 / window.as_secs_f64()
}

/// The smallest value that `percent` of the values do not exceed; zero of none.
pub(super) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    let value = values.get(rank.saturating_sub(1));
    value.copied().unwrap_or_default()
}

/// The middle value, or the mean of the two middle ones; NaN of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = Vec::from_iter(values);
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|below| values.get(below));
    f64::midpoint(lower.copied().unwrap_or(f64::NAN), upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut values: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 50), Duration::from_millis(50));
        assert_eq!(percentile(&mut values, 99), Duration::from_millis(99));
        assert_eq!(percentile(&mut values[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_spread_is_a_median_between_its_bounds() {
        let Spread { median, min, max } = Spread::of([3.0, 1.0, 2.0]);
        assert!((min - 1.0).abs() + (median - 2.0).abs() + (max - 3.0).abs() < f64::EPSILON);
        assert!(Spread::of([]).min.is_nan());
    }
}

//! The trace of who was refused. How a refusal is answered is not here.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::request_id::RequestId;
use crate::domain::Error;

/// Most lines a second: refusals are free of charge for whoever is refused.
const MAX_LINES: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);

/// Logs requests that were refused for who sent them, not more than a few a second.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    /// Of this second, and its beginning.
    written: u32,
    since: Option<Instant>,
    /// Since the last line.
    left_out: u64,
}

impl Refusals {
    pub(super) fn log(&self, error: &Error, id: &RequestId, client: IpAddr, now: Instant) {
        let (Error::Unauthenticated { .. }
        | Error::Forbidden { .. }
        | Error::AddressNotAllowed { .. }) = error
        else {
            return;
        };
        if let Some(left_out) = self.line(now) {
            tracing::warn!(request_id = %id, %client, left_out, "refused: {error}");
        }
    }

    /// Whether there may be a line now, and then how many there were not before.
    fn line(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_another_second = lines
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= SECOND);
        if is_another_second {
            (lines.since, lines.written) = (Some(now), 0);
        }
        if lines.written == MAX_LINES {
            lines.left_out += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_flood_of_refusals_is_a_few_lines_and_a_number() {
        let refusals = Refusals::default();
        let now = Clock::default().instant();
        for _ in 0..MAX_LINES {
            assert_eq!(refusals.line(now), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(refusals.line(now + Duration::from_millis(999)), None);
        }
        assert_eq!(refusals.line(now + SECOND), Some(7));
        assert_eq!(refusals.line(now + SECOND), Some(0));
    }
}

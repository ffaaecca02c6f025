//! How much is sent and when, and which answers count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// How much is sent at a time.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) senders: u16,
    pub(super) batch: usize,
    /// Messages a second of all senders.
    pub(super) rate: Option<u32>,
}

/// Said once, heard by all workers.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_said(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Load runs from `begin` to `end`; answers count from `start` on.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// When a sender's requests are due.
pub(super) struct Pace {
    /// Between two of them; none without a rate.
    interval: Option<Duration>,
    due: Instant,
}

impl Pace {
    /// Senders take turns.
    pub(super) fn new(shape: Shape, worker: u16, begin: Instant) -> Self {
        let a_second = |rate| Duration::from_secs(1).mul_f64(shape.batch as f64 / f64::from(rate));
        let turn = shape.rate.map(a_second);
        Self {
            interval: turn.map(|turn| turn * u32::from(shape.senders)),
            due: begin + turn.unwrap_or_default() * u32::from(worker),
        }
    }

    /// Waits until the next request is due. One that is late already was due at the time returned:
    /// its caller would have waited since then.
    pub(super) async fn next(&mut self, clock: &Clock, end: Instant) -> Option<Instant> {
        let interval = self.interval?;
        let due = self.due;
        self.due += interval;
        if clock.instant() < due {
            wait_for(due.min(end)).await;
            return None;
        }
        Some(due)
    }
}

pub(super) async fn wait_for(start: Instant) {
    tokio::time::sleep_until(start.into()).await;
}

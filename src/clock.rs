//! The only place that reads this machine's clocks.
//!
//! Promises to callers are kept on the database's clock; this one measures how long things take
//! and dates what never leaves the node. Tests move it instead of sleeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

/// A handle to the node's clocks; clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicU64>,
}

impl Clock {
    /// Monotonic time, for measuring.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn instant(&self) -> Instant {
        Instant::now() + self.ahead()
    }

    /// Wall-clock time, UTC.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn utc(&self) -> OffsetDateTime {
        OffsetDateTime::from(SystemTime::now() + self.ahead())
    }

    /// Puts this handle and its clones ahead by as much more.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead_ms.fetch_add(by, Ordering::Relaxed);
    }

    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed))
    }
}

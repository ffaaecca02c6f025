//! Facts of this machine that its figures depend on, as far as Linux tells them.

use std::num::NonZero;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) processors: usize,
    pub(super) processor: Option<String>,
    pub(super) memory_bytes: Option<u64>,
}

impl Machine {
    pub(super) fn this() -> Self {
        let line = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_matches([' ', '\t', ':']).to_owned())
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let kib = memory.and_then(|memory| memory.strip_suffix(" kB")?.parse::<u64>().ok());
        Self {
            processors: processors(),
            processor: line("/proc/cpuinfo", "model name"),
            memory_bytes: kib.map(|kib| kib * 1024),
        }
    }
}

pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// How long this process has worked, on all processors together.
pub(super) fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Duration::ZERO;
    };
    [usage.user_time(), usage.system_time()]
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        })
        .into_iter()
        .sum()
}

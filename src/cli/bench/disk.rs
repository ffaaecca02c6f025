//! How long the disk takes to make a page durable: what a strict send waits for at least.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rate::percentile;
use crate::clock::Clock;

/// How long is probed.
const PROBE: Duration = Duration::from_millis(300);

/// What PostgreSQL writes at a time.
const PAGE: [u8; 8192] = [0x5a; 8192];

/// The median of many flushes.
pub(super) struct Flush {
    pub(super) median: Duration,
    pub(super) directory: PathBuf,
}

/// Writes and flushes a page in one of the directories, the first that can be written to.
pub(super) fn probe(directories: &[PathBuf], clock: &Clock) -> Option<Flush> {
    directories.iter().find_map(|directory| {
        let path = directory.join(format!(".towpath-bench-{}", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let median = file.and_then(|file| median_flush(file, clock));
        remove(&path);
        Some(Flush {
            median: median.ok()?,
            directory: directory.clone(),
        })
    })
}

fn median_flush(mut file: File, clock: &Clock) -> std::io::Result<Duration> {
    let mut flushes = Vec::new();
    let until = clock.instant() + PROBE;
    loop {
        let started = clock.instant();
        if started >= until && !flushes.is_empty() {
            return Ok(percentile(&mut flushes, 50));
        }
        file.rewind()?;
        file.write_all(&PAGE)?;
        file.sync_data()?;
        flushes.push(clock.instant() - started);
    }
}

/// A probe that could not be created has nothing to remove.
fn remove(path: &Path) {
    let _absent = std::fs::remove_file(path);
}

//! How long the disk takes to make a page durable: what a strict send waits for at least.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rate::percentile;
use crate::clock::Clock;

/// How long is probed at a time.
const PROBE: Duration = Duration::from_millis(100);

/// What PostgreSQL writes at a time.
const PAGE: [u8; 8192] = [0x5a; 8192];

/// A directory and how long flushes took there.
pub(super) struct Disk {
    pub(super) directory: PathBuf,
    flushes: Vec<Duration>,
}

impl Disk {
    /// The first of these directories that can be written to.
    pub(super) fn find(directories: Vec<PathBuf>, clock: &Clock) -> Option<Self> {
        directories.into_iter().find_map(|directory| {
            let flushes = Vec::new();
            let mut disk = Self { directory, flushes };
            disk.probe(clock).ok().map(|()| disk)
        })
    }

    /// Writes and flushes a page again and again, for a while.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub(super) fn probe(&mut self, clock: &Clock) -> std::io::Result<()> {
        let name = format!(".towpath-bench-{}", std::process::id());
        let path = self.directory.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let flushed = file.and_then(|file| flush(file, clock));
        remove(&path);
        self.flushes.extend(flushed?);
        Ok(())
    }

    /// The time of a flush that `percent` of all flushes do not exceed.
    pub(super) fn percentile(&mut self, percent: usize) -> Duration {
        percentile(&mut self.flushes, percent)
    }
}

fn flush(mut file: File, clock: &Clock) -> std::io::Result<Vec<Duration>> {
    let mut flushes = Vec::new();
    let until = clock.instant() + PROBE;
    loop {
        let started = clock.instant();
        if started >= until && !flushes.is_empty() {
            return Ok(flushes);
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

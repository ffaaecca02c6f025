//! How the database is, as the elected node last saw it.

use std::time::Duration;

use super::families::{DEAD_ROWS, SNAPSHOT_AGE};
use super::text::{head, sample};

/// How old the oldest of one kind of transactions is that hold back vacuum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotAge {
    /// What kind: a word.
    pub holder: &'static str,
    /// How old; zero when there is none.
    pub age: Duration,
}

/// Dead rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRows {
    /// The table.
    pub table: String,
    /// As PostgreSQL estimates them.
    pub rows: u64,
}

/// What is known of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// For each kind.
    pub snapshots: Vec<SnapshotAge>,
    /// For each hot table.
    pub dead_rows: Vec<DeadRows>,
}

impl Database {
    pub(super) fn render(&self, text: &mut String) {
        head(text, SNAPSHOT_AGE);
        for SnapshotAge { holder, age } in &self.snapshots {
            sample(text, SNAPSHOT_AGE, &[("holder", holder)], age.as_secs_f64());
        }
        head(text, DEAD_ROWS);
        for DeadRows { table, rows } in &self.dead_rows {
            sample(text, DEAD_ROWS, &[("table", table)], rows);
        }
    }
}

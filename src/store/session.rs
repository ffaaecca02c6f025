//! A connection that one batcher owns.
//!
//! Requests never touch it: they wait on channels, so a request that is dropped cannot leave a
//! statement half read. A failed connection is thrown away, never repaired.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgExecutor, PgRow};
use sqlx::{ConnectOptions as _, Row as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Failure, Query};
use crate::domain::error::BoxError;

/// How long a batch waits for a connection before its callers are told that there is none.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for a lock: a purge's for a lane, a writer's for a rival that is about to commit.
const LOCK_TIMEOUT_MS: &str = "1000";

/// What the database is given beyond its own statement timeout to say so.
const SILENCE: Duration = Duration::from_secs(5);

/// The planner must not choose: every statement of the hot functions has one usable index, and
/// what the statistics of a young table say is wrong a second later.
const PLANNER: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// One connection to the database, opened when it is first needed and again after it failed.
pub struct Session {
    options: PgConnectOptions,
    connection: Option<Counted>,
    silence: Duration,
    open: Arc<AtomicUsize>,
}

/// A connection, which is counted for as long as it is there.
struct Counted {
    connection: PgConnection,
    open: Arc<AtomicUsize>,
}

impl Counted {
    fn new(connection: PgConnection, open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self {
            connection,
            open: Arc::clone(open),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// By hand, since the options hold the password.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session(..)")
    }
}

/// When a session's commits are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Once they are flushed, on the synchronous standby too where there is one.
    Flushed,
    /// At once: a crash of the database may undo the last moments.
    Soon,
}

impl Session {
    /// A session whose statements are cancelled by the database after `statement_timeout`.
    pub fn new(options: &PgConnectOptions, statement_timeout: Duration, commit: Commit) -> Self {
        let synchronous = match commit {
            Commit::Flushed => "on",
            Commit::Soon => "off",
        };
        let options = with_limits(options.clone(), statement_timeout)
            .options([("synchronous_commit", synchronous)]);
        Self {
            options,
            connection: None,
            silence: silence(statement_timeout),
            open: Arc::default(),
        }
    }

    /// The same, whose connection is counted while it is open.
    pub(super) fn counted_in(self, open: &Arc<AtomicUsize>) -> Self {
        Self {
            open: Arc::clone(open),
            ..self
        }
    }

    /// Runs a statement and reads until the database is ready again: only then is it committed.
    pub(super) async fn fetch_all(&mut self, query: Query<'_>) -> Result<Vec<PgRow>, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Counted::new(self.connect().await?, &self.open),
        };
        // Taken out for the time being: whatever ends this future, the connection goes with it.
        let rows = match timeout(self.silence, query.fetch_all(&mut connection.connection)).await {
            Ok(rows) => rows.map_err(Failure::from),
            Err(elapsed) => Err(Failure::Lost(Box::new(elapsed))),
        };
        match rows {
            Err(Failure::Lost(_) | Failure::Unreachable(_)) => {}
            _ => self.connection = Some(connection),
        }
        rows
    }

    async fn connect(&self) -> Result<PgConnection, Failure> {
        let deadline = Instant::now() + CONNECT_DEADLINE;
        loop {
            let error: BoxError = match timeout_at(deadline, self.options.connect()).await {
                Ok(Ok(connection)) => match fit(connection).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => error.into(),
                },
                Ok(Err(error)) => error.into(),
                Err(elapsed) => elapsed.into(),
            };
            if Instant::now() + CONNECT_PAUSE >= deadline {
                return Err(Failure::Unreachable(error));
            }
            sleep(CONNECT_PAUSE).await;
        }
    }
}

/// Every wait at the database has an end.
pub(super) fn with_limits(
    options: PgConnectOptions,
    statement_timeout: Duration,
) -> PgConnectOptions {
    let milliseconds = statement_timeout.as_millis().to_string();
    options
        .options([
            ("statement_timeout", milliseconds.as_str()),
            ("lock_timeout", LOCK_TIMEOUT_MS),
            // A node that vanished must not hold its locks until the system's own timeouts.
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "3"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
            ("idle_in_transaction_session_timeout", milliseconds.as_str()),
        ])
        .options(PLANNER)
        .disable_statement_logging()
}

/// After how long a peer that says nothing at all is lost.
pub(super) fn silence(statement_timeout: Duration) -> Duration {
    statement_timeout + SILENCE
}

const FIT: &str = "select now() = statement_timestamp() and not pg_is_in_recovery()";

/// Whether a connection can be used: outside of any transaction, on a server that takes writes. By
/// the simple protocol, or the first statement of a transaction looks like one outside.
pub(super) async fn is_fit<'c>(connection: impl PgExecutor<'c>) -> Result<bool, sqlx::Error> {
    let rows = sqlx::raw_sql(FIT).fetch_all(connection).await?;
    rows.first().map_or(Ok(false), |row| row.try_get(0))
}

async fn fit(mut connection: PgConnection) -> Result<PgConnection, sqlx::Error> {
    if is_fit(&mut connection).await? {
        Ok(connection)
    } else {
        Err(sqlx::Error::Configuration(
            "the server takes no writes".into(),
        ))
    }
}

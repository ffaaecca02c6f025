//! The only speaker of SQL.
//!
//! Functions here run statements in autocommit, nearly always one, and give back domain types. They
//! know no rules beyond the database's constraints, and tell failures apart by SQLSTATE and
//! constraint name, never by text. Every statement is a constant in [`STATEMENTS`], which a test
//! prepares on a migrated database.

mod append;
mod claim;
mod held;
mod leases;
mod listen;
mod observe;
mod outbox;
mod peek;
mod queue_rows;
mod queues;
mod redrives;
mod secrets;
mod session;
mod space;
mod tasks;
mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions, PgRow, PgSeverity};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use append::{
    AppendBatch, AppendLane, Appended, Care, KeyHash, KnownKey, Moved, NewChunk, NewKey, Tail,
};
pub use claim::{
    ClaimBatch, ClaimQueue, ClaimReceiver, ClaimedChunk, ClaimedLease, Claims, LowWater,
    QueueReport, Reach,
};
pub use held::Hold;
pub use leases::{
    Ack, AckRest, Acked, Extend, Extended, Extensions, HeldLease, LeaseKey, LeaseRow, Moving,
};
pub use listen::{Listener, News};
pub use observe::{DeadRows, Holder, HolderKind, Holding};
pub use outbox::{Horizon, OutboxRow};
pub use peek::{Change, FoundMessage, Peek, Peeked, PeekedChunk, PeekedLease, Standing};
pub use queues::{DeleteOutcome, PutOutcome, QueuePage};
pub use redrives::{Progress, StartOutcome, Terms, VisibleChunk, VisiblePage};
pub use session::{Commit, Session};
pub use space::{Freed, SpaceCursor, Written};

use crate::domain::Error;
use crate::domain::error::BoxError;
use crate::domain::lane::LaneId;

/// Every statement of this module.
pub const STATEMENTS: &[&str] = &[
    append::APPEND,
    append::APPEND_CAREFUL,
    append::APPEND_FROM_OUTBOX,
    append::DEDUP_PROBE,
    claim::CLAIM,
    held::HOLD,
    held::KEEP,
    leases::ACK,
    leases::ACK_REST,
    leases::EXTEND,
    leases::MOVING,
    listen::NOTIFY,
    observe::HOLDINGS,
    observe::HOLDERS,
    observe::DEAD_ROWS,
    peek::PEEK,
    peek::FIND,
    peek::CANCEL,
    peek::RESCHEDULE,
    outbox::HORIZON,
    outbox::NEXT,
    outbox::SET_AWAKE,
    queues::PUT,
    queues::REPLACE,
    queues::GET,
    queues::LIST,
    queues::DELETE,
    queues::PURGE,
    queues::COUNTS,
    queues::PING,
    redrives::START,
    redrives::GET,
    redrives::LIST,
    redrives::CANCEL,
    redrives::TAKE,
    redrives::READ,
    redrives::REPORT,
    redrives::SETTLED,
    redrives::END,
    redrives::RELEASE,
    redrives::FORGET,
    redrives::LANES,
    redrives::VISIBLE,
    secrets::CREATE,
    secrets::GET,
    space::FREE,
    space::FORGET,
    space::LANES,
    space::TAKE_WAKES,
    tasks::HELD,
    tasks::ELECT,
    tasks::RESIGN,
    writers::TAKE,
    writers::BEAT,
    writers::RELEASE,
];

/// The pool for everything that is not the hot path.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    silence: Duration,
    tasks: TaskTracker,
    /// Connections of sessions.
    open: Arc<AtomicUsize>,
}

/// Connections at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Of the pool, with nothing to do.
    pub idle: usize,
    /// Of the pool, at work.
    pub used: usize,
    /// Of sessions.
    pub dedicated: usize,
}

/// By hand, since the pool shows how it connects, password and all.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store(..)")
    }
}

impl Store {
    /// A pool of at most `size` connections, of which none is opened yet. The database cancels
    /// statements after `statement_timeout`.
    pub fn new(
        options: PgConnectOptions,
        size: u32,
        acquire_timeout: Duration,
        statement_timeout: Duration,
    ) -> Self {
        let options = session::with_limits(options, statement_timeout);
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(false)
            // A `begin` that is dropped halfway leaves its session inside a transaction, and the
            // next borrower's writes vanish with it (sqlx issue 4385). Inside one, now() stands
            // still; only the simple protocol tells the first statement apart. And a server that
            // became a standby is of no use, whoever has its address now.
            .before_acquire(|connection, _meta| Box::pin(session::is_fit(connection)))
            .connect_lazy_with(options);
        Self {
            pool,
            silence: session::silence(statement_timeout),
            tasks: TaskTracker::new(),
            open: Arc::default(),
        }
    }

    /// A session of its own to the same database, as [`Session::new`] makes it.
    pub fn session(&self, statement_timeout: Duration, commit: Commit) -> Session {
        Session::new(&self.pool.connect_options(), statement_timeout, commit).counted_in(&self.open)
    }

    /// How many connections there are, but for the one that listens.
    pub fn connections(&self) -> ConnectionCounts {
        let idle = self.pool.num_idle();
        let all = usize::try_from(self.pool.size()).unwrap_or_default();
        ConnectionCounts {
            idle,
            used: all.saturating_sub(idle),
            dedicated: self.open.load(Ordering::Relaxed),
        }
    }

    /// Closes every connection, waiting for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs a statement that changes something.
    async fn write(&self, query: Query<'static>) -> Result<Vec<PgRow>, Failure> {
        let (pool, silence) = (self.pool.clone(), self.silence);
        // A task of its own: a caller that goes away must not leave a connection in the middle of
        // a statement, which the pool would wait for as long as a silent socket lives.
        let statement = self.tasks.spawn(async move {
            let acquired = pool.acquire().await;
            let mut connection = acquired.map_err(|error| Failure::Unreachable(Box::new(error)))?;
            match timeout(silence, query.fetch_all(&mut *connection)).await {
                Ok(rows) => Ok(rows?),
                Err(elapsed) => {
                    connection.close_on_drop();
                    Err(Failure::Lost(Box::new(elapsed)))
                }
            }
        });
        let ended = statement.await;
        ended.unwrap_or_else(|panic| Err(Failure::Lost(Box::new(panic))))
    }

    /// Runs a statement that only reads: one that was lost has done nothing.
    async fn read(&self, query: Query<'static>) -> Result<Vec<PgRow>, Failure> {
        match self.write(query).await {
            Err(Failure::Lost(source)) => Err(Failure::Unreachable(source)),
            done => done,
        }
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// A column of a batch, as a statement takes it.
fn column<T, V>(rows: &[T], value: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// SQL counts from 1.
fn to_sql(index: usize) -> i32 {
    size(index + 1)
}

fn size(count: usize) -> i32 {
    i32::try_from(count).expect("a batch has at most some thousands of entries")
}

fn lane(raw: i64) -> Result<LaneId, sqlx::Error> {
    LaneId::from_raw(raw)
        .ok_or_else(|| sqlx::Error::Decode(format!("{raw} is no lane's number").into()))
}

/// A statement to be run by a session or the pool.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one door; what goes through it is in STATEMENTS"
)]
fn query<'q>(statement: &'static str) -> Query<'q> {
    sqlx::query(statement)
}

/// How a statement can fail, as far as a caller must act differently.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection could be had. Nothing was sent.
    #[error("the database cannot be reached")]
    Unreachable(#[source] BoxError),
    /// The connection was lost after the statement was sent. It may have been committed.
    #[error("the connection to the database was lost")]
    Lost(#[source] BoxError),
    /// A rival append was there first. Nothing was done; the tails that were used are wrong.
    #[error("another writer appended to the same lane")]
    Conflict,
    /// A deduplication key was taken meanwhile. Nothing was done.
    #[error("another send took the same deduplication key")]
    KeyTaken,
    /// A message that was to move is no longer there. Nothing was done.
    #[error("a message that was to move is gone")]
    SourceGone,
    /// The database has no room left on its disk. Nothing was done.
    #[error("the database's disk is full")]
    Full(#[source] BoxError),
    /// The database could not do it just now: it gave up waiting, or is at a limit of its own.
    /// Nothing was done; the same may work later.
    #[error("the database cannot do this just now")]
    NotNow(#[source] BoxError),
    /// The database refused the statement. Nothing was done; the same will be refused again.
    #[error("the database refused a statement")]
    Rejected(#[source] BoxError),
}

/// What an append raises when its lane was freed past its numbers meanwhile.
const APPEND_FENCE: &str = "TW001";
/// What `append_careful_1` raises.
const KEY_TAKEN: &str = "TW004";
const SOURCE_GONE: &str = "TW005";
const STALE_TAIL: &str = "TW006";
const DISK_FULL: &str = "53100";
const UNIQUE_VIOLATION: &str = "23505";
const LOG_KEY: &str = "log_pkey";

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let refusal = match &error {
            sqlx::Error::Database(refusal) => refusal,
            sqlx::Error::Encode(_) => return Self::Rejected(Box::new(error)),
            // Also an answer that cannot be read: what it answers was done.
            _ => return Self::Lost(Box::new(error)),
        };
        let severity = refusal
            .try_downcast_ref::<PgDatabaseError>()
            .map(PgDatabaseError::severity);
        if matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic)) {
            // The session is over, perhaps in the middle of its commit.
            return Self::Lost(Box::new(error));
        }
        let state = refusal.code().unwrap_or_default().into_owned();
        match (state.get(..2).unwrap_or_default(), state.as_str()) {
            (_, APPEND_FENCE | STALE_TAIL) => Self::Conflict,
            (_, KEY_TAKEN) => Self::KeyTaken,
            (_, SOURCE_GONE) => Self::SourceGone,
            (_, UNIQUE_VIOLATION) if refusal.constraint() == Some(LOG_KEY) => Self::Conflict,
            (_, DISK_FULL) => Self::Full(Box::new(error)),
            // Timeout of a statement or a lock, deadlocks (40), lack of resources (53) and failures
            // of the system (58): all of them roll back.
            ("40" | "53" | "58", _) | (_, "57014" | "55P03") => Self::NotNow(Box::new(error)),
            // Read-only, as after a failover: this server is not the one that we need.
            (_, "25006") => Self::Unreachable(Box::new(error)),
            ("08", _) | (_, "25P02") => Self::Lost(Box::new(error)),
            _ => Self::Rejected(Box::new(error)),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(source) | Failure::NotNow(source) => {
                Self::Unavailable(Some(source))
            }
            Failure::Full(source) => Self::StorageFull(Some(source)),
            Failure::Lost(source) => Self::UnknownOutcome(Some(source)),
            Failure::Conflict => Self::Overloaded {
                what: "writers of one lane",
            },
            Failure::KeyTaken => Self::Overloaded {
                what: "sends under one key",
            },
            // Told to nobody but who moves messages, and looks again what is there.
            failure @ Failure::SourceGone => Self::Unavailable(Some(Box::new(failure))),
            Failure::Rejected(source) => Self::Internal(source),
        }
    }
}

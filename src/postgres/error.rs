//! What can go wrong between this process and a database it may use.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no usable PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server programs of a version we support.
    #[error(
        "no PostgreSQL >= 15 to run ({why}): install it with ./docker/install-postgres.sh \
         (or `apt-get install -y postgresql`, `dnf install -y postgresql-server`, \
         `apk add postgresql`, `pacman -S postgresql`, `brew install postgresql@18`), \
         or set DATABASE_URL"
    )]
    BinariesMissing {
        /// Where was looked, and what was found there.
        why: String,
    },
    /// The cluster on disk needs another major version than those installed.
    #[error(
        "{} is a PostgreSQL {cluster} cluster, but only PostgreSQL {found} is installed: \
         install PostgreSQL {cluster}, or set DATABASE_URL", data.display()
    )]
    WrongMajor {
        /// The cluster's data directory.
        data: PathBuf,
        /// The major version that wrote it.
        cluster: u32,
        /// The major versions installed.
        found: String,
    },
    /// No user to run the server as; PostgreSQL refuses to run as root.
    #[error("no user to run PostgreSQL as: {why}")]
    Account {
        /// Which user was wanted, and what would do.
        why: String,
    },
    /// The driver adds this variable to the options of every connection and offers no way around it.
    #[error(
        "PGOPTIONS is set to `{options}`, which would steer the connections to the managed \
         PostgreSQL; unset PGOPTIONS, or set DATABASE_URL"
    )]
    Options {
        /// The variable's value.
        options: String,
    },
    /// A file or directory is not what it must be.
    #[error("{}: {why}", path.display())]
    Path {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb could not create a cluster: {output}")]
    Initdb {
        /// The end of its output.
        output: String,
    },
    /// The server exited before it accepted a connection.
    #[error("PostgreSQL did not start; {} ends with: {output}", log.display())]
    Start {
        /// The server's log.
        log: PathBuf,
        /// What this start wrote to it.
        output: String,
    },
    /// The server is alive, but does not accept connections.
    #[error(
        "PostgreSQL runs but did not accept connections within {limit:?}; see {}", log.display()
    )]
    NotReady {
        /// How long was waited.
        limit: Duration,
        /// The server's log.
        log: PathBuf,
    },
    /// Another process has been starting or stopping the cluster for too long.
    #[error("another process held {} for {limit:?}", path.display())]
    BootLock {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The server did not stop in time. It may yet; nothing is lost.
    #[error("PostgreSQL (pid {pid}) was told to stop and still ran {limit:?} later")]
    Stop {
        /// The server's process.
        pid: i32,
        /// How long was waited.
        limit: Duration,
    },
    /// The caller gave up before the database was ready.
    #[error("cancelled before PostgreSQL was ready")]
    Cancelled,
    /// The database URL cannot be used. The URL itself is a secret and not shown.
    #[error("DATABASE_URL is not a postgres:// or postgresql:// URL that can be used")]
    Url {
        /// What the parser stopped at, when the scheme was right.
        source: Option<sqlx::Error>,
    },
    /// No connection.
    #[error("cannot connect to PostgreSQL at {target}")]
    Connect {
        /// Host, port and database, or the socket's directory.
        target: String,
        /// The driver's answer.
        source: sqlx::Error,
    },
    /// A statement of the start-up checks failed.
    #[error("PostgreSQL refused a start-up statement")]
    Query(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the migrations of schema `towpath` failed")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The server's settings would break what Towpath promises.
    #[error("PostgreSQL is not set up to keep what it acknowledges: {}", findings.join("; "))]
    Unsafe {
        /// One sentence for each setting: its name, its value, and what would be right.
        findings: Vec<String>,
    },
}

impl Error {
    /// Whether something must be installed or configured on this machine before a new attempt.
    pub fn environment_missing(&self) -> bool {
        matches!(
            self,
            Error::BinariesMissing { .. } | Error::WrongMajor { .. } | Error::Account { .. }
        )
    }
}

/// For `map_err`: the operating system would not let us do this to `path`.
pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}

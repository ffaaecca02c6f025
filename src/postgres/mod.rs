//! Where the database comes from: a PostgreSQL named by a URL, or one that is started and kept
//! here on the programs this machine has. What is stored in it is `store`'s.

mod account;
mod discover;
mod error;
mod external;
mod layout;
mod managed;
mod migrate;
mod process;
mod safety;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use managed::Managed;

pub use error::Error;
pub use migrate::{migrate, missing_migrations};
pub use process::exec_with_parent;
pub use safety::assert_safe;

const APPLICATION_NAME: &str = "towpath";

/// For connections of the start; the pool has its own.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Which database to use, and how to run it when it is ours. No `Debug`: the URL is a secret.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `DATABASE_URL`. If set, that server is used and all but `allow_unsafe_durability` is
    /// without meaning; it never falls back to a managed one.
    pub url: Option<String>,
    /// `TOWPATH_DATABASE_PG_BIN`: the folder of `postgres` and `initdb`. If unset they are searched for.
    pub bin_dir: Option<PathBuf>,
    /// `PATH`, the first place to search.
    pub search_path: Option<OsString>,
    /// `TOWPATH_DATABASE_PG_USER`: whom root runs the server as. If unset, the cluster's owner, else
    /// `postgres`, else `nobody`.
    pub server_user: Option<String>,
    /// The cluster is in `pg/` below. For root, the server's user must be allowed to enter.
    pub data_dir: PathBuf,
    /// The server's limit for all processes; the one that starts it decides.
    pub max_connections: u32,
    /// False risks the whole cluster in a power cut; only for tests.
    pub fsync: bool,
    /// Our own program, to start the server by way of `internal-postgres`: a managed server then
    /// stops when this process ends, however it does. Linux only; wrong when several processes
    /// share the cluster for longer than a test.
    pub pdeath_helper: Option<PathBuf>,
    /// Serve although [`assert_safe`] found that acknowledged messages can be lost.
    pub allow_unsafe_durability: bool,
}

impl PostgresConfig {
    /// A managed cluster below `data_dir`, safe, with 60 connections.
    pub fn managed(data_dir: impl Into<PathBuf>) -> PostgresConfig {
        PostgresConfig {
            url: None,
            bin_dir: None,
            search_path: None,
            server_user: None,
            data_dir: data_dir.into(),
            max_connections: 60,
            fsync: true,
            pdeath_helper: None,
            allow_unsafe_durability: false,
        }
    }
}

/// A handle to the database server; clones are the same use of it.
#[derive(Clone)]
pub struct Postgres {
    options: PgConnectOptions,
    managed: Option<Arc<Managed>>,
}

/// Makes a server available.
///
/// With a URL nothing is done but reading it. Otherwise the managed cluster is created, started or
/// attached to as needed, and a task on `tracker` brings the server back whenever it dies, until
/// `cancel` or [`Postgres::close`]. Cancel only once nothing needs the database any more.
///
/// # Errors
/// [`Error::environment_missing`] tells whether something must be installed first.
pub async fn open(
    config: PostgresConfig,
    clock: Clock,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> Result<Postgres, Error> {
    if let Some(url) = &config.url {
        return Ok(Postgres {
            options: external::connect_options(url)?,
            managed: None,
        });
    }
    let managed = Managed::open(config, clock, tracker, cancel).await?;
    Ok(Postgres {
        options: managed.connect_options(),
        managed: Some(managed),
    })
}

impl Postgres {
    /// How to connect. Stays valid when a managed server is restarted.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Whether the server is ours to run.
    pub fn is_managed(&self) -> bool {
        self.managed.is_some()
    }

    /// Ends the use of the server, for all clones. The last user of a managed server stops it:
    /// open sessions are cut, committed work is kept. A process that ends without this leaves
    /// the server running for the next.
    ///
    /// # Errors
    /// [`Error::Stop`] or [`Error::BootLock`] when that takes too long; it may still happen.
    pub async fn close(self) -> Result<(), Error> {
        match self.managed {
            Some(managed) => managed.close().await,
            None => Ok(()),
        }
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    let connecting = PgConnection::connect_with(options);
    let connected = match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(connected) => connected,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    };
    connected.map_err(|source| Error::Connect {
        target: match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!(
                "{}:{}/{}",
                options.get_host(),
                options.get_port(),
                options.get_database().unwrap_or(options.get_username())
            ),
        },
        source,
    })
}

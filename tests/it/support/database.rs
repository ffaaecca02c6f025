//! A database per test, cloned from a migrated template.
//!
//! `DATABASE_URL` names the server to use; without it a managed cluster is started for this run of
//! the tests, which ends with it. Its fsync is off: tests of durability have clusters of their own.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::postgres::{self, PostgresConfig};
use uuid::Uuid;

/// For every statement of a test: longer means that it hangs.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

const TEMPLATE: &str = "towpath_template";

/// A fresh, migrated database.
pub(crate) struct Database {
    pub(crate) options: PgConnectOptions,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let server = server();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let mut admin = server.connect().await.expect("the test server answers");
        admin
            .execute(AssertSqlSafe(format!(
                "create database {name} template {}",
                template_name()
            )))
            .await
            .expect("a database can be cloned");
        Self {
            options: server.clone().database(&name),
        }
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        self.options
            .connect()
            .await
            .expect("the test database answers")
    }

    /// Runs statements of a test's own.
    pub(crate) async fn run(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let done = self
            .connect()
            .await
            .execute(AssertSqlSafe(sql.as_str()))
            .await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One value of one row.
    pub(crate) async fn value<T>(&self, sql: impl Into<String>) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let sql = sql.into();
        let row = self
            .connect()
            .await
            .fetch_one(AssertSqlSafe(sql.as_str()))
            .await;
        let row = row.unwrap_or_else(|error| panic!("{sql}: {error}"));
        sqlx::Row::get(&row, 0)
    }

    /// Until so many sessions of this database wait for a lock.
    pub(crate) async fn wait_for_blocked(&self, sessions: i64) {
        const BLOCKED: &str = "
            select count(*) from pg_stat_activity
            where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0";
        super::eventually("sessions wait", async || {
            (self.value::<i64>(BLOCKED).await == sessions).then_some(())
        })
        .await;
    }

    /// The moment, on the server's own clock.
    pub(crate) async fn moment(&self) -> String {
        self.value("select clock_timestamp()::text").await
    }

    /// Until a node has looked for messages since some [moment](Self::moment), and is done with it.
    pub(crate) async fn wait_for_claim(&self, since: &str) {
        let claims = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and query like '%claim_3%' and state = 'idle'
                and query_start > '{since}'"
        );
        super::eventually("somebody looks for messages", async || {
            (self.value::<i64>(claims.as_str()).await > 0).then_some(())
        })
        .await;
    }

    /// Takes the database away from whoever is using it.
    pub(crate) async fn drop_now(&self) {
        let name = self.options.get_database().unwrap();
        let sql = format!("drop database {name} with (force)");
        server()
            .connect()
            .await
            .unwrap()
            .execute(AssertSqlSafe(sql))
            .await
            .unwrap();
    }

    /// Puts the database's clock ahead, for every session.
    pub(crate) async fn advance_clock(&self, by: Duration) {
        let ms: i64 = self
            .value(
                "select coalesce((select substring(prosrc from '([0-9]+) milliseconds')::bigint
                 from pg_proc where oid = 'towpath.clock'::regproc), 0)",
            )
            .await;
        let ms = ms + i64::try_from(by.as_millis()).expect("a test's time is short");
        self.run(format!(
            "create or replace function towpath.clock() returns timestamptz language sql volatile
             as 'select clock_timestamp() + interval ''{ms} milliseconds'''"
        ))
        .await;
    }
}

/// Databases of older schemas may live on a server that the developer keeps.
fn template_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| format!("{TEMPLATE}_{}", std::process::id()))
}

fn server() -> &'static PgConnectOptions {
    static SERVER: OnceLock<PgConnectOptions> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (send, receive) = mpsc::channel();
        // Lives as long as the process: the server's end hangs on this thread's.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            runtime.block_on(async {
                let options = start().await;
                send.send(options).expect("the first test waits");
                std::future::pending::<()>().await;
            });
        });
        receive.recv().expect("the test server starts; see above")
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "which server the tests use is no configuration of ours"
)]
async fn start() -> PgConnectOptions {
    let options = match std::env::var("DATABASE_URL") {
        Ok(url) => PgConnectOptions::from_str(&url).expect("DATABASE_URL is a postgres:// URL"),
        Err(_) => start_managed().await,
    }
    .disable_statement_logging();
    let template = template_name();
    let mut admin = options.connect().await.expect("the test server answers");
    admin
        .execute(AssertSqlSafe(format!("drop database if exists {template}")))
        .await
        .expect("an old template can go");
    admin
        .execute(AssertSqlSafe(format!("create database {template}")))
        .await
        .expect("a template can be made");
    postgres::migrate(&options.clone().database(template))
        .await
        .expect("migrations apply");
    options
}

async fn start_managed() -> PgConnectOptions {
    let config = PostgresConfig {
        max_connections: 300,
        fsync: false,
        pdeath_helper: Some(PathBuf::from(env!("CARGO_BIN_EXE_towpath"))),
        allow_unsafe_durability: true,
        search_path: std::env::var_os("PATH"),
        ..PostgresConfig::managed(own_directory())
    };
    let server = postgres::open(
        config,
        Clock::default(),
        &TaskTracker::new(),
        CancellationToken::new(),
    )
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    server.connect_options()
}

/// A directory of this process; those of processes that are gone are removed first.
fn own_directory() -> PathBuf {
    const PREFIX: &str = "towpath-test-";
    let parent = std::env::temp_dir();
    let entries = std::fs::read_dir(&parent).expect("the temporary directory can be read");
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _in_use = std::fs::remove_dir_all(entry.path());
        }
    }
    let own = parent.join(format!("{PREFIX}{}", std::process::id()));
    // Whatever the mask: others may pass through, and not write.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(&own).expect("a directory can be made");
    own
}

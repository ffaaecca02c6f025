//! The managed server: started, shared, killed, and found intact.

mod life;
mod processes;
mod starts;

use std::fs;
use std::path::Path;

use nix::unistd::Pid;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::postgres::{Error, Postgres, PostgresConfig, open};

fn config(data_dir: &Path) -> PostgresConfig {
    PostgresConfig {
        search_path: std::env::var_os("PATH"),
        pdeath_helper: Some(env!("CARGO_BIN_EXE_towpath").into()),
        fsync: false,
        ..PostgresConfig::managed(data_dir)
    }
}

async fn open_with(config: PostgresConfig) -> Result<Postgres, Error> {
    let tracker = TaskTracker::new();
    open(config, Clock::default(), &tracker, CancellationToken::new()).await
}

async fn start(data_dir: &Path) -> Postgres {
    open_with(config(data_dir)).await.unwrap()
}

fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, state)| !state.starts_with('Z'))
}

async fn number(postgres: &Postgres, sql: &'static str) -> Option<i64> {
    let options = postgres.connect_options();
    let mut connection = PgConnection::connect_with(&options).await.ok()?;
    let row = connection.fetch_one(sql).await.ok()?;
    row.try_get(0).ok()
}

async fn run(postgres: &Postgres, sql: &'static str) {
    let options = postgres.connect_options();
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

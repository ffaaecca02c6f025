//! Started, shared, killed, brought back, stopped.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, Executor, PgConnection, Row};
use towpath::postgres::{PostgresConfig, assert_safe};

use super::{config, is_running, number, open_with, run, start};
use crate::support::server::postmaster;
use crate::support::{eventually, temp_dir};

#[tokio::test]
async fn a_server_starts_in_an_empty_directory_with_safe_settings_and_stops_with_its_last_user() {
    let dir = temp_dir();
    let data_dir = dir.path().join("made/by/us");
    let safe = PostgresConfig {
        fsync: true,
        ..config(&data_dir)
    };
    let postgres = open_with(safe).await.unwrap();
    assert!(postgres.is_managed());
    assert_safe(&postgres.connect_options(), false)
        .await
        .unwrap();
    let pid = postmaster(&data_dir).unwrap();
    let checksums =
        "select count(*) from pg_settings where name = 'data_checksums' and setting = 'on'";
    assert_eq!(number(&postgres, checksums).await, Some(1));

    postgres.clone().close().await.unwrap();
    assert!(!is_running(pid));
    postgres.close().await.unwrap();
}

#[tokio::test]
async fn a_second_opener_attaches_and_only_the_last_to_leave_stops_the_server() {
    let dir = temp_dir();
    let first = start(dir.path()).await;
    let pid = postmaster(dir.path()).unwrap();
    let second = start(dir.path()).await;
    assert_eq!(postmaster(dir.path()), Some(pid));

    first.close().await.unwrap();
    assert_eq!(number(&second, "select 1::bigint").await, Some(1));
    second.close().await.unwrap();
    assert!(!is_running(pid));
}

#[tokio::test]
async fn openers_at_the_same_time_share_one_server() {
    let dir = temp_dir();
    let (a, b, c) = tokio::join!(start(dir.path()), start(dir.path()), start(dir.path()));
    let pid = postmaster(dir.path()).unwrap();
    let (closed_a, closed_b) = tokio::join!(a.close(), b.close());
    closed_a.and(closed_b).unwrap();
    assert!(is_running(pid));
    c.close().await.unwrap();
    assert!(!is_running(pid));
}

#[tokio::test]
async fn a_killed_server_is_brought_back_with_all_it_committed_for_starter_and_attached_alike() {
    let dir = temp_dir();
    let durable = PostgresConfig {
        fsync: true,
        ..config(dir.path())
    };
    let starter = open_with(durable.clone()).await.unwrap();
    let attached = open_with(durable).await.unwrap();
    run(
        &starter,
        "create table kept as select generate_series(1, 1000) as n",
    )
    .await;
    // The second time the one that attached may be the one that started it.
    for _ in 0..2 {
        let pid = postmaster(dir.path()).unwrap();
        kill(pid, Signal::SIGKILL).unwrap();
        for postgres in [&starter, &attached] {
            let count = eventually("the rows are back", async || {
                number(postgres, "select count(*) from kept").await
            });
            assert_eq!(count.await, 1000);
        }
        assert_ne!(postmaster(dir.path()), Some(pid));
    }
    starter.close().await.unwrap();
    attached.close().await.unwrap();
    assert!(postmaster(dir.path()).is_none());
}

#[tokio::test]
async fn an_attached_user_alone_brings_a_killed_server_back() {
    let dir = temp_dir();
    let starter = start(dir.path()).await;
    let attached = start(dir.path()).await;
    starter.close().await.unwrap();
    let pid = postmaster(dir.path()).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    eventually("the server is back", async || {
        number(&attached, "select 1::bigint").await
    })
    .await;
    assert_ne!(postmaster(dir.path()), Some(pid));
    attached.close().await.unwrap();
}

/// Logs of this thread go to the file while the guard lives.
fn log_to(path: &Path) -> tracing::subscriber::DefaultGuard {
    let file = Arc::new(fs::File::create(path).unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(file).finish();
    tracing::subscriber::set_default(subscriber)
}

#[tokio::test]
async fn a_server_that_cannot_be_seen_among_the_processes_is_watched_by_asking_it() {
    let dir = temp_dir();
    let starter = start(dir.path()).await;
    let pid = postmaster(dir.path()).unwrap();
    // As in another container, where the number is nobody's.
    let pid_file = dir.path().join("pg/data/postmaster.pid");
    let content = fs::read_to_string(&pid_file).unwrap();
    let (_, rest) = content.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", i32::MAX)).unwrap();

    let log = dir.path().join("log");
    let _logging = log_to(&log);
    let attached = start(dir.path()).await;
    starter.close().await.unwrap();
    assert_eq!(number(&attached, "select 1::bigint").await, Some(1));
    kill(pid, Signal::SIGKILL).unwrap();
    eventually("the server is back", async || {
        postmaster(dir.path()).filter(|pid| pid.as_raw() != i32::MAX)?;
        number(&attached, "select 1::bigint").await
    })
    .await;
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("PostgreSQL has died").count(), 1, "{log}");
    attached.close().await.unwrap();
}

#[tokio::test]
async fn a_server_is_brought_back_only_when_the_processes_of_the_killed_one_are_gone() {
    let dir = temp_dir();
    let postgres = start(dir.path()).await;
    let options = postgres.connect_options();
    let mut held = PgConnection::connect_with(&options).await.unwrap();
    let row = held.fetch_one("select pg_backend_pid()").await.unwrap();
    let backend = Pid::from_raw(row.try_get(0).unwrap());
    kill(backend, Signal::SIGSTOP).unwrap();
    kill(postmaster(dir.path()).unwrap(), Signal::SIGKILL).unwrap();

    let log = dir.path().join("pg/postgres.log");
    eventually("a start is refused", async || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("pre-existing shared memory block")
            .then_some(())
    })
    .await;
    kill(backend, Signal::SIGCONT).unwrap();
    eventually("the server is back", async || {
        number(&postgres, "select 1::bigint").await
    })
    .await;
    postgres.close().await.unwrap();
}

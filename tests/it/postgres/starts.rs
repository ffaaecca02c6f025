//! What a start meets: leftovers, missing programs, bad settings, an environment of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use nix::unistd::{Pid, geteuid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::postgres::{Error, PostgresConfig, assert_safe, migrate, open};
use towpath::store::{Commit, Session, Store};

use super::{config, is_running, number, open_with, run, start};
use crate::support::server::postmaster;
use crate::support::{eventually, temp_dir};

/// Runs `command` as the owner of the cluster.
fn spawn_as_owner(data_dir: &Path, command: &mut Command) -> Child {
    let owner = fs::metadata(data_dir.join("pg/data")).unwrap();
    if geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Leaves the lock files of a server that ran as process `pid`.
fn leave_lock_files(data_dir: &Path, pid: u32) {
    let pg = data_dir.join("pg");
    let data = fs::metadata(pg.join("data")).unwrap();
    for file in ["data/postmaster.pid", "run/.s.PGSQL.5432.lock"] {
        let file = pg.join(file);
        let content = format!("{pid}\n{}\n1700000000\n5432\n", pg.join("data").display());
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(data.uid()), Some(data.gid())).unwrap();
    }
}

#[tokio::test]
async fn lock_files_of_absent_unrelated_and_unreaped_processes_do_not_stop_a_start() {
    let dir = temp_dir();
    start(dir.path()).await.close().await.unwrap();

    let mut unrelated = spawn_as_owner(dir.path(), &mut Command::new("cat"));
    let mut unreaped = spawn_as_owner(dir.path(), &mut Command::new("true"));
    let zombie = Pid::from_raw(i32::try_from(unreaped.id()).unwrap());
    eventually("it ended", async || (!is_running(zombie)).then_some(())).await;
    let mut reaped = spawn_as_owner(dir.path(), &mut Command::new("true"));
    reaped.wait().unwrap();

    for stale in [reaped.id(), unrelated.id(), unreaped.id()] {
        leave_lock_files(dir.path(), stale);
        let postgres = start(dir.path()).await;
        assert_eq!(number(&postgres, "select 1::bigint").await, Some(1));
        postgres.close().await.unwrap();
    }
    let pid_file = dir.path().join("pg/data/postmaster.pid");
    fs::write(&pid_file, "").unwrap();
    start(dir.path()).await.close().await.unwrap();

    drop(unrelated.stdin.take());
    unrelated.wait().unwrap();
    unreaped.wait().unwrap();
}

#[tokio::test]
async fn missing_programs_and_a_wrong_version_are_said_before_anything_is_made() {
    let dir = temp_dir();
    let nowhere = PostgresConfig {
        bin_dir: Some(dir.path().to_path_buf()),
        ..config(dir.path())
    };
    let error = open_with(nowhere).await.err().unwrap();
    assert!(error.environment_missing());
    assert!(
        error.to_string().contains("./docker/install-postgres.sh"),
        "{error}"
    );
    assert!(!dir.path().join("pg/data").exists());

    start(dir.path()).await.close().await.unwrap();
    fs::write(dir.path().join("pg/data/PG_VERSION"), "99\n").unwrap();
    let error = open_with(config(dir.path())).await.err().unwrap();
    assert!(error.environment_missing());
    assert!(
        error.to_string().contains("is a PostgreSQL 99 cluster"),
        "{error}"
    );

    fs::remove_file(dir.path().join("pg/data/PG_VERSION")).unwrap();
    let error = open_with(config(dir.path())).await.err().unwrap();
    assert!(error.to_string().contains("no PG_VERSION"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_at_once() {
    let dir = temp_dir();
    let impossible = PostgresConfig {
        max_connections: 0,
        ..config(dir.path())
    };
    let error = open_with(impossible).await.err().unwrap();
    assert!(matches!(error, Error::Start { .. }), "{error}");
    assert!(error.to_string().contains("max_connections"), "{error}");
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_server_behind() {
    let dir = temp_dir();
    let postgres = start(dir.path()).await;
    let options = postgres.connect_options().database("postgres");
    let mut other = PgConnection::connect_with(&options).await.unwrap();
    let closed = "alter database towpath with allow_connections false";
    other.execute(closed).await.unwrap();
    other.close().await.unwrap();
    postgres.close().await.unwrap();

    let error = open_with(config(dir.path())).await.err().unwrap();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(postmaster(dir.path()).is_none());
}

#[tokio::test]
async fn a_cancelled_start_leaves_no_server_behind() {
    let dir = temp_dir();
    start(dir.path()).await.close().await.unwrap();
    let cancel = CancellationToken::new();
    let tracker = TaskTracker::new();
    let opening = open(
        config(dir.path()),
        Clock::default(),
        &tracker,
        cancel.clone(),
    );
    let cancelling = async {
        eventually("the server is coming up", async || postmaster(dir.path())).await;
        cancel.cancel();
    };
    // A server quicker than the cancellation is a success, which is then for the caller to close.
    match tokio::join!(opening, cancelling).0 {
        Ok(postgres) => postgres.close().await.unwrap(),
        Err(error) => assert!(matches!(error, Error::Cancelled), "{error}"),
    }
    assert!(postmaster(dir.path()).is_none());
}

#[tokio::test]
async fn a_long_data_directory_works_over_a_short_socket_path() {
    let dir = temp_dir();
    let long = dir.path().join("d".repeat(60)).join("e".repeat(60));
    let postgres = start(&long).await;
    assert_eq!(number(&postgres, "select 1::bigint").await, Some(1));
    let socket_dir = postgres.connect_options().get_socket().unwrap().clone();
    assert!(socket_dir.starts_with("/tmp"), "{socket_dir:?}");
    let second = start(&long).await;
    postgres.close().await.unwrap();
    second.close().await.unwrap();
    fs::remove_dir(socket_dir).unwrap();
}

#[tokio::test]
async fn a_server_without_fsync_is_refused_unless_overridden() {
    let dir = temp_dir();
    let postgres = start(dir.path()).await;
    let options = postgres.connect_options();
    let error = assert_safe(&options, false).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("fsync is `off`; it must be `on`"),
        "{error}"
    );
    assert_safe(&options, true).await.unwrap();

    run(
        &postgres,
        "alter role towpath set synchronous_commit to local",
    )
    .await;
    run(
        &postgres,
        "alter role towpath set default_transaction_isolation to serializable",
    )
    .await;
    let error = assert_safe(&options, false).await.unwrap_err().to_string();
    assert!(error.contains("synchronous_commit is `local`"), "{error}");
    let error = assert_safe(&options, true).await.unwrap_err().to_string();
    assert!(
        error.contains("default_transaction_isolation is `serializable`"),
        "{error}"
    );
    assert!(!error.contains("fsync"), "{error}");
    postgres.close().await.unwrap();
}

#[tokio::test]
async fn nodes_that_migrate_at_once_apply_every_migration_once_in_our_schema() {
    let dir = temp_dir();
    let postgres = start(dir.path()).await;
    let options = postgres.connect_options();
    let (a, b, c, d) = tokio::join!(
        migrate(&options),
        migrate(&options),
        migrate(&options),
        migrate(&options)
    );
    a.and(b).and(c).and(d).unwrap();
    let ours = "select count(*) from pg_tables where schemaname = 'towpath'";
    assert!(number(&postgres, ours).await >= Some(2));
    let elsewhere = "select count(*) from pg_tables where schemaname = 'public'";
    assert_eq!(number(&postgres, elsewhere).await, Some(0));
    postgres.close().await.unwrap();
}

#[tokio::test]
async fn a_given_url_is_never_replaced_by_a_managed_server() {
    let dir = temp_dir();
    let external = PostgresConfig {
        url: Some("postgres://u:hunter2@127.0.0.1:1/q".to_owned()),
        ..config(dir.path())
    };
    let postgres = open_with(external).await.unwrap();
    assert!(!postgres.is_managed());
    let error = assert_safe(&postgres.connect_options(), true)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot connect to PostgreSQL at 127.0.0.1:1/q"
    );
    assert!(!dir.path().join("pg").exists());
    postgres.close().await.unwrap();
}

#[tokio::test]
async fn no_store_shows_the_password_it_connects_with() {
    let options = PgConnectOptions::from_str("postgres://u:hunter2@127.0.0.1:1/q").unwrap();
    let limit = Duration::from_secs(1);
    let session = Session::new(&options, limit, Commit::Flushed);
    let store = Store::new(options, 1, limit, limit);
    let shown = format!("{store:?} {session:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// For another process, whose environment the test may choose.
const CONNECTS: &str =
    "postgres::starts::a_managed_server_is_not_connected_to_by_the_environments_options";

#[tokio::test]
async fn a_managed_server_is_not_connected_to_by_the_environments_options() {
    if std::env::var_os("PGOPTIONS").is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", CONNECTS])
            .env("PGOPTIONS", "-c synchronous_commit=off");
        let output = again.output().unwrap();
        let output = String::from_utf8_lossy(&output.stdout);
        // With another name it would find nothing to run, and succeed.
        assert!(output.contains("1 passed"), "{output}");
        return;
    }
    let dir = temp_dir();
    let error = open_with(config(dir.path())).await.err().unwrap();
    assert!(error.to_string().contains("unset PGOPTIONS"), "{error}");
    assert!(!dir.path().join("pg").exists());
}

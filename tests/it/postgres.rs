//! The managed server: started, shared, killed, and found intact.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection, Row};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::postgres::{Error, Postgres, PostgresConfig, assert_safe, migrate, open};
use towpath::store::{Session, Store};

use crate::support::server::postmaster;
use crate::support::{eventually, temp_dir};

/// Set for a copy of this program that plays another process; names its data directory.
const STAND_IN: &str = "TOWPATH_TEST_STAND_IN";

/// Set beside [`STAND_IN`] to tie the server to the life of that process.
const STAND_IN_HELPER: &str = "TOWPATH_TEST_STAND_IN_HELPER";

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
    let session = Session::new(&options, limit);
    let store = Store::new(options, 1, limit, limit);
    let shown = format!("{store:?} {session:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// For another process, whose environment the test may choose.
const CONNECTS: &str = "postgres::a_managed_server_is_not_connected_to_by_the_environments_options";

#[tokio::test]
async fn a_managed_server_is_not_connected_to_by_the_environments_options() {
    if std::env::var_os("PGOPTIONS").is_none() {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", CONNECTS])
            .env("PGOPTIONS", "-c synchronous_commit=off");
        assert!(again.status().unwrap().success());
        return;
    }
    let dir = temp_dir();
    let error = open_with(config(dir.path())).await.err().unwrap();
    assert!(error.to_string().contains("unset PGOPTIONS"), "{error}");
    assert!(!dir.path().join("pg").exists());
}

#[tokio::test]
async fn root_runs_the_server_as_another_user() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can run the server as another user");
        return;
    }
    let dir = temp_dir();
    let expected = ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).unwrap())
        .unwrap();
    let postgres = start(dir.path()).await;
    let pid = postmaster(dir.path()).unwrap();
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!(process.uid(), expected.uid.as_raw());
    let groups = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(groups.contains("Groups:\t \n"), "{groups}");
    postgres.close().await.unwrap();

    let unreachable = temp_dir();
    fs::set_permissions(unreachable.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let error = open_with(config(unreachable.path())).await.err().unwrap();
    assert!(
        error
            .to_string()
            .contains("may not enter this folder (mode 0700)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_data_directory_that_others_may_write_to_is_refused() {
    let dir = temp_dir();
    for mode in [0o775, 0o757, 0o1777] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = open_with(config(dir.path())).await.err().unwrap();
        let expected = format!("others may write to this folder (mode {mode:04o})");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(!dir.path().join("pg").exists());
    }
}

#[tokio::test]
async fn links_among_the_clusters_files_are_refused_and_what_they_lead_to_is_left_alone() {
    let dir = temp_dir();
    start(dir.path()).await.close().await.unwrap();
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "untouched").unwrap();
    let before = fs::metadata(&theirs).unwrap().uid();
    let log = dir.path().join("pg/postgres.log");
    for link in [
        |theirs: &Path, log: &Path| fs::hard_link(theirs, log),
        |theirs: &Path, log: &Path| std::os::unix::fs::symlink(theirs, log),
    ] {
        fs::remove_file(&log).unwrap();
        link(&theirs, &log).unwrap();
        let error = open_with(config(dir.path())).await.err().unwrap();
        assert!(error.to_string().contains("postgres.log"), "{error}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "untouched");
        assert_eq!(fs::metadata(&theirs).unwrap().uid(), before);
    }
}

/// Another process that uses the cluster until its input ends.
struct StandIn {
    process: Child,
    /// Open until the end, since the test harness in there reports to it.
    _output: BufReader<ChildStdout>,
    _program: TempDir,
}

impl StandIn {
    /// Answers once the other process has opened the cluster, as `user` if given.
    fn open(data_dir: &Path, helper: Option<PathBuf>, user: Option<&User>) -> StandIn {
        // A copy, because the build's folders may be closed to the user.
        let program_dir = temp_dir();
        let program = program_dir.path().join("stand-in");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new(&program);
        let test = "postgres::a_process_of_its_own_uses_the_cluster_until_its_input_ends";
        command.args(["--exact", test, "--nocapture"]);
        command.env(STAND_IN, data_dir).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(helper) = helper {
            command.env(STAND_IN_HELPER, helper);
        }
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let opened = output
            .by_ref()
            .lines()
            .any(|line| line.unwrap().ends_with("opened"));
        assert!(opened, "{:?}", process.wait());
        StandIn {
            process,
            _output: output,
            _program: program_dir,
        }
    }
}

/// For [`StandIn`]; alone it has nothing to do.
#[tokio::test]
async fn a_process_of_its_own_uses_the_cluster_until_its_input_ends() {
    let Some(data_dir) = std::env::var_os(STAND_IN) else {
        return;
    };
    let config = PostgresConfig {
        pdeath_helper: std::env::var_os(STAND_IN_HELPER).map(PathBuf::from),
        ..config(Path::new(&data_dir))
    };
    let postgres = open_with(config).await.unwrap();
    writeln!(std::io::stdout(), "opened").unwrap();
    std::io::stdin().lines().for_each(drop);
    postgres.close().await.unwrap();
}

#[tokio::test]
async fn a_plain_user_runs_the_server_as_itself() {
    let user = if geteuid().is_root() {
        Some(User::from_name("nobody").unwrap().unwrap())
    } else {
        None
    };
    let dir = temp_dir();
    if let Some(user) = &user {
        lchown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let mut plain = StandIn::open(dir.path(), None, user.as_ref());
    let pid = postmaster(dir.path()).unwrap();
    let process = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!(
        process.uid(),
        user.map_or(geteuid(), |user| user.uid).as_raw()
    );

    // Root would have to believe what a plain user put there.
    if geteuid().is_root() {
        let error = open_with(config(dir.path())).await.err().unwrap();
        assert!(error.to_string().contains("belongs to uid"), "{error}");
    }
    assert!(is_running(pid));
    drop(plain.process.stdin.take());
    assert!(plain.process.wait().unwrap().success());
    assert!(!is_running(pid));
}

#[tokio::test]
async fn a_killed_process_leaves_the_server_to_the_next_who_attaches() {
    let dir = temp_dir();
    let mut killed = StandIn::open(dir.path(), None, None);
    let pid = postmaster(dir.path()).unwrap();
    killed.process.kill().unwrap();
    killed.process.wait().unwrap();
    let next = start(dir.path()).await;
    assert_eq!(postmaster(dir.path()), Some(pid));
    next.close().await.unwrap();
    assert!(!is_running(pid));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_the_helper_the_server_stops_when_its_starter_is_killed() {
    let dir = temp_dir();
    let helper = env!("CARGO_BIN_EXE_towpath").into();
    let mut killed = StandIn::open(dir.path(), Some(helper), None);
    let pid = postmaster(dir.path()).unwrap();
    killed.process.kill().unwrap();
    killed.process.wait().unwrap();
    eventually("the server stopped", async || {
        (!is_running(pid)).then_some(())
    })
    .await;
    // Cleanly, since a killed server would have left its file.
    assert!(postmaster(dir.path()).is_none());
}

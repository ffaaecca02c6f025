//! Other users and other processes on one cluster.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use towpath::postgres::PostgresConfig;

use super::{config, is_running, open_with, start};
use crate::support::server::postmaster;
use crate::support::{eventually, temp_dir};

/// Set for a copy of this program that plays another process; names its data directory.
const STAND_IN: &str = "TOWPATH_TEST_STAND_IN";

/// Set beside [`STAND_IN`] to tie the server to the life of that process.
const STAND_IN_HELPER: &str = "TOWPATH_TEST_STAND_IN_HELPER";

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
        // A copy, because the build's folders may be closed to the user. By another process: if it were open
        // here, a test that starts something at this moment would hand it on, and a file that somebody may
        // write to is not run ("Text file busy").
        let program_dir = temp_dir();
        let program = program_dir.path().join("stand-in");
        let mut copy = Command::new("cp");
        copy.arg(std::env::current_exe().unwrap()).arg(&program);
        assert!(copy.status().unwrap().success());
        let mut command = Command::new(&program);
        let test =
            "postgres::processes::a_process_of_its_own_uses_the_cluster_until_its_input_ends";
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

//! `towpath serve` as a process: signals, closed pipes, and what it leaves behind.

use std::fs::{self, File};
use std::future::ready;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::server::postmaster;
use crate::support::{eventually, socket, temp_dir};

/// Far below what PostgreSQL is given to stop.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A node with a managed PostgreSQL of its own. Both end with the test.
struct Node {
    process: Child,
    dir: TempDir,
}

impl Node {
    fn start() -> Self {
        Self::start_as(&mut Command::new(env!("CARGO_BIN_EXE_towpath")))
    }

    /// As [`Node::start`], by a program that becomes it.
    fn start_as(program: &mut Command) -> Self {
        let dir = temp_dir();
        let [out, err] = ["out", "err"].map(|name| File::create(dir.path().join(name)).unwrap());
        Self::spawn(program.stdout(out).stderr(err), dir)
    }

    fn spawn(program: &mut Command, dir: TempDir) -> Self {
        let process = program
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--set", "server.shutdown_delay=0s"])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", "/nonexistent")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, dir }
    }

    fn postmaster(&self) -> Option<Pid> {
        postmaster(&self.dir.path().join("data"))
    }

    async fn logs(&self, words: &str) {
        let log = self.dir.path().join("err");
        eventually(words, async || {
            let log = fs::read_to_string(&log).unwrap();
            log.contains(words).then_some(())
        })
        .await;
    }

    async fn serves(&self) -> SocketAddr {
        let out = self.dir.path().join("out");
        eventually("it serves", async || {
            let out = fs::read_to_string(&out).unwrap();
            let (_, url) = out.split_once("http://")?;
            url.split_once(' ')?.0.parse().ok()
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    async fn ends(&mut self) -> ExitStatus {
        let process = &mut self.process;
        eventually("the node ends", || ready(process.try_wait().unwrap())).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        self.process.wait().unwrap();
        if let Some(postmaster) = self.postmaster() {
            let _gone = kill(postmaster, Signal::SIGQUIT);
            let _gone = kill(postmaster, Signal::SIGCONT);
        }
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    socket::ask(address, request).await.status == 200
}

#[tokio::test]
async fn a_node_whose_output_nobody_reads_serves_and_brings_its_database_back() {
    let dir = temp_dir();
    let mut program = Command::new(env!("CARGO_BIN_EXE_towpath"));
    let mut node = Node::spawn(program.stdout(Stdio::piped()).stderr(Stdio::piped()), dir);
    drop(node.process.stdout.take());
    let log = BufReader::new(node.process.stderr.take().unwrap());
    let serving = log
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("\"serving\""))
        .unwrap();
    let serving: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let address = serving["address"].as_str().unwrap().parse().unwrap();

    let killed = node.postmaster().unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    eventually("another server", async || {
        node.postmaster().filter(|pid| *pid != killed)
    })
    .await;
    eventually("it is ready", async || {
        is_ready(address).await.then_some(())
    })
    .await;
    node.signal(Signal::SIGTERM);
    assert!(node.ends().await.success());
}

#[tokio::test]
async fn a_signal_during_the_start_takes_the_database_down_again() {
    let mut node = Node::start();
    let started = eventually("PostgreSQL comes up", async || node.postmaster()).await;
    node.signal(Signal::SIGINT);
    assert!(node.ends().await.success());
    assert_eq!(node.postmaster(), None);
    assert_eq!(kill(started, None), Err(Errno::ESRCH));
}

#[tokio::test]
async fn a_second_signal_ends_a_node_at_once_although_its_database_does_not_stop() {
    let mut node = Node::start();
    node.serves().await;
    let postmaster = node.postmaster().unwrap();
    kill(postmaster, Signal::SIGSTOP).unwrap();
    node.signal(Signal::SIGTERM);
    node.logs("stopped serving").await;
    node.signal(Signal::SIGTERM);
    let ended = timeout(AT_ONCE, node.ends()).await.expect("at once");
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test]
async fn a_node_tells_systemd_when_it_serves_and_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let hear = || {
        let mut told = [0; 64];
        let length = systemd.recv(&mut told).unwrap();
        String::from_utf8(told[..length].to_vec()).unwrap()
    };
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut node =
        Node::start_as(Command::new("env").args([&variable, env!("CARGO_BIN_EXE_towpath")]));
    assert_eq!(hear(), "READY=1\n");
    assert!(is_ready(node.serves().await).await);
    node.signal(Signal::SIGTERM);
    assert_eq!(hear(), "STOPPING=1\n");
    assert!(node.ends().await.success());
}

#[tokio::test]
async fn a_hang_up_ends_a_node_in_order() {
    let mut node = Node::start();
    node.serves().await;
    node.signal(Signal::SIGHUP);
    assert!(node.ends().await.success());
    assert_eq!(node.postmaster(), None);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_node_that_was_started_by_nohup_does_not_hear_a_hang_up() {
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_towpath");
    let mut node = Node::start_as(shell.args(["-c", r#"trap '' HUP; exec "$@""#, "sh", program]));
    let address = node.serves().await;
    node.signal(Signal::SIGHUP);
    assert!(is_ready(address).await);
    node.signal(Signal::SIGTERM);
    assert!(node.ends().await.success());
}

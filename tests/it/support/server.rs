//! Whole servers as processes of their own, on a cluster of their own, durable as in production:
//! to be killed, stopped, paused and started again. All of them end with the test, also on panic.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;

use super::client::Client;
use super::database::Database;
use super::{eventually, temp_dir};

/// How long the processes of a cluster may take to end when a test is over.
const LAST_MOMENTS: Duration = Duration::from_secs(10);

/// Nodes that share a data directory, and so a database.
pub(crate) struct Cluster {
    // Dropped in this order: a node would bring back a database that ends before it.
    pub(crate) nodes: Vec<Node>,
    _processes: Processes,
    dir: TempDir,
}

impl Cluster {
    /// Starts nodes, each with these settings (`section.key=value`).
    pub(crate) async fn start(nodes: usize, settings: &[&str]) -> Self {
        Self::start_in(temp_dir(), nodes, settings).await
    }

    /// The same in a directory that may have something in it.
    pub(crate) async fn start_in(dir: TempDir, nodes: usize, settings: &[&str]) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            _processes: Processes(dir.path().to_owned()),
            dir,
        };
        for _node in 0..nodes {
            cluster.add_node(settings).await;
        }
        cluster
    }

    /// Starts one more node.
    pub(crate) async fn add_node(&mut self, settings: &[&str]) {
        let settings = settings.iter().map(ToString::to_string).collect();
        let log = self
            .dir
            .path()
            .join(format!("node-{}.log", self.nodes.len()));
        let mut node = Node {
            data_dir: self.dir.path().to_owned(),
            settings,
            log,
            address: Arc::default(),
            running: None,
        };
        node.start().await;
        self.nodes.push(node);
    }

    /// Their data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of one node, over connections of its own.
    pub(crate) fn client(&self, node: usize) -> Client {
        let token = fs::read_to_string(self.dir.path().join("admin.token")).unwrap();
        let address = Arc::clone(&self.nodes[node].address);
        Client::new(address, token.trim())
    }

    /// The database behind the nodes' backs.
    pub(crate) fn database(&self) -> Database {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.dir.path().join("pg/run"))
            .username("towpath")
            .database("towpath")
            .application_name("test");
        Database { options }
    }

    /// The process of the database, by its own file.
    pub(crate) fn postmaster(&self) -> Option<Pid> {
        postmaster(self.dir.path())
    }

    /// Kills the database without a warning.
    pub(crate) async fn kill_database(&self) {
        // The file may still name one that was killed before.
        eventually("the database is killed", async || {
            kill(self.postmaster()?, Signal::SIGKILL).ok()
        })
        .await;
    }
}

/// One process of the server.
pub(crate) struct Node {
    data_dir: PathBuf,
    settings: Vec<String>,
    log: PathBuf,
    /// Where it listens now; changes with every start.
    address: Arc<Mutex<Option<SocketAddr>>>,
    running: Option<(Child, BufReader<ChildStdout>)>,
}

impl Node {
    /// Starts the process and waits until it serves.
    pub(crate) async fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&self.log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_towpath"));
        command.args(["serve", "--data-dir"]).arg(&self.data_dir);
        for setting in [
            "server.listen=127.0.0.1:0",
            "server.shutdown_delay=0s",
            "log.format=text",
        ] {
            command.args(["--set", setting]);
        }
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // Whatever the developer has configured for himself is not meant for this server.
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.unwrap());
        let mut process = command.spawn().unwrap();
        let output = ChildStdout::from_std(process.stdout.take().unwrap()).unwrap();
        let (_, output) = self.running.insert((process, BufReader::new(output)));
        let mut line = String::new();
        while let Ok(1..) = output.read_line(&mut line).await {
            if let Some(address) = address_in(&line) {
                *self.address.lock().unwrap() = Some(address);
                return;
            }
            line.clear();
        }
        panic!("the server did not start");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.lock().unwrap().expect("it has been started")
    }

    pub(crate) fn pid(&self) -> Pid {
        let (process, _) = self.running.as_ref().expect("it runs");
        Pid::from_raw(process.id().try_into().unwrap())
    }

    /// What the process has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Kills the process without a warning; afterwards it can be started again.
    pub(crate) fn kill(&mut self) {
        if let Some((mut process, _)) = self.running.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Waits for the process to end by itself; afterwards it can be started again.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let (mut process, _output) = self.running.take().expect("it runs");
        eventually("the server has ended", || {
            let ended = process.try_wait().unwrap();
            async move { ended }
        })
        .await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let last = log.lines().rev().take(30).collect::<Vec<_>>();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
            eprintln!("the end of {}:\n{last}", self.log.display());
        }
    }
}

/// `Towpath serves http://127.0.0.1:9324  (…`
fn address_in(line: &str) -> Option<SocketAddr> {
    let url = line.strip_prefix("Towpath serves http://")?;
    url.split_whitespace().next()?.parse().ok()
}

/// The process of a managed database as its own file has it.
pub(crate) fn postmaster(data_dir: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data_dir.join("pg/data/postmaster.pid")).ok()?;
    Some(Pid::from_raw(file.lines().next()?.parse().ok()?))
}

/// Whoever works in a directory: the database's processes are not children of ours.
struct Processes(PathBuf);

impl Processes {
    fn pids(&self) -> Vec<Pid> {
        let works_here = |pid: &Pid| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.0))
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.map(Pid::from_raw).filter(works_here).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // At once, but with its shared memory tidied up.
        if let Some(pid) = postmaster(&self.0).filter(|pid| self.pids().contains(pid)) {
            let _gone = kill(pid, Signal::SIGQUIT);
        }
        let began = towpath::clock::Clock::default();
        let start = began.instant();
        while began.instant() - start < LAST_MOMENTS && !self.pids().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        for pid in self.pids() {
            let _gone = kill(pid, Signal::SIGKILL);
        }
    }
}

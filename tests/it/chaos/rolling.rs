//! Nodes that are replaced one by one behind a load balancer, which is what operators are given.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt as _;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::history::{Violation, check};
use super::load::{self, LONG, Progress, QUEUE, Run, Seen, Users};
use crate::support::client::Client;
use crate::support::server::Cluster;
use crate::support::{eventually, temp_dir};

const NODES: usize = 3;

/// As the nodes are told below: longer than the load balancer needs to notice, which is two checks.
const SHUTDOWN_DELAY: &str = "server.shutdown_delay=3s";

const WINDOW: Duration = Duration::from_secs(2);

/// Nothing is sent there but at the very end.
const EMPTY: &str = "empty";
const POLLS: usize = 6;

/// An address where nobody listens, and where the system lets nobody call from either: it stays
/// free while its server is away.
pub(super) fn free_address() -> SocketAddr {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A load balancer with the configuration that operators get.
struct Haproxy {
    process: Child,
    /// Where it tells how it sees the nodes.
    socket: PathBuf,
    _dir: TempDir,
}

impl Haproxy {
    async fn start(front: SocketAddr, nodes: &[SocketAddr]) -> Self {
        let dir = temp_dir();
        let socket = dir.path().join("stats");
        let stats = dir.path().join("stats.cfg");
        let text = format!("global\n    stats socket {} mode 600\n", socket.display());
        fs::write(&stats, text).unwrap();
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/haproxy.cfg");
        // Where Debian keeps it is on root's path only.
        let process = ["haproxy", "/usr/sbin/haproxy"]
            .into_iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command
                    .arg("-db")
                    .arg("-f")
                    .arg(&ours)
                    .arg("-f")
                    .arg(&stats);
                command.env("TOWPATH_FRONT", front.to_string());
                for (number, node) in (1..).zip(nodes) {
                    command.env(format!("TOWPATH_NODE_{number}"), node.to_string());
                }
                command.stdin(Stdio::null()).stdout(Stdio::null());
                command.spawn().ok()
            });
        let process = process.expect("haproxy is not installed: apt-get install haproxy");
        let mut haproxy = Self {
            process,
            socket,
            _dir: dir,
        };
        for node in 0..nodes.len() {
            haproxy.sees(node, "UP").await;
        }
        haproxy
    }

    /// Waits until it takes a node to be in some state.
    async fn sees(&mut self, node: usize, state: &str) {
        let line = format!("nodes,node-{},", node + 1);
        eventually(&format!("{line} {state}"), || {
            let seen = self.state(&line);
            let is_so = seen.is_some_and(|seen| seen == state);
            async move { is_so.then_some(()) }
        })
        .await;
    }

    /// What it takes a node to be.
    fn state(&mut self, line: &str) -> Option<String> {
        let ended: Option<ExitStatus> = self.process.try_wait().unwrap();
        assert_eq!(ended, None, "haproxy has ended");
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"show stat\n").ok()?;
        let mut stats = String::new();
        stream.read_to_string(&mut stats).ok()?;
        let stats = stats.lines().find(|stats| stats.starts_with(line))?;
        stats.split(',').nth(17).map(ToOwned::to_owned)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// Receives that mostly wait until their time is over, again and again; how many were answered.
async fn poll(client: Client, progress: Progress) -> usize {
    let mut answered = 0;
    while !progress.is_done() {
        let received = client.receive(EMPTY, 20, LONG).await.unwrap();
        if !received.is_empty() {
            client.delete(EMPTY, &received).await.unwrap();
        }
        answered += 1;
    }
    answered
}

/// Replaces each node, one after the other, twice, under load: what was seen meanwhile, and how many
/// polls were answered.
async fn replace_all(
    cluster: &mut Cluster,
    haproxy: &mut Haproxy,
    client: &Client,
    run: &Run,
) -> (Seen, usize) {
    let progress = Progress::endless();
    let users = Users::start(client, run, WINDOW, &progress);
    let mut polls = JoinSet::new();
    for _poll in 0..POLLS {
        polls.spawn(poll(client.another(), progress.clone()));
    }
    progress.reaches(100).await;
    for node in (0..NODES).chain(0..NODES) {
        cluster.nodes[node].signal(Signal::SIGTERM);
        haproxy.sees(node, "DOWN").await;
        assert_eq!(cluster.nodes[node].exit().await.code(), Some(0));
        cluster.nodes[node].start().await;
        haproxy.sees(node, "UP").await;
    }
    progress.end();
    // Those who wait get something to go home with.
    let farewell = ["bye"; POLLS].map(ToOwned::to_owned);
    let polling = polls.join_all();
    let farewells = async {
        for farewell in farewell {
            client.send(EMPTY, &[farewell]).await.unwrap();
        }
    };
    let (polls, ()) = tokio::join!(polling, farewells);
    (users.end().await, polls.into_iter().sum())
}

#[tokio::test]
async fn nodes_that_are_replaced_one_by_one_behind_a_load_balancer_fail_no_request() {
    let mut cluster = Cluster::start(0, &[]).await;
    let nodes: Vec<_> = std::iter::repeat_with(free_address).take(NODES).collect();
    for node in &nodes {
        let listen = format!("server.listen={node}");
        cluster.add_node(&[SHUTDOWN_DELAY, &listen]).await;
    }
    let front = free_address();
    let mut haproxy = Haproxy::start(front, &nodes).await;
    let client = Client::new(Arc::new(Mutex::new(Some(front))), cluster.client(0).token());
    for queue in [QUEUE, EMPTY] {
        client.put_queue(queue).await;
    }
    let run = Run::new();
    let (seen, polls) = replace_all(&mut cluster, &mut haproxy, &client, &run).await;
    assert!(polls > POLLS, "{polls}");
    seen.assert_unhurt();
    let Seen { sends, notes } = seen;

    load::windows_have_ended(&cluster.database()).await;
    let drained = load::now();
    let drain = load::drain(&client, &run).await;
    let history = load::history(sends, notes, drained, drain);
    assert_eq!(check(&history), [] as [Violation; 0]);
}

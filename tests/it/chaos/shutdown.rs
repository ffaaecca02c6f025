//! Nodes that are asked to stop.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use towpath::clock::Clock;

use super::history::{Violation, check};
use super::load::{self, LONG, Progress, QUEUE, Run, Seen, Users};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::Cluster;

/// As the node is told below.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(1);
const EMPTY: &str = "empty";
const SLOW: &str = "slow";

/// A send of which half the body is on its way.
struct HalfSent {
    stream: TcpStream,
    rest: &'static [u8],
}

impl HalfSent {
    async fn begin(cluster: &Cluster, token: &str) -> Self {
        const BODY: &str = r#"{"messages":[{"body":"patience"}]}"#;
        let (half, rest) = BODY.split_at(BODY.len() / 2);
        let mut stream = TcpStream::connect(cluster.nodes[0].address())
            .await
            .unwrap();
        let head = format!(
            "POST /v1/queues/{SLOW}/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{half}",
            BODY.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let rest = rest.as_bytes();
        Self { stream, rest }
    }

    /// The whole answer.
    async fn finish(mut self) -> String {
        self.stream.write_all(self.rest).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// Receives that find nothing, on a connection each; how long each waits.
fn start_long_polls(client: &Client) -> JoinSet<Duration> {
    let mut polls = JoinSet::new();
    for _poll in 0..5 {
        let client = client.another();
        polls.spawn(async move {
            let clock = Clock::default();
            let began = clock.instant();
            let received = client.receive(EMPTY, 20, LONG).await.unwrap();
            assert!(received.is_empty(), "{received:?}");
            clock.instant() - began
        });
    }
    polls
}

/// Stops the first node under load. Whoever leaves it when it turns unready sees no failure, and
/// whoever cannot leave is answered.
async fn stop_under_load(cluster: &mut Cluster, client: &Client, run: &Run) -> Seen {
    let progress = Progress::endless();
    let users = Users::start(client, run, WINDOW, &progress);
    let polls = start_long_polls(client);
    let half_sent = HalfSent::begin(cluster, client.token()).await;
    progress.reaches(100).await;

    cluster.nodes[0].signal(Signal::SIGTERM);
    let unready = eventually("the node turns unready", async || {
        let answer = client.ask(Method::GET, "/readyz", &Value::Null).await;
        answer.ok().filter(|answer| answer.status != 200)
    });
    unready.await.expect_problem(503, "shutting_down");
    client.send(SLOW, &["still open".to_owned()]).await.unwrap();
    progress.end();
    let seen = users.end().await;

    let waits = polls.join_all().await;
    let expected = SHUTDOWN_DELAY..Duration::from_secs(15);
    assert!(
        waits.iter().all(|wait| expected.contains(wait)),
        "{waits:?}"
    );
    let address = cluster.nodes[0].address();
    eventually("nobody listens any more", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
    let answer = half_sent.finish().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(cluster.nodes[0].exit().await.code(), Some(0));
    seen
}

/// The numbers of the nodes' appenders.
async fn writers(cluster: &Cluster) -> Vec<i16> {
    let writers = "select array_agg(writer order by writer) from towpath.node";
    cluster.database().value(writers).await
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_fails_nobody_and_the_last_one_stops_the_database() {
    let mut cluster = Cluster::start(2, &["server.shutdown_delay=1s"]).await;
    let client = cluster.client(0);
    for queue in [QUEUE, EMPTY, SLOW] {
        client.put_queue(queue).await;
    }
    let run = Run::new();
    let taken = writers(&cluster).await;
    let seen = stop_under_load(&mut cluster, &client, &run).await;
    seen.assert_unhurt();
    let Seen { sends, notes } = seen;

    let left = writers(&cluster).await;
    let others = &taken[taken.len() / 2..];
    assert_eq!(left, others, "the first node's numbers are free again");
    cluster.nodes[1].signal(Signal::SIGTERM);
    assert_eq!(cluster.nodes[1].exit().await.code(), Some(0));
    let left = cluster.postmaster();
    assert_eq!(left, None, "the last one stops the database");

    cluster.nodes[0].start().await;
    load::windows_have_ended(&cluster.database()).await;
    let drained = load::now();
    let drain = load::drain(&client, &run).await;
    assert_eq!(client.receive(SLOW, 0, LONG).await.unwrap().len(), 2);
    let history = load::history(sends, notes, drained, drain);
    assert_eq!(check(&history), [] as [Violation; 0]);
}

//! Ten thousand receivers that wait on one node.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;
use towpath::clock::Clock;

use crate::support::eventually;
use crate::support::server::Cluster;

const QUEUES: usize = 10;
const POLLS_PER_QUEUE: usize = 1_000;
const WAIT: Duration = Duration::from_secs(20);

/// Queues that get messages, and how many.
const BUSY_QUEUES: usize = 3;
const MESSAGES_PER_QUEUE: usize = 30;

const MAX_RESIDENT_KIB: u64 = 300 * 1024;
const MAX_DATABASE_SESSIONS: i64 = 20;

/// Sooner than a safety probe would find them (5 s).
const PROMPTLY: Duration = Duration::from_secs(3);

/// Lets this process and those that it starts have a file descriptor per poll.
fn raise_limit_of_open_files() {
    const NEEDED: u64 = (QUEUES * POLLS_PER_QUEUE) as u64 + 2_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < NEEDED {
        let raised = setrlimit(Resource::RLIMIT_NOFILE, NEEDED, hard.max(NEEDED));
        raised.unwrap_or_else(|_| panic!("ulimit -Hn is {hard}; this test needs {NEEDED}"));
    }
}

/// What the kernel says of a process.
fn of_process(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

/// The ticks of a processor that a process has used.
fn ticks(pid: Pid) -> u64 {
    let stat = of_process(pid, "stat");
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let times = after_name.split(' ').skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}

fn resident_kib(pid: Pid) -> u64 {
    let status = of_process(pid, "status");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until a process has nothing to do.
async fn rests(pid: Pid) {
    eventually("the node rests", async || {
        let before = ticks(pid);
        sleep(Duration::from_millis(300)).await;
        (ticks(pid) - before <= 1).then_some(())
    })
    .await;
}

/// A receive on a connection of its own that has been asked for.
async fn ask(address: SocketAddr, token: &str, queue: usize) -> TcpStream {
    let body = format!(r#"{{"wait_seconds":{}}}"#, WAIT.as_secs());
    let request = format!(
        "POST /v1/queues/q-{queue}/messages/receive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// How many messages came.
async fn answer(mut stream: TcpStream) -> usize {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    body["messages"].as_array().unwrap().len()
}

#[tokio::test]
async fn ten_thousand_polls_wait_in_little_memory_and_without_the_database() {
    raise_limit_of_open_files();
    let cluster = Cluster::start(1, &["server.max_connections=11000"]).await;
    let (client, pid) = (cluster.client(0), cluster.nodes[0].pid());
    for queue in 0..QUEUES {
        client.put_queue(&format!("q-{queue}")).await;
    }
    let at_first = resident_kib(pid);
    let clock = Clock::default();
    let began = clock.instant();
    let mut polls = JoinSet::new();
    for poll in 0..QUEUES * POLLS_PER_QUEUE {
        let queue = poll % QUEUES;
        let stream = ask(cluster.nodes[0].address(), client.token(), queue).await;
        polls.spawn(async move { (queue, answer(stream).await) });
    }
    rests(pid).await;
    let waiting_after = clock.instant() - began;
    assert!(
        waiting_after < WAIT,
        "the first are home already: {waiting_after:?}"
    );
    assert!(polls.try_join_next().is_none(), "all of them wait");
    let resident = resident_kib(pid);
    eprintln!("{at_first} KiB without, {resident} KiB with polls, after {waiting_after:?}");
    assert!(resident <= MAX_RESIDENT_KIB, "{resident} KiB");
    let sessions = "select count(*) from pg_stat_activity where application_name = 'towpath'";
    let sessions: i64 = cluster.database().value(sessions).await;
    assert!(sessions < MAX_DATABASE_SESSIONS, "{sessions}");

    let sent = clock.instant();
    for message in 0..MESSAGES_PER_QUEUE {
        for queue in 0..BUSY_QUEUES {
            let queue = format!("q-{queue}");
            client.send(&queue, &[message.to_string()]).await.unwrap();
        }
    }
    let mut received = [0; QUEUES];
    for _message in 0..BUSY_QUEUES * MESSAGES_PER_QUEUE {
        let (queue, messages) = polls.join_next().await.unwrap().unwrap();
        assert_eq!(messages, 1, "who comes home first has something");
        received[queue] += messages;
    }
    let took = clock.instant() - sent;
    assert!(took < PROMPTLY, "{took:?}");
    for (queue, messages) in polls.join_all().await {
        received[queue] += messages;
    }
    let expected = |queue| {
        if queue < BUSY_QUEUES {
            MESSAGES_PER_QUEUE
        } else {
            0
        }
    };
    assert_eq!(received, std::array::from_fn(expected));
}

//! What a crash of the database may undo, by the durability of the queue.
//!
//! The crash is the death of every process of a PostgreSQL of the test's own, which takes along what
//! they had not written yet. Its machine stays up, so that nothing is shown of disks. What should be
//! lost is looked for as well: a test that cannot lose anything shows nothing.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Executor as _, Row as _};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::postgres::{self, Postgres, PostgresConfig};

use super::{Node, answer, counts, list, seconds, with_receipt};
use crate::support::database::Database;
use crate::support::{eventually, temp_dir};

/// Messages sent one by one.
const MESSAGES: usize = 20;

/// A PostgreSQL in which nothing is written down but by those who wait for it: the process that does
/// so for the others is stopped. Its death is a crash of the whole server.
struct Crashable {
    database: Database,
    postgres: Postgres,
    _dir: TempDir,
}

/// Others that write now and then.
const QUIET: &[&str] = &["autovacuum = off", "bgwriter_lru_maxpages = 0"];

impl Crashable {
    async fn start() -> Self {
        let dir = temp_dir();
        let config = PostgresConfig {
            search_path: std::env::var_os("PATH"),
            ..PostgresConfig::managed(dir.path())
        };
        let (clock, tracker) = (Clock::default(), TaskTracker::new());
        let postgres = postgres::open(config, clock, &tracker, CancellationToken::new())
            .await
            .unwrap();
        let options = postgres.connect_options();
        postgres::migrate(&options).await.unwrap();
        let database = Database { options };
        for setting in QUIET {
            database.run(format!("alter system set {setting}")).await;
        }
        database.run("select pg_reload_conf()").await;
        let crashable = Self {
            database,
            postgres,
            _dir: dir,
        };
        crashable.signal_writer(Signal::SIGSTOP).await;
        crashable
    }

    async fn signal_writer(&self, signal: Signal) -> i32 {
        let pid = eventually("the server has a writer", async || self.writer().await).await;
        kill(Pid::from_raw(pid), signal).unwrap();
        pid
    }

    /// The process that writes the log for those who do not wait.
    async fn writer(&self) -> Option<i32> {
        let sql = "select pid from pg_stat_activity where backend_type = 'walwriter'";
        let mut connection = self.database.options.connect().await.ok()?;
        let row = connection.fetch_optional(sql).await.ok()??;
        Some(row.get(0))
    }

    /// Ends every process of the server at once, and waits until it serves again.
    async fn crash(&self) {
        let dead = self.signal_writer(Signal::SIGKILL).await;
        eventually("the server is back", async || {
            let writer = self.writer().await?;
            (writer != dead).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.postgres.close().await.unwrap();
    }
}

/// Waits until a node has noticed that its sessions were lost, and has others.
async fn recovered(node: &Node, durability: &str) {
    let send = json!({"messages": [{"body": "is anybody there?"}]});
    eventually("the node serves", async || {
        let put = json!({"durability": durability});
        let put = node.ask(Method::PUT, "warm", &put).await;
        let sent = node.ask(Method::POST, "warm/messages", &send).await;
        let received = node.ask_to_receive("warm", json!({})).await;
        if put.status > 201 || sent.status != 200 || received.status != 200 {
            return None;
        }
        let entries: Vec<_> = list(&received.body)
            .iter()
            .map(|message| with_receipt(message, json!({})))
            .collect();
        let deleted = node.change("warm", "delete", json!(entries)).await;
        (deleted.status == 200).then_some(())
    })
    .await;
}

/// Sends messages one after the other.
async fn send(node: &Node, queue: &str, name: &str) -> Vec<Value> {
    let mut sent = vec![];
    for n in 0..MESSAGES {
        let message = json!([{"body": format!("{name} {n:02}")}]);
        sent.extend(node.send(queue, message).await);
    }
    sent
}

/// All messages that a queue has, held for long.
async fn receive(node: &Node, queue: &str) -> Vec<Value> {
    let request = json!({"max_messages": 1000, "visibility_timeout_seconds": 40_000});
    node.receive(queue, request).await
}

async fn delete(node: &Node, queue: &str, messages: &[Value]) {
    for message in messages {
        node.change_one(queue, "delete", message, json!({})).await;
    }
}

async fn with_queue(durability: &str) -> (Crashable, Node) {
    let server = Crashable::start().await;
    let node = Node::on(&server.database).await;
    recovered(&node, durability).await;
    let settings = json!({"durability": durability, "visibility_timeout_seconds": 1000});
    node.put("q", settings).await;
    (server, node)
}

#[tokio::test]
async fn a_crash_undoes_no_send_of_a_strict_or_relaxed_queue_and_the_last_ones_of_an_async_queue() {
    for durability in ["async", "relaxed", "strict"] {
        let (server, node) = with_queue(durability).await;
        let sent = send(&node, "q", "before").await;
        server.crash().await;
        recovered(&node, durability).await;
        let kept = receive(&node, "q").await;
        println!("{durability}: {} of {} sends kept", kept.len(), sent.len());
        let mut ids: Vec<_> = kept.iter().map(|message| &message["message_id"]).collect();
        ids.sort_by_key(|id| sent.iter().position(|sent| sent["message_id"] == **id));
        let first: Vec<_> = sent[..kept.len()]
            .iter()
            .map(|message| &message["message_id"])
            .collect();
        assert_eq!(ids, first, "{durability}: the first ones, without a gap");
        if durability == "async" {
            assert!(kept.len() < sent.len(), "or this shows nothing");
        } else {
            assert_eq!(kept.len(), sent.len(), "{durability}");
        }
        server.end().await;
    }
}

#[tokio::test]
async fn a_crash_undoes_no_delete_of_a_strict_queue_and_the_last_ones_of_a_relaxed_queue() {
    for durability in ["relaxed", "strict"] {
        let (server, node) = with_queue(durability).await;
        let sent = send(&node, "q", "before").await;
        let held = receive(&node, "q").await;
        assert_eq!(held.len(), sent.len());
        let (deleted, kept) = held.split_at(MESSAGES / 2);
        delete(&node, "q", deleted).await;
        server.crash().await;
        recovered(&node, durability).await;
        let [visible, in_flight, _] = counts(&server.database, "q").await;
        println!("{durability}: {visible} visible and {in_flight} in flight after the crash");
        if durability == "relaxed" {
            let there = visible + in_flight;
            assert!(there > kept.len() as u64, "or this shows nothing");
            assert!(there <= sent.len() as u64);
        } else {
            assert_eq!([visible, in_flight], [0, kept.len() as u64], "{durability}");
            assert_eq!(receive(&node, "q").await, [] as [Value; 0], "they are held");
        }
        // Whoever held a message before the crash may delete it after.
        let entries: Vec<_> = kept
            .iter()
            .map(|message| with_receipt(message, json!({})))
            .collect();
        let answer = node.change("q", "delete", json!(entries)).await;
        if durability == "strict" {
            for outcome in list(answer.expect(200)) {
                assert_eq!(outcome["deleted"], true, "{outcome}");
            }
            server.database.advance_clock(seconds(50_000)).await;
            assert_eq!(receive(&node, "q").await, [] as [Value; 0]);
        }
        server.end().await;
    }
}

#[tokio::test]
async fn a_receipt_from_before_a_crash_deletes_no_message_from_after_it() {
    let (server, node) = with_queue("async").await;
    let lost = send(&node, "q", "before").await;
    let held = receive(&node, "q").await;
    assert_eq!(held.len(), lost.len());
    server.crash().await;
    recovered(&node, "async").await;
    assert_eq!(
        counts(&server.database, "q").await,
        [0, 0, 0],
        "all are lost"
    );
    let after = send(&node, "q", "after").await;
    for sent in &after {
        let id = &sent["message_id"];
        assert!(lost.iter().all(|lost| &lost["message_id"] != id), "{id}");
    }
    let lanes = "select count(*) from towpath.lane l
        join towpath.queue q using (queue_id) where q.name = 'q'";
    let lanes: i64 = server.database.value(lanes).await;
    assert_eq!(
        lanes, 1,
        "the new ones have the numbers of those that are lost"
    );

    let old: Vec<_> = held
        .iter()
        .map(|message| with_receipt(message, json!({})))
        .collect();
    let answer = node.change("q", "delete", json!(old)).await;
    answer.expect_problem(409, "receipt_stale");
    assert_eq!(counts(&server.database, "q").await, [MESSAGES as u64, 0, 0]);
    let new = receive(&node, "q").await;
    assert_eq!(new.len(), MESSAGES);
    let window = json!({"visibility_timeout_seconds": 0});
    for (what, entry) in [
        ("delete", json!({})),
        ("nack", json!({})),
        ("extend", window),
    ] {
        let old: Vec<_> = held
            .iter()
            .map(|message| with_receipt(message, entry.clone()))
            .collect();
        let answer = node.change("q", what, json!(old)).await;
        answer.expect_problem(409, "receipt_stale");
        let expected = [0, MESSAGES as u64, 0];
        assert_eq!(counts(&server.database, "q").await, expected, "{what}");
    }
    delete(&node, "q", &new).await;
    assert_eq!(counts(&server.database, "q").await, [0, 0, 0]);
    server.end().await;
}

#[tokio::test]
async fn a_send_under_a_key_that_comes_again_after_a_crash_is_there_once() {
    for durability in ["async", "strict"] {
        let (server, node) = with_queue(durability).await;
        let send = async |node: &Node| {
            let messages =
                json!({"messages": [{"body": "a"}, {"body": "b", "delay_seconds": 9000}]});
            let request = node.request(Method::POST, "q/messages", &messages);
            answer(request.header("Idempotency-Key", "key")).await
        };
        let first = send(&node).await;
        first.expect(200);
        server.crash().await;
        recovered(&node, durability).await;
        let second = eventually("it is sent", async || {
            let answer = send(&node).await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        assert_eq!(second.body, first.body, "a key is as durable as can be");
        assert_eq!(
            counts(&server.database, "q").await,
            [1, 0, 1],
            "{durability}"
        );
        server.end().await;
    }
}

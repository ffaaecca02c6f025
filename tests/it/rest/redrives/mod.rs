//! Redrives: dead letters go back to where they came from, or elsewhere, and nothing is lost or doubled.

mod filters;
mod running;

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towpath::clock::Clock;

use super::{Node, at, list, seconds, text, with_receipt};
use crate::support::database::Database;
use crate::support::{eventually, http_on, node};

/// A node that does redrives, until that is cancelled.
async fn redriving(database: &Database) -> (Node, CancellationToken) {
    let until = CancellationToken::new();
    let mut http = http_on(database).await;
    http.service = node::redriving(database, until.clone()).await;
    (Node::serving(http).await, until)
}

async fn alone() -> (Node, Database) {
    let database = Database::new().await;
    (redriving(&database).await.0, database)
}

/// A queue that gives up at once, to `dead`.
async fn put_source(node: &Node, queue: &str) {
    let settings = json!({
        "visibility_timeout_seconds": 1000,
        "dead_letter_queue": "dead",
        "max_receive_count": 1,
    });
    node.put(queue, settings).await;
}

/// Messages that a queue gives up, for a reason; their ids, by their bodies.
async fn kill(node: &Node, queue: &str, messages: Value, reason: &str) -> Vec<Value> {
    let sent = node.send(queue, messages).await;
    let mut left = sent.len();
    while left > 0 {
        let received = node.receive(queue, json!({"max_messages": 1000})).await;
        left -= received.len();
        let give_up = |message| with_receipt(message, json!({ "reason": reason }));
        let entries: Value = received.iter().map(give_up).collect();
        for outcome in list(node.change(queue, "nack", entries).await.expect(200)) {
            assert_eq!(outcome, json!({"dead_lettered": true}));
        }
    }
    sent
}

fn numbered(range: std::ops::Range<usize>) -> Value {
    let body = |n| json!({"body": format!("m{n:04}")});
    range.map(body).collect()
}

/// What a queue holds at this moment: visible, in flight, delayed.
async fn counts(database: &Database, queue: &str) -> [u64; 3] {
    let counts = format!(
        "select array[c.visible, c.in_flight, c.delayed]
         from towpath.queue q, towpath.counts_1(1, q.queue_id) c
         where q.name = '{queue}' and q.deleted_at is null"
    );
    let counts: Vec<i64> = database.value(counts).await;
    [0, 1, 2].map(|state| counts[state].unsigned_abs())
}

/// Until a queue has so many visible messages.
async fn has_visible(database: &Database, queue: &str, messages: u64) {
    eventually(&format!("{queue} has {messages}"), async || {
        (counts(database, queue).await[0] == messages).then_some(())
    })
    .await;
}

async fn start(node: &Node, queue: &str, request: Value) -> Value {
    let path = format!("{queue}/redrives");
    let answer = node.ask(Method::POST, &path, &request).await;
    answer.expect(202).clone()
}

async fn count(node: &Node, queue: &str, mut request: Value) -> u64 {
    request["dry_run"] = json!(true);
    let path = format!("{queue}/redrives");
    let answer = node.ask(Method::POST, &path, &request).await;
    assert_eq!(answer.expect(200)["complete"], true);
    answer.body["matching"].as_u64().unwrap()
}

fn path_of(redrive: &Value) -> String {
    let [queue, id] = ["queue", "redrive_id"].map(|part| text(&redrive[part]));
    format!("{queue}/redrives/{id}")
}

async fn look(node: &Node, redrive: &Value) -> Value {
    node.get(&path_of(redrive)).await.expect(200).clone()
}

async fn cancel(node: &Node, redrive: &Value) -> Value {
    let path = format!("{}/cancel", path_of(redrive));
    let answer = node.ask(Method::POST, &path, &Value::Null).await;
    answer.expect(200).clone()
}

/// The redrive once it has ended. Meanwhile the database may be away.
async fn end(node: &Node, redrive: &Value) -> Value {
    let path = path_of(redrive);
    eventually("the redrive ends", async || {
        let answer = node.get(&path).await;
        let has_ended = answer.status != 503 && answer.expect(200)["state"] != "running";
        has_ended.then_some(answer.body)
    })
    .await
}

/// Starts one and waits for its end: how many it moved and skipped.
async fn redrive(node: &Node, queue: &str, request: Value) -> [u64; 2] {
    let started = start(node, queue, request).await;
    assert_eq!(started["state"], "running");
    let ended = end(node, &started).await;
    assert_eq!(ended["state"], "completed", "{ended}");
    assert_eq!(ended.get("failed"), None, "{ended}");
    at(&ended["ended_at"]);
    ["moved", "skipped"].map(|count| ended[count].as_u64().unwrap())
}

fn ids(messages: &[Value]) -> BTreeSet<String> {
    messages
        .iter()
        .map(|message| text(&message["message_id"]))
        .collect()
}

#[tokio::test]
async fn each_message_goes_back_to_its_own_queue_as_it_was() {
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    for queue in ["a", "b"] {
        put_source(&node, queue).await;
    }
    let of_a = kill(&node, "a", numbered(0..100), "no paper").await;
    let of_b = kill(&node, "b", numbered(100..130), "no ink").await;
    has_visible(&database, "dead", 130).await;
    assert_eq!(redrive(&node, "dead", json!({})).await, [130, 0]);
    assert_eq!(counts(&database, "dead").await, [0, 0, 0]);
    for (queue, sent, reason) in [("a", of_a, "no paper"), ("b", of_b, "no ink")] {
        let received = node.receive(queue, json!({"max_messages": 1000})).await;
        assert_eq!(received.len(), sent.len());
        assert_eq!(ids(&received), ids(&sent), "{queue}: they keep their ids");
        for message in &received {
            assert_eq!(message["receive_count"], 1, "it counts anew");
            assert_eq!(message["sent_at"], sent[0]["sent_at"]);
            let deaths = message["deaths"].as_array().unwrap();
            assert_eq!(deaths.len(), 1);
            assert_eq!(
                (&deaths[0]["queue"], &deaths[0]["text"]),
                (&json!(queue), &json!(reason))
            );
        }
        // As often as the first time, and then there are two deaths.
        let entries: Value = received
            .iter()
            .map(|message| with_receipt(message, json!({"reason": "again"})))
            .collect();
        node.change(queue, "nack", entries).await.expect(200);
    }
    has_visible(&database, "dead", 130).await;
    let again = node.receive("dead", json!({"max_messages": 1000})).await;
    for message in &again {
        assert_eq!(message["deaths"].as_array().unwrap().len(), 2);
        assert_eq!(message["deaths"][1]["text"], "again");
    }
}

#[tokio::test]
async fn all_go_to_the_queue_that_is_named_also_those_that_never_died() {
    let (node, database) = alone().await;
    for queue in ["dead", "other"] {
        node.put(queue, json!({})).await;
    }
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..3), "why").await;
    has_visible(&database, "dead", 3).await;
    node.send("dead", numbered(3..5)).await;
    // By themselves those have nowhere to go.
    let only_sent = json!({"filter": {"older_than_seconds": 0}});
    assert_eq!(count(&node, "dead", only_sent).await, 5);
    assert_eq!(redrive(&node, "dead", json!({})).await, [3, 2]);
    has_visible(&database, "dead", 2).await;
    assert_eq!(redrive(&node, "dead", json!({"to": "other"})).await, [2, 0]);
    assert_eq!(node.bodies("other").await, ["m0003", "m0004"]);
    assert_eq!(node.bodies("a").await, ["m0000", "m0001", "m0002"]);
    assert_eq!(counts(&database, "dead").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_rate_is_never_exceeded() {
    const RATE: u32 = 40;
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..120), "why").await;
    has_visible(&database, "dead", 120).await;
    let clock = Clock::default();
    let began = clock.instant();
    let started = start(&node, "dead", json!({"max_messages_per_second": RATE})).await;
    let moved = eventually("the redrive ends", async || {
        // What is here now was here before the answer.
        let [moved, ..] = counts(&database, "a").await;
        let took = clock.instant() - began;
        let allowed = took.as_secs_f64() * f64::from(RATE);
        assert!(moved as f64 <= allowed, "{moved} within {took:?}");
        let redrive = look(&node, &started).await;
        (redrive["state"] == "completed").then_some(moved)
    })
    .await;
    let took = clock.instant() - began;
    println!("120 messages at {RATE} a second took {took:?}");
    assert_eq!(moved, 120);
    assert!(took >= seconds(3), "{took:?}");
    assert!(took < seconds(40), "{took:?}");
}

#[tokio::test]
async fn messages_without_a_queue_to_go_back_to_stay_and_are_counted() {
    let (node, database) = alone().await;
    node.put("dead", json!({"retention_seconds": 100_000}))
        .await;
    for queue in ["a", "gone", "short"] {
        put_source(&node, queue).await;
        kill(&node, queue, numbered(0..10), "why").await;
    }
    has_visible(&database, "dead", 30).await;
    node.delete("gone").await.expect(204);
    // Retention counts from the first send: there they would end without a word.
    database.advance_clock(seconds(61)).await;
    node.put("short", json!({"retention_seconds": 60})).await;
    assert_eq!(redrive(&node, "dead", json!({})).await, [10, 20]);
    assert_eq!(
        counts(&database, "dead").await,
        [20, 0, 0],
        "they stay visible"
    );
    for message in node.receive("dead", json!({"max_messages": 100})).await {
        assert_ne!(message["deaths"][0]["queue"], "a");
        assert_eq!(message["receive_count"], 2);
    }
    assert_eq!(counts(&database, "a").await, [10, 0, 0]);
    assert_eq!(counts(&database, "short").await, [0, 0, 0]);
}

#[tokio::test]
async fn what_dies_again_meanwhile_does_not_go_round() {
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..60), "why").await;
    has_visible(&database, "dead", 60).await;
    let hopeless = tokio_util::task::TaskTracker::new();
    let over = CancellationToken::new();
    hopeless.spawn(over.clone().run_until_cancelled_owned({
        let node = node.clone();
        async move {
            loop {
                let received = node.receive("a", json!({"wait_seconds": 1, "max_messages": 10}));
                let received = received.await;
                let entries = received
                    .iter()
                    .map(|message| with_receipt(message, json!({})));
                let entries: Value = entries.collect();
                if entries != json!([]) {
                    node.change("a", "nack", entries).await.expect(200);
                }
            }
        }
    }));
    // So slowly that most are dead again when it ends.
    let request = json!({"max_messages_per_second": 30});
    let done = redrive(&node, "dead", request).await;
    assert_eq!(done, [60, 0], "each once");
    has_visible(&database, "dead", 60).await;
    over.cancel();
}

#[tokio::test]
async fn receivers_of_the_dead_letters_and_a_redrive_share_them() {
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..400), "why").await;
    has_visible(&database, "dead", 400).await;
    let mut receivers = JoinSet::new();
    for _receiver in 0..3 {
        let node = node.clone();
        receivers.spawn(async move {
            let mut deleted = vec![];
            loop {
                let received = node.receive("dead", json!({"max_messages": 7, "wait_seconds": 2}));
                let received = received.await;
                if received.is_empty() {
                    return deleted;
                }
                for message in received {
                    node.change_one("dead", "delete", &message, json!({})).await;
                    deleted.push(text(&message["body"]));
                }
            }
        });
    }
    let request = json!({"max_messages_per_second": 100});
    let [moved, skipped] = redrive(&node, "dead", request).await;
    let mut deleted: Vec<String> = receivers.join_all().await.concat();
    println!("{moved} moved, {} deleted", deleted.len());
    assert!(moved > 0 && !deleted.is_empty(), "or this shows nothing");
    assert_eq!(skipped, 0);
    let mut all = node.bodies("a").await;
    assert_eq!(all.len() as u64, moved);
    all.append(&mut deleted);
    all.sort();
    let expected: Vec<String> = (0..400).map(|n| format!("m{n:04}")).collect();
    assert_eq!(all, expected, "each here or there");
    assert_eq!(counts(&database, "dead").await, [0, 0, 0]);
}

//! What nodes over one database owe each other: to be told of messages and of changes, and to be done
//! without when they die.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use towpath::clock::Clock;
use towpath::service::Service;
use uuid::Uuid;

use super::{Node, at, begin_to_wait, end_of_wait, list, seconds, with_receipt};
use crate::support::database::Database;
use crate::support::server::Cluster;
use crate::support::{eventually, http_on, node};

/// Far below the 2.5 s to 4.5 s after which a waiting receive looks again by itself.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// Below the second after which a node looks at a queue's settings again by itself.
const CHANGED_WITHIN: Duration = Duration::from_millis(700);
/// The look for safety, and some time for a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(7);

/// Two nodes, and a queue that both know. Only the second one has received.
async fn two(database: &Database) -> [Node; 2] {
    let nodes = [Node::on(database).await, Node::on(database).await];
    nodes[0]
        .put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    nodes[0].send("q", json!([{"body": "first"}])).await;
    let message = nodes[1].receive("q", json!({})).await.remove(0);
    nodes[1]
        .change_one("q", "delete", &message, json!({}))
        .await;
    nodes_listen(database, 2).await;
    nodes
}

async fn nodes_listen(database: &Database, nodes: i64) {
    let listens = "select count(*) from pg_stat_activity
        where datname = current_database() and query ilike 'listen%' and state = 'idle'";
    eventually("all nodes listen", async || {
        (database.value::<i64>(listens).await == nodes).then_some(())
    })
    .await;
}

/// The messages of a receive that waits on a node while something is done, and how long after the
/// beginning of that they came.
async fn waiting<T>(
    database: &Database,
    node: &Node,
    deed: impl Future<Output = T>,
) -> (Vec<Value>, T, Duration) {
    let receive = begin_to_wait(database, node).await;
    let clock = Clock::default();
    let began = clock.instant();
    let done = deed.await;
    let received = end_of_wait(receive).await;
    (list(received.expect(200)), done, clock.instant() - began)
}

#[tokio::test]
async fn a_send_on_one_node_wakes_a_receive_that_waits_on_another() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    for round in 0..5 {
        let send = here.send("q", json!([{"body": "hello"}]));
        let (received, sent, took) = waiting(&database, &there, send).await;
        println!("round {round}: received on the other node {took:?} after the send began");
        assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
        assert!(took < TOLD_WITHIN, "{took:?}");
    }
}

#[tokio::test]
async fn what_one_node_gives_up_wakes_a_receive_that_waits_on_another() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    for (what, entry) in [
        ("nack", json!({})),
        ("extend", json!({"visibility_timeout_seconds": 0})),
    ] {
        here.send("q", json!([{"body": "hello"}])).await;
        let message = here.receive("q", json!({})).await.remove(0);
        let give_up = here.change_one("q", what, &message, entry);
        let (received, _, took) = waiting(&database, &there, give_up).await;
        println!("{what}: received on the other node after {took:?}");
        assert_eq!(received[0]["message_id"], message["message_id"], "{what}");
        assert!(took < TOLD_WITHIN, "{what}: {took:?}");
        there
            .change_one("q", "delete", &received[0], json!({}))
            .await;
    }
}

#[tokio::test]
async fn a_delayed_message_and_a_window_that_ends_wake_a_receive_that_waits_on_another_node() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    let send = here.send("q", json!([{"body": "late", "delay_seconds": 1}]));
    let (received, sent, took) = waiting(&database, &there, send).await;
    println!("a delay of 1 s: received on the other node after {took:?}");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    let delay = at(&received[0]["first_received_at"]) - at(&sent[0]["sent_at"]);
    assert!(delay >= seconds(1), "{delay}");
    assert!(took < seconds(1) + TOLD_WITHIN, "{took:?}");
    there
        .change_one("q", "delete", &received[0], json!({}))
        .await;

    here.send("q", json!([{"body": "hello"}])).await;
    let held = here
        .receive("q", json!({"visibility_timeout_seconds": 1}))
        .await;
    let (received, ..) = waiting(&database, &there, async {}).await;
    assert_eq!(received[0]["message_id"], held[0]["message_id"]);
    let late = at(&received[0]["visible_at"]) - seconds(1000) - at(&held[0]["visible_at"]);
    println!("a window of 1 s: received on the other node {late} after its end");
    assert!(late >= Duration::ZERO, "{late}");
    assert!(late < TOLD_WITHIN, "{late}");
}

#[tokio::test]
async fn a_dead_letter_and_a_delete_reach_a_receive_that_waits_on_another_node() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    let source = json!({"dead_letter_queue": "q", "max_receive_count": 1});
    here.put("source", source).await;
    here.send("source", json!([{"body": "poison"}])).await;
    let poison = here.receive("source", json!({})).await.remove(0);
    let give_up = here.change_one("source", "nack", &poison, json!({}));
    let (received, _, took) = waiting(&database, &there, give_up).await;
    println!("a dead letter: received on the other node after {took:?}");
    assert_eq!(received[0]["message_id"], poison["message_id"]);
    assert!(took < TOLD_WITHIN, "{took:?}");

    let receive = begin_to_wait(&database, &there).await;
    let clock = Clock::default();
    let began = clock.instant();
    here.delete("q?force=true").await.expect(204);
    let told = end_of_wait(receive).await;
    let took = clock.instant() - began;
    told.expect_problem(404, "queue_not_found");
    println!("a delete: told on the other node after {took:?}");
    assert!(took < TOLD_WITHIN, "{took:?}");
}

#[tokio::test]
async fn a_change_of_a_queue_reaches_the_other_nodes_at_once() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    let clock = Clock::default();
    for (round, delay) in [5000, 0, 5000, 0].into_iter().enumerate() {
        // So that the other node has just looked.
        there.send("q", json!([{"body": "before"}])).await;
        here.put("q", json!({"delay_seconds": delay})).await;
        let began = clock.instant();
        let took = eventually("the other node has the new delay", async || {
            let purged = there.ask(Method::POST, "q/purge", &Value::Null).await;
            purged.expect(204);
            let sent = clock.instant();
            there.send("q", json!([{"body": "after"}])).await;
            let waits = there.receive("q", json!({})).await.is_empty();
            (waits == (delay > 0)).then(|| sent - began)
        })
        .await;
        println!("round {round}: the new delay was in force after {took:?}");
        assert!(took < CHANGED_WITHIN, "{took:?}");
    }
}

#[tokio::test]
async fn a_queue_that_was_made_anew_is_another_one_on_every_node_at_once() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    let clock = Clock::default();
    for round in 0..4 {
        there.send("q", json!([{"body": "old"}])).await;
        let old = there.receive("q", json!({})).await.remove(0);
        here.delete("q").await.expect(204);
        here.put("q", json!({"visibility_timeout_seconds": 1000}))
            .await;
        let began = clock.instant();
        let new = here.send("q", json!([{"body": "new"}])).await;
        let received = eventually("the other node has the new queue", async || {
            let answer = there.ask_to_receive("q", json!({})).await;
            match answer.status {
                // Of the old queue, once.
                404 => None,
                _ => Some(list(answer.expect(200))),
            }
        })
        .await;
        let took = clock.instant() - began;
        println!("round {round}: the new queue was known after {took:?}");
        assert!(took < CHANGED_WITHIN, "{took:?}");
        assert_eq!(received[0]["message_id"], new[0]["message_id"]);
        let entries = json!([with_receipt(&old, json!({}))]);
        let answer = there.change("q", "delete", entries).await;
        answer.expect_problem(422, "invalid");
        there
            .change_one("q", "delete", &received[0], json!({}))
            .await;
    }
}

/// From now on nothing that nodes say to each other arrives: theirs is a function that says nothing.
/// Sessions that are open already have the real one, so that this comes first.
async fn make_deaf(database: &Database) {
    database
        .run(
            "alter function pg_catalog.pg_notify(text, text) rename to pg_notify_really;
             create function pg_catalog.pg_notify(text, text) returns void language sql as ''",
        )
        .await;
}

#[tokio::test]
async fn a_receive_finds_what_it_was_not_told_of() {
    let database = Database::new().await;
    make_deaf(&database).await;
    let [here, there] = two(&database).await;
    let send = here.send("q", json!([{"body": "hello"}]));
    let (received, sent, took) = waiting(&database, &there, send).await;
    println!("without a word: received on the other node after {took:?}");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    assert!(took < FOUND_WITHIN, "{took:?}");
    assert!(took > TOLD_WITHIN, "or this shows nothing: {took:?}");
}

#[tokio::test]
async fn a_node_whose_ear_was_cut_off_hears_again() {
    let database = Database::new().await;
    let [here, there] = two(&database).await;
    for round in 0..5 {
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and query ilike 'listen%'";
        let deed = async {
            let cut = database.value::<i64>(cut).await;
            (cut, here.send("q", json!([{"body": "hello"}])).await)
        };
        let (received, (cut, sent), took) = waiting(&database, &there, deed).await;
        println!("round {round}: {cut} ears cut off, received after {took:?}");
        assert!(cut > 0);
        assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
        assert!(took < FOUND_WITHIN, "{took:?}");
        there
            .change_one("q", "delete", &received[0], json!({}))
            .await;
    }
    let send = here.send("q", json!([{"body": "hello"}]));
    let (_, _, took) = waiting(&database, &there, send).await;
    assert!(took < FOUND_WITHIN, "{took:?}");
}

#[tokio::test]
async fn what_a_node_held_that_was_killed_comes_back_on_another() {
    let mut cluster = Cluster::start(2, &[]).await;
    let (doomed, other) = (Node::of(&cluster, 0), Node::of(&cluster, 1));
    other.put("q", json!({})).await;
    let sent = other.send("q", json!([{"body": "precious"}])).await;
    let window = json!({"visibility_timeout_seconds": 1});
    let held = doomed.receive("q", window).await.remove(0);
    cluster.nodes[0].kill();
    let received = other.receive("q", json!({"wait_seconds": 20})).await;
    assert_eq!(received.len(), 1, "it came while the receive waited");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    assert_eq!(received[0]["receive_count"], 2);
    let window = at(&received[0]["visible_at"]) - seconds(30);
    let late = window - at(&held["visible_at"]);
    println!("received {late} after the end of the dead node's window");
    assert!(late >= Duration::ZERO, "never before: {late}");
    assert!(late < seconds(5), "{late}");
}

#[tokio::test]
async fn a_delayed_message_of_a_node_that_was_killed_comes_on_another() {
    let mut cluster = Cluster::start(2, &[]).await;
    let (doomed, other) = (Node::of(&cluster, 0), Node::of(&cluster, 1));
    other.put("q", json!({})).await;
    let late = json!([{"body": "precious", "delay_seconds": 1}]);
    let sent = doomed.send("q", late).await;
    cluster.nodes[0].kill();
    let received = other.receive("q", json!({"wait_seconds": 20})).await;
    assert_eq!(received.len(), 1, "it came while the receive waited");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    let delay = at(&received[0]["first_received_at"]) - at(&sent[0]["sent_at"]);
    println!("a delay of 1 s took {delay}");
    assert!(delay >= seconds(1) && delay < seconds(6), "{delay}");
}

#[tokio::test]
async fn a_node_that_thought_it_was_alone_tells_one_that_has_just_come() {
    let database = Database::new().await;
    let mut http = http_on(&database).await;
    Node::serving(http_on(&database).await)
        .await
        .put("q", json!({}))
        .await;
    let broker = node::broker(&database).await;
    nodes_listen(&database, 3).await;
    // As after a heartbeat that saw nobody else.
    broker.set_others(false);
    let (id, tasks) = (Uuid::new_v4(), TaskTracker::new());
    http.service = Service::new(broker, node::store(&database), id, tasks);
    let here = Node::serving(http).await;
    let there = Node::on(&database).await;
    assert_eq!(there.receive("q", json!({})).await, [] as [Value; 0]);
    nodes_listen(&database, 4).await;
    let send = here.send("q", json!([{"body": "hello"}]));
    let (received, sent, took) = waiting(&database, &there, send).await;
    println!("received on the new node after {took:?}");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    assert!(took < TOLD_WITHIN, "{took:?}");
}

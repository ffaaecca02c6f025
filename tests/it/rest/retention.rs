//! Messages that nobody took in time.

use serde_json::{Value, json};

use super::{Node, counts, seconds, with_receipt};
use crate::support::eventually;
use crate::support::server::Cluster;

#[tokio::test]
async fn what_is_older_than_its_queue_keeps_messages_is_not_delivered_whatever_its_state() {
    let (node, database) = Node::alone().await;
    let settings = json!({"retention_seconds": 1000, "visibility_timeout_seconds": 1500});
    node.put("q", settings).await;
    node.send("q", json!([{"body": "in flight"}])).await;
    node.send("q", json!([{"body": "in flight, given up"}]))
        .await;
    let held = node.receive("q", json!({"max_messages": 2})).await;
    assert_eq!(held.len(), 2);
    let given_up = &held[usize::from(held[1]["body"] != "in flight")];
    node.send("q", json!([{"body": "waits"}])).await;
    node.send("q", json!([{"body": "delayed", "delay_seconds": 900}]))
        .await;
    node.change_one("q", "nack", given_up, json!({"delay_seconds": 1500}))
        .await;
    database.advance_clock(seconds(500)).await;
    node.send("q", json!([{"body": "new"}])).await;
    node.send("q", json!([{"body": "new, delayed", "delay_seconds": 100}]))
        .await;
    database.advance_clock(seconds(501)).await;
    assert_eq!(node.bodies("q").await, ["new", "new, delayed"]);
    database.advance_clock(seconds(600)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(50_000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    assert_eq!(counts(&database, "q").await, [0, 0, 0], "all was passed by");
}

#[tokio::test]
async fn a_queue_that_keeps_messages_for_a_shorter_time_lets_go_of_old_ones() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"retention_seconds": 10_000})).await;
    node.send("q", json!([{"body": "old"}])).await;
    node.send(
        "q",
        json!([{"body": "old, delayed", "delay_seconds": 3000}]),
    )
    .await;
    database.advance_clock(seconds(2000)).await;
    node.send("q", json!([{"body": "new"}])).await;
    node.put("q", json!({"retention_seconds": 1500})).await;
    assert_eq!(node.bodies("q").await, ["new"]);
    database.advance_clock(seconds(1200)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_queue_that_keeps_messages_for_longer_keeps_those_that_are_there() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"retention_seconds": 1000})).await;
    node.send("q", json!([{"body": "a"}])).await;
    node.put("q", json!({"retention_seconds": 10_000})).await;
    database.advance_clock(seconds(5000)).await;
    assert_eq!(node.bodies("q").await, ["a"]);
}

#[tokio::test]
async fn a_message_lives_as_long_as_it_says_and_never_longer_than_its_queue_keeps_it() {
    let (node, database) = Node::alone().await;
    node.put(
        "q",
        json!({"retention_seconds": 5000, "visibility_timeout_seconds": 1500}),
    )
    .await;
    let sent = json!([
        {"body": "short", "time_to_live_seconds": 1000},
        {"body": "as the queue says"},
        {"body": "long", "time_to_live_seconds": 50_000},
        {"body": "delayed", "time_to_live_seconds": 2000, "delay_seconds": 600},
    ]);
    node.send("q", sent).await;
    let first = node.receive("q", json!({"max_messages": 1000})).await;
    assert_eq!(first.len(), 3);
    database.advance_clock(seconds(1501)).await;
    let second = node.receive("q", json!({"max_messages": 1000})).await;
    let mut bodies: Vec<_> = second.iter().map(|message| &message["body"]).collect();
    bodies.sort_by_key(ToString::to_string);
    assert_eq!(bodies, ["as the queue says", "delayed", "long"]);
    database.advance_clock(seconds(1501)).await;
    assert_eq!(
        node.bodies("q").await,
        ["as the queue says", "long"],
        "in flight or not"
    );
    database.advance_clock(seconds(50_000)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
}

#[tokio::test]
async fn in_a_dead_letter_queue_retention_counts_from_the_first_send() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({"retention_seconds": 2000})).await;
    let settings = json!({
        "visibility_timeout_seconds": 1000, "dead_letter_queue": "dead", "max_receive_count": 1,
    });
    node.put("q", settings).await;
    node.send("q", json!([{"body": "old"}])).await;
    database.advance_clock(seconds(1500)).await;
    node.send("q", json!([{"body": "new"}])).await;
    for message in node.receive("q", json!({"max_messages": 2})).await {
        let given_up = node.change_one("q", "nack", &message, json!({})).await;
        assert_eq!(given_up, json!({"dead_lettered": true}));
    }
    database.advance_clock(seconds(600)).await;
    let alive = node.receive("dead", json!({"wait_seconds": 20})).await;
    assert_eq!(alive[0]["body"], "new");
    assert_eq!(node.bodies("dead").await, [] as [&str; 0]);
}

#[tokio::test]
async fn what_has_expired_goes_though_nobody_receives() {
    let cluster = Cluster::start(1, &[]).await;
    let (node, database) = (Node::of(&cluster, 0), cluster.database());
    node.put("q", json!({"visibility_timeout_seconds": 40_000}))
        .await;
    let sent: Vec<_> = (0..150).map(|_| json!({"body": "a"})).collect();
    node.send("q", json!(sent)).await;
    let held = node.receive("q", json!({"max_messages": 50})).await;
    assert_eq!(held.len(), 50);
    let late: Vec<_> = (0..70)
        .map(|_| json!({"body": "late", "delay_seconds": 1000}))
        .collect();
    node.send("q", json!(late)).await;
    database.advance_clock(seconds(500)).await;
    let new = json!([{"body": "new"}, {"body": "new, late", "delay_seconds": 100}]);
    node.send("q", new).await;
    node.put("q", json!({"retention_seconds": 400})).await;
    let counts = eventually("only the new ones are left", async || {
        let answer = node.get("q/counts").await;
        let counts = answer.expect(200).clone();
        (counts["visible"] == 1 && counts["in_flight"] == 0 && counts["delayed"] == 1)
            .then_some(counts)
    })
    .await;
    assert!(counts["oldest_age_seconds"].as_u64().unwrap() < 400);
    let window = json!({"visibility_timeout_seconds": 10});
    let entries = json!([with_receipt(&held[0], window)]);
    let extended = node.change("q", "extend", entries).await;
    extended.expect_problem(409, "receipt_stale");
    // And then their space.
    database.advance_clock(seconds(100)).await;
    eventually("only the new ones are stored", async || {
        let stored = "select sum(n)::bigint from towpath.log";
        (database.value::<i64>(stored).await == 2).then_some(())
    })
    .await;
    assert_eq!(node.bodies("q").await, ["new", "new, late"]);
}

//! Pausing: a queue that takes no sends, and one that gives nothing out.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use towpath::clock::Clock;

use super::{Node, begin_to_wait, counts, end_of_wait, list, seconds};
use crate::support::database::Database;
use crate::support::{Answer, eventually};

/// A second, and some time for a busy machine.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

async fn patch(node: &Node, settings: Value) {
    node.patch("q", settings).await.expect(200);
}

async fn try_to_send(node: &Node) -> Answer {
    let body = json!({"messages": [{"body": "a"}]});
    node.ask(Method::POST, "q/messages", &body).await
}

#[tokio::test]
async fn a_paused_queue_refuses_sends_on_every_node_and_takes_them_again() {
    let database = Database::new().await;
    let nodes = [Node::on(&database).await, Node::on(&database).await];
    nodes[0].put("q", json!({})).await;
    for paused in [true, false, true, false] {
        for node in &nodes {
            try_to_send(node).await;
        }
        patch(&nodes[0], json!({ "sending_paused": paused })).await;
        let status = if paused { 409 } else { 200 };
        let here = try_to_send(&nodes[0]).await;
        assert_eq!(here.status, status, "at once where it was changed");
        let clock = Clock::default();
        let began = clock.instant();
        eventually("the other node knows", async || {
            (try_to_send(&nodes[1]).await.status == status).then_some(())
        })
        .await;
        let took = clock.instant() - began;
        println!("the other node knew after {took:?}");
        assert!(took < KNOWN_WITHIN, "{took:?}");
    }
    patch(&nodes[0], json!({"sending_paused": true})).await;
    let here = try_to_send(&nodes[0]).await;
    let problem = here.expect_problem(409, "queue_paused");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("\"q\"") && detail.contains("sending_paused"),
        "{detail}"
    );
    let key = nodes[0].request(
        Method::POST,
        "q/messages",
        &json!({"messages": [{"body": "a"}]}),
    );
    let under_a_key = super::answer(key.header("idempotency-key", "k")).await;
    under_a_key.expect_problem(409, "queue_paused");
    let received = nodes[0].receive("q", json!({"max_messages": 1000})).await;
    assert!(!received.is_empty(), "what is there is received");
}

#[tokio::test]
async fn dead_letters_move_into_a_queue_that_refuses_sends() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({"sending_paused": true})).await;
    node.put(
        "source",
        json!({"dead_letter_queue": "q", "max_receive_count": 1}),
    )
    .await;
    let sent = node.send("source", json!([{"body": "poison"}])).await;
    let message = node.receive("source", json!({})).await.remove(0);
    node.change_one("source", "nack", &message, json!({})).await;
    let dead = node.receive("q", json!({"wait_seconds": 20})).await;
    assert_eq!(dead[0]["message_id"], sent[0]["message_id"]);
}

#[tokio::test]
async fn a_queue_whose_receiving_is_paused_is_as_if_it_were_empty() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let five: Vec<_> = (0..5).map(|n| json!({"body": n.to_string()})).collect();
    node.send("q", json!(five)).await;
    let held = node.receive("q", json!({"max_messages": 3})).await;
    patch(&node, json!({"receiving_paused": true})).await;
    for request in [json!({}), json!({"wait_seconds": 1, "max_messages": 10})] {
        assert_eq!(node.receive("q", request).await, [] as [Value; 0]);
    }
    // Everything else goes on.
    node.send("q", json!([{"body": "more"}])).await;
    node.change_one("q", "delete", &held[0], json!({})).await;
    node.change_one("q", "nack", &held[1], json!({})).await;
    let longer = json!({"visibility_timeout_seconds": 5000});
    node.change_one("q", "extend", &held[2], longer).await;
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    assert_eq!(counts(&database, "q").await, [4, 1, 0]);
    patch(&node, json!({"receiving_paused": null})).await;
    let received = node.receive("q", json!({"max_messages": 10})).await;
    assert_eq!(received.len(), 4);
}

#[tokio::test]
async fn a_pause_holds_for_receives_that_wait_already_and_ends_for_them_at_once_on_every_node() {
    let database = Database::new().await;
    let [here, there] = [Node::on(&database).await, Node::on(&database).await];
    here.put("q", json!({})).await;
    let listens = "select count(*) from pg_stat_activity
        where datname = current_database() and query ilike 'listen%' and state = 'idle'";
    eventually("both nodes listen", async || {
        (database.value::<i64>(listens).await == 2).then_some(())
    })
    .await;
    for (paused_on, waits_on) in [(&here, &there), (&there, &there), (&there, &here)] {
        let mut waiting = begin_to_wait(&database, waits_on).await;
        patch(paused_on, json!({"receiving_paused": true})).await;
        let sent = waits_on.send("q", json!([{"body": "hello"}])).await;
        // Who comes now asks the database after whoever was woken by the send.
        for node in [&here, &there] {
            assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
        }
        assert!(waiting.try_join_next().is_none(), "it waits on");
        let clock = Clock::default();
        let began = clock.instant();
        patch(paused_on, json!({"receiving_paused": false})).await;
        let received = list(end_of_wait(waiting).await.expect(200));
        let took = clock.instant() - began;
        println!("received {took:?} after the queue was resumed");
        assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
        assert!(took < Duration::from_secs(1), "{took:?}");
        waits_on
            .change_one("q", "delete", &received[0], json!({}))
            .await;
    }
}

#[tokio::test]
async fn a_put_resumes_what_it_does_not_pause() {
    let (node, _database) = Node::alone().await;
    let paused = json!({"sending_paused": true, "receiving_paused": true});
    node.put("q", paused.clone()).await;
    let shown = node.get("q").await.body;
    for (name, value) in paused.as_object().unwrap() {
        assert_eq!(&shown[name], value);
    }
    node.put("q", json!({})).await;
    node.send("q", json!([{"body": "a"}])).await;
    assert_eq!(node.receive("q", json!({})).await.len(), 1);
}

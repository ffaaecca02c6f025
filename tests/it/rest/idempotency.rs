//! Sends that come again under the same key.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Node, answer, counts, list, seconds};
use crate::support::Answer;
use crate::support::database::Database;

async fn send(node: &Node, queue: &str, key: &str, messages: &Value) -> Answer {
    let path = format!("{queue}/messages");
    let request = node.request(Method::POST, &path, &json!({ "messages": messages }));
    answer(request.header("Idempotency-Key", key)).await
}

#[tokio::test]
async fn a_send_that_comes_again_is_answered_as_the_first_time_and_sends_nothing() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let messages = json!([{"body": "a"}, {"body": "b"}]);
    let first = send(&node, "q", "order-1", &messages).await;
    assert_eq!(list(first.expect(200)).len(), 2);
    // Whatever has become of the messages meanwhile, and on every node.
    database.advance_clock(seconds(100)).await;
    let again = send(&node, "q", "order-1", &messages).await;
    assert_eq!(again.expect(200), &first.body, "ids and times alike");
    for message in node.receive("q", json!({"max_messages": 2})).await {
        node.change_one("q", "delete", &message, json!({})).await;
    }
    let other = Node::on(&database).await;
    let again = send(&other, "q", "order-1", &messages).await;
    assert_eq!(again.expect(200), &first.body);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    let another = send(&node, "q", "order-2", &messages).await;
    assert_ne!(another.expect(200)["messages"], first.body["messages"]);
    assert_eq!(counts(&database, "q").await, [2, 0, 0]);
}

#[tokio::test]
async fn a_key_that_belongs_to_another_send_is_refused() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let key = "k".repeat(255);
    let first = json!([{"body": "a", "delay_seconds": 0}, {"body": "b"}]);
    send(&node, "q", &key, &first).await.expect(200);
    for (label, messages) in [
        (
            "another body",
            json!([{"body": "a", "delay_seconds": 0}, {"body": "c"}]),
        ),
        (
            "one message less",
            json!([{"body": "a", "delay_seconds": 0}]),
        ),
        (
            "another order",
            json!([{"body": "b"}, {"body": "a", "delay_seconds": 0}]),
        ),
        (
            "bodies cut elsewhere",
            json!([{"body": "ab", "delay_seconds": 0}]),
        ),
        (
            "another delay",
            json!([{"body": "a", "delay_seconds": 1}, {"body": "b"}]),
        ),
        ("no delay of its own", json!([{"body": "a"}, {"body": "b"}])),
        (
            "another life",
            json!([{"body": "a", "delay_seconds": 0, "time_to_live_seconds": 9}, {"body": "b"}]),
        ),
    ] {
        let refused = send(&node, "q", &key, &messages).await;
        assert_eq!(refused.status, 422, "{label}: {refused:?}");
        let problem = refused.expect_problem(422, "idempotency_key_reused");
        assert_eq!(problem["retryable"], false);
    }
    assert_eq!(counts(&database, "q").await, [2, 0, 0]);
    let other_case = send(&node, "q", &key.to_uppercase(), &first).await;
    other_case.expect(200);
    assert_eq!(counts(&database, "q").await, [4, 0, 0], "another key");
}

#[tokio::test]
async fn a_key_belongs_to_one_queue() {
    let (node, database) = Node::alone().await;
    let messages = json!([{"body": "a"}]);
    let mut ids = vec![];
    for queue in ["one", "two"] {
        node.put(queue, json!({})).await;
        let sent = send(&node, queue, "key", &messages).await;
        ids.push(list(sent.expect(200))[0]["message_id"].clone());
        assert_eq!(counts(&database, queue).await, [1, 0, 0]);
    }
    node.delete("one").await.expect(204);
    node.put("one", json!({})).await;
    let sent = send(&node, "one", "key", &messages).await;
    ids.push(list(sent.expect(200))[0]["message_id"].clone());
    assert_eq!(counts(&database, "one").await, [1, 0, 0], "a new queue");
    ids.sort_by_key(ToString::to_string);
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn when_its_window_has_ended_a_key_sends_again() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"deduplication_window_seconds": 1000}))
        .await;
    let messages = json!([{"body": "a"}]);
    let first = send(&node, "q", "key", &messages).await.expect(200).clone();
    database.advance_clock(seconds(900)).await;
    let within = send(&node, "q", "key", &messages).await;
    assert_eq!(within.expect(200), &first);
    database.advance_clock(seconds(200)).await;
    let second = send(&node, "q", "key", &messages).await;
    assert_ne!(
        second.expect(200)["messages"][0]["message_id"],
        first["messages"][0]["message_id"],
        "counted from the first time"
    );
    assert_eq!(counts(&database, "q").await, [2, 0, 0]);
    let again = send(&node, "q", "key", &messages).await;
    assert_eq!(again.expect(200), &second.body, "and from then on anew");
    let other = json!([{"body": "b"}]);
    database.advance_clock(seconds(2000)).await;
    send(&node, "q", "key", &other).await.expect(200);
}

#[tokio::test]
async fn sends_under_one_key_at_one_time_to_two_nodes_send_one_message() {
    let database = Database::new().await;
    let nodes = [Node::on(&database).await, Node::on(&database).await];
    nodes[0].put("q", json!({})).await;
    for round in 0..10 {
        let mut sends = JoinSet::new();
        for sender in 0..8 {
            let node = nodes[sender % 2].clone();
            let key = format!("key {round}").replace(' ', "-");
            sends.spawn(async move { send(&node, "q", &key, &json!([{"body": "a"}])).await });
        }
        let mut answers = sends.join_all().await;
        let first = answers.remove(0).expect(200).clone();
        for answer in answers {
            assert_eq!(answer.expect(200), &first, "round {round}");
        }
        assert_eq!(counts(&database, "q").await, [round + 1, 0, 0]);
    }
}

#[tokio::test]
async fn at_one_time_only_one_of_two_sends_under_one_key_is_taken() {
    let database = Database::new().await;
    let nodes = [Node::on(&database).await, Node::on(&database).await];
    nodes[0].put("q", json!({})).await;
    for round in 0..10 {
        let mut sends = JoinSet::new();
        for (sender, node) in nodes.iter().cloned().enumerate() {
            let messages = json!([{"body": format!("by {sender}")}]);
            let key = format!("key-{round}");
            sends.spawn(async move { send(&node, "q", &key, &messages).await });
        }
        let mut statuses: Vec<_> = sends.join_all().await;
        statuses.sort_by_key(|answer| answer.status);
        statuses[0].expect(200);
        statuses[1].expect_problem(422, "idempotency_key_reused");
        assert_eq!(counts(&database, "q").await, [round + 1, 0, 0]);
    }
}

#[tokio::test]
async fn a_thousand_messages_of_all_delays_come_again_under_one_key() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let messages: Value = (0..1000)
        .map(|n| json!({"body": format!("m{n}"), "delay_seconds": n % 4 * 1000}))
        .collect();
    let first = send(&node, "q", "key", &messages).await;
    let sent = list(first.expect(200));
    assert_eq!(sent.len(), 1000);
    let again = send(&node, "q", "key", &messages).await;
    assert_eq!(again.expect(200), &first.body);
    let other = Node::on(&database).await;
    let again = send(&other, "q", "key", &messages).await;
    assert_eq!(again.expect(200), &first.body);
    assert_eq!(counts(&database, "q").await, [250, 0, 750]);
    database.advance_clock(seconds(3001)).await;
    let mut received = vec![];
    while received.len() < 1000 {
        let more = json!({"max_messages": 1000, "visibility_timeout_seconds": 43200});
        let more = node.receive("q", more).await;
        assert!(!more.is_empty(), "{} came", received.len());
        received.extend(more);
    }
    for (n, sent) in sent.iter().enumerate() {
        let body = format!("m{n}");
        let message = received.iter().find(|message| message["body"] == body);
        let id = &message.expect("each once")["message_id"];
        assert_eq!(id, &sent["message_id"], "{body}");
    }
}

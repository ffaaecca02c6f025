//! The largest requests there are.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Node, answer, counts, list, text, with_receipt};

/// Bytes of the largest request.
const MOST: usize = 8 * 1024 * 1024;

#[tokio::test]
async fn a_thousand_messages_are_sent_received_changed_and_deleted_in_one_request_each() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let messages: Value = (0..1000)
        .map(|n| json!({"body": format!("m{n:03}")}))
        .collect();
    let sent = node.send("q", messages).await;
    assert_eq!(sent.len(), 1000);
    let received = node.receive("q", json!({"max_messages": 1000})).await;
    assert_eq!(received.len(), 1000);
    let mut ids: Vec<_> = received
        .iter()
        .map(|message| (text(&message["body"]), text(&message["message_id"])))
        .collect();
    ids.sort();
    for (n, (body, id)) in ids.iter().enumerate() {
        assert_eq!(body, &format!("m{n:03}"));
        assert_eq!(sent[n]["message_id"], json!(id));
    }
    for (what, entry, member) in [
        (
            "extend",
            json!({"visibility_timeout_seconds": 5000}),
            "visible_at",
        ),
        ("nack", json!({"delay_seconds": 5000}), "visible_at"),
        ("delete", json!({}), "deleted"),
    ] {
        let entries: Value = received
            .iter()
            .map(|message| with_receipt(message, entry.clone()))
            .collect();
        let changed = node.change("q", what, entries).await;
        let outcomes = list(changed.expect(200));
        assert_eq!(outcomes.len(), 1000, "{what}");
        for outcome in outcomes {
            assert!(outcome.get(member).is_some(), "{what}: {outcome}");
        }
        let left = if what == "delete" { 0 } else { 1000 };
        assert_eq!(counts(&database, "q").await, [0, left, 0], "{what}");
    }
}

#[tokio::test]
async fn a_request_of_8_mib_is_taken_and_one_byte_more_is_not() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    // Messages of nearly 1 MiB, and white space up to the limit.
    let large = "x".repeat(1024 * 1024 - 100);
    let messages: Vec<_> = (0..8)
        .map(|n| json!({"body": format!("{n}{large}")}))
        .collect();
    let body = json!({ "messages": messages }).to_string();
    let send = async |length: usize| {
        let mut body = body.clone();
        body.push_str(&" ".repeat(length - body.len()));
        let request = node.request(Method::POST, "q/messages", &Value::Null);
        let request = request.header("content-type", "application/json");
        answer(request.body(body)).await
    };
    let refused = send(MOST + 1).await;
    let problem = refused.expect_problem(413, "too_large");
    assert!(problem["detail"].as_str().unwrap().contains("8388608"));
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    let taken = send(MOST).await;
    assert_eq!(list(taken.expect(200)).len(), 8);
    assert_eq!(counts(&database, "q").await, [8, 0, 0]);
    let bodies = node.bodies("q").await;
    assert_eq!(bodies.len(), 8);
    for (n, body) in bodies.iter().enumerate() {
        assert!(*body == format!("{n}{large}"), "message {n} is whole");
    }
}

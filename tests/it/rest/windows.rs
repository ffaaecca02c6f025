//! How long a message stays hidden: chosen by the receive, made longer and shorter, given up.

use serde_json::{Value, json};

use super::{Node, at, begin_to_wait, end_of_wait, list, seconds, text, with_receipt};
use crate::support::database::Database;
use crate::support::node::handle_of_no_delivery;

fn all() -> Value {
    json!({"max_messages": 1000})
}

/// A queue with these messages, all of them received for a thousand seconds, in the order of their
/// bodies.
async fn held(bodies: impl IntoIterator<Item = String>) -> (Node, Database, Vec<Value>) {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let sent: Value = bodies
        .into_iter()
        .map(|body| json!({ "body": body }))
        .collect();
    node.send("q", sent).await;
    let mut messages = node.receive("q", all()).await;
    messages.sort_by_key(|message| text(&message["body"]));
    (node, database, messages)
}

fn bodies(messages: &[Value]) -> Vec<String> {
    let mut bodies: Vec<_> = messages
        .iter()
        .map(|message| text(&message["body"]))
        .collect();
    bodies.sort();
    bodies
}

#[tokio::test]
async fn a_receive_chooses_its_window_and_the_queue_serves_for_those_that_do_not() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    node.send("q", json!([{"body": "a"}, {"body": "b"}, {"body": "c"}]))
        .await;
    for (window, expected) in [
        (json!({}), 1000),
        (json!({"visibility_timeout_seconds": 5000}), 5000),
        (json!({"visibility_timeout_seconds": 0}), 0),
    ] {
        let message = &node.receive("q", window).await[0];
        let took = at(&message["visible_at"]) - at(&message["first_received_at"]);
        assert_eq!(took, seconds(expected), "{message}");
    }
    let again = node.receive("q", json!({})).await;
    assert_eq!(
        again[0]["body"], "c",
        "a window of 0 hides for no time at all"
    );
    assert_eq!(again[0]["receive_count"], 2);
    database.advance_clock(seconds(2000)).await;
    assert_eq!(bodies(&node.receive("q", all()).await), ["a", "c"]);
    database.advance_clock(seconds(4000)).await;
    assert_eq!(bodies(&node.receive("q", all()).await), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_window_that_is_extended_ends_at_its_new_end_and_not_before() {
    let (node, database, messages) = held(["a".to_owned()]).await;
    let message = &messages[0];
    let longer = json!({"visibility_timeout_seconds": 5000});
    let extended = node
        .change_one("q", "extend", message, longer.clone())
        .await;
    let end = at(&extended["visible_at"]);
    assert!(end >= at(&message["first_received_at"]) + seconds(5000));
    database.advance_clock(seconds(4000)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    // From now on, not from the receive on: it may be extended again and again.
    let again = node.change_one("q", "extend", message, longer).await;
    assert!(at(&again["visible_at"]) >= end + seconds(4000));
    database.advance_clock(seconds(4000)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    database.advance_clock(seconds(1001)).await;
    let back = &node.receive("q", json!({})).await[0];
    assert_eq!(back["message_id"], message["message_id"]);
    assert_eq!(back["receive_count"], 2);
}

#[tokio::test]
async fn a_window_that_is_shortened_to_nothing_ends_at_once() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    node.send("q", json!([{"body": "a"}])).await;
    let message = &node.receive("q", json!({})).await[0];
    let waiting = begin_to_wait(&database, &node).await;
    node.change_one(
        "q",
        "extend",
        message,
        json!({"visibility_timeout_seconds": 0}),
    )
    .await;
    let received = list(end_of_wait(waiting).await.expect(200));
    assert_eq!(received[0]["message_id"], message["message_id"]);
    assert_eq!(received[0]["receive_count"], 2);
}

#[tokio::test]
async fn each_entry_of_an_extend_or_a_nack_ends_for_itself() {
    for what in ["extend", "nack"] {
        // In the first queue of a database, of which a stale handle is at hand.
        let (node, database, messages) = held((0..6).map(|n| format!("m{n}"))).await;
        node.change_one("q", "delete", &messages[3], json!({}))
            .await;
        let entry = |message: &Value, window: u64| {
            let field = match what {
                "extend" => "visibility_timeout_seconds",
                _ => "delay_seconds",
            };
            let mut entry = json!({});
            entry[field] = json!(window);
            with_receipt(message, entry)
        };
        let stale = json!({"receipt_handle": handle_of_no_delivery()});
        let entries = json!([
            entry(&messages[0], 5000),
            entry(&messages[1], 0),
            entry(&stale, 5000),
            entry(&messages[3], 5000),
            entry(&messages[4], 5000),
        ]);
        let answer = node.change("q", what, entries).await;
        let outcomes = list(answer.expect(200));
        for changed in [0, 1, 4] {
            let outcome = outcomes[changed].as_object().unwrap();
            let names: Vec<_> = outcome.keys().collect();
            assert_eq!(names, ["visible_at"], "{what} {changed}");
        }
        let windows = at(&outcomes[0]["visible_at"]) - at(&outcomes[1]["visible_at"]);
        assert_eq!(windows, seconds(5000), "{what}");
        for untouched in [2, 3] {
            let outcome = outcomes[untouched].as_object().unwrap();
            assert_eq!(outcome.len(), 1, "{what} {untouched}");
            assert_eq!(outcome["error"]["code"], "receipt_stale", "{what}");
            assert!(outcome["error"]["detail"].is_string(), "{what}");
        }
        assert_eq!(node.bodies("q").await, ["m1"], "{what}");
        database.advance_clock(seconds(1001)).await;
        assert_eq!(node.bodies("q").await, ["m2", "m5"], "{what}");
        database.advance_clock(seconds(4000)).await;
        assert_eq!(node.bodies("q").await, ["m0", "m4"], "{what}");
    }
}

#[tokio::test]
async fn only_the_newest_delivery_within_its_time_changes_a_window() {
    let (node, database, mut messages) = held(["a".to_owned()]).await;
    let first = messages.remove(0);
    database.advance_clock(seconds(1001)).await;
    let extend = json!({"visibility_timeout_seconds": 5000});
    for (what, entry) in [("extend", &extend), ("nack", &json!({}))] {
        let entries = json!([with_receipt(&first, entry.clone())]);
        let expired = node.change("q", what, entries).await;
        let problem = expired.expect_problem(409, "receipt_stale");
        let pointer = &problem["errors"][0]["pointer"];
        assert_eq!(pointer, "/messages/0/receipt_handle", "{what}");
    }
    let second = node.receive("q", json!({})).await.remove(0);
    assert_ne!(first["receipt_handle"], second["receipt_handle"]);
    let longer = json!({"visibility_timeout_seconds": 2000});
    let entries = json!([
        with_receipt(&first, extend.clone()),
        with_receipt(&second, longer),
    ]);
    let outcomes = list(node.change("q", "extend", entries).await.expect(200));
    assert_eq!(outcomes[0]["error"]["code"], "receipt_stale");
    assert!(outcomes[1]["visible_at"].is_string());
    let entries = json!([with_receipt(&first, json!({}))]);
    let given_up = node.change("q", "nack", entries).await;
    given_up.expect_problem(409, "receipt_stale");
    database.advance_clock(seconds(1500)).await;
    assert_eq!(
        node.bodies("q").await,
        [] as [&str; 0],
        "the second holds it"
    );
    // A delete is by any receipt.
    node.change_one("q", "delete", &first, json!({})).await;
    database.advance_clock(seconds(5000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
}

#[tokio::test]
async fn one_forged_receipt_spoils_an_extend_and_a_nack() {
    let (node, database, mut messages) = held(["a".to_owned()]).await;
    let message = messages.remove(0);
    let forged = json!({"receipt_handle": "forged"});
    for (what, entry) in [
        ("extend", json!({"visibility_timeout_seconds": 0})),
        ("nack", json!({})),
    ] {
        let entries = json!([
            with_receipt(&message, entry.clone()),
            with_receipt(&forged, entry)
        ]);
        let answer = node.change("q", what, entries).await;
        let problem = answer.expect_problem(422, "invalid");
        let pointer = &problem["errors"][0]["pointer"];
        assert_eq!(pointer, "/messages/1/receipt_handle", "{what}");
        assert_eq!(node.bodies("q").await, [] as [&str; 0], "{what}");
    }
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.bodies("q").await, ["a"]);
}

#[tokio::test]
async fn a_message_that_is_given_up_comes_back_after_its_delay() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 10_000}))
        .await;
    node.send("q", json!([{"body": "now"}, {"body": "later"}]))
        .await;
    let messages = node.receive("q", all()).await;
    let by_body = |body: &str| messages.iter().find(|message| message["body"] == body);
    let given_up = node
        .change_one("q", "nack", by_body("now").unwrap(), json!({}))
        .await;
    assert!(given_up["visible_at"].is_string());
    let entry = json!({"delay_seconds": 3000, "reason": "not yet"});
    node.change_one("q", "nack", by_body("later").unwrap(), entry)
        .await;
    let back = node
        .receive(
            "q",
            json!({"max_messages": 1000, "visibility_timeout_seconds": 43200}),
        )
        .await;
    assert_eq!(bodies(&back), ["now"]);
    assert_eq!(back[0]["receive_count"], 2, "the delivery counts");
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.bodies("q").await, ["later"]);
}

#[tokio::test]
async fn a_delay_of_a_nack_may_be_longer_than_any_window() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"retention_seconds": 315_360_000}))
        .await;
    node.send("q", json!([{"body": "a"}])).await;
    let message = &node.receive("q", json!({})).await[0];
    node.change_one("q", "nack", message, json!({"delay_seconds": 31_536_000}))
        .await;
    database.advance_clock(seconds(31_000_000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(1_000_000)).await;
    assert_eq!(node.bodies("q").await, ["a"]);
}

#[tokio::test]
async fn messages_that_were_received_together_are_deleted_one_by_one() {
    let (node, database, messages) = held((0..20).map(|n| format!("m{n:02}"))).await;
    // One is extended first, so that it has a lease of its own.
    node.change_one(
        "q",
        "extend",
        &messages[4],
        json!({"visibility_timeout_seconds": 5000}),
    )
    .await;
    let even: Vec<_> = messages
        .iter()
        .step_by(2)
        .map(|message| with_receipt(message, json!({})))
        .collect();
    let answer = node.change("q", "delete", json!(even)).await;
    for outcome in list(answer.expect(200)) {
        assert_eq!(outcome, json!({"deleted": true}));
    }
    database.advance_clock(seconds(6000)).await;
    let odd: Vec<_> = (0..20)
        .filter(|n| n % 2 == 1)
        .map(|n| format!("m{n:02}"))
        .collect();
    assert_eq!(node.bodies("q").await, odd);
}

#[tokio::test]
async fn a_message_may_be_named_twice_in_one_request() {
    let (node, database, messages) = held(["a", "b"].map(str::to_owned)).await;
    let extend = |message: &Value, window: u64| {
        with_receipt(message, json!({"visibility_timeout_seconds": window}))
    };
    let entries = json!([
        extend(&messages[0], 5000),
        extend(&messages[1], 3000),
        extend(&messages[0], 2000),
    ]);
    let answer = node.change("q", "extend", entries).await;
    let outcomes = list(answer.expect(200));
    assert_eq!(
        at(&outcomes[0]["visible_at"]) - at(&outcomes[2]["visible_at"]),
        seconds(3000),
        "one after the other"
    );
    database.advance_clock(seconds(2500)).await;
    let received = node.receive("q", all()).await;
    assert_eq!(bodies(&received), ["a"], "the last one holds");
    let twice = with_receipt(&received[0], json!({}));
    let answer = node.change("q", "delete", json!([twice, twice])).await;
    for outcome in list(answer.expect(200)) {
        assert_eq!(outcome, json!({"deleted": true}));
    }
    database.advance_clock(seconds(10_000)).await;
    assert_eq!(node.bodies("q").await, ["b"]);
}

#[tokio::test]
async fn a_thousand_windows_are_changed_one_by_one_in_any_order() {
    let (node, database, messages) = held((0..1000).map(|n| format!("m{n:03}"))).await;
    // Hops through all of them, so that no two of one lease follow each other.
    let order: Vec<_> = (0..1000).map(|n| n * 387 % 1000).collect();
    let entries: Value = order
        .iter()
        .map(|n| {
            let window = if n % 2 == 0 { 2000 } else { 5000 };
            with_receipt(
                &messages[*n],
                json!({"visibility_timeout_seconds": window + n}),
            )
        })
        .collect();
    let answer = node.change("q", "extend", entries).await;
    for outcome in list(answer.expect(200)) {
        assert!(outcome["visible_at"].is_string(), "{outcome}");
    }
    database.advance_clock(seconds(1500)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(2000)).await;
    let even: Vec<_> = (0..1000).step_by(2).map(|n| format!("m{n:03}")).collect();
    assert_eq!(node.bodies("q").await, even);
    database.advance_clock(seconds(3000)).await;
    assert_eq!(node.bodies("q").await.len(), 500);
}

#[tokio::test]
async fn parts_of_a_lease_that_end_together_are_received_together() {
    for parts in ["by receives of other sizes", "by an extend"] {
        let (node, database, messages) = held((0..4).map(|n| format!("m{n}"))).await;
        if parts == "by an extend" {
            let entry = json!({"visibility_timeout_seconds": 500});
            node.change_one("q", "extend", &messages[0], entry).await;
        } else {
            database.advance_clock(seconds(1001)).await;
            for _ in 0..4 {
                assert_eq!(node.receive("q", json!({})).await.len(), 1);
            }
        }
        database.advance_clock(seconds(1001)).await;
        assert_eq!(node.bodies("q").await, ["m0", "m1", "m2", "m3"], "{parts}");
    }
}

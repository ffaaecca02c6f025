//! Messages that are received again and again without being deleted.

use serde_json::{Value, json};
use towpath::clock::Clock;

use super::{Node, at, counts, list, seconds, text, with_receipt};
use crate::support::database::Database;

/// Two queues, of which the first gives up a message after so many deliveries.
async fn with_dead_letters(max_receive_count: u32) -> (Node, Database) {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    node.put("q", source("dead", max_receive_count)).await;
    (node, database)
}

fn source(dead_letter_queue: &str, max_receive_count: u32) -> Value {
    json!({
        "visibility_timeout_seconds": 1000,
        "dead_letter_queue": dead_letter_queue,
        "max_receive_count": max_receive_count,
    })
}

/// A message that a queue holds already or is just getting.
async fn arrival(node: &Node, queue: &str) -> Value {
    let mut messages = node.receive(queue, json!({"wait_seconds": 20})).await;
    assert_eq!(messages.len(), 1, "it came to {queue}");
    messages.remove(0)
}

#[tokio::test]
async fn a_message_whose_last_window_ends_goes_to_the_dead_letter_queue_as_it_was() {
    let (node, database) = with_dead_letters(3).await;
    let sent = node.send("q", json!([{"body": "poison"}])).await.remove(0);
    let mut first = Value::Null;
    for count in 1..=3 {
        let received = node.receive("q", json!({})).await;
        assert_eq!(received[0]["receive_count"], count);
        assert_eq!(received[0].get("deaths"), None, "it lives");
        if count == 1 {
            first = received[0].clone();
        }
        assert_eq!(counts(&database, "dead").await, [0, 0, 0]);
        database.advance_clock(seconds(1001)).await;
    }
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    let dead = arrival(&node, "dead").await;
    for kept in ["message_id", "body", "body_kind", "first_received_at"] {
        assert_eq!(dead[kept], first[kept], "{kept}");
    }
    assert_eq!(dead["message_id"], sent["message_id"]);
    assert_eq!(dead["sent_at"], sent["sent_at"], "when it was first sent");
    assert_eq!(dead["receive_count"], 4, "in all queues together");
    let deaths = dead["deaths"].as_array().unwrap();
    let expected = json!({
        "queue": "q", "reason": "max_receive_count", "at": deaths[0]["at"], "receive_count": 3,
    });
    assert_eq!(deaths, &[expected]);
    at(&deaths[0]["at"]);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    assert_eq!(counts(&database, "dead").await, [0, 1, 0]);

    node.change_one("dead", "delete", &dead, json!({})).await;
    database.advance_clock(seconds(10_000)).await;
    for queue in ["q", "dead"] {
        assert_eq!(node.bodies(queue).await, [] as [&str; 0], "{queue}");
    }
}

#[tokio::test]
async fn a_message_that_is_given_up_for_the_last_time_goes_at_once_with_the_reason() {
    let (node, database) = with_dead_letters(2).await;
    let sent = node.send("q", json!([{"body": "poison"}])).await;
    let first = node.receive("q", json!({})).await.remove(0);
    let entry = json!({"reason": "the first reason"});
    let given_up = node.change_one("q", "nack", &first, entry).await;
    assert!(given_up["visible_at"].is_string(), "{given_up}");
    let second = node.receive("q", json!({})).await.remove(0);
    assert_eq!(second["receive_count"], 2);
    // Its delay is of no account any more.
    let entry = json!({"reason": "Kasse antwortet nicht: ü", "delay_seconds": 1000});
    let given_up = node.change_one("q", "nack", &second, entry).await;
    assert_eq!(given_up, json!({"dead_lettered": true}));
    let dead = arrival(&node, "dead").await;
    assert_eq!(dead["message_id"], sent[0]["message_id"]);
    assert_eq!(dead["receive_count"], 3);
    let deaths = dead["deaths"].as_array().unwrap();
    assert_eq!(deaths.len(), 1);
    assert_eq!(deaths[0]["text"], "Kasse antwortet nicht: ü");
    assert_eq!(deaths[0]["receive_count"], 2);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
}

#[tokio::test]
async fn what_a_receiver_said_is_kept_until_another_one_says_something_else() {
    let (node, database) = with_dead_letters(3).await;
    node.send("q", json!([{"body": "poison"}])).await;
    for reason in ["first", "second"] {
        let message = node.receive("q", json!({})).await.remove(0);
        node.change_one("q", "nack", &message, json!({"reason": reason}))
            .await;
    }
    node.receive("q", json!({})).await;
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    let dead = arrival(&node, "dead").await;
    assert_eq!(dead["deaths"][0]["text"], "second");
}

#[tokio::test]
async fn only_those_of_a_batch_that_came_back_too_often_go() {
    let (node, database) = with_dead_letters(1).await;
    let sent: Vec<_> = (0..100)
        .map(|n| json!({"body": format!("m{n:02}")}))
        .collect();
    node.send("q", json!(sent)).await;
    let mut messages = node.receive("q", json!({"max_messages": 100})).await;
    messages.sort_by_key(|message| text(&message["body"]));
    assert_eq!(messages.len(), 100);
    let entries = |range: std::ops::Range<usize>, entry: Value| -> Value {
        messages[range]
            .iter()
            .map(|message| with_receipt(message, entry.clone()))
            .collect()
    };
    let deleted = node.change("q", "delete", entries(0..30, json!({}))).await;
    deleted.expect(200);
    let long = json!({"visibility_timeout_seconds": 20_000});
    node.change("q", "extend", entries(30..60, long))
        .await
        .expect(200);
    let given_up = node
        .change("q", "nack", entries(60..80, json!({"reason": "why"})))
        .await;
    for outcome in list(given_up.expect(200)) {
        assert_eq!(outcome, json!({"dead_lettered": true}));
    }
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    let mut dead: Vec<Value> = vec![];
    while dead.len() < 40 {
        let more = json!({"max_messages": 1000, "wait_seconds": 20});
        let more = node.receive("dead", more).await;
        assert!(!more.is_empty(), "{} came", dead.len());
        dead.extend(more);
    }
    dead.sort_by_key(|message| text(&message["body"]));
    for (n, message) in (60..100).zip(&dead) {
        assert_eq!(message["body"], format!("m{n:02}"));
        let said = message["deaths"][0].get("text");
        assert_eq!(said, (n < 80).then(|| json!("why")).as_ref(), "{n}");
    }
    assert_eq!(dead.len(), 40);
    assert_eq!(
        counts(&database, "q").await,
        [0, 30, 0],
        "the extended ones"
    );
}

#[tokio::test]
async fn a_message_remembers_every_queue_that_gave_it_up() {
    let (node, database) = Node::alone().await;
    node.put("last", json!({})).await;
    node.put("middle", source("last", 2)).await;
    node.put("first", source("middle", 1)).await;
    let sent = node.send("first", json!([{"body": "poison"}])).await;
    let message = arrival(&node, "first").await;
    let first_received_at = message["first_received_at"].clone();
    node.change_one("first", "nack", &message, json!({"reason": "one"}))
        .await;
    for count in 2..=3 {
        let message = arrival(&node, "middle").await;
        assert_eq!(message["receive_count"], count);
        assert_eq!(message["deaths"].as_array().unwrap().len(), 1);
        database.advance_clock(seconds(1001)).await;
    }
    assert_eq!(node.receive("middle", json!({})).await, [] as [Value; 0]);
    let dead = arrival(&node, "last").await;
    assert_eq!(dead["message_id"], sent[0]["message_id"]);
    assert_eq!(dead["sent_at"], sent[0]["sent_at"]);
    assert_eq!(dead["first_received_at"], first_received_at);
    assert_eq!(dead["receive_count"], 4);
    let deaths: Vec<_> = dead["deaths"]
        .as_array()
        .unwrap()
        .iter()
        .map(|death| (&death["queue"], death.get("text"), &death["receive_count"]))
        .collect();
    let one = json!("one");
    assert_eq!(
        deaths,
        [
            (&json!("first"), Some(&one), &json!(1)),
            (&json!("middle"), None, &json!(2)),
        ],
        "the newest last"
    );
}

#[tokio::test]
async fn a_queue_whose_dead_letter_queue_was_deleted_delivers_on() {
    let (node, database) = with_dead_letters(1).await;
    node.send("q", json!([{"body": "a"}])).await;
    node.receive("q", json!({})).await;
    node.delete("dead?force=true").await.expect(204);
    for count in 2..=4 {
        database.advance_clock(seconds(1001)).await;
        let message = arrival(&node, "q").await;
        assert_eq!(message["receive_count"], count);
    }
    // A queue of the same name is another one.
    node.put("dead", json!({})).await;
    database.advance_clock(seconds(1001)).await;
    assert_eq!(arrival(&node, "q").await["receive_count"], 5);
    node.put("q", source("dead", 1)).await;
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    assert_eq!(arrival(&node, "dead").await["receive_count"], 6);
}

#[tokio::test]
async fn a_queue_that_is_given_a_dead_letter_queue_counts_what_was_before() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    node.send("q", json!([{"body": "a"}])).await;
    for _ in 0..2 {
        arrival(&node, "q").await;
        database.advance_clock(seconds(1001)).await;
    }
    node.put("q", source("dead", 3)).await;
    assert_eq!(arrival(&node, "q").await["receive_count"], 3);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    let dead = arrival(&node, "dead").await;
    assert_eq!(dead["deaths"][0]["receive_count"], 3);
}

#[tokio::test]
async fn a_delayed_message_is_given_up_like_others() {
    let (node, database) = with_dead_letters(1).await;
    let sent = node
        .send("q", json!([{"body": "a", "delay_seconds": 500}]))
        .await;
    database.advance_clock(seconds(501)).await;
    arrival(&node, "q").await;
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.receive("q", json!({})).await, [] as [Value; 0]);
    let dead = arrival(&node, "dead").await;
    assert_eq!(dead["message_id"], sent[0]["message_id"]);
    assert_eq!(
        dead["deaths"][0]["receive_count"], 1,
        "to wait is no delivery"
    );
}

#[tokio::test]
async fn a_thousand_messages_that_are_given_up_at_once_go_at_once() {
    let (node, database) = with_dead_letters(1).await;
    let sent: Value = (0..1000)
        .map(|n| json!({"body": format!("m{n}")}))
        .collect();
    node.send("q", sent).await;
    let held = node.receive("q", json!({"max_messages": 1000})).await;
    // Each with a reason of its own.
    let entries: Value = held
        .iter()
        .map(|message| with_receipt(message, json!({"reason": message["body"]})))
        .collect();
    let given_up = node.change("q", "nack", entries).await;
    for outcome in list(given_up.expect(200)) {
        assert_eq!(outcome, json!({"dead_lettered": true}));
    }
    let clock = Clock::default();
    let began = clock.instant();
    let mut dead = vec![];
    while dead.len() < 1000 {
        let more = json!({"max_messages": 1000, "wait_seconds": 20});
        let more = node.receive("dead", more).await;
        assert!(!more.is_empty(), "{} came", dead.len());
        dead.extend(more);
    }
    println!("1000 dead letters took {:?}", clock.instant() - began);
    for message in &dead {
        assert_eq!(message["deaths"][0]["text"], message["body"]);
    }
    let mut ids: Vec<_> = dead
        .iter()
        .map(|message| text(&message["message_id"]))
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000, "each once");
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_time_to_live_ends_with_the_move() {
    let (node, database) = with_dead_letters(1).await;
    node.send("q", json!([{"body": "a", "time_to_live_seconds": 2000}]))
        .await;
    let message = node.receive("q", json!({})).await.remove(0);
    node.change_one("q", "nack", &message, json!({})).await;
    assert_eq!(arrival(&node, "dead").await["body"], "a");
    database.advance_clock(seconds(5000)).await;
    assert_eq!(node.bodies("dead").await, ["a"]);
}

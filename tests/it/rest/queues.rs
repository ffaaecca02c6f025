//! What is done to a queue as a whole: settings, counts, purge, delete.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Node, begin_to_wait, counts, end_of_wait, seconds, text, with_receipt};

#[tokio::test]
async fn every_setting_is_kept_and_shown_and_what_is_left_out_has_its_default() {
    let (node, _database) = Node::alone().await;
    node.put("dead", json!({})).await;
    let settings = json!({
        "visibility_timeout_seconds": 43200, "receive_wait_seconds": 20, "delay_seconds": 59,
        "retention_seconds": 60, "dead_letter_queue": "dead", "max_receive_count": 1000,
        "durability": "relaxed", "deduplication_window_seconds": 2_592_000,
        "tags": {"team": "billing"}, "sending_paused": true, "receiving_paused": true,
        "retry_policy": {"type": "fixed", "delay_seconds": 43200, "jitter": 0.5},
    });
    let created = node.ask(Method::PUT, "q", &settings).await;
    let shown = created.expect(201).as_object().unwrap();
    for (name, value) in settings.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name}");
    }
    assert_eq!(shown["version"], 1);
    assert_eq!(node.get("q").await.expect(200), &created.body);
    let again = node.ask(Method::PUT, "q", &settings).await;
    assert_eq!(again.expect(200), &created.body, "the same changes nothing");
    for (name, value) in settings.as_object().unwrap() {
        if ["dead_letter_queue", "max_receive_count"].contains(&name.as_str()) {
            continue;
        }
        let mut others = settings.clone();
        others.as_object_mut().unwrap().remove(name);
        let before = node.get("q").await.body["version"].as_i64().unwrap();
        let changed = node.ask(Method::PUT, "q", &others).await;
        let changed = changed.expect(200);
        assert_ne!(&changed[name], value, "{name} has its default");
        assert_eq!(changed["version"], before + 1, "{name}");
        node.put("q", settings.clone()).await;
    }
    let defaults = node.ask(Method::PUT, "q", &json!({})).await;
    let expected = json!({
        "name": "q", "visibility_timeout_seconds": 30, "receive_wait_seconds": 0,
        "delay_seconds": 0, "retention_seconds": 345_600, "durability": "strict",
        "deduplication_window_seconds": 300, "tags": {}, "sending_paused": false,
        "receiving_paused": false, "created_at": created.body["created_at"],
        "version": defaults.body["version"],
    });
    assert_eq!(defaults.expect(200), &expected);
}

#[tokio::test]
async fn counts_are_exact_in_every_state() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    let sent: Vec<_> = (0..130).map(|_| json!({"body": "a"})).collect();
    node.send("q", json!(sent)).await;
    let late: Vec<_> = (0..70)
        .map(|_| json!({"body": "b", "delay_seconds": 5000}))
        .collect();
    node.send("q", json!(late)).await;
    assert_eq!(counts(&database, "q").await, [130, 0, 70]);
    let held = node.receive("q", json!({"max_messages": 65})).await;
    assert_eq!(held.len(), 65);
    assert_eq!(counts(&database, "q").await, [65, 65, 70]);
    let entries = |range: std::ops::Range<usize>, entry: Value| -> Value {
        held[range]
            .iter()
            .map(|message| with_receipt(message, entry.clone()))
            .collect()
    };
    node.change("q", "delete", entries(0..10, json!({})))
        .await
        .expect(200);
    assert_eq!(counts(&database, "q").await, [65, 55, 70]);
    node.change("q", "nack", entries(10..15, json!({})))
        .await
        .expect(200);
    assert_eq!(counts(&database, "q").await, [70, 50, 70]);
    let later = json!({"delay_seconds": 3000});
    node.change("q", "nack", entries(15..20, later))
        .await
        .expect(200);
    let longer = json!({"visibility_timeout_seconds": 8000});
    node.change("q", "extend", entries(20..25, longer))
        .await
        .expect(200);
    assert_eq!(counts(&database, "q").await, [70, 50, 70]);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(counts(&database, "q").await, [110, 10, 70]);
    database.advance_clock(seconds(3000)).await;
    assert_eq!(counts(&database, "q").await, [115, 5, 70]);
    database.advance_clock(seconds(1000)).await;
    assert_eq!(counts(&database, "q").await, [185, 5, 0]);
    let received = node.receive("q", json!({"max_messages": 1000})).await;
    assert_eq!(received.len(), 185);
    assert_eq!(counts(&database, "q").await, [0, 190, 0]);
}

#[tokio::test]
async fn the_oldest_age_is_that_of_the_oldest_message_that_is_there() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 43200}))
        .await;
    let age = async || {
        let answer = Node::on(&database).await.get("q/counts").await;
        let counts = answer.expect(200).as_object().unwrap();
        let age = counts.get("oldest_age_seconds");
        age.map(|age| age.as_u64().unwrap())
    };
    assert_eq!(age().await, None, "there is none");
    node.send("q", json!([{"body": "old"}])).await;
    database.advance_clock(seconds(1000)).await;
    node.send("q", json!([{"body": "new"}])).await;
    database.advance_clock(seconds(1000)).await;
    let near = |age: Option<u64>, expected| (expected..expected + 100).contains(&age.unwrap());
    assert!(near(age().await, 2000), "{:?}", age().await);
    let held = node.receive("q", json!({})).await;
    assert_eq!(held[0]["body"], "old");
    assert!(near(age().await, 2000), "in flight: {:?}", age().await);
    node.change_one("q", "delete", &held[0], json!({})).await;
    assert!(near(age().await, 1000), "{:?}", age().await);
    let held = node.receive("q", json!({})).await;
    node.change_one("q", "delete", &held[0], json!({})).await;
    assert_eq!(age().await, None, "none is left");
    node.send("q", json!([{"body": "late", "delay_seconds": 3000}]))
        .await;
    database.advance_clock(seconds(1000)).await;
    assert!(near(age().await, 1000), "delayed: {:?}", age().await);
}

#[tokio::test]
async fn a_purge_takes_what_waits_what_is_in_flight_and_what_is_delayed() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    node.put("other", json!({})).await;
    node.send("other", json!([{"body": "stays"}])).await;
    let sent: Vec<_> = (0..200).map(|_| json!({"body": "a"})).collect();
    node.send("q", json!(sent)).await;
    node.send("q", json!([{"body": "late", "delay_seconds": 100}]))
        .await;
    let held = node.receive("q", json!({"max_messages": 100})).await;
    assert_eq!(counts(&database, "q").await, [100, 100, 1]);
    let purged = node.ask(Method::POST, "q/purge", &Value::Null).await;
    purged.expect(204);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    let own = node.get("q/counts").await;
    let nothing = json!({"visible": 0, "in_flight": 0, "delayed": 0});
    assert_eq!(own.expect(200), &nothing, "the node forgot what it counted");
    let window = json!({"visibility_timeout_seconds": 0});
    let entries = json!([with_receipt(&held[0], window)]);
    let extended = node.change("q", "extend", entries).await;
    extended.expect_problem(409, "receipt_stale");
    let entries = json!([with_receipt(&held[0], json!({}))]);
    let deleted = node.change("q", "delete", entries).await;
    assert_eq!(deleted.expect(200)["messages"][0]["deleted"], true);
    node.send("q", json!([{"body": "after"}])).await;
    node.send("q", json!([{"body": "after, late", "delay_seconds": 100}]))
        .await;
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.bodies("q").await, ["after", "after, late"]);
    assert_eq!(node.bodies("other").await, ["stays"]);
    let again = node.ask(Method::POST, "q/purge", &Value::Null).await;
    again.expect(204);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_dead_letter_queue_of_others_is_deleted_by_force_only() {
    let (node, _database) = Node::alone().await;
    node.put("dead", json!({})).await;
    for source in ["a", "b"] {
        let settings = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
        node.put(source, settings).await;
    }
    node.put("none", json!({})).await;
    for refused in ["dead", "dead?force=false"] {
        let answer = node.delete(refused).await;
        let problem = answer.expect_problem(409, "queue_in_use");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(r#""a", "b""#), "{detail}");
        assert!(!detail.contains("none"), "{detail}");
        assert!(detail.contains("force=true"), "{detail}");
    }
    node.get("dead").await.expect(200);
    node.delete("a").await.expect(204);
    let answer = node.delete("dead").await;
    let problem = answer.expect_problem(409, "queue_in_use");
    assert!(!problem["detail"].as_str().unwrap().contains(r#""a""#));
    node.put("b", json!({})).await;
    node.delete("dead").await.expect(204);
    node.delete("dead?force=true")
        .await
        .expect_problem(404, "queue_not_found");
}

#[tokio::test]
async fn a_queue_is_deleted_with_its_messages_and_those_who_wait_are_told() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut waiting = vec![];
    for _ in 0..3 {
        waiting.push(begin_to_wait(&database, &node).await);
    }
    let late = json!([{"body": "late", "delay_seconds": 1000}]);
    node.send("q", late).await;
    node.delete("q").await.expect(204);
    for receive in waiting {
        end_of_wait(receive)
            .await
            .expect_problem(404, "queue_not_found");
    }
    node.put("q", json!({})).await;
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0], "another queue");

    node.send("q", json!([{"body": "a"}, {"body": "b"}])).await;
    let held = node.receive("q", json!({})).await;
    node.delete("q").await.expect(204);
    node.put("q", json!({})).await;
    for (what, entry) in [
        ("delete", json!({})),
        ("extend", json!({"visibility_timeout_seconds": 0})),
        ("nack", json!({})),
    ] {
        let entries = json!([with_receipt(&held[0], entry)]);
        let answer = node.change("q", what, entries).await;
        answer.expect_problem(422, "invalid");
    }
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_queue_may_change_its_durability_while_it_is_used() {
    const SENDERS: usize = 4;
    const SENDS: usize = 40;
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let node = node.clone();
        senders.spawn(async move {
            let mut ids = vec![];
            for n in 0..SENDS {
                let message = json!([{"body": format!("{sender} {n}")}]);
                let sent = node.send("q", message).await.remove(0);
                ids.push(text(&sent["message_id"]));
            }
            ids
        });
    }
    let mut sent = vec![];
    let mut durabilities = ["relaxed", "async", "strict"].into_iter().cycle();
    while !senders.is_empty() {
        let durability = durabilities.next().unwrap();
        node.put("q", json!({"durability": durability})).await;
        while let Some(ids) = senders.try_join_next() {
            sent.extend(ids.unwrap());
        }
    }
    assert_eq!(counts(&database, "q").await, [160, 0, 0]);
    let received = node.receive("q", json!({"max_messages": 1000})).await;
    let mut received: Vec<_> = received
        .iter()
        .map(|message| text(&message["message_id"]))
        .collect();
    received.sort();
    sent.sort();
    assert_eq!(received, sent, "each once");
}

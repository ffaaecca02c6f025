//! Messages are looked at without being received, and cancelled and rescheduled by their ids.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use towpath::clock::Clock;

use super::{Node, at, begin_to_wait, counts, end_of_wait, list, seconds, text};
use crate::support::database::Database;
use crate::support::{Answer, eventually};

/// Longer than a test.
const LONG: u64 = 40_000;
/// Before a node with a receive that waits looks again by itself: 2.5 s at the earliest.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// One page of a peek.
    async fn page(&self, queue: &str, query: &str) -> Value {
        let answer = self.get(&format!("{queue}/messages?{query}")).await;
        answer.expect(200).clone()
    }

    /// All messages of a peek, page by page.
    async fn peek(&self, queue: &str, query: &str) -> Vec<Value> {
        let mut all = vec![];
        let mut page = self.page(queue, query).await;
        loop {
            all.extend(page["items"].as_array().unwrap().clone());
            let Some(cursor) = page["next_cursor"].as_str() else {
                return all;
            };
            page = self.page(queue, &format!("{query}&cursor={cursor}")).await;
        }
    }

    async fn message(&self, queue: &str, message: &Value) -> Answer {
        self.get(&path(queue, message)).await
    }

    async fn cancel(&self, queue: &str, message: &Value) -> Answer {
        self.delete(&path(queue, message)).await
    }

    async fn reschedule(&self, queue: &str, message: &Value, delay: u64) -> Answer {
        let body = json!({ "delay_seconds": delay });
        self.ask(Method::PATCH, &path(queue, message), &body).await
    }
}

fn path(queue: &str, message: &Value) -> String {
    format!("{queue}/messages/{}", text(&message["message_id"]))
}

/// What is said of each body.
fn by_body<'a>(messages: &'a [Value], member: &str) -> BTreeMap<&'a str, &'a Value> {
    let members = messages.iter();
    members
        .map(|message| (message["body"].as_str().unwrap(), &message[member]))
        .collect()
}

fn states(messages: &[Value]) -> BTreeMap<&str, &str> {
    let states = by_body(messages, "state").into_iter();
    states
        .map(|(body, state)| (body, state.as_str().unwrap()))
        .collect()
}

/// A queue with a message in each state, and others that are gone.
async fn all_states() -> (Node, Database) {
    let (node, database) = Node::alone().await;
    let settings = json!({"visibility_timeout_seconds": LONG});
    node.put("q", settings).await;
    node.send("q", json!([{"body": "purged"}])).await;
    node.ask(Method::POST, "q/purge", &Value::Null)
        .await
        .expect(204);
    let sent = json!([
        {"body": "in flight"}, {"body": "nacked"}, {"body": "nacked for later"}, {"body": "deleted"},
        {"body": "expired", "time_to_live_seconds": 100},
    ]);
    node.send("q", sent).await;
    let mut received = node.receive("q", json!({"max_messages": 5})).await;
    received.sort_by_key(|message| text(&message["body"]));
    let [deleted, _expired, _in_flight, nacked, later] = &received[..] else {
        panic!("{received:?}")
    };
    node.change_one("q", "delete", deleted, json!({})).await;
    node.change_one("q", "nack", nacked, json!({})).await;
    node.change_one("q", "nack", later, json!({"delay_seconds": LONG}))
        .await;
    let late = json!([
        {"body": "visible"}, {"body": "delayed", "delay_seconds": LONG},
        {"body": "was delayed", "delay_seconds": 100},
        {"body": "expired delayed", "delay_seconds": 50, "time_to_live_seconds": 100},
    ]);
    node.send("q", late).await;
    database.advance_clock(seconds(101)).await;
    (node, database)
}

#[tokio::test]
async fn every_message_is_shown_in_its_state_and_nothing_is_received_by_that() {
    let (node, database) = all_states().await;
    let before = counts(&database, "q").await;
    let shown = node.peek("q", "").await;
    let expected = BTreeMap::from([
        ("delayed", "delayed"),
        ("in flight", "in_flight"),
        ("nacked", "visible"),
        ("nacked for later", "in_flight"),
        ("visible", "visible"),
        ("was delayed", "visible"),
    ]);
    assert_eq!(states(&shown), expected);
    assert_eq!(shown.len(), expected.len(), "each is shown once");
    for state in ["visible", "in_flight", "delayed"] {
        let shown = node.peek("q", &format!("state={state}")).await;
        let expected = expected.iter().filter(|(_, found)| **found == state);
        assert!(states(&shown).iter().eq(expected), "{state}");
    }
    let counted = by_body(&shown, "receive_count");
    for (body, count) in [
        ("delayed", 0),
        ("visible", 0),
        ("nacked", 1),
        ("in flight", 1),
    ] {
        assert_eq!(counted[body], count, "{body}");
    }
    let visible_at = by_body(&shown, "visible_at");
    assert_eq!(visible_at["visible"], &Value::Null);
    let delayed = at(visible_at["delayed"]) - at(by_body(&shown, "sent_at")["delayed"]);
    assert_eq!(delayed, seconds(LONG));
    let received = by_body(&shown, "first_received_at");
    assert_eq!(received["visible"], &Value::Null);
    assert_eq!(
        at(visible_at["in flight"]) - at(received["in flight"]),
        seconds(LONG)
    );
    for message in &shown {
        assert_eq!(message.get("receipt_handle"), None);
        assert_eq!(message.get("queue"), None);
    }
    assert_eq!(counts(&database, "q").await, before);
    let received = node.receive("q", json!({"max_messages": 10})).await;
    let counted = by_body(&received, "receive_count");
    for (body, count) in [("nacked", 2), ("visible", 1), ("was delayed", 1)] {
        assert_eq!(counted[body], count, "{body}");
    }
    assert_eq!(counted.len(), 3);
}

#[tokio::test]
async fn a_message_is_shown_alone_as_it_is_in_a_list() {
    let (node, _database) = all_states().await;
    for mut message in node.peek("q", "").await {
        let alone = node.message("q", &message).await;
        message["queue"] = json!("q");
        assert_eq!(alone.expect(200), &message);
    }
}

#[tokio::test]
async fn three_hundred_messages_are_shown_page_by_page_while_others_receive() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": LONG}))
        .await;
    let mut sent = vec![];
    for batch in 0..5 {
        let messages: Vec<_> = (0..60)
            .map(|n| {
                let delay = if n % 6 == 5 { LONG } else { 0 };
                // Several chunks for each batch.
                let body = format!("{:04} {}", batch * 60 + n, "x".repeat(400));
                json!({"body": body, "delay_seconds": delay})
            })
            .collect();
        sent.extend(node.send("q", json!(messages)).await);
    }
    let (mut shown, mut received) = (vec![], vec![]);
    let mut cursor = String::new();
    loop {
        let page = node.page("q", &format!("limit=7{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        shown.extend(items.iter().map(|message| text(&message["message_id"])));
        received.extend(node.receive("q", json!({"max_messages": 5})).await);
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(shown.len(), 300, "each is shown once");
    let mut ids: Vec<_> = sent.iter().map(|sent| text(&sent["message_id"])).collect();
    shown.sort();
    ids.sort();
    assert_eq!(shown, ids);
    assert!(received.len() > 200, "{} were received", received.len());
    let mut held = BTreeMap::new();
    for message in &received {
        assert_eq!(message["receive_count"], 1, "a peek is no delivery");
        held.insert(text(&message["message_id"]), message);
    }
    assert_eq!(held.len(), received.len());
    for message in node.peek("q", "limit=100").await {
        let held = held.contains_key(&text(&message["message_id"]));
        assert_eq!(message["receive_count"], i64::from(held), "{message}");
        assert_eq!(message["state"] == "in_flight", held, "{message}");
    }
    let some = node.page("q", "").await;
    assert_eq!(some["items"].as_array().unwrap().len(), 20, "by default");
}

#[tokio::test]
async fn a_page_of_large_messages_ends_early_and_leads_on() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    let large = "x".repeat(1_000_000);
    for n in 0..20 {
        let body = format!("{n:02}{large}");
        node.send("q", json!([{ "body": body }])).await;
    }
    let page = node.page("q", "limit=100").await;
    let shown = page["items"].as_array().unwrap().len();
    assert!((1..20).contains(&shown), "{shown} were shown");
    assert!(page["next_cursor"].is_string());
    let all = node.peek("q", "limit=100").await;
    assert_eq!(all.len(), 20);
    for (n, message) in all.iter().enumerate() {
        let body = message["body"].as_str().unwrap();
        assert!(body.starts_with(&format!("{n:02}")), "{n}");
    }
}

#[tokio::test]
async fn only_messages_that_pass_the_filters_are_shown_however_few_they_are() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    // More chunks than one statement looks at, and than a page does.
    let filling = "x".repeat(7_000);
    for _batch in 0..6 {
        let messages = vec![json!({ "body": filling }); 100];
        node.send("q", json!(messages)).await;
    }
    let attributes = json!({
        "kind": {"value": "invoice"}, "count": {"type": "Number", "value": "7"},
        "raw": {"type": "Binary", "value": "/w=="},
    });
    let marked = json!([
        {"body": "die Käsebrote", "attributes": attributes},
        {"body_json": {"käse": [1, 2]}, "attributes": {"kind": {"value": "offer"}}},
        {"body_base64": "/2vDpHNl"},
    ]);
    let sent = node.send("q", marked).await;
    let id = |n: usize| text(&sent[n]["message_id"]);
    for (query, expected) in [
        ("text=K%C3%A4se", vec![id(0)]),
        ("text=%22k%C3%A4se%22:%5B1,2", vec![id(1)]),
        ("attribute=kind", vec![id(0), id(1)]),
        ("attribute=kind&attribute_value=offer", vec![id(1)]),
        ("attribute=count&attribute_value=7", vec![id(0)]),
        ("attribute=raw&attribute_value=/w==", vec![id(0)]),
        ("attribute=kind&text=brote&state=visible", vec![id(0)]),
        ("attribute=kind&text=brote&state=delayed", vec![]),
        ("attribute=Kind", vec![]),
        ("text=nothing", vec![]),
    ] {
        let shown = node.peek("q", &format!("{query}&limit=1")).await;
        let shown: Vec<_> = shown.iter().map(|it| text(&it["message_id"])).collect();
        assert_eq!(shown, expected, "{query}");
    }
    let first = node.page("q", "text=K%C3%A4se").await;
    assert_eq!(first["items"], json!([]), "a page may be empty");
    assert!(first["next_cursor"].is_string(), "and lead on");
}

#[tokio::test]
async fn a_message_is_found_in_the_dead_letter_queue_by_both_queues_and_by_no_other() {
    let (node, _database) = Node::alone().await;
    for queue in ["dead", "other"] {
        node.put(queue, json!({})).await;
    }
    let settings = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
    node.put("q", settings).await;
    let sent = node.send("q", json!([{"body": "poison"}])).await.remove(0);
    let found = node.message("q", &sent).await;
    assert_eq!(found.expect(200)["queue"], "q");
    let missing = node.message("dead", &sent).await;
    missing.expect_problem(404, "message_not_found");
    let received = node.receive("q", json!({})).await.remove(0);
    node.change_one("q", "nack", &received, json!({"reason": "why"}))
        .await;
    let dead = eventually("it has moved", async || {
        let found = node.message("q", &sent).await;
        (found.expect(200)["queue"] == "dead").then_some(found.body)
    })
    .await;
    assert_eq!(dead["message_id"], sent["message_id"]);
    assert_eq!(dead["state"], "visible");
    assert_eq!(dead["receive_count"], 1);
    assert_eq!(dead["sent_at"], sent["sent_at"]);
    assert_eq!(dead["first_received_at"], received["first_received_at"]);
    assert_eq!(dead["deaths"][0]["text"], "why");
    assert_eq!(node.message("dead", &sent).await.expect(200), &dead);
    let elsewhere = node.message("other", &sent).await;
    elsewhere.expect_problem(404, "message_not_found");
    let mut listed = node.peek("dead", "").await.remove(0);
    listed["queue"] = json!("dead");
    assert_eq!(listed, dead);
    assert_eq!(node.peek("q", "").await, [] as [Value; 0]);

    let dead = node.receive("dead", json!({})).await.remove(0);
    assert_eq!(node.message("q", &sent).await.body["state"], "in_flight");
    let refused = node.cancel("q", &sent).await;
    refused.expect_problem(409, "message_in_flight");
    node.change_one("dead", "nack", &dead, json!({})).await;
    node.cancel("q", &sent).await.expect(204);
    for queue in ["q", "dead"] {
        let gone = node.message(queue, &sent).await;
        gone.expect_problem(404, "message_not_found");
    }
}

#[tokio::test]
async fn what_is_gone_or_never_was_is_not_found() {
    let (node, database) = all_states().await;
    let sent = json!([{"body": "brief", "time_to_live_seconds": 100}, {"body": "a"}]);
    let sent = node.send("q", sent).await;
    database.advance_clock(seconds(101)).await;
    let never = json!({"message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18"});
    for gone in [&sent[0], &never] {
        for answer in [
            node.message("q", gone).await,
            node.cancel("q", gone).await,
            node.reschedule("q", gone, 1).await,
        ] {
            let problem = answer.expect_problem(404, "message_not_found");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(&text(&gone["message_id"])), "{detail}");
        }
    }
    node.message("q", &sent[1]).await.expect(200);
    let unknown = node.message("nothing", &sent[1]).await;
    unknown.expect_problem(404, "queue_not_found");
    node.ask(Method::POST, "q/purge", &Value::Null)
        .await
        .expect(204);
    let purged = node.message("q", &sent[1]).await;
    purged.expect_problem(404, "message_not_found");
    assert_eq!(node.peek("q", "").await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_delayed_message_that_is_cancelled_is_gone_and_its_neighbours_come() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let sent: Vec<_> = ["a", "b", "c"]
        .map(|body| json!({"body": body, "delay_seconds": 1000}))
        .into();
    let sent = node.send("q", json!(sent)).await;
    node.cancel("q", &sent[1]).await.expect(204);
    let again = node.cancel("q", &sent[1]).await;
    again.expect_problem(404, "message_not_found");
    assert_eq!(counts(&database, "q").await, [0, 0, 2]);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.bodies("q").await, ["a", "c"]);
}

#[tokio::test]
async fn what_is_in_flight_or_was_never_received_is_not_changed_and_the_answer_says_why() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let sent = node.send("q", json!([{"body": "a"}])).await.remove(0);
    for (code, word) in [
        ("message_never_received", "never received"),
        ("message_in_flight", "receipt handle"),
    ] {
        for answer in [
            node.cancel("q", &sent).await,
            node.reschedule("q", &sent, 10).await,
        ] {
            let problem = answer.expect_problem(409, code);
            assert!(problem["detail"].as_str().unwrap().contains(word));
        }
        if code == "message_never_received" {
            let received = node.receive("q", json!({})).await;
            assert_eq!(received[0]["receive_count"], 1);
        }
    }
    database.advance_clock(seconds(1001)).await;
    node.cancel("q", &sent).await.expect(204);
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_message_that_is_rescheduled_comes_when_it_says_and_can_be_changed_again() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let delayed =
        json!([{"body": "a", "delay_seconds": 5000}, {"body": "b", "delay_seconds": 5000}]);
    let sent = node.send("q", delayed).await;
    let rescheduled = node.reschedule("q", &sent[0], 2000).await;
    let rescheduled = rescheduled.expect(200);
    assert_eq!(rescheduled["state"], "delayed");
    assert_eq!(rescheduled, &node.message("q", &sent[0]).await.body);
    let after = at(&rescheduled["visible_at"]) - at(&sent[0]["sent_at"]);
    assert!(after >= seconds(2000) && after < seconds(3000), "{after}");
    assert_eq!(counts(&database, "q").await, [0, 0, 2]);
    database.advance_clock(seconds(2001)).await;
    let first = node.receive("q", json!({})).await.remove(0);
    assert_eq!(first["body"], "a");
    assert_eq!(first["receive_count"], 1, "to wait is no delivery");

    database.advance_clock(seconds(1001)).await;
    let later = node.reschedule("q", &sent[0], 9000).await;
    assert_eq!(later.expect(200)["receive_count"], 1);
    let stale =
        json!([{"receipt_handle": first["receipt_handle"], "visibility_timeout_seconds": 0}]);
    let stale = node.change("q", "extend", stale).await;
    stale.expect_problem(409, "receipt_stale");
    database.advance_clock(seconds(3001)).await;
    assert_eq!(node.bodies("q").await, ["b"]);
    node.reschedule("q", &sent[0], 0).await.expect(200);
    let again = node.receive("q", json!({})).await.remove(0);
    assert_eq!(again["body"], "a");
    assert_eq!(again["receive_count"], 2);
    assert_eq!(again["first_received_at"], first["first_received_at"]);
    assert_eq!(again["message_id"], sent[0]["message_id"]);
}

#[tokio::test]
async fn a_receive_that_waits_gets_a_message_that_is_rescheduled_to_an_earlier_time_at_that_time() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    for delay in [0, 1] {
        let sent = json!([{"body": "a", "delay_seconds": LONG}]);
        let sent = node.send("q", sent).await.remove(0);
        let waiting = begin_to_wait(&database, &node).await;
        let clock = Clock::default();
        let began = clock.instant();
        let rescheduled = node.reschedule("q", &sent, delay).await;
        let due = at(&rescheduled.expect(200)["visible_at"]);
        let received = list(end_of_wait(waiting).await.expect(200));
        let took = clock.instant() - began;
        println!("a reschedule to {delay} s was received after {took:?}");
        assert_eq!(received[0]["message_id"], sent["message_id"]);
        assert!(at(&received[0]["first_received_at"]) >= due, "{received:?}");
        assert!(took < TOLD_WITHIN, "{took:?}");
        node.change_one("q", "delete", &received[0], json!({}))
            .await;
    }
}

#[tokio::test]
async fn a_message_that_is_rescheduled_on_one_node_wakes_a_receive_on_another() {
    let (here, database) = Node::alone().await;
    let there = Node::on(&database).await;
    here.put("q", json!({})).await;
    let listens = "select count(*) from pg_stat_activity
        where datname = current_database() and query ilike 'listen%' and state = 'idle'";
    eventually("both nodes listen", async || {
        (database.value::<i64>(listens).await == 2).then_some(())
    })
    .await;
    for delay in [0, 1] {
        let sent = json!([{"body": "a", "delay_seconds": LONG}]);
        let sent = here.send("q", sent).await.remove(0);
        let waiting = begin_to_wait(&database, &there).await;
        let clock = Clock::default();
        let began = clock.instant();
        here.reschedule("q", &sent, delay).await.expect(200);
        let received = list(end_of_wait(waiting).await.expect(200));
        let took = clock.instant() - began;
        assert_eq!(received[0]["message_id"], sent["message_id"]);
        assert!(took < TOLD_WITHIN, "{took:?}");
        there
            .change_one("q", "delete", &received[0], json!({}))
            .await;
    }
}

#[tokio::test]
async fn a_message_is_not_rescheduled_beyond_its_life() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({"retention_seconds": 5000})).await;
    let sent = json!([
        {"body": "a", "delay_seconds": 10},
        {"body": "b", "delay_seconds": 10, "time_to_live_seconds": 1000},
    ]);
    let sent = node.send("q", sent).await;
    for (message, good, bad) in [(&sent[0], 4000, 5000), (&sent[1], 900, 1000)] {
        let refused = node.reschedule("q", message, bad).await;
        let problem = refused.expect_problem(422, "invalid");
        let error = &problem["errors"][0];
        assert_eq!(error["pointer"], "/delay_seconds");
        assert_eq!(error["value"], bad.to_string());
        node.reschedule("q", message, good).await.expect(200);
    }
}

#[tokio::test]
async fn a_cursor_of_another_queue_is_refused() {
    let (node, _database) = Node::alone().await;
    for queue in ["q", "other"] {
        node.put(queue, json!({})).await;
        node.send(queue, json!([{"body": "a"}, {"body": "b"}]))
            .await;
    }
    let page = node.page("q", "limit=1").await;
    let cursor = text(&page["next_cursor"]);
    let last = node.page("q", &format!("limit=1&cursor={cursor}")).await;
    assert_eq!(last["items"][0]["body"], "b");
    assert_eq!(last.get("next_cursor"), None, "that was all");
    let other = node.get(&format!("other/messages?cursor={cursor}")).await;
    let problem = other.expect_problem(422, "invalid");
    assert_eq!(problem["errors"][0]["parameter"], "cursor");
    assert_eq!(problem["errors"][0]["value"], cursor);
}

//! Retry policies: after how long a message comes back that was given up without a delay.

use reqwest::Method;
use serde_json::{Value, json};
use time::Duration;

use super::{Node, at, seconds, with_receipt};
use crate::support::database::Database;

/// How long after it a nack makes its message visible, by the database's clock.
async fn delay_of_a_nack(
    database: &Database,
    node: &Node,
    message: &Value,
    entry: Value,
) -> Duration {
    let now = || database.value::<time::OffsetDateTime>("select towpath.clock()");
    let before = now().await;
    let nacked = node.change_one("q", "nack", message, entry).await;
    let after = now().await;
    let visible_at = at(&nacked["visible_at"]);
    let [least, most] = [visible_at - after, visible_at - before];
    // All delays of these tests are whole seconds.
    let delay = Duration::seconds(most.whole_seconds());
    assert!(least <= delay && delay <= most, "{least} to {most}");
    delay
}

/// The delays after each of some deliveries of one message.
async fn delays(database: &Database, node: &Node, deliveries: i32) -> Vec<i64> {
    node.send("q", json!([{"body": "again"}])).await;
    let mut delays = vec![];
    for count in 1..=deliveries {
        let message = node.receive("q", json!({})).await.remove(0);
        assert_eq!(message["receive_count"], count);
        let delay = delay_of_a_nack(database, node, &message, json!({})).await;
        delays.push(delay.whole_seconds());
        database.advance_clock(delay.unsigned_abs()).await;
    }
    delays
}

#[tokio::test]
async fn a_nack_without_a_delay_follows_the_policy_by_the_number_of_deliveries() {
    for (policy, expected) in [
        (
            json!({"type": "fixed", "delay_seconds": 7}),
            [7, 7, 7, 7, 7],
        ),
        (
            json!({"type": "fixed", "delay_seconds": 0}),
            [0, 0, 0, 0, 0],
        ),
        (
            json!({"type": "ladder", "delays_seconds": [5, 1, 43200]}),
            [5, 1, 43200, 43200, 43200],
        ),
        (
            json!({"type": "exponential", "delay_seconds": 3, "factor": 2, "max_delay_seconds": 20}),
            [3, 6, 12, 20, 20],
        ),
    ] {
        let (node, database) = Node::alone().await;
        node.put("q", json!({"retry_policy": policy})).await;
        assert_eq!(delays(&database, &node, 5).await, expected, "{policy}");
    }
}

#[tokio::test]
async fn a_nack_with_a_delay_and_an_extend_do_not_follow_the_policy() {
    let (node, database) = Node::alone().await;
    let policy = json!({"type": "fixed", "delay_seconds": 100});
    node.put("q", json!({"retry_policy": policy})).await;
    node.send("q", json!([{"body": "a"}])).await;
    for (own, expected) in [(0, 0), (9, 9)] {
        let message = node.receive("q", json!({})).await.remove(0);
        let delay =
            delay_of_a_nack(&database, &node, &message, json!({"delay_seconds": own})).await;
        assert_eq!(delay.whole_seconds(), expected);
        database
            .advance_clock(seconds(expected.unsigned_abs()))
            .await;
    }
    let message = node.receive("q", json!({})).await.remove(0);
    let at_once = json!({"visibility_timeout_seconds": 0});
    node.change_one("q", "extend", &message, at_once).await;
    // A window that ends follows it neither.
    let message = node
        .receive("q", json!({"visibility_timeout_seconds": 10}))
        .await
        .remove(0);
    database.advance_clock(seconds(10)).await;
    let again = node.receive("q", json!({})).await.remove(0);
    assert_eq!(again["message_id"], message["message_id"]);
    // Without a policy a nack is at once, as ever.
    let patched = node
        .ask(Method::PATCH, "q", &json!({"retry_policy": null}))
        .await;
    patched.expect(200);
    let delay = delay_of_a_nack(&database, &node, &again, json!({})).await;
    assert_eq!(delay, Duration::ZERO);
}

#[tokio::test]
async fn each_message_of_a_batch_has_the_delay_of_its_own_number_of_deliveries() {
    let (node, database) = Node::alone().await;
    let policy = json!({"type": "ladder", "delays_seconds": [10, 100, 1000]});
    node.put("q", json!({"retry_policy": policy})).await;
    // Two that were received once before, two that were not.
    node.send("q", json!([{"body": "a"}, {"body": "b"}])).await;
    let old = node.receive("q", json!({"max_messages": 2})).await;
    let old: Vec<_> = old
        .iter()
        .map(|message| with_receipt(message, json!({})))
        .collect();
    node.change("q", "nack", json!(old)).await.expect(200);
    database.advance_clock(seconds(10)).await;
    node.send("q", json!([{"body": "c"}, {"body": "d"}])).await;
    let all = node.receive("q", json!({"max_messages": 10})).await;
    assert_eq!(all.len(), 4);
    let before: time::OffsetDateTime = database.value("select towpath.clock()").await;
    let entries: Vec<_> = all
        .iter()
        .map(|message| with_receipt(message, json!({})))
        .collect();
    let nacked = node.change("q", "nack", json!(entries)).await;
    let nacked = super::list(nacked.expect(200));
    for (message, nacked) in all.iter().zip(&nacked) {
        let delay = at(&nacked["visible_at"]) - before;
        let expected = [10, 100][usize::from(message["receive_count"] == 2)];
        assert!(
            (expected..expected + 9).contains(&delay.whole_seconds()),
            "{message}: {delay}"
        );
    }
    database.advance_clock(seconds(20)).await;
    assert_eq!(node.bodies("q").await, ["c", "d"]);
}

#[tokio::test]
async fn jitter_makes_delays_shorter_and_each_another() {
    let (node, database) = Node::alone().await;
    let policy = json!({"type": "fixed", "delay_seconds": 10_000, "jitter": 0.5});
    node.put("q", json!({"retry_policy": policy})).await;
    let many: Vec<_> = (0..50).map(|_| json!({"body": "a"})).collect();
    node.send("q", json!(many)).await;
    let all = node.receive("q", json!({"max_messages": 50})).await;
    let before: time::OffsetDateTime = database.value("select towpath.clock()").await;
    let entries: Vec<_> = all
        .iter()
        .map(|message| with_receipt(message, json!({})))
        .collect();
    let nacked = node.change("q", "nack", json!(entries)).await;
    let nacked = super::list(nacked.expect(200));
    let mut delays: Vec<_> = nacked
        .iter()
        .map(|nacked| (at(&nacked["visible_at"]) - before).whole_seconds())
        .collect();
    delays.sort_unstable();
    assert!(
        (5000..10_009).contains(&delays[0]) && delays[49] < 10_009,
        "{delays:?}"
    );
    // That dice leave all of them in one half has a chance of 2 in 2^50.
    assert!(delays[0] < 7500 && delays[49] > 7500, "{delays:?}");
}

#[tokio::test]
async fn the_last_nack_moves_a_message_whatever_the_policy() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    let policy = json!({"type": "fixed", "delay_seconds": 60});
    let settings =
        json!({"dead_letter_queue": "dead", "max_receive_count": 2, "retry_policy": policy});
    node.put("q", settings).await;
    node.send("q", json!([{"body": "poison"}])).await;
    let first = node.receive("q", json!({})).await.remove(0);
    let delay = delay_of_a_nack(&database, &node, &first, json!({})).await;
    assert_eq!(delay.whole_seconds(), 60);
    database.advance_clock(seconds(60)).await;
    let last = node.receive("q", json!({})).await.remove(0);
    let nacked = node.change_one("q", "nack", &last, json!({})).await;
    assert_eq!(nacked["dead_lettered"], true);
    let dead = node.receive("dead", json!({"wait_seconds": 20})).await;
    assert_eq!(dead[0]["message_id"], first["message_id"]);
}

#[tokio::test]
async fn a_receive_that_waits_gets_a_message_when_the_delay_of_the_policy_is_over() {
    let (node, _database) = Node::alone().await;
    let policy = json!({"type": "ladder", "delays_seconds": [1, 0]});
    node.put("q", json!({"retry_policy": policy})).await;
    node.send("q", json!([{"body": "a"}])).await;
    for expected in [1, 0] {
        let message = node.receive("q", json!({})).await.remove(0);
        let nacked = node.change_one("q", "nack", &message, json!({})).await;
        let again = node
            .receive("q", json!({"wait_seconds": 20}))
            .await
            .remove(0);
        let late = at(&again["visible_at"]) - seconds(30) - at(&nacked["visible_at"]);
        println!("a delay of {expected} s: received {late} after its end");
        // Who waits looks by itself 2.5 s after it began, or later.
        assert!(
            late >= Duration::ZERO && late < Duration::milliseconds(1400),
            "{late}"
        );
        node.change_one(
            "q",
            "extend",
            &again,
            json!({"visibility_timeout_seconds": 0}),
        )
        .await;
    }
}

//! Messages that stay hidden after they were sent.

use serde_json::json;

use super::{Node, at, begin_to_wait, end_of_wait, list, seconds};
use crate::support::eventually;

#[tokio::test]
async fn a_message_comes_after_its_own_delay_or_its_queues_and_never_before() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"delay_seconds": 3000})).await;
    let sent = json!([
        {"body": "by its queue"},
        {"body": "at once", "delay_seconds": 0},
        {"body": "by itself", "delay_seconds": 6000},
    ]);
    let sent = node.send("q", sent).await;
    assert_eq!(
        sent[0]["sent_at"], sent[2]["sent_at"],
        "one request, one time"
    );
    assert_eq!(node.bodies("q").await, ["at once"]);
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.bodies("q").await, ["by its queue"]);
    database.advance_clock(seconds(2000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
    database.advance_clock(seconds(1001)).await;
    assert_eq!(node.bodies("q").await, ["by itself"]);
}

#[tokio::test]
async fn a_change_of_a_queues_delay_is_for_messages_sent_from_then_on() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"delay_seconds": 3000})).await;
    node.send("q", json!([{"body": "before"}])).await;
    node.put("q", json!({})).await;
    node.send("q", json!([{"body": "after"}])).await;
    assert_eq!(node.bodies("q").await, ["after"]);
    database.advance_clock(seconds(3001)).await;
    assert_eq!(node.bodies("q").await, ["before"]);
}

#[tokio::test]
async fn a_delayed_message_is_one_like_others_once_it_has_come() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    let sent = node
        .send("q", json!([{"body": "a", "delay_seconds": 3000}]))
        .await;
    database.advance_clock(seconds(3001)).await;
    let first = node.receive("q", json!({})).await.remove(0);
    assert_eq!(first["message_id"], sent[0]["message_id"]);
    assert_eq!(first["sent_at"], sent[0]["sent_at"]);
    assert_eq!(first["receive_count"], 1, "to wait is no delivery");
    assert!(at(&first["first_received_at"]) >= at(&first["sent_at"]) + seconds(3000));
    database.advance_clock(seconds(1001)).await;
    let second = node.receive("q", json!({})).await.remove(0);
    assert_eq!(second["receive_count"], 2);
    assert_eq!(second["first_received_at"], first["first_received_at"]);
    node.change_one("q", "delete", &second, json!({})).await;
    let again = json!([{"receipt_handle": second["receipt_handle"]}]);
    let again = node.change("q", "delete", again).await;
    assert_eq!(list(again.expect(200))[0], json!({"deleted": true}));
    database.advance_clock(seconds(5000)).await;
    assert_eq!(node.bodies("q").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_waiting_receive_gets_a_delayed_message_at_its_time() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let waiting = begin_to_wait(&database, &node).await;
    let sent = node
        .send("q", json!([{"body": "a", "delay_seconds": 1}]))
        .await;
    let received = list(end_of_wait(waiting).await.expect(200));
    assert_eq!(received.len(), 1, "it came while the receive waited");
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    let took = at(&received[0]["first_received_at"]) - at(&sent[0]["sent_at"]);
    println!("a delay of 1 s took {took}");
    assert!(took >= seconds(1), "{took}");
}

#[tokio::test]
async fn however_often_somebody_looks_nothing_comes_before_its_time() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    let late = json!([{"body": "a", "delay_seconds": 1}]);
    let sent = node.send("q", late).await.remove(0);
    let look = async || {
        let window = json!({"visibility_timeout_seconds": 1});
        node.receive("q", window).await.pop()
    };
    let first = eventually("the delay ends", look).await;
    let delay = at(&first["first_received_at"]) - at(&sent["sent_at"]);
    assert!(delay >= seconds(1), "{delay}");
    let second = eventually("the window ends", look).await;
    let between = at(&second["visible_at"]) - at(&first["visible_at"]);
    assert!(between >= seconds(1), "{between}");
    let entry = json!({"delay_seconds": 1});
    let given_up = node.change_one("q", "nack", &second, entry).await;
    let third = eventually("the delay of the nack ends", look).await;
    let received = at(&third["visible_at"]) - seconds(1);
    let early = at(&given_up["visible_at"]) - received;
    assert!(!early.is_positive(), "{early}");
}

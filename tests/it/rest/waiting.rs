//! Changes of a queue that a receive waits on: the receive goes by what holds when a message comes.

use serde_json::json;

use super::{Node, begin_to_wait, end_of_wait, list, seconds};

#[tokio::test]
async fn a_receive_that_waits_while_the_dead_letter_queue_is_deleted_gets_what_comes_back() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    let settings = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
    node.put("q", settings).await;
    node.send("q", json!([{"body": "a"}])).await;
    let window = json!({"visibility_timeout_seconds": 2});
    let first = node.receive("q", window).await.remove(0);
    let waiting = begin_to_wait(&database, &node).await;
    node.delete("dead?force=true").await.expect(204);
    let received = list(end_of_wait(waiting).await.expect(200));
    assert_eq!(received.len(), 1, "the queue delivers on");
    assert_eq!(received[0]["message_id"], first["message_id"]);
    assert_eq!(received[0]["receive_count"], 2);
}

#[tokio::test]
async fn a_receive_that_waits_while_the_queue_is_given_a_dead_letter_queue_gets_nothing_too_often()
{
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    node.put("q", json!({"receive_wait_seconds": 5})).await;
    node.send("q", json!([{"body": "a"}])).await;
    let window = json!({"visibility_timeout_seconds": 2});
    node.receive("q", window).await;
    let waiting = begin_to_wait(&database, &node).await;
    let settings = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
    node.put("q", settings).await;
    let dead = node.receive("dead", json!({"wait_seconds": 20})).await;
    assert_eq!(dead.len(), 1, "it was received once and not again");
    assert_eq!(dead[0]["receive_count"], 2);
    node.delete("q").await.expect(204);
    end_of_wait(waiting)
        .await
        .expect_problem(404, "queue_not_found");
}

#[tokio::test]
async fn a_receive_that_waits_while_its_queue_lets_go_of_old_messages_gets_none_of_them() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    node.send("q", json!([{"body": "old"}])).await;
    node.receive("q", json!({"visibility_timeout_seconds": 1000}))
        .await;
    database.advance_clock(seconds(500)).await;
    let waiting = begin_to_wait(&database, &node).await;
    node.put("q", json!({"retention_seconds": 60})).await;
    database.advance_clock(seconds(501)).await;
    node.send("q", json!([{"body": "new"}])).await;
    let mut received = list(end_of_wait(waiting).await.expect(200));
    received.extend(node.receive("q", json!({"max_messages": 10})).await);
    let bodies: Vec<_> = received.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["new"]);
}

//! The life of a queue and of a message, over a router without a socket.

use axum::Router;
use axum::http::header;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::support::{ask, node, request, router};

async fn with_queue() -> Router {
    let router = router().await;
    let answer = ask(&router, request("PUT", "/v1/queues/orders", "")).await;
    answer.expect(201);
    router
}

async fn send(router: &Router, bodies: &[&str]) {
    let messages: Vec<_> = bodies.iter().map(|body| json!({"body": body})).collect();
    let body = json!({"messages": messages}).to_string();
    let answer = ask(router, request("POST", "/v1/queues/orders/messages", &body)).await;
    assert_eq!(
        answer.expect(200)["messages"].as_array().unwrap().len(),
        bodies.len()
    );
}

#[tokio::test]
async fn a_queue_is_created_changed_read_and_deleted() {
    let router = router().await;
    let body = r#"{"visibility_timeout_seconds":60}"#;
    let created = ask(&router, request("PUT", "/v1/queues/orders", body)).await;
    let expected = json!({
        "name": "orders", "visibility_timeout_seconds": 60, "receive_wait_seconds": 0,
        "delay_seconds": 0, "retention_seconds": 345600, "durability": "strict",
        "deduplication_window_seconds": 300, "tags": {}, "sending_paused": false,
        "receiving_paused": false, "created_at": created.body["created_at"], "version": 1,
    });
    assert_eq!(created.expect(201), &expected);
    OffsetDateTime::parse(created.body["created_at"].as_str().unwrap(), &Rfc3339).unwrap();
    assert_eq!(created.header("location"), "/v1/queues/orders");
    assert_eq!(created.header("content-type"), "application/json");

    let again = ask(&router, request("PUT", "/v1/queues/orders", body)).await;
    assert_eq!(again.expect(200), &expected);
    let defaults = ask(&router, request("PUT", "/v1/queues/orders", "")).await;
    assert_eq!(defaults.expect(200)["visibility_timeout_seconds"], 30);
    assert_eq!(defaults.body["version"], 2);
    let read = ask(&router, request("GET", "/v1/queues/orders", "")).await;
    assert_eq!(read.expect(200), &defaults.body);

    let deleted = ask(&router, request("DELETE", "/v1/queues/orders", "")).await;
    deleted.expect(204);
    for method in ["GET", "DELETE"] {
        let gone = ask(&router, request(method, "/v1/queues/orders", "")).await;
        gone.expect_problem(404, "queue_not_found");
    }
}

#[tokio::test]
async fn queues_are_listed_in_pages() {
    let router = router().await;
    for name in ["a1", "a2", "a3", "b1"] {
        let path = format!("/v1/queues/{name}");
        ask(&router, request("PUT", &path, "")).await.expect(201);
    }
    let mut path = "/v1/queues?limit=2&prefix=a".to_owned();
    let mut pages = vec![];
    loop {
        let answer = ask(&router, request("GET", &path, "")).await;
        let page = answer.expect(200);
        let names = page["items"].as_array().unwrap().iter();
        pages.push(names.map(|queue| queue["name"].clone()).collect::<Vec<_>>());
        let Some(cursor) = page.get("next_cursor") else {
            break;
        };
        path = format!(
            "/v1/queues?limit=2&prefix=a&cursor={}",
            cursor.as_str().unwrap()
        );
    }
    assert_eq!(pages, [vec!["a1", "a2"], vec!["a3"]]);
}

#[tokio::test]
async fn a_message_is_sent_received_and_deleted() {
    let router = with_queue().await;
    send(&router, &["héllo\n", "two"]).await;
    let receive = request(
        "POST",
        "/v1/queues/orders/messages/receive",
        r#"{"max_messages":2}"#,
    );
    let received = ask(&router, receive).await;
    let messages = received.expect(200)["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    assert_eq!(
        (&messages[0]["body"], &messages[0]["body_kind"]),
        (&json!("héllo\n"), &json!("text"))
    );
    assert_eq!(messages[0]["receive_count"], 1);
    let time = |field: &str| {
        let text = messages[0][field].as_str().unwrap();
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    };
    assert_eq!(
        time("visible_at") - time("first_received_at"),
        Duration::seconds(30)
    );
    assert!(time("sent_at") <= time("first_received_at"));

    let handle = &messages[0]["receipt_handle"];
    let stale = node::handle_of_no_delivery();
    let delete = |handles: Value| {
        let body = json!({"messages": handles}).to_string();
        let request = request("POST", "/v1/queues/orders/messages/delete", &body);
        let router = router.clone();
        async move { ask(&router, request).await }
    };
    let deleted = delete(json!([{"receipt_handle": handle}, {"receipt_handle": stale}])).await;
    let deleted = &deleted.expect(200)["messages"];
    assert_eq!(deleted[0], json!({"deleted": true}));
    assert_eq!(deleted[1]["deleted"], false);
    assert_eq!(deleted[1]["error"]["code"], "receipt_stale");

    let again = delete(json!([{"receipt_handle": handle}])).await;
    assert_eq!(
        again.expect(200)["messages"][0],
        json!({"deleted": true}),
        "a retry is told the same"
    );
    let all_stale = delete(json!([{"receipt_handle": stale}])).await;
    let problem = all_stale.expect_problem(409, "receipt_stale");
    assert_eq!(
        problem["errors"][0]["pointer"],
        "/messages/0/receipt_handle"
    );

    let forged =
        delete(json!([{"receipt_handle": messages[1]["receipt_handle"]}, {"receipt_handle": "x"}]))
            .await;
    let problem = forged.expect_problem(422, "invalid");
    assert_eq!(
        problem["errors"][0]["pointer"],
        "/messages/1/receipt_handle"
    );
    let held = json!({"max_messages": 10}).to_string();
    let held = ask(
        &router,
        request("POST", "/v1/queues/orders/messages/receive", &held),
    )
    .await;
    assert_eq!(
        held.expect(200)["messages"],
        json!([]),
        "the other message is still held, not deleted"
    );
}

#[tokio::test]
async fn a_receive_may_have_no_body() {
    let router = with_queue().await;
    let receive = || request("POST", "/v1/queues/orders/messages/receive", "");
    let answer = ask(&router, receive()).await;
    assert_eq!(answer.expect(200), &json!({"messages": []}));
    let mut typed = receive();
    let json = "application/json".parse().unwrap();
    typed.headers_mut().insert(header::CONTENT_TYPE, json);
    ask(&router, typed).await.expect(200);
    let mut form = receive();
    let urlencoded = "application/x-www-form-urlencoded".parse().unwrap();
    form.headers_mut().insert(header::CONTENT_TYPE, urlencoded);
    ask(&router, form)
        .await
        .expect_problem(415, "unsupported_media_type");
}

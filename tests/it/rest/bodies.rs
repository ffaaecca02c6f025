//! Bodies of every kind, in JSON and as they are.

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{Node, answer, counts, seconds};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn with_queue() -> Node {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    node
}

#[tokio::test]
async fn a_body_comes_back_the_way_it_was_given() {
    let node = with_queue().await;
    let bytes = "AAECAwT/";
    for (member, body, kind) in [
        ("body", json!("{\"not\": \"json\"}"), "text"),
        ("body_json", json!({"a": [1, "¾", {}, null]}), "json"),
        ("body_json", json!(null), "json"),
        ("body_json", json!("text"), "json"),
        ("body_json", json!(5), "json"),
        ("body_base64", json!(bytes), "base64"),
    ] {
        node.send("q", json!([{ member: body }])).await;
        let received = node.receive("q", json!({})).await;
        let members = received[0].as_object().unwrap();
        assert_eq!(members[member], body);
        assert_eq!(members["body_kind"], kind);
        let bodies = members.keys().filter(|name| name.starts_with("body"));
        assert_eq!(bodies.count(), 2, "{received:?}");
    }
}

/// The whole answer of a receive, as text.
async fn received_text(node: &Node) -> String {
    let request = node.request(Method::POST, "q/messages/receive", &json!({}));
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_json_body_keeps_its_numbers_and_the_order_of_its_members() {
    let node = with_queue().await;
    let sent = "{ \"z\" : 12345678901234567890123456789.0100,\n\t\"a\" : [ 1E2, -0, \" \\u00e9 \\\" é\" ], \"\": { } }";
    let kept = r#"{"z":12345678901234567890123456789.0100,"a":[1E2,-0," \u00e9 \" é"],"":{}}"#;
    let request = node.request(Method::POST, "q/messages", &Value::Null);
    let request = request.header("content-type", "application/json");
    let body = format!(r#"{{"messages":[{{"body_json":{sent}}}]}}"#);
    answer(request.body(body)).await.expect(200);
    let text = received_text(&node).await;
    assert!(text.contains(&format!(r#""body_json":{kept},"#)), "{text}");
}

#[tokio::test]
async fn a_body_may_have_a_mebibyte_in_every_form() {
    const MOST: usize = 1024 * 1024;
    let node = with_queue().await;
    let base64 = |bytes: usize| {
        let whole = "AAAA".repeat(bytes / 3);
        let rest = ["", "AA==", "AAA="][bytes % 3];
        whole + rest
    };
    for (member, most, more) in [
        ("body", json!("x".repeat(MOST)), json!("x".repeat(MOST + 1))),
        (
            "body_json",
            json!("x".repeat(MOST - 2)),
            json!("x".repeat(MOST - 1)),
        ),
        ("body_base64", json!(base64(MOST)), json!(base64(MOST + 1))),
    ] {
        node.send("q", json!([{ member: most }])).await;
        let received = node.receive("q", json!({})).await;
        assert_eq!(received[0][member], most);
        let body = json!({"messages": [{ member: more }]});
        let refused = node.ask(Method::POST, "q/messages", &body).await;
        let problem = refused.expect_problem(413, "too_large");
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(
            detail,
            format!("/messages/0/{member} is larger than {MOST} bytes")
        );
    }
}

/// A send of one message as it is.
fn sending(node: &Node, query: &str, body: &[u8]) -> RequestBuilder {
    let request = node.request(Method::POST, &format!("q/messages{query}"), &Value::Null);
    let request = request.header("content-type", "application/octet-stream");
    request.body(body.to_vec())
}

/// A receive of one message as it is: the status, the headers, the body.
async fn received(node: &Node, accept: &str, request: &Value) -> (u16, HeaderMap, Vec<u8>) {
    let request = node.request(Method::POST, "q/messages/receive", request);
    let response = request.header("accept", accept).send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.bytes().await.unwrap().to_vec())
}

const OCTETS: &str = "application/octet-stream";

#[tokio::test]
async fn a_message_is_sent_and_received_as_it_is() {
    let node = with_queue().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let request = sending(&node, "", &every_byte)
        .header("Towpath-Attribute-Colour", "rosé 100%")
        .header("traceparent", TRACE)
        .header("tracestate", "a=1");
    let sent = answer(request).await;
    let sent = &sent.expect(200)["messages"][0];

    let in_json = node
        .receive("q", json!({"visibility_timeout_seconds": 0}))
        .await;
    assert_eq!(in_json[0]["body_kind"], "base64");
    let colour = json!({"colour": {"type": "String", "value": "rosé 100%"}});
    assert_eq!(in_json[0]["attributes"], colour);

    let (status, headers, body) = received(&node, OCTETS, &json!({"wait_seconds": 5})).await;
    assert_eq!((status, body), (200, every_byte));
    let header = |name: &str| str::from_utf8(headers[name].as_bytes()).unwrap();
    assert_eq!(header("content-type"), OCTETS);
    assert_eq!(header("towpath-message-id"), sent["message_id"]);
    assert_eq!(header("towpath-sent-at"), sent["sent_at"]);
    assert_eq!(header("towpath-receive-count"), "2");
    assert_eq!(header("towpath-attribute-colour"), "rosé 100%");
    assert_eq!(header("traceparent"), TRACE);
    assert_eq!(header("tracestate"), "a=1");
    assert!(headers.get("towpath-attributes-left-out").is_none());
    assert!(!header("x-request-id").is_empty());
    assert!(super::at(&header("towpath-visible-at").into()) > super::at(&sent["sent_at"]));

    let receipt = json!({"receipt_handle": header("towpath-receipt-handle")});
    let deleted = node.change("q", "delete", json!([receipt])).await;
    assert_eq!(deleted.expect(200)["messages"], json!([{"deleted": true}]));
    let (status, headers, body) = received(&node, OCTETS, &Value::Null).await;
    assert_eq!((status, body), (204, vec![]));
    assert!(headers.get("towpath-message-id").is_none());
}

#[tokio::test]
async fn text_and_json_are_received_as_they_are_too() {
    let node = with_queue().await;
    for (message, body) in [
        (json!({"body": "héllo"}), "héllo"),
        (json!({"body_json": {"a": [1, 2]}}), r#"{"a":[1,2]}"#),
    ] {
        node.send("q", json!([message])).await;
        let (status, _, found) = received(&node, OCTETS, &json!({"max_messages": 1})).await;
        assert_eq!((status, found.as_slice()), (200, body.as_bytes()));
    }
}

#[tokio::test]
async fn who_also_reads_json_gets_json() {
    let node = with_queue().await;
    for (accept, is_octets) in [
        ("*/*", false),
        ("text/html", false),
        ("application/json", false),
        ("application/octet-stream, application/json", false),
        ("application/json;q=0.9, Application/Octet-Stream", false),
        ("text/html, Application/Octet-Stream ; q=0.5, */*", true),
    ] {
        node.send("q", json!([{"body": "a"}])).await;
        let (status, headers, _) = received(&node, accept, &Value::Null).await;
        let found = headers["content-type"].to_str().unwrap();
        let expected = if is_octets {
            OCTETS
        } else {
            "application/json"
        };
        assert_eq!((status, found), (200, expected), "{accept}");
    }
}

#[tokio::test]
async fn the_query_delays_a_message_and_ends_it() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let request = sending(
        &node,
        "?delay_seconds=60&time_to_live_seconds=120",
        b"later",
    );
    answer(request).await.expect(200);
    assert_eq!(counts(&database, "q").await, [0, 0, 1]);
    database.advance_clock(seconds(61)).await;
    let (status, _, body) = received(
        &node,
        OCTETS,
        &json!({"wait_seconds": 20, "visibility_timeout_seconds": 0}),
    )
    .await;
    assert_eq!((status, body), (200, b"later".to_vec()));
    database.advance_clock(seconds(60)).await;
    let (status, _, _) = received(&node, OCTETS, &Value::Null).await;
    assert_eq!(status, 204);
}

#[tokio::test]
async fn a_send_as_it_is_can_be_repeated() {
    let node = with_queue().await;
    let send = async |body: &[u8]| {
        let request = sending(&node, "", body).header("idempotency-key", "k");
        answer(request).await
    };
    let first = send(b"a").await;
    assert_eq!(send(b"a").await.expect(200), first.expect(200));
    let other = send(b"b").await;
    other.expect_problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn attributes_that_no_header_can_carry_are_counted() {
    let node = with_queue().await;
    let attributes = json!({
        "lines": {"value": "a\nb"},
        "space": {"value": " a"},
        "long": {"value": "x".repeat(3000)},
        "Twice": {"value": "1"},
        "twice": {"value": "2"},
        "number": {"type": "Number", "value": "1.5"},
        "bytes": {"type": "Binary", "value": "AP8="},
    });
    node.send("q", json!([{"body": "a", "attributes": attributes}]))
        .await;
    let (status, headers, _) = received(&node, OCTETS, &Value::Null).await;
    assert_eq!(status, 200);
    let mut found: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("towpath-attribute"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    found.sort_unstable();
    let expected = [
        ("towpath-attribute-bytes", "AP8="),
        ("towpath-attribute-number", "1.5"),
        ("towpath-attribute-twice", "1"),
        ("towpath-attributes-left-out", "4"),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_error_is_a_problem_whatever_was_asked_for() {
    let node = with_queue().await;
    let request = node.request(Method::POST, "nothing/messages/receive", &Value::Null);
    let refused = answer(request.header("accept", OCTETS)).await;
    refused.expect_problem(404, "queue_not_found");
}

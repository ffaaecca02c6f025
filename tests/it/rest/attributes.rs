//! What messages carry beside their bodies: attributes, and the trace that they belong to.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Node, answer, counts, list, with_receipt};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER_TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

async fn with_queue() -> Node {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    node
}

/// Sends a message, and what a receive makes of it.
async fn sent_and_received(node: &Node, message: Value) -> Value {
    node.send("q", json!([message])).await;
    let mut received = node.receive("q", json!({})).await;
    assert_eq!(received.len(), 1);
    received.remove(0)
}

#[tokio::test]
async fn attributes_come_back_with_their_types_in_the_order_of_their_names() {
    let node = with_queue().await;
    let message = json!({"body": "hello", "attributes": {
        "size": {"type": "Number.cm", "value": "-12.50e3"},
        "colour": {"value": "rouge\n¾"},
        "Colour": {"type": "String.name", "value": " red "},
        "thumb": {"type": "Binary", "value": "AP8="},
        "a.b_c-1": {"type": "String", "value": "x"},
    }});
    let received = sent_and_received(&node, message).await;
    let expected = json!({
        "Colour": {"type": "String.name", "value": " red "},
        "a.b_c-1": {"type": "String", "value": "x"},
        "colour": {"type": "String", "value": "rouge\n¾"},
        "size": {"type": "Number.cm", "value": "-12.50e3"},
        "thumb": {"type": "Binary", "value": "AP8="},
    });
    // As text, which has an order.
    assert_eq!(received["attributes"].to_string(), expected.to_string());
    assert_eq!(received["body"], "hello");
}

#[tokio::test]
async fn a_message_without_anything_beside_its_body_says_nothing_of_it() {
    let node = with_queue().await;
    for message in [
        json!({"body": "plain"}),
        json!({"body": "plain", "attributes": {}}),
    ] {
        let received = sent_and_received(&node, message).await;
        let members: Vec<_> = received.as_object().unwrap().keys().collect();
        let expected = [
            "message_id",
            "receipt_handle",
            "body",
            "body_kind",
            "sent_at",
            "first_received_at",
            "receive_count",
            "visible_at",
        ];
        assert_eq!(members, expected);
    }
}

#[tokio::test]
async fn messages_of_one_chunk_keep_each_their_own() {
    let node = with_queue().await;
    let message = |i: usize| match i % 3 {
        0 => json!({"body": i.to_string()}),
        _ => {
            json!({"body": i.to_string(), "attributes": {"i": {"type": "Number", "value": i.to_string()}}})
        }
    };
    let messages: Vec<_> = (0..100).map(message).collect();
    node.send("q", json!(messages)).await;
    let mut left = 100;
    while left > 0 {
        for received in node.receive("q", json!({"max_messages": 1000})).await {
            let i: usize = received["body"].as_str().unwrap().parse().unwrap();
            let sent = message(i);
            assert_eq!(received.get("attributes"), sent.get("attributes"));
            left -= 1;
        }
    }
}

#[tokio::test]
async fn everything_goes_to_the_dead_letter_queue_with_its_message() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    let source = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
    node.put("q", source).await;
    let message = json!({
        "body_json": {"b": 1.10, "a": [null]},
        "attributes": {"colour": {"type": "String.name", "value": "red"}, "raw": {"type": "Binary", "value": "AP8="}},
        "traceparent": TRACE,
        "tracestate": "a=1,b=2",
    });
    let received = sent_and_received(&node, message.clone()).await;
    let nacked = node
        .change_one("q", "nack", &received, with_receipt(&received, json!({})))
        .await;
    assert_eq!(nacked, json!({"dead_lettered": true}));
    let dead = node.receive("dead", json!({"wait_seconds": 20})).await;
    assert_eq!(dead[0]["deaths"][0]["queue"], "q");
    for (member, value) in message.as_object().unwrap() {
        for received in [&received, &dead[0]] {
            assert_eq!(&received[member], value, "{member}");
        }
    }
    assert_eq!(counts(&database, "dead").await, [0, 1, 0]);
}

#[tokio::test]
async fn a_message_has_up_to_64_attributes() {
    let node = with_queue().await;
    let message = |count: usize| {
        let attributes = (0..count).map(|i| (format!("a{i}"), json!({"value": "x"})));
        let attributes: serde_json::Map<_, _> = attributes.collect();
        json!({"body": "a", "attributes": attributes})
    };
    let received = sent_and_received(&node, message(64)).await;
    assert_eq!(received["attributes"].as_object().unwrap().len(), 64);
    let body = json!({"messages": [message(65)]});
    let refused = node.ask(Method::POST, "q/messages", &body).await;
    let problem = refused.expect_problem(422, "invalid");
    assert_eq!(problem["errors"][0]["pointer"], "/messages/0/attributes");
    assert_eq!(problem["errors"][0]["detail"], "up to 64 members");
}

#[tokio::test]
async fn a_message_may_be_as_large_with_its_attributes_as_without() {
    let node = with_queue().await;
    // The body has 4 bytes, the attribute's name 1 and its type 8.
    let value = "x".repeat(1024 * 1024 - 4 - 9);
    let message =
        json!({"body": "body", "attributes": {"a": {"type": "String.l", "value": value}}});
    let received = sent_and_received(&node, message.clone()).await;
    assert_eq!(received["attributes"], message["attributes"]);
    let larger = json!({"messages": [{"body": "body5", "attributes": message["attributes"]}]});
    let refused = node.ask(Method::POST, "q/messages", &larger).await;
    refused.expect_problem(413, "too_large");
}

#[tokio::test]
async fn a_send_that_is_repeated_repeats_its_attributes() {
    let node = with_queue().await;
    let send = async |message: Value| {
        let body = json!({ "messages": [message] });
        let request = node.request(Method::POST, "q/messages", &body);
        answer(
            request
                .header("idempotency-key", "k")
                .header("traceparent", TRACE),
        )
        .await
    };
    let of = |attributes: Value| json!({"body": "a", "attributes": attributes});
    let first = send(of(json!({"a": {"value": "1"}, "b": {"value": "2"}}))).await;
    let again = of(json!({"b": {"value": "2"}, "a": {"type": "String", "value": "1"}}));
    assert_eq!(send(again.clone()).await.expect(200), first.expect(200));
    let mut in_another_span = again;
    in_another_span["traceparent"] = OTHER_TRACE.into();
    assert_eq!(send(in_another_span).await.expect(200), first.expect(200));
    for others in [
        json!({}),
        json!({"a": {"value": "1"}}),
        json!({"a": {"value": "1"}, "b": {"value": "3"}}),
        json!({"a": {"value": "1"}, "b": {"type": "Number", "value": "2"}}),
        json!({"a": {"value": "1"}, "c": {"value": "2"}}),
    ] {
        let other = send(of(others)).await;
        other.expect_problem(422, "idempotency_key_reused");
    }
    assert_eq!(
        node.receive("q", json!({"max_messages": 10})).await.len(),
        1
    );
}

/// The traces of messages that are sent in one request with these headers.
async fn traces(node: &Node, headers: &[(&str, &str)], messages: Value) -> Vec<[Value; 2]> {
    let body = json!({ "messages": messages });
    let mut request = node.request(Method::POST, "q/messages", &body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await.expect(200);
    let received = node.receive("q", json!({"max_messages": 10})).await;
    received
        .iter()
        .map(|message| ["traceparent", "tracestate"].map(|member| message[member].clone()))
        .collect()
}

#[tokio::test]
async fn a_message_without_a_trace_of_its_own_has_that_of_its_request() {
    let node = with_queue().await;
    let messages = json!([
        {"body": "a"},
        {"body": "b", "traceparent": OTHER_TRACE, "tracestate": "own=1"},
        {"body": "c", "traceparent": OTHER_TRACE},
    ]);
    let headers = [
        ("traceparent", TRACE),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ];
    let with_headers = traces(&node, &headers, messages.clone()).await;
    let expected = json!([
        [TRACE, "a=1,b=2"],
        [OTHER_TRACE, "own=1"],
        [OTHER_TRACE, null]
    ]);
    assert_eq!(json!(with_headers), expected);
    let without = traces(&node, &[], messages).await;
    let expected = json!([[null, null], [OTHER_TRACE, "own=1"], [OTHER_TRACE, null]]);
    assert_eq!(json!(without), expected);
}

#[tokio::test]
async fn a_header_that_is_no_trace_is_as_if_it_was_not_there() {
    let node = with_queue().await;
    for (headers, expected) in [
        (
            vec![("traceparent", "nonsense"), ("tracestate", "a=1")],
            [json!(null), json!(null)],
        ),
        (vec![("tracestate", "a=1")], [json!(null), json!(null)]),
        (
            vec![("traceparent", TRACE), ("traceparent", TRACE)],
            [json!(null), json!(null)],
        ),
        (
            vec![("traceparent", TRACE), ("tracestate", "nonsense")],
            [json!(TRACE), json!(null)],
        ),
        (
            vec![("traceparent", TRACE), ("tracestate", "")],
            [json!(TRACE), json!(null)],
        ),
    ] {
        let found = traces(&node, &headers, json!([{"body": "a"}])).await;
        assert_eq!(found, [expected], "{headers:?}");
    }
}

#[tokio::test]
async fn a_batch_is_refused_for_one_bad_attribute() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let messages = json!({"messages": [
        {"body": "a"},
        {"body": "b", "attributes": {"n": {"type": "Number", "value": "many"}}},
    ]});
    let refused = node.ask(Method::POST, "q/messages", &messages).await;
    let problem = refused.expect_problem(422, "invalid");
    let pointer = "/messages/1/attributes/n/value";
    assert_eq!(problem["errors"][0]["pointer"], pointer);
    assert_eq!(counts(&database, "q").await, [0, 0, 0]);
    assert!(list(node.ask_to_receive("q", json!({})).await.expect(200)).is_empty());
}

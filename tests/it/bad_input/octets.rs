//! Messages outside of JSON that break a rule: in their body, in a header, in the query.

use super::{Target, expect_violation, head};

const SEND: &str = "/v1/queues/orders/messages";
const OCTETS: &str = "content-type: application/octet-stream\r\n";

/// Why it is bad, the query, a header, the body, and the field, value and rule that are named.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("no body", "", "", "", "", "", "at least one byte"),
    ("a delay in words", "delay_seconds=soon", "", "a", "delay_seconds", "soon", "a whole number of seconds"),
    ("no delay", "delay_seconds=", "", "a", "delay_seconds", "", "a whole number of seconds"),
    ("a delay with a fraction", "delay_seconds=1.5", "", "a", "delay_seconds", "1.5", "a whole number of seconds"),
    ("a delay of -1 s", "delay_seconds=-1", "", "a", "delay_seconds", "-1", "whole seconds from 0 to 315360000"),
    ("two delays", "delay_seconds=1&delay_seconds=2", "", "a", "delay_seconds", "2", "a parameter is given once"),
    ("a delay as long as messages live", "delay_seconds=345600", "", "a", "delay_seconds", "345600", "less than the 345600 s"),
    ("a life of 0 s", "time_to_live_seconds=0", "", "a", "time_to_live_seconds", "0", "whole seconds from 1 to 315360000"),
    ("a life as long as the delay", "delay_seconds=5&time_to_live_seconds=5", "", "a", "time_to_live_seconds", "5", "more than the 5 s of its delay"),
    ("another parameter", "delay=1", "", "a", "delay", "1", "the query parameters delay_seconds, time_to_live_seconds"),
    ("an attribute without a name", "", "Towpath-Attribute-: x", "a", "towpath-attribute-", "", "1 to 256 letters"),
    ("an attribute with another sign", "", "Towpath-Attribute-a!: x", "a", "towpath-attribute-a!", "a!", "1 to 256 letters"),
    ("an attribute that begins with a dot", "", "Towpath-Attribute-.a: x", "a", "towpath-attribute-.a", ".a", "no dot at its ends"),
    ("an attribute of AWS", "", "Towpath-Attribute-AWS.x: x", "a", "towpath-attribute-aws.x", "aws.x", "does not begin with AWS."),
    ("an empty attribute", "", "Towpath-Attribute-a:", "a", "towpath-attribute-a", "", "is not empty"),
    ("an attribute twice", "", "Towpath-Attribute-a: x\r\nTowpath-Attribute-A: y", "a", "Towpath-Attribute-*", "a", "one attribute of a name"),
    ("a key that is too long", "", "Idempotency-Key: a b", "a", "Idempotency-Key", "a b", "visible ASCII"),
];

#[tokio::test]
async fn a_message_as_it_is_that_breaks_a_rule_is_refused() {
    let target = Target::new().await;
    let before = target.state().await;
    for (label, query, header, body, field, value, rule) in ROWS {
        let path = format!("{SEND}?{query}");
        let line_end = if header.is_empty() { "" } else { "\r\n" };
        let headers = format!("{OCTETS}{header}{line_end}");
        let answer = target.send("POST", &path, &headers, body.as_bytes()).await;
        expect_violation(label, &answer, field, value, rule);
        assert_eq!(target.state().await, before, "{label}");
    }
}

#[tokio::test]
async fn an_attribute_in_a_header_is_utf_8() {
    let target = Target::new().await;
    let head = head(
        "POST",
        SEND,
        &format!("{OCTETS}towpath-attribute-a: $\r\n"),
        1,
    );
    let (before, after) = head.split_once('$').unwrap();
    let request = [before.as_bytes(), b"\xff", after.as_bytes(), b"x"].concat();
    let answer = target.server.ask(&request).await;
    let field = "towpath-attribute-a";
    expect_violation("bytes", &answer, field, "\u{fffd}", "text in UTF-8");
}

#[tokio::test]
async fn attributes_in_headers_are_refused_where_messages_are_json() {
    let target = Target::new().await;
    let headers = "content-type: application/json\r\ntowpath-attribute-a: x\r\n";
    let body = br#"{"messages":[{"body":"a"}]}"#;
    let answer = target.send("POST", SEND, headers, body).await;
    let rule = "a header of application/octet-stream";
    expect_violation("in JSON", &answer, "towpath-attribute-a", "", rule);
}

#[tokio::test]
async fn one_message_is_asked_for_at_a_time() {
    let target = Target::new().await;
    let path = format!("{SEND}/receive");
    let headers = "content-type: application/json\r\naccept: application/octet-stream\r\n";
    let body = br#"{"max_messages":2}"#;
    let answer = target.send("POST", &path, headers, body).await;
    let rule = "1 with Accept: application/octet-stream";
    expect_violation("two", &answer, "/max_messages", "2", rule);
}

#[tokio::test]
async fn a_message_as_it_is_has_the_same_limits() {
    const LIMIT: usize = 1024 * 1024;
    let target = Target::new().await;
    let before = target.state().await;
    let body = vec![0; LIMIT + 1];
    for (headers, length, what) in [
        (OCTETS.to_owned(), LIMIT + 1, "request body"),
        (
            format!("{OCTETS}towpath-attribute-a: b\r\n"),
            LIMIT - 7,
            "message with its attributes",
        ),
    ] {
        let answer = target.send("POST", SEND, &headers, &body[..length]).await;
        let problem = answer.expect_problem(413, "too_large");
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(detail, format!("{what} is larger than {LIMIT} bytes"));
    }
    assert_eq!(target.state().await, before);
}

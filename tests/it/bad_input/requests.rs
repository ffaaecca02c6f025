//! Requests that are refused before any field is looked at: by their target, their body's type or
//! size, or because the body is no JSON.

use super::{Target, head};
use crate::support::Answer;
use crate::support::socket::rest;

const JSON: &str = "content-type: application/json\r\n";
const SEND: &str = "/v1/queues/orders/messages";

/// Why it is bad, the request, its headers and body, and the status, code and words of the answer. `Q`
/// stands for `/v1/queues`.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static [u8],
    u16,
    &'static str,
    &'static [&'static str],
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("no body", "POST Q/orders/messages", JSON, b"", 400, "malformed", &["the body is empty", "a JSON object"]),
    ("no body to delete by", "POST Q/orders/messages/delete", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("no body to extend by", "POST Q/orders/messages/extend", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("no body to nack by", "POST Q/orders/messages/nack", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("no body for a token", "POST /v1/tokens", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("white space", "PUT Q/orders", JSON, b" \n", 400, "malformed", &["not JSON", "line 2"]),
    ("half an object", "POST Q/orders/messages", JSON, b"{\"messages\":[", 400, "malformed", &["not JSON", "line 1 column 13"]),
    ("text after the object", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"a\"}]}{}", 400, "malformed", &["trailing characters"]),
    ("a trailing comma", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"a\"},]}", 400, "malformed", &["trailing comma"]),
    ("a comment", "PUT Q/orders", JSON, b"{/*none*/}", 400, "malformed", &["not JSON"]),
    ("single quotes", "PUT Q/orders", JSON, b"{'receive_wait_seconds':1}", 400, "malformed", &["not JSON"]),
    ("a byte order mark", "PUT Q/orders", JSON, b"\xef\xbb\xbf{}", 400, "malformed", &["not JSON"]),
    ("UTF-16", "PUT Q/orders", JSON, b"\xff\xfe{\0}\0", 400, "malformed", &["not JSON"]),
    ("invalid UTF-8 in a body", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"\xff\"}]}", 400, "malformed", &["not JSON", "unicode"]),
    ("overlong UTF-8 in a body", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"\xc0\xaf\"}]}", 400, "malformed", &["not JSON", "unicode"]),
    ("invalid UTF-8 in a key", "PUT Q/orders", JSON, b"{\"\xff\":1}", 400, "malformed", &["not JSON"]),
    ("half a surrogate pair", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"\\ud800\"}]}", 400, "malformed", &["not JSON"]),
    ("a raw NUL", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"\0\"}]}", 400, "malformed", &["control character"]),
    ("a raw line break", "POST Q/orders/messages", JSON, b"{\"messages\":[{\"body\":\"a\nb\"}]}", 400, "malformed", &["control character"]),
    ("1e400", "PUT Q/orders", JSON, b"{\"receive_wait_seconds\":1e400}", 400, "malformed", &["number out of range"]),
    ("NaN", "PUT Q/orders", JSON, b"{\"receive_wait_seconds\":NaN}", 400, "malformed", &["not JSON"]),
    ("a leading zero", "PUT Q/orders", JSON, b"{\"receive_wait_seconds\":01}", 400, "malformed", &["invalid number"]),
    ("gzip", "POST Q/orders/messages", "content-type: application/json\r\ncontent-encoding: gzip\r\n", b"\x1f\x8b\x08\0\0\0\0\0", 415, "unsupported_media_type", &["Content-Encoding is \"gzip\"", "not compressed"]),
    ("gzip after all", "PUT Q/orders", "content-type: application/json\r\ncontent-encoding: identity\r\ncontent-encoding: gzip\r\n", b"{}", 415, "unsupported_media_type", &["Content-Encoding is \"gzip\""]),
    ("no Content-Type", "POST Q/orders/messages", "", b"{\"messages\":[{\"body\":\"a\"}]}", 415, "unsupported_media_type", &["application/json"]),
    ("an empty Content-Type", "POST Q/orders/messages", "content-type:\r\n", b"{\"messages\":[{\"body\":\"a\"}]}", 415, "unsupported_media_type", &["application/json"]),
    ("text", "POST Q/orders/messages", "content-type: text/plain\r\n", b"{\"messages\":[{\"body\":\"a\"}]}", 415, "unsupported_media_type", &["\"text/plain\"", "application/json or application/octet-stream"]),
    ("bytes compressed", "POST Q/orders/messages", "content-type: application/octet-stream\r\ncontent-encoding: gzip\r\n", b"\x1f\x8b", 415, "unsupported_media_type", &["Content-Encoding is \"gzip\"", "application/octet-stream"]),
    ("bytes for a queue", "PUT Q/orders", "content-type: application/octet-stream\r\n", b"{}", 415, "unsupported_media_type", &["\"application/octet-stream\"", "reads application/json,"]),
    ("a form", "PUT Q/orders", "content-type: application/x-www-form-urlencoded\r\n", b"receive_wait_seconds=1", 415, "unsupported_media_type", &["x-www-form-urlencoded"]),
    ("a form in parts", "POST /v1/tokens", "content-type: multipart/form-data; boundary=x\r\n", b"--x--", 415, "unsupported_media_type", &["multipart/form-data"]),
    ("JSON lines", "POST Q/orders/messages", "content-type: application/jsonl\r\n", b"{}", 415, "unsupported_media_type", &["application/jsonl"]),
    ("a list of types", "POST Q/orders/messages", "content-type: application/json, text/plain\r\n", b"{}", 415, "unsupported_media_type", &["text/plain"]),
    ("a type that is no text", "POST Q/orders/messages", "content-type: \u{fffd}\r\n", b"{}", 415, "unsupported_media_type", &["application/json"]),
    ("invalid UTF-8 in a name", "PUT Q/%ff", "", b"", 400, "malformed", &["UTF-8"]),
    ("overlong UTF-8 in a name", "PUT Q/%c0%af", "", b"", 400, "malformed", &["UTF-8"]),
    ("a surrogate in a name", "PUT Q/%ed%a0%80", "", b"", 400, "malformed", &["UTF-8"]),
    ("an unknown queue", "GET Q/nothing", "", b"", 404, "queue_not_found", &["\"nothing\"", "PUT /v1/queues/nothing"]),
    ("a queue in another case", "DELETE Q/Orders", "", b"", 404, "queue_not_found", &["\"Orders\""]),
    ("an unknown queue to send to", "POST Q/nothing/messages", JSON, b"{\"messages\":[{\"body\":\"a\"}]}", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to receive from", "POST Q/nothing/messages/receive", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to delete from", "POST Q/nothing/messages/delete", JSON, b"{\"messages\":[{\"receipt_handle\":\"a\"}]}", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to extend in", "POST Q/nothing/messages/extend", JSON, b"{\"messages\":[{\"receipt_handle\":\"a\",\"visibility_timeout_seconds\":1}]}", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to nack in", "POST Q/nothing/messages/nack", JSON, b"{\"messages\":[{\"receipt_handle\":\"a\"}]}", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to purge", "POST Q/nothing/purge", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to count", "GET Q/nothing/counts", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue to delete by force", "DELETE Q/nothing?force=true", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("a purge by another method", "DELETE Q/orders/purge", "", b"", 405, "method_not_allowed", &["DELETE is not a method of /v1/queues/orders/purge"]),
    ("counts by another method", "POST Q/orders/counts", "", b"", 405, "method_not_allowed", &["POST"]),
    ("an extend by another method", "PUT Q/orders/messages/extend", JSON, b"{}", 405, "method_not_allowed", &["PUT"]),
    ("an unknown queue to look into", "GET Q/nothing/messages", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown queue of a message", "GET Q/nothing/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18", "", b"", 404, "queue_not_found", &["\"nothing\""]),
    ("an unknown message", "GET Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18", "", b"", 404, "message_not_found", &["5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18"]),
    ("an unknown message to delete", "DELETE Q/orders/messages/5D3C9A40-1B7E-8F21-9C55-0A4F6E2B7D18", "", b"", 404, "message_not_found", &["5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18"]),
    ("invalid UTF-8 in an id", "GET Q/orders/messages/%ff", "", b"", 400, "malformed", &["UTF-8"]),
    ("no body to reschedule by", "PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("a message by another method", "POST Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18", JSON, b"{}", 405, "method_not_allowed", &["POST"]),
    ("an unknown path", "GET /v2/queues", "", b"", 404, "no_such_path", &["/v2/queues", "/v1/openapi.json"]),
    ("the root", "GET /", "", b"", 404, "no_such_path", &["nothing at /"]),
    ("a path that climbs", "GET Q/../../etc/passwd", "", b"", 404, "no_such_path", &["/v1/queues/../../etc/passwd"]),
    ("a slash at the end", "GET Q/orders/", "", b"", 404, "no_such_path", &["/v1/queues/orders/"]),
    ("a slash at the beginning", "GET //v1/queues", "", b"", 404, "no_such_path", &["//v1/queues"]),
    ("a path in another case", "GET /V1/queues", "", b"", 404, "no_such_path", &["/V1/queues"]),
    ("no name", "PUT Q/", "", b"", 404, "no_such_path", &["/v1/queues/"]),
    ("a method of another path", "POST Q", JSON, b"{}", 405, "method_not_allowed", &["POST is not a method of /v1/queues"]),
    ("a method that is not there", "PATCH Q", JSON, b"{}", 405, "method_not_allowed", &["PATCH"]),
    ("an unknown queue to patch", "PATCH Q/nothing", JSON, b"{}", 404, "queue_not_found", &["\"nothing\""]),
    ("no body to patch by", "PATCH Q/orders", JSON, b"", 400, "malformed", &["the body is empty"]),
    ("a patch of another kind", "PATCH Q/orders", "content-type: application/json-patch+json\r\n", b"[]", 415, "unsupported_media_type", &["json-patch+json"]),
    ("a patch without a type", "PATCH Q/orders", "", b"{}", 415, "unsupported_media_type", &["application/json"]),
    ("another version to delete", "DELETE Q/orders", "if-match: \"2\"\r\n", b"", 412, "precondition_failed", &["If-Match", "version 1"]),
    ("another version to replace", "PUT Q/orders", "if-match: \"2\"\r\n", b"", 412, "precondition_failed", &["If-Match", "version 1"]),
    ("a queue to create that is there", "PUT Q/orders", "if-none-match: *\r\n", b"", 412, "precondition_failed", &["If-None-Match", "version 1"]),
    ("a queue to replace that is not there", "PUT Q/nothing", "if-match: *\r\n", b"", 412, "precondition_failed", &["there is no queue \"nothing\""]),
    ("a method in another case", "delete Q/orders", "", b"", 405, "method_not_allowed", &["delete"]),
    ("a method of no protocol", "BREW Q/orders", "", b"", 405, "method_not_allowed", &["BREW"]),
    ("a method that echoes", "TRACE Q/orders", "", b"", 405, "method_not_allowed", &["TRACE"]),
    ("a probe that changes", "POST /healthz", "", b"", 405, "method_not_allowed", &["POST is not a method of /healthz"]),
    ("no target", "OPTIONS *", "", b"", 404, "no_such_path", &["*"]),
];

#[track_caller]
fn expect(label: &str, answer: &Answer, status: u16, code: &str, words: &[&str]) {
    assert_eq!(answer.status, status, "{label}: {answer:?}");
    let problem = answer.expect_problem(status, code);
    let detail = problem["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "{label}: {detail}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_or_found_is_refused() {
    let target = Target::new().await;
    let before = target.state().await;
    for (label, request, headers, body, status, code, words) in ROWS {
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.replacen('Q', "/v1/queues", 1);
        let answer = target.send(method, &path, headers, body).await;
        expect(label, &answer, *status, code, words);
        assert_eq!(target.state().await, before, "{label}");
    }
}

#[tokio::test]
async fn deep_json_is_refused() {
    let target = Target::new().await;
    let before = target.state().await;
    let deep = "[".repeat(100_000);
    for (label, body, status) in [
        ("arrays", deep.clone(), 422),
        ("in a list", format!(r#"{{"messages":{deep}"#), 422),
        (
            "in a message",
            format!(r#"{{"messages":[{{"body":{deep}"#),
            422,
        ),
        ("in an unknown field", format!(r#"{{"x":{deep}"#), 422),
        ("objects", r#"{"messages":"#.repeat(100_000), 422),
    ] {
        let answer = target.ask("POST", SEND, &body).await;
        assert_eq!(answer.status, status, "{label}: {answer:?}");
        answer.expect_problem(status, "invalid");
        assert_eq!(target.state().await, before, "{label}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_kept() {
    const LIMIT: usize = 8 * 1024 * 1024;
    let target = Target::new().await;
    let before = target.state().await;

    let announced = head("POST", SEND, JSON, LIMIT + 1);
    let answer = target.server.ask(announced.as_bytes()).await;
    let words = ["request body", "8388608 bytes"];
    expect("announced", &answer, 413, "too_large", &words);

    let sent = [announced.as_bytes(), &vec![b' '; LIMIT + 1]].concat();
    let answer = target.server.ask(&sent).await;
    expect("announced and sent", &answer, 413, "too_large", &words);

    let chunked = announced.replace(
        &format!("content-length: {}", LIMIT + 1),
        "transfer-encoding: chunked",
    );
    let chunk = [b"100000\r\n", &[b' '; 0x10_0000][..], b"\r\n"].concat();
    let endless = [chunked.as_bytes(), &chunk.repeat(9)].concat();
    let answer = target.server.ask(&endless).await;
    expect("in chunks", &answer, 413, "too_large", &words);

    for (label, unit) in [("ASCII", "x"), ("two bytes a character", "é")] {
        let fits = unit.repeat(1024 * 1024 / unit.len());
        let body = format!(r#"{{"messages":[{{"body":"a"}},{{"body":"x{fits}"}}]}}"#);
        let answer = target.ask("POST", SEND, &body).await;
        let words = ["/messages/1/body", "1048576 bytes"];
        expect(label, &answer, 413, "too_large", &words);
    }
    // By one byte: the body is of 4, the name of 1, the type of 6.
    let value = "x".repeat(1024 * 1024 - 10);
    let attribute = format!(r#""attributes":{{"a":{{"value":"{value}"}}}}"#);
    let body = format!(r#"{{"messages":[{{"body":"a"}},{{"body":"body",{attribute}}}]}}"#);
    let answer = target.ask("POST", SEND, &body).await;
    let words = ["/messages/1 is larger than 1048576 bytes"];
    expect("with an attribute", &answer, 413, "too_large", &words);
    for (label, reason) in [("ASCII", "x".repeat(1025)), ("umlauts", "é".repeat(513))] {
        let handle = &target.handle;
        let body =
            format!(r#"{{"messages":[{{"receipt_handle":"{handle}","reason":"{reason}"}}]}}"#);
        let path = "/v1/queues/orders/messages/nack";
        let answer = target.ask("POST", path, &body).await;
        let words = ["/messages/0/reason", "1024 bytes"];
        expect(label, &answer, 413, "too_large", &words);
    }
    assert_eq!(target.state().await, before);
}

#[tokio::test]
async fn a_request_that_ends_early_changes_nothing() {
    use tokio::io::AsyncWriteExt as _;

    let target = Target::new().await;
    let before = target.state().await;
    let body = br#"{"messages":[{"body":"a"}]}"#;
    let head = head("POST", SEND, JSON, body.len() + 1);
    let mut stream = target.server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream.shutdown().await.unwrap();
    let _whatever = rest(&mut stream).await;
    assert_eq!(target.state().await, before);
}

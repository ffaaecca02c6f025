//! Bytes that are not quite HTTP, and those by which one request is smuggled inside another: never
//! two answers where a proxy before us has seen one request, and nothing changes.

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Target;
use crate::support::socket::{PATIENCE, ask_on, rest};
use crate::support::{all_rights, token};

/// Why it is bad, what is sent, and the statuses that it may be answered by, in order. `$` stands
/// for an Authorization header and `{S}` for a whole request that would delete the queue.
#[rustfmt::skip]
const CLOSED: &[(&str, &str, &[u16])] = &[
    ("not HTTP", "hello\r\n\r\n", &[400]),
    ("TLS", "\x16\x03\x01\x02\0\x01\0\x01", &[400]),
    ("HTTP/0.9", "GET /healthz\r\n\r\n", &[400]),
    ("HTTP/3.0", "GET /healthz HTTP/3.0\r\n\r\n", &[400]),
    ("HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n{S}", &[200]),
    ("HTTP/1.0 in chunks", "POST /v1/queues/orders/messages HTTP/1.0\r\n$transfer-encoding: chunked\r\n\r\n0\r\n\r\n{S}", &[400]),
    ("half of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, and much too long", &[]),
    ("spaces in the target", "GET /healthz a b HTTP/1.1\r\nhost: x\r\n\r\n{S}", &[400]),
    ("a broken target", "GET /\x01 HTTP/1.1\r\nhost: x\r\n\r\n{S}", &[400]),
    ("a header that goes on", "GET /healthz HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n{S}", &[400]),
    ("a first header that goes on", "GET /healthz HTTP/1.1\r\n x: a\r\nhost: x\r\n\r\n{S}", &[400]),
    ("a space before a colon", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length : 2\r\n\r\n{}{S}", &[400]),
    ("a header without a name", "GET /healthz HTTP/1.1\r\n: x\r\n\r\n{S}", &[400]),
    ("a header without a colon", "GET /healthz HTTP/1.1\r\nhost\r\n\r\n{S}", &[400]),
    ("NUL in a header", "GET /healthz HTTP/1.1\r\nx: a\0b\r\n\r\n{S}", &[400]),
    ("CR in a header", "GET /healthz HTTP/1.1\r\nx: a\rb\r\n\r\n{S}", &[400]),
    ("two lengths", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: 2\r\ncontent-length: 400\r\n\r\n{}{S}", &[400]),
    ("a list of lengths", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: 2, 2\r\n\r\n{}{S}", &[400]),
    ("a length with a sign", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: +2\r\n\r\n{}{S}", &[400]),
    ("a length below zero", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: -1\r\n\r\n{}{S}", &[400]),
    ("a length in hexadecimal", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: 0x2\r\n\r\n{}{S}", &[400]),
    ("a length of 2^64", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length: 18446744073709551616\r\n\r\n{}{S}", &[400]),
    ("an empty length", "PUT /v1/queues/orders HTTP/1.1\r\n$content-length:\r\n\r\n{}{S}", &[400]),
    ("a length before chunks", "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ncontent-length: 400\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{S}", &[200]),
    ("chunks before a length", "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ntransfer-encoding: chunked\r\ncontent-length: 400\r\n\r\n0\r\n\r\n{S}", &[200]),
    ("chunks by another name", "PUT /v1/queues/orders HTTP/1.1\r\n$transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{S}", &[400]),
    ("chunks that are not last", "PUT /v1/queues/orders HTTP/1.1\r\n$transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{S}", &[400]),
    ("chunks with a tab", "PUT /v1/queues/orders HTTP/1.1\r\n$transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n{S}", &[400]),
    ("no transfer coding", "PUT /v1/queues/orders HTTP/1.1\r\n$transfer-encoding: identity\r\n\r\n{S}", &[400]),
    ("a chunk of no size", "POST /v1/queues/orders/messages HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{S}", &[400]),
    ("a chunk of 2^64", "POST /v1/queues/orders/messages HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n{S}", &[400]),
    ("a chunk that is longer than it says", "POST /v1/queues/orders/messages HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{S}", &[400]),
    ("a chunk that ends in LF", "POST /v1/queues/orders/messages HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\n{\r\n0\r\n\r\n{S}", &[400]),
    ("a body that is not read", "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n{S}", &[401]),
];

#[tokio::test]
async fn what_is_not_quite_http_ends_the_connection() {
    let target = Target::new().await;
    let before = target.state().await;
    let authorization = format!("authorization: Bearer {}\r\n", token(all_rights()));
    let smuggled = format!("DELETE /v1/queues/orders HTTP/1.1\r\nhost: x\r\n{authorization}\r\n");
    for (label, text, statuses) in CLOSED {
        let request = text.replace('$', &authorization).replace("{S}", &smuggled);
        let mut stream = target.server.connect().await;
        let writing = async { stream.write_all(request.as_bytes()).await };
        timeout(PATIENCE, writing).await.unwrap().unwrap();
        let answers = rest(&mut stream).await;
        let found: Vec<u16> = answers
            .split("HTTP/1.1 ")
            .chain(answers.split("HTTP/1.0 ").skip(1))
            .skip(1)
            .map(|answer| answer.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(&found, statuses, "{label}: {answers}");
        assert_eq!(target.state().await, before, "{label}");
    }
    target.ask("GET", "/healthz", "").await.expect(200);
}

/// Unusual, and right: what is sent, and its answer.
const SERVED: &[(&str, &str, u16)] = &[
    (
        "a target with a host",
        "GET http://elsewhere.example/v1/queues/orders HTTP/1.1\r\nhost: elsewhere.example\r\n$\r\n",
        200,
    ),
    (
        "a target with a host and no path",
        "GET http://elsewhere.example HTTP/1.1\r\nhost: elsewhere.example\r\n$\r\n",
        404,
    ),
    (
        "a tunnel",
        "CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: elsewhere.example:443\r\n$\r\n",
        404,
    ),
    (
        "the same length twice",
        "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\n\
         content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        200,
    ),
    (
        "chunks with an extension and a trailer",
        "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\n$content-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nauthorization: x\r\n\r\n",
        200,
    ),
];

#[tokio::test]
async fn unusual_requests_are_served_on_one_connection() {
    let target = Target::new().await;
    let before = target.state().await;
    let authorization = format!("authorization: Bearer {}\r\n", token(all_rights()));
    for (label, text, status) in SERVED {
        let request = text.replace('$', &authorization);
        let answer = target.server.ask(request.as_bytes()).await;
        assert_eq!(answer.status, *status, "{label}: {answer:?}");
        assert_eq!(target.state().await, before, "{label}");
    }
}

#[tokio::test]
async fn a_request_says_once_for_which_host_it_is() {
    let target = Target::new().await;
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "host: a\r\nhost: b\r\n", 400),
        ("1.1", "host: a\r\nHost: a\r\n", 400),
        ("1.1", "host: a\r\n", 200),
        ("1.1", "host:\r\n", 200),
        ("1.0", "", 200),
        ("1.0", "host: a\r\n", 200),
        ("1.0", "host: a\r\nhost: b\r\n", 400),
    ] {
        for path in ["/healthz", "/v1/openapi.json", "http://a/healthz"] {
            let request = format!("GET {path} HTTP/{version}\r\n{hosts}\r\n");
            let answer = target.server.ask(request.as_bytes()).await;
            assert_eq!(answer.status, status, "{request}: {answer:?}");
            if status == 400 {
                let problem = answer.expect_problem(400, "malformed");
                assert!(problem["detail"].as_str().unwrap().contains("Host"));
            }
        }
    }
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_will_be_read() {
    let target = Target::new().await;
    let expecting = |authorization: &str, length: usize| {
        format!(
            "PUT /v1/queues/orders HTTP/1.1\r\nhost: x\r\n{authorization}content-type: application/json\r\n\
             expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let good = format!("authorization: Bearer {}\r\n", token(all_rights()));
    for (authorization, length, status) in [("", 2, 401), (good.as_str(), 9_000_000, 413)] {
        let request = expecting(authorization, length);
        let answer = target.server.ask(request.as_bytes()).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let mut stream = target.server.connect().await;
    let request = expecting(&good, 2);
    let interim = ask_on(&mut stream, request.as_bytes()).await;
    assert_eq!(interim.status, 100);
    let answer = ask_on(&mut stream, b"{}").await;
    answer.expect(200);
}

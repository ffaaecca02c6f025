//! Which addresses may ask, and whom a proxy may speak for.

use axum::body::Body;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use towpath::auth::{Allowlist, Networks};

use super::{ask, bearer, head, operations};
use crate::support::socket::{PATIENCE, Server, ask_on, rest};
use crate::support::{all_rights, http, token};

/// What the header says when a trusted proxy sends it, who that makes the client, and whether it
/// may ask where 203.0.113.0/24 and `2001:db8::/32` may.
const FORWARDED: &[(&str, &[&str], u16)] = &[
    ("nobody but the proxy", &[], 403),
    ("a good client", &["203.0.113.9"], 200),
    ("a bad client", &["198.51.100.1"], 403),
    (
        "a bad client that claims to be good",
        &["203.0.113.9, 198.51.100.1"],
        403,
    ),
    (
        "the same in two headers",
        &["203.0.113.9", "198.51.100.1"],
        403,
    ),
    (
        "a good client behind a lie",
        &["198.51.100.1, 203.0.113.9"],
        200,
    ),
    (
        "a good client behind a lie of its own",
        &["198.51.100.1", "203.0.113.9"],
        200,
    ),
    (
        "a good client behind garbage",
        &["<script>, 203.0.113.9"],
        200,
    ),
    (
        "proxies between",
        &["203.0.113.9, 10.1.1.1", "127.0.0.1,10.2.2.2"],
        200,
    ),
    (
        "a bad client behind proxies",
        &["203.0.113.9, 198.51.100.1, 10.1.1.1"],
        403,
    ),
    ("proxies only", &["10.1.1.1, 10.2.2.2"], 403),
    ("IPv4 written as IPv6", &["::ffff:203.0.113.9"], 200),
    (
        "a proxy written as IPv6",
        &["203.0.113.9, ::ffff:10.1.1.1"],
        200,
    ),
    ("IPv6", &["2001:db8::1"], 200),
    ("another IPv6", &["2001:db9::1"], 403),
    ("a port", &["203.0.113.9:4711"], 200),
    ("IPv6 with a port", &["[2001:db8::1]:4711"], 200),
    ("garbage", &["unknown"], 400),
    (
        "garbage behind a proxy",
        &["203.0.113.9, unknown, 10.1.1.1"],
        400,
    ),
    ("nothing", &[""], 400),
    ("nothing behind a comma", &["203.0.113.9,"], 400),
    ("a name", &["localhost"], 400),
    ("a number", &["3405803785"], 400),
    ("octal", &["0313.0.0161.011"], 400),
    ("too few numbers", &["203.0.113"], 400),
    (
        "too many hops",
        &["203.0.113.9, 203.0.113.9 203.0.113.9"],
        400,
    ),
];

async fn walled(proxies: &[&str]) -> Server {
    let networks = |list: &[&str]| Networks::new(list.iter().map(|one| one.parse().unwrap()));
    let mut http = http().await;
    http.allowlist = Allowlist::new(networks(&["203.0.113.0/24", "2001:db8::/32"]));
    http.trusted_proxies = networks(proxies);
    Server::start(http).await
}

#[tokio::test]
async fn only_the_nearest_untrusted_address_counts() {
    let server = walled(&["127.0.0.0/8", "10.0.0.0/8"]).await;
    let good = bearer(&token(all_rights()));
    for (label, hops, status) in FORWARDED {
        let hops: String = hops
            .iter()
            .map(|hop| format!("X-Forwarded-For: {hop}\r\n"))
            .collect();
        let headers = format!("{good}{hops}");
        let answer = ask(server.address, "GET", "/v1/queues", &headers, "").await;
        assert_eq!(answer.status, *status, "{label}: {answer:?}");
        match status {
            403 => answer.expect_problem(403, "address_not_allowed"),
            400 => answer.expect_problem(400, "malformed"),
            _ => answer.expect(200),
        };
    }
    let many = "198.51.100.1, ".repeat(900);
    let many = format!("{good}x-forwarded-for: {many}203.0.113.9\r\n");
    ask(server.address, "GET", "/v1/queues", &many, "")
        .await
        .expect(200);
    for other in [
        "forwarded: for=203.0.113.9",
        "x-real-ip: 203.0.113.9",
        "client-ip: 203.0.113.9",
    ] {
        let headers = format!("{good}{other}\r\n");
        let answer = ask(server.address, "GET", "/v1/queues", &headers, "").await;
        answer.expect_problem(403, "address_not_allowed");
    }
}

#[tokio::test]
async fn an_untrusted_peer_speaks_for_itself_only() {
    let server = walled(&["10.0.0.0/8"]).await;
    let good = bearer(&token(all_rights()));
    for forwarded in [
        "",
        "x-forwarded-for: 203.0.113.9\r\n",
        "x-forwarded-for: unknown\r\n",
    ] {
        let headers = format!("{good}{forwarded}");
        let answer = ask(server.address, "GET", "/v1/queues", &headers, "").await;
        let problem = answer.expect_problem(403, "address_not_allowed");
        assert!(problem["detail"].as_str().unwrap().contains("127.0.0.1"));
    }
}

#[tokio::test]
async fn the_allowlist_closes_everything_but_the_probes() {
    let server = walled(&[]).await;
    let (public, closed) = operations();
    let others = [("GET", "/"), ("PATCH", "/v1/queues"), ("POST", "/healthz/")];
    let others = others.map(|(method, path)| (method.to_owned(), path.to_owned()));
    for (method, path) in public.iter().chain(&closed).chain(&others) {
        let is_probe = ["/healthz", "/readyz"].contains(&path.as_str());
        for headers in [String::new(), bearer(&token(all_rights()))] {
            if is_probe {
                ask(server.address, method, path, &headers, "")
                    .await
                    .expect(200);
            } else {
                let answer = server.ask(head(method, path, &headers).as_bytes()).await;
                answer.expect_problem(403, "address_not_allowed");
            }
        }
    }
}

#[tokio::test]
async fn a_stranger_gets_one_answer_and_no_place() {
    let server = walled(&[]).await;
    for (path, status) in [("/healthz", 200), ("/v1/openapi.json", 403)] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut stream = server.connect().await;
        let answer = ask_on(&mut stream, request.as_bytes()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(rest(&mut stream).await, "");
    }
}

#[tokio::test]
async fn a_strangers_connection_of_http_2_is_closed_too() {
    let server = walled(&[]).await;
    let io = TokioIo::new(server.connect().await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.unwrap();
    let driver = TaskTracker::new().spawn(connection);
    let request = Request::get("http://x/v1/queues").body(Body::empty());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 403);
    let ended = timeout(PATIENCE, driver).await.unwrap();
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn a_proxys_connection_outlives_a_client_who_is_refused() {
    let server = walled(&["127.0.0.0/8"]).await;
    let mut stream = server.connect().await;
    for (client, status) in [("198.51.100.1", 403), ("203.0.113.9", 200)] {
        let request = format!(
            "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\n\r\n"
        );
        let answer = ask_on(&mut stream, request.as_bytes()).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("connection"), "");
    }
}

#[tokio::test]
async fn an_empty_allowlist_lets_everyone_ask() {
    let mut open = http().await;
    open.allowlist = Allowlist::new(Networks::default());
    let server = Server::start(open).await;
    let headers = format!(
        "{}x-forwarded-for: unknown\r\n",
        bearer(&token(all_rights()))
    );
    ask(server.address, "GET", "/v1/queues", &headers, "")
        .await
        .expect(200);
}

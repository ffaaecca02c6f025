//! The accept loop, over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use towpath::http::HttpLimits;

use crate::support::socket::{PATIENCE, Server, rest};
use crate::support::{all_rights, http, limits, token};

fn impatient() -> HttpLimits {
    HttpLimits {
        max_connections: 1,
        first_request_timeout: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(50),
        body_timeout: Duration::from_millis(50),
        ..limits()
    }
}

async fn start(limits: HttpLimits) -> Server {
    let mut http = http().await;
    http.limits = limits;
    Server::start(http).await
}

/// Reads until a text has come.
async fn until(stream: &mut TcpStream, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let mut some = [0; 4096];
        let length = timeout(PATIENCE, stream.read(&mut some))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0, "closed before {text:?}: {read}");
        read.push_str(std::str::from_utf8(&some[..length]).unwrap());
    }
}

const PROBE: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

fn message(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        token(all_rights()),
        body.len()
    )
}

/// A client of HTTP/2 with one connection.
struct Http2 {
    sender: SendRequest<Body>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Http2 {
    /// With a window for each answer, in bytes.
    async fn connect(address: SocketAddr, window: Option<u32>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Self {
            sender,
            driver: TaskTracker::new().spawn(connection),
        }
    }

    async fn ask(&mut self, request: request::Builder, body: &'static str) -> Response<Incoming> {
        let request = request.body(Body::from(body)).unwrap();
        let answer = self.sender.send_request(request);
        timeout(PATIENCE, answer).await.unwrap().unwrap()
    }

    async fn has_ended(self) {
        // However it ended: a server may not wait for those who stall.
        let _ended = timeout(PATIENCE, self.driver).await.unwrap().unwrap();
    }
}

/// A connection on which a receive is waiting.
async fn long_poll(server: &Server, seconds: u32) -> TcpStream {
    let mut stream = server.connect().await;
    let put = message("PUT", "/v1/queues/orders", "{}");
    stream.write_all(put.as_bytes()).await.unwrap();
    until(&mut stream, "\"version\"").await;
    let path = "/v1/queues/orders/messages/receive";
    let receive = message("POST", path, &format!(r#"{{"wait_seconds":{seconds}}}"#));
    stream.write_all(receive.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_connection_answers_one_request_after_the_other() {
    let server = start(limits()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(PROBE.as_bytes()).await.unwrap();
        until(&mut stream, r#"{"status":"ok"}"#).await;
    }
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let server = start(limits()).await;
    let mut client = Http2::connect(server.address, None).await;
    let answer = client.ask(Request::get("http://x/healthz"), "").await;
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"{"status":"ok"}"#);
}

#[tokio::test]
async fn an_idle_connection_of_http_2_is_closed_later() {
    let server = start(impatient()).await;
    let mut client = Http2::connect(server.address, None).await;
    client.ask(Request::get("http://x/healthz"), "").await;
    client.has_ended().await;
}

#[tokio::test]
async fn a_connection_of_http_2_with_a_request_under_way_is_not_idle() {
    let server = start(impatient()).await;
    let mut client = Http2::connect(server.address, None).await;
    let authorized = |path: &str| {
        Request::post(format!("http://x{path}"))
            .header("authorization", format!("Bearer {}", token(all_rights())))
            .header("content-type", "application/json")
    };
    let put = authorized("/v1/queues/orders").method("PUT");
    assert_eq!(client.ask(put, "{}").await.status(), 201);
    let receive = authorized("/v1/queues/orders/messages/receive");
    let answer = client.ask(receive, r#"{"wait_seconds":1}"#).await;
    assert_eq!(answer.status(), 200);
    client.has_ended().await;
}

#[tokio::test]
async fn answers_that_are_not_taken_do_not_keep_a_connection() {
    let server = start(impatient()).await;
    let mut greedy = server.connect().await;
    let many = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    greedy.write_all(many.as_bytes()).await.unwrap();
    let mut second = server.connect().await;
    second.write_all(PROBE.as_bytes()).await.unwrap();
    until(&mut second, "200 OK").await;
}

#[tokio::test]
async fn answers_of_http_2_that_are_not_taken_do_not_keep_a_connection() {
    for window in [0, 1] {
        let server = start(impatient()).await;
        let mut greedy = Http2::connect(server.address, Some(window)).await;
        let openapi = Request::get("http://x/v1/openapi.json");
        let _not_taken = greedy.ask(openapi, "").await;
        greedy.has_ended().await;
    }
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let narrow = HttpLimits {
        first_request_timeout: Duration::from_millis(50),
        ..limits()
    };
    let server = start(narrow).await;
    for beginning in ["", "PRI * HTT", "GET /healthz HTTP/1.1\r\nhost:"] {
        let mut stream = server.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(rest(&mut stream).await, "", "{beginning}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_later() {
    let narrow = HttpLimits {
        idle_timeout: Duration::from_millis(50),
        ..limits()
    };
    let server = start(narrow).await;
    let mut stream = server.connect().await;
    stream.write_all(PROBE.as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("}"),
        "{text}"
    );
}

#[tokio::test]
async fn heads_beyond_the_limits_are_answered_by_431() {
    let server = start(limits()).await;
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    for head in [large, many] {
        let mut stream = server.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        until(&mut stream, "HTTP/1.1 431").await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let narrow = HttpLimits {
        max_connections: 1,
        ..limits()
    };
    let server = start(narrow).await;
    let mut first = server.connect().await;
    first.write_all(PROBE.as_bytes()).await.unwrap();
    until(&mut first, "200 OK").await;
    let mut second = server.connect().await;
    second.write_all(PROBE.as_bytes()).await.unwrap();
    let early = timeout(Duration::from_millis(50), second.readable()).await;
    assert!(early.is_err(), "the second was answered beside the first");
    drop(first);
    until(&mut second, "200 OK").await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_nothing_begin() {
    let server = start(limits()).await;
    let mut idle = server.connect().await;
    idle.write_all(PROBE.as_bytes()).await.unwrap();
    until(&mut idle, "200 OK").await;
    let mut silent = server.connect().await;
    let mut waiting = long_poll(&server, 1).await;
    // The receive is under way once the server has read all that was sent before.
    let mut after = server.connect().await;
    after.write_all(PROBE.as_bytes()).await.unwrap();
    until(&mut after, "200 OK").await;

    server.shutdown.stop.cancel();
    let answer = rest(&mut waiting).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with(r#"{"messages":[]}"#), "{answer}");
    for stream in [&mut idle, &mut silent, &mut after] {
        let _last = rest(stream).await;
    }
    let address = server.address;
    server.has_ended().await;
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn requests_that_do_not_end_are_dropped_at_the_deadline() {
    let narrow = HttpLimits {
        drain_timeout: Duration::from_millis(50),
        ..limits()
    };
    let server = start(narrow).await;
    let mut waiting = long_poll(&server, 20).await;
    let mut after = server.connect().await;
    after.write_all(PROBE.as_bytes()).await.unwrap();
    until(&mut after, "200 OK").await;
    server.shutdown.stop.cancel();
    server.has_ended().await;
    assert_eq!(rest(&mut waiting).await, "");
}

//! What stands before every handler, over a router without a socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::Frame;
use serde_json::json;

use crate::support::database::Database;
use crate::support::{ask, http, http_on, request, router};

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let router = router().await;
    for path in [
        "/",
        "/v1",
        "/v1/queues/",
        "/v1/queues/a/b",
        "/v1/queues/orders/messages/",
        "/v2",
    ] {
        let answer = ask(&router, request("GET", path, "")).await;
        answer.expect_problem(404, "no_such_path");
    }
    let answer = ask(&router, request("POST", "/v1/queues/orders", "")).await;
    answer.expect_problem(405, "method_not_allowed");
    let allowed: Vec<_> = answer.header("allow").split(',').collect();
    assert_eq!(allowed, ["PUT", "GET", "HEAD", "PATCH", "DELETE"]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
    let mut small = http().await;
    small.limits.max_request_bytes = 100;
    let router = towpath::http::router(small);
    let body = json!({"messages": [{"body": "x".repeat(100)}]}).to_string();
    let with_length = request("POST", "/v1/queues/orders/messages", &body);
    let answer = ask(&router, with_length).await;
    answer.expect_problem(413, "too_large");

    let without_length = request("POST", "/v1/queues/orders/messages", "{}").map(|_| endless());
    ask(&router, without_length)
        .await
        .expect_problem(413, "too_large");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cut() {
    let database = Database::new().await;
    let patient = towpath::http::router(http_on(&database).await);
    ask(&patient, request("PUT", "/v1/queues/orders", ""))
        .await
        .expect(201);
    let mut hasty = http_on(&database).await;
    hasty.limits.request_timeout = Duration::from_millis(20);
    let router = towpath::http::router(hasty);
    let body = r#"{"wait_seconds":20}"#;
    let answer = ask(
        &router,
        request("POST", "/v1/queues/orders/messages/receive", body),
    )
    .await;
    let problem = answer.expect_problem(504, "timeout");
    assert_eq!(
        (&problem["outcome"], &problem["retryable"]),
        (&json!("unknown"), &json!(true))
    );
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let mut hasty = http().await;
    hasty.limits.body_timeout = Duration::from_millis(20);
    let router = towpath::http::router(hasty);
    let stalled = request("POST", "/v1/queues/orders/messages", "{}").map(|_| stalled());
    ask(&router, stalled)
        .await
        .expect_problem(408, "body_timeout");
}

#[tokio::test]
async fn more_requests_than_the_limit_are_turned_away_but_for_probes() {
    let mut narrow = http().await;
    narrow.limits.max_in_flight = 1;
    let router = towpath::http::router(narrow);
    ask(&router, request("PUT", "/v1/queues/orders", ""))
        .await
        .expect(201);
    let body = r#"{"wait_seconds":20}"#;
    let waiting = ask(
        &router,
        request("POST", "/v1/queues/orders/messages/receive", body),
    );
    let others = async {
        let answer = ask(&router, request("GET", "/v1/queues", "")).await;
        let problem = answer.expect_problem(503, "overloaded");
        assert_eq!(problem["outcome"], "none");
        assert_eq!(answer.header("retry-after"), "1");
        ask(&router, request("GET", "/healthz", ""))
            .await
            .expect(200);
    };
    tokio::select! {
        biased;
        answer = waiting => panic!("nothing was sent: {answer:?}"),
        () = others => {}
    }
    ask(&router, request("GET", "/v1/queues", ""))
        .await
        .expect(200);
}

#[tokio::test]
async fn bodies_beyond_the_bytes_that_are_kept_are_turned_away() {
    let mut narrow = http().await;
    narrow.limits.max_buffered_bytes = 1000;
    let router = towpath::http::router(narrow);
    ask(&router, request("PUT", "/v1/queues/orders", ""))
        .await
        .expect(201);
    let path = "/v1/queues/orders/messages";
    let body = |bytes: usize| json!({"messages": [{"body": "x".repeat(bytes)}]}).to_string();
    let in_chunks = |bytes| {
        let chunk = Body::from(body(bytes));
        request("POST", path, "{}").map(|_| Body::new(Unannounced(chunk)))
    };
    let half_read = request("POST", path, "{}").map(|_| sluggish(600));
    let half_read = ask(&router, half_read);
    let others = async {
        for large in [request("POST", path, &body(600)), in_chunks(600)] {
            let answer = ask(&router, large).await;
            let problem = answer.expect_problem(503, "overloaded");
            assert_eq!(problem["outcome"], "none");
        }
        for small in [request("POST", path, &body(100)), in_chunks(100)] {
            ask(&router, small).await.expect(200);
        }
    };
    tokio::select! {
        biased;
        answer = half_read => panic!("its end was not sent: {answer:?}"),
        () = others => {}
    }
    for large in [request("POST", path, &body(900)), in_chunks(900)] {
        ask(&router, large).await.expect(200);
    }
}

#[tokio::test]
async fn a_request_id_is_echoed_when_it_is_plain() {
    let router = router().await;
    let mut own = request("GET", "/v1/queues", "");
    own.headers_mut()
        .insert("x-request-id", "trace-4711".parse().unwrap());
    assert_eq!(ask(&router, own).await.header("x-request-id"), "trace-4711");
    let mut bad = request("GET", "/v1/nothing", "");
    bad.headers_mut()
        .insert("x-request-id", "a b".parse().unwrap());
    let answer = ask(&router, bad).await;
    answer.expect_problem(404, "no_such_path");
    assert_eq!(answer.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn readiness_ends_with_draining_and_without_a_database() {
    let database = Database::new().await;
    let node = http_on(&database).await;
    let (shutdown, clock) = (node.shutdown.clone(), node.clock.clone());
    let router = towpath::http::router(node);
    let probe = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let router = router.clone();
        async move { ask(&router, request).await }
    };
    assert_eq!(
        probe("/readyz").await.expect(200),
        &json!({"status": "ready"})
    );
    database.drop_now().await;
    clock.advance(Duration::from_secs(1));
    probe("/readyz").await.expect_problem(503, "unavailable");
    shutdown.draining.cancel();
    probe("/readyz").await.expect_problem(503, "shutting_down");
    assert_eq!(
        probe("/healthz").await.expect(200),
        &json!({"status": "ok"})
    );
}

/// A body without a length, whose parts a function makes.
struct Parts<F>(F);

impl<F: FnMut() -> Poll<Option<Bytes>> + Unpin> HttpBody for Parts<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = (self.get_mut().0)();
        part.map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

fn body_of(parts: impl FnMut() -> Poll<Option<Bytes>> + Unpin + Send + 'static) -> Body {
    Body::new(Parts(parts))
}

/// A body that does not come.
fn stalled() -> Body {
    body_of(|| Poll::Pending)
}

/// A body that does not end.
fn endless() -> Body {
    body_of(|| Poll::Ready(Some("[1, 2, 3]".into())))
}

/// A body that begins with so many bytes and does not go on.
fn sluggish(bytes: usize) -> Body {
    let mut beginning = Some(Bytes::from(" ".repeat(bytes)));
    body_of(move || {
        beginning
            .take()
            .map_or(Poll::Pending, |part| Poll::Ready(Some(part)))
    })
}

/// A body that says nothing of its length.
struct Unannounced(Body);

impl HttpBody for Unannounced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

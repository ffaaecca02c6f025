//! A server that speaks as much of `/v1` as the command line does, keeps messages in memory, and
//! misbehaves when told to.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

pub(super) const ADMIN_TOKEN: &str = "the-administrators-token";

/// The message of a run that a fault hits, counted as they are sent.
const VICTIM: usize = 10;

/// How the server breaks its promises.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    LosesOne,
    DeliversOneTwice,
    RefusesOneSend,
    RefusesReceives,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    fault: Fault,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    sent: usize,
    messages: VecDeque<(usize, String)>,
    requests: Vec<(String, Value)>,
}

impl Fake {
    pub(super) fn start(fault: Fault) -> Self {
        let shared = Arc::new(Shared {
            fault,
            queue: Mutex::default(),
            arrived: Notify::new(),
        });
        let messages = "/v1/queues/{queue}/messages";
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/v1/tokens", post(issue))
            .route("/v1/queues/{queue}", put(create).delete(drop_queue))
            .route(messages, post(send))
            .route(&format!("{messages}/receive"), post(receive))
            .route(&format!("{messages}/delete"), post(delete))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(axum::serve(listener, router).into_future());
        Self {
            address,
            shared,
            _runtime: runtime,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that changed queues or asked for tokens, in order.
    pub(super) fn requests(&self) -> Vec<(String, Value)> {
        self.shared.queue.lock().unwrap().requests.clone()
    }

    /// How many messages were sent.
    pub(super) fn sent(&self) -> usize {
        self.shared.queue.lock().unwrap().sent
    }
}

impl Shared {
    fn record(&self, what: String, body: &[u8]) {
        let body = serde_json::from_slice(body).unwrap_or_default();
        self.queue.lock().unwrap().requests.push((what, body));
    }
}

fn answer(body: &Value) -> Response {
    body.to_string().into_response()
}

async fn issue(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if headers["authorization"] != format!("Bearer {ADMIN_TOKEN}") {
        let problem = json!({
            "title": "Unauthorized",
            "detail": "the token is not one of ours",
            "code": "unauthorized",
            "request_id": "r1",
        });
        return (StatusCode::UNAUTHORIZED, problem.to_string()).into_response();
    }
    shared.record("POST tokens".to_owned(), &body);
    answer(&json!({ "token": "issued.to.you", "expires_at": "2030-01-01T00:00:00Z" }))
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Path(_queue): Path<String>,
    body: Bytes,
) -> StatusCode {
    shared.record("PUT queue".to_owned(), &body);
    StatusCode::CREATED
}

async fn drop_queue(State(shared): State<Arc<Shared>>, Path(_queue): Path<String>) -> StatusCode {
    shared.record("DELETE queue".to_owned(), b"");
    StatusCode::NO_CONTENT
}

async fn send(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut sent = Vec::new();
    let mut queue = shared.queue.lock().unwrap();
    for message in request["messages"].as_array().unwrap() {
        queue.sent += 1;
        let number = queue.sent;
        let copies = match shared.fault {
            Fault::RefusesOneSend if number == VICTIM => {
                let problem = json!({ "title": "Service Unavailable", "detail": "busy" });
                return (StatusCode::SERVICE_UNAVAILABLE, problem.to_string()).into_response();
            }
            Fault::LosesOne if number == VICTIM => 0,
            Fault::DeliversOneTwice if number == VICTIM => 2,
            _ => 1,
        };
        let body = message["body"].as_str().unwrap();
        for _ in 0..copies {
            queue.messages.push_back((number, body.to_owned()));
        }
        sent.push(json!({ "message_id": number, "sent_at": "2026-11-20T12:00:00Z" }));
    }
    drop(queue);
    shared.arrived.notify_one();
    answer(&json!({ "messages": sent }))
}

async fn receive(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    if shared.fault == Fault::RefusesReceives {
        let problem = json!({ "title": "Forbidden", "detail": "no right to receive" });
        return (StatusCode::FORBIDDEN, problem.to_string()).into_response();
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let most = usize::try_from(request["max_messages"].as_u64().unwrap()).unwrap();
    let wait = Duration::from_secs(request["wait_seconds"].as_u64().unwrap());
    let took = async {
        loop {
            let arrived = shared.arrived.notified();
            let taken = take(&shared, most);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    };
    let taken = tokio::time::timeout(wait, took).await.unwrap_or_default();
    answer(&json!({ "messages": taken }))
}

fn take(shared: &Shared, most: usize) -> Vec<Value> {
    let mut queue = shared.queue.lock().unwrap();
    let most = most.min(queue.messages.len());
    let taken = queue.messages.drain(..most);
    taken
        .map(|(number, body)| {
            let receipt_handle = format!("receipt-{number}");
            json!({ "message_id": number, "receipt_handle": receipt_handle, "body": body })
        })
        .collect()
}

async fn delete(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let receipts = request["messages"].as_array().unwrap();
    assert!(
        receipts
            .iter()
            .all(|entry| entry["receipt_handle"].is_string())
    );
    let deleted = vec![json!({ "deleted": true }); receipts.len()];
    answer(&json!({ "messages": deleted }))
}

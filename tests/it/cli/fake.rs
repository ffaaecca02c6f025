//! A server that speaks as much of `/v1` as the command line does, keeps messages in memory, and
//! misbehaves when told to.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Messages that a request may hold.
const LIMIT: usize = 50;

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
    sends: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Not waited for, so that tests of either kind may do it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Shared {
    fault: Fault,
    memory: Mutex<Memory>,
    arrived: Notify,
}

#[derive(Default)]
struct Memory {
    sent: usize,
    queues: HashMap<String, VecDeque<(usize, String)>>,
    requests: Vec<(String, Value)>,
    /// The queues that were sent to, in order, without repetition.
    visits: Vec<Visit>,
    delayed: usize,
    /// Messages received, by the visibility timeout that was asked for.
    taken_for: HashMap<u64, usize>,
}

/// A stretch of time in which only one queue was sent to.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) queue: String,
    pub(super) messages: usize,
    /// Messages that waited in the queue before.
    pub(super) waiting: usize,
    /// Queues that existed.
    pub(super) queues: usize,
}

impl Fake {
    pub(super) fn start(fault: Fault) -> Self {
        Self::serving(Arc::new(Shared {
            fault,
            memory: Mutex::default(),
            arrived: Notify::new(),
        }))
    }

    /// Another server of the same queues.
    pub(super) fn node_beside(&self) -> Self {
        Self::serving(Arc::clone(&self.shared))
    }

    fn serving(shared: Arc<Shared>) -> Self {
        let messages = "/v1/queues/{queue}/messages";
        let sends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sends);
        let send = post(async move |state, path, body| {
            count.fetch_add(1, Ordering::Relaxed);
            send(state, path, body).await
        });
        let router = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/v1/openapi.json", get(async || answer(&openapi())))
            .route("/v1/tokens", post(issue))
            .route("/v1/queues/{queue}", put(create).delete(drop_queue))
            .route(messages, send)
            .route(&format!("{messages}/receive"), post(receive))
            .route(&format!("{messages}/delete"), post(delete))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // Not asked of the runtime, which a test's own would not allow.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await
        });
        Self {
            address,
            shared,
            sends,
            runtime: Some(runtime),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that changed queues or asked for tokens, in order.
    pub(super) fn requests(&self) -> Vec<(String, Value)> {
        self.shared.memory.lock().unwrap().requests.clone()
    }

    /// How many messages were sent.
    pub(super) fn sent(&self) -> usize {
        self.shared.memory.lock().unwrap().sent
    }

    /// How many sends this server answered.
    pub(super) fn sends(&self) -> usize {
        self.sends.load(Ordering::Relaxed)
    }

    /// The order in which queues were sent to.
    pub(super) fn visits(&self) -> Vec<Visit> {
        self.shared.memory.lock().unwrap().visits.clone()
    }

    /// How many messages were sent that are due when no test runs any more.
    pub(super) fn delayed(&self) -> usize {
        self.shared.memory.lock().unwrap().delayed
    }

    /// How many messages were received, by the visibility timeouts that were asked for.
    pub(super) fn taken_for(&self) -> HashMap<u64, usize> {
        self.shared.memory.lock().unwrap().taken_for.clone()
    }

    /// How many queues exist.
    pub(super) fn queues(&self) -> usize {
        self.shared.memory.lock().unwrap().queues.len()
    }
}

impl Shared {
    fn record(&self, what: &str, body: &[u8]) {
        let body = serde_json::from_slice(body).unwrap_or_default();
        let mut memory = self.memory.lock().unwrap();
        memory.requests.push((what.to_owned(), body));
    }
}

impl Memory {
    fn visit(&mut self, queue: &str, messages: usize) {
        if let Some(visit) = self.visits.last_mut().filter(|visit| visit.queue == queue) {
            visit.messages += messages;
            return;
        }
        self.visits.push(Visit {
            queue: queue.to_owned(),
            messages,
            waiting: self.queues.get(queue).map_or(0, VecDeque::len),
            queues: self.queues.len(),
        });
    }
}

/// As much of the document as says how many messages a request may hold.
fn openapi() -> Value {
    let messages = json!({ "messages": { "maxItems": LIMIT } });
    json!({ "components": { "schemas": { "SendMessages": { "properties": messages } } } })
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
    shared.record("POST tokens", &body);
    answer(&json!({ "token": "issued.to.you", "expires_at": "2030-01-01T00:00:00Z" }))
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Path(queue): Path<String>,
    body: Bytes,
) -> StatusCode {
    shared.record("PUT queue", &body);
    let mut memory = shared.memory.lock().unwrap();
    memory.queues.insert(queue, VecDeque::new());
    StatusCode::CREATED
}

async fn drop_queue(State(shared): State<Arc<Shared>>, Path(queue): Path<String>) -> StatusCode {
    shared.record("DELETE queue", b"");
    match shared.memory.lock().unwrap().queues.remove(&queue) {
        Some(_) => StatusCode::NO_CONTENT,
        None => StatusCode::NOT_FOUND,
    }
}

async fn send(
    State(shared): State<Arc<Shared>>,
    Path(queue): Path<String>,
    body: Bytes,
) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let messages = request["messages"].as_array().unwrap();
    assert!(messages.len() <= LIMIT);
    let mut sent = Vec::new();
    let mut memory = shared.memory.lock().unwrap();
    memory.visit(&queue, messages.len());
    for message in messages {
        memory.sent += 1;
        let number = memory.sent;
        let copies = match shared.fault {
            Fault::RefusesOneSend if number == VICTIM => {
                let problem = json!({ "title": "Service Unavailable", "detail": "busy" });
                return (StatusCode::SERVICE_UNAVAILABLE, problem.to_string()).into_response();
            }
            Fault::LosesOne if number == VICTIM => 0,
            Fault::DeliversOneTwice if number == VICTIM => 2,
            _ if message["delay_seconds"].as_u64() > Some(60) => {
                memory.delayed += 1;
                0
            }
            _ => 1,
        };
        let body = message["body"].as_str().unwrap();
        let waiting = memory.queues.get_mut(&queue).unwrap();
        for _ in 0..copies {
            waiting.push_back((number, body.to_owned()));
        }
        sent.push(json!({ "message_id": number, "sent_at": "2026-11-20T12:00:00Z" }));
    }
    drop(memory);
    shared.arrived.notify_one();
    answer(&json!({ "messages": sent }))
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    Path(queue): Path<String>,
    body: Bytes,
) -> Response {
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
            let taken = take(&shared, &queue, most);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    };
    let taken = tokio::time::timeout(wait, took).await.unwrap_or_default();
    if let Some(visibility) = request["visibility_timeout_seconds"].as_u64() {
        let mut memory = shared.memory.lock().unwrap();
        *memory.taken_for.entry(visibility).or_default() += taken.len();
    }
    answer(&json!({ "messages": taken }))
}

fn take(shared: &Shared, queue: &str, most: usize) -> Vec<Value> {
    let mut memory = shared.memory.lock().unwrap();
    let messages = memory.queues.get_mut(queue).unwrap();
    let most = most.min(messages.len());
    let taken = messages.drain(..most);
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

//! What the REST API promises, from outside: nodes on sockets over one database, whose clock the
//! tests move.

mod attributes;
mod basics;
mod batches;
mod bodies;
mod changes;
mod conditions;
mod dead_letters;
mod delays;
mod durability;
mod idempotency;
mod neighbours;
mod outbox;
mod pauses;
mod peek;
mod queues;
mod redrives;
mod retention;
mod retries;
mod storage;
mod tags;
mod waiting;
mod windows;

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use towpath::http::Http;

use crate::support::database::Database;
use crate::support::server::Cluster;
use crate::support::socket::Server;
use crate::support::{Answer, all_rights, client, http_on, token};

/// A node as its callers see it.
#[derive(Clone)]
struct Node {
    http: reqwest::Client,
    address: SocketAddr,
    token: String,
}

impl Node {
    /// A node in this process, without what runs in the background; it ends with the test.
    async fn on(database: &Database) -> Self {
        Self::serving(http_on(database).await).await
    }

    async fn serving(http: Http) -> Self {
        let server = Server::start(http).await;
        Self::at(server.address, &token(all_rights()))
    }

    /// A node and its database.
    async fn alone() -> (Self, Database) {
        let database = Database::new().await;
        (Self::on(&database).await, database)
    }

    /// A process of a cluster, at its address of this moment.
    fn of(cluster: &Cluster, node: usize) -> Self {
        let token = cluster.client(node).token().to_owned();
        Self::at(cluster.nodes[node].address(), &token)
    }

    fn at(address: SocketAddr, token: &str) -> Self {
        Self {
            http: client::connections(),
            address,
            token: token.to_owned(),
        }
    }

    /// A request to a path below `/v1/queues/`.
    fn request(&self, method: Method, path: &str, body: &Value) -> RequestBuilder {
        let url = format!("http://{}/v1/queues/{path}", self.address);
        let request = self.http.request(method, url).bearer_auth(&self.token);
        if body.is_null() {
            request
        } else {
            request.json(body)
        }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Answer {
        answer(self.request(method, path, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &Value::Null).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &Value::Null).await
    }

    /// Creates a queue or changes its settings.
    async fn put(&self, queue: &str, settings: Value) {
        let answer = self.ask(Method::PUT, queue, &settings).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
    }

    /// What is said of messages that were sent.
    async fn send(&self, queue: &str, messages: Value) -> Vec<Value> {
        let body = json!({ "messages": messages });
        let answer = self
            .ask(Method::POST, &format!("{queue}/messages"), &body)
            .await;
        list(answer.expect(200))
    }

    /// The messages of one receive.
    async fn receive(&self, queue: &str, request: Value) -> Vec<Value> {
        list(self.ask_to_receive(queue, request).await.expect(200))
    }

    async fn ask_to_receive(&self, queue: &str, request: Value) -> Answer {
        self.ask(Method::POST, &format!("{queue}/messages/receive"), &request)
            .await
    }

    /// The bodies of what can be received without waiting, in order; all of it is held for long.
    async fn bodies(&self, queue: &str) -> Vec<String> {
        let request = json!({"max_messages": 1000, "visibility_timeout_seconds": 43200});
        let mut bodies = vec![];
        loop {
            let messages = self.receive(queue, request.clone()).await;
            if messages.is_empty() {
                bodies.sort();
                return bodies;
            }
            bodies.extend(messages.iter().map(|message| text(&message["body"])));
        }
    }

    /// Asks for a delete, an extend or a nack.
    async fn change(&self, queue: &str, what: &str, entries: Value) -> Answer {
        let body = json!({ "messages": entries });
        self.ask(Method::POST, &format!("{queue}/messages/{what}"), &body)
            .await
    }

    /// The same for one message, which must work.
    async fn change_one(&self, queue: &str, what: &str, message: &Value, entry: Value) -> Value {
        let answer = self
            .change(queue, what, json!([with_receipt(message, entry)]))
            .await;
        answer.expect(200)["messages"][0].clone()
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    client::answer(request).await.expect("an answer comes")
}

/// The members `messages` of an answer.
fn list(body: &Value) -> Vec<Value> {
    body["messages"].as_array().unwrap().clone()
}

/// An entry of a delete, an extend or a nack.
fn with_receipt(message: &Value, mut entry: Value) -> Value {
    entry["receipt_handle"] = message["receipt_handle"].clone();
    entry
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn at(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a queue holds: visible, in flight, delayed. By a node that remembers nothing.
async fn counts(database: &Database, queue: &str) -> [u64; 3] {
    let answer = Node::on(database)
        .await
        .get(&format!("{queue}/counts"))
        .await;
    let counts = answer.expect(200);
    ["visible", "in_flight", "delayed"].map(|state| counts[state].as_u64().unwrap())
}

/// A receive that waits: it has looked at the queue and found nothing. Nobody else receives meanwhile.
async fn begin_to_wait(database: &Database, node: &Node) -> JoinSet<Answer> {
    let before = database.moment().await;
    let mut receives = JoinSet::new();
    let node = node.clone();
    let wait = json!({"wait_seconds": 20, "max_messages": 10});
    receives.spawn(async move { node.ask_to_receive("q", wait).await });
    database.wait_for_claim(&before).await;
    receives
}

/// What the one who waited got.
async fn end_of_wait(receives: JoinSet<Answer>) -> Answer {
    receives.join_all().await.remove(0)
}

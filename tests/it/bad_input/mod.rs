//! Bad input over a real socket: each is refused by a problem that names what is wrong, and changes
//! nothing. One server and one database per table.

mod fields;
mod mutations;
mod octets;
mod receipts;
mod requests;
mod wire;

use serde_json::{Value, json};

use crate::support::database::Database;
use crate::support::socket::Server;
use crate::support::{Answer, all_rights, http_on, token};

/// A server whose database has the queue `orders` with a message ahead and one in flight, and the
/// empty queue `others`.
struct Target {
    server: Server,
    database: Database,
    /// The receipt handle of the message in flight.
    handle: String,
}

/// Everything that a request can change, counted.
const STATE: &str = "
    select concat_ws(' ',
        (select count(*) from towpath.queue where deleted_at is null),
        (select count(*) from towpath.queue),
        (select sum(version) from towpath.queue),
        (select coalesce(sum(n), 0) from towpath.log),
        (select count(*) from towpath.lease),
        (select sum(rc) from towpath.lease),
        (select sum(extract(epoch from vt)) from towpath.lease),
        (select count(*) from towpath.dedup),
        (select count(*) from towpath.cur))";

impl Target {
    async fn new() -> Self {
        let database = Database::new().await;
        let server = Server::start(http_on(&database).await).await;
        let mut target = Self {
            server,
            database,
            handle: String::new(),
        };
        for queue in ["orders", "others"] {
            let path = format!("/v1/queues/{queue}");
            target.ask("PUT", &path, "").await.expect(201);
        }
        let two = r#"{"messages":[{"body":"held"},{"body":"ahead"}]}"#;
        let path = "/v1/queues/orders/messages";
        target.ask("POST", path, two).await.expect(200);
        let received = target.receive("orders").await;
        target.handle = received["receipt_handle"].as_str().unwrap().to_owned();
        target
    }

    /// A request with an administrator's token and, unless empty, a JSON body.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let json = "content-type: application/json\r\n";
        let headers = if body.is_empty() { "" } else { json };
        self.send(method, path, headers, body.as_bytes()).await
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = head(method, path, headers, body.len());
        self.server.ask(&[head.as_bytes(), body].concat()).await
    }

    async fn receive(&self, queue: &str) -> Value {
        let path = format!("/v1/queues/{queue}/messages/receive");
        let answer = self.ask("POST", &path, "").await;
        answer.expect(200)["messages"][0].clone()
    }

    async fn state(&self) -> String {
        self.database.value(STATE).await
    }
}

fn head(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-length: {length}\r\n{headers}\r\n",
        token(all_rights())
    )
}

/// Asserts that one field is named with its value and its rule, and by the sentence too.
#[track_caller]
fn expect_violation(label: &str, answer: &Answer, field: &str, value: &str, rule: &str) {
    assert_eq!(answer.status, 422, "{label}: {answer:?}");
    let problem = answer.expect_problem(422, "invalid");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 1, "{label}");
    let error = &problem["errors"][0];
    let is_pointer = field.is_empty() || field.starts_with('/');
    let place = if is_pointer { "pointer" } else { "parameter" };
    assert_eq!(error[place], json!(field), "{label}: {error}");
    assert_eq!(error["value"].as_str().unwrap_or(""), value, "{label}");
    let said = error["detail"].as_str().unwrap();
    assert!(said.contains(rule), "{label}: {said}");
    let sentence = problem["detail"].as_str().unwrap();
    let named = if field.is_empty() { "the body" } else { field };
    assert!(sentence.starts_with(named), "{label}: {sentence}");
    assert!(sentence.contains(rule), "{label}: {sentence}");
}

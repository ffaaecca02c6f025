//! A client of a whole server: HTTP over sockets, which may break at any moment.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Answer, eventually};

/// Longer than any answer takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(45);

/// Clones share connections.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: Arc<Mutex<Option<SocketAddr>>>,
    token: String,
}

/// A message as a receive hands it out.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Message {
    pub(crate) message_id: Uuid,
    pub(crate) receipt_handle: String,
    pub(crate) body: String,
    pub(crate) receive_count: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) first_received_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) visible_at: OffsetDateTime,
}

/// No answer, or one that says that the server could not: what was asked for may have happened.
#[derive(Debug)]
pub(crate) struct Unknown {
    /// Nobody listened: it has not happened.
    pub(crate) was_refused: bool,
    #[expect(dead_code, reason = "for who reads a failed test")]
    why: String,
}

impl From<reqwest::Error> for Unknown {
    fn from(broken: reqwest::Error) -> Self {
        Self {
            was_refused: broken.is_connect(),
            why: format!("{broken:?}"),
        }
    }
}

/// Connections to any server.
pub(crate) fn connections() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    http.build().unwrap()
}

/// The whole answer to a request.
pub(crate) async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await?;
    Ok(Answer {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

impl Client {
    /// A client of whoever listens at an address, which may change.
    pub(crate) fn new(address: Arc<Mutex<Option<SocketAddr>>>, token: &str) -> Self {
        Self {
            http: connections(),
            address,
            token: token.to_owned(),
        }
    }

    /// A client of a server that does not move.
    pub(crate) fn at(address: SocketAddr, token: &str) -> Self {
        Self::new(Arc::new(Mutex::new(Some(address))), token)
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> Arc<Mutex<Option<SocketAddr>>> {
        Arc::clone(&self.address)
    }

    /// The same over connections of its own.
    pub(crate) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.address), &self.token)
    }

    pub(crate) fn with_token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The answer to a request, unless the connection broke before it was here.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, Unknown> {
        self.ask_under_key(method, path, body, None).await
    }

    /// The same, done once however often it is asked under one idempotency key.
    pub(crate) async fn ask_under_key(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Result<Answer, Unknown> {
        let address = self.address.lock().unwrap().expect("it has been started");
        let request = self.http.request(method, format!("http://{address}{path}"));
        let mut request = request.bearer_auth(&self.token);
        if !body.is_null() {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        Ok(answer(request).await?)
    }

    /// The body of a 200. Whatever breaks, a server that is asked rightly never answers anything
    /// but that or "not now".
    async fn post(&self, path: &str, body: &Value) -> Result<Value, Unknown> {
        let answer = self.ask(Method::POST, path, body).await?;
        match answer.status {
            200 => Ok(answer.body),
            503 | 504 => Err(Unknown {
                was_refused: false,
                why: format!("{answer:?}"),
            }),
            _ => panic!("POST {path}: {answer:?}"),
        }
    }

    pub(crate) async fn put_queue(&self, queue: &str) {
        let path = format!("/v1/queues/{queue}");
        let put = self.ask(Method::PUT, &path, &json!({})).await.unwrap();
        put.expect(201);
    }

    /// The messages' ids, once they are acknowledged.
    pub(crate) async fn send(&self, queue: &str, bodies: &[String]) -> Result<Vec<Uuid>, Unknown> {
        let messages = bodies.iter().map(|body| json!({ "body": body }));
        let request = json!({ "messages": messages.collect::<Vec<_>>() });
        let path = format!("/v1/queues/{queue}/messages");
        let answer = self.post(&path, &request).await?;
        let ids = answer["messages"].as_array().unwrap().iter();
        let ids = ids.map(|sent| Uuid::deserialize(&sent["message_id"]).unwrap());
        Ok(ids.collect())
    }

    /// Up to ten messages for a window.
    pub(crate) async fn receive(
        &self,
        queue: &str,
        wait_seconds: u64,
        window: Duration,
    ) -> Result<Vec<Message>, Unknown> {
        let request = json!({
            "max_messages": 10,
            "wait_seconds": wait_seconds,
            "visibility_timeout_seconds": window.as_secs(),
        });
        let path = format!("/v1/queues/{queue}/messages/receive");
        let answer = self.post(&path, &request).await?;
        Ok(Vec::deserialize(&answer["messages"]).unwrap())
    }

    /// Deletes messages that were received.
    pub(crate) async fn delete(&self, queue: &str, messages: &[Message]) -> Result<(), Unknown> {
        let entries = messages.iter();
        let entries = entries.map(|message| json!({ "receipt_handle": message.receipt_handle }));
        let request = json!({ "messages": entries.collect::<Vec<_>>() });
        let path = format!("/v1/queues/{queue}/messages/delete");
        let answer = self.post(&path, &request).await?;
        for entry in answer["messages"].as_array().unwrap() {
            assert_eq!(entry["deleted"], true, "{answer}");
        }
        Ok(())
    }

    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.ask(Method::GET, "/readyz", &Value::Null).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until the server and its database are back.
    pub(crate) async fn until_ready(&self) {
        eventually("the server is ready", async || {
            self.is_ready().await.then_some(())
        })
        .await;
    }
}

//! A server and the token to show it, over one connection that is opened when it is needed, and
//! again when it has ended.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use url::form_urlencoded;

use super::http::{Answer, Connection, Refused, Server};
use crate::domain::limits::MAX_PAGE;

/// How often a request that may be repeated is sent at the most: about ten seconds in all, as long
/// as a node takes to be replaced.
const MAX_TRIES: u32 = 8;

/// The wait before the first repetition; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest wait before a repetition.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A request.
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Bytes,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            body: Bytes::new(),
            headers: Vec::new(),
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>, body: &Value) -> Self {
        Self::new(Method::POST, path).body(body)
    }

    pub(super) fn body(self, body: &Value) -> Self {
        self.text(body.to_string())
    }

    /// A body that is JSON already.
    pub(super) fn text(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds what is given to the path's query.
    pub(super) fn query<T: ToString>(mut self, name: &str, value: Option<T>) -> Self {
        if let Some(value) = value {
            let mut pair = form_urlencoded::Serializer::new(String::new());
            pair.append_pair(name, &value.to_string());
            let sign = if self.path.contains('?') { '&' } else { '?' };
            self.path = format!("{}{sign}{}", self.path, pair.finish());
        }
        self
    }
}

/// The path of a queue, whose name was checked.
pub(super) fn queue_path(queue: &str) -> String {
    format!("/v1/queues/{queue}")
}

/// A server, as one caller sees it.
pub(super) struct Client {
    server: Server,
    token: Option<String>,
    open: Option<Open>,
    has_reached: bool,
}

struct Open {
    connection: Connection,
    /// What drives the connection; ends with it.
    _driver: JoinSet<()>,
}

impl Client {
    pub(super) fn new(server: Server, token: Option<String>) -> Self {
        Self {
            server,
            token,
            open: None,
            has_reached: false,
        }
    }

    /// The same caller, over a connection of its own.
    pub(super) fn another(&self) -> Self {
        Self::new(self.server.clone(), self.token.clone())
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// One request, whatever the answer says.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer. The request may have been done then.
    pub(super) async fn exchange(&mut self, ask: &Ask) -> anyhow::Result<Answer> {
        let token = self.token.as_deref();
        let mut head = self.server.head(ask.method.clone(), &ask.path, token)?;
        head.headers.extend(ask.headers.iter().cloned());
        // Taken out, so that a caller who stops waiting leaves no half-read answer behind.
        let kept = self.open.take().filter(|open| !open.connection.is_closed());
        let mut open = match kept {
            Some(open) => open,
            None => self.connect().await?,
        };
        let answer = open.connection.exchange(&head, ask.body.clone()).await?;
        self.has_reached = true;
        self.open = Some(open);
        Ok(answer)
    }

    async fn connect(&self) -> anyhow::Result<Open> {
        let (connection, driver) = self.server.connect().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // How it ended is told to whoever waits for an answer.
            let _ended = driver.await;
        });
        Ok(Open {
            connection,
            _driver: tasks,
        })
    }

    /// One request that succeeds.
    ///
    /// # Errors
    /// As [`Client::exchange`], or the server refuses: [`Refused`].
    pub(super) async fn call(&mut self, ask: &Ask) -> anyhow::Result<Bytes> {
        self.exchange(ask).await?.success()
    }

    /// The document that a request is answered with.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn json(&mut self, ask: &Ask) -> anyhow::Result<Value> {
        self.exchange(ask).await?.json()
    }

    /// The same for a request that does no harm when it comes twice: it is repeated for some seconds
    /// while the server is away or says that this may help. A server that was never there is not
    /// waited for.
    ///
    /// # Errors
    /// As [`Client::call`], of the last try.
    pub(super) async fn persist(&mut self, ask: &Ask) -> anyhow::Result<Value> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let error = match self.json(ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tries == MAX_TRIES || !self.has_reached || !is_passing(&error) {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// All items of a listing, page by page.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn queues(&mut self, prefix: Option<&str>) -> anyhow::Result<Vec<Value>> {
        let mut queues = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let ask = Ask::get("/v1/queues").query("limit", Some(MAX_PAGE));
            let ask = ask.query("prefix", prefix).query("cursor", cursor.take());
            let mut page = self.json(&ask).await?;
            if let Value::Array(items) = page["items"].take() {
                queues.extend(items);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(queues),
            }
        }
    }

    /// A queue with its settings, if there is one of that name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn queue(&mut self, name: &str) -> anyhow::Result<Option<Value>> {
        match self.json(&Ask::get(queue_path(name))).await {
            Err(error) if status_of(&error) == Some(StatusCode::NOT_FOUND) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// What a queue holds.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn counts(&mut self, queue: &str) -> anyhow::Result<Value> {
        let path = format!("{}/counts", queue_path(queue));
        self.json(&Ask::get(path)).await
    }

    /// How the entries of a batch ended, each with an `error` when it failed.
    ///
    /// # Errors
    /// As [`Client::persist`].
    pub(super) async fn change(
        &mut self,
        queue: &str,
        what: &str,
        entries: Vec<Value>,
    ) -> anyhow::Result<Vec<Value>> {
        let path = format!("{}/messages/{what}", queue_path(queue));
        let length = entries.len();
        let ask = Ask::post(path, &json!({ "messages": entries }));
        match self.persist(&ask).await {
            // Said of the request when it is so for all of its entries.
            Err(error) if code_of(&error) == Some("receipt_stale") => Ok(vec![
                json!({ "error": { "code": "receipt_stale" } });
                length
            ]),
            answer => list(answer?, "messages"),
        }
    }
}

/// The items of an answer.
///
/// # Errors
/// There are none, not even an empty list.
pub(super) fn list(mut answer: Value, member: &str) -> anyhow::Result<Vec<Value>> {
    match answer[member].take() {
        Value::Array(items) => Ok(items),
        _ => Err(anyhow::anyhow!("the server's answer has no {member:?}")),
    }
}

/// The status of an answer that is an error.
pub(super) fn status_of(error: &anyhow::Error) -> Option<StatusCode> {
    error
        .downcast_ref::<Refused>()
        .map(|refused| refused.status)
}

/// The code of an answer that is a problem.
pub(super) fn code_of(error: &anyhow::Error) -> Option<&str> {
    error
        .downcast_ref::<Refused>()
        .map(|refused| refused.code.as_str())
}

/// Whether trying again may help: the server says so, or is away.
pub(super) fn is_passing(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_none_or(|refused| refused.is_retryable)
}

/// A queue's name from the command line.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn queue_name(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let length = 1..=crate::domain::limits::MAX_QUEUE_NAME;
    if length.contains(&text.len()) && text.bytes().all(is_name) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a queue's name has 1 to {} letters, digits, hyphens and underscores",
        crate::domain::limits::MAX_QUEUE_NAME
    ))
}

/// An idempotency key that nobody has used.
///
/// # Errors
/// None that can be met; a UUID is a valid header.
pub(super) fn fresh_key() -> anyhow::Result<(HeaderName, HeaderValue)> {
    let key = uuid::Uuid::new_v4().to_string();
    let value = HeaderValue::try_from(key).context("a UUID is text")?;
    Ok((HeaderName::from_static("idempotency-key"), value))
}

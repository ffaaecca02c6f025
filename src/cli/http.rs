//! The HTTP client of the command line: one connection at a time, HTTP/1.1, no pool, no redirects.
//!
//! The benchmark measures through it, so that its cost per request is small and the same whatever
//! it talks to. Commands know the server by `/v1` alone and share no types with it; what they ask
//! over a connection that lasts is in `client`.

use std::fmt::{Display, Formatter};
use std::future::poll_fn;
use std::pin::Pin;
use std::str::FromStr;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::domain::limits::{MAX_RECEIVE_WAIT, MAX_REQUEST_BYTES};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for an answer: a receive may wait that long, and the server has time left.
const ANSWER_TIMEOUT: Duration = MAX_RECEIVE_WAIT.saturating_mul(2);

/// Largest answer that is read: the server's own limit, and room for what JSON adds.
const MAX_ANSWER_BYTES: usize = 2 * MAX_REQUEST_BYTES;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("not a URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("must begin with http://".to_owned());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("must end after the port".to_owned());
        }
        let host = uri.host().unwrap_or_default();
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
        })
    }
}

impl Display for Server {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "http://{}:{}", self.host, self.port)
    }
}

impl Server {
    /// The server that listens at an address.
    pub(super) fn at(address: std::net::SocketAddr) -> Self {
        let host = match address {
            std::net::SocketAddr::V4(address) => address.ip().to_string(),
            std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        Self {
            host,
            port: address.port(),
        }
    }

    /// All of a request but its body, to be sent any number of times.
    pub(super) fn head(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> anyhow::Result<request::Parts> {
        let mut head = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .context("the token holds characters that no header may hold")?;
            value.set_sensitive(true);
            head = head.header(AUTHORIZATION, value);
        }
        Ok(head.body(())?.into_parts().0)
    }

    /// Does some work over one connection.
    ///
    /// # Errors
    /// The server cannot be reached, or the work fails.
    pub(super) async fn connected<T>(
        &self,
        work: impl AsyncFnOnce(&mut Connection) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let (mut exchanges, connection) = self.connect().await?;
        let mut work = std::pin::pin!(work(&mut exchanges));
        tokio::select! {
            biased;
            done = &mut work => done,
            // What the connection had read is still on its way to the work, which also learns how
            // the connection ended.
            _ended = connection => work.await,
        }
    }

    /// A connection, and what must be polled for it to work.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub(super) async fn connect(
        &self,
    ) -> anyhow::Result<(
        Connection,
        http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    )> {
        let unreachable = || {
            format!(
                "cannot reach a server at {self}; start one with `towpath serve`, or give --url"
            )
        };
        let host = self.host.trim_matches(['[', ']']);
        let connecting = TcpStream::connect((host, self.port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .with_context(unreachable)?
            .with_context(unreachable)?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok((Connection::new(sender), connection))
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer in time.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&serde_json::Value>,
    ) -> anyhow::Result<Answer> {
        let head = self.head(method, path, token)?;
        let body = body.map(|body| Bytes::from(body.to_string()));
        let body = body.unwrap_or_default();
        self.connected(async |connection| connection.exchange(&head, body).await)
            .await
    }
}

/// An open connection.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Goes off now and then; moving a timer for every request would cost more than the request's
    /// own bookkeeping.
    alarm: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(sender: http1::SendRequest<Full<Bytes>>) -> Self {
        let alarm = Box::pin(tokio::time::sleep(ANSWER_TIMEOUT));
        Self { sender, alarm }
    }

    /// Whether the server has ended it, as far as is known here.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// The connection ends, or the answer is too late or too large.
    pub(super) async fn exchange(
        &mut self,
        head: &request::Parts,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let request = Request::from_parts(head.clone(), Full::new(body));
        let Self { sender, alarm } = self;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let too_late = poll_fn(|context| {
            while alarm.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(());
                }
                alarm.as_mut().reset(deadline);
            }
            Poll::Pending
        });
        let answered = tokio::select! {
            biased;
            answer = answer(sender, request) => answer,
            () = too_late => Err(anyhow!("no answer within {ANSWER_TIMEOUT:?}")),
        };
        answered.with_context(|| format!("{} {} was not answered", head.method, head.uri))
    }
}

async fn answer(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    sender.ready().await?;
    let (head, mut body) = sender.send_request(request).await?.into_parts();
    // Nearly every answer is in one piece, which needs no copy.
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(piece) = body.frame().await {
        let Ok(piece) = piece?.into_data() else {
            continue;
        };
        if whole.is_empty() && pieces.is_empty() {
            whole = piece;
            continue;
        }
        pieces.extend_from_slice(&std::mem::take(&mut whole));
        pieces.extend_from_slice(&piece);
        ensure!(pieces.len() <= MAX_ANSWER_BYTES, "the answer is too large");
    }
    if !pieces.is_empty() {
        whole = pieces.freeze();
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: whole,
    })
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The server's no, in its own words.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The problem's code, for programs; empty when the answer was no problem.
    pub(super) code: String,
    /// Whether the same request may succeed later.
    pub(super) is_retryable: bool,
    text: String,
}

impl Display for Refused {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// What is read of `application/problem+json`.
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
    code: Option<String>,
    request_id: Option<String>,
    #[serde(default)]
    retryable: bool,
}

impl Answer {
    /// Refuses everything but success.
    ///
    /// # Errors
    /// What the server says is wrong.
    pub(super) fn success(self) -> anyhow::Result<Bytes> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) else {
            return Err(Refused {
                status: self.status,
                code: String::new(),
                is_retryable: self.status.is_server_error(),
                text: format!("the server answered {}", self.status),
            }
            .into());
        };
        let status = self.status.as_u16();
        let mut text = format!("the server answered {status} {}", problem.title);
        let code = problem.code.unwrap_or_default();
        for (name, value) in [
            (": ", problem.detail.as_deref()),
            ("; code ", Some(code.as_str())),
            ("; request ", problem.request_id.as_deref()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text.push_str(name);
                text.push_str(value);
            }
        }
        Err(Refused {
            status: self.status,
            code,
            is_retryable: problem.retryable,
            text,
        }
        .into())
    }

    /// The body of a success.
    ///
    /// # Errors
    /// As [`Answer::success`], or the body is not what was expected.
    pub(super) fn json<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let body = self.success()?;
        ensure!(!body.is_empty(), "the server's answer is empty");
        serde_json::from_slice(&body).context("the server's answer is not understood")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_plain_http_url_without_a_path() {
        for (url, shown) in [
            ("http://127.0.0.1:9324", "http://127.0.0.1:9324"),
            ("http://queue.internal/", "http://queue.internal:80"),
            ("http://[::1]:9324", "http://[::1]:9324"),
        ] {
            assert_eq!(url.parse::<Server>().unwrap().to_string(), shown);
        }
        for url in [
            "127.0.0.1:9324",
            "https://h",
            "http://h/v1",
            "http://h/?a",
            "",
        ] {
            assert!(url.parse::<Server>().is_err(), "{url}");
        }
    }
}

//! A server on a real socket, and what is said to it byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use towpath::http::{Http, Shutdown, serve};

use super::Answer;

/// Long enough for anything that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    ended: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(http: Http) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (limits, shutdown) = (http.limits.clone(), http.shutdown.clone());
        let tasks = TaskTracker::new();
        let router = towpath::http::router(http);
        let serving = serve::serve(listener, router, limits, tasks.clone(), shutdown.clone());
        Self {
            address,
            shutdown,
            ended: tasks.spawn(serving),
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn has_ended(self) {
        timeout(PATIENCE, self.ended).await.unwrap().unwrap();
    }

    pub(crate) async fn ask(&self, request: &[u8]) -> Answer {
        ask(self.address, request).await
    }
}

/// Sends bytes on a connection of their own and reads one answer, which may come before the last
/// byte was taken.
pub(crate) async fn ask(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask_on(&mut stream, request).await
}

/// The same on a connection that stays open.
pub(crate) async fn ask_on(stream: &mut TcpStream, request: &[u8]) -> Answer {
    let (mut incoming, mut outgoing) = stream.split();
    let reading = read(&mut incoming);
    let writing = async {
        // A server that has heard enough closes; what it said is still read.
        let _closed = outgoing.write_all(request).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = timeout(PATIENCE, reading) => answer.expect("an answer comes"),
        () = writing => unreachable!("writing never ends"),
    }
}

/// Reads one answer of HTTP/1.
async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Answer {
    let mut bytes = vec![];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, &mut bytes).await;
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap();
    let status = first.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_str(value.trim()).unwrap(),
        );
    }
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    while bytes.len() < head_end + length {
        more(stream, &mut bytes).await;
    }
    Answer {
        status,
        headers,
        body: serde_json::from_slice(&bytes[head_end..head_end + length]).unwrap_or(Value::Null),
    }
}

async fn more(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: &mut Vec<u8>) {
    let mut some = [0; 4096];
    let length = stream.read(&mut some).await.unwrap();
    let so_far = String::from_utf8_lossy(bytes);
    assert!(length > 0, "closed before the end of an answer: {so_far:?}");
    bytes.extend_from_slice(&some[..length]);
}

/// What a server sends until it closes the connection.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut text = vec![];
    let read = stream.read_to_end(&mut text);
    // A reset is a way of closing as well.
    let _closed = timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(text).unwrap()
}

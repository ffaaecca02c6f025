//! The accept loop: sockets in, requests to the router. `axum::serve` has no limit on connections
//! or slow heads, and closes its listener before load balancers know; so this is our own.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request, Version};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::{HttpLimits, LastAnswer, PeerAddress, Shutdown};

/// Most bytes of an HTTP/1 head; beyond them hyper answers 431. The most headers, 100, are hyper's
/// own default: to set the same number costs an allocation per request.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most bytes of the headers of an HTTP/2 request, as its protocol counts them.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// Most requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// How often an HTTP/2 peer is asked for a sign of life, and how long it may take to give it.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long to let things calm down when the machine has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router on a listener until `shutdown.stop`, then lets the requests under way end for
/// as long as `limits.drain_timeout` before it drops their connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    tasks: TaskTracker,
    shutdown: Shutdown,
) {
    let max_connections = limits.max_connections;
    let places = Arc::new(Semaphore::new(max_connections as usize));
    let drain_timeout = limits.drain_timeout;
    let cut = CancellationToken::new();
    let server = Arc::new(Server {
        builder: builder(&limits, tasks.clone()),
        router,
        first_request_timeout: limits.first_request_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        stop: shutdown.stop.clone(),
        cut: cut.clone(),
    });
    tokio::select! {
        () = shutdown.stop.cancelled() => {}
        never = accept(&listener, &places, &server, &tasks) => never,
    }
    drop(listener);
    // Every connection holds a place: who gets them all knows that the last one has ended.
    let drained = tokio::time::timeout(drain_timeout, places.acquire_many(max_connections)).await;
    if drained.is_err() {
        let left = max_connections as usize - places.available_permits();
        tracing::warn!(
            connections = left,
            "requests did not end within {} s; dropping their connections",
            drain_timeout.as_secs()
        );
        cut.cancel();
    }
}

/// What all connections share.
struct Server {
    builder: Builder<Tasks>,
    router: Router,
    first_request_timeout: Duration,
    idle_timeout: Duration,
    body_timeout: Duration,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    /// How long a connection may have nothing to do: before it is told to end, and after, when all
    /// that is left is that the peer takes its answers.
    fn patience(&self, is_stopping: bool) -> Duration {
        if is_stopping {
            self.body_timeout
        } else {
            self.idle_timeout
        }
    }
}

/// Runs what hyper spawns (the streams of HTTP/2) where the rest of the server's tasks run.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

fn builder(limits: &HttpLimits, tasks: TaskTracker) -> Builder<Tasks> {
    let mut builder = Builder::new(Tasks(tasks));
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper begins to count when it begins to wait, so this is the limit of idling as well.
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Accepts one connection after the other, each only when there is a place for it: others wait in
/// the kernel's backlog, where they cost nothing.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    server: &Arc<Server>,
    tasks: &TaskTracker,
) -> ! {
    loop {
        let place = Arc::clone(places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let connection = Arc::new(Connection {
                    server: Arc::clone(server),
                    peer: peer.ip(),
                    stop: server.stop.child_token(),
                    begun: AtomicU64::new(0),
                    ended: AtomicU64::new(0),
                });
                tasks.spawn(connection.run(stream, place));
            }
            // The client was gone before we came to it.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept connections just now: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// One connection, as its requests know it.
struct Connection {
    server: Arc<Server>,
    peer: IpAddr,
    /// Ends this connection in order. A child of the server's: polled on every wake-up, it must not
    /// make connections share a lock.
    stop: CancellationToken,
    /// Requests whose head was read, and those of them that were answered or given up.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Connection {
    async fn run(self: Arc<Self>, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let peer = self.peer;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, "the connection was gone at once: {error}");
            return;
        }
        let server = &self.server;
        let service = service_fn(|request| Arc::clone(&self).answer(request));
        let connection = server
            .builder
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        // hyper-util waits without limit for the bytes that tell HTTP/2 from HTTP/1, hyper for new
        // requests of HTTP/2 and for answers to be taken.
        let mut quiet = pin!(tokio::time::sleep(server.first_request_timeout));
        let (mut ended_before, mut is_stopping) = (0, false);
        loop {
            tokio::select! {
                biased;
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, "the connection ended: {error}");
                    }
                    return;
                }
                () = &mut quiet => {
                    let (begun, ended) = self.requests();
                    let is_quiet = begun == ended && ended == ended_before;
                    if is_quiet && (begun == 0 || is_stopping) {
                        return;
                    }
                    if is_quiet {
                        is_stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    ended_before = ended;
                    quiet.set(tokio::time::sleep(server.patience(is_stopping)));
                }
                () = self.stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                    ended_before = self.requests().1;
                    quiet.set(tokio::time::sleep(server.patience(is_stopping)));
                }
                () = server.cut.cancelled(), if is_stopping => return,
            }
        }
    }

    fn requests(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.begun), count(&self.ended))
    }

    fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + 'static {
        request.extensions_mut().insert(PeerAddress(self.peer));
        let version = request.version();
        let answer = self.server.router.clone().call(request);
        let under_way = UnderWay::begin(self);
        async move {
            let mut answer = answer.await?;
            if answer.extensions_mut().remove::<LastAnswer>().is_some() {
                if version < Version::HTTP_2 {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(CONNECTION, close);
                }
                under_way.0.stop.cancel();
            }
            Ok(answer)
        }
    }
}

/// A request that was not answered yet; hyper drops it with a client that hangs up.
struct UnderWay(Arc<Connection>);

impl UnderWay {
    fn begin(connection: Arc<Connection>) -> Self {
        connection.begun.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

//! The server: one stack around every protocol. What a request means is decided in the protocols'
//! folders, what may be done in `service`.

pub mod authorized;
#[cfg(feature = "docs-ui")]
mod docs_ui;
pub mod ops;
mod refusals;
mod request_id;
pub mod rest;
mod scrapes;
pub mod serve;

use std::any::Any;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRef, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http_body_util::Limited;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{Allowlist, Authenticator, Networks, Principal, client_address};
use crate::clock::Clock;
use crate::domain::{Error, Result};
use crate::metrics::Refusal;
use crate::service::Service;
use ops::Readiness;
use refusals::Refusals;
use request_id::RequestId;
use rest::problem::{self, Failure};
use rest::{openapi, tokens};

/// Scrapes of metrics at once; more are turned away.
const MAX_SCRAPES: usize = 4;

/// Changes to queues at once; more are turned away. Several for each connection of the pool.
const MAX_CHANGES: usize = 64;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What the server allows: the configuration's `[server]`.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Largest request body, in bytes.
    pub max_request_bytes: usize,
    /// Most bytes of bodies of requests under way, read or being read; more are turned away. At
    /// least `max_request_bytes`.
    pub max_buffered_bytes: usize,
    /// Longest time from a request's head to its answer; above the longest wait of a receive.
    pub request_timeout: Duration,
    /// Longest time in which a body may arrive, and in which the last answers may be taken of a
    /// connection that is to end.
    pub body_timeout: Duration,
    /// Most requests at once; more are turned away.
    pub max_in_flight: usize,
    /// Most connections at once; more wait to be accepted.
    pub max_connections: u32,
    /// Longest time from a connection's beginning to its first request's head.
    pub first_request_timeout: Duration,
    /// Longest time for which a connection may be idle: for a request's head to arrive once the
    /// answer before it was sent. Above the idle time of load balancers' pools.
    pub idle_timeout: Duration,
    /// Longest time that requests may take to end when the server stops.
    pub drain_timeout: Duration,
}

/// The two steps of a shutdown, taken by `app`.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: the node says that it is not ready, and goes on accepting.
    pub draining: CancellationToken,
    /// Cancelled once load balancers had time to notice: nothing new is accepted.
    pub stop: CancellationToken,
}

/// What the server is made of.
pub struct Http {
    /// The operations.
    pub service: Service,
    /// Who has credentials.
    pub authenticator: Authenticator,
    /// Which clients may ask at all.
    pub allowlist: Allowlist,
    /// Whose X-Forwarded-For counts.
    pub trusted_proxies: Networks,
    /// What is allowed.
    pub limits: HttpLimits,
    /// Whether metrics are read without a token.
    pub metrics_are_public: bool,
    /// Whether the node is shutting down.
    pub shutdown: Shutdown,
    /// Where changes run that have to be finished when their client hangs up.
    pub tasks: TaskTracker,
    /// The time.
    pub clock: Clock,
}

impl FromRef<Arc<Gate>> for Service {
    fn from_ref(gate: &Arc<Gate>) -> Self {
        gate.http.service.clone()
    }
}

/// Runs a change to its end even when the client hangs up, which drops the request's future. For
/// changes of several steps; what goes to another task through a channel does not need it.
async fn to_its_end<T: Send + 'static>(
    tasks: &TaskTracker,
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tasks.spawn(change).await.map_err(Error::internal)?
}

/// The address of the other end of the connection, which `serve` puts on every request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// On an answer after which its connection ends, for `serve`.
#[derive(Debug, Clone, Copy)]
struct LastAnswer;

/// The whole server: every route inside the one stack.
pub fn router(http: Http) -> Router {
    let gate = Arc::new(Gate {
        in_flight: Semaphore::new(http.limits.max_in_flight.min(Semaphore::MAX_PERMITS)),
        buffer: Arc::new(Semaphore::new(
            http.limits.max_buffered_bytes.min(Semaphore::MAX_PERMITS),
        )),
        scrapes: Semaphore::new(MAX_SCRAPES),
        changes: Arc::new(Semaphore::new(MAX_CHANGES)),
        readiness: Readiness::default(),
        refusals: Refusals::default(),
        http,
    });
    let (routes, _document) = rest::api().split_for_parts();
    #[cfg(feature = "docs-ui")]
    let routes = routes.merge(docs_ui::routes());
    routes
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&gate), answer))
        .with_state(gate)
}

/// Whether a path needs no token.
fn is_public(path: &str) -> bool {
    #[cfg(feature = "docs-ui")]
    if docs_ui::is_page(path) {
        return true;
    }
    path == openapi::PATH
}

async fn no_such_path(uri: Uri) -> Failure {
    let path = uri.path().to_owned();
    Failure(Error::NoSuchPath { path })
}

async fn method_not_allowed(method: Method, uri: Uri) -> Failure {
    Failure(Error::MethodNotAllowed {
        method: method.to_string(),
        path: uri.path().to_owned(),
    })
}

/// What stands between the socket and the handlers, and what these share.
struct Gate {
    http: Http,
    in_flight: Semaphore,
    /// Places of scrapes, apart from requests': a node that is full is the one to look at.
    scrapes: Semaphore,
    /// A permit is a byte.
    buffer: Arc<Semaphore>,
    /// Places of changes to queues. Counted apart from requests: a change goes on when its client
    /// hangs up, and must not crowd out what others ask of the database.
    changes: Arc<Semaphore>,
    readiness: Readiness,
    refusals: Refusals,
}

/// The stack, outer half: whatever happens to a request, it is answered, numbered and logged.
///
/// It is one function and no pile of layers because each layer costs a boxed future and a clone of
/// everything below it, on every request.
async fn answer(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let clock = &gate.http.clock;
    let started = clock.instant();
    let PeerAddress(peer) = *request
        .extensions()
        .get()
        .expect("`serve` puts the peer's address on every request");
    let request_id = RequestId::of(request.headers(), clock);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();

    let client = gate.client(peer, request.headers());
    let address = *client.as_ref().unwrap_or(&peer);

    let admitted = caught(gate.admit(client, request, next)).await;
    let mut response = admitted.unwrap_or_else(|error| Failure(error).into_response());
    let ended = clock.instant();
    let metrics = gate.http.service.metrics();
    if let Some(error) = problem::render(&mut response, &request_id) {
        if let Some(refusal) = refusal(&error) {
            metrics.refused(refusal);
        }
        gate.refusals.log(&error, &request_id, address, ended);
    }
    tokens::log(&mut response, &request_id);
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let (status, took) = (response.status().as_u16(), ended - started);
    metrics.answered(method.as_str(), route, status, took);
    tracing::debug!(%request_id, %method, route, status, ms = took.as_secs_f64() * 1e3, "answered");
    request_id.put_on(response.headers_mut());
    if gate.is_stranger(peer) {
        response.extensions_mut().insert(LastAnswer);
    }
    response
}

impl Gate {
    /// Runs a change to a queue, to its end even when the client hangs up.
    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.changes).try_acquire_owned();
        let place = place.map_err(|_full| Error::Overloaded {
            what: "changes to queues under way",
        })?;
        to_its_end(&self.http.tasks, async move {
            let _place = place;
            change.await
        })
        .await
    }

    /// The stack, inner half: every check that a request passes on its way, cheapest first.
    async fn admit(
        &self,
        client: Result<IpAddr>,
        mut request: Request,
        next: Next,
    ) -> Result<Response> {
        let limits = &self.http.limits;
        check_host(&request)?;
        let path = request.uri().path();
        if ops::is_probe(path) {
            // Load balancers are on no allowlist, and a node that is busy is not a dead one.
            return Ok(next.run(request).await);
        }
        let is_scrape = scrapes::is_scrape(path);
        let is_public = is_public(path) || is_scrape && self.http.metrics_are_public;

        self.check_address(client?)?;
        let (places, what) = if is_scrape {
            (&self.scrapes, "scrapes of metrics")
        } else {
            (&self.in_flight, "requests in flight")
        };
        let place = places.try_acquire();
        let _place = place.map_err(|_full| Error::Overloaded { what })?;
        if !is_public {
            let principal = self.authenticate(request.headers())?;
            request.extensions_mut().insert(principal);
        }
        let request = limited(request, limits.max_request_bytes)?;
        let limit = limits.request_timeout;
        tokio::time::timeout(limit, next.run(request))
            .await
            .map_err(|_elapsed| Error::Timeout { limit })
    }

    /// Whether whatever comes over this peer's connection is refused, but for probes. A place is not
    /// kept for it then; a proxy's connection is also that of others.
    fn is_stranger(&self, peer: IpAddr) -> bool {
        !self.http.allowlist.allows(peer) && !self.http.trusted_proxies.contains(peer)
    }

    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr> {
        let forwarded = headers.get_all(X_FORWARDED_FOR).iter();
        let forwarded = forwarded.map(HeaderValue::as_bytes);
        client_address(peer, &self.http.trusted_proxies, forwarded)
    }

    fn check_address(&self, address: IpAddr) -> Result<()> {
        if self.http.allowlist.allows(address) {
            Ok(())
        } else {
            Err(Error::AddressNotAllowed { address })
        }
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>> {
        let refused = |reason| Error::Unauthenticated { reason };
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let header = all.next().ok_or(refused(
            "this needs a token: send the header `Authorization: Bearer <token>`",
        ))?;
        if all.next().is_some() {
            return Err(refused("there is more than one Authorization header"));
        }
        let token = header
            .to_str()
            .ok()
            .and_then(|header| header.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(refused("the Authorization header is not `Bearer <token>`"))?;
        let now = self.http.clock.utc();
        self.http.authenticator.authenticate(token, now)
    }
}

/// Whether an error refuses somebody for who they are.
fn refusal(error: &Error) -> Option<Refusal> {
    match error {
        Error::Unauthenticated { .. } => Some(Refusal::Unauthenticated),
        Error::Forbidden { .. } => Some(Refusal::Forbidden),
        Error::AddressNotAllowed { .. } => Some(Refusal::AddressNotAllowed),
        _ => None,
    }
}

/// Refuses a request that says for which host it is not once (RFC 9112, 3.2; RFC 9113, 8.3.1): the
/// proxies before us may take another one of the two for the right one.
fn check_host(request: &Request) -> Result<()> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let is_said_once = match request.version() {
        Version::HTTP_09 | Version::HTTP_10 => hosts <= 1,
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1 && (hosts == 1 || request.uri().authority().is_some()),
    };
    if is_said_once {
        return Ok(());
    }
    Err(Error::Malformed {
        detail: format!("there are {hosts} Host headers; a request has one"),
    })
}

/// Turns a panic into an error: one bad request may cost its own answer, not the connection's
/// others.
async fn caught(work: impl Future<Output = Result<Response>>) -> Result<Response> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)))
            .unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic.as_ref()))))
    })
    .await
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Error::internal(format!("a handler panicked: {message}"))
}

/// Refuses a body that says it is too large, and counts one that does not say. hyper holds a body
/// to the length that its head announced, so there is nothing to count in the usual case.
fn limited(request: Request, limit_bytes: usize) -> Result<Request> {
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
    let size = request.body().size_hint();
    if size.lower() > limit {
        return Err(Error::TooLarge {
            field: "request body".to_owned(),
            limit_bytes,
        });
    }
    if size.upper().is_some_and(|most| most <= limit) {
        return Ok(request);
    }
    Ok(request.map(|body| Body::new(Limited::new(body, limit_bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error() {
        let error = caught(async { panic!("lost the {}", "plot") })
            .await
            .unwrap_err();
        let Error::Internal(source) = error else {
            panic!("{error:?}");
        };
        assert_eq!(source.to_string(), "a handler panicked: lost the plot");
    }

    #[tokio::test]
    async fn a_change_goes_on_when_its_client_hangs_up() {
        let tasks = TaskTracker::new();
        let (go, gone) = tokio::sync::oneshot::channel();
        let (done, is_done) = tokio::sync::oneshot::channel();
        let change = to_its_end(&tasks, async {
            gone.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = change => panic!("it waits"),
            () = std::future::ready(()) => {}
        }
        go.send(()).unwrap();
        is_done.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_that_does_not_say_its_length_is_counted() {
        let stream = |bytes: usize| {
            limited(Request::new(Body::new(Chunks(bytes))), 100)
                .unwrap()
                .into_body()
        };
        assert!(axum::body::to_bytes(stream(100), usize::MAX).await.is_ok());
        assert!(axum::body::to_bytes(stream(101), usize::MAX).await.is_err());
    }

    /// A body of so many single bytes.
    struct Chunks(usize);

    impl axum::body::HttpBody for Chunks {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            let Some(left) = self.0.checked_sub(1) else {
                return Poll::Ready(None);
            };
            self.0 = left;
            Poll::Ready(Some(Ok(hyper::body::Frame::data("x".into()))))
        }
    }
}

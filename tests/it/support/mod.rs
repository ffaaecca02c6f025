//! What several tests need: a database each, servers over it, and requests to them.

pub(crate) mod client;
pub(crate) mod database;
pub(crate) mod node;
pub(crate) mod server;
pub(crate) mod socket;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Request, Response};
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;
use towpath::auth::{Allowlist, Authenticator, Issuer, Networks, SigningKey, Subject};
use towpath::clock::Clock;
use towpath::domain::access::{Right, Rights};
use towpath::domain::limits::MAX_REQUEST_BYTES;
use towpath::http::{Http, HttpLimits, PeerAddress, Shutdown};

use database::Database;

/// Long enough for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tries until there is a value.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    let clock = Clock::default();
    let began = clock.instant();
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(
            clock.instant() - began < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A directory that a managed database can enter, whoever it runs as.
pub(crate) fn temp_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A server over a database of its own, whose parts a test may change before it is built.
pub(crate) async fn http() -> Http {
    http_on(&Database::new().await).await
}

pub(crate) async fn http_on(database: &Database) -> Http {
    Http {
        service: node::service(database).await,
        authenticator: Authenticator::new(issuer()),
        allowlist: Allowlist::default(),
        trusted_proxies: Networks::default(),
        limits: limits(),
        metrics_are_public: false,
        shutdown: Shutdown::default(),
        tasks: tokio_util::task::TaskTracker::new(),
        clock: Clock::default(),
    }
}

/// Wide enough for any test that does not narrow one of them.
pub(crate) fn limits() -> HttpLimits {
    HttpLimits {
        max_request_bytes: MAX_REQUEST_BYTES,
        max_buffered_bytes: 32 * MAX_REQUEST_BYTES,
        request_timeout: Duration::from_secs(30),
        body_timeout: Duration::from_secs(15),
        max_in_flight: 1000,
        max_connections: 1000,
        first_request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(65),
        drain_timeout: Duration::from_secs(25),
    }
}

pub(crate) async fn router() -> Router {
    towpath::http::router(http().await)
}

/// What signs the tokens of every test server.
pub(crate) const SIGNING_KEY: [u8; SigningKey::BYTES] = [7; SigningKey::BYTES];

fn issuer() -> Issuer {
    Issuer::new("1", &SigningKey::new(SIGNING_KEY))
}

/// A token with these rights.
pub(crate) fn token(rights: Rights) -> String {
    let subject = Subject::parse("sub", "tester").unwrap();
    let life = Duration::from_secs(3600);
    let minted = issuer().mint(&subject, rights, life, Clock::default().utc());
    minted.unwrap().token
}

pub(crate) fn all_rights() -> Rights {
    Right::ALL.into_iter().collect()
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that this is a whole problem with a status and a code.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!(
            (self.status, &self.body["code"]),
            (status, &code.into()),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        assert_eq!(self.body["type"], format!("urn:towpath:error:{code}"));
        for text in ["title", "detail"] {
            assert!(
                self.body[text]
                    .as_str()
                    .is_some_and(|text| !text.is_empty())
            );
        }
        &self.body
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{self:?}");
        assert!(!self.header("x-request-id").is_empty());
        &self.body
    }
}

/// A request with an administrator's token and, unless empty, a JSON body.
pub(crate) fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("authorization", format!("Bearer {}", token(all_rights())));
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

pub(crate) async fn ask(router: &Router, mut request: Request<Body>) -> Answer {
    let peer = PeerAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if request.extensions().get::<PeerAddress>().is_none() {
        request.extensions_mut().insert(peer);
    }
    let host = HeaderValue::from_static("localhost");
    request.headers_mut().insert("host", host);
    read(router.clone().oneshot(request).await.unwrap()).await
}

async fn read(response: Response<Body>) -> Answer {
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

/// Compares a generated file with the committed one; `UPDATE_DOCS=1` writes it instead.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a switch of the tests is no configuration"
)]
pub(crate) fn compare_with_file(path: &str, expected: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var("UPDATE_DOCS").is_ok() {
        fs::write(&file, expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is not current; run the tests with UPDATE_DOCS=1 and commit it"
    );
}

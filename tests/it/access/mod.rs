//! Who gets in: every route without and with bad credentials, what a token's scope opens, and which
//! addresses may ask. Over real sockets, since a refusal must not wait for a body.

mod addresses;
mod credentials;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use towpath::domain::access::Right;

use crate::support::database::Database;
use crate::support::socket::{self, Server};
use crate::support::{Answer, all_rights, http, token};

/// Larger than what is sent: an answer that waited for all of it would come too late.
const ANNOUNCED_BYTES: usize = 1_000_000;

/// Of nothing that there is.
const ANY_ID: &str = "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210";

/// Method and path.
type Operation = (String, String);

/// Every operation: those for everyone, and the others.
fn operations() -> (Vec<Operation>, Vec<Operation>) {
    let document = towpath::http::rest::openapi::document();
    let document: Value = serde_json::from_str(&document).unwrap();
    let (mut public, mut closed) = (vec![], vec![]);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_public = operation["security"] == json!([{}]);
            let list = if is_public { &mut public } else { &mut closed };
            let path = path.replace("{queue}", "orders");
            let path = path.replace("{message_id}", ANY_ID);
            list.push((method.to_uppercase(), path.replace("{redrive_id}", ANY_ID)));
        }
    }
    (public, closed)
}

/// A head whose body never comes.
fn head(method: &str, path: &str, headers: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {ANNOUNCED_BYTES}\r\n{headers}\r\n"
    )
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// A whole request.
async fn ask(at: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let json = "content-type: application/json\r\n";
    let json = if body.is_empty() { "" } else { json };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{json}content-length: {length}\r\n{headers}\r\n{body}"
    );
    socket::ask(at, request.as_bytes()).await
}

/// Each operation with the right that it needs, a good body, and its answer.
const RIGHTS: &[(Right, &str, &str, &str, u16)] = &[
    (Right::ReadMetadata, "GET", "/v1/queues", "", 200),
    (Right::ReadMetadata, "GET", "/v1/queues/orders", "", 200),
    (Right::Configure, "PUT", "/v1/queues/orders", "", 200),
    (Right::Configure, "PATCH", "/v1/queues/orders", "{}", 200),
    (
        Right::Send,
        "POST",
        "/v1/queues/orders/messages",
        r#"{"messages":[{"body":"a"}]}"#,
        200,
    ),
    (
        Right::Receive,
        "POST",
        "/v1/queues/orders/messages/receive",
        "",
        200,
    ),
    (
        Right::Delete,
        "POST",
        "/v1/queues/orders/messages/delete",
        r#"{"messages":[{"receipt_handle":"r-"}]}"#,
        422,
    ),
    (
        Right::Receive,
        "POST",
        "/v1/queues/orders/messages/extend",
        r#"{"messages":[{"receipt_handle":"r-","visibility_timeout_seconds":1}]}"#,
        422,
    ),
    (
        Right::Receive,
        "POST",
        "/v1/queues/orders/messages/nack",
        r#"{"messages":[{"receipt_handle":"r-"}]}"#,
        422,
    ),
    (
        Right::ReadMetadata,
        "GET",
        "/v1/queues/orders/counts",
        "",
        200,
    ),
    (Right::Receive, "GET", "/v1/queues/orders/messages", "", 200),
    (
        Right::Receive,
        "GET",
        "/v1/queues/orders/messages/0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210",
        "",
        404,
    ),
    (
        Right::Delete,
        "DELETE",
        "/v1/queues/orders/messages/0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210",
        "",
        404,
    ),
    (
        Right::Delete,
        "PATCH",
        "/v1/queues/orders/messages/0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210",
        r#"{"delay_seconds":1}"#,
        404,
    ),
    (Right::ReadMetadata, "GET", "/metrics", "", 200),
    (Right::ReadMetadata, "GET", "/metrics/queues", "", 200),
    (Right::Purge, "POST", "/v1/queues/orders/purge", "", 204),
    (
        Right::Configure,
        "POST",
        "/v1/queues/orders/redrives",
        r#"{"dry_run":true}"#,
        200,
    ),
    (
        Right::ReadMetadata,
        "GET",
        "/v1/queues/orders/redrives",
        "",
        200,
    ),
    (
        Right::ReadMetadata,
        "GET",
        "/v1/queues/orders/redrives/0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210",
        "",
        404,
    ),
    (
        Right::Configure,
        "POST",
        "/v1/queues/orders/redrives/0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210/cancel",
        "",
        404,
    ),
    (
        Right::Administer,
        "POST",
        "/v1/tokens",
        r#"{"subject":"a"}"#,
        200,
    ),
    (Right::Configure, "DELETE", "/v1/queues/orders", "", 204),
];

#[tokio::test]
async fn a_minted_token_opens_what_its_scope_says_and_nothing_else() {
    let server = Server::start(http().await).await;
    let administrator = bearer(&token(all_rights()));
    ask(
        server.address,
        "PUT",
        "/v1/queues/orders",
        &administrator,
        "",
    )
    .await
    .expect(201);
    assert_eq!(
        operations().1.len(),
        RIGHTS.len(),
        "an operation has no row"
    );
    let minted = |scope: String| {
        let body = json!({"subject": "worker", "scope": scope, "lifetime_seconds": 60});
        let (at, administrator) = (server.address, &administrator);
        async move {
            let answer = ask(at, "POST", "/v1/tokens", administrator, &body.to_string()).await;
            bearer(answer.expect(200)["token"].as_str().unwrap())
        }
    };
    for (right, method, path, body, status) in RIGHTS {
        let others = Right::ALL.into_iter().filter(|other| other != right);
        let others: Vec<_> = others.map(Right::name).collect();
        let token = minted(others.join(" ")).await;
        let refused = server.ask(head(method, path, &token).as_bytes()).await;
        let problem = refused.expect_problem(403, "forbidden");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("`{}`", right.name())), "{detail}");

        let token = minted(right.name().to_owned()).await;
        let answer = ask(server.address, method, path, &token, body).await;
        assert_eq!(answer.status, *status, "{method} {path}: {answer:?}");
    }
}

/// The program over a database, which ends with the test.
struct Program {
    process: Child,
    // Whose reader is gone cannot print.
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Program {
    fn serve(database: &Database, data_dir: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_towpath"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(["--set", "database.allow_unsafe_durability=true"])
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("DATABASE_URL", database.options.to_url_lossy().as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let url = line.split_whitespace().nth(2).expect("it says where it is");
        Self {
            process,
            _output: output,
            address: url.replace("http://", "").parse().unwrap(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test]
async fn the_administrators_token_is_the_owners_alone_and_made_anew_when_it_does_not_hold() {
    const OPEN_TO_ALL: u32 = 0o644;
    let database = Database::new().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("admin.token");
    let mut last = String::new();
    for (found, text) in [
        ("nothing", None),
        ("its own, open to all", None),
        ("garbage", Some("garbage".to_owned())),
        ("a token of another key", Some(token(all_rights()))),
    ] {
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        if file.exists() {
            fs::set_permissions(&file, fs::Permissions::from_mode(OPEN_TO_ALL)).unwrap();
        }
        let program = Program::serve(&database, dir.path());
        let text = fs::read_to_string(&file).unwrap();
        let credentials = bearer(text.trim());
        let answer = ask(program.address, "GET", "/v1/queues", &credentials, "").await;
        answer.expect(200);
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{found}");
        assert_eq!(text == last, found == "its own, open to all", "{found}");
        last = text;
    }
    let header = fs::read_to_string(dir.path().join("admin.header")).unwrap();
    assert_eq!(header, format!("Authorization: Bearer {last}"));
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(files.len(), 2, "{files:?}");
}

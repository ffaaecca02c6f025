//! The program against a real server: in a home of its own, with nothing in its environment but the
//! server's address and a token.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use towpath::domain::access::Rights;

use super::{assert_exit, stderr, stdout};
use crate::support::database::Database;
use crate::support::server::Cluster;
use crate::support::socket::Server;
use crate::support::{all_rights, http_on, token};

/// Longer than any command takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Served {
    pub(super) url: String,
    pub(super) token: String,
    pub(super) home: TempDir,
    /// What serves ends with the test.
    own: Option<(Server, Database)>,
}

impl Served {
    /// A server of its own, without what runs in the background.
    pub(super) async fn start() -> Self {
        let database = Database::new().await;
        let server = Server::start(http_on(&database).await).await;
        let url = format!("http://{}", server.address);
        Self {
            own: Some((server, database)),
            ..Self::at(url, token(all_rights()))
        }
    }

    /// A whole node.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let url = format!("http://{}", cluster.nodes[0].address());
        Self::at(url, cluster.client(0).token().to_owned())
    }

    pub(super) fn at(url: String, token: String) -> Self {
        Self {
            url,
            token,
            home: tempfile::tempdir().unwrap(),
            own: None,
        }
    }

    /// The same server for somebody with other rights.
    pub(super) fn with_rights(&self, rights: Rights) -> Self {
        Self::at(self.url.clone(), token(rights))
    }

    /// Any program, as one in whose shell `towpath` is set up would run it.
    pub(super) fn program(&self, program: impl AsRef<Path>) -> Command {
        let own = Path::new(env!("CARGO_BIN_EXE_towpath")).parent().unwrap();
        let inherited = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(
            std::iter::once(own.to_owned()).chain(std::env::split_paths(&inherited)),
        );
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", path.unwrap())
            .env("HOME", self.home.path())
            .env("TOWPATH_URL", &self.url)
            .env("TOWPATH_TOKEN", &self.token)
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_towpath"));
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, arguments: &[&str]) -> Output {
        end(self.command(arguments).spawn().unwrap()).await
    }

    /// The same with a standard input.
    pub(super) async fn run_with(&self, arguments: &[&str], input: impl Into<Vec<u8>>) -> Output {
        let mut command = self.command(arguments);
        let mut process = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = process.stdin.take().unwrap();
        let input = input.into();
        let writing = async move {
            // A command may end before it has read everything.
            let _unread = stdin.write_all(&input).await;
        };
        let ((), output) = tokio::join!(writing, end(process));
        output
    }

    /// What a command prints that succeeds.
    pub(super) async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_exit(&output, 0);
        stdout(&output).to_owned()
    }

    /// The lines of JSON that a command prints that succeeds.
    pub(super) async fn json(&self, arguments: &[&str]) -> Vec<Value> {
        lines(&self.text(arguments).await)
    }

    /// What a queue holds: visible, in flight, delayed. By a server that remembers nothing.
    pub(super) async fn counts(&self, queue: &str) -> [u64; 3] {
        let (_, database) = self.own.as_ref().expect("the database is the test's own");
        let server = Server::start(http_on(database).await).await;
        let url = format!("http://{}", server.address);
        let stats = self.json(&["queue", "stats", queue, "--url", &url]).await;
        ["visible", "in_flight", "delayed"].map(|state| stats[0][state].as_u64().unwrap())
    }

    /// Asserts that a command fails, and returns what it says.
    pub(super) async fn refusal(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments).await;
        assert_exit(&output, code);
        assert_eq!(stdout(&output), "");
        stderr(&output).to_owned()
    }
}

pub(super) async fn end(process: tokio::process::Child) -> Output {
    let ended = timeout(PATIENCE, process.wait_with_output()).await;
    ended.expect("the command ends").unwrap()
}

pub(super) fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// What stands at members of items, in order.
pub(super) fn members<'a>(items: &'a [Value], name: &str) -> Vec<&'a str> {
    let members = items.iter().map(|item| item[name].as_str());
    members.map(Option::unwrap_or_default).collect()
}

//! The command of one message: a process group of its own, with the body on its standard input.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::message::attributes;
use crate::cli::output::note;

/// What a variable may hold: the system takes no more than twice as much.
const MAX_VARIABLE: usize = 64 * 1024;

/// What is kept of a line of the standard error.
const MAX_LINE: usize = 1024;

/// How long the standard error is read on after the command has ended: what it left running may
/// hold it open.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct Running {
    child: Child,
    group: Option<Pid>,
    /// Writes the body.
    _input: JoinSet<()>,
    errors: JoinSet<String>,
}

impl Running {
    /// # Errors
    /// There is no such command, or the system has no room for it.
    pub(super) fn start(
        command: &[OsString],
        message: &Value,
        body: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("a command is given")?;
        let mut child = Command::new(program);
        child.args(arguments);
        for (name, value) in variables(message) {
            child.env(name, value);
        }
        // A Ctrl-C in the terminal is for us: commands that run may end what they are at.
        child.process_group(0);
        child.kill_on_drop(true);
        child.stdin(Stdio::piped()).stderr(Stdio::piped());
        let started = child.spawn();
        let mut child = started.with_context(|| format!("cannot run {}", program.display()))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let (mut input, mut errors) = (JoinSet::new(), JoinSet::new());
        if let Some(mut stdin) = child.stdin.take() {
            input.spawn(async move {
                // A command need not read it.
                let _unread = stdin.write_all(&body).await;
            });
        }
        if let Some(stderr) = child.stderr.take() {
            errors.spawn(pass_on(stderr));
        }
        Ok(Self {
            child,
            group: group.map(Pid::from_raw),
            _input: input,
            errors,
        })
    }

    /// # Errors
    /// The system does not say how it ended.
    pub(super) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("cannot wait for a command")
    }

    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // It has not been waited for, so its number is its own.
        if let Some(group) = self.group.filter(|_| self.child.id().is_some()) {
            let _ended_already = killpg(group, signal);
        }
    }

    /// The last line that is not empty which it wrote to its standard error.
    pub(super) async fn last_line(&mut self) -> String {
        let read = timeout(LAST_WORDS, self.errors.join_next()).await;
        match read {
            Ok(Some(Ok(line))) => line,
            _ => String::new(),
        }
    }
}

/// Hands the standard error on, line by line, and keeps the last one.
async fn pass_on(mut stderr: ChildStderr) -> String {
    let (mut last, mut line) = (String::new(), Vec::new());
    let mut piece = [0; 4096];
    loop {
        let length = stderr.read(&mut piece).await.unwrap_or(0);
        for byte in piece.iter().take(length) {
            if *byte != b'\n' {
                line.push(*byte);
            }
            if *byte == b'\n' || line.len() == MAX_LINE {
                tell(&mut line, &mut last);
            }
        }
        if length == 0 {
            tell(&mut line, &mut last);
            return last;
        }
    }
}

fn tell(line: &mut Vec<u8>, last: &mut String) {
    let text = String::from_utf8_lossy(line);
    if !text.trim().is_empty() {
        note(&text);
        text.trim().clone_into(last);
    }
    line.clear();
}

/// What the command is told about its message. A value that no variable can hold is left out.
fn variables(message: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let mut variables = vec![
        (
            "TOWPATH_MESSAGE_ID".to_owned(),
            text(&message["message_id"]),
        ),
        (
            "TOWPATH_RECEIVE_COUNT".to_owned(),
            text(&message["receive_count"]),
        ),
    ];
    for (name, value) in attributes(message) {
        if value.contains('\0') || value.len() > MAX_VARIABLE {
            note(&format!(
                "the attribute {name} fits in no variable and is left out"
            ));
            continue;
        }
        let capital = |character: char| match character {
            'A'..='Z' | '0'..='9' => character,
            'a'..='z' => character.to_ascii_uppercase(),
            _ => '_',
        };
        let name: String = name.chars().map(capital).collect();
        variables.push((format!("TOWPATH_ATTRIBUTE_{name}"), value.to_owned()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_become_variables() {
        let message = json!({
            "message_id": "m", "receive_count": 2,
            "attributes": {
                "order-id": {"type": "String", "value": "4711"},
                "a.b_c": {"type": "Number", "value": "5"},
                "nul": {"type": "String", "value": "a\u{0}b"},
            },
        });
        let expected = [
            ("TOWPATH_MESSAGE_ID", "m"),
            ("TOWPATH_RECEIVE_COUNT", "2"),
            ("TOWPATH_ATTRIBUTE_ORDER_ID", "4711"),
            ("TOWPATH_ATTRIBUTE_A_B_C", "5"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(variables(&message), expected);
    }
}

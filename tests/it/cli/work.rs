//! `towpath work`: a command per message.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Child;
use towpath::domain::access::{Right, Rights};

use super::served::{Served, end, members};
use super::{assert_exit, stderr};
use crate::support::eventually;

/// A server with a queue whose messages are dead after two attempts.
async fn served_with_queue() -> Served {
    let served = Served::start().await;
    served.text(&["queue", "create", "dead"]).await;
    let dead_letters = ["--dead-letter-queue", "dead", "--max-receive-count", "2"];
    served
        .text(&[&["queue", "create", "q"], &dead_letters[..]].concat())
        .await;
    served
}

/// The lines of a file in the home, once it has as many.
async fn lines_of(served: &Served, file: &str, least: usize) -> Vec<String> {
    let path = served.home.path().join(file);
    eventually("the file has its lines", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= least).then_some(lines)
    })
    .await
}

fn exists(served: &Served, file: &str) -> bool {
    served.home.path().join(Path::new(file)).exists()
}

fn signal(process: &Child, signal: Signal) {
    let pid = process.id().expect("it runs").try_into().unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Works with a shell's script.
fn working(served: &Served, flags: &[&str], script: &str) -> Child {
    let arguments = [&["work", "q"], flags, &["--", "sh", "-c", script]].concat();
    served.command(&arguments).spawn().unwrap()
}

#[tokio::test]
async fn a_message_whose_command_ends_well_is_deleted() {
    let served = served_with_queue().await;
    let input = "first\nsecond\nthird\n";
    let sent = served.run_with(&["send", "q", "--lines"], input).await;
    let sent = super::served::lines(super::stdout(&sent));
    let script = "echo \"$(cat) $TOWPATH_MESSAGE_ID $TOWPATH_RECEIVE_COUNT\" >> done";
    let output = end(working(&served, &["--exit-on-empty", "-j", "2"], script)).await;
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "3 done, 0 failed\n");
    assert_eq!(served.counts("q").await, [0, 0, 0]);
    let mut done = lines_of(&served, "done", 3).await;
    done.sort();
    let ids = members(&sent, "message_id");
    let expected = ["first", "second", "third"].into_iter().zip(ids);
    let mut expected: Vec<_> = expected
        .map(|(body, id)| format!("{body} {id} 1"))
        .collect();
    expected.sort();
    assert_eq!(done, expected);
}

#[tokio::test]
async fn a_message_whose_command_fails_comes_again_later_and_says_why_when_it_is_dead() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let script = "echo first >&2; echo \"out of paper\" >&2; echo >&2; exit 3";
    let output = end(working(
        &served,
        &["--exit-on-empty", "--backoff", "1h"],
        script,
    ))
    .await;
    assert_exit(&output, 0);
    let said = stderr(&output);
    assert!(
        said.contains("exit code 3: out of paper; comes again at "),
        "{said}"
    );
    assert!(said.ends_with("0 done, 1 failed\n"), "{said}");
    assert_eq!(served.counts("q").await, [0, 1, 0], "it comes in an hour");

    served.text(&["queue", "purge", "q", "--yes"]).await;
    served.text(&["send", "q", "hello"]).await;
    let flags = ["--exit-on-empty", "--backoff", "0s"];
    let output = end(working(&served, &flags, script)).await;
    let said = stderr(&output);
    assert!(said.contains("goes to the dead-letter queue"), "{said}");
    let dead = served.json(&["receive", "dead", "--wait", "10s"]).await;
    let death = &dead[0]["deaths"][0];
    assert_eq!(death["text"], "exit code 3: out of paper");
    assert_eq!(death["receive_count"], 2);
}

#[tokio::test]
async fn a_message_stays_with_its_command_for_longer_than_its_window() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let script = "echo began >> began; sleep 4; echo ended >> ended";
    // The other worker would get it if it could.
    let process = working(&served, &["-j", "2", "--visibility-timeout", "1s"], script);
    lines_of(&served, "ended", 1).await;
    signal(&process, Signal::SIGTERM);
    let output = end(process).await;
    assert_exit(&output, 0);
    assert_eq!(stderr(&output).lines().last(), Some("1 done, 0 failed"));
    assert_eq!(lines_of(&served, "began", 1).await.len(), 1);
    assert_eq!(served.counts("q").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_command_that_has_lost_its_message_is_told() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let script = "trap 'echo told >> told; exit 0' TERM; echo began >> began; sleep 60 & wait";
    let flags = ["--visibility-timeout", "3s"];
    let process = working(&served, &flags, script);
    lines_of(&served, "began", 1).await;
    served.text(&["queue", "purge", "q", "--yes"]).await;
    lines_of(&served, "told", 1).await;
    signal(&process, Signal::SIGTERM);
    let output = end(process).await;
    assert_exit(&output, 0);
    let said = stderr(&output);
    assert!(
        said.contains("in the hands of others; telling its command to end"),
        "{said}"
    );
    assert!(said.ends_with("0 done, 1 failed\n"), "{said}");
}

#[tokio::test]
async fn a_first_signal_lets_commands_end_and_takes_no_more_messages() {
    let served = served_with_queue().await;
    let script = "echo began >> began; while [ ! -e go ]; do sleep 0.05; done; cat >> ended";
    for name in [Signal::SIGINT, Signal::SIGTERM] {
        served.run_with(&["send", "q", "--lines"], "a\nb\n").await;
        let process = working(&served, &[], script);
        lines_of(&served, "began", 1).await;
        signal(&process, name);
        std::fs::write(served.home.path().join("go"), "").unwrap();
        let output = end(process).await;
        assert_exit(&output, 0);
        assert!(stderr(&output).ends_with("1 done, 0 failed\n"));
        assert_eq!(served.counts("q").await, [1, 0, 0]);
        served.text(&["queue", "purge", "q", "--yes"]).await;
        for file in ["go", "began", "ended"] {
            std::fs::remove_file(served.home.path().join(file)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_commands_and_gives_their_messages_back() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let process = working(
        &served,
        &[],
        "echo began >> began; sleep 60; echo ended >> ended",
    );
    lines_of(&served, "began", 1).await;
    signal(&process, Signal::SIGINT);
    signal(&process, Signal::SIGTERM);
    let output = end(process).await;
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("error: told twice to end"));
    assert_eq!(served.counts("q").await, [1, 0, 0]);
    assert!(!exists(&served, "ended"));
}

#[tokio::test]
async fn a_command_that_does_not_exist_ends_the_work_and_costs_no_message() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let output = served.run(&["work", "q", "--", "/nonexistent"]).await;
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("error: cannot run /nonexistent\n"));
    assert_eq!(served.counts("q").await, [1, 0, 0]);
}

#[tokio::test]
async fn a_worker_needs_no_more_than_the_rights_to_receive_and_delete() {
    let served = served_with_queue().await;
    served.text(&["send", "q", "hello"]).await;
    let worker = served.with_rights(Rights::from_iter([Right::Receive, Right::Delete]));
    let output = end(working(&worker, &["--exit-on-empty"], "cat > body")).await;
    assert_exit(&output, 0);
    let body = std::fs::read_to_string(worker.home.path().join("body")).unwrap();
    assert_eq!(body, "hello");
    let other = served.with_rights(Rights::from_iter([Right::ReadMetadata]));
    let output = end(working(&other, &[], "cat")).await;
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("answered 403 "),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn a_large_body_reaches_its_command_whole_and_need_not_be_read() {
    let served = served_with_queue().await;
    let body = "x".repeat(1_000_000);
    for script in ["wc -c > length", "exit 0"] {
        served.run_with(&["send", "q"], body.clone()).await;
        let output = end(working(&served, &["--exit-on-empty"], script)).await;
        assert_eq!(stderr(&output), "1 done, 0 failed\n");
    }
    let length = std::fs::read_to_string(served.home.path().join("length")).unwrap();
    assert_eq!(length.trim().parse::<Value>().unwrap(), 1_000_000);
}

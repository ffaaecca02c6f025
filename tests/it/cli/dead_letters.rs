//! `towpath dlq` and `mv`, against a whole node: redrives run in its background.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::served::{Served, end, lines, members};
use super::{assert_exit, stderr, stdout};
use crate::support::eventually;
use crate::support::server::Cluster;

/// Two dead letters of `orders` in `dead`.
async fn with_dead_letters(served: &Served) {
    let file =
        "queues: [{name: dead}, {name: orders, dead_letter_queue: dead, max_receive_count: 1}]";
    let applied = served.run_with(&["apply", "-f", "-"], file).await;
    assert_exit(&applied, 0);
    served
        .run_with(&["send", "orders", "--lines"], "a\nb\n")
        .await;
    let fail = "echo out of paper >&2; exit 3";
    let work = ["work", "orders", "--exit-on-empty", "--", "sh", "-c", fail];
    served.text(&work).await;
    holds(served, "dead", 2).await;
}

async fn holds(served: &Served, queue: &str, messages: u64) {
    eventually("the queue holds as many", async || {
        let stats = served.json(&["queue", "stats", queue]).await;
        (stats[0]["visible"] == messages).then_some(())
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_moved_back() {
    let cluster = Cluster::start(1, &[]).await;
    let served = Served::of(&cluster);
    with_dead_letters(&served).await;
    let listed = served.json(&["dlq", "ls"]).await;
    assert_eq!(members(&listed, "name"), ["dead"]);
    assert_eq!(listed[0]["sources"], serde_json::json!(["orders"]));
    let shown = served.text(&["dlq", "show", "dead", "-o", "table"]).await;
    assert!(shown.contains("exit code 3: out of paper"), "{shown}");

    let redrive = ["dlq", "redrive", "dead"];
    let none = [
        &redrive[..],
        &["--reason", "timeout", "--dry-run", "-o", "table"],
    ]
    .concat();
    assert_eq!(served.text(&none).await, "0 messages would move\n");
    let all = [&redrive[..], &["--reason", "paper", "--dry-run"]].concat();
    assert_eq!(served.json(&all).await[0]["matching"], 2);
    let done = served.json(&redrive).await;
    assert_eq!(
        (&done[0]["state"], &done[0]["moved"]),
        (&"completed".into(), &2.into())
    );
    holds(&served, "orders", 2).await;

    served.text(&["queue", "create", "elsewhere"]).await;
    let moved = served.json(&["mv", "orders", "elsewhere"]).await;
    assert_eq!(moved[0]["moved"], 2);
    holds(&served, "elsewhere", 2).await;

    let output = served.run(&["mv", "elsewhere", "missing"]).await;
    assert_exit(&output, 1);
}

#[tokio::test]
async fn an_interrupt_leaves_a_redrive_running_and_says_how_to_cancel_it() {
    let cluster = Cluster::start(1, &[]).await;
    let served = Served::of(&cluster);
    for queue in ["from", "to"] {
        served.text(&["queue", "create", queue]).await;
    }
    let input: String = (0..500).map(|number| format!("{number}\n")).collect();
    served.run_with(&["send", "from", "--lines"], input).await;
    let mut command = served.command(&["mv", "from", "to", "--rate", "1"]);
    let process = command.spawn().unwrap();
    let redrives = async || served.json(&["dlq", "redrives", "from"]).await;
    eventually("it runs", async || {
        (!redrives().await.is_empty()).then_some(())
    })
    .await;
    let pid = process.id().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let output = end(process).await;
    assert_exit(&output, 0);
    let said = stderr(&output);
    assert!(said.contains("the redrive goes on"), "{said}");
    assert_eq!(lines(stdout(&output))[0]["state"], "running");
    let cancel = said
        .split('`')
        .find(|text| text.starts_with("towpath dlq cancel "));
    let words: Vec<_> = cancel.unwrap().split(' ').skip(1).collect();
    served.text(&words).await;
    eventually("it was cancelled", async || {
        (redrives().await[0]["state"] == "cancelled").then_some(())
    })
    .await;
}

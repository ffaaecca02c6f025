//! `towpath peek`, `tail`, `dump` and `load`, and what messages carry.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::served::{Served, end, lines, members};
use super::{assert_exit, stderr, stdout};

async fn served_with_messages() -> Served {
    let served = Served::start().await;
    served.text(&["queue", "create", "q"]).await;
    let red = ["--attr", "color=red", "--attr", "size:Number=5"];
    served
        .text(&[&["send", "q", "hello"], &red[..]].concat())
        .await;
    let output = served
        .run_with(&["send", "q"], b"\x00\xff".as_slice())
        .await;
    assert_exit(&output, 0);
    let later = [
        "send",
        "q",
        "later",
        "--delay",
        "1h",
        "--attr",
        "color=blue",
    ];
    served.text(&later).await;
    served
}

#[tokio::test]
async fn peek_shows_messages_and_changes_nothing() {
    let served = served_with_messages().await;
    let peeked = served.json(&["peek", "q"]).await;
    assert_eq!(peeked.len(), 3);
    assert_eq!(served.json(&["peek", "q", "-n", "2"]).await.len(), 2);
    for (flags, bodies) in [
        (["--state", "delayed"], ["later"]),
        (["--attribute", "color=red"], ["hello"]),
        (["--text", "ell"], ["hello"]),
    ] {
        let found = served.json(&[&["peek", "q"], &flags[..]].concat()).await;
        assert_eq!(members(&found, "body"), bodies, "{flags:?}");
    }
    let table = served.text(&["peek", "q", "-o", "table"]).await;
    for shown in ["hello", "(2 bytes)", "later", "visible", "delayed"] {
        assert!(table.contains(shown), "{table}");
    }
    assert_eq!(served.counts("q").await, [2, 0, 1]);
    let received = served.json(&["receive", "q", "-n", "2"]).await;
    assert!(received.iter().all(|message| message["receive_count"] == 1));
}

#[tokio::test]
async fn what_was_dumped_can_be_loaded_into_another_queue() {
    let served = served_with_messages().await;
    served.text(&["queue", "create", "copy"]).await;
    let dumped = served.run(&["dump", "q"]).await;
    assert_exit(&dumped, 0);
    assert!(stderr(&dumped).starts_with("dumped 3 messages by looking at them"));
    assert_eq!(served.counts("q").await, [2, 0, 1], "nothing was taken");
    let loaded = served.run_with(&["load", "copy"], dumped.stdout).await;
    assert_exit(&loaded, 0);
    assert_eq!(lines(stdout(&loaded)).len(), 3);
    let carried = async |queue: &str| {
        let peeked = served.json(&["peek", queue]).await;
        let carried = peeked.iter().map(|message| {
            let parts = ["body", "body_base64", "attributes"].map(|name| message[name].to_string());
            parts.join(" ")
        });
        let mut carried: Vec<_> = carried.collect();
        carried.sort();
        carried
    };
    assert_eq!(carried("q").await, carried("copy").await);
    let not_ours = served.run_with(&["load", "copy"], "{\"bodi\": 1}\n").await;
    assert_exit(&not_ours, 1);
    assert!(stderr(&not_ours).contains("line 1 is not a message"));
}

#[tokio::test]
async fn tail_prints_what_arrives_and_takes_nothing() {
    let served = served_with_messages().await;
    let mut process = served.command(&["tail", "q", "--all"]).spawn().unwrap();
    let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut next = async || lines(&printed.next_line().await.unwrap().unwrap()).remove(0);
    for _message in 0..3 {
        next().await;
    }
    served.text(&["send", "q", "new"]).await;
    assert_eq!(next().await["body"], "new");
    let pid = process.id().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    assert_exit(&end(process).await, 0);
    assert_eq!(served.counts("q").await, [3, 0, 1]);
}

#[tokio::test]
async fn a_command_of_work_gets_attributes_and_bytes() {
    let served = served_with_messages().await;
    let script = "echo \"$TOWPATH_ATTRIBUTE_COLOR $TOWPATH_ATTRIBUTE_SIZE $(wc -c)\" >> got";
    let work = ["work", "q", "--exit-on-empty", "--", "sh", "-c", script];
    assert_exit(&served.run(&work).await, 0);
    let got = std::fs::read_to_string(served.home.path().join("got")).unwrap();
    let mut got: Vec<_> = got
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    got.sort_by_key(Vec::len);
    assert_eq!(got, [vec!["2"], vec!["red", "5", "5"]]);
}

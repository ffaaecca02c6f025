//! `towpath send` and `receive`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::served::{Served, end, lines, members};
use super::{assert_exit, stderr, stdout};

async fn served_with_queue() -> Served {
    let served = Served::start().await;
    served.text(&["queue", "create", "q"]).await;
    served
}

/// The bodies of all messages of the queue, in order of their texts; the queue is empty then.
async fn bodies(served: &Served) -> Vec<String> {
    let messages = served.json(&["receive", "q", "--exit-on-empty"]).await;
    let mut bodies: Vec<_> = members(&messages, "body")
        .into_iter()
        .map(str::to_owned)
        .collect();
    bodies.sort();
    bodies
}

#[tokio::test]
async fn a_message_is_sent_from_an_argument_a_file_or_the_standard_input() {
    let served = served_with_queue().await;
    std::fs::write(served.home.path().join("letter"), "from a file\n").unwrap();
    let sent = served.json(&["send", "q", "from an argument"]).await;
    served.text(&["send", "q", "--file", "letter"]).await;
    for arguments in [&["send", "q"][..], &["send", "q", "-"]] {
        let output = served.run_with(arguments, "from the\ninput\n").await;
        assert_exit(&output, 0);
    }
    let output = served
        .run_with(&["send", "q", "--lines"], "a\n\nb\r\nc")
        .await;
    assert_eq!(lines(stdout(&output)).len(), 3);
    let received = served.json(&["receive", "q", "--ack", "none"]).await;
    assert_eq!(received[0]["message_id"], sent[0]["message_id"]);
    served.text(&["queue", "purge", "q", "--yes"]).await;

    let said = served.text(&["send", "q", "x", "-o", "table"]).await;
    assert!(
        said.starts_with("sent ") && said.ends_with(" to q\n"),
        "{said}"
    );
    let said = served.text(&["send", "q", "--delay", "1h", "later"]).await;
    assert_eq!(lines(&said).len(), 1);
    assert_eq!(served.counts("q").await, [1, 0, 1]);
    assert_eq!(bodies(&served).await, ["x"]);
}

#[tokio::test]
async fn lines_of_json_are_messages_as_the_api_takes_them() {
    let served = served_with_queue().await;
    let input = "{\"body\": \"now\"}\n\n{\"body\": \"later\", \"delay_seconds\": 3600}\n";
    let output = served.run_with(&["send", "q", "--jsonl"], input).await;
    assert_exit(&output, 0);
    assert_eq!(served.counts("q").await, [1, 0, 1]);

    let input = "{\"body\": \"good\"}\n{\"body\": \n";
    let output = served.run_with(&["send", "q", "--jsonl"], input).await;
    assert_exit(&output, 1);
    assert_eq!(
        lines(stdout(&output)).len(),
        1,
        "what stood before was sent"
    );
    let why = stderr(&output);
    assert!(why.contains("line 2 is not a message"), "{why}");

    let output = served
        .run_with(&["send", "q", "--jsonl"], "{\"bodi\": \"x\"}\n")
        .await;
    assert_exit(&output, 1);
    assert!(stderr(&output).starts_with("error: nothing was sent\n"));
    assert!(stderr(&output).contains("bodi"), "{}", stderr(&output));
    assert_eq!(bodies(&served).await, ["good", "now"]);
}

#[tokio::test]
async fn what_send_cannot_mean_is_wrong_usage() {
    let served = Served::start().await;
    for arguments in [
        &["send", "q", "text", "--lines"][..],
        &["send", "q", "text", "--file", "x"],
        &["send", "q", "--attr", "color"],
        &["send", "q", "--lines", "--jsonl"],
        &["send"],
    ] {
        served.refusal(arguments, 2).await;
    }
}

#[tokio::test]
async fn long_input_goes_in_batches_and_arrives_whole() {
    let served = served_with_queue().await;
    let input: String = (0..2500).map(|number| format!("{number}\n")).collect();
    let output = served.run_with(&["send", "q", "--lines"], input).await;
    assert_exit(&output, 0);
    let sent = lines(stdout(&output));
    let ids: HashSet<_> = members(&sent, "message_id").into_iter().collect();
    assert_eq!(ids.len(), 2500);
    let bodies: HashSet<_> = bodies(&served).await.into_iter().collect();
    assert_eq!(bodies.len(), 2500);
    assert!((0..2500).all(|number: u32| bodies.contains(&number.to_string())));
}

/// Passes on all connections but swallows the answer to one request, and counts requests.
async fn swallowing(server: &str, answer: usize) -> (SocketAddr, JoinSet<()>) {
    let server = server.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, answers) = (server.clone(), Arc::clone(&answers));
            connections.spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
                loop {
                    tokio::select! {
                        Ok(length @ 1..) = client.read(&mut up) => {
                            server.write_all(&up[..length]).await.unwrap();
                        }
                        Ok(length @ 1..) = server.read(&mut down) => {
                            let is_new = down.starts_with(b"HTTP/1.1 ");
                            let before = answers.fetch_add(usize::from(is_new), Ordering::Relaxed);
                            if is_new && before == answer {
                                return;
                            }
                            client.write_all(&down[..length]).await.unwrap();
                        }
                        else => return,
                    }
                }
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_sent_again_and_counts_once() {
    let served = served_with_queue().await;
    let (address, _proxy) = swallowing(&served.url, 1).await;
    let lossy = Served::at(format!("http://{address}"), served.token.clone());
    let input: String = (0..3000).map(|number| format!("{number}\n")).collect();
    let output = lossy.run_with(&["send", "q", "--lines"], input).await;
    assert_exit(&output, 0);
    assert_eq!(lines(stdout(&output)).len(), 3000);
    assert_eq!(served.counts("q").await, [3000, 0, 0]);
}

#[tokio::test]
async fn what_was_received_is_deleted_when_it_was_printed() {
    let served = served_with_queue().await;
    served
        .run_with(&["send", "q", "--lines"], "a\nb\nc\n")
        .await;
    let kept = served.json(&["receive", "q", "--ack", "none"]).await;
    assert_eq!(served.counts("q").await, [2, 1, 0]);
    let rest = served.json(&["receive", "q", "-n", "5"]).await;
    assert_eq!(rest.len(), 2);
    assert_eq!(served.counts("q").await, [0, 1, 0]);
    assert!(!members(&rest, "body").contains(&kept[0]["body"].as_str().unwrap()));
    let none = served.run(&["receive", "q", "-o", "table"]).await;
    assert_eq!(
        (stdout(&none), stderr(&none)),
        ("", "there was no message\n")
    );
    assert_eq!(served.text(&["receive", "q", "-o", "json"]).await, "[]\n");
}

#[tokio::test]
async fn messages_that_nobody_reads_are_given_back() {
    let served = served_with_queue().await;
    served
        .run_with(&["send", "q", "--lines"], "a\nb\nc\n")
        .await;
    let mut command = served.command(&["receive", "q", "-n", "3", "--wait", "1s"]);
    let mut process = command.spawn().unwrap();
    drop(process.stdout.take());
    let output = end(process).await;
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "");
    assert_eq!(served.counts("q").await, [3, 0, 0]);
}

#[tokio::test]
async fn a_receive_that_follows_prints_what_arrives_until_it_is_told_to_end() {
    let served = served_with_queue().await;
    let mut command = served.command(&["receive", "q", "--follow"]);
    let mut process = command.spawn().unwrap();
    let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
    for body in ["one", "two"] {
        served.text(&["send", "q", body]).await;
        let line = printed.next_line().await.unwrap().unwrap();
        assert_eq!(lines(&line)[0]["body"], body);
    }
    let pid = process.id().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    assert_exit(&end(process).await, 0);
    assert_eq!(served.counts("q").await, [0, 0, 0]);
}

#[tokio::test]
async fn several_messages_are_one_document_of_json() {
    let served = served_with_queue().await;
    served.run_with(&["send", "q", "--lines"], "a\nb\n").await;
    let printed = served
        .text(&["receive", "q", "-n", "2", "-o", "json"])
        .await;
    let messages: Vec<serde_json::Value> = serde_json::from_str(&printed).unwrap();
    assert_eq!(members(&messages, "body"), ["a", "b"]);
}

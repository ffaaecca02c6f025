//! `towpath queue`, and the forms in which things are printed.

use serde_json::json;
use towpath::domain::access::{Right, Rights};

use super::served::{Served, members};

#[tokio::test]
async fn a_queue_is_created_shown_counted_purged_and_removed() {
    let served = Served::start().await;
    served.text(&["queue", "create", "dead"]).await;
    let created = served
        .json(&[
            "queue",
            "create",
            "orders",
            "--visibility-timeout",
            "1m",
            "--retention",
            "14d",
            "--delay",
            "1h",
            "--receive-wait",
            "5s",
            "--deduplication-window",
            "10m",
            "--durability",
            "relaxed",
            "--dead-letter-queue",
            "dead",
            "--max-receive-count",
            "3",
        ])
        .await;
    let shown = served.json(&["queue", "get", "orders"]).await;
    assert_eq!(created, shown);
    let expected = json!({
        "name": "orders", "visibility_timeout_seconds": 60, "receive_wait_seconds": 5,
        "delay_seconds": 3600, "retention_seconds": 1_209_600, "dead_letter_queue": "dead",
        "max_receive_count": 3, "durability": "relaxed", "deduplication_window_seconds": 600,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[0][name], value, "{name}");
    }
    served.text(&["send", "orders", "hello"]).await;
    assert_eq!(served.counts("orders").await, [0, 0, 1]);
    served.text(&["queue", "purge", "orders", "--yes"]).await;
    assert_eq!(served.counts("orders").await, [0, 0, 0]);

    let why = served.refusal(&["queue", "rm", "dead", "--yes"], 1).await;
    assert!(why.contains("code queue_in_use"), "{why}");
    served
        .text(&["queue", "rm", "dead", "--force", "--yes"])
        .await;
    served.text(&["queue", "rm", "orders", "--yes"]).await;
    served
        .text(&["queue", "rm", "orders", "--yes", "--if-exists"])
        .await;
    assert_eq!(served.text(&["queue", "ls"]).await, "");
}

#[tokio::test]
async fn a_listing_has_all_pages_and_the_form_that_is_asked_for() {
    let served = Served::start().await;
    for number in 0..3 {
        let name = format!("many-{number}");
        served.text(&["queue", "create", &name]).await;
    }
    served.text(&["queue", "create", "other"]).await;
    let prefix = ["queue", "ls", "--prefix", "many-"];
    let names = served.text(&[&prefix[..], &["-o", "name"]].concat()).await;
    assert_eq!(names, "many-0\nmany-1\nmany-2\n");
    let piped = served.json(&prefix).await;
    assert_eq!(members(&piped, "name"), ["many-0", "many-1", "many-2"]);
    let document = served.text(&[&prefix[..], &["-o", "json"]].concat()).await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document, serde_json::Value::from(piped));

    let table = served.text(&["queue", "ls", "-o", "table"]).await;
    assert!(!table.contains('\u{1b}'), "no colours where nobody looks");
    let created = without_times(&table);
    insta::assert_snapshot!("table_of_queues", created);
    let one = served.text(&["queue", "get", "other", "-o", "table"]).await;
    insta::assert_snapshot!("table_of_a_queue", without_times(&one));
}

/// Times change with every run.
fn without_times(text: &str) -> String {
    let mut steady = String::new();
    for line in text.lines() {
        let is_time = |word: &str| word.len() == 10 && word.starts_with("20");
        let cut = line.split(' ').position(is_time);
        let words: Vec<_> = line.split(' ').collect();
        steady.push_str(&words[..cut.unwrap_or(words.len())].join(" "));
        steady.push_str(if cut.is_some() { "(time)\n" } else { "\n" });
    }
    steady
}

#[tokio::test]
async fn what_cannot_be_undone_is_not_done_without_a_yes() {
    let served = Served::start().await;
    served.text(&["queue", "create", "q"]).await;
    served.text(&["send", "q", "hello"]).await;
    for command in ["rm", "purge"] {
        let why = served.refusal(&["queue", command, "q"], 2).await;
        assert_eq!(why, "error: nobody is there to be asked; say --yes\n");
    }
    assert_eq!(served.counts("q").await, [1, 0, 0]);
}

#[tokio::test]
async fn a_refusal_shows_title_detail_code_and_request() {
    let served = Served::start().await;
    let why = served.refusal(&["queue", "get", "missing"], 1).await;
    let begin = "error: the server answered 404 ";
    assert!(why.starts_with(begin), "{why}");
    assert!(why.contains("; code queue_not_found; request "), "{why}");

    let reader = served.with_rights(Rights::from_iter([Right::ReadMetadata]));
    let why = reader.refusal(&["queue", "create", "q"], 1).await;
    assert!(why.contains("answered 403 "), "{why}");
    let why = served.refusal(&["queue", "create", "a/b"], 2).await;
    assert!(why.contains("1 to 80 letters"), "{why}");
    let why = served
        .refusal(&["queue", "create", "q", "--delay", "30"], 2)
        .await;
    assert!(why.contains("such as 30s, 5m or 4d"), "{why}");
}

#[tokio::test]
async fn a_queue_that_exists_is_not_created_again() {
    let served = Served::start().await;
    served
        .text(&["queue", "create", "q", "--delay", "10s"])
        .await;
    let why = served.refusal(&["queue", "create", "q"], 1).await;
    assert!(why.contains("the queue q exists already"), "{why}");
    let there = served
        .json(&["queue", "create", "q", "--if-not-exists"])
        .await;
    assert_eq!(there[0]["delay_seconds"], 10, "it is left as it is");
}

#[tokio::test]
async fn settings_change_one_by_one() {
    let served = Served::start().await;
    let create = [
        "queue",
        "create",
        "q",
        "--delay",
        "10s",
        "--tag",
        "team=shop",
    ];
    served.text(&create).await;
    let set = async |flags: &[&str]| {
        let arguments = [&["queue", "set", "q"], flags].concat();
        served.json(&arguments).await.remove(0)
    };
    let queue = set(&["--retention", "14d", "--tag", "stage=test"]).await;
    assert_eq!(queue["delay_seconds"], 10);
    assert_eq!(queue["retention_seconds"], 1_209_600);
    assert_eq!(queue["tags"], json!({"stage": "test", "team": "shop"}));
    let policy = "exponential:1s,factor=3,max=1m,jitter=0.5";
    let queue = set(&["--retry-policy", policy]).await;
    assert_eq!(queue["retry_policy"]["factor"].as_f64(), Some(3.0));
    let queue = set(&["--retry-policy", "exponential:2s"]).await;
    assert_eq!(queue["retry_policy"]["factor"].as_f64(), Some(2.0));
    assert_eq!(queue["retry_policy"]["jitter"].as_f64().unwrap_or(0.0), 0.0);
    let queue = set(&[
        "--unset",
        "retry-policy",
        "--unset",
        "delay",
        "--unset",
        "tags",
    ])
    .await;
    assert_eq!(queue["delay_seconds"], 0);
    assert!(queue["retry_policy"].is_null());

    for flags in [&[][..], &["--delay", "1s", "--unset", "delay"]] {
        let arguments = [&["queue", "set", "q"], flags].concat();
        served.refusal(&arguments, 2).await;
    }
}

#[tokio::test]
async fn a_pause_is_of_sending_of_receiving_or_of_both() {
    let served = Served::start().await;
    served.text(&["queue", "create", "q"]).await;
    served.text(&["send", "q", "before"]).await;
    let paused = async |arguments: &[&str]| {
        let queue = served.json(arguments).await.remove(0);
        ["sending_paused", "receiving_paused"].map(|name| queue[name].as_bool().unwrap())
    };
    assert_eq!(paused(&["queue", "pause", "q"]).await, [true, true]);
    let why = served.refusal(&["send", "q", "x"], 1).await;
    assert!(why.contains("code queue_paused"), "{why}");
    assert_eq!(served.text(&["receive", "q"]).await, "");
    let resume = ["queue", "resume", "q", "--receiving"];
    assert_eq!(paused(&resume).await, [true, false]);
    assert_eq!(served.json(&["receive", "q"]).await[0]["body"], "before");
    assert_eq!(paused(&["queue", "resume", "q"]).await, [false, false]);
    let pause = ["queue", "pause", "q", "--sending"];
    assert_eq!(paused(&pause).await, [true, false]);
    let table = served.text(&["queue", "ls", "-o", "table"]).await;
    assert!(table.contains(" sending "), "{table}");
}

//! `towpath check`, `top`, `doctor` and `migrate`.

use sqlx::ConnectOptions as _;
use towpath::domain::access::{Right, Rights};

use super::served::{Served, members};
use super::{assert_exit, stderr, stdout};
use crate::support::database::Database;

#[tokio::test]
async fn a_check_ends_with_0_within_limits_1_beyond_them_and_2_when_nobody_knows() {
    let served = Served::start().await;
    served.text(&["queue", "create", "q"]).await;
    served.text(&["queue", "create", "idle"]).await;
    served.run_with(&["send", "q", "--lines"], "a\nb\n").await;
    assert_eq!(served.text(&["check"]).await, "ok: 2 queues\n");
    let limits = [
        "check",
        "--queue",
        "q",
        "--max-age",
        "1h",
        "--max-depth",
        "2",
    ];
    assert_eq!(served.text(&limits).await, "ok: 1 queues\n");
    let why = served.refusal(&["check", "--max-depth", "1"], 1).await;
    assert_eq!(why, "error: 2 messages wait in q, more than 1\n");
    served
        .text(&["check", "--queue", "idle", "--max-depth", "0"])
        .await;
    let why = served.refusal(&["check", "--queue", "missing"], 2).await;
    assert!(
        why.starts_with("error: unknown: the server answered 404"),
        "{why}"
    );
    let why = served
        .refusal(&["check", "--url", "http://127.0.0.1:1"], 2)
        .await;
    assert!(why.contains("unknown: cannot reach a server"), "{why}");
}

#[tokio::test]
async fn top_shows_the_fullest_queues_first() {
    let served = Served::start().await;
    assert_eq!(served.text(&["top", "--once"]).await, "");
    for name in ["empty", "full"] {
        served.text(&["queue", "create", name]).await;
    }
    served.text(&["send", "full", "x"]).await;
    let queues = served.json(&["top", "--once"]).await;
    assert_eq!(members(&queues, "name"), ["full", "empty"]);
    let table = served.text(&["top", "--once", "-o", "table"]).await;
    let first = table.lines().next().unwrap();
    let titles: Vec<_> = first.split_whitespace().collect();
    assert_eq!(
        titles,
        ["NAME", "VISIBLE", "IN", "FLIGHT", "DELAYED", "OLDEST"]
    );
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_server_that_works() {
    let served = Served::start().await;
    let findings = served.json(&["doctor"]).await;
    let checks = members(&findings, "check");
    let all = [
        "server", "clock", "database", "version", "token", "rights", "expiry", "access",
    ];
    assert_eq!(checks, all);
    for finding in &findings {
        // The tests' tokens end in an hour, of which some has passed.
        let expected = if finding["check"] == "expiry" {
            "warning"
        } else {
            "ok"
        };
        assert_eq!(finding["state"], expected, "{finding}");
    }
    let rights = findings[5]["what"].as_str().unwrap();
    assert!(
        rights.starts_with("tester may read_metadata configure "),
        "{rights}"
    );
}

#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_to_do() {
    let served = Served::start().await;
    let state = async |served: &Served, check: &str| {
        let output = served.run(&["doctor"]).await;
        let findings = super::served::lines(stdout(&output));
        let finding = findings
            .into_iter()
            .find(|finding| finding["check"] == check);
        let finding = finding.unwrap_or_else(|| panic!("{check}: {}", stdout(&output)));
        let word = |name: &str| finding[name].as_str().unwrap().to_owned();
        (output.status.code().unwrap(), word("state"), word("what"))
    };
    let wrong = Served::at(served.url.clone(), "nonsense".to_owned());
    let (code, word, what) = state(&wrong, "access").await;
    assert_eq!((code, word.as_str()), (1, "error"));
    assert!(
        what.contains("make one for this server: `towpath token`"),
        "{what}"
    );

    let sender = served.with_rights(Rights::from_iter([Right::Send]));
    let (code, word, what) = state(&sender, "access").await;
    assert_eq!((code, word.as_str()), (0, "warning"), "{what}");

    let nobody = Served::at("http://127.0.0.1:1".to_owned(), "x".to_owned());
    let (code, _, what) = state(&nobody, "server").await;
    assert_eq!(code, 1);
    assert!(what.contains("start one with `towpath serve`"), "{what}");
}

#[tokio::test]
async fn migrate_tells_what_is_missing_and_applies_it() {
    let served = Served::start().await;
    let database = Database::new().await;
    let url = database.options.to_url_lossy().to_string();
    let migrate = ["migrate", "--database-url", &url];
    let check = [&migrate[..], &["--check"]].concat();
    assert_eq!(served.text(&check).await, "the schema is up to date\n");
    database.run("drop schema towpath cascade").await;
    let output = served.run(&check).await;
    assert_exit(&output, 1);
    assert!(stderr(&output).starts_with("error: not applied yet: 1 "));
    let said = served.text(&migrate).await;
    assert!(said.starts_with("applied: 1 "), "{said}");
    assert_eq!(served.text(&check).await, "the schema is up to date\n");
}

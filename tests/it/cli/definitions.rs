//! `towpath apply` and `export`, and `context`.

use std::os::unix::fs::PermissionsExt as _;

use super::served::Served;
use super::{assert_exit, stderr, stdout};

const FILE: &str = "\
queues:
- name: orders
  visibility_timeout_seconds: 60
  dead_letter_queue: dead
  max_receive_count: 5
- name: dead
  retention_seconds: 1209600
";

#[tokio::test]
async fn queues_become_what_a_file_says_and_stay_so() {
    let served = Served::start().await;
    std::fs::write(served.home.path().join("queues.yaml"), FILE).unwrap();
    let apply = ["apply", "-f", "queues.yaml"];
    let planned = served.text(&[&apply[..], &["--dry-run"]].concat()).await;
    insta::assert_snapshot!(planned, @r#"
    + dead
        retention_seconds: 1209600
    + orders
        visibility_timeout_seconds: 60
        dead_letter_queue: "dead"
        max_receive_count: 5
    2 would change, 0 as they should be
    "#);
    assert_eq!(served.text(&["queue", "ls"]).await, "");
    served.text(&apply).await;
    assert_eq!(
        served.text(&apply).await,
        "0 changed, 2 as they should be\n"
    );

    let changed = FILE
        .replace("  retention_seconds: 1209600\n", "")
        .replace("60", "90");
    std::fs::write(served.home.path().join("queues.yaml"), changed).unwrap();
    insta::assert_snapshot!(served.text(&apply).await, @r"
    ~ dead
        retention_seconds: 1209600 -> 345600
    ~ orders
        visibility_timeout_seconds: 60 -> 90
    2 changed, 0 as they should be
    ");
}

#[tokio::test]
async fn what_is_exported_can_be_applied_elsewhere() {
    let served = Served::start().await;
    std::fs::write(served.home.path().join("queues.yaml"), FILE).unwrap();
    served.text(&["apply", "-f", "queues.yaml"]).await;
    let exported = served.text(&["export"]).await;
    insta::assert_snapshot!(exported, @r"
    queues:
    - name: dead
      retention_seconds: 1209600
    - name: orders
      visibility_timeout_seconds: 60
      dead_letter_queue: dead
      max_receive_count: 5
    ");
    let elsewhere = Served::start().await;
    for exported in [exported, served.text(&["export", "--format", "json"]).await] {
        let output = elsewhere.run_with(&["apply", "-f", "-"], exported).await;
        assert_exit(&output, 0);
        let again = served.text(&["export"]).await;
        assert_eq!(again, elsewhere.text(&["export"]).await);
    }
}

#[tokio::test]
async fn all_settings_survive_an_export() {
    let served = Served::start().await;
    let policy = ["--retry-policy", "ladder:1s,1m,jitter=0.5"];
    let create = [
        "queue",
        "create",
        "q",
        "--tag",
        "team=shop",
        "--durability",
        "async",
    ];
    served.text(&[&create[..], &policy].concat()).await;
    served.text(&["queue", "pause", "q", "--receiving"]).await;
    let exported = served.text(&["export"]).await;
    insta::assert_snapshot!(exported, @r"
    queues:
    - name: q
      durability: async
      tags:
        team: shop
      receiving_paused: true
      retry_policy:
        type: ladder
        delays_seconds:
        - 1
        - 60
        jitter: 0.5
    ");
    let elsewhere = Served::start().await;
    let apply = ["apply", "-f", "-"];
    for said in ["+ q", "0 changed, 1 as they should be"] {
        let output = elsewhere.run_with(&apply, exported.clone()).await;
        assert_exit(&output, 0);
        assert!(stdout(&output).starts_with(said), "{}", stdout(&output));
    }
    assert_eq!(elsewhere.text(&["export"]).await, exported);
}

#[tokio::test]
async fn a_file_that_makes_no_sense_changes_nothing() {
    let served = Served::start().await;
    for (file, why) in [
        ("queues: [{name: a}, {name: a}]", "listed twice"),
        ("queues: [{name: a/b}]", "is no queue"),
        ("queus: []", "does not list queues"),
        (
            "queues: [{name: a, dead_letter_queue: a, max_receive_count: 1}]",
            "circle",
        ),
        ("queues: [{name: a, nonsense: 1}]", "nonsense"),
    ] {
        let output = served.run_with(&["apply", "-f", "-"], file).await;
        assert_exit(&output, 1);
        assert!(stderr(&output).contains(why), "{file}: {}", stderr(&output));
        assert_eq!(served.text(&["queue", "ls"]).await, "");
    }
}

#[tokio::test]
async fn a_context_stands_for_a_server_and_a_token() {
    let served = Served::start().await;
    served.text(&["queue", "create", "here"]).await;
    let home = served.home.path();
    std::fs::write(home.join("my.token"), format!("{}\n", served.token)).unwrap();
    let add = [
        "context",
        "add",
        "mine",
        "--url",
        &served.url,
        "--token-file",
        "my.token",
    ];
    served.text(&add).await;
    let file = home.join(".config/towpath/contexts.toml");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        !std::fs::read_to_string(&file)
            .unwrap()
            .contains(&served.token)
    );

    let list = async |arguments: &[&str]| {
        let arguments = [&["queue", "ls", "-o", "name"], arguments].concat();
        let mut command = served.command(&arguments);
        command
            .env_remove("TOWPATH_URL")
            .env_remove("TOWPATH_TOKEN");
        super::served::end(command.spawn().unwrap()).await
    };
    assert_eq!(
        stdout(&list(&[]).await),
        "here\n",
        "the first one is in use"
    );
    let nowhere = [
        "context",
        "add",
        "nowhere",
        "--url",
        "http://127.0.0.1:1",
        "--use",
    ];
    served.text(&nowhere).await;
    assert_exit(&list(&[]).await, 1);
    assert_eq!(stdout(&list(&["--context", "mine"]).await), "here\n");
    served.text(&["context", "use", "mine"]).await;
    assert_eq!(stdout(&list(&[]).await), "here\n");

    let contexts = served.json(&["context", "ls"]).await;
    assert_eq!(contexts[0]["in_use"], true);
    assert_eq!(contexts[0]["url"], served.url.as_str());
    let why = served
        .refusal(&["queue", "ls", "--context", "none"], 1)
        .await;
    assert!(why.contains("there is no context \"none\""), "{why}");
    served.text(&["context", "rm", "mine"]).await;
    served.text(&["context", "rm", "nowhere"]).await;
    assert_eq!(served.text(&["context", "ls"]).await, "");
    // Without one the variables count again.
    assert_eq!(served.text(&["queue", "ls", "-o", "name"]).await, "here\n");
}

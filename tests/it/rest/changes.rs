//! Changes of some of a queue's settings, alone and many at once.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;

use super::{Node, answer};
use crate::support::Answer;
use crate::support::database::Database;

impl Node {
    /// Changes some of a queue's settings.
    pub(super) async fn patch(&self, queue: &str, settings: Value) -> Answer {
        self.ask(Method::PATCH, queue, &settings).await
    }
}

/// Somebody's change of queue `q` that is not committed yet.
async fn unfinished_change(database: &Database) -> PgConnection {
    let mut other = database.connect().await;
    other
        .execute(
            "begin; update towpath.queue set delay_seconds = 7, version = version + 1
             where name = 'q'",
        )
        .await
        .unwrap();
    other
}

/// What became of a change that was asked for while another one was not committed yet.
pub(super) async fn overtaken(
    database: &Database,
    change: impl Future<Output = Answer> + Send,
) -> Answer {
    let mut other = unfinished_change(database).await;
    let finish = async {
        database.wait_for_blocked(1).await;
        other.execute("commit").await.unwrap();
        other.close().await.unwrap();
    };
    tokio::join!(change, finish).0
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_stands_for_the_default() {
    let (node, _database) = Node::alone().await;
    node.put("dead", json!({})).await;
    node.put("q", json!({})).await;
    let defaults = node.get("q").await.expect(200).clone();
    let policy = json!({"type": "fixed", "delay_seconds": 5});
    let mut expected = defaults.clone();
    for (version, (name, value)) in (2..).zip([
        ("visibility_timeout_seconds", json!(43200)),
        ("receive_wait_seconds", json!(20)),
        ("delay_seconds", json!(59)),
        ("retention_seconds", json!(60)),
        ("durability", json!("async")),
        ("deduplication_window_seconds", json!(1)),
        ("tags", json!({"team": "billing"})),
        ("sending_paused", json!(true)),
        ("receiving_paused", json!(true)),
        ("retry_policy", policy),
    ]) {
        expected[name] = value.clone();
        expected["version"] = json!(version);
        let patched = node.patch("q", json!({ name: value })).await;
        assert_eq!(patched.expect(200), &expected, "{name}");
        let same = node.patch("q", json!({ name: value })).await;
        assert_eq!(same.expect(200), &expected, "{name}: the same again");
        assert_eq!(node.get("q").await.body, expected, "{name}");
    }
    let dead = json!({"dead_letter_queue": "dead", "max_receive_count": 3});
    let patched = node.patch("q", dead).await;
    assert_eq!(patched.expect(200)["dead_letter_queue"], "dead");
    let patched = node.patch("q", json!({"max_receive_count": 4})).await;
    assert_eq!(patched.expect(200)["max_receive_count"], 4);
    let nothing = node.patch("q", json!({})).await;
    assert_eq!(nothing.expect(200), &patched.body);
    let mut reset = patched.body.clone();
    // A delay may not be longer than the retention of the moment.
    for name in [
        "delay_seconds",
        "visibility_timeout_seconds",
        "receive_wait_seconds",
        "retention_seconds",
        "durability",
        "deduplication_window_seconds",
        "tags",
        "sending_paused",
        "receiving_paused",
        "retry_policy",
    ] {
        reset = node
            .patch("q", json!({ name: null }))
            .await
            .expect(200)
            .clone();
        assert_eq!(reset.get(name), defaults.get(name), "{name}");
    }
    let none = json!({"dead_letter_queue": null, "max_receive_count": null});
    let none = node.patch("q", none).await.expect(200).clone();
    assert_eq!(
        none["version"].as_i64(),
        reset["version"].as_i64().map(|version| version + 1)
    );
    let mut expected = defaults;
    expected["version"] = none["version"].clone();
    assert_eq!(none, expected);
}

#[tokio::test]
async fn a_patch_follows_the_rules_of_a_put_for_all_that_comes_of_it() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({"delay_seconds": 100})).await;
    let before = node.get("q").await.body;
    for (patch, field, rule) in [
        (
            json!({"retention_seconds": 60}),
            "/delay_seconds",
            "less than retention_seconds",
        ),
        (
            json!({"delay_seconds": 345_600}),
            "/delay_seconds",
            "less than retention_seconds",
        ),
        (
            json!({"dead_letter_queue": "nothing"}),
            "/max_receive_count",
            "together",
        ),
        (
            json!({"max_receive_count": 3}),
            "/dead_letter_queue",
            "together",
        ),
        (
            json!({"dead_letter_queue": "nothing", "max_receive_count": 3}),
            "/dead_letter_queue",
            "create it first",
        ),
        (
            json!({"retry_policy": {"factor": 2}}),
            "/retry_policy/type",
            "one of fixed",
        ),
    ] {
        let refused = node.patch("q", patch).await;
        let problem = refused.expect_problem(422, "invalid");
        assert_eq!(problem["errors"][0]["pointer"], field, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(rule),
            "{problem}"
        );
    }
    let nothing = node.patch("nothing", json!({})).await;
    nothing.expect_problem(404, "queue_not_found");
    assert_eq!(node.get("q").await.body, before);
}

#[tokio::test]
async fn a_patch_may_say_that_it_is_one_and_nothing_else() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    for (media_type, status) in [
        ("application/merge-patch+json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json-patch+json", 415),
        ("text/plain", 415),
    ] {
        let request = node.request(Method::PATCH, "q", &Value::Null);
        let request = request.header("content-type", media_type).body("{}");
        assert_eq!(answer(request).await.status, status, "{media_type}");
    }
    let put = node.request(Method::PUT, "q", &Value::Null);
    let put = put
        .header("content-type", "application/merge-patch+json")
        .body("{}");
    answer(put)
        .await
        .expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn patches_of_different_settings_at_one_time_are_all_kept() {
    let database = Database::new().await;
    let nodes = [Node::on(&database).await, Node::on(&database).await];
    nodes[0].put("q", json!({})).await;
    let changes = [
        ("visibility_timeout_seconds", json!(77)),
        ("receive_wait_seconds", json!(1)),
        ("delay_seconds", json!(3)),
        ("retention_seconds", json!(777)),
        ("durability", json!("relaxed")),
        ("deduplication_window_seconds", json!(7)),
        ("sending_paused", json!(true)),
        ("receiving_paused", json!(true)),
        (
            "retry_policy",
            json!({"type": "ladder", "delays_seconds": [1, 2]}),
        ),
    ];
    let mut patches = JoinSet::new();
    for (number, (name, value)) in changes.clone().into_iter().enumerate() {
        let node = nodes[number % 2].clone();
        patches.spawn(async move { node.patch("q", json!({ name: value })).await });
    }
    for tag in 0..9 {
        let node = nodes[tag % 2].clone();
        let tags = json!({"tags": {(tag.to_string()): "x"}});
        patches.spawn(async move { node.patch("q", tags).await });
    }
    for patched in patches.join_all().await {
        patched.expect(200);
    }
    let kept = nodes[0].get("q").await.body;
    for (name, value) in changes {
        assert_eq!(kept[name], value, "{name}");
    }
    assert_eq!(kept["tags"].as_object().unwrap().len(), 9, "{kept}");
    assert_eq!(kept["version"], 1 + 9 + 9, "each of them is a version");
}

#[tokio::test]
async fn a_patch_goes_by_what_a_change_left_that_was_committed_meanwhile() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let patch = node.patch("q", json!({"receive_wait_seconds": 9}));
    let patched = overtaken(&database, patch).await;
    let patched = patched.expect(200);
    let settings = ["delay_seconds", "receive_wait_seconds", "version"].map(|name| &patched[name]);
    assert_eq!(settings, [7, 9, 3]);
}

#[tokio::test]
async fn a_patch_of_something_else_leaves_dead_letters_where_they_went() {
    let (node, database) = Node::alone().await;
    node.put("dead", json!({})).await;
    let dead = json!({"dead_letter_queue": "dead", "max_receive_count": 3});
    node.put("q", dead.clone()).await;
    let target = async || {
        let sql = "select dead_letter_queue_id from towpath.queue where name = 'q'";
        database.value::<Option<i32>>(sql).await
    };
    let first = target().await;
    node.delete("dead?force=true").await.expect(204);
    let patched = node.patch("q", json!({"delay_seconds": 1})).await;
    assert_eq!(
        patched.expect(200)["dead_letter_queue"],
        "dead",
        "it is gone, and shown"
    );
    node.put("dead", json!({})).await;
    node.patch("q", json!({"max_receive_count": 5}))
        .await
        .expect(200);
    assert_eq!(target().await, first, "the new one is not meant");
    let meant = node.patch("q", json!({"dead_letter_queue": "dead"})).await;
    assert_eq!(meant.expect(200)["max_receive_count"], 5);
    assert_ne!(target().await, first, "now it is");
    let none = json!({"dead_letter_queue": null, "max_receive_count": null});
    node.patch("q", none).await.expect(200);
    assert_eq!(target().await, None);
}

#[tokio::test]
async fn a_patch_merges_tags_and_a_policy_of_the_same_type() {
    let (node, _database) = Node::alone().await;
    let policy = json!({
        "type": "exponential", "delay_seconds": 1, "factor": 2.5, "max_delay_seconds": 60,
        "jitter": 0.25,
    });
    let settings = json!({"tags": {"a": "1", "b": "2"}, "retry_policy": policy});
    node.put("q", settings).await;
    for (patch, name, expected) in [
        (
            json!({"tags": {"b": null, "c": "3", "gone": null}}),
            "tags",
            json!({"a": "1", "c": "3"}),
        ),
        (json!({"tags": {}}), "tags", json!({"a": "1", "c": "3"})),
        (json!({"tags": null}), "tags", json!({})),
        (
            json!({"retry_policy": {"factor": 3, "jitter": null}}),
            "retry_policy",
            json!({"type": "exponential", "delay_seconds": 1, "factor": 3.0, "max_delay_seconds": 60}),
        ),
        (
            json!({"retry_policy": {"type": "fixed", "delay_seconds": 9}}),
            "retry_policy",
            json!({"type": "fixed", "delay_seconds": 9}),
        ),
        (json!({"retry_policy": null}), "retry_policy", Value::Null),
    ] {
        let patched = node.patch("q", patch.clone()).await;
        assert_eq!(patched.expect(200)[name], expected, "{patch}");
        assert_eq!(node.get("q").await.body[name], expected, "{patch}");
    }
}

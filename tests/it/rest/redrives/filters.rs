//! Which messages a redrive takes, and what it may be asked for.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::super::{Node, seconds, text, with_receipt};
use super::{alone, count, counts, has_visible, ids, kill, numbered, put_source, redrive};
use crate::support::database::Database;

/// 70 old dead letters of one sort and 80 young ones of another, of which some were received since.
struct Scene {
    node: Node,
    database: Database,
    young: Vec<Value>,
    seen: BTreeSet<String>,
}

impl Scene {
    async fn new() -> Self {
        let (node, database) = alone().await;
        for queue in ["dead", "taken"] {
            node.put(queue, json!({"visibility_timeout_seconds": 1000}))
                .await;
        }
        put_source(&node, "a").await;
        kill(&node, "a", numbered(0..70), "timeout of the till").await;
        database.advance_clock(seconds(3600)).await;
        let young = kill(&node, "a", numbered(70..150), "no paper").await;
        has_visible(&database, "dead", 150).await;
        let seen = node.receive("dead", json!({"max_messages": 20})).await;
        let entries = seen.iter().map(|message| with_receipt(message, json!({})));
        let given_up = node.change("dead", "nack", entries.collect()).await;
        given_up.expect(200);
        let seen = ids(&seen);
        Self {
            node,
            database,
            young,
            seen,
        }
    }

    /// A redrive with a filter takes so many, and leaves the others as they were.
    async fn takes(&self, filter: &Value, expected: u64) {
        let Self { node, database, .. } = self;
        let request = json!({"to": "taken", "filter": filter});
        let before = counts(database, "dead").await;
        assert_eq!(count(node, "dead", request.clone()).await, expected);
        assert_eq!(counts(database, "dead").await, before, "nothing is taken");
        assert_eq!(redrive(node, "dead", request).await, [expected, 0]);
        assert_eq!(counts(database, "dead").await, [150 - expected, 0, 0]);
        let all = json!({"max_messages": 1000});
        let left = node.receive("dead", all.clone()).await;
        let moved = node.receive("taken", all).await;
        assert_eq!(moved.len() as u64, expected);
        assert_eq!(left.len() + moved.len(), 150);
        assert_eq!(ids(&left).union(&ids(&moved)).count(), 150);
        for message in left {
            // Once where it died, perhaps once before, and now.
            let before = 1 + u64::from(self.seen.contains(&text(&message["message_id"])));
            assert_eq!(message["receive_count"], before + 1, "{message}");
        }
    }
}

#[tokio::test]
async fn a_filter_takes_those_that_died_for_a_reason_and_leaves_the_rest_as_it_was() {
    let scene = Scene::new().await;
    scene
        .takes(&json!({"reason_contains": "of the till"}), 70)
        .await;
}

#[tokio::test]
async fn a_filter_takes_those_that_are_old_and_leaves_the_rest_as_it_was() {
    let scene = Scene::new().await;
    scene.takes(&json!({"older_than_seconds": 3600}), 70).await;
}

#[tokio::test]
async fn a_filter_takes_the_messages_that_it_names_and_leaves_the_rest_as_it_was() {
    let scene = Scene::new().await;
    let some = scene.young.iter().step_by(11);
    let some: Vec<&Value> = some.map(|sent| &sent["message_id"]).collect();
    scene.takes(&json!({"message_ids": some}), 8).await;
}

#[tokio::test]
async fn a_filter_takes_those_that_have_an_attribute_or_a_value_of_it() {
    for (filter, expected) in [
        (json!({"attribute": "region"}), vec!["eu", "us"]),
        (
            json!({"attribute": "region", "attribute_value": "eu"}),
            vec!["eu"],
        ),
        (
            json!({"attribute": "region", "attribute_value": "e"}),
            vec![],
        ),
        (
            json!({"attribute": "mark", "attribute_value": "AAE="}),
            vec!["mark"],
        ),
        (json!({"attribute": "Region"}), vec![]),
    ] {
        let (node, database) = alone().await;
        for queue in ["dead", "taken"] {
            node.put(queue, json!({})).await;
        }
        put_source(&node, "a").await;
        let messages = json!([
            {"body": "eu", "attributes": {"region": {"value": "eu"}}},
            {"body": "us", "attributes": {"region": {"value": "us"}, "other": {"value": "eu"}}},
            {"body": "mark", "attributes": {"mark": {"type": "Binary", "value": "AAE="}}},
            {"body": "none"},
        ]);
        kill(&node, "a", messages, "why").await;
        has_visible(&database, "dead", 4).await;
        let request = json!({"to": "taken", "filter": filter});
        let many = expected.len() as u64;
        assert_eq!(
            count(&node, "dead", request.clone()).await,
            many,
            "{filter}"
        );
        assert_eq!(redrive(&node, "dead", request).await, [many, 0], "{filter}");
        let moved = node.receive("taken", json!({"max_messages": 10})).await;
        let mut bodies: Vec<_> = moved.iter().map(|message| text(&message["body"])).collect();
        bodies.sort();
        assert_eq!(bodies, expected, "{filter}");
        for message in moved {
            assert!(
                message["attributes"].is_object(),
                "it keeps them: {message}"
            );
        }
        assert_eq!(
            counts(&database, "dead").await,
            [4 - many, 0, 0],
            "{filter}"
        );
    }
}

#[tokio::test]
async fn a_filter_takes_only_those_for_which_all_of_it_holds() {
    let scene = Scene::new().await;
    let young = &scene.young[0]["message_id"];
    let both = json!({"message_ids": [young], "reason_contains": "till"});
    scene.takes(&both, 0).await;
}

#[tokio::test]
async fn a_dry_run_counts_what_can_be_received_and_takes_nothing() {
    let (node, database) = alone().await;
    node.put("dead", json!({"visibility_timeout_seconds": 1000}))
        .await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..200), "why").await;
    has_visible(&database, "dead", 200).await;
    assert_eq!(count(&node, "dead", json!({})).await, 200);
    let held = node.receive("dead", json!({"max_messages": 30})).await;
    assert_eq!(
        count(&node, "dead", json!({})).await,
        170,
        "not what is in flight"
    );
    let entries = held
        .iter()
        .take(10)
        .map(|message| with_receipt(message, json!({})));
    node.change("dead", "nack", entries.collect())
        .await
        .expect(200);
    let entries = held
        .iter()
        .skip(10)
        .take(5)
        .map(|message| with_receipt(message, json!({})));
    node.change("dead", "delete", entries.collect())
        .await
        .expect(200);
    assert_eq!(count(&node, "dead", json!({})).await, 180);
    node.send("dead", json!([{"body": "late", "delay_seconds": 500}]))
        .await;
    assert_eq!(count(&node, "dead", json!({})).await, 180);
    database.advance_clock(seconds(501)).await;
    assert_eq!(count(&node, "dead", json!({})).await, 181);
    assert_eq!(counts(&database, "dead").await, [181, 15, 0]);
    assert_eq!(counts(&database, "a").await, [0, 0, 0]);
    let redrives = node.get("dead/redrives").await;
    assert_eq!(redrives.expect(200), &json!({"items": []}));
}

/// What is asked for, where the fault is, and the rule that it breaks.
fn bad_requests() -> Vec<(Value, &'static str, &'static str)> {
    let ids: Vec<String> = (0..1001_u128)
        .map(|n| uuid::Uuid::from_u128(n).to_string())
        .collect();
    vec![
        (json!({"to": "dead"}), "/to", "another queue"),
        (json!({"to": "nowhere"}), "/to", "create it first"),
        (json!({"to": "a b"}), "/to", "1 to 80 letters"),
        (
            json!({"max_messages_per_second": 0}),
            "/max_messages_per_second",
            "from 1 to 100000",
        ),
        (
            json!({"max_messages_per_second": 100_001}),
            "/max_messages_per_second",
            "from 1 to 100000",
        ),
        (json!({"dry_run": "yes"}), "/dry_run", "expected a boolean"),
        (json!({"filter": []}), "/filter", "expected a JSON object"),
        (
            json!({"filter": {"colour": "red"}}),
            "/filter/colour",
            "unknown field",
        ),
        (
            json!({"filter": {"attribute": "a b"}}),
            "/filter/attribute",
            "name of an attribute",
        ),
        (
            json!({"filter": {"attribute_value": "eu"}}),
            "/filter/attribute_value",
            "together with attribute",
        ),
        (
            json!({"filter": {"attribute": "a", "attribute_value": ""}}),
            "/filter/attribute_value",
            "1 to 1048576 bytes",
        ),
        (
            json!({"filter": {"older_than_seconds": -1}}),
            "/filter/older_than_seconds",
            "whole seconds from 0",
        ),
        (
            json!({"filter": {"reason_contains": ""}}),
            "/filter/reason_contains",
            "1 to 1024 bytes",
        ),
        (
            json!({"filter": {"reason_contains": "x".repeat(1025)}}),
            "/filter/reason_contains",
            "1 to 1024 bytes",
        ),
        (
            json!({"filter": {"message_ids": []}}),
            "/filter/message_ids",
            "1 to 1000 message ids",
        ),
        (
            json!({"filter": {"message_ids": ids}}),
            "/filter/message_ids",
            "1 to 1000 message ids",
        ),
        (
            json!({"filter": {"message_ids": [ids[0], "x"]}}),
            "/filter/message_ids/1",
            "a UUID",
        ),
    ]
}

#[tokio::test]
async fn what_a_redrive_is_asked_for_has_its_rules() {
    let (node, _database) = Node::alone().await;
    node.put("dead", json!({})).await;
    for (request, pointer, rule) in bad_requests() {
        let answer = node.ask(Method::POST, "dead/redrives", &request).await;
        let error = &answer.expect_problem(422, "invalid")["errors"][0];
        assert_eq!(error["pointer"], pointer, "{error}");
        assert!(text(&error["detail"]).contains(rule), "{error}");
    }
    let answer = node.get("dead/redrives/1").await;
    let error = &answer.expect_problem(422, "invalid")["errors"][0];
    assert_eq!(error["parameter"], "redrive_id");
    let listed = node.get("dead/redrives").await;
    assert_eq!(
        listed.expect(200),
        &json!({"items": []}),
        "nothing was started"
    );
}

//! Changes of a queue under a condition: by its version, or only if it is not there.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::changes::overtaken;
use super::{Node, answer};
use crate::support::Answer;
use crate::support::database::Database;

impl Node {
    /// A change under a condition.
    async fn change_if(
        &self,
        method: Method,
        queue: &str,
        settings: &Value,
        header: (&str, &str),
    ) -> Answer {
        let request = self.request(method, queue, settings);
        answer(request.header(header.0, header.1)).await
    }
}

#[tokio::test]
async fn a_queue_has_its_version_as_entity_tag() {
    let (node, _database) = Node::alone().await;
    let put = node.ask(Method::PUT, "q", &json!({})).await;
    put.expect(201);
    assert_eq!(put.header("etag"), "\"1\"");
    let patched = node.patch("q", json!({"delay_seconds": 1})).await;
    assert_eq!((patched.status, patched.header("etag")), (200, "\"2\""));
    let put = node.ask(Method::PUT, "q", &json!({})).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"3\""));
    assert_eq!(node.get("q").await.header("etag"), "\"3\"");
}

#[tokio::test]
async fn a_change_is_made_only_of_the_version_that_it_is_for() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut version = 1;
    for (tags, holds) in [
        ("\"{v}\"", true),
        ("*", true),
        ("\"0\", \"{v}\" ,\"x\"", true),
        ("W/\"{v}\", \"{v}\"", true),
        ("W/\"{v}\"", false),
        ("\"0\"", false),
        ("\"0{v}\"", false),
        ("\"{v}0\"", false),
        ("\"x\"", false),
        ("\"\"", false),
    ] {
        for method in [Method::PUT, Method::PATCH] {
            let tags = tags.replace("{v}", &version.to_string());
            let settings = json!({"delay_seconds": version});
            let header = ("if-match", tags.as_str());
            let changed = node.change_if(method.clone(), "q", &settings, header).await;
            if holds {
                assert_eq!(
                    changed.expect(200)["version"],
                    version + 1,
                    "{method} {tags}"
                );
                version += 1;
            } else {
                let problem = changed.expect_problem(412, "precondition_failed");
                let now = format!("has version {version};");
                assert!(
                    problem["detail"].as_str().unwrap().contains(&now),
                    "{problem}"
                );
            }
            assert_eq!(
                node.get("q").await.body["version"],
                version,
                "{method} {tags}"
            );
        }
    }
    let stale = node
        .change_if(Method::DELETE, "q", &Value::Null, ("if-match", "\"1\""))
        .await;
    stale.expect_problem(412, "precondition_failed");
    node.get("q").await.expect(200);
    let newest = format!("\"{version}\"");
    let newest = ("if-match", newest.as_str());
    let gone = node
        .change_if(Method::DELETE, "q", &Value::Null, newest)
        .await;
    gone.expect(204);
    // To change nothing is no matter of versions; to make one is.
    for (method, status) in [
        (Method::DELETE, 404),
        (Method::PATCH, 404),
        (Method::PUT, 412),
    ] {
        for tags in ["*", "\"1\""] {
            let body = match method {
                Method::DELETE => Value::Null,
                _ => json!({}),
            };
            let answer = node
                .change_if(method.clone(), "q", &body, ("if-match", tags))
                .await;
            assert_eq!(answer.status, status, "{method} {tags}");
        }
    }
    node.get("q").await.expect_problem(404, "queue_not_found");
}

#[tokio::test]
async fn a_change_that_was_overtaken_by_another_is_refused_by_its_version() {
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let (node, database) = Node::alone().await;
        node.put("q", json!({})).await;
        let body = match method {
            Method::DELETE => Value::Null,
            _ => json!({"receive_wait_seconds": 9}),
        };
        let change = node.change_if(method.clone(), "q", &body, ("if-match", "\"1\""));
        let refused = overtaken(&database, change).await;
        let problem = refused.expect_problem(412, "precondition_failed");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("has version 2"), "{method}: {detail}");
        let kept = node.get("q").await.body;
        let settings = ["delay_seconds", "receive_wait_seconds", "version"].map(|name| &kept[name]);
        assert_eq!(settings, [7, 0, 2], "{method}");
    }
}

#[tokio::test]
async fn of_those_who_want_to_be_the_first_one_creates_the_queue() {
    let database = Database::new().await;
    let nodes = [Node::on(&database).await, Node::on(&database).await];
    for round in 0..5 {
        let mut puts = JoinSet::new();
        for wait in 0..6 {
            let node = nodes[wait % 2].clone();
            puts.spawn(async move {
                let settings = json!({"receive_wait_seconds": wait});
                let first = ("if-none-match", "*");
                node.change_if(Method::PUT, "q", &settings, first).await
            });
        }
        let mut created = vec![];
        for put in puts.join_all().await {
            if put.status == 201 {
                created.push(put.body);
            } else {
                put.expect_problem(412, "precondition_failed");
            }
        }
        assert_eq!(created.len(), 1, "round {round}");
        assert_eq!(nodes[0].get("q").await.expect(200), &created[0]);
        nodes[0].delete("q").await.expect(204);
    }
}

#[tokio::test]
async fn a_condition_that_says_nothing_is_refused() {
    let (node, _database) = Node::alone().await;
    node.put("q", json!({})).await;
    let before = node.get("q").await.body;
    for (method, header, value, rule) in [
        (
            Method::PUT,
            "if-match",
            "1",
            "entity tags in quotation marks",
        ),
        (
            Method::PATCH,
            "if-match",
            "",
            "entity tags in quotation marks",
        ),
        (
            Method::PUT,
            "if-match",
            "\"1",
            "entity tags in quotation marks",
        ),
        (
            Method::PUT,
            "if-match",
            "*, \"1\"",
            "entity tags in quotation marks",
        ),
        (Method::PUT, "if-none-match", "\"1\"", "only `*`"),
        (
            Method::PATCH,
            "if-none-match",
            "*",
            "this operation has If-Match",
        ),
    ] {
        let answer = node
            .change_if(method, "q", &json!({}), (header, value))
            .await;
        let problem = answer.expect_problem(422, "invalid");
        let error = &problem["errors"][0];
        assert!(error["detail"].as_str().unwrap().contains(rule), "{error}");
        let named = error["parameter"].as_str().unwrap();
        assert!(named.eq_ignore_ascii_case(header), "{error}");
    }
    let both = node.request(Method::PUT, "q", &json!({}));
    let both = both.header("if-match", "*").header("if-none-match", "*");
    let refused = answer(both).await;
    let problem = refused.expect_problem(422, "invalid");
    assert!(
        problem["detail"].as_str().unwrap().contains("not together"),
        "{problem}"
    );
    let lists = node.request(Method::PATCH, "q", &json!({}));
    let lists = lists
        .header("if-match", "\"7\"")
        .header("if-match", "\"1\"");
    assert_eq!(
        answer(lists).await.expect(200),
        &before,
        "two lists are one"
    );
}

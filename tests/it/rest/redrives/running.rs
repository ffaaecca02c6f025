//! Redrives that are cancelled, handed over, cut off or refused.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use towpath::clock::Clock;

use super::super::{Node, at, text};
use super::{
    alone, cancel, count, counts, end, has_visible, kill, look, numbered, put_source, redrive,
    redriving, start,
};
use crate::support::database::Database;
use crate::support::server::Cluster;
use crate::support::{eventually, node};

#[tokio::test]
async fn one_that_is_cancelled_stops_and_gives_back_what_it_has_not_moved() {
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..300), "why").await;
    has_visible(&database, "dead", 300).await;
    let started = start(&node, "dead", json!({"max_messages_per_second": 20})).await;
    eventually("some have moved", async || {
        (counts(&database, "a").await[0] > 5).then_some(())
    })
    .await;
    let cancelled = cancel(&node, &started).await;
    assert_eq!(cancelled["state"], "cancelled");
    at(&cancelled["ended_at"]);
    let rest = eventually("the rest is visible again", async || {
        let [[visible, in_flight, _], [moved, ..]] = [
            counts(&database, "dead").await,
            counts(&database, "a").await,
        ];
        (in_flight == 0 && visible + moved == 300).then_some(visible)
    })
    .await;
    assert!(rest > 100, "{rest}");
    eventually("the count is whole", async || {
        (look(&node, &started).await["moved"] == 300 - rest).then_some(())
    })
    .await;
    let again = cancel(&node, &started).await;
    assert_eq!(again["state"], "cancelled", "also the second time");
    assert_eq!(again["ended_at"], cancelled["ended_at"]);
    assert_eq!(
        redrive(&node, "dead", json!({})).await,
        [rest, 0],
        "another one may start"
    );
    let all = node.bodies("a").await;
    let expected: Vec<String> = (0..300).map(|n| format!("m{n:04}")).collect();
    assert_eq!(all, expected, "each once");
    let listed = node.get("dead/redrives").await.expect(200).clone();
    let states: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["state"])
        .collect();
    assert_eq!(states, ["completed", "cancelled"], "the newest first");
}

#[tokio::test]
async fn a_queue_whose_receiving_is_paused_is_redriven_when_that_ends() {
    let (node, database) = alone().await;
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..5), "why").await;
    has_visible(&database, "dead", 5).await;
    node.put("dead", json!({"receiving_paused": true})).await;
    let started = start(&node, "dead", json!({})).await;
    for _look in 0..2 {
        let before = at(&look(&node, &started).await["updated_at"]);
        eventually("it looks", async || {
            (at(&look(&node, &started).await["updated_at"]) > before).then_some(())
        })
        .await;
    }
    let waiting = look(&node, &started).await;
    assert_eq!(
        [&waiting["state"], &waiting["moved"]],
        [&json!("running"), &json!(0)]
    );
    node.put("dead", json!({})).await;
    let ended = end(&node, &started).await;
    assert_eq!(
        [&ended["state"], &ended["moved"]],
        [&json!("completed"), &json!(5)]
    );
}

#[tokio::test]
async fn when_its_node_stops_another_one_goes_on_at_once() {
    let database = Database::new().await;
    let (first, until) = redriving(&database).await;
    first.put("dead", json!({})).await;
    put_source(&first, "a").await;
    kill(&first, "a", numbered(0..60), "not meant").await;
    kill(&first, "a", numbered(60..180), "why").await;
    has_visible(&database, "dead", 180).await;
    let request = json!({"max_messages_per_second": 40, "filter": {"reason_contains": "why"}});
    let started = start(&first, "dead", request).await;
    eventually("some have moved", async || {
        (counts(&database, "a").await[0] > 5).then_some(())
    })
    .await;
    until.cancel();
    eventually("all are given back", async || {
        let free = "select count(*) from towpath.redrive where holder is null and state = 0";
        (database.value::<i64>(free).await == 1).then_some(())
    })
    .await;
    let [visible, in_flight, _] = counts(&database, "dead").await;
    assert!(visible > 60 && in_flight == 0, "{visible}, {in_flight}");
    let (second, _until) = redriving(&database).await;
    let ended = end(&second, &started).await;
    assert_eq!(
        (&ended["state"], &ended["moved"]),
        (&json!("completed"), &json!(120))
    );
    assert_eq!(counts(&database, "a").await, [120, 0, 0]);
    assert_eq!(counts(&database, "dead").await, [60, 0, 0]);
}

#[tokio::test]
async fn a_node_that_is_killed_in_the_middle_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(2, &[]).await;
    let database = cluster.database();
    let (doomed, other) = (Node::of(&cluster, 0), Node::of(&cluster, 1));
    other.put("dead", json!({})).await;
    put_source(&other, "a").await;
    kill(&other, "a", numbered(0..200), "why").await;
    has_visible(&database, "dead", 200).await;
    // The node that is asked does it.
    let started = start(&doomed, "dead", json!({"max_messages_per_second": 50})).await;
    eventually("some have moved", async || {
        (counts(&database, "a").await[0] > 20).then_some(())
    })
    .await;
    cluster.nodes[0].kill();
    let [moved, ..] = counts(&database, "a").await;
    assert!(moved < 200, "in the middle");
    let clock = Clock::default();
    let began = clock.instant();
    let ended = end(&other, &started).await;
    println!(
        "{moved} had moved; the rest took {:?}",
        clock.instant() - began
    );
    assert_eq!(ended["state"], "completed", "{ended}");
    let counted = ended["moved"].as_u64().unwrap();
    assert!(
        (200 - moved..=200).contains(&counted),
        "never more than moved: {counted}"
    );
    let all = other.bodies("a").await;
    let expected: Vec<String> = (0..200).map(|n| format!("m{n:04}")).collect();
    assert_eq!(all, expected, "each once");
    assert_eq!(counts(&database, "dead").await, [0, 0, 0]);
}

#[tokio::test]
async fn a_database_that_is_killed_in_the_middle_loses_and_doubles_nothing() {
    let cluster = Cluster::start(1, &[]).await;
    let node = Node::of(&cluster, 0);
    node.put("dead", json!({})).await;
    put_source(&node, "a").await;
    kill(&node, "a", numbered(0..200), "why").await;
    has_visible(&cluster.database(), "dead", 200).await;
    let request = json!({"max_messages_per_second": 50, "filter": {"reason_contains": "why"}});
    let started = start(&node, "dead", request).await;
    eventually("some have moved", async || {
        (counts(&cluster.database(), "a").await[0] > 20).then_some(())
    })
    .await;
    cluster.kill_database().await;
    cluster.client(0).until_ready().await;
    let ended = end(&node, &started).await;
    assert_eq!(ended["state"], "completed", "{ended}");
    assert!(ended["moved"].as_u64().unwrap() <= 200, "{ended}");
    let expected: Vec<String> = (0..200).map(|n| format!("m{n:04}")).collect();
    assert_eq!(node.bodies("a").await, expected, "each once");
    assert_eq!(node.bodies("dead").await, [] as [&str; 0]);
}

#[tokio::test]
async fn one_whose_target_is_deleted_fails_and_gives_back_what_it_has_not_moved() {
    let (node, database) = alone().await;
    for queue in ["dead", "other"] {
        node.put(queue, json!({})).await;
    }
    node.send("dead", numbered(0..100)).await;
    let request = json!({"to": "other", "max_messages_per_second": 40});
    let started = start(&node, "dead", request).await;
    let moved = eventually("some have moved", async || {
        let [moved, ..] = counts(&database, "other").await;
        (moved > 0).then_some(moved)
    })
    .await;
    node.delete("other").await.expect(204);
    // Another queue of that name is not meant.
    node.put("other", json!({})).await;
    let ended = end(&node, &started).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert!(text(&ended["error"]).contains("was deleted"), "{ended}");
    assert!(ended["moved"].as_u64().unwrap() >= moved);
    let left = 100 - ended["moved"].as_u64().unwrap();
    assert_eq!(counts(&database, "dead").await, [left, 0, 0]);
    assert_eq!(counts(&database, "other").await, [0, 0, 0]);
}

#[tokio::test]
async fn one_redrive_of_a_queue_runs_at_a_time() {
    // Nobody does them here.
    let (node, database) = Node::alone().await;
    for queue in ["dead", "other"] {
        node.put(queue, json!({})).await;
    }
    let first = start(&node, "dead", json!({})).await;
    let elsewhere = json!({"to": "other"});
    let again = node.ask(Method::POST, "dead/redrives", &elsewhere).await;
    let problem = again.expect_problem(409, "redrive_running");
    let id = text(&first["redrive_id"]);
    assert!(text(&problem["detail"]).contains(&id), "{problem}");
    assert_eq!(
        count(&node, "dead", json!({})).await,
        0,
        "a dry run is none"
    );
    start(&node, "other", json!({"to": "dead"})).await;
    cancel(&node, &first).await;
    let second = start(&node, "dead", json!({"to": "other"})).await;
    assert_eq!(second["to"], "other");
    let listed = node.get("dead/redrives").await.expect(200).clone();
    let listed: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["redrive_id"])
        .collect();
    assert_eq!(listed, [&second["redrive_id"], &first["redrive_id"]]);

    node.get(&format!("other/redrives/{id}"))
        .await
        .expect_problem(404, "redrive_not_found");
    let path = "dead/redrives/00000000-0000-0000-0000-000000000000/cancel";
    let answer = node.ask(Method::POST, path, &Value::Null).await;
    answer.expect_problem(404, "redrive_not_found");
    for path in [
        "nowhere/redrives".to_owned(),
        format!("nowhere/redrives/{id}"),
    ] {
        node.get(&path).await.expect_problem(404, "queue_not_found");
    }
    let answer = node.ask(Method::POST, "nowhere/redrives", &json!({})).await;
    answer.expect_problem(404, "queue_not_found");

    // What ended is forgotten: long after, or when there are many.
    let store = node::store(&database);
    assert_eq!(store.forget_redrives(10).await.unwrap(), 0);
    database
        .advance_clock(Duration::from_secs(14 * 24 * 60 * 60 + 60))
        .await;
    assert_eq!(store.forget_redrives(10).await.unwrap(), 1);
    let many = format!(
        "insert into towpath.redrive
            (redrive_id, queue_id, state, lanes, ends, created_at, updated_at, ended_at)
         select gen_random_uuid(), r.queue_id, 1, '{{}}', '{{}}', c.now, c.now, c.now
         from towpath.redrive r, generate_series(1, 103), towpath.clock() as c (now)
         where r.redrive_id = '{}'",
        text(&second["redrive_id"])
    );
    database.run(many).await;
    let listed = node.get("dead/redrives").await.expect(200).clone();
    assert!(listed["items"].as_array().unwrap().len() <= 100);
    assert_eq!(
        store.forget_redrives(2).await.unwrap(),
        2,
        "no more than asked for"
    );
    assert_eq!(store.forget_redrives(10).await.unwrap(), 1);
    let running = node
        .get(&format!("dead/redrives/{}", text(&second["redrive_id"])))
        .await;
    assert_eq!(running.expect(200)["state"], "running", "what runs is kept");
}

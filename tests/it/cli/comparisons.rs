//! What `towpath bench` compares a server with: other servers, states of a queue or a database, and
//! a transaction per request; always in one run, in turns.

use std::future::ready;
use std::process::Output;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::ConnectOptions as _;

use super::bench::{bench, json, running};
use super::fake::{Fake, Fault, Visit};
use super::{assert_exit, stderr, stdout};
use crate::support::database::Database;
use crate::support::eventually;

/// Sending alone, where receiving would only take longer.
fn bench_send(fake: &Fake, arguments: &[&str]) -> Output {
    bench(fake, &[&["--scenario", "send"], arguments].concat())
}

fn url(database: &Database) -> String {
    let options = database.options.clone().password("hunter2");
    options.to_url_lossy().to_string()
}

/// Asserts that both sides were measured in both rounds, and that this is their only ratio.
#[track_caller]
fn assert_compared(report: &Value, name: &str) {
    for round in report["rounds"].as_array().unwrap() {
        assert!(round["echo"]["requests_per_second"].as_f64().unwrap() > 0.0);
        let sides = round["sides"].as_array().unwrap();
        let rates = sides
            .iter()
            .map(|side| side["messages_per_second"].as_f64());
        let rates: Vec<_> = rates.map(Option::unwrap).collect();
        assert!(
            rates.len() == 2 && rates.iter().all(|rate| *rate > 0.0),
            "{rates:?}"
        );
    }
    assert_eq!(report["ratios"].as_array().unwrap().len(), 1);
    assert_eq!(report["ratios"][0]["name"], name);
    assert!(report["ratios"][0]["median"].as_f64().unwrap() > 0.0);
    for side in report["sides"].as_array().unwrap() {
        assert!(side["acknowledged"].as_u64().unwrap() > 0);
        assert_eq!((&side["lost"], &side["duplicated"]), (&0.into(), &0.into()));
    }
}

#[test]
fn two_servers_are_measured_in_turns() {
    let fake = Fake::start(Fault::None);
    let output = bench_send(&fake, &["--against", &fake.url(), "-o", "json"]);
    assert_exit(&output, 0);
    assert_compared(&json(&output), "B / A");
    let queues: Vec<_> = fake.visits().into_iter().map(|visit| visit.queue).collect();
    // The second round is backwards.
    assert!(queues.len() == 3 && queues[0] == queues[2], "{queues:?}");
    assert_eq!(fake.queues(), 0);
}

#[test]
fn a_ratio_is_the_median_of_those_of_the_rounds() {
    let fake = Fake::start(Fault::None);
    let report = json(&bench_send(
        &fake,
        &["--against", &fake.url(), "-o", "json"],
    ));
    let ratios = report["rounds"].as_array().unwrap().iter().map(|round| {
        let rate = |side: usize| round["sides"][side]["messages_per_second"].as_f64();
        rate(1).unwrap() / rate(0).unwrap()
    });
    let expected = ratios.sum::<f64>() / 2.0;
    let ratio = report["ratios"][0]["median"].as_f64().unwrap();
    assert!((ratio - expected).abs() < 1e-6, "{ratio}, not {expected}");
}

#[test]
fn connections_are_split_over_the_servers_of_a_side() {
    let (fake, first) = (Fake::start(Fault::None), Fake::start(Fault::None));
    let second = first.node_beside();
    let both = format!("{},{}", first.url(), second.url());
    assert_exit(&bench(&fake, &["--against", &both]), 0);
    for node in [fake, first, second] {
        assert!(node.sends() > 0);
        assert_eq!(node.queues(), 0);
    }
}

#[test]
fn loss_is_found_on_whatever_side_it_happens() {
    let (fake, other) = (Fake::start(Fault::None), Fake::start(Fault::LosesOne));
    let output = bench_send(&fake, &["--against", &other.url(), "-o", "json"]);
    assert_exit(&output, 1);
    let report = json(&output);
    assert_eq!(
        (&report["sides"][0]["lost"], &report["sides"][1]["lost"]),
        (&0.into(), &1.into())
    );
    assert_eq!(report["lost"], 1);
    // The first messages of all are those of the backlog.
    let fake = Fake::start(Fault::LosesOne);
    let output = bench_send(&fake, &["--condition", "backlog=100"]);
    assert_exit(&output, 1);
    assert!(stdout(&output).contains(", 1 not received\n"));
    assert!(stdout(&output).ends_with("\nlost 1, duplicated 0\n"));
}

/// Measures with and without a condition; what was sent to the queue under it, in order.
fn under(fake: &Fake, condition: &str) -> Vec<Visit> {
    let output = bench(fake, &["--condition", condition, "-o", "json"]);
    assert_exit(&output, 0);
    assert_compared(&json(&output), &format!("{condition} / A"));
    assert_eq!(fake.queues(), 0);
    let visits = fake.visits();
    let loaded = visits[0].queue.clone();
    visits
        .into_iter()
        .filter(|visit| visit.queue == loaded)
        .collect()
}

#[test]
fn a_backlog_waits_before_the_first_round_and_is_checked_too() {
    let fake = Fake::start(Fault::None);
    let visits = under(&fake, "backlog=1234");
    assert_eq!(visits[0].messages, 1234);
    assert!(visits[1].waiting > 1000, "{}", visits[1].waiting);
}

#[test]
fn messages_in_flight_are_taken_before_the_first_round() {
    let fake = Fake::start(Fault::None);
    let visits = under(&fake, "in-flight=1234");
    assert_eq!((visits[0].messages, visits[1].waiting), (1234, 0));
    let hidden = fake.taken_for();
    assert_eq!(hidden.get(&43_200), Some(&1234), "{hidden:?}");
}

#[test]
fn delayed_messages_are_loaded_and_not_missed() {
    let fake = Fake::start(Fault::None);
    let visits = under(&fake, "delayed=1234");
    assert_eq!((visits[0].messages, visits[1].waiting), (1234, 0));
    assert_eq!(fake.delayed(), 1234);
}

#[test]
fn idle_queues_exist_during_every_other_measurement() {
    let fake = Fake::start(Fault::None);
    let output = bench_send(&fake, &["--condition", "idle-queues=20", "-o", "json"]);
    assert_exit(&output, 0);
    assert_compared(&json(&output), "idle-queues=20 / A");
    let visits = fake.visits();
    let measured = visits
        .iter()
        .filter(|visit| !visit.queue.contains("-idle-"));
    let queues: Vec<_> = measured.map(|visit| visit.queues).collect();
    assert_eq!(queues, [2, 22, 22, 2]);
    assert_eq!(fake.queues(), 0);
}

#[tokio::test]
async fn a_snapshot_is_held_during_every_other_measurement() {
    let (fake, database) = (Fake::start(Fault::None), Database::new().await);
    let holders = async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database()
                   and application_name = 'towpath bench' and backend_xmin is not null";
        database.value::<i64>(sql).await
    };
    let url = url(&database);
    let fake = Arc::new(fake);
    let running = Arc::clone(&fake);
    let run = tokio::task::spawn_blocking(move || {
        let condition = ["--condition", "held-snapshot=500ms", "-o", "json"];
        bench_send(
            &running,
            &[&condition[..], &["--database-url", &url]].concat(),
        )
    });
    for held in [1, 0, 1] {
        eventually("it is held, then not, then again", async || {
            (holders().await == held).then_some(())
        })
        .await;
    }
    let output = run.await.unwrap();
    assert_exit(&output, 0);
    assert_compared(&json(&output), "held-snapshot=500ms / A");
    assert_eq!(holders().await, 0);
}

#[tokio::test]
async fn a_snapshot_of_another_database_is_refused() {
    let (fake, database) = (Fake::start(Fault::None), Database::new().await);
    let condition = ["--condition", "held-snapshot=1s"];
    let output = bench_send(&fake, &condition);
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("needs --database-url"),
        "{}",
        stderr(&output)
    );
    database.run("drop schema towpath cascade").await;
    let url = url(&database);
    let output = bench_send(&fake, &[&condition[..], &["--database-url", &url]].concat());
    assert_exit(&output, 1);
    assert!(
        stderr(&output).contains("not a database of Towpath"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fake.queues(), 0);
}

/// Schemas that a baseline has made.
const SCHEMAS: &str = "select count(*) from pg_namespace where nspname like 'towpath_bench_%'";

#[tokio::test]
async fn the_baseline_is_measured_on_a_schema_of_its_own() {
    let (fake, database) = (Fake::start(Fault::None), Database::new().await);
    let url = url(&database);
    for more in [&["--batch", "10"][..], &["--scenario", "send"]] {
        let baseline = ["--baseline-database-url", &url, "-o", "json"];
        let output = bench(&fake, &[&baseline[..], more].concat());
        assert_exit(&output, 0);
        let report = json(&output);
        assert_compared(&report, "A / baseline");
        assert!(!report["command"].as_str().unwrap().contains("hunter2"));
        assert_eq!(database.value::<i64>(SCHEMAS).await, 0);
    }
}

#[tokio::test]
async fn an_interrupted_comparison_leaves_nothing_behind() {
    let (fake, database) = (Fake::start(Fault::None), Database::new().await);
    let url = url(&database);
    let long = ["--condition", "backlog=100M"];
    let mut run = running(
        &fake,
        &[&long[..], &["--baseline-database-url", &url]].concat(),
    );
    eventually("a message is sent", async || {
        (fake.sent() > 0).then_some(())
    })
    .await;
    assert_eq!(database.value::<i64>(SCHEMAS).await, 1);
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = eventually("it ends", || ready(run.try_wait().unwrap())).await;
    assert_eq!(ended.code(), Some(1));
    assert_eq!(fake.queues(), 0);
    eventually("the schema goes", async || {
        (database.value::<i64>(SCHEMAS).await == 0).then_some(())
    })
    .await;
}

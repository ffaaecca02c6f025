//! Several nodes over one database: what they owe each other, also when one of them sleeps.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde::Deserialize as _;
use serde_json::{Value, json};
use sqlx::Executor as _;
use tokio::task::JoinSet;
use towpath::clock::Clock;

use super::history::{Violation, check};
use super::load::{self, LONG, Notes, Progress, QUEUE, Run};
use crate::support::client::Message;
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::server::Cluster;

/// How long a node that has heard nothing of a message may take to find it: the safety probe of
/// 5 s with its jitter, and some time for a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// How long a node may go on with what it knew of a queue.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// Asks again and again until the answer is what a change made on another node calls for, just
/// before. What is asked for later than a node may remember is answered rightly.
async fn comes_to_know<F: Future<Output = bool>>(what: &str, mut knows: impl FnMut() -> F) {
    let clock = Clock::default();
    let changed = clock.instant();
    loop {
        let asked = clock.instant();
        if knows().await {
            return;
        }
        assert!(asked - changed < REMEMBERED_FOR, "{what}");
    }
}

/// Waits until as many sessions that claim are in some state.
async fn claims_are(database: &Database, state: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity
         where application_name = 'towpath' and query ~ 'claim_[0-9]' and {state}"
    );
    eventually(state, async || {
        (database.value::<i64>(sql.as_str()).await == 1).then_some(())
    })
    .await;
}

/// The writers whose lanes hold messages.
async fn writers(database: &Database) -> Vec<i64> {
    let sql = "select array_agg(lane_id & 255 order by lane_id) from towpath.lane";
    database.value(sql).await
}

#[tokio::test]
async fn a_message_sent_on_one_node_is_received_on_another_that_waits_for_it() {
    let cluster = Cluster::start(2, &[]).await;
    let (database, here, there) = (cluster.database(), cluster.client(0), cluster.client(1));
    here.put_queue(QUEUE).await;
    there.send(QUEUE, &["first".to_owned()]).await.unwrap();
    assert_eq!(there.receive(QUEUE, 0, LONG).await.unwrap().len(), 1);

    let mut waiting = JoinSet::new();
    waiting.spawn(async move { there.receive(QUEUE, 20, LONG).await.unwrap() });
    claims_are(&database, "state = 'idle'").await;
    let clock = Clock::default();
    let sent = clock.instant();
    here.send(QUEUE, &["second".to_owned()]).await.unwrap();
    let received = waiting.join_all().await.remove(0);
    let took = clock.instant() - sent;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].body, "second");
    assert!(took < FOUND_WITHIN, "{took:?}");
    let writers = writers(&database).await;
    assert_eq!(writers.len(), 2, "each node writes a lane of its own");
}

#[tokio::test]
async fn nodes_that_share_a_writer_number_lose_and_repeat_nothing() {
    let mut cluster = Cluster::start(1, &[]).await;
    cluster.client(0).put_queue(QUEUE).await;
    let database = cluster.database();
    database.run("delete from towpath.node").await;
    cluster.add_node(&[]).await;

    let (run, progress) = (Run::new(), Progress::to(1_000));
    let mut senders = JoinSet::new();
    for (sender, batch) in (0..).zip([1, 1, 5, 5]) {
        let client = cluster.client(usize::from(sender) % 2);
        senders.spawn(load::send(
            client,
            run.clone(),
            sender,
            batch,
            progress.clone(),
        ));
    }
    let sends = senders.join_all().await;
    for sends in &sends {
        assert!(
            sends.iter().any(|send| send.message_id.is_some()),
            "all are served"
        );
    }
    assert_eq!(writers(&database).await, [0], "both write one lane");
    let drained = load::now();
    let drain = load::drain(&cluster.client(1), &run).await;
    let history = load::history(sends, Notes::default(), drained, drain);
    assert_eq!(check(&history), [] as [Violation; 0]);
}

#[tokio::test]
async fn a_node_that_slept_through_a_window_hands_nothing_out_and_takes_nothing_away() {
    const WINDOW: Duration = Duration::from_secs(1);
    let cluster = Cluster::start(2, &[]).await;
    let (database, sleeper, awake) = (cluster.database(), cluster.client(0), cluster.client(1));
    sleeper.put_queue(QUEUE).await;
    // Both know the queue and have their sessions.
    assert!(sleeper.receive(QUEUE, 0, LONG).await.unwrap().is_empty());
    awake.send(QUEUE, &["precious".to_owned()]).await.unwrap();

    // The claim is on its way when the node falls asleep: it has to wait for us.
    let mut gate = database.connect().await;
    let lock = "begin; lock table towpath.lease";
    gate.execute(lock).await.unwrap();
    let mut late = JoinSet::new();
    let client = sleeper.clone();
    late.spawn(async move { client.receive(QUEUE, 0, WINDOW).await.unwrap() });
    claims_are(&database, "wait_event_type = 'Lock'").await;
    cluster.nodes[0].signal(Signal::SIGSTOP);
    gate.execute("commit").await.unwrap();
    eventually("the window has passed", async || {
        let passed = "select count(*) from towpath.lease where vt < clock_timestamp()";
        (database.value::<i64>(passed).await == 1).then_some(())
    })
    .await;
    let held = awake.receive(QUEUE, 0, LONG).await.unwrap();
    assert_eq!((held.len(), held[0].receive_count), (1, 2));

    cluster.nodes[0].signal(Signal::SIGCONT);
    let late = late.join_all().await.remove(0);
    assert!(late.is_empty(), "handed out after its window: {late:?}");
    for client in [&sleeper, &awake] {
        let received = client.receive(QUEUE, 0, LONG).await.unwrap();
        assert!(received.is_empty(), "somebody holds it: {received:?}");
    }
    awake.delete(QUEUE, &held).await.unwrap();
    assert_eq!(
        database
            .value::<i64>("select count(*) from towpath.lease")
            .await,
        0
    );
    sleeper
        .send(QUEUE, &["good morning".to_owned()])
        .await
        .unwrap();
    assert_eq!(sleeper.receive(QUEUE, 0, LONG).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_of_a_queue_reaches_the_other_nodes_within_a_second() {
    let cluster = Cluster::start(2, &[]).await;
    let (here, there) = (cluster.client(0), cluster.client(1));
    let path = format!("/v1/queues/{QUEUE}");
    let send = format!("{path}/messages");
    let receive = format!("{send}/receive");
    let message = json!({"messages": [{"body": "x"}]});
    let ask_there = async |path: &str, body: &Value| {
        let answer = there.ask(Method::POST, path, body).await;
        answer.unwrap()
    };
    ask_there(&send, &message)
        .await
        .expect_problem(404, "queue_not_found");

    here.put_queue(QUEUE).await;
    comes_to_know("it was created", async || {
        ask_there(&send, &message).await.status == 200
    })
    .await;

    let short = json!({"visibility_timeout_seconds": 5});
    here.ask(Method::PUT, &path, &short)
        .await
        .unwrap()
        .expect(200);
    comes_to_know("its visibility timeout is short", async || {
        ask_there(&send, &message).await.expect(200);
        let received = ask_there(&receive, &json!({})).await;
        let received: Vec<Message> = Vec::deserialize(&received.expect(200)["messages"]).unwrap();
        received[0].visible_at - load::now() < Duration::from_secs(10)
    })
    .await;

    here.ask(Method::DELETE, &path, &Value::Null)
        .await
        .unwrap()
        .expect(204);
    // Not even a second: what is sent is asked for in the statement itself.
    ask_there(&send, &message)
        .await
        .expect_problem(404, "queue_not_found");
    here.put_queue(QUEUE).await;
    comes_to_know("it was created anew", async || {
        ask_there(&send, &message).await.status == 200
    })
    .await;
    let received = there.receive(QUEUE, 0, LONG).await.unwrap();
    assert_eq!(received.len(), 1, "nothing of what was there before");
}

//! Messages sent in a transaction of the user's own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;
use towpath::clock::Clock;
use uuid::Uuid;

use super::{Node, at, seconds};
use crate::support::database::Database;
use crate::support::eventually;
use crate::support::server::Cluster;

const ASLEEP: &str = "select last_value = 0 from towpath.outbox_relay";

async fn send(connection: &mut PgConnection, arguments: &str) {
    let sql = format!("select towpath.send({arguments})");
    let sent = connection.execute(AssertSqlSafe(sql.as_str())).await;
    sent.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The one message of a receive that waits.
async fn receive_one(node: &Node) -> Value {
    let mut received = node.receive("q", json!({"wait_seconds": 20})).await;
    assert_eq!(received.len(), 1, "{received:?}");
    received.remove(0)
}

async fn asleep(database: &Database) {
    eventually("the relay sleeps", async || {
        database.value::<bool>(ASLEEP).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_sent_in_a_transaction_comes_when_it_commits_and_never_when_it_does_not() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut connection = database.connect().await;
    let mut given_up = connection.begin().await.unwrap();
    send(&mut given_up, "'q', 'of nothing'").await;
    given_up.rollback().await.unwrap();
    let mut open = connection.begin().await.unwrap();
    send(&mut open, "'q', 'of something'").await;
    let early = node.receive("q", json!({"wait_seconds": 1})).await;
    assert!(early.is_empty(), "{early:?}");
    open.commit().await.unwrap();
    let message = receive_one(&node).await;
    assert_eq!(message["body"], "of something");
    let counts = node.get("q/counts").await;
    assert_eq!(counts.expect(200)["visible"], 0);
    let left: i64 = database.value("select count(*) from towpath.outbox").await;
    assert_eq!(left, 0, "nothing stays behind");
}

#[tokio::test]
async fn a_relay_that_sleeps_is_woken_and_one_that_is_awake_finds_what_nobody_tells_it() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    asleep(&database).await;
    let clock = Clock::default();
    let mut connection = database.connect().await;
    let mut slowest = Duration::ZERO;
    // The first one wakes it; the others come while it is awake, some of them in a transaction whose
    // snapshot is older than that.
    for round in 0..20 {
        let mut transaction = connection.begin().await.unwrap();
        if round % 2 == 1 {
            let isolation = "set transaction isolation level repeatable read";
            transaction.execute(isolation).await.unwrap();
        }
        send(&mut transaction, &format!("'q', 'number {round}'")).await;
        transaction.commit().await.unwrap();
        let began = clock.instant();
        assert_eq!(receive_one(&node).await["body"], format!("number {round}"));
        slowest = slowest.max(clock.instant() - began);
    }
    println!("the slowest of 20 came {slowest:?} after its commit");
    assert!(
        slowest < Duration::from_secs(1),
        "{slowest:?}: a safety probe"
    );
}

#[tokio::test]
async fn a_transaction_with_an_old_snapshot_wakes_a_relay_that_fell_asleep_since() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut connection = database.connect().await;
    send(&mut connection, "'q', 'to wake it'").await;
    receive_one(&node).await;
    let mut old = database.connect().await;
    let mut transaction = old.begin().await.unwrap();
    transaction
        .execute("set transaction isolation level repeatable read; select 1 from towpath.queue")
        .await
        .unwrap();
    asleep(&database).await;
    let clock = Clock::default();
    send(&mut transaction, "'q', 'late'").await;
    transaction.commit().await.unwrap();
    let began = clock.instant();
    assert_eq!(receive_one(&node).await["body"], "late");
    let took = clock.instant() - began;
    assert!(took < Duration::from_secs(1), "{took:?}: a safety probe");
}

#[tokio::test]
async fn a_transaction_that_stays_open_holds_nobody_up() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut forgotten = database.connect().await;
    let mut open = forgotten.begin().await.unwrap();
    send(&mut open, "'q', 'first of all'").await;
    let mut connection = database.connect().await;
    for number in 0..50 {
        send(&mut connection, &format!("'q', 'number {number}'")).await;
    }
    let mut received = 0;
    while received < 50 {
        let request = json!({"wait_seconds": 20, "max_messages": 50});
        let messages = node.receive("q", request).await;
        assert!(!messages.is_empty(), "after {received}");
        received += messages.len();
    }
    open.commit().await.unwrap();
    assert_eq!(receive_one(&node).await["body"], "first of all");
}

#[tokio::test]
async fn bodies_delays_and_times_to_live_are_as_given() {
    let (node, database) = Node::alone().await;
    let settings = json!({"delay_seconds": 3600, "visibility_timeout_seconds": 43200});
    node.put("q", settings).await;
    let mut connection = database.connect().await;
    let attributes = r#"'{"colour": "blue", "size": "12"}'"#;
    send(&mut connection, &format!("'q', 'grüße', {attributes}, 0")).await;
    let message = receive_one(&node).await;
    assert_eq!(message["body"], "grüße");
    let attribute = |value: &str| json!({"type": "String", "value": value});
    assert_eq!(
        message["attributes"],
        json!({"colour": attribute("blue"), "size": attribute("12")})
    );
    send(&mut connection, "'q', 'as the queue says'").await;
    send(
        &mut connection,
        "queue => 'q', body => 'later', delay_seconds => 600",
    )
    .await;
    send(
        &mut connection,
        "'q', 'short-lived', delay_seconds => 600, time_to_live_seconds => 60",
    )
    .await;
    eventually("all three are in the queue", async || {
        // Counts are a second old at the most.
        let counts = node.get("q/counts").await;
        (counts.expect(200)["delayed"] == 3).then_some(())
    })
    .await;
    database.advance_clock(Duration::from_secs(601)).await;
    let message = receive_one(&node).await;
    assert_eq!(message["body"], "later");
    let waited = at(&message["first_received_at"]) - at(&message["sent_at"]);
    assert!(waited >= seconds(600), "{waited}");
    database.advance_clock(Duration::from_secs(3000)).await;
    assert_eq!(receive_one(&node).await["body"], "as the queue says");
    let counts = node.receive("q", json!({})).await;
    assert!(counts.is_empty(), "the other one has expired: {counts:?}");
}

#[tokio::test]
async fn a_send_that_cannot_be_done_is_refused_in_the_transaction() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let refusals = [
        (
            "'none', 'x'",
            "there is no queue named 'none'; create it first",
        ),
        ("null, 'x'", "there is no queue named null; create it first"),
        ("'q', ''", "body is empty: 1 byte or more"),
        ("'q', null", "body is empty: 1 byte or more"),
        (
            "'q', repeat('x', 1048577)",
            "body and attributes have 1048577 bytes: up to 1048576",
        ),
        (
            "'q', 'x', null, -1",
            "delay_seconds is -1: whole seconds from 0 to 315360000",
        ),
        (
            "'q', 'x', null, 0, 0",
            "time_to_live_seconds is 0: whole seconds from 1 to 315360000",
        ),
        (
            "'q', 'x', tenant => 'other'",
            "there is no queue named 'q'; create it first",
        ),
    ];
    let bad_attributes = [
        (
            "[1]",
            "attributes is not a JSON object of up to 64 names and texts",
        ),
        (r#"{"a": 1}"#, "attribute a is 1: a text that is not empty"),
        (
            r#"{"a": ""}"#,
            "attribute a is \"\": a text that is not empty",
        ),
    ];
    let bad_attributes = bad_attributes
        .map(|(attributes, expected)| (format!("'q', 'x', '{attributes}'"), expected));
    let bad_names = ["", "a b", "ä", ".a", "a.", "a..b", "aws.x", "Amazon.x"]
        .map(|name| format!(r#"'q', 'x', '{{"{name}": "x"}}'"#));
    let mut connection = database.connect().await;
    for arguments in bad_names {
        let sql = format!("select towpath.send({arguments})");
        let refused = connection.execute(AssertSqlSafe(sql)).await.unwrap_err();
        let refused = refused.into_database_error().unwrap();
        let message = refused.message();
        assert!(
            message.starts_with("attributes has the name '"),
            "{arguments}: {message}"
        );
    }
    let refusals = refusals.map(|(arguments, expected)| (arguments.to_owned(), expected));
    for (arguments, expected) in refusals.into_iter().chain(bad_attributes) {
        let sql = format!("select towpath.send({arguments})");
        let refused = connection.execute(AssertSqlSafe(sql)).await.unwrap_err();
        let refused = refused.into_database_error().unwrap();
        assert_eq!(refused.message(), expected, "{arguments}");
    }
}

#[tokio::test]
async fn a_paused_queue_refuses_what_is_sent_in_a_transaction() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({"sending_paused": true})).await;
    let mut connection = database.connect().await;
    let refused = connection.execute("select towpath.send('q', 'x')").await;
    let refused = refused.unwrap_err().into_database_error().unwrap();
    let expected = "queue 'q' takes no messages: sending to it is paused";
    assert_eq!(refused.message(), expected);
    node.put("q", json!({})).await;
    send(&mut connection, "'q', 'welcome'").await;
    assert_eq!(receive_one(&node).await["body"], "welcome");
}

#[tokio::test]
async fn nobody_sends_but_those_who_are_told_to_and_they_can_do_nothing_else() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let role = format!("sender_{}", Uuid::new_v4().simple());
    let mut connection = database.connect().await;
    let create = format!("create role {role}; grant usage on schema towpath to {role}");
    connection.execute(AssertSqlSafe(create)).await.unwrap();
    let mut ask = async |sql: &str| {
        let sql = format!("set local role {role}; {sql}");
        let mut transaction = connection.begin().await.unwrap();
        let done = transaction.execute(AssertSqlSafe(sql)).await;
        transaction.commit().await.unwrap();
        done.map(drop).map_err(|error| error.to_string())
    };
    let send = "select towpath.send('q', 'hello')";
    let refused = ask(send).await.unwrap_err();
    assert!(
        refused.contains("permission denied for function send"),
        "{refused}"
    );
    let grant = format!("grant execute on function towpath.send to {role}");
    database.run(grant).await;
    ask(send).await.unwrap();
    assert_eq!(receive_one(&node).await["body"], "hello");
    for sql in [
        "select * from towpath.outbox",
        "insert into towpath.outbox (queue_id, body_kind, body) values (1, 0, 'x')",
        "select towpath.send_bytes('q', 'x')",
        "select towpath.leave_1('q', 0, 'x', null, null, null, 'default')",
        "select setval('towpath.outbox_relay', 1)",
    ] {
        let refused = ask(sql).await.unwrap_err();
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
    database
        .run(format!("drop owned by {role}; drop role {role}"))
        .await;
}

#[tokio::test]
async fn what_is_on_its_way_to_a_queue_that_is_deleted_goes_with_it() {
    let (node, database) = Node::alone().await;
    node.put("q", json!({})).await;
    let mut connection = database.connect().await;
    let mut open = connection.begin().await.unwrap();
    send(&mut open, "'q', 'to the old one'").await;
    node.delete("q").await.expect(204);
    node.put("q", json!({})).await;
    open.commit().await.unwrap();
    send(&mut connection, "'q', 'to the new one'").await;
    assert_eq!(receive_one(&node).await["body"], "to the new one");
    eventually("the outbox is empty", async || {
        let left: i64 = database.value("select count(*) from towpath.outbox").await;
        (left == 0).then_some(())
    })
    .await;
    let more = node.receive("q", json!({})).await;
    assert!(more.is_empty(), "{more:?}");
}

/// Sends from four connections, several messages a transaction, some of them rolled back.
async fn users(database: &Database, shift: &'static str, transactions: u32) -> Vec<String> {
    let mut users = JoinSet::new();
    for user in 0..4 {
        let mut connection = database.connect().await;
        users.spawn(async move {
            let mut committed = Vec::new();
            for number in 0..transactions {
                let mut transaction = connection.begin().await.unwrap();
                let bodies = [0, 1, 2].map(|part| format!("{shift}-{user}-{number}-{part}"));
                for body in &bodies {
                    send(&mut transaction, &format!("'q', '{body}'")).await;
                }
                if number % 5 == 4 {
                    transaction.rollback().await.unwrap();
                } else {
                    transaction.commit().await.unwrap();
                    committed.extend(bodies);
                }
            }
            committed
        });
    }
    users.join_all().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn each_message_comes_once_though_the_node_that_relays_is_killed() {
    let mut cluster = Cluster::start(2, &[]).await;
    let nodes = [Node::of(&cluster, 0), Node::of(&cluster, 1)];
    nodes[1].put("q", json!({})).await;
    let database = cluster.database();
    let sending = users(&database, "before", 1000);
    let holder: i16 = database
        .value(
            "select min(n.writer) from towpath.task t join towpath.node n on n.node_id = t.holder
             where t.name = 'outbox'",
        )
        .await;
    assert_eq!(holder, 0, "the node that was first relays");
    let killing = async {
        eventually("some are relayed", async || {
            let counts = nodes[1].get("q/counts").await;
            (counts.expect(200)["visible"].as_u64() > Some(50)).then_some(())
        })
        .await;
        cluster.nodes[0].kill();
    };
    let (mut committed, ()) = tokio::join!(sending, killing);
    committed.extend(users(&database, "after", 25).await);
    let mut received: BTreeMap<String, u32> = BTreeMap::new();
    while received.len() < committed.len() {
        let request = json!({"wait_seconds": 20, "max_messages": 1000});
        let messages = nodes[1].receive("q", request).await;
        assert!(
            !messages.is_empty(),
            "{} of {}",
            received.len(),
            committed.len()
        );
        for message in messages {
            let body = message["body"].as_str().unwrap().to_owned();
            *received.entry(body).or_default() += 1;
        }
    }
    let twice: Vec<_> = received.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    committed.sort();
    assert!(received.keys().eq(committed.iter()));
}

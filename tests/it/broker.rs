//! The batchers: what concurrent requests get from them, on a real database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use towpath::broker::{Broker, Receive};
use towpath::domain::Error;
use towpath::domain::message::Body;
use towpath::domain::queue::{Queue, QueueName, QueueSettings, Tenant};

use crate::support::database::Database;
use crate::support::node;

const WINDOW: Duration = Duration::from_secs(30);
/// Far below the safety probe of the brokers here, which is ten minutes.
const SOON: Duration = Duration::from_secs(15);

async fn queue(database: &Database, name: &str) -> Arc<Queue> {
    let name = QueueName::parse("name", name).unwrap();
    let store = node::store(database);
    let put = store
        .put_queue(&Tenant::default(), &name, &QueueSettings::default(), None)
        .await;
    Arc::new(put.unwrap().0)
}

async fn send(broker: &Broker, queue: &Arc<Queue>, text: &str) -> Result<(), Error> {
    let body = Body::text("body", text.to_owned()).unwrap();
    broker
        .append(queue, vec![body.into()], None)
        .await
        .map(drop)
}

fn receive(wait: Duration, window: Duration) -> Receive {
    Receive {
        max: 1,
        wait,
        window,
    }
}

#[tokio::test]
async fn a_waiting_receiver_is_woken_by_a_send_on_its_node() {
    let database = Database::new().await;
    let broker = node::broker_without_safety_net(&database).await;
    let queue = queue(&database, "q").await;
    let before = database.moment().await;
    let waiting = {
        let (broker, queue) = (broker.clone(), Arc::clone(&queue));
        TaskTracker::new().spawn(async move { broker.claim(&queue, receive(WINDOW, WINDOW)).await })
    };
    database.wait_for_claim(&before).await;
    send(&broker, &queue, "hello").await.unwrap();
    let received = timeout(SOON, waiting).await.expect("it was woken");
    assert_eq!(received.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_waiting_receiver_gets_a_message_whose_window_ends() {
    let database = Database::new().await;
    let broker = node::broker_without_safety_net(&database).await;
    let queue = queue(&database, "q").await;
    send(&broker, &queue, "hello").await.unwrap();
    let window = Duration::from_secs(1);
    let first = broker
        .claim(&queue, receive(Duration::ZERO, window))
        .await
        .unwrap();
    let again = broker.claim(&queue, receive(SOON * 2, window));
    let again = timeout(SOON, again)
        .await
        .expect("it came back on time")
        .unwrap();
    assert_eq!(again[0].message_id, first[0].message_id);
    assert_eq!(again[0].receive_count, 2);
    assert!(
        again[0].visible_at - window >= first[0].visible_at,
        "never before its window ended"
    );
}

#[tokio::test]
async fn a_lane_that_another_node_is_claiming_from_is_no_empty_queue() {
    let database = Database::new().await;
    let broker = node::broker_without_safety_net(&database).await;
    let queue = queue(&database, "q").await;
    send(&broker, &queue, "hello").await.unwrap();
    let lane: i64 = database.value("select lane_id from towpath.lane").await;
    let mut rival = database.connect().await;
    let key = |verb: &str| {
        AssertSqlSafe(format!(
            "select pg_advisory_{verb}(towpath.lane_key({lane}))"
        ))
    };
    rival.execute(key("lock")).await.unwrap();
    // It waits for the lane, or is told to try again; never that there is nothing.
    let claim = broker.claim(&queue, receive(Duration::ZERO, WINDOW)).await;
    assert!(matches!(claim, Err(Error::Unavailable(_))), "{claim:?}");
    let waiting = {
        let (broker, queue) = (broker.clone(), Arc::clone(&queue));
        let receive = receive(Duration::from_secs(20), WINDOW);
        TaskTracker::new().spawn(async move { broker.claim(&queue, receive).await })
    };
    let blocked = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    while database.value::<i64>(blocked).await == 0 {
        assert!(!waiting.is_finished(), "it was told that there is nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rival.execute(key("unlock")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
}

/// Refuses every row of one queue in a table, as a damaged page might.
async fn break_queue(database: &Database, table: &str, queue: &Queue) {
    let id = queue.id.get();
    database
        .run(format!(
            "create function broken() returns trigger language plpgsql as $$
             begin
                 if new.lane_id >> 26 = {id} then raise exception 'broken' using errcode = '22000'; end if;
                 return new;
             end $$;
             create trigger broken before insert on towpath.{table}
                 for each row execute function broken()"
        ))
        .await;
}

#[tokio::test]
async fn a_send_that_the_database_refuses_fails_alone() {
    let database = Database::new().await;
    let broker = node::broker_without_safety_net(&database).await;
    let (good, bad) = (
        queue(&database, "good").await,
        queue(&database, "bad").await,
    );
    break_queue(&database, "log", &bad).await;
    let sends = (0..40).map(|number| {
        let (broker, queue) = (
            broker.clone(),
            Arc::clone(if number == 17 { &bad } else { &good }),
        );
        TaskTracker::new().spawn(async move { send(&broker, &queue, "hello").await })
    });
    let sends: Vec<_> = sends.collect();
    for (number, send) in sends.into_iter().enumerate() {
        let sent = send.await.unwrap();
        assert_eq!(sent.is_err(), number == 17, "send {number}: {sent:?}");
    }
    let stored: i64 = database
        .value("select sum(n)::bigint from towpath.log")
        .await;
    assert_eq!(stored, 39, "each of the others once");
}

#[tokio::test]
async fn a_receive_that_the_database_refuses_fails_alone() {
    let database = Database::new().await;
    let broker = node::broker_without_safety_net(&database).await;
    let mut queues = Vec::new();
    for number in 0..10 {
        let queue = queue(&database, &format!("q{number}")).await;
        send(&broker, &queue, "hello").await.unwrap();
        queues.push(queue);
    }
    break_queue(&database, "lease", &queues[4]).await;
    let claims = queues.iter().map(|queue| {
        let (broker, queue) = (broker.clone(), Arc::clone(queue));
        TaskTracker::new()
            .spawn(async move { broker.claim(&queue, receive(Duration::ZERO, WINDOW)).await })
    });
    let claims: Vec<_> = claims.collect();
    for (number, claim) in claims.into_iter().enumerate() {
        let claimed = claim.await.unwrap();
        assert_eq!(claimed.is_err(), number == 4, "queue {number}: {claimed:?}");
        if let Ok(messages) = claimed {
            assert_eq!(messages.len(), 1, "queue {number}");
        }
    }
}

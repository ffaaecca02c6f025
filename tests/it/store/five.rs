//! The five tests that earlier drafts of the engine would have failed. Those of plans are in `plans`.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor as _;
use tokio_util::task::TaskTracker;
use towpath::broker::{NewWindow, Receive, Window};
use towpath::domain::message::Body;
use towpath::domain::queue::{QueueName, QueueSettings, Tenant};
use towpath::store::{Acked, AppendLane, Appended, Failure};

use super::bench::{Bench, RUN, RUNS, WINDOW, append, append_lane, chunk};
use crate::support::database::Database;
use crate::support::node;

#[tokio::test]
async fn a_message_that_was_given_back_is_received_at_once() {
    let database = Database::new().await;
    let store = node::store(&database);
    let broker = node::broker(&database).await;
    let name = QueueName::parse("name", "q").unwrap();
    let put = store
        .put_queue(&Tenant::default(), &name, &QueueSettings::default(), None)
        .await;
    let queue = Arc::new(put.unwrap().0);
    let body = Body::text("body", "hello".to_owned()).unwrap();
    broker
        .append(&queue, vec![body.into()], None)
        .await
        .unwrap();
    let receive = Receive {
        max: 1,
        wait: Duration::ZERO,
        window: WINDOW,
    };
    for round in 1..=50 {
        let received = broker.claim(&queue, receive).await.unwrap();
        assert_eq!(received.len(), 1, "an empty answer in round {round}");
        assert_eq!(received[0].receive_count, round);
        let back = NewWindow {
            receipt: broker.open_receipt(&received[0].receipt_handle).unwrap(),
            window: Some(Duration::ZERO),
            gives_up: true,
            reason: None,
        };
        let ended = broker.extend(&queue, vec![back]).await.unwrap();
        assert!(matches!(ended[..], [Window::VisibleAt(_)]), "{ended:?}");
    }
}

#[tokio::test]
async fn a_purge_takes_what_is_in_flight() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        for _chunk in 0..20 {
            bench.append(0, &[50]).await;
        }
        let held = bench.claim(1_000, WINDOW).await;
        assert_eq!(held.len(), 1_000);
        bench.purge().await;

        assert_eq!(
            bench.extend(&held[..1], WINDOW).await,
            [false],
            "nothing that was purged can be kept"
        );
        assert_eq!(
            bench.ack(&held[..2]).await,
            [Acked::Deleted; 2],
            "a delete finds it gone"
        );
        bench.database.advance_clock(WINDOW).await;
        assert!(
            bench.claim(1_000, WINDOW).await.is_empty(),
            "purged messages never return"
        );
        bench.append(0, &[1]).await;
        assert_eq!(bench.claim(10, WINDOW).await.len(), 1, "the queue goes on");

        let freed = bench.free(bench.lane(0)).await;
        assert!(freed.rows >= 20);
        let left = bench.count("log").await;
        assert_eq!(left, 1, "only the chunk in flight stays");
    }
}

#[tokio::test]
async fn a_paused_append_notices_a_rival_that_was_freed_meanwhile() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.append(0, &[1]).await;
    let lane = bench.lane(0);
    let held = bench.claim(1, WINDOW).await;
    bench.ack(&held).await;
    bench
        .database
        .run(
            "create function pause() returns trigger language plpgsql as $$
             begin
                 if new.salt = 999 then perform pg_advisory_xact_lock(42); end if;
                 return new;
             end $$;
             create trigger pause before insert on towpath.log for each row execute function pause()",
        )
        .await;
    let mut gate = bench.database.connect().await;
    gate.execute("select pg_advisory_lock(42)").await.unwrap();

    let mut paused = bench.another_session();
    let paused = TaskTracker::new().spawn(async move {
        let lanes = [AppendLane {
            salt: 999,
            ..append_lane(lane, tail, vec![chunk(1)])
        }];
        paused.append(&lanes).await
    });
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    while bench.database.value::<i64>(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let stored = append(&mut bench.session, lane, tail, &[1]).await;
    assert!(matches!(stored, Appended::Stored { .. }));
    let held = bench.claim(1, WINDOW).await;
    assert_eq!(bench.ack(&held).await, [Acked::Deleted]);
    assert!(bench.free(lane).await.rows > 0);
    let left = bench.count("log").await;
    assert_eq!(left, 0, "the rival has left nothing to collide with");

    gate.execute("select pg_advisory_unlock(42)").await.unwrap();
    let refused = paused.await.unwrap();
    assert!(
        matches!(refused, Err(Failure::Conflict)),
        "acknowledged below the cursor: {refused:?}"
    );
    assert!(bench.claim(1, WINDOW).await.is_empty());
}

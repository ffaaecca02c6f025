//! What the hot functions promise to each other.

use std::time::Duration;

use towpath::domain::lane::SubscriptionId;
use towpath::domain::queue::{QueueName, QueueSettings, Tenant};
use towpath::store::{Acked, Appended, Failure, LeaseKey, LeaseRow, Reach, Tail};

use super::bench::{Bench, Held, NEW_TAIL, RUN, RUNS, SALT, WINDOW, ack, append, seqs, try_append};
use crate::support::database::Database;
use crate::support::node;

#[tokio::test]
async fn every_statement_of_the_store_can_be_prepared() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    for (number, statement) in towpath::store::STATEMENTS.iter().enumerate() {
        let sql = format!("prepare s{number} as {statement}");
        let prepared = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await;
        prepared.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

#[tokio::test]
async fn messages_are_claimed_in_the_order_of_their_lane_and_only_once() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[3, 1, 62]).await;
        let first = bench.claim(2, WINDOW).await;
        let second = bench.claim(10, WINDOW).await;
        let rest = bench.claim(100, WINDOW).await;
        let seqs: Vec<_> = [first, second, rest]
            .concat()
            .iter()
            .map(Held::seq)
            .collect();
        assert_eq!(seqs, (0..66).collect::<Vec<_>>());
        assert!(bench.claim(10, WINDOW).await.is_empty());
    }
}

#[tokio::test]
async fn an_expired_lease_is_claimed_again_with_another_token_and_count() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[2]).await;
        let first = bench.claim(2, WINDOW).await;
        bench.database.advance_clock(WINDOW).await;
        let second = bench.claim(10, WINDOW).await;
        assert_eq!(seqs(&second), [0, 1]);
        assert!(second.iter().all(|message| message.receive_count == 2));
        assert!(first.iter().zip(&second).all(|(old, new)| {
            old.seq() == new.seq()
                && old.token() != new.token()
                && old.first_received_at == new.first_received_at
        }));
        // A standard queue deletes by the older receipt too, and then the message is gone for
        // good.
        assert_eq!(bench.ack(&first).await, [Acked::DeletedUnderNewer; 2]);
        assert_eq!(bench.ack(&second).await, [Acked::Gone; 2]);
        bench.database.advance_clock(WINDOW * 2).await;
        assert!(bench.claim(10, WINDOW).await.is_empty());
    }
}

/// A message as a receipt may name it that this database never gave out.
fn forged(bench: &Bench, of: Held, writer: u8, token: i32) -> Held {
    let row = LeaseRow {
        lane: bench.lane(writer),
        token,
        ..of.lease.row
    };
    Held {
        lease: LeaseKey { row, ..of.lease },
        ..of
    }
}

#[tokio::test]
async fn a_receipt_from_a_future_that_the_database_forgot_is_stale() {
    let mut bench = Bench::new(RUN).await;
    bench.append(5, &[1]).await;
    let real = bench.claim(1, WINDOW).await[0];
    bench.append(0, &[1]).await;
    for writer in [0, 9] {
        let lease = forged(&bench, real, writer, 5);
        assert_eq!(bench.ack(&[lease]).await, [Acked::Stale]);
    }
    assert_eq!(bench.claim(1, WINDOW).await.len(), 1);
}

#[tokio::test]
async fn an_old_receipt_never_deletes_another_message_that_got_its_number() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1]).await;
    let lease = bench.claim(1, WINDOW).await[0];
    let before_the_restore = forged(&bench, lease, 0, lease.token() ^ 1);
    let acked = ack(&mut bench.session, &[before_the_restore], SALT + 1).await;
    assert_eq!(acked, [Acked::Stale]);
    assert_eq!(
        bench.ack(&[before_the_restore]).await,
        [Acked::DeletedUnderNewer]
    );
}

#[tokio::test]
async fn only_the_newest_and_unexpired_lease_is_extended() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[2]).await;
        let old = bench.claim(2, WINDOW).await;
        bench.database.advance_clock(WINDOW).await;
        let longer = WINDOW * 2;
        assert_eq!(bench.extend(&old, longer).await, [false; 2], "it has ended");
        let new = bench.claim(2, WINDOW).await;
        assert_eq!(
            bench.extend(&old, longer).await,
            [false; 2],
            "it is not the newest"
        );
        assert_eq!(bench.extend(&new, longer).await, [true; 2]);
        bench.database.advance_clock(WINDOW).await;
        assert!(
            bench.claim(2, WINDOW).await.is_empty(),
            "the extension holds"
        );
    }
}

#[tokio::test]
async fn a_delivery_that_is_handed_back_was_never_counted() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[1]).await;
        let lease = bench.claim(1, WINDOW).await[0];
        let back = bench
            .session
            .hand_back(SubscriptionId::QUEUE, &[(lease.lease, 1)])
            .await
            .unwrap();
        assert_eq!(back.entries[0].moved, 1);
        let again = bench.claim(1, WINDOW).await[0];
        assert_eq!(again.receive_count, 1);
        assert!(again.first_received_at > lease.first_received_at);
    }
}

#[tokio::test]
async fn new_messages_and_those_that_come_back_at_once_take_turns() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[62]).await;
        bench.claim(10, Duration::ZERO).await;
        // Ten are visible again for ever; a receiver of six still gets new ones.
        let received = bench.claim(6, Duration::ZERO).await;
        let new = received
            .iter()
            .filter(|message| message.receive_count == 1)
            .count();
        assert_eq!((received.len(), new), (6, 3));
    }
}

#[tokio::test]
async fn an_answer_has_no_message_twice_though_its_window_is_zero() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[3]).await;
        for round in 1..=3 {
            let received = bench.claim(4, Duration::ZERO).await;
            assert_eq!(seqs(&received), [0, 1, 2], "round {round}");
            let counts = received.iter().map(|message| message.receive_count);
            assert!(counts.eq([round; 3]), "round {round}");
        }
    }
}

#[tokio::test]
async fn the_lane_with_the_oldest_message_comes_first() {
    let mut bench = Bench::new(RUN).await;
    bench.append(5, &[1]).await;
    bench.append(1, &[1]).await;
    assert_eq!(bench.claim(1, WINDOW).await[0].lane(), bench.lane(5));
    assert_eq!(bench.claim(1, WINDOW).await[0].lane(), bench.lane(1));
}

#[tokio::test]
async fn two_writers_of_one_lane_never_give_out_a_number_twice() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.append(0, &[1]).await;
    let mut rival = bench.another_session();
    let lane = bench.lane(0);
    let stored = append(&mut rival, lane, tail, &[4]).await;
    assert!(matches!(stored, Appended::Stored { .. }));
    let stale = append(&mut bench.session, lane, tail, &[1]).await;
    let Appended::Stale(tail) = stale else {
        panic!("{stale:?}")
    };
    assert_eq!(tail.next, 5);
    assert!(matches!(
        append(&mut bench.session, lane, tail, &[1]).await,
        Appended::Stored {
            tail: Tail {
                next: 6,
                live_total: 6,
                ..
            },
            ..
        }
    ));
    assert_eq!(bench.claim(10, WINDOW).await.len(), 6);
}

#[tokio::test]
async fn a_queue_that_was_deleted_takes_and_gives_nothing() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.append(0, &[3]).await;
    bench
        .database
        .run("update towpath.queue set deleted_at = towpath.clock()")
        .await;
    let lane = bench.lane(0);
    assert_eq!(
        append(&mut bench.session, lane, tail, &[1]).await,
        Appended::QueueGone
    );
    let claims = bench.claims(&[(10, WINDOW)]).await;
    assert!(claims.leases.is_empty() && claims.reports[0].reach == Reach::Gone);
}

#[tokio::test]
async fn a_session_at_another_isolation_level_is_refused() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1]).await;
    let name = bench.database.options.get_database().unwrap().to_owned();
    bench
        .database
        .run(format!(
            "alter database {name} set default_transaction_isolation = 'repeatable read'"
        ))
        .await;
    let mut session = bench.another_session();
    let refused = try_append(&mut session, bench.lane(0), Tail::UNKNOWN, &[1])
        .await
        .unwrap_err();
    let Failure::Rejected(reason) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.to_string().contains("repeatable read"), "{reason}");
}

#[tokio::test]
async fn an_answer_is_given_only_after_the_commit() {
    let mut bench = Bench::new(RUN).await;
    // Fails at commit, when the rows of the statement have long been sent.
    bench
        .database
        .run(
            "create function late() returns trigger language plpgsql
                 as $$ begin raise exception 'not at this commit'; end $$;
             create constraint trigger late after insert on towpath.log
                 deferrable initially deferred for each row execute function late()",
        )
        .await;
    let lane = bench.lane(0);
    append(&mut bench.session, lane, Tail::UNKNOWN, &[1]).await;
    let refused = try_append(&mut bench.session, lane, NEW_TAIL, &[1])
        .await
        .unwrap_err();
    assert!(matches!(refused, Failure::Rejected(_)), "{refused:?}");
}

#[tokio::test]
async fn calls_that_are_dropped_halfway_poison_no_connection() {
    let database = Database::new().await;
    let store = node::store(&database);
    let (tenant, settings) = (Tenant::default(), QueueSettings::default());
    let name = |number| QueueName::parse("name", &format!("q{number}")).unwrap();
    for number in 0..200 {
        let name = name(number);
        let put = store.put_queue(&tenant, &name, &settings, None);
        let patience = Duration::from_micros(rand::random_range(1..1500));
        let _dropped = tokio::time::timeout(patience, put).await;
    }
    for number in 1000..1050 {
        store
            .put_queue(&tenant, &name(number), &settings, None)
            .await
            .unwrap();
    }
    let kept: i64 = database
        .value("select count(*) from towpath.queue where name >= 'q1000' and length(name) = 5")
        .await;
    assert_eq!(kept, 50, "what was acknowledged is there for others to see");
    let open: i64 = database
        .value(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%'",
        )
        .await;
    assert_eq!(open, 0);
}

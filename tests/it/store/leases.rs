//! Leases that cover several messages: parts of them are deleted, extended and claimed again.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio_util::task::TaskTracker;
use towpath::domain::lane::SubscriptionId;
use towpath::store::{Acked, ClaimBatch, Extend, LeaseRow, LowWater, Reach};

use super::bench::{Bench, Held, RUN, RUNS, SALT, WINDOW, acks, extend, extends, held, seqs};

/// One message for each of them, held under one lease.
async fn held_together(bench: &mut Bench, messages: i32) -> Vec<Held> {
    bench.append(0, &[messages]).await;
    let held = bench.claim(62, WINDOW).await;
    assert_eq!(held.len(), usize::try_from(messages).unwrap());
    assert!(held.iter().all(|message| message.lease == held[0].lease));
    held
}

#[tokio::test]
async fn a_receiver_gets_all_that_came_back_under_one_lease_again() {
    for window in [Duration::ZERO, WINDOW] {
        let mut bench = Bench::new(RUN).await;
        held_together(&mut bench, 5).await;
        bench.database.advance_clock(WINDOW).await;
        for round in 2..5 {
            let claims = bench.claims(&[(5, window)]).await;
            assert_eq!(seqs(&held(&claims)), [0, 1, 2, 3, 4]);
            assert_eq!(claims.leases.len(), 1);
            assert_eq!(claims.leases[0].receive_count, round);
            bench.database.advance_clock(window).await;
        }
    }
}

#[tokio::test]
async fn what_came_back_under_one_lease_takes_turns_with_what_is_new_and_all_of_it_comes() {
    for window in [Duration::ZERO, WINDOW] {
        let mut bench = Bench::new(RUN).await;
        held_together(&mut bench, 5).await;
        bench.append(0, &[1]).await;
        bench.database.advance_clock(WINDOW).await;
        // Half of the room, then the new one, then the other half.
        let received = bench.claim(6, window).await;
        assert_eq!(seqs(&received), [0, 1, 2, 3, 4, 5]);
        assert_eq!(bench.ack(&received).await, [Acked::Deleted; 6]);
        assert_eq!(bench.count("lease").await, 0);
    }
}

#[tokio::test]
async fn no_lease_covers_more_messages_than_was_asked() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[62]).await;
    bench.claim(31, Duration::ZERO).await;
    for run in [7, 2, 1] {
        bench.run = run;
        let claims = bench
            .claims(&[(10, Duration::ZERO), (52, Duration::ZERO)])
            .await;
        assert_eq!(seqs(&held(&claims)), (0..62).collect::<Vec<_>>());
        let most = claims.leases.iter().map(|lease| lease.mask.count_ones());
        assert_eq!(most.max(), u32::try_from(run).ok());
    }
}

#[tokio::test]
async fn one_receiver_takes_all_parts_of_a_lease_that_was_split() {
    for run in [62, 2, 1] {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[5]).await;
        bench.claim(5, WINDOW).await;
        bench.database.advance_clock(WINDOW).await;
        bench.claim(2, WINDOW).await;
        let part = bench.claim(2, WINDOW).await;
        assert_eq!(bench.extend(&part[1..], WINDOW / 2).await, [true]);
        bench.database.advance_clock(WINDOW).await;
        let claims = bench.claims(&[(5, WINDOW)]).await;
        assert_eq!(seqs(&held(&claims)), [0, 1, 2, 3, 4]);
        let all = held(&claims);
        assert_eq!(bench.ack(&all).await, [Acked::Deleted; 5]);
        assert_eq!(bench.count("lease").await, 0);
    }
}

#[tokio::test]
async fn parts_of_a_lease_are_deleted_and_the_others_stay() {
    let mut bench = Bench::new(RUN).await;
    let held = held_together(&mut bench, 5).await;
    let some = [held[1], held[3]];
    assert_eq!(bench.ack(&some).await, [Acked::Deleted; 2]);
    assert_eq!(bench.ack(&some).await, [Acked::Gone; 2], "deleted is final");
    assert_eq!(
        bench.ack(&held[..2]).await,
        [Acked::Deleted, Acked::Gone],
        "each for itself"
    );
    bench.database.advance_clock(WINDOW).await;
    let left = bench.claim(5, WINDOW).await;
    assert_eq!(seqs(&left), [2, 4]);
    assert_eq!(bench.ack(&left).await, [Acked::Deleted; 2]);
    assert_eq!(bench.count("lease").await, 0);
}

/// F2 of the evidence, all in one order: the delete names both messages, and one of them is no longer
/// in the lease.
#[tokio::test]
async fn a_delete_finds_the_message_that_an_extend_split_off() {
    for messages in [2, 5] {
        for extended in [0, 1] {
            let mut bench = Bench::new(RUN).await;
            let held = held_together(&mut bench, messages).await;
            let longer = WINDOW * 2;
            assert_eq!(
                bench.extend(&held[extended..=extended], longer).await,
                [true]
            );
            assert_eq!(bench.ack(&held[..2]).await, [Acked::Deleted; 2]);
            assert_eq!(bench.ack(&held[..2]).await, [Acked::Gone; 2]);
            bench.database.advance_clock(longer).await;
            let left = bench.claim(10, WINDOW).await;
            assert_eq!(seqs(&left), (2..i64::from(messages)).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn an_older_receipt_deletes_its_message_under_a_newer_receiver_and_nothing_else() {
    let mut bench = Bench::new(RUN).await;
    let old = held_together(&mut bench, 5).await;
    bench.database.advance_clock(WINDOW).await;
    let new = bench.claim(2, WINDOW).await;
    assert_eq!(seqs(&new), [0, 1]);
    assert_eq!(bench.ack(&[old[0]]).await, [Acked::DeletedUnderNewer]);
    assert_eq!(bench.ack(&[old[3]]).await, [Acked::Deleted]);
    assert_eq!(bench.ack(&new).await, [Acked::Gone, Acked::Deleted]);
    let rest = bench.claim(5, WINDOW).await;
    assert_eq!(seqs(&rest), [2, 4]);
    assert_eq!(
        bench.ack(&old).await,
        [
            Acked::Gone,
            Acked::Gone,
            Acked::DeletedUnderNewer,
            Acked::Gone,
            Acked::DeletedUnderNewer,
        ]
    );
    assert_eq!(bench.count("lease").await, 0);
}

/// Of messages of one lease, as the first statement of a delete says it.
fn ack_sql(held: &[Held]) -> String {
    let ack = acks(held)[0];
    let LeaseRow { lane, lo, token } = ack.row;
    format!(
        "select towpath.ack_2(1, array[{}], array[{lo}::bigint], array[{token}],
            array[{}::bigint], array[{}])",
        lane.raw(),
        ack.mask,
        ack.whole
    )
}

async fn run(connection: &mut PgConnection, sql: impl Into<String>) {
    let sql = sql.into();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

#[tokio::test]
async fn two_nodes_that_delete_halves_of_a_lease_at_once_delete_all_of_it() {
    for (first, second) in [(0..2, 2..5), (3..5, 0..3), (0..2, 2..4)] {
        let mut bench = Bench::new(RUN).await;
        let held = held_together(&mut bench, 5).await;
        let mut rival = bench.database.connect().await;
        run(&mut rival, "begin").await;
        run(&mut rival, ack_sql(&held[first.clone()])).await;

        let half = held[second.clone()].to_vec();
        let mut session = bench.another_session();
        let waits = TaskTracker::new().spawn({
            let half = half.clone();
            async move { super::bench::ack(&mut session, &half, SALT).await }
        });
        bench.database.wait_for_blocked(1).await;
        run(&mut rival, "commit").await;
        assert_eq!(waits.await.unwrap(), vec![Acked::Deleted; half.len()]);
        bench.database.advance_clock(WINDOW).await;
        let left = 5 - first.len() - second.len();
        assert_eq!(bench.claim(5, WINDOW).await.len(), left);
    }
}

#[tokio::test]
async fn a_lease_that_ended_is_split_among_the_receivers() {
    let mut bench = Bench::new(RUN).await;
    held_together(&mut bench, 5).await;
    bench.database.advance_clock(WINDOW).await;
    let windows = [WINDOW, WINDOW * 2, WINDOW * 3];
    let claims = bench
        .claims(&[(1, windows[0]), (1, windows[1]), (3, windows[2])])
        .await;
    let all = held(&claims);
    assert_eq!(seqs(&all), [0, 1, 2, 3, 4]);
    for (receiver, size) in [1, 1, 3].into_iter().enumerate() {
        let share = || all.iter().filter(|message| message.receiver == receiver);
        assert_eq!(share().count(), size);
        let end = claims.reports[0].now + windows[receiver];
        assert!(share().all(|message| message.visible_at == end && message.receive_count == 2));
    }
    assert_eq!(bench.ack(&all).await, [Acked::Deleted; 5]);
    assert_eq!(bench.count("lease").await, 0);
}

#[tokio::test]
async fn what_is_left_of_a_lease_is_found_by_the_next_claim_though_scans_begin_late() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[5]).await;
        bench.claim(5, WINDOW).await;
        bench.database.advance_clock(WINDOW * 10).await;
        let first = bench.claims(&[(1, WINDOW), (1, WINDOW)]).await;
        assert_eq!(seqs(&held(&first)), [0, 1]);
        if run == RUN {
            // As a node's: it saw everything up to five seconds before that claim.
            let lane = bench.lane(0);
            let before = first.reports[0].now - Duration::from_secs(5);
            let batch = ClaimBatch {
                low_waters: vec![LowWater { lane, before }],
                ..bench.batch(&[(10, WINDOW)])
            };
            let next = bench.session.claim(SubscriptionId::QUEUE, &batch).await;
            assert_eq!(seqs(&held(&next.unwrap())), [2, 3, 4]);
        } else {
            assert_eq!(seqs(&bench.claim(10, WINDOW).await), [2, 3, 4]);
        }
    }
}

#[tokio::test]
async fn every_receiver_of_a_queue_is_served_or_the_claim_says_that_there_may_be_more() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[62, 62]).await;
    bench.claim(100, Duration::ZERO).await;
    let receivers = [(10, WINDOW); 20];
    let claims = bench.claims(&receivers).await;
    let all = held(&claims);
    assert_eq!(all.len(), 124);
    let mut numbers = seqs(&all);
    numbers.dedup();
    assert_eq!(numbers.len(), 124, "each once");
    assert_eq!(claims.reports[0].reach, Reach::Whole);
    assert!(bench.claim(10, WINDOW).await.is_empty());
}

#[tokio::test]
async fn one_of_many_is_given_up_for_a_while_and_the_others_stay() {
    let mut bench = Bench::new(RUN).await;
    let held = held_together(&mut bench, 3).await;
    let nack = Extend {
        reason: Some("not today".to_owned()),
        ..extends(&held[1..2], WINDOW / 3)[0].clone()
    };
    let said = extend(&mut bench.session, &[nack]).await;
    assert_eq!((said.entries[0].moved, said.entries[0].busy), (0b10, 0));
    bench.database.advance_clock(WINDOW / 3).await;
    let again = bench.claim(5, WINDOW).await;
    assert_eq!(seqs(&again), [1]);
    assert_eq!(again[0].receive_count, 2);
    let reason: Option<String> = bench
        .database
        .value("select reason from towpath.lease where lo = 1")
        .await;
    assert_eq!(reason.as_deref(), Some("not today"));
    assert_eq!(bench.extend(&held, WINDOW).await, [true, false, true]);
    assert_eq!(
        bench.ack(&held).await,
        [Acked::Deleted, Acked::DeletedUnderNewer, Acked::Deleted]
    );
}

#[tokio::test]
async fn messages_of_one_lease_are_extended_in_any_order_any_number_of_times() {
    let mut bench = Bench::new(RUN).await;
    let held = held_together(&mut bench, 6).await;
    for part in [&held[2..4], &held[3..5], &held[..6], &held[5..]] {
        assert_eq!(bench.extend(part, WINDOW * 2).await, vec![true; part.len()]);
    }
    bench.database.advance_clock(WINDOW).await;
    assert!(bench.claim(10, WINDOW).await.is_empty());
    assert_eq!(bench.ack(&held).await, [Acked::Deleted; 6]);
    assert_eq!(bench.count("lease").await, 0);
}

#[tokio::test]
async fn nothing_of_an_older_epoch_or_below_the_floor_is_extended() {
    for floor in [false, true] {
        let mut bench = Bench::new(RUN).await;
        let held = held_together(&mut bench, 3).await;
        assert_eq!(bench.extend(&held[..1], WINDOW).await, [true]);
        if floor {
            bench.purge().await;
        } else {
            let lane = bench.lane(0).raw();
            let seek = format!("insert into towpath.cur values ({lane}, 1, 1, 3, 0)");
            bench.database.run(seek).await;
        }
        assert_eq!(bench.extend(&held, WINDOW).await, [false; 3]);
        let deleted = if floor { Acked::Gone } else { Acked::Stale };
        let rest: Vec<_> = held.iter().map(|message| message.rest(SALT)).collect();
        if floor {
            bench.database.run("delete from towpath.lease").await;
        }
        let said = bench.session.ack_rest(SubscriptionId::QUEUE, &rest).await;
        assert_eq!(said.unwrap(), [deleted; 3]);
    }
}

#[tokio::test]
async fn a_part_of_a_delivery_is_handed_back_uncounted() {
    let mut bench = Bench::new(RUN).await;
    let first = held_together(&mut bench, 3).await;
    let back = bench
        .session
        .hand_back(SubscriptionId::QUEUE, &[(first[0].lease, 0b011)])
        .await
        .unwrap();
    assert_eq!(back.entries[0].moved, 0b011);
    let again = bench.claim(5, WINDOW).await;
    assert_eq!(seqs(&again), [0, 1]);
    assert!(again.iter().all(|message| message.receive_count == 1
        && message.first_received_at > first[0].first_received_at));
    assert_eq!(
        bench.ack(&first).await,
        [
            Acked::DeletedUnderNewer,
            Acked::DeletedUnderNewer,
            Acked::Deleted
        ]
    );
}

#[tokio::test]
async fn who_finds_a_lease_in_use_is_told_so_at_once() {
    let mut bench = Bench::new(RUN).await;
    let held = held_together(&mut bench, 3).await;
    assert_eq!(bench.extend(&held[..1], WINDOW).await, [true]);
    let mut rival = bench.database.connect().await;
    run(&mut rival, "begin; select * from towpath.lease for update").await;
    // A statement that waited would be cancelled, for the rival holds on.
    let said = extend(&mut bench.session, &extends(&held, WINDOW)).await;
    assert_eq!((said.entries[0].moved, said.entries[0].busy), (0, 0b111));
    let rest: Vec<_> = held.iter().map(|message| message.rest(SALT)).collect();
    let said = bench.session.ack_rest(SubscriptionId::QUEUE, &rest).await;
    assert_eq!(said.unwrap(), [Acked::Busy; 3]);
    run(&mut rival, "commit").await;
    let said = bench.session.ack_rest(SubscriptionId::QUEUE, &rest).await;
    assert_eq!(
        said.unwrap(),
        [Acked::Deleted; 3],
        "its own delivery, wherever the message is now"
    );
}

#[tokio::test]
async fn a_message_that_was_given_up_for_good_is_not_extended_by_whoever_gave_it_up() {
    let mut bench = Bench::new(RUN).await;
    let held = held_together(&mut bench, 2).await;
    let nack = |messages: &[Held]| Extend {
        max_receives: Some(1),
        ..extends(messages, Duration::ZERO)[0].clone()
    };
    for _again in 0..2 {
        let said = extend(&mut bench.session, &[nack(&held[..1])]).await;
        assert_eq!((said.entries[0].moved, said.entries[0].exhausted), (1, 1));
        assert_eq!(said.exhausted.len(), 1);
    }
    assert_eq!(bench.extend(&held, WINDOW).await, [false, true]);
    let states: Vec<i16> = bench
        .database
        .value("select array_agg(state order by lo) from (select lo, state from towpath.lease where tok < 0) l")
        .await;
    assert_eq!(states, [2], "it is the mover's");
}

//! Messages that nobody holds are deleted and rescheduled by their places.

use std::time::Duration;

use sqlx::Executor as _;
use towpath::domain::lane::Position;
use towpath::domain::peek::MessageState::Delayed;
use towpath::store::{Acked, Change, NewChunk};

use super::bench::{Bench, Held, RUN, RUNS, SALT, WINDOW, chunk, seqs};
use super::peek::{ALL, DELAY, TOKEN, all};

#[tokio::test]
async fn one_message_of_a_lease_is_cancelled_and_its_neighbours_stay_as_they_are() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        let lane = bench.delay_all(&[5]).await;
        let store = bench.store();
        for expected in [Change::Done(()), Change::Gone] {
            let said = store.cancel_message(bench.place(lane, 2)).await.unwrap();
            assert_eq!(said, expected);
        }
        assert_eq!(bench.states().await, [Delayed; 4]);
        bench.database.advance_clock(DELAY).await;
        let held = bench.claim(9, WINDOW).await;
        assert_eq!(seqs(&held), [0, 1, 3, 4]);
        for (seq, expected) in [(0, Change::InFlight), (5, Change::Gone), (-1, Change::Gone)] {
            let said = store.cancel_message(bench.place(lane, seq)).await.unwrap();
            assert_eq!(said, expected, "{seq}");
        }
        bench.database.advance_clock(WINDOW).await;
        for seq in [0, 1, 3, 4] {
            let said = store.cancel_message(bench.place(lane, seq)).await.unwrap();
            assert_eq!(said, Change::Done(()), "visible again");
        }
        assert_eq!(bench.count("lease").await, 0);
        assert_eq!(bench.ack(&held).await, [Acked::Gone; 4]);
    }
}

#[tokio::test]
async fn what_was_never_received_or_is_another_message_is_not_cancelled() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[3]).await;
    let held = bench.claim(1, WINDOW).await;
    bench.extend(&held, Duration::ZERO).await;
    let lane = bench.lane(0);
    let store = bench.store();
    let other = Position {
        salt: SALT + 1,
        ..bench.place(lane, 0)
    };
    for (place, expected) in [
        (bench.place(lane, 1), Change::Ahead),
        (other, Change::Gone),
        (bench.place(bench.lane(9), 0), Change::Gone),
        (bench.place(lane, 0), Change::Done(())),
    ] {
        assert_eq!(store.cancel_message(place).await.unwrap(), expected);
    }
    assert_eq!(seqs(&bench.claim(9, WINDOW).await), [1, 2]);
}

/// A claim that passed over the locked lease may have told its node that all was seen up to now.
#[tokio::test]
async fn what_stays_of_a_lease_that_had_ended_ends_anew() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[3]).await;
    bench.claim(3, WINDOW).await;
    bench.database.advance_clock(WINDOW * 9).await;
    let (store, lane) = (bench.store(), bench.lane(0));
    let now = "select extract(epoch from towpath.clock())::float8";
    let end = "select extract(epoch from min(vt))::float8 from towpath.lease where tok <> 77";
    for change in ["cancel", "reschedule"] {
        let before: f64 = bench.database.value(now).await;
        let place = bench.place(lane, i64::from(change == "cancel"));
        match change {
            "cancel" => {
                let said = store.cancel_message(place).await.unwrap();
                assert_eq!(said, Change::Done(()));
            }
            _ => {
                let said = store.reschedule_message(place, DELAY, TOKEN).await;
                assert!(matches!(said, Ok(Change::Done(_))), "{said:?}");
            }
        }
        assert!(bench.database.value::<f64>(end).await >= before, "{change}");
    }
    assert_eq!(seqs(&bench.claim(9, WINDOW).await), [2]);
}

#[tokio::test]
async fn a_message_that_somebody_is_at_is_busy_and_stays_as_it_is() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.delay_all(&[2]).await;
    let place = bench.place(lane, 0);
    let store = bench.store();
    let mut holder = bench.database.connect().await;
    holder
        .execute("begin; select 1 from towpath.lease for update")
        .await
        .unwrap();
    assert_eq!(store.cancel_message(place).await.unwrap(), Change::Busy);
    let said = store.reschedule_message(place, WINDOW, TOKEN).await;
    assert_eq!(said.unwrap(), Change::Busy);
    holder.execute("rollback").await.unwrap();
    assert_eq!(bench.states().await, [Delayed; 2]);
    assert_eq!(store.cancel_message(place).await.unwrap(), Change::Done(()));
}

#[tokio::test]
async fn a_message_that_is_rescheduled_comes_at_its_new_time_and_its_neighbours_at_theirs() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        let lane = bench.delay_all(&[4]).await;
        let store = bench.store();
        let earlier = bench.place(lane, 1);
        let said = store.reschedule_message(earlier, DELAY / 2, TOKEN).await;
        let Change::Done(at) = said.unwrap() else {
            panic!("it waits")
        };
        let later = bench.place(lane, 2);
        for _again in 0..2 {
            let said = store.reschedule_message(later, DELAY * 2, TOKEN).await;
            assert!(matches!(said, Ok(Change::Done(_))), "{said:?}");
        }
        let standings = all(&store, bench.queue, &ALL).await;
        assert_eq!(standings[&(lane, 1)].visible_at, Some(at));
        assert_eq!(standings.len(), 4);
        let mut due = Vec::new();
        for _half in 0..4 {
            bench.database.advance_clock(DELAY / 2).await;
            due.push(seqs(&bench.claim(9, DELAY * 9).await));
        }
        assert_eq!(due, [vec![1], vec![0, 3], vec![], vec![2]]);
    }
}

#[tokio::test]
async fn after_a_reschedule_an_old_receipt_extends_nothing_and_still_deletes() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[2]).await;
        let held = bench.claim(2, WINDOW).await;
        bench.database.advance_clock(WINDOW).await;
        let (store, lane) = (bench.store(), bench.lane(0));
        for message in &held {
            let place = bench.place(lane, message.seq());
            // The dice may show the token that it had.
            let token = message.token() + 10 * i32::try_from(message.bit).unwrap();
            let said = store.reschedule_message(place, DELAY, token).await;
            assert!(matches!(said, Ok(Change::Done(_))), "{said:?}");
        }
        assert_eq!(bench.states().await, [Delayed; 2]);
        assert_eq!(bench.extend(&held, WINDOW).await, [false; 2]);
        assert_eq!(bench.ack(&held[..1]).await, [Acked::DeletedUnderNewer]);
        bench.database.advance_clock(DELAY).await;
        let again = bench.claim(9, WINDOW).await;
        let counts = again
            .iter()
            .map(|held: &Held| (held.seq(), held.receive_count));
        assert_eq!(counts.collect::<Vec<_>>(), [(1, 2)]);
        assert_eq!(again[0].first_received_at, held[1].first_received_at);
    }
}

#[tokio::test]
async fn no_message_is_rescheduled_beyond_its_life() {
    let mut bench = Bench::new(RUN).await;
    let brief = NewChunk {
        delay: WINDOW,
        time_to_live: Some(DELAY),
        ..chunk(1)
    };
    let lane = bench.delayed_lane();
    bench.append_chunks(lane, vec![brief]).await;
    let (store, place) = (bench.store(), bench.place(lane, 0));
    let said = store.reschedule_message(place, DELAY, TOKEN).await;
    assert!(matches!(said, Ok(Change::Expires(_))), "{said:?}");
    let said = store.reschedule_message(place, DELAY - WINDOW, TOKEN).await;
    assert!(matches!(said, Ok(Change::Done(_))), "{said:?}");
    bench.database.advance_clock(DELAY).await;
    let said = store.reschedule_message(place, WINDOW, TOKEN).await;
    assert_eq!(said.unwrap(), Change::Gone, "its life is over");
    assert_eq!(store.cancel_message(place).await.unwrap(), Change::Gone);
}

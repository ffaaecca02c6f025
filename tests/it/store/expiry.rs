//! What ends: messages whose time is over, and those that were received too often.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _};
use towpath::domain::lane::SubscriptionId;
use towpath::store::{Acked, Extend, LeaseRow, NewChunk, Reach};

use super::bench::{Bench, Held, RUN, RUNS, WINDOW, chunk, extend, extends, held, moved, seqs};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

impl Bench {
    async fn keep_for(&mut self, retention: Duration) {
        let seconds = retention.as_secs();
        let set = format!("update towpath.queue set retention_seconds = {seconds}");
        self.database.run(set).await;
    }
}

fn short_lived(messages: i32, life: Duration) -> NewChunk {
    NewChunk {
        time_to_live: Some(life),
        ..chunk(messages)
    }
}

#[tokio::test]
async fn messages_older_than_their_queue_keeps_them_are_passed_over() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.keep_for(MINUTE).await;
        bench.append(0, &[3, 2]).await;
        assert_eq!(bench.claim(1, WINDOW).await.len(), 1);
        bench.database.advance_clock(MINUTE).await;
        bench.append(0, &[2]).await;
        let claims = bench.claims(&[(10, WINDOW)]).await;
        assert_eq!(seqs(&held(&claims)), [5, 6]);
        assert_eq!(claims.reports[0].reach, Reach::Whole);
        assert_eq!(
            bench.count("lease where lo < 5").await,
            0,
            "what was in flight has gone, too"
        );
    }
}

#[tokio::test]
async fn a_message_from_another_queue_is_as_old_as_when_it_was_first_sent() {
    let mut bench = Bench::new(RUN).await;
    bench.keep_for(MINUTE).await;
    let now = bench.database.value("select towpath.clock()").await;
    let moved = NewChunk {
        sent_at: Some(now),
        ..chunk(1)
    };
    bench.database.advance_clock(MINUTE - WINDOW).await;
    bench
        .append_chunks(bench.lane(0), vec![moved.clone()])
        .await;
    assert_eq!(bench.claim(1, WINDOW).await.len(), 1);
    bench.append_chunks(bench.lane(1), vec![moved]).await;
    bench.database.advance_clock(WINDOW).await;
    assert!(bench.claim(1, WINDOW).await.is_empty());
}

#[tokio::test]
async fn a_message_lives_no_longer_than_it_says() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        let chunks = vec![
            chunk(1),
            short_lived(2, MINUTE),
            chunk(1),
            short_lived(1, HOUR),
        ];
        bench.append_chunks(bench.lane(0), chunks.clone()).await;
        let hidden = chunks.into_iter().map(|chunk| NewChunk {
            delay: MINUTE / 2,
            ..chunk
        });
        let lane = bench.delayed_lane();
        bench.append_chunks(lane, hidden.collect()).await;
        let early = bench.claim(2, HOUR).await;
        assert_eq!(seqs(&early), [0, 1]);
        bench.database.advance_clock(MINUTE).await;
        assert_eq!(seqs(&bench.claim(10, HOUR).await), [0, 3, 3, 4, 4]);
        bench.database.advance_clock(HOUR).await;
        assert_eq!(seqs(&bench.claim(10, WINDOW).await), [0, 0, 3, 3]);
        assert_eq!(bench.ack(&early[1..]).await, [Acked::Gone], "it is over");
    }
}

#[tokio::test]
async fn very_many_messages_that_have_expired_stop_no_receive() {
    let mut bench = Bench::new(RUN).await;
    bench.keep_for(MINUTE).await;
    let lane = bench.lane(0).raw();
    bench.append(0, &[]).await;
    bench
        .database
        .run(format!(
            "insert into towpath.log
                 select {lane}, i, 1, 1, 7, towpath.clock() - interval '1 day', null, 0, 0, 'x'
                 from generate_series(0, 2499) i"
        ))
        .await;
    bench.append(0, &[1]).await;
    let mut reaches = Vec::new();
    for _call in 0..3 {
        let claims = bench.claims(&[(1, WINDOW)]).await;
        reaches.push((held(&claims).len(), claims.reports[0].reach));
    }
    let more = (0, Reach::More);
    assert_eq!(reaches, [more, more, (1, Reach::Whole)]);
}

#[tokio::test]
async fn what_has_expired_is_freed_though_it_is_in_flight_or_delayed() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[3, 2]).await;
    let delayed = NewChunk {
        delay: HOUR,
        ..chunk(2)
    };
    let lane = bench.delayed_lane();
    bench.append_chunks(lane, vec![delayed]).await;
    let held = bench.claim(2, HOUR).await;
    bench.database.advance_clock(MINUTE).await;
    // The queue keeps messages for less long than when they were sent.
    bench.keep_for(MINUTE).await;
    bench.append(0, &[1]).await;
    for lane in [bench.lane(0), lane] {
        bench.free(lane).await;
    }
    assert_eq!(bench.count("log").await, 1, "only what is new");
    assert_eq!(bench.count("lease").await, 0);
    assert_eq!(bench.extend(&held, WINDOW).await, [false; 2]);
    assert_eq!(bench.ack(&held).await, [Acked::Gone; 2]);
    assert_eq!(seqs(&bench.claim(10, WINDOW).await), [5]);
}

#[tokio::test]
async fn the_floor_stays_before_the_first_message_that_lives() {
    let mut bench = Bench::new(RUN).await;
    let chunks = vec![short_lived(1, MINUTE), chunk(2), short_lived(3, MINUTE)];
    bench.append_chunks(bench.lane(0), chunks).await;
    let held = bench.claim(2, HOUR).await;
    assert_eq!(seqs(&held), [0, 1]);
    bench.database.advance_clock(MINUTE).await;
    bench.free(bench.lane(0)).await;
    let floor = "select max(floor) from towpath.cur where sub_id = 1";
    assert_eq!(bench.database.value::<i64>(floor).await, 1);
    assert_eq!(bench.count("log").await, 2);
    assert_eq!(bench.extend(&held, HOUR).await, [false, true]);
    assert_eq!(seqs(&bench.claim(10, WINDOW).await), [2]);
    let all = "select count(*) from towpath.log where seq = 3";
    assert_eq!(bench.database.value::<i64>(all).await, 1);
    bench.free(bench.lane(0)).await;
    let left = bench.count("log").await;
    assert_eq!(left, 1, "behind it, the cursor has passed what is over");
}

#[tokio::test]
async fn whoever_frees_waits_for_no_claim() {
    let mut bench = Bench::new(RUN).await;
    bench.keep_for(MINUTE).await;
    bench.append(0, &[1]).await;
    bench.database.advance_clock(MINUTE).await;
    let mut rival = bench.database.connect().await;
    let lane = bench.lane(0).raw();
    let lock = format!("select pg_advisory_lock(towpath.lane_key({lane}))");
    rival.execute(AssertSqlSafe(lock)).await.unwrap();
    assert_eq!(bench.free(bench.lane(0)).await.rows, 0);
    rival
        .execute("select pg_advisory_unlock_all()")
        .await
        .unwrap();
    assert!(bench.free(bench.lane(0)).await.rows > 0);
    assert_eq!(bench.count("log").await, 0);
}

#[tokio::test]
async fn a_message_is_delivered_so_often_and_then_it_is_the_movers() {
    for run in RUNS {
        for most in [1, 3] {
            let mut bench = Bench::new(run).await;
            bench.dead_letters_after(Some(most)).await;
            bench.append(0, &[2]).await;
            let mut newest = Vec::new();
            for round in 1..=most {
                newest = bench.claim(10, WINDOW).await;
                assert_eq!(newest.len(), 2);
                assert!(newest.iter().all(|message| message.receive_count == round));
                bench.database.advance_clock(WINDOW).await;
            }
            let mut movers: Vec<LeaseRow> = Vec::new();
            for _again in 0..3 {
                let claims = bench.claims(&[(10, WINDOW)]).await;
                assert!(claims.leases.is_empty());
                assert_eq!(claims.reports[0].reach, Reach::Whole);
                let leases = if run == 1 { 2 } else { 1 };
                assert_eq!(claims.exhausted.len(), leases);
                let moving = bench
                    .session
                    .moving(SubscriptionId::QUEUE, &claims.exhausted)
                    .await
                    .unwrap();
                assert_eq!(moving.len(), leases);
                assert!(moving.iter().all(|moving| moving.receive_count == most));
                assert!(
                    claims.exhausted.iter().all(|row| !movers.contains(row)),
                    "a token of its own each time"
                );
                movers.extend(claims.exhausted);
                let claims = bench.claims(&[(10, WINDOW)]).await;
                assert!(claims.leases.is_empty() && claims.exhausted.is_empty());
                assert_eq!(bench.extend(&newest, WINDOW).await, [false; 2]);
                bench.database.advance_clock(Duration::from_secs(30)).await;
            }
            bench.dead_letters_after(None).await;
            assert_eq!(
                bench.claim(10, WINDOW).await.len(),
                2,
                "without a dead-letter queue it is delivered on"
            );
        }
    }
}

#[tokio::test]
async fn the_last_delivery_that_is_given_up_is_the_movers_at_once() {
    let mut bench = Bench::new(RUN).await;
    bench.dead_letters_after(Some(2)).await;
    bench.append(0, &[3]).await;
    let nack = async |bench: &mut Bench, held: &[Held]| {
        let entries: Vec<_> = extends(held, Duration::ZERO)
            .into_iter()
            .map(|entry| Extend {
                max_receives: Some(2),
                reason: Some("no".to_owned()),
                ..entry
            })
            .collect();
        let said = extend(&mut bench.session, &entries).await;
        assert!(
            moved(held, Duration::ZERO, &said)
                .iter()
                .all(|moved| *moved)
        );
        let exhausted = said.entries.iter().map(|said| said.exhausted.count_ones());
        (exhausted.sum::<u32>(), said.exhausted)
    };
    let first = bench.claim(3, WINDOW).await;
    assert_eq!(nack(&mut bench, &first).await, (0, vec![]));
    let second = bench.claim(3, WINDOW).await;
    let (count, mut leases) = nack(&mut bench, &second[1..2]).await;
    assert_eq!((count, leases.len()), (1, 1));
    let (count, all) = nack(&mut bench, &second).await;
    assert_eq!(count, 3, "it may be said again");
    assert!(all.contains(&leases[0]));
    leases = all;
    leases.sort_unstable();
    let moving = bench.session.moving(SubscriptionId::QUEUE, &leases).await;
    let moving = moving.unwrap();
    assert!(
        moving
            .iter()
            .all(|moving| moving.reason.as_deref() == Some("no") && moving.receive_count == 2)
    );
    let messages = moving.iter().map(|moving| moving.lease.mask.count_ones());
    assert_eq!(messages.sum::<u32>(), 3);
    assert!(bench.claim(3, WINDOW).await.is_empty());
}

#[tokio::test]
async fn messages_that_nobody_can_move_do_not_stop_the_others() {
    let mut bench = Bench::new(1).await;
    bench.dead_letters_after(Some(1)).await;
    bench.append(0, &[62, 62, 62, 62, 2]).await;
    bench.claim(1_000, WINDOW).await;
    bench.append(0, &[1]).await;
    bench.claim(1, Duration::ZERO).await;
    bench.dead_letters_after(Some(2)).await;
    let lane = bench.lane(0).raw();
    bench
        .database
        .run(format!(
            "update towpath.lease set rc = 2 where lane_id = {lane} and lo < 250;
             update towpath.lease set vt = towpath.clock() + interval '31 s' where lo = 250"
        ))
        .await;
    bench
        .database
        .advance_clock(WINDOW + Duration::from_secs(5))
        .await;
    // Each claim hands a hundred of them to the mover, who does nothing.
    let mut exhausted = 0;
    let mut received = Vec::new();
    for _call in 0..4 {
        let claims = bench.claims(&[(1, WINDOW)]).await;
        exhausted += claims.exhausted.len();
        received.extend(held(&claims));
        if !received.is_empty() {
            break;
        }
        assert_eq!(claims.reports[0].reach, Reach::More);
    }
    assert_eq!((seqs(&received), exhausted), (vec![250], 250));
}

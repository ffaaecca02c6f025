//! No call of the engine takes longer or gives less for what lies around.

use std::time::Duration;

use sqlx::Executor as _;
use tokio_util::task::TaskTracker;
use towpath::domain::lane::{Class, LaneId, QueueId, SubscriptionId, Writer};
use towpath::store::{
    Acked, AppendLane, Appended, ClaimBatch, ClaimQueue, ClaimReceiver, Claims, Failure, NewChunk,
    Reach, SpaceCursor, Tail,
};

use super::bench::{
    Bench, NEW_TAIL, RUN, SALT, WINDOW, ack, append, append_lane, chunk, held, new_queue, seqs,
    try_append,
};

#[tokio::test]
async fn purged_messages_in_flight_never_stop_a_receive() {
    let mut bench = Bench::new(RUN).await;
    for _chunk in 0..100 {
        bench.append(0, &[50]).await;
    }
    assert_eq!(bench.claim(5_000, WINDOW).await.len(), 5_000);
    bench.purge().await;
    bench.append(0, &[1]).await;
    bench.database.advance_clock(WINDOW * 2).await;

    // Each call clears some of them away and says that there is more to look at.
    let mut received = 0;
    for _call in 0..20 {
        let claims = bench.claims(&[(1, WINDOW)]).await;
        received += held(&claims).len();
        if claims.reports[0].reach == Reach::Whole && claims.leases.is_empty() {
            break;
        }
    }
    assert_eq!(received, 1);
    let left = bench.count("lease").await;
    assert_eq!(
        left, 1,
        "only the one that was sent after the purge is held"
    );
}

#[tokio::test]
async fn a_large_message_that_comes_back_at_once_leaves_room_for_small_new_ones() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    let Appended::Stale(tail) = append(&mut bench.session, lane, Tail::UNKNOWN, &[]).await else {
        panic!("an unknown tail is always stale");
    };
    let large = NewChunk {
        body: vec![b'x'; 1 << 20],
        ..chunk(1)
    };
    let lanes = [append_lane(lane, tail, vec![large])];
    bench.session.append(&lanes).await.unwrap();
    bench.claim(1, Duration::ZERO).await;
    bench.append(0, &[1]).await;
    assert_eq!(seqs(&bench.claim(10, Duration::ZERO).await), [0, 1]);
}

#[tokio::test]
async fn a_queue_with_very_many_lanes_does_not_hide_its_neighbour() {
    let mut bench = Bench::new(RUN).await;
    let neighbour = new_queue(&bench.database, "neighbour").await;
    let first = bench.lane(0).raw();
    bench
        .database
        .run(format!(
            "insert into towpath.lane select {first} + i, {} from generate_series(0, 511) i",
            bench.queue.get()
        ))
        .await;
    let lane = LaneId::new(neighbour, Class::READY, Writer(0));
    append(&mut bench.session, lane, Tail::UNKNOWN, &[]).await;
    append(&mut bench.session, lane, NEW_TAIL, &[1]).await;

    let mut batch = batch(vec![bench.queue, neighbour]);
    let claims = bench
        .session
        .claim(SubscriptionId::QUEUE, &batch)
        .await
        .unwrap();
    assert_eq!(claims.reports[0].reach, Reach::Whole);
    assert_eq!(
        claims.reports[1].reach,
        Reach::Cut,
        "it says that it did not look"
    );
    batch = self::batch(vec![neighbour]);
    let claims = bench
        .session
        .claim(SubscriptionId::QUEUE, &batch)
        .await
        .unwrap();
    assert_eq!(claims.leases.len(), 1);
}

fn batch(queues: Vec<QueueId>) -> ClaimBatch {
    let receiver = ClaimReceiver {
        size: 1,
        window: WINDOW,
    };
    ClaimBatch {
        receivers: vec![receiver; queues.len()],
        queues: queues
            .into_iter()
            .enumerate()
            .map(|(first_receiver, queue)| ClaimQueue {
                queue,
                first_receiver,
            })
            .collect(),
        first_token: 5,
        run: RUN,
        byte_budget: 1 << 20,
        ..ClaimBatch::default()
    }
}

#[tokio::test]
async fn a_claim_that_waits_gets_what_a_busy_lane_holds() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1]).await;
    let mut rival = bench.database.connect().await;
    let lane = bench.lane(0).raw();
    let key = |verb: &str| {
        sqlx::AssertSqlSafe(format!(
            "select pg_advisory_{verb}(towpath.lane_key({lane}))"
        ))
    };
    rival.execute(key("lock")).await.unwrap();

    let passing = batch(vec![bench.queue]);
    let claims = bench
        .session
        .claim(SubscriptionId::QUEUE, &passing)
        .await
        .unwrap();
    assert_eq!((claims.leases.len(), claims.reports[0].busy_lanes), (0, 1));

    let waiting = ClaimBatch {
        wait: true,
        ..passing
    };
    let mut session = bench.another_session();
    let claim = TaskTracker::new()
        .spawn(async move { session.claim(SubscriptionId::QUEUE, &waiting).await });
    bench.database.wait_for_blocked(1).await;
    rival.execute(key("unlock")).await.unwrap();
    let claims: Claims = claim.await.unwrap().unwrap();
    assert_eq!((claims.leases.len(), claims.reports[0].busy_lanes), (1, 0));
}

#[tokio::test]
async fn a_tail_that_the_database_has_lost_is_not_believed() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.append(0, &[3]).await;
    let lane = bench.lane(0);
    // As after a fail-over that lost the newest messages, behind a proxy that kept our session.
    let ahead = Tail {
        next: tail.next + 5,
        last_chunk: tail.next + 3,
        ..tail
    };
    let appended = append(&mut bench.session, lane, ahead, &[1]).await;
    assert_eq!(appended, Appended::Stale(NEW_TAIL));
    let appended = append(&mut bench.session, lane, Tail::UNKNOWN, &[1]).await;
    assert!(
        matches!(appended, Appended::Stale(found) if found == tail),
        "{appended:?}"
    );
}

#[tokio::test]
async fn a_lane_out_of_numbers_refuses_instead_of_giving_one_twice() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    let last = (1_i64 << 41) - 1;
    bench
        .database
        .run(format!(
            "insert into towpath.cur values ({}, 0, 0, {last}, 0)",
            lane.raw()
        ))
        .await;
    let Appended::Stale(tail) = append(&mut bench.session, lane, Tail::UNKNOWN, &[]).await else {
        panic!("an unknown tail is always stale");
    };
    assert_eq!(tail.next, last);
    let refused = try_append(&mut bench.session, lane, tail, &[2]).await;
    assert!(matches!(refused, Err(Failure::Rejected(_))), "{refused:?}");
}

#[tokio::test]
async fn space_is_found_behind_chunks_that_must_stay() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1, 1, 1, 1, 1, 1]).await;
    let held = bench.claim(6, WINDOW).await;
    bench.ack(&[held[1], held[3], held[5]]).await;
    let lane = bench.lane(0);
    let first = bench
        .session
        .free(lane, SpaceCursor(0), 3, Duration::ZERO, true)
        .await
        .unwrap();
    assert!(first.more && first.rows >= 1, "{first:?}");
    assert_eq!(
        (first.survivor, first.next),
        (Some(SpaceCursor(0)), SpaceCursor(3))
    );
    bench
        .session
        .free(lane, first.next, 10, Duration::ZERO, false)
        .await
        .unwrap();
    let left = bench.count("log").await;
    assert_eq!(left, 3, "each chunk with a message in flight, and no other");
}

#[tokio::test]
async fn space_of_large_messages_is_freed_in_bounded_steps() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    bench
        .database
        .run(format!(
            "insert into towpath.log
                 select {lane}, i, 1, 1, 0, now(), null, 0, 0, convert_to(repeat('x', 1 << 20), 'utf8')
                 from generate_series(0, 39) i;
             insert into towpath.cur values ({lane}, 1, 0, 40, 0)",
            lane = lane.raw()
        ))
        .await;
    let first = bench
        .session
        .free(lane, SpaceCursor(0), 1_000, Duration::ZERO, true)
        .await
        .unwrap();
    assert!(first.more, "{first:?}");
    let left = bench.count("log").await;
    assert_eq!(left, 40 - 16, "16 MiB in a call");
}

#[tokio::test]
async fn a_deleted_queue_leaves_nothing_behind() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[3, 2]).await;
    bench.claim(4, WINDOW).await;
    bench
        .database
        .run("update towpath.queue set deleted_at = towpath.clock()")
        .await;
    let lane = bench.lane(0);
    let min_age = Duration::from_secs(10);
    let kept = bench
        .session
        .free(lane, SpaceCursor(0), 100, min_age, true)
        .await
        .unwrap();
    assert_eq!(kept.rows, 0, "a paused append may still be on its way");
    bench.database.advance_clock(min_age * 2).await;
    for _call in 0..3 {
        bench
            .session
            .free(lane, SpaceCursor(0), 100, min_age, true)
            .await
            .unwrap();
    }
    for table in ["log", "lease", "cur", "lane"] {
        assert_eq!(bench.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn what_comes_back_in_one_lane_does_not_hide_what_comes_back_in_another() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[2]).await;
    bench.append(1, &[1]).await;
    let other = bench.lane(1);
    let mut of_other = 0;
    for _claim in 0..200 {
        let received = bench.claim(1, Duration::ZERO).await;
        of_other += received
            .iter()
            .filter(|lease| lease.lane() == other)
            .count();
    }
    assert!((20..180).contains(&of_other), "{of_other} of 200");
}

#[tokio::test]
async fn a_delete_that_is_repeated_is_told_the_same_after_its_chunk_was_freed() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.append(0, &[1]).await;
    // Another opening of the lane: its numbers have another salt.
    let lanes = [AppendLane {
        salt: SALT + 1,
        ..append_lane(bench.lane(0), tail, vec![chunk(1)])
    }];
    bench.session.append(&lanes).await.unwrap();
    let held = bench.claim(2, WINDOW).await;
    let delete = [held[1]];
    let acked = ack(&mut bench.session, &delete, SALT + 1).await;
    assert_eq!(acked, [Acked::Deleted]);
    let lane = bench.lane(0);
    let freed = bench
        .session
        .free(lane, SpaceCursor(0), 100, Duration::ZERO, true)
        .await;
    assert_eq!(freed.unwrap().rows, 1, "the other message is still held");
    let acked = ack(&mut bench.session, &delete, SALT + 1).await;
    assert_eq!(acked, [Acked::Gone]);
}

#[tokio::test]
async fn a_call_reads_only_so_many_bytes_whatever_the_number_of_queues() {
    let mut bench = Bench::new(RUN).await;
    bench
        .database
        .run(
            "insert into towpath.queue
                (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
             select 'default', 'large' || i, 30, 0, towpath.clock() from generate_series(1, 12) i;
             insert into towpath.lane
             select queue_id::bigint << 26, queue_id from towpath.queue where name like 'large%';
             insert into towpath.log
             select lane_id, 0, 1, 1, 0, now(), null, 0, 0, convert_to(repeat('x', 1 << 20), 'utf8')
             from towpath.lane",
        )
        .await;
    let first = bench.queue.get() + 1;
    let queues: Vec<_> = (first..first + 12)
        .map(|raw| QueueId::new(raw).unwrap())
        .collect();
    let claims = bench
        .session
        .claim(SubscriptionId::QUEUE, &batch(queues))
        .await
        .unwrap();
    assert_eq!(claims.leases.len(), 8);
    let cut = claims
        .reports
        .iter()
        .filter(|report| report.reach == Reach::Cut);
    assert_eq!(
        cut.count(),
        4,
        "the others are for the next call, and it is said so"
    );
}

#[tokio::test]
async fn the_lanes_of_a_deleted_queue_stay_as_long_as_they_hold_something() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1]).await;
    let min_age = Duration::from_secs(10);
    bench
        .database
        .run("update towpath.queue set deleted_at = towpath.clock() - interval '1 hour'")
        .await;
    let lane = bench.lane(0);
    bench
        .session
        .free(lane, SpaceCursor(0), 100, min_age, true)
        .await
        .unwrap();
    let count =
        "select (select count(*) from towpath.log) * 10 + (select count(*) from towpath.lane)";
    let left: i64 = bench.database.value(count).await;
    assert_eq!(
        left, 11,
        "the chunk is too young to go, so its lane is still visited"
    );
}

#[tokio::test]
async fn lanes_that_were_written_to_are_noted_and_taken_once() {
    let mut bench = Bench::new(RUN).await;
    let (one, two) = (bench.lane(0), bench.lane(1));
    let mut rival = bench.database.connect().await;
    // Its note has the lowest number, and is committed last.
    let late = format!(
        "begin; insert into towpath.wake (lane_ids) values (array[{}])",
        two.raw()
    );
    rival.execute(sqlx::AssertSqlSafe(late)).await.unwrap();
    bench.append(0, &[1]).await;
    bench.append(0, &[1]).await;
    let stale = append(&mut bench.session, one, Tail::UNKNOWN, &[1]).await;
    assert!(matches!(stale, Appended::Stale(_)), "it leaves no note");

    let first = bench.session.take_wakes(0, 1).await.unwrap();
    assert_eq!((first.lanes, first.more), (vec![one], true));
    let second = bench.session.take_wakes(first.last, 10).await.unwrap();
    assert_eq!((second.lanes, second.more), (vec![one], false));
    rival.execute("commit").await.unwrap();
    let late = bench.session.take_wakes(0, 10).await.unwrap();
    assert_eq!(late.lanes, [two]);
    assert!(late.last < second.last);
    bench.purge().await;
    let purged = bench.session.take_wakes(0, 10).await.unwrap();
    assert_eq!(purged.lanes, [one], "what is to be freed there is new");
    let none = bench.session.take_wakes(0, 10).await.unwrap();
    assert!(none.lanes.is_empty() && !none.more);
}

//! The five tests that earlier drafts of the engine would have failed.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tokio_util::task::TaskTracker;
use towpath::broker::Receive;
use towpath::domain::lane::{LaneId, QueueId, SubscriptionId};
use towpath::domain::message::{Body, NewMessage};
use towpath::domain::queue::{QueueName, QueueSettings, Tenant};
use towpath::store::{Ack, Appended, Failure, LeaseKey, Session, SpaceCursor, Tail};
use uuid::Uuid;

use super::engine::{Bench, append, claim, leases};
use crate::support::database::{Database, STATEMENT_TIMEOUT};
use crate::support::node;

const WINDOW: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_message_that_was_given_back_is_received_at_once() {
    let database = Database::new().await;
    let store = node::store(&database);
    let broker = node::broker(&database).await;
    let name = QueueName::parse("name", "q").unwrap();
    let put = store
        .put_queue(&Tenant::default(), &name, QueueSettings::default())
        .await;
    let queue = Arc::new(put.unwrap().0);
    let body = Body::text("body", "hello".to_owned()).unwrap();
    broker
        .append(&queue, vec![NewMessage { body }])
        .await
        .unwrap();
    let mut session = Session::new(&database.options, STATEMENT_TIMEOUT);
    let receive = Receive {
        max: 1,
        wait: Duration::ZERO,
        window: WINDOW,
    };
    for round in 1..=50 {
        let received = broker.claim(&queue, receive).await.unwrap();
        assert_eq!(received.len(), 1, "an empty answer in round {round}");
        assert_eq!(received[0].receive_count, round);
        let receipt = broker.open_receipt(&received[0].receipt_handle).unwrap();
        let lease = LeaseKey {
            lane: receipt.position.lane,
            lo: receipt.position.seq,
            token: receipt.token,
            epoch: receipt.epoch,
        };
        let ended = session
            .extend(SubscriptionId::QUEUE, &[(lease, Duration::ZERO)])
            .await;
        assert!(ended.unwrap()[0].is_some());
    }
}

#[tokio::test]
async fn a_purge_takes_what_is_in_flight() {
    let mut bench = Bench::new().await;
    for _chunk in 0..20 {
        bench.append(0, &[50]).await;
    }
    let mut held = bench.claim(1_000, WINDOW).await;
    assert_eq!(held.len(), 1_000);
    bench
        .session
        .floor(SubscriptionId::QUEUE, bench.queue)
        .await
        .unwrap();

    held.sort_unstable();
    let extended = bench
        .session
        .extend(SubscriptionId::QUEUE, &[(held[0], WINDOW)])
        .await;
    assert_eq!(
        extended.unwrap(),
        [None],
        "nothing that was purged can be kept"
    );
    assert_eq!(
        bench.ack(&held[..2]).await,
        [Ack::Deleted; 2],
        "a delete finds it gone"
    );
    bench.database.advance_clock(WINDOW).await;
    assert!(
        bench.claim(1_000, WINDOW).await.is_empty(),
        "purged messages never return"
    );
    bench.append(0, &[1]).await;
    assert_eq!(bench.claim(10, WINDOW).await.len(), 1, "the queue goes on");

    let lane = bench.lane(0);
    let freed = bench
        .session
        .free(lane, SpaceCursor(0), 10_000, Duration::ZERO)
        .await;
    assert!(freed.unwrap().rows >= 20);
    let left: i64 = bench
        .database
        .value("select count(*) from towpath.log")
        .await;
    assert_eq!(left, 1, "only the chunk in flight stays");
}

/// Which indexes a call went through, how many entries it read there, and whether a table was
/// read from end to end.
async fn reads_of(database: &Database, session: &mut Session, call: Call<'_>) -> Reads {
    let mut connection = database.connect().await;
    *session = Session::new(&database.options, STATEMENT_TIMEOUT);
    // Statistics reach the views when their sessions end: those of the preparations first.
    wait_until_alone(&mut connection).await;
    connection.execute("select pg_stat_reset()").await.unwrap();
    match call {
        Call::Ack(leases) => {
            session.ack(SubscriptionId::QUEUE, leases).await.unwrap();
        }
        Call::Dedup(keys) => {
            session.probe_dedup(keys).await.unwrap();
        }
        Call::Append(bench_lane, tail) => {
            let stored = append(session, bench_lane, tail, &[1]).await;
            assert!(matches!(stored, Appended::Stored { .. }), "{stored:?}");
        }
    }
    *session = Session::new(&database.options, STATEMENT_TIMEOUT);
    wait_until_alone(&mut connection).await;
    Reads::of(&mut connection).await
}

async fn wait_until_alone(connection: &mut sqlx::PgConnection) {
    const OTHERS: &str = "
        select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
            and backend_type = 'client backend'";
    for _look in 0..6_000 {
        if connection.fetch_one(OTHERS).await.unwrap().get::<i64, _>(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("other sessions of the test do not end");
}

enum Call<'a> {
    Ack(&'a [(LeaseKey, u32)]),
    Dedup(&'a [(QueueId, Uuid)]),
    Append(LaneId, Tail),
}

#[derive(Debug)]
struct Reads {
    scans: i64,
    entries: i64,
    by_other_indexes: i64,
    whole_tables: i64,
}

impl Reads {
    async fn of(connection: &mut sqlx::PgConnection) -> Self {
        let row = connection
            .fetch_one(
                "select
                    coalesce(sum(idx_scan) filter (where indexrelname in
                        ('lease_pkey', 'dedup_pkey', 'log_pkey')), 0)::bigint,
                    coalesce(sum(idx_tup_read) filter (where indexrelname in
                        ('lease_pkey', 'dedup_pkey', 'log_pkey')), 0)::bigint,
                    coalesce(sum(idx_scan) filter (where indexrelname = 'lease_vt'), 0)::bigint,
                    (select sum(seq_scan)::bigint from pg_stat_user_tables
                        where schemaname = 'towpath' and relname in ('lease', 'dedup', 'log'))
                 from pg_stat_user_indexes where schemaname = 'towpath'",
            )
            .await
            .unwrap();
        Self {
            scans: row.get(0),
            entries: row.get(1),
            by_other_indexes: row.get(2),
            whole_tables: row.get(3),
        }
    }
}

/// So many leases, deduplication keys and chunks, all of them live, and fresh statistics.
async fn fill(bench: &Bench, rows: i64) {
    let (queue, raw) = (bench.queue.get(), bench.lane(0).raw());
    bench
        .database
        .run(format!(
            "truncate towpath.lease, towpath.dedup, towpath.log, towpath.cur;
             insert into towpath.lease
                 select {raw}, 1, i, 1, 0, 1, now() + interval '1 hour', 1, 0, now(), now()
                 from generate_series(1, {rows}) i;
             insert into towpath.dedup
                 select {queue}, md5(i::text)::uuid, now() + interval '1 hour', md5(i::text)::uuid
                 from generate_series(1, {rows}) i;
             insert into towpath.log
                 select {raw}, i, 1, 1, 0, now(), null, i, i, 'x' from generate_series(0, {rows}) i;
             insert into towpath.cur values ({raw}, 1, 0, {rows} + 1, 0)"
        ))
        .await;
    bench
        .database
        .run("analyze towpath.lease, towpath.dedup, towpath.log, towpath.cur")
        .await;
}

#[tokio::test]
async fn the_plans_of_ack_dedup_and_log_hold_at_every_size_of_the_tables() {
    let mut bench = Bench::new().await;
    let lane = bench.lane(0);
    for rows in [0, 5, 100_000] {
        fill(&bench, rows).await;
        let held: Vec<_> = (1..=5)
            .filter(|lo| *lo <= rows)
            .map(|lo| LeaseKey {
                lane,
                lo,
                token: 1,
                epoch: 0,
            })
            .chain([LeaseKey {
                lane,
                lo: 1_000_000,
                token: 1,
                epoch: 0,
            }])
            .map(|lease| (lease, 0))
            .collect();
        let asked = i64::try_from(held.len()).unwrap();
        let reads = reads_of(&bench.database, &mut bench.session, Call::Ack(&held)).await;
        assert_eq!(
            (reads.by_other_indexes, reads.whole_tables),
            (0, 0),
            "ack at {rows}: {reads:?}"
        );
        assert!(
            reads.scans > 0 && reads.entries <= asked * 3,
            "ack at {rows}: {reads:?}"
        );

        let keys: Vec<_> = (0..5).map(|_| (bench.queue, Uuid::new_v4())).collect();
        let reads = reads_of(&bench.database, &mut bench.session, Call::Dedup(&keys)).await;
        assert_eq!(reads.whole_tables, 0, "dedup at {rows}: {reads:?}");
        assert!(
            reads.scans == 5 && reads.entries == 0,
            "dedup at {rows}: {reads:?}"
        );

        let totals = rows + 1;
        let tail = Tail {
            next: totals,
            last_chunk: rows,
            bytes_total: totals,
            live_total: totals,
        };
        let reads = reads_of(
            &bench.database,
            &mut bench.session,
            Call::Append(lane, tail),
        )
        .await;
        assert_eq!(reads.whole_tables, 0, "append at {rows}: {reads:?}");
        assert!(
            reads.scans > 0 && reads.entries <= 2,
            "append at {rows}: {reads:?}"
        );
    }
}

/// Pages that a statement touched.
async fn pages(connection: &mut sqlx::PgConnection, statement: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {statement}");
    let row = connection.fetch_one(AssertSqlSafe(explain)).await.unwrap();
    let plan: serde_json::Value = serde_json::from_str(row.get_unchecked(0)).unwrap();
    let root = &plan[0]["Plan"];
    root["Shared Hit Blocks"].as_i64().unwrap() + root["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test]
async fn a_drained_lane_stays_cheap_behind_an_old_snapshot() {
    let mut bench = Bench::new().await;
    let mut holder = bench.database.connect().await;
    holder
        .execute("begin isolation level repeatable read; select * from towpath.queue")
        .await
        .unwrap();

    let lane = bench.lane(0);
    let mut tail = bench.append(0, &[1]).await;
    for _message in 0..600 {
        let Appended::Stored { tail: next, .. } =
            append(&mut bench.session, lane, tail, &[1]).await
        else {
            panic!("nobody else appends")
        };
        tail = next;
        let held = leases(&claim(&mut bench.session, bench.queue, 10, WINDOW).await);
        bench.ack(&held).await;
    }
    bench
        .session
        .free(lane, SpaceCursor(0), 10_000, Duration::ZERO)
        .await
        .unwrap();
    let left: i64 = bench
        .database
        .value("select count(*) from towpath.log")
        .await;
    assert_eq!(left, 0, "the lane is drained");

    let mut connection = bench.database.connect().await;
    // The first calls of a session fill its caches; the best of some rounds is what counts.
    for setting in [
        "plan_cache_mode = force_generic_plan",
        "enable_seqscan = off",
        "enable_bitmapscan = off",
    ] {
        connection
            .execute(AssertSqlSafe(format!("set {setting}")))
            .await
            .unwrap();
    }
    let queue = bench.queue.get();
    let claim = format!(
        "select * from towpath.claim_1(1, array[{queue}], array[1], array[1], array[30000],
            1000000, '{{}}', '{{}}', false)"
    );
    let append = |lane: LaneId, next: i64, last_chunk: i64| {
        let raw = lane.raw();
        format!(
            "select * from towpath.append_1(array[{raw}], array[{next}], array[{last_chunk}],
                array[7], array[0], array[0], array[1], array[1], array['x'::bytea])"
        )
    };
    let mut claimed = i64::MAX;
    for _round in 0..7 {
        claimed = claimed.min(pages(&mut connection, &claim).await);
    }
    let other = bench.lane(9);
    for next in 0..7 {
        pages(&mut connection, &append(other, -1, -1)).await;
        pages(&mut connection, &append(other, next, next - 1)).await;
    }
    let opened = pages(&mut connection, &append(lane, -1, -1)).await;
    let appended = pages(&mut connection, &append(lane, tail.next, tail.last_chunk)).await;
    holder.close().await.unwrap();
    // A claim looks back over at most 62 dead chunks, two to a page, and does so twice; without a
    // bound either probe walks past all 600.
    assert!(claimed < 200, "an empty claim touched {claimed} pages");
    assert!(opened < 120, "opening the lane touched {opened} pages");
    assert!(appended < 30, "an append touched {appended} pages");
}

#[tokio::test]
async fn a_paused_append_notices_a_rival_that_was_freed_meanwhile() {
    let mut bench = Bench::new().await;
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
        let chunks = vec![(1, b"paused".to_vec())];
        let lanes = [towpath::store::AppendLane {
            lane,
            tail,
            salt: 999,
            chunks,
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
    assert_eq!(bench.ack(&held).await, [Ack::Deleted]);
    let freed = bench
        .session
        .free(lane, SpaceCursor(0), 100, Duration::ZERO)
        .await
        .unwrap();
    assert!(freed.rows > 0);
    let left: i64 = bench
        .database
        .value("select count(*) from towpath.log")
        .await;
    assert_eq!(left, 0, "the rival has left nothing to collide with");

    gate.execute("select pg_advisory_unlock(42)").await.unwrap();
    let refused = paused.await.unwrap();
    assert!(
        matches!(refused, Err(Failure::Conflict)),
        "acknowledged below the cursor: {refused:?}"
    );
    assert!(bench.claim(1, WINDOW).await.is_empty());
}

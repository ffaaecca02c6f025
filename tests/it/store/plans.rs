//! What the statements read: no more than they need, however many rows there are, whatever the
//! statistics say, and behind somebody's old snapshot.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use towpath::domain::lane::{LaneId, SubscriptionId, Writer};
use towpath::store::{
    Ack, AckRest, Appended, Care, Claims, Commit, Extend, HeldLease, Hold, LeaseKey, LeaseRow,
    Moved, NewKey, Session, SpaceCursor, Tail,
};
use uuid::Uuid;

use super::bench::{Bench, RUN, SALT, WINDOW, append, append_lane, chunk};
use crate::support::database::{Database, STATEMENT_TIMEOUT};

const SUB: SubscriptionId = SubscriptionId::QUEUE;

/// How much a statement read.
#[derive(Debug)]
pub(super) struct Reads {
    /// Entries of indexes.
    pub(super) entries: i64,
    /// Of them, those of the index of ends.
    pub(super) by_end: i64,
    /// Tables that were read from end to end, but for those of queues and lanes.
    pub(super) whole_tables: i64,
}

impl Reads {
    async fn of(connection: &mut PgConnection) -> Self {
        let row = connection
            .fetch_one(
                "select coalesce(sum(idx_tup_read), 0)::bigint,
                    coalesce(sum(idx_tup_read) filter (where indexrelname = 'lease_vt'), 0)::bigint,
                    (select sum(seq_scan)::bigint from pg_stat_user_tables
                        where schemaname = 'towpath' and relname not in ('queue', 'lane'))
                 from pg_stat_user_indexes where schemaname = 'towpath'",
            )
            .await
            .unwrap();
        Self {
            entries: row.get(0),
            by_end: row.get(1),
            whole_tables: row.get(2),
        }
    }
}

/// What a call of a session's own read.
pub(super) async fn reads_of<T>(
    database: &Database,
    call: impl AsyncFnOnce(&mut Session) -> T,
) -> (T, Reads) {
    let mut connection = database.connect().await;
    // Statistics reach the views when their sessions end: those of the preparations first.
    wait_until_alone(&mut connection).await;
    connection.execute("select pg_stat_reset()").await.unwrap();
    let mut session = Session::new(&database.options, STATEMENT_TIMEOUT, Commit::Flushed);
    let said = call(&mut session).await;
    drop(session);
    wait_until_alone(&mut connection).await;
    (said, Reads::of(&mut connection).await)
}

async fn wait_until_alone(connection: &mut PgConnection) {
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

/// A lane with so many chunks of two messages, all leased, and as many rows of all other kinds; and
/// fresh statistics. Some leases have ended if `expired`.
pub(super) async fn fill(bench: &mut Bench, rows: i64, expired: i64) {
    let (queue, raw) = (bench.queue.get(), bench.lane(0).raw());
    bench.session = bench.another_session();
    bench
        .database
        .run(format!(
            "truncate towpath.lease, towpath.dedup, towpath.log, towpath.cur, towpath.moved,
                towpath.wake, towpath.lane;
             insert into towpath.lane values ({raw}, {queue});
             insert into towpath.lease
                 select {raw}, 1, 2 * i, 1, 0, 3,
                     towpath.clock() + case when i < {expired} then -1 else 1 end * interval '1 hour',
                     1, 0, towpath.clock(), towpath.clock()
                 from generate_series(0, {rows} - 1) i;
             insert into towpath.dedup
                 select {queue}, md5(i::text)::uuid,
                     towpath.clock() + case when i < {expired} then -1 else 1 end * interval '1 hour',
                     md5(i::text)::uuid
                 from generate_series(0, {rows} - 1) i;
             insert into towpath.moved
                 select md5(i::text)::uuid, {raw}, 0,
                     towpath.clock() + case when i < {expired} then -1 else 1 end * interval '1 hour'
                 from generate_series(0, {rows} - 1) i;
             insert into towpath.wake (lane_ids)
                 select array[{raw}] from generate_series(1, {rows}) i;
             insert into towpath.log
                 select {raw}, 2 * i, 2, 2, {SALT}, towpath.clock(), null, i, 2 * i, 'x'
                 from generate_series(0, {rows} - 1) i;
             insert into towpath.cur values ({raw}, 1, 0, 2 * {rows}, 0)"
        ))
        .await;
    bench
        .database
        .run("analyze towpath.lease, towpath.dedup, towpath.log, towpath.cur, towpath.moved, towpath.wake")
        .await;
}

/// The first five chunks' leases, and one that is not there.
fn rows_of(lane: LaneId, rows: i64) -> Vec<LeaseRow> {
    let at = |lo| LeaseRow { lane, lo, token: 1 };
    let there = (0..rows.min(5)).map(|i| at(2 * i));
    there.chain([at(10_000_000)]).collect()
}

fn extends(lane: LaneId, rows: i64, mask: u64) -> Vec<Extend> {
    let row = |row| Extend {
        lease: LeaseKey { row, epoch: 0 },
        mask,
        window: WINDOW,
        delays: vec![],
        max_receives: None,
        reason: None,
    };
    rows_of(lane, rows).into_iter().map(row).collect()
}

/// Runs a call, and checks that it reads at most so many entries, none of them by the index of ends
/// unless it may.
macro_rules! reads_at_most {
    ($bench:expr, $entries:expr, $by_end:expr, $call:expr) => {{
        let (said, reads) = reads_of(&$bench.database, $call).await;
        assert!(
            reads.whole_tables == 0 && reads.entries <= $entries && reads.by_end <= $by_end,
            "{reads:?} at line {}",
            line!()
        );
        said
    }};
}

pub(super) const SIZES: [i64; 3] = [0, 5, 100_000];

#[tokio::test]
async fn what_deletes_and_extends_read_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    for rows in SIZES {
        fill(&mut bench, rows, 0).await;
        let found = rows.min(5);
        let ack = |mask, whole| {
            rows_of(lane, rows)
                .into_iter()
                .map(|row| Ack { row, mask, whole })
                .collect::<Vec<_>>()
        };
        // A part, then the rest; each row is found once for each of its changes.
        let parts = ack(1, false);
        let said = reads_at_most!(bench, found * 4, 0, async |session: &mut Session| {
            session.ack(SUB, &parts).await.unwrap()
        });
        assert_eq!(said.iter().sum::<u64>(), found.unsigned_abs());
        let wholes = ack(3, true);
        let said = reads_at_most!(bench, found * 3, 0, async |session: &mut Session| {
            session.ack(SUB, &wholes).await.unwrap()
        });
        assert_eq!(said.iter().sum::<u64>(), 2 * found.unsigned_abs());

        fill(&mut bench, rows, 0).await;
        let rest: Vec<_> = rows_of(lane, rows)
            .into_iter()
            .map(|row| AckRest {
                lane,
                seq: row.lo + 1,
                token: 9,
                epoch: 0,
                salt: SALT,
                id: Uuid::nil(),
            })
            .collect();
        // A chunk, a cursor, and the leases that may name the message: as many as can begin before.
        reads_at_most!(bench, 6 * (31 + 8), 0, async |session: &mut Session| {
            session.ack_rest(SUB, &rest).await.unwrap()
        });
        for mask in [3, 1] {
            fill(&mut bench, rows, 0).await;
            let entries = extends(lane, rows, mask);
            let said = reads_at_most!(bench, 6 * 8, 0, async |session: &mut Session| {
                session.extend(SUB, &entries).await.unwrap()
            });
            let moved = said.entries.iter().map(|said| said.moved.count_ones());
            assert_eq!(
                i64::from(moved.sum::<u32>()),
                found * i64::from(mask.count_ones())
            );
        }
        let leases = rows_of(lane, rows);
        reads_at_most!(bench, 6 * 4, 0, async |session: &mut Session| {
            session.moving(SUB, &leases).await.unwrap()
        });
    }
}

#[tokio::test]
async fn what_redrives_read_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    for rows in SIZES {
        let found = rows.min(5);
        let leases = rows_of(lane, rows);
        // The first message of each moves, the second keeps the lease.
        fill(&mut bench, rows, 0).await;
        let hold = |row: &LeaseRow| {
            [(1, 9), (2, row.token)].map(|(mask, token)| Hold {
                row: *row,
                mask,
                token,
                to_move: mask == 1,
                window: WINDOW,
            })
        };
        let holds: Vec<_> = leases.iter().flat_map(hold).collect();
        let said = reads_at_most!(bench, 6 * 8, 0, async |session: &mut Session| {
            session.hold(SUB, &holds).await.unwrap()
        });
        assert_eq!(said.iter().sum::<u64>(), 3 * found.unsigned_abs());
        reads_at_most!(bench, 6 * 4, 0, async |session: &mut Session| {
            session.keep(SUB, &leases, Duration::ZERO).await.unwrap()
        });
        // A page of chunks, each with its leases.
        let database = &bench.database;
        let visible = async |_: &mut Session| {
            let store = crate::support::node::store(database);
            let page = store.visible(lane, 0, 100, 1 << 20).await.unwrap();
            store.close().await;
            page
        };
        let page = reads_at_most!(bench, 100 * 3 + 8, 0, visible);
        assert_eq!(page.next.is_some(), rows > 100);
    }
}

#[tokio::test]
async fn what_appends_read_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    for rows in SIZES {
        fill(&mut bench, rows, 0).await;
        let keys: Vec<_> = (0..5).map(|_| (bench.queue, Uuid::new_v4())).collect();
        reads_at_most!(bench, 0, 0, async |session: &mut Session| {
            session.probe_dedup(&keys).await.unwrap()
        });

        let tail = Tail {
            next: 2 * rows,
            last_chunk: 2 * rows - 2,
            bytes_total: rows,
            live_total: 2 * rows,
        };
        // The queue, the last chunk, the log's own cursor; the lane when it is new.
        let said = reads_at_most!(bench, 4, 0, async |session: &mut Session| {
            append(session, lane, tail, &[1]).await
        });
        let Appended::Stored { tail, .. } = said else {
            panic!("{said:?}")
        };
        let opened = reads_at_most!(bench, 4, 0, async |session: &mut Session| {
            append(session, lane, Tail::UNKNOWN, &[1]).await
        });
        assert_eq!(opened, Appended::Stale(tail));

        let moving = "update towpath.lease set state = 2";
        bench.database.run(moving).await;
        let lanes = [append_lane(lane, tail, vec![chunk(2)])];
        let care = Care {
            sources: (0..rows.min(5))
                .map(|i| HeldLease {
                    lane,
                    lo: 2 * i,
                    token: 1,
                    mask: 3,
                })
                .collect(),
            keys: vec![NewKey {
                key: (bench.queue, Uuid::new_v4()),
                window: WINDOW,
                digest: vec![],
                answer: vec![],
                message_id: Uuid::new_v4(),
            }],
            moved: vec![Moved {
                id: Uuid::new_v4(),
                lane,
                seq: tail.next,
            }],
            ..Care::default()
        };
        reads_at_most!(bench, 5 * 3 + 8, 0, async |session: &mut Session| {
            session.append_careful(SUB, &lanes, &care).await.unwrap()
        });
    }
}

fn messages(claims: &Claims) -> i64 {
    let counts = claims.leases.iter().map(|lease| lease.mask.count_ones());
    counts.sum::<u32>().into()
}

#[tokio::test]
async fn what_claims_read_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    for rows in SIZES {
        // Nothing to receive; then what came back; then something new.
        fill(&mut bench, rows, 0).await;
        let batch = bench.batch(&[(10, WINDOW)]);
        let said = reads_at_most!(bench, 2 * 62 + 8, 0, async |session: &mut Session| {
            session.claim(SUB, &batch).await.unwrap()
        });
        assert!(said.leases.is_empty());

        fill(&mut bench, rows, rows).await;
        let said = reads_at_most!(bench, 2 * 62 + 40, 12, async |session: &mut Session| {
            session.claim(SUB, &batch).await.unwrap()
        });
        assert_eq!(messages(&said), rows.min(5) * 2);

        fill(&mut bench, rows, 0).await;
        bench
            .database
            .run("update towpath.cur set pos = 0; truncate towpath.lease; analyze towpath.lease")
            .await;
        let said = reads_at_most!(bench, 62 + 40, 0, async |session: &mut Session| {
            session.claim(SUB, &batch).await.unwrap()
        });
        assert_eq!(messages(&said), rows.min(5) * 2);
    }
}

#[tokio::test]
async fn what_the_keeping_of_order_reads_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    for rows in SIZES {
        fill(&mut bench, rows, 0).await;
        // A hundred chunks, each with its leases and itself, and the floor's look ahead.
        let free = async |session: &mut Session| {
            let from = SpaceCursor(0);
            session
                .free(lane, from, 100, Duration::ZERO, true)
                .await
                .unwrap()
        };
        let said = reads_at_most!(bench, 100 * 4 + 20, 0, free);
        assert_eq!(said.rows, 0);
        bench.database.run("truncate towpath.lease").await;
        reads_at_most!(bench, 100 * 8 + 20, 0, free);

        fill(&mut bench, rows, 0).await;
        let taken = reads_at_most!(bench, 100 * 3, 0, async |session: &mut Session| {
            session.take_wakes(0, 100).await.unwrap()
        });
        assert_eq!(taken.more, rows > 100);
        fill(&mut bench, rows, rows).await;
        let more = reads_at_most!(bench, 200 * 4, 0, async |session: &mut Session| {
            session.forget(100).await.unwrap()
        });
        assert_eq!(more, rows > 100);

        let database = &bench.database;
        let queue = bench.queue;
        let purge = async |_: &mut Session| {
            let store = crate::support::node::store(database);
            store.purge_queue(queue).await.unwrap();
            store.close().await;
        };
        reads_at_most!(bench, 62 + 12, 0, purge);
    }
}

/// Counts look at every lease of a queue, and at nothing of other queues.
#[tokio::test]
async fn counts_read_the_leases_of_their_queue_and_no_others() {
    let mut bench = Bench::new(RUN).await;
    fill(&mut bench, 10_000, 0).await;
    let other = super::bench::new_queue(&bench.database, "other").await;
    for (queue, most) in [(other, 4), (bench.queue, 10_000 + 62 + 20)] {
        let database = &bench.database;
        let count = async |_: &mut Session| {
            let store = crate::support::node::store(database);
            let counts = store.count_messages(queue).await.unwrap();
            store.close().await;
            counts
        };
        let counts = reads_at_most!(bench, most, 0, count);
        assert_eq!(counts.in_flight > 0, queue == bench.queue);
    }
}

/// Pages that a statement touched.
pub(super) async fn pages(connection: &mut PgConnection, statement: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {statement}");
    let row = connection.fetch_one(AssertSqlSafe(explain)).await.unwrap();
    let plan: serde_json::Value = serde_json::from_str(row.get_unchecked(0)).unwrap();
    let root = &plan[0]["Plan"];
    root["Shared Hit Blocks"].as_i64().unwrap() + root["Shared Read Blocks"].as_i64().unwrap()
}

/// A connection whose planner chooses as those of nodes do.
pub(super) async fn like_a_node(database: &Database) -> PgConnection {
    let mut connection = database.connect().await;
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
    connection
}

fn claim_sql(queue: i32) -> String {
    format!(
        "select * from towpath.claim_3(1, array[{queue}], array[1], array[10], array[30000]::bigint[], (random() * 1e9)::int, 62,
            1000000,
            '{{}}', '{{}}', false)"
    )
}

fn append_sql(lane: LaneId, next: i64, last_chunk: i64) -> String {
    let raw = lane.raw();
    format!(
        "select * from towpath.append_2(array[{raw}], array[{next}], array[{last_chunk}],
            array[7], array[0], array[0], array[1], array[1], array[0]::bigint[],
            array[0]::bigint[], array[null]::timestamptz[], array['x'::bytea], null)"
    )
}

#[tokio::test]
async fn a_drained_lane_stays_cheap_behind_an_old_snapshot() {
    let mut bench = Bench::new(RUN).await;
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
        let held = bench.claim(10, WINDOW).await;
        bench.ack(&held).await;
    }
    bench.free(lane).await;
    assert_eq!(bench.count("log").await, 0, "the lane is drained");

    let mut connection = like_a_node(&bench.database).await;
    // The first calls of a session fill its caches; the best of some rounds is what counts.
    let mut best = async |statement: &str| {
        let mut fewest = i64::MAX;
        for _round in 0..7 {
            fewest = fewest.min(pages(&mut connection, statement).await);
        }
        fewest
    };
    let queue = bench.queue.get();
    let claimed = best(&claim_sql(queue)).await;
    let raw = lane.raw();
    let newest = tail.next - 1;
    let rest = best(&format!(
        "select towpath.ack_rest_1(1, array[{raw}], array[{newest}]::bigint[], array[5], array[0],
            array[7], array[gen_random_uuid()])"
    ))
    .await;
    let extended = best(&format!(
        "select * from towpath.extend_3(1, array[{raw}], array[{newest}]::bigint[], array[5],
            array[0], array[1]::bigint[], array[0]::bigint[], array[0], array[null]::text[], false,
            '{{}}', array[1], array[0])"
    ))
    .await;
    let counted = best(&format!("select * from towpath.counts_1(1, {queue})")).await;
    let other = bench.lane(9);
    for next in 0..7 {
        pages(&mut connection, &append_sql(other, -1, -1)).await;
        pages(&mut connection, &append_sql(other, next, next - 1)).await;
    }
    let opened = pages(&mut connection, &append_sql(lane, -1, -1)).await;
    let appended = pages(
        &mut connection,
        &append_sql(lane, tail.next, tail.last_chunk),
    )
    .await;
    holder.close().await.unwrap();
    // A claim looks back over at most 62 dead chunks, two to a page, and does so twice; without a
    // bound either probe walks past all 600.
    assert!(claimed < 200, "an empty claim touched {claimed} pages");
    assert!(opened < 120, "opening the lane touched {opened} pages");
    assert!(appended < 30, "an append touched {appended} pages");
    assert!(rest < 240, "a late delete touched {rest} pages");
    // It looks back over at most 62 dead leases. Where autovacuum ran meanwhile, neighbours in the index
    // lie on different pages, and each of them counts.
    assert!(extended < 150, "a late extend touched {extended} pages");
    // It reads what is dead among the leases: 600 entries of an index, some hundreds a page.
    assert!(counted < 150, "a count touched {counted} pages");
}

/// Finding 7 of the guarantees: a LIMIT that a plan can get round is none.
#[tokio::test]
async fn a_claim_hands_out_no_more_than_it_was_asked_for_whatever_the_planner_does() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[62, 1, 62]).await;
    bench.append(Writer(1).0, &[30]).await;
    let queue = bench.queue.get();
    bench
        .database
        .run("analyze towpath.lease; analyze towpath.log")
        .await;
    let switches = [
        "seqscan",
        "indexscan",
        "indexonlyscan",
        "bitmapscan",
        "sort",
        "incremental_sort",
        "nestloop",
        "hashjoin",
        "mergejoin",
        "material",
    ];
    let claim = format!(
        "select coalesce(sum(bit_count(mask::bit(64))) filter (where kind = 0), 0)::bigint
            + coalesce(sum((select sum(bit_count(m::bit(64))) from unnest(masks) m)), 0)::bigint
         from ({}) c",
        claim_sql(queue)
    );
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        for off in 0..=switches.len() {
            let mut connection = bench.database.connect().await;
            let mut settings = format!("set plan_cache_mode = {mode};");
            for (number, switch) in switches.iter().enumerate() {
                let value = if number == off { "off" } else { "on" };
                settings += &format!("set enable_{switch} = {value};");
            }
            connection.execute(AssertSqlSafe(settings)).await.unwrap();
            for window in ["30000", "0"] {
                let claim = claim.replace("30000", window);
                let row = connection.fetch_one(AssertSqlSafe(claim)).await.unwrap();
                let claimed: i64 = row.get(0);
                assert_eq!(
                    claimed,
                    10,
                    "with {mode} and without {:?}",
                    switches.get(off)
                );
            }
            connection.close().await.unwrap();
            bench.database.advance_clock(WINDOW).await;
        }
    }
}

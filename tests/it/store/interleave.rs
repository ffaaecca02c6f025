//! Every pair of hot statements on one lane, in every order of their steps that PostgreSQL's locks
//! allow: no message is in two hands, none is lost, and nobody deadlocks.
//!
//! The first transaction runs its statement and stays open. The second one runs its own: it waits,
//! or does not. If it waits, the first ends; else either one ends first. The first commits or rolls
//! back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use crate::support::database::Database;

/// What a statement says about the messages that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    Stored,
    Claimed,
    Deleted,
    Extended,
    Moved,
    Nothing,
}
use Says::{Claimed, Deleted, Extended, Moved, Nothing, Stored};

/// Each gives one array: the numbers of the messages that it did it to. The lane holds
/// ```text
/// 0 1    deleted
/// 2 3 4  in flight under one lease of token 10
/// 5 6    under a lease of token 10 that has ended
/// 7 8    never received (in a lane of delayed messages: not due)
/// ```
const STATEMENTS: [(&str, Says, &str); 20] = [
    (
        "append",
        Stored,
        "select array_agg(s) from towpath.append_2(array[{lane}], array[9], array[7], array[7], array[0], array[9], array[1], array[2], array[3600000], array[0], array[null]::timestamptz[], array['x'::bytea], null) a, generate_series(9, a.tail - 1) s where a.status = 0",
    ),
    (
        "claim",
        Claimed,
        "select array_agg(b) from towpath.claim_3(1, array[{queue}], array[1], array[4], array[30000], {dice}, 62, 100000, '{}', '{}', false) c, lateral (select c.seq, c.mask where c.kind = 0 union all select * from unnest(c.los, c.masks)) l (lo, mask), bits(l.lo, l.mask) b",
    ),
    (
        "claim of one",
        Claimed,
        "select array_agg(b) from towpath.claim_3(1, array[{queue}], array[1], array[1], array[30000], {dice}, 62, 100000, '{}', '{}', false) c, lateral (select c.seq, c.mask where c.kind = 0 union all select * from unnest(c.los, c.masks)) l (lo, mask), bits(l.lo, l.mask) b",
    ),
    (
        FOR_THE_MOVER,
        Claimed,
        "select array_agg(b) from towpath.claim_3(1, array[{queue}], array[1], array[4], array[30000], {dice}, 62, 100000, '{}', '{}', false) c, lateral (select c.seq, c.mask where c.kind = 0 union all select * from unnest(c.los, c.masks)) l (lo, mask), bits(l.lo, l.mask) b",
    ),
    (
        "ack of all",
        Deleted,
        "select array_agg(b) from unnest(towpath.ack_2(1, array[{lane}, {lane}], array[2, 5], array[10, 10], array[7, 3], array[true, true])) with ordinality m (mask, ix), bits((array[2, 5])[m.ix], m.mask) b",
    ),
    (
        "ack of some",
        Deleted,
        "select array_agg(b) from unnest(towpath.ack_2(1, array[{lane}, {lane}], array[2, 5], array[10, 10], array[3, 1], array[false, false])) with ordinality m (mask, ix), bits((array[2, 5])[m.ix], m.mask) b",
    ),
    (
        "ack of others",
        Deleted,
        "select array_agg(b) from unnest(towpath.ack_2(1, array[{lane}, {lane}], array[2, 5], array[10, 10], array[6, 2], array[false, false])) with ordinality m (mask, ix), bits((array[2, 5])[m.ix], m.mask) b",
    ),
    (
        "rest of an ack",
        Deleted,
        "select array_agg((array[2, 3, 5]::bigint[])[r.ix]) from unnest(towpath.ack_rest_1(1, array[{lane}, {lane}, {lane}], array[2, 3, 5], array[10, 10, 10], array[0, 0, 0], array[7, 7, 7], array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()])) with ordinality r (code, ix) where r.code < 2",
    ),
    (
        "extend",
        Extended,
        "select array_agg(b) from towpath.extend_3(1, array[{lane}, {lane}], array[2, 5], array[10, 10], array[0, 0], array[7, 3], array[60000, 60000], array[0, 0], array[null, null]::text[], false, '{}', array[1, 1], array[0, 0]) e, bits((array[2, 5])[e.ix], e.moved) b where e.lane_id is null",
    ),
    (
        "extend of some",
        Extended,
        "select array_agg(b) from towpath.extend_3(1, array[{lane}], array[2], array[10], array[0], array[5], array[60000], array[0], array[null]::text[], false, '{}', array[1], array[0]) e, bits(2, e.moved) b where e.lane_id is null",
    ),
    (
        "cancel",
        Deleted,
        "select array_agg(s) from unnest(array[2, 5, 7]::bigint[]) s where towpath.cancel_1(1, {lane}, s, 7) = 0",
    ),
    (
        "reschedule",
        Extended,
        "select array_agg(s) from unnest(array[3, 6, 8]::bigint[]) s, towpath.reschedule_1(1, {lane}, s, 7, 60000, {dice}) r where r.code = 0",
    ),
    (
        "cancel",
        Deleted,
        "select array_agg(s) from unnest(array[2, 5, 7]::bigint[]) s where towpath.cancel_1(1, {lane}, s, 7) = 0",
    ),
    (
        "reschedule",
        Extended,
        "select array_agg(s) from unnest(array[3, 6, 8]::bigint[]) s, towpath.reschedule_1(1, {lane}, s, 7, 60000, {dice}) r where r.code = 0",
    ),
    (
        "nack",
        Nothing,
        "select array_agg(b) from towpath.extend_3(1, array[{lane}], array[2], array[10], array[0], array[2], array[0], array[1], array['no'], false, '{}', array[1], array[0]) e, bits(2, e.moved) b where e.lane_id is null",
    ),
    (
        "hand back",
        Nothing,
        "select array_agg(b) from towpath.extend_3(1, array[{lane}], array[2], array[10], array[0], array[7], array[0], array[0], array[null]::text[], true, '{}', array[1], array[0]) e, bits(2, e.moved) b where e.lane_id is null",
    ),
    (
        "floor",
        Nothing,
        "with f as materialized (select towpath.floor_2(1, {queue})) select '{}'::bigint[] from f",
    ),
    (
        "move",
        Moved,
        "select array_agg(b) from towpath.append_careful_1(1, array[{lane}], array[2], array[10], array[7], '{}', '{}', '{}', '{}', '{}', '{}', array[gen_random_uuid()], array[{target}], array[0], array[{target}], array[0], array[-61], array[7], array[0], array[0], array[1], array[3], array[0], array[0], array[null]::timestamptz[], array['x'::bytea]) a, bits(2, 7) b",
    ),
    (
        "move under a key",
        Moved,
        "select array_agg(b) from towpath.append_careful_1(1, array[{lane}], array[5], array[10], array[3], array[{queue}], array['00000000-0000-0000-0000-000000000001'::uuid], array[60], array['x'::bytea], array['x'::bytea], array[gen_random_uuid()], array[gen_random_uuid()], array[{target}], array[0], array[{target}], array[0], array[-61], array[7], array[0], array[0], array[1], array[2], array[0], array[0], array[null]::timestamptz[], array['x'::bytea]) a, bits(5, 3) b",
    ),
    (
        "free",
        Nothing,
        "with f as materialized (select * from towpath.free_2({lane}, 0, 100, interval '0', true)) select '{}'::bigint[] from f",
    ),
];

const FOR_THE_MOVER: &str = "claim for the mover";

/// Refusals that a node answers by trying again; nothing was done.
const REFUSALS: [&str; 5] = ["23505", "TW001", "TW004", "TW005", "TW006"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Ready,
    Delayed,
    /// Everything in it is older than the queue keeps messages.
    Expired,
}

/// A lane with messages, and another queue's that is empty.
struct Scene {
    kind: Lane,
    queue: i32,
    lane: i64,
    target: i64,
}

impl Scene {
    async fn new(connection: &mut PgConnection, kind: Lane) -> Self {
        let made = connection
            .fetch_all(
                "insert into towpath.queue
                    (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
                 select 'default', gen_random_uuid(), 30, 0, towpath.clock()
                 from generate_series(1, 2)
                 returning queue_id",
            )
            .await
            .unwrap();
        let (queue, target): (i32, i32) = (made[0].get(0), made[1].get(0));
        let class = i64::from(kind == Lane::Delayed) << 14;
        let scene = Self {
            kind,
            queue,
            lane: i64::from(queue) << 26 | class,
            target: i64::from(target) << 26,
        };
        let lane = scene.lane;
        let age = if kind == Lane::Expired {
            "1 hour"
        } else {
            "1 second"
        };
        let position = if kind == Lane::Delayed { 0 } else { 7 };
        let mut rows = format!(
            "insert into towpath.lane values ({lane}, {queue});
             insert into towpath.log
                 select {lane}, seq, n, n, 7, now() - interval '{age}', null, 0, seq, 'x'
                 from (values (0, 2), (2, 3), (5, 2), (7, 2)) c (seq, n);
             insert into towpath.cur values ({lane}, 1, 0, {position}, 0);
             insert into towpath.lease
                 select {lane}, 1, lo, 10, 0, mask, now() + vt, 1, 0, now(), now()
                 from (values (2, 7, interval '1 hour'), (5, 3, '-1 minute')) l (lo, mask, vt);"
        );
        if kind == Lane::Expired {
            let keeps = format!(
                "update towpath.queue set retention_seconds = 60 where queue_id = {queue};"
            );
            rows.push_str(&keeps);
        }
        if kind == Lane::Delayed {
            let due = format!(
                "insert into towpath.lease
                 values ({lane}, 1, 7, 0, 0, 3, now() + interval '1 hour', 0, 1, null, now());"
            );
            rows.push_str(&due);
        }
        connection.execute(AssertSqlSafe(rows)).await.unwrap();
        scene
    }

    /// Makes all that is in flight the mover's: nothing else can be moved.
    async fn give_up(&self, connection: &mut PgConnection) {
        let lane = self.lane;
        let sql = format!("update towpath.lease set state = 2 where lane_id = {lane} and lo < 7");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    /// Makes the mover's what was delivered once, where a claim meets it.
    async fn deliver_once(&self, connection: &mut PgConnection) {
        let (queue, target) = (self.queue, self.target >> 26);
        let sql = format!(
            "update towpath.queue set dead_letter_queue_id = {target}, max_receive_count = 1
             where queue_id = {queue}"
        );
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    fn sql(&self, statement: &str) -> String {
        let token: i32 = rand::random_range(100..i32::MAX / 2);
        statement
            .replace("{lane}", &self.lane.to_string())
            .replace("{target}", &self.target.to_string())
            .replace("{queue}", &self.queue.to_string())
            .replace("{dice}", &token.to_string())
    }
}

type Numbers = BTreeSet<i64>;

/// Runs a statement inside a transaction: what it did, or `None` when it was refused.
async fn run(connection: &mut PgConnection, sql: &str) -> Option<Numbers> {
    match connection.fetch_one(AssertSqlSafe(sql)).await {
        Ok(row) => {
            let numbers: Option<Vec<i64>> = row.get(0);
            let numbers = numbers.unwrap_or_default();
            let unique: Numbers = numbers.iter().copied().collect();
            assert_eq!(unique.len(), numbers.len(), "a message twice in one answer");
            Some(unique)
        }
        Err(sqlx::Error::Database(refusal))
            if REFUSALS.contains(&refusal.code().unwrap_or_default().as_ref()) =>
        {
            None
        }
        Err(error) => panic!("{error}: {sql}"),
    }
}

struct Rivals {
    first: PgConnection,
    second: PgConnection,
    second_pid: i32,
    watcher: PgConnection,
}

/// How a pair went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ending {
    first_commits: bool,
    /// Only where the second does not wait.
    second_ends_first: bool,
}

impl Rivals {
    async fn new(database: &Database) -> Self {
        let connect = async || {
            let mut connection = database.connect().await;
            connection
                .execute(
                    "set lock_timeout = '20 s'; set plan_cache_mode = force_generic_plan;
                     set enable_seqscan = off; set enable_bitmapscan = off;
                     set enable_hashjoin = off; set enable_mergejoin = off",
                )
                .await
                .unwrap();
            connection
        };
        let mut second = connect().await;
        let second_pid = second
            .fetch_one("select pg_backend_pid()")
            .await
            .unwrap()
            .get(0);
        Self {
            first: connect().await,
            second,
            second_pid,
            watcher: connect().await,
        }
    }

    async fn second_waits(watcher: &mut PgConnection, pid: i32) -> bool {
        let waits = format!("select cardinality(pg_blocking_pids({pid})) > 0");
        let row = watcher.fetch_one(AssertSqlSafe(waits)).await.unwrap();
        row.get(0)
    }

    /// Runs a pair; what each did if it committed, and whether the second one waited.
    async fn run(
        &mut self,
        [first, second]: [&str; 2],
        ending: Ending,
    ) -> ([Option<Numbers>; 2], bool) {
        self.first.execute("begin").await.unwrap();
        self.second.execute("begin").await.unwrap();
        let did_first = run(&mut self.first, first).await;
        let end_first = if ending.first_commits {
            "commit"
        } else {
            "rollback"
        };

        let mut waited = false;
        let did_second = {
            let running = run(&mut self.second, second);
            tokio::pin!(running);
            loop {
                if let Ok(done) = timeout(Duration::from_millis(1), &mut running).await {
                    break done;
                }
                if Self::second_waits(&mut self.watcher, self.second_pid).await {
                    waited = true;
                    self.first.execute(end_first).await.unwrap();
                    break running.await;
                }
            }
        };
        if ending.second_ends_first {
            self.second.execute("commit").await.unwrap();
        }
        if !waited {
            self.first.execute(end_first).await.unwrap();
        }
        if !ending.second_ends_first {
            self.second.execute("commit").await.unwrap();
        }
        let did_first = did_first.filter(|_| ending.first_commits);
        ([did_first, did_second], waited)
    }
}

/// Where the messages of a lane are.
#[derive(Debug)]
struct Found {
    floor: i64,
    ahead: Numbers,
    leased: Numbers,
    in_target: usize,
}

impl Found {
    async fn of(connection: &mut PgConnection, scene: &Scene) -> Self {
        let (lane, target) = (scene.lane, scene.target);
        let row = connection
            .fetch_one(AssertSqlSafe(format!(
                "select c.floor, c.pos,
                    (select coalesce(array_agg(b), '{{}}') from towpath.lease e, bits(e.lo, e.mask) b
                        where e.lane_id = {lane} and e.sub_id = 1 and e.lo >= c.floor
                            and e.epoch = c.epoch),
                    (select coalesce(array_agg(s), '{{}}')
                        from towpath.log g, generate_series(g.seq, g.seq + g.n - 1) s
                        where g.lane_id = {lane}),
                    (select coalesce(sum(g.n), 0) from towpath.log g where g.lane_id = {target})
                 from (
                     select * from towpath.cur where lane_id = {lane} and sub_id = 1
                     order by epoch desc, pos desc, floor desc limit 1
                 ) c"
            )))
            .await
            .unwrap();
        let (floor, position): (i64, i64) = (row.get(0), row.get(1));
        let (leases, log): (Vec<i64>, Vec<i64>) = (row.get(2), row.get(3));
        let leased: Numbers = leases.iter().copied().collect();
        assert_eq!(leased.len(), leases.len(), "two leases of a message");
        let log: Numbers = log.into_iter().collect();
        assert!(leased.is_subset(&log), "a lease of what was freed");
        let is_ahead =
            |number: &i64| scene.kind != Lane::Delayed && *number >= position && *number >= floor;
        Self {
            floor,
            ahead: log.into_iter().filter(is_ahead).collect(),
            leased,
            in_target: usize::try_from(row.get::<i64, _>(4)).unwrap(),
        }
    }

    /// Every message is in one place, and that is the place that the answers tell.
    fn check(&self, kind: Lane, did: [(Says, Option<Numbers>); 2]) {
        let mut all: Numbers = (2..9).collect();
        let mut told: BTreeMap<Says, Numbers> = BTreeMap::new();
        for (says, numbers) in did {
            let numbers = numbers.unwrap_or_default();
            let known = told.entry(says).or_default();
            if says != Extended && says != Nothing {
                assert!(known.is_disjoint(&numbers), "twice {says:?}");
            }
            known.extend(numbers);
        }
        let told = |says| told.get(&says).cloned().unwrap_or_default();
        let (deleted, moved) = (told(Deleted), told(Moved));
        all.extend(told(Stored));
        assert!(told(Claimed).is_disjoint(&told(Extended)), "two holders");
        assert!(told(Claimed).is_disjoint(&moved), "two copies in hands");
        assert!(deleted.is_disjoint(&moved), "deleted, and in the target");
        assert_eq!(self.in_target, moved.len());
        assert!(self.ahead.is_disjoint(&self.leased), "ahead and leased");
        let mut places = self.ahead.clone();
        places.extend(&self.leased);
        assert!(places.is_disjoint(&deleted), "a delete was not final");
        assert!(places.is_disjoint(&moved), "two copies");
        assert!(places.is_subset(&all), "from nowhere");
        let over = |number: &i64| *number < self.floor || (kind == Lane::Expired && *number < 9);
        let lost: Vec<_> = all
            .iter()
            .filter(|number| {
                !places.contains(number)
                    && !deleted.contains(number)
                    && !moved.contains(number)
                    && !over(number)
            })
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}

/// Says which pair it was when one fails.
struct Pair(String);

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

async fn run_every_pair(kind: Lane) {
    let database = Database::new().await;
    database
        .run(
            "create function bits(lo bigint, mask bigint) returns setof bigint language sql
             as 'select lo + b from generate_series(0, 61) b where mask >> b & 1 = 1'",
        )
        .await;
    let mut rivals = Rivals::new(&database).await;
    let (mut pairs, mut waits) = (0, 0);
    for (first, first_says, first_sql) in STATEMENTS {
        for (second, second_says, second_sql) in STATEMENTS {
            let mut could_end_first = true;
            for (first_commits, second_ends_first) in
                [(true, false), (true, true), (false, false), (false, true)]
            {
                let ending = Ending {
                    first_commits,
                    second_ends_first: second_ends_first && could_end_first,
                };
                if ending.second_ends_first != second_ends_first {
                    continue;
                }
                let _pair = Pair(format!("{kind:?}: {first}, then {second}, {ending:?}"));
                let scene = Scene::new(&mut rivals.watcher, kind).await;
                if [first_says, second_says].contains(&Moved) {
                    scene.give_up(&mut rivals.watcher).await;
                }
                if [first, second].contains(&FOR_THE_MOVER) {
                    scene.deliver_once(&mut rivals.watcher).await;
                }
                let statements = [scene.sql(first_sql), scene.sql(second_sql)];
                let ([did_first, did_second], waited) =
                    rivals.run([&statements[0], &statements[1]], ending).await;
                could_end_first = !waited;
                let found = Found::of(&mut rivals.watcher, &scene).await;
                found.check(kind, [(first_says, did_first), (second_says, did_second)]);
                pairs += 1;
                waits += i32::from(waited);
            }
        }
    }
    assert!(
        pairs > 700 && waits > 50,
        "{pairs} pairs, {waits} of them waited"
    );
    let Rivals {
        first,
        second,
        watcher,
        ..
    } = rivals;
    for connection in [first, second, watcher] {
        connection.close().await.unwrap();
    }
    let deadlocks: i64 = database
        .value("select deadlocks from pg_stat_database where datname = current_database()")
        .await;
    assert_eq!(deadlocks, 0);
}

#[tokio::test]
async fn no_pair_of_statements_on_a_lane_of_ready_messages_loses_or_doubles_one() {
    run_every_pair(Lane::Ready).await;
}

#[tokio::test]
async fn no_pair_of_statements_on_a_lane_of_delayed_messages_loses_or_doubles_one() {
    run_every_pair(Lane::Delayed).await;
}

#[tokio::test]
async fn no_pair_of_statements_on_a_lane_that_has_expired_loses_or_doubles_one() {
    run_every_pair(Lane::Expired).await;
}

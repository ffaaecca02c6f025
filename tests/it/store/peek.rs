//! Messages are looked at without being received.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use towpath::domain::lane::{LaneId, Position, QueueId};
use towpath::domain::peek::MessageState::{Delayed, InFlight, Visible};
use towpath::domain::peek::{MessageState, PeekCursor};
use towpath::domain::queue::Tenant;
use towpath::store::{NewChunk, Peek, Peeked, Standing, Store};
use uuid::Uuid;

use super::bench::{Bench, RUN, RUNS, SALT, WINDOW, chunk};
use super::plans::{pages, reads_of};
use crate::support::database::Database;
use crate::support::node;

pub(super) const DELAY: Duration = Duration::from_secs(100);
pub(super) const TOKEN: i32 = 77;

/// So much of it that nothing ends before the queue does.
pub(super) const ALL: Peek = Peek {
    state: None,
    from: None,
    chunks: 1_000,
    messages: usize::MAX,
    bytes: usize::MAX,
};

/// Messages by lane and number.
pub(super) type Standings = BTreeMap<(LaneId, i64), Standing>;

fn standings(peeked: &Peeked, state: Option<MessageState>) -> Standings {
    let mut all = Standings::new();
    for chunk in &peeked.chunks {
        for seq in chunk.seqs() {
            let Some(standing) = chunk.standing(seq) else {
                continue;
            };
            if state.is_none_or(|state| state == standing.state) {
                let before = all.insert((chunk.lane, seq), standing);
                assert_eq!(before, None, "each message is shown once");
            }
        }
    }
    all
}

async fn peek(store: &Store, queue: QueueId, peek: &Peek) -> Peeked {
    store.peek(queue, peek).await.unwrap().unwrap()
}

/// All messages of a queue, looked at in pages that end by one of the limits.
pub(super) async fn all(store: &Store, queue: QueueId, page: &Peek) -> Standings {
    let mut all = Standings::new();
    let mut page = *page;
    loop {
        let peeked = peek(store, queue, &page).await;
        for (place, standing) in standings(&peeked, page.state) {
            assert_eq!(all.insert(place, standing), None, "{place:?} comes twice");
        }
        let Some(next) = peeked.next else { return all };
        assert!(page.from.is_none_or(|from| from < next), "{next:?}");
        page.from = Some(next);
    }
}

impl Bench {
    pub(super) fn store(&self) -> Store {
        node::store(&self.database)
    }

    pub(super) fn place(&self, lane: LaneId, seq: i64) -> Position {
        Position {
            lane,
            seq,
            salt: SALT,
        }
    }

    pub(super) async fn delay_all(&mut self, messages: &[i32]) -> LaneId {
        let delayed = |messages: &i32| NewChunk {
            delay: DELAY,
            ..chunk(*messages)
        };
        let lane = self.delayed_lane();
        self.append_chunks(lane, messages.iter().map(delayed).collect())
            .await;
        lane
    }

    /// The states of all messages, in the order of their places.
    pub(super) async fn states(&self) -> Vec<MessageState> {
        let all = all(&self.store(), self.queue, &ALL).await;
        all.values().map(|standing| standing.state).collect()
    }
}

#[tokio::test]
async fn a_peek_shows_each_message_as_it_is_and_changes_nothing() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[3, 4]).await;
        let held = bench.claim(5, WINDOW).await;
        bench.ack(&held[..1]).await;
        bench.extend(&held[1..2], Duration::ZERO).await;
        bench.delay_all(&[2]).await;
        let before: String = bench.database.value(EVERYTHING).await;
        let (ready, delayed) = (bench.lane(0), bench.delayed_lane());
        let standings = all(&bench.store(), bench.queue, &ALL).await;
        let states: Vec<_> = standings
            .iter()
            .map(|(place, standing)| (*place, standing.state, standing.receive_count))
            .collect();
        let expected = [
            ((ready, 1), Visible, 1),
            ((ready, 2), InFlight, 1),
            ((ready, 3), InFlight, 1),
            ((ready, 4), InFlight, 1),
            ((ready, 5), Visible, 0),
            ((ready, 6), Visible, 0),
            ((delayed, 0), Delayed, 0),
            ((delayed, 1), Delayed, 0),
        ];
        assert_eq!(states, expected, "{run}");
        assert_eq!(standings[&(ready, 2)].visible_at, Some(held[2].visible_at));
        assert_eq!(
            standings[&(ready, 2)].first_received_at,
            Some(held[2].first_received_at)
        );
        assert_eq!(standings[&(ready, 5)].visible_at, None);
        for state in MessageState::ALL {
            let only = Peek {
                state: Some(state),
                ..ALL
            };
            let shown = all(&bench.store(), bench.queue, &only).await;
            let expected = states.iter().filter(|(_, found, _)| *found == state);
            let expected: Vec<_> = expected.map(|(place, ..)| *place).collect();
            assert_eq!(shown.into_keys().collect::<Vec<_>>(), expected);
        }
        let after: String = bench.database.value(EVERYTHING).await;
        assert_eq!(before, after);
    }
}

/// Every row that a receive would change.
const EVERYTHING: &str = "
    select (select coalesce(string_agg(e::text, ' ' order by e::text), '') from towpath.lease e)
        || (select coalesce(string_agg(c::text, ' ' order by c::text), '') from towpath.cur c)
        || (select count(*) from towpath.log)";

#[tokio::test]
async fn a_peek_waits_for_no_claim_and_no_claim_for_a_peek() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[2]).await;
    bench.claim(1, WINDOW).await;
    let mut holder = bench.database.connect().await;
    let lock = format!(
        "begin; select pg_advisory_xact_lock(towpath.lane_key({}));
         select 1 from towpath.lease for update; select 1 from towpath.log for update",
        bench.lane(0).raw()
    );
    holder.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    assert_eq!(bench.states().await, [InFlight, Visible]);
    let place = bench.place(bench.lane(0), 1);
    let found = bench
        .store()
        .find_message(&Tenant::default(), Uuid::nil(), Some(place))
        .await;
    assert!(found.unwrap().is_some());
    holder.execute("rollback").await.unwrap();
}

#[tokio::test]
async fn pages_that_end_by_any_limit_lead_on_to_every_message() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench.append(0, &[5, 1, 62, 3]).await;
        bench.append(1, &[2, 2]).await;
        bench.delay_all(&[4, 1]).await;
        bench.claim(40, WINDOW).await;
        let whole = all(&bench.store(), bench.queue, &ALL).await;
        assert_eq!(whole.len(), 80);
        for page in [
            Peek { chunks: 1, ..ALL },
            Peek { chunks: 2, ..ALL },
            Peek { messages: 1, ..ALL },
            Peek { messages: 6, ..ALL },
            Peek { bytes: 1, ..ALL },
            Peek {
                bytes: 8_000,
                ..ALL
            },
        ] {
            let paged = all(&bench.store(), bench.queue, &page).await;
            assert_eq!(paged, whole, "{page:?}");
        }
        let first = peek(&bench.store(), bench.queue, &Peek { chunks: 1, ..ALL }).await;
        assert_eq!((first.chunks.len(), first.looked_at), (1, 1));
        // From the middle of a chunk, whatever its lease begins with.
        for from in [0, 1, 5, 6, 7, 30, 70] {
            let lane = bench.lane(0);
            let from = PeekCursor { lane, seq: from };
            let rest = Peek {
                from: Some(from),
                ..ALL
            };
            let rest = all(&bench.store(), bench.queue, &rest).await;
            let expected = whole.range((lane, from.seq)..);
            assert!(expected.eq(rest.iter()), "{from:?}");
        }
    }
}

#[tokio::test]
async fn what_is_deleted_purged_or_expired_or_was_received_before_a_seek_is_not_shown() {
    let mut bench = Bench::new(RUN).await;
    let brief = NewChunk {
        time_to_live: Some(WINDOW),
        ..chunk(2)
    };
    bench
        .append_chunks(bench.lane(0), vec![brief.clone()])
        .await;
    bench.claim(1, WINDOW * 9).await;
    let late = NewChunk {
        delay: DELAY,
        ..brief
    };
    bench.append_chunks(bench.delayed_lane(), vec![late]).await;
    assert_eq!(bench.states().await.len(), 4);
    bench.database.advance_clock(WINDOW).await;
    assert_eq!(bench.states().await, [], "their time is over");

    bench.append(1, &[3]).await;
    let held = bench.claim(2, WINDOW).await;
    bench.ack(&held).await;
    assert_eq!(bench.states().await, [Visible]);
    let epoch = format!(
        "insert into towpath.lease
            select lane_id, 1, 0, 5, 7, 3, towpath.clock(), 1, 0, null, towpath.clock()
            from towpath.lane where lane_id = {}",
        bench.lane(1).raw()
    );
    bench.database.run(epoch).await;
    assert_eq!(bench.states().await, [Visible], "a lease of another epoch");
    bench.delay_all(&[2]).await;
    bench.purge().await;
    assert_eq!(bench.states().await, []);
    let queue = bench.queue.get();
    bench.append(1, &[3]).await;
    let deleted = format!("update towpath.queue set deleted_at = now() where queue_id = {queue}");
    bench.database.run(deleted).await;
    let gone = bench.store().peek(bench.queue, &ALL).await.unwrap();
    assert!(gone.is_none(), "the queue is gone");
}

#[tokio::test]
async fn a_message_is_found_where_it_moved_to_and_only_for_its_tenant() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[2]).await;
    let other = super::bench::new_queue(&bench.database, "other").await;
    bench.append(3, &[9]).await;
    let id = Uuid::from_u128(1);
    let (store, place) = (bench.store(), bench.place(bench.lane(0), 1));
    let find = async |tenant: &str, place| {
        let tenant = Tenant(tenant.to_owned());
        let found = store.find_message(&tenant, id, place).await.unwrap();
        found.map(|found| (found.queue.as_str().to_owned(), found.chunk.first))
    };
    let here = Some(("q".to_owned(), 1));
    assert_eq!(find("default", Some(place)).await, here);
    assert_eq!(find("another", Some(place)).await, None);
    assert_eq!(find("default", None).await, None, "its id says nothing");
    assert_eq!(
        find("default", Some(bench.place(bench.lane(0), 2))).await,
        None
    );
    let there = LaneId::new(other, bench.lane(0).class(), bench.lane(0).writer());
    bench.append_chunks(there, vec![chunk(5)]).await;
    let moved = format!(
        "insert into towpath.moved values ('{id}', {}, 4, towpath.clock())",
        there.raw()
    );
    bench.database.run(moved).await;
    for place in [Some(place), None] {
        assert_eq!(find("default", place).await, Some(("other".to_owned(), 4)));
    }
    let gone = format!(
        "update towpath.queue set deleted_at = now() where queue_id = {}",
        other.get()
    );
    bench.database.run(gone).await;
    assert_eq!(find("default", Some(place)).await, None);
}

/// Behind an old snapshot a search among deleted leases takes long.
#[tokio::test]
async fn a_peek_that_finds_nothing_for_long_says_where_to_go_on() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[1]).await;
    let (lane, far) = (bench.lane(0), 900_000);
    let raw = lane.raw();
    let rows = format!(
        "insert into towpath.log
            select lane_id, {far}, n, live, salt, enq, expires_at, 0, 0, body from towpath.log;
         insert into towpath.lease values ({raw}, 1, {far}, 5, 0, 1, now(), 1, 0, now(), now());
         insert into towpath.cur values ({raw}, 1, 0, {far} + 1, 0)"
    );
    bench.database.run(rows).await;
    let store = bench.store();
    let whole = peek(&store, bench.queue, &ALL).await;
    assert_eq!((whole.chunks.len(), whole.is_slow), (1, false));
    assert_eq!(whole.chunks[0].seqs(), far..far + 1);

    let slow = "create sequence towpath.ticks;
        create or replace function towpath.clock() returns timestamptz language sql volatile
        as 'select clock_timestamp() + nextval(''towpath.ticks'') * interval ''1 second'''";
    bench.database.run(slow).await;
    let mut page = ALL;
    let last = loop {
        let part = peek(&store, bench.queue, &page).await;
        if !part.chunks.is_empty() {
            break part;
        }
        let (from, next) = (page.from.map_or(0, |from| from.seq), part.next.unwrap());
        // Leases may begin before the messages that are looked for.
        assert!(part.is_slow && (9_900..=10_000).contains(&(next.seq - from)));
        assert_eq!(next.lane, lane);
        page.from = Some(next);
    };
    assert_eq!(last.chunks[0].seqs(), far..far + 1);
    assert_eq!((last.next, last.is_slow), (None, false));
}

/// What a call of the store's own reads.
async fn entries<T>(database: &Database, call: impl AsyncFnOnce(Store) -> T) -> i64 {
    let (_said, reads) = reads_of(database, async |_: &mut _| {
        let store = node::store(database);
        let said = call(store.clone()).await;
        store.close().await;
        said
    })
    .await;
    assert_eq!(reads.whole_tables, 0, "{reads:?}");
    assert_eq!(reads.by_end, 0, "{reads:?}");
    reads.entries
}

#[tokio::test]
async fn what_peeks_and_changes_read_does_not_grow_with_the_tables() {
    let mut bench = Bench::new(RUN).await;
    let lane = bench.lane(0);
    for rows in super::plans::SIZES {
        super::plans::fill(&mut bench, rows, rows).await;
        let (database, queue) = (&bench.database, bench.queue);
        // In each of ten chunks a lease for itself and for those of the chunk, the chunk twice.
        let page = Peek { chunks: 10, ..ALL };
        let read = entries(database, async |store| peek(&store, queue, &page).await).await;
        assert!(read <= 10 * 5 + 8, "a page read {read}");
        // From the middle of the lane: what may begin before, too.
        let from = PeekCursor { lane, seq: rows };
        let middle = Peek {
            from: Some(from),
            ..page
        };
        let read = entries(database, async |store| peek(&store, queue, &middle).await).await;
        assert!(
            read <= 40 * 3 + 10 * 5 + 8,
            "a page of the middle read {read}"
        );
        let place = bench.place(lane, rows + 1);
        let find = async |store: Store| {
            let tenant = Tenant::default();
            let found = store.find_message(&tenant, Uuid::nil(), Some(place)).await;
            found.unwrap()
        };
        let read = entries(database, find).await;
        assert!(read <= 16, "a look at one message read {read}");
        let change = async |store: Store| {
            let later = store.reschedule_message(place, WINDOW, TOKEN).await;
            let place = Position { seq: rows, ..place };
            (later.unwrap(), store.cancel_message(place).await.unwrap())
        };
        // The leases that may name the message: as many as can begin before.
        let read = entries(database, change).await;
        assert!(
            read <= 2 * (31 + 14),
            "a reschedule and a cancel read {read}"
        );
    }
}

#[tokio::test]
async fn a_peek_at_a_drained_lane_stays_cheap_behind_an_old_snapshot() {
    let mut bench = Bench::new(RUN).await;
    let mut holder = bench.database.connect().await;
    holder
        .execute("begin isolation level repeatable read; select * from towpath.queue")
        .await
        .unwrap();
    let lane = bench.lane(0);
    for _round in 0..60 {
        bench.append(0, &[1; 10]).await;
        let held = bench.claim(10, WINDOW).await;
        bench.ack(&held).await;
        bench.free(lane).await;
    }
    assert_eq!(bench.count("log").await, 0, "the lane is drained");
    bench.append(0, &[1; 3]).await;
    bench.claim(1, WINDOW).await;

    let mut connection = super::plans::like_a_node(&bench.database).await;
    let queue = bench.queue.get();
    let peeks = "select * from towpath.peek_1(1, QUEUE, STATE, 0, 0, 500, 20, 1000000)";
    for (state, shown) in [("null", 3), ("0::smallint", 2), ("1::smallint", 1)] {
        let sql = peeks
            .replace("QUEUE", &queue.to_string())
            .replace("STATE", state);
        let rows = connection
            .fetch_all(sqlx::AssertSqlSafe(sql.as_str()))
            .await;
        assert_eq!(rows.unwrap().len(), shown + 1, "{state}");
        let mut fewest = i64::MAX;
        for _round in 0..7 {
            fewest = fewest.min(pages(&mut connection, &sql).await);
        }
        println!("a peek ({state}) touched {fewest} pages");
        // The dead entries of leases, as counts do, and none of 600 chunks, two to a page.
        assert!(fewest < 180, "a peek ({state}) touched {fewest} pages");
    }
    holder.close().await.unwrap();
}

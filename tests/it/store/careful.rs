//! Appends that do more, all or nothing: messages move, and keys are taken.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _};
use time::OffsetDateTime;
use tokio_util::task::TaskTracker;
use towpath::domain::lane::{Class, LaneId, QueueId, SubscriptionId, Writer};
use towpath::store::{
    AckRest, Acked, AppendLane, Appended, Care, Failure, HeldLease, KnownKey, Moved, NewKey,
    Session, Tail,
};
use uuid::Uuid;

use super::bench::{
    Bench, Held, RUN, SALT, WINDOW, append, append_lane, chunk, new_queue, seqs, whole_lease,
};

/// Messages of the bench's queue that are held, and where they are to go.
struct Scene {
    bench: Bench,
    target: QueueId,
    tail: Tail,
    held: Vec<Held>,
}

impl Scene {
    async fn new() -> Self {
        let mut bench = Bench::new(RUN).await;
        let target = new_queue(&bench.database, "target").await;
        bench.append(0, &[3]).await;
        let held = bench.claim(3, WINDOW).await;
        let given_up = "update towpath.lease set state = 2";
        bench.database.run(given_up).await;
        let lane = LaneId::new(target, Class::READY, Writer(0));
        let tail = bench.append_chunks(lane, vec![chunk(1)]).await;
        Self {
            bench,
            target,
            tail,
            held,
        }
    }

    fn lane(&self) -> LaneId {
        LaneId::new(self.target, Class::READY, Writer(0))
    }

    fn lanes(&self) -> [AppendLane; 1] {
        [append_lane(self.lane(), self.tail, vec![chunk(3)])]
    }

    fn source(&self) -> HeldLease {
        whole_lease(&self.held[0], 0b111)
    }

    fn key(&self) -> NewKey {
        NewKey {
            key: (self.target, Uuid::from_u128(9)),
            window: WINDOW,
            digest: b"digest".to_vec(),
            answer: b"answer".to_vec(),
            message_id: Uuid::from_u128(1),
        }
    }

    /// A move of all, under a key.
    fn care(&self) -> Care {
        Care {
            sources: vec![self.source()],
            keys: vec![self.key()],
            moved: (0..3_u8)
                .map(|number| Moved {
                    id: Uuid::from_u128(number.into()),
                    lane: self.lane(),
                    seq: self.tail.next + i64::from(number),
                })
                .collect(),
            ..Care::default()
        }
    }

    async fn try_move(&mut self) -> Result<Vec<Appended>, Failure> {
        let (lanes, care) = (self.lanes(), self.care());
        append_careful(&mut self.bench.session, &lanes, &care).await
    }

    /// Everything that a careful append changes.
    async fn dump(&self) -> Vec<String> {
        let mut dump = Vec::new();
        for table in ["log", "lease", "cur", "dedup", "moved", "wake", "lane"] {
            let rows = format!(
                "select coalesce(string_agg(t::text, ' ' order by t::text), '') from towpath.{table} t"
            );
            dump.push(self.bench.database.value(rows).await);
        }
        dump
    }
}

async fn append_careful(
    session: &mut Session,
    lanes: &[AppendLane],
    care: &Care,
) -> Result<Vec<Appended>, Failure> {
    session
        .append_careful(SubscriptionId::QUEUE, lanes, care)
        .await
}

#[tokio::test]
async fn a_message_that_moves_is_gone_here_and_there_from_then_on() {
    let mut scene = Scene::new().await;
    scene
        .bench
        .database
        .run(format!(
            "update towpath.queue set retention_seconds = 1000 where queue_id = {}",
            scene.target.get()
        ))
        .await;
    let moved = scene.try_move().await.unwrap();
    let [Appended::Stored { tail, at }] = moved[..] else {
        panic!("{moved:?}")
    };
    assert_eq!(tail.next, scene.tail.next + 3);
    assert_eq!(scene.bench.count("lease").await, 0);
    let held = scene.held.clone();
    let rest: Vec<_> = (0..)
        .zip(&held)
        .map(|(id, message)| AckRest {
            id: Uuid::from_u128(id),
            ..message.rest(SALT)
        })
        .collect();
    let session = &mut scene.bench.session;
    let said = session.ack_rest(SubscriptionId::QUEUE, &rest).await;
    assert_eq!(said.unwrap(), [Acked::Stale; 3], "they live on elsewhere");
    let places: i64 = scene
        .bench
        .database
        .value(format!(
            "select count(*) from towpath.moved where lane_id = {} and seq between 1 and 3",
            scene.lane().raw()
        ))
        .await;
    assert_eq!(places, 3);
    let until: OffsetDateTime = scene
        .bench
        .database
        .value("select max(expires_at) from towpath.moved")
        .await;
    assert_eq!(
        until,
        at + Duration::from_secs(1000),
        "as long as the target keeps it"
    );
    scene.bench.database.advance_clock(WINDOW).await;
    assert!(scene.bench.claim(10, WINDOW).await.is_empty());
    scene.bench.queue = scene.target;
    assert_eq!(seqs(&scene.bench.claim(10, WINDOW).await), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_move_does_all_or_nothing() {
    // What somebody did meanwhile, and what the mover is told.
    type Expected = fn(&Failure) -> bool;
    let source_gone: Expected = |failure| matches!(failure, Failure::SourceGone);
    let conflict: Expected = |failure| matches!(failure, Failure::Conflict);
    let cases: [(&str, Expected, &str); 8] = [
        ("deleted", source_gone, "delete from towpath.lease"),
        (
            "deleted in part",
            source_gone,
            "update towpath.lease set mask = 6",
        ),
        (
            "received by another",
            source_gone,
            "update towpath.lease set tok = tok + 1",
        ),
        ("purged", source_gone, "select towpath.floor_2(1, 1)"),
        (
            "sought back",
            source_gone,
            "insert into towpath.cur select lane_id, 1, 1, 0, 0 from towpath.lease",
        ),
        (
            "another wrote there",
            conflict,
            "insert into towpath.log
             select lane_id, 1, 1, 1, 0, now(), null, 0, 0, 'x' from towpath.log
             where lane_id >> 26 = 2",
        ),
        (
            "the target is gone",
            conflict,
            "update towpath.queue set deleted_at = towpath.clock() where queue_id = 2",
        ),
        (
            "the key is taken",
            |failure| matches!(failure, Failure::KeyTaken),
            "insert into towpath.dedup
             values (2, '00000000-0000-0000-0000-000000000009',
                 towpath.clock() + interval '1 s', gen_random_uuid())",
        ),
    ];
    for (what, expected, meanwhile) in cases {
        let mut scene = Scene::new().await;
        assert_eq!((scene.bench.queue.get(), scene.target.get()), (1, 2));
        scene.bench.database.run(meanwhile).await;
        let before = scene.dump().await;
        let refused = scene.try_move().await.unwrap_err();
        assert!(expected(&refused), "{what}: {refused:?}");
        assert_eq!(scene.dump().await, before, "{what}");
    }
}

#[tokio::test]
async fn one_source_that_is_gone_keeps_all_others_where_they_are() {
    let mut scene = Scene::new().await;
    let bench = &mut scene.bench;
    bench.append(0, &[1]).await;
    let other = bench.claim(1, WINDOW).await;
    let mut care = scene.care();
    care.sources.push(whole_lease(&other[0], 1));
    care.sources.sort_unstable();
    assert_eq!(scene.bench.ack(&other).await, [Acked::Deleted]);
    let before = scene.dump().await;
    let lanes = scene.lanes();
    let refused = append_careful(&mut scene.bench.session, &lanes, &care).await;
    assert!(matches!(refused, Err(Failure::SourceGone)), "{refused:?}");
    assert_eq!(scene.dump().await, before);
}

#[tokio::test]
async fn a_move_waits_for_a_delete_that_is_about_to_commit() {
    for commits in [true, false] {
        let mut scene = Scene::new().await;
        let mut rival = scene.bench.database.connect().await;
        rival
            .execute("begin; delete from towpath.lease")
            .await
            .unwrap();
        let mut session = scene.bench.another_session();
        let (lanes, care) = (scene.lanes(), scene.care());
        let moves = TaskTracker::new()
            .spawn(async move { append_careful(&mut session, &lanes, &care).await });
        scene.bench.database.wait_for_blocked(1).await;
        let end = if commits { "commit" } else { "rollback" };
        rival.execute(end).await.unwrap();
        let moved = moves.await.unwrap();
        if commits {
            assert!(matches!(moved, Err(Failure::SourceGone)), "{moved:?}");
        } else {
            assert!(moved.is_ok(), "{moved:?}");
        }
        let expected = if commits { 1 } else { 4 };
        scene.bench.queue = scene.target;
        assert_eq!(scene.bench.claim(10, WINDOW).await.len(), expected);
    }
}

/// Leases, then keys, then the log: whoever waits for one holds none of those behind it.
#[tokio::test]
async fn a_careful_append_locks_leases_then_keys_then_the_log() {
    let take_key = "insert into towpath.dedup
        values (2, '00000000-0000-0000-0000-000000000009', 'infinity', gen_random_uuid())";
    let take_lease = "select * from towpath.lease for update";
    let take_number = "insert into towpath.log
        select lane_id, 1, 1, 1, 0, now(), null, 0, 0, 'x' from towpath.log
        where lane_id >> 26 = 2";
    let locks = [take_lease, take_key, take_number];
    for waits_for in 0..locks.len() {
        let scene = Scene::new().await;
        let mut rival = scene.bench.database.connect().await;
        let hold = format!("begin; {}", locks[waits_for]);
        rival.execute(AssertSqlSafe(hold)).await.unwrap();
        let mut session = scene.bench.another_session();
        let (lanes, care) = (scene.lanes(), scene.care());
        let moves = TaskTracker::new()
            .spawn(async move { append_careful(&mut session, &lanes, &care).await });
        scene.bench.database.wait_for_blocked(1).await;
        for (number, lock) in locks.iter().enumerate() {
            if number == waits_for {
                continue;
            }
            let mut other = scene.bench.database.connect().await;
            let attempt = format!("set lock_timeout = 50; begin; {lock}");
            let free = other.execute(AssertSqlSafe(attempt)).await.is_ok();
            assert_eq!(
                free,
                number > waits_for,
                "{lock}, while waiting for {}",
                locks[waits_for]
            );
            other.execute("rollback").await.unwrap();
        }
        rival.execute("rollback").await.unwrap();
        moves.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_key_is_known_from_its_send_to_the_end_of_its_window() {
    let mut scene = Scene::new().await;
    let key = scene.key();
    let probe = async |session: &mut Session| {
        let other = (key.key.0, Uuid::from_u128(10));
        let known = session.probe_dedup(&[other, key.key]).await.unwrap();
        assert_eq!(known[0], None);
        known[1].clone()
    };
    assert_eq!(probe(&mut scene.bench.session).await, None);
    let care = Care {
        keys: vec![key.clone()],
        ..Care::default()
    };
    let lanes = scene.lanes();
    let sent = append_careful(&mut scene.bench.session, &lanes, &care).await;
    let Appended::Stored { tail, at } = sent.unwrap()[0] else {
        panic!("it is stored")
    };
    scene.tail = tail;
    assert_eq!(
        probe(&mut scene.bench.session).await,
        Some(KnownKey {
            digest: key.digest.clone(),
            answer: key.answer.clone(),
            sent_at: at,
        })
    );
    let lanes = scene.lanes();
    let again = append_careful(&mut scene.bench.session, &lanes, &care).await;
    assert!(matches!(again, Err(Failure::KeyTaken)), "{again:?}");
    assert!(!scene.bench.session.forget(10).await.unwrap());
    assert!(probe(&mut scene.bench.session).await.is_some());

    scene.bench.database.advance_clock(WINDOW).await;
    assert_eq!(probe(&mut scene.bench.session).await, None);
    let other = Care {
        keys: vec![NewKey {
            answer: b"another".to_vec(),
            ..key.clone()
        }],
        ..Care::default()
    };
    append_careful(&mut scene.bench.session, &lanes, &other)
        .await
        .unwrap();
    let known = probe(&mut scene.bench.session).await.unwrap();
    assert_eq!(known.answer, b"another");
    scene.bench.database.advance_clock(WINDOW).await;
    assert!(scene.bench.session.forget(1).await.unwrap());
    assert_eq!(scene.bench.count("dedup").await, 0);
}

#[tokio::test]
async fn of_two_sends_under_one_key_at_once_one_is_stored() {
    for commits in [true, false] {
        let mut scene = Scene::new().await;
        let mut rival = scene.bench.database.connect().await;
        let held = "begin; insert into towpath.dedup
            values (2, '00000000-0000-0000-0000-000000000009', 'infinity', gen_random_uuid())";
        rival.execute(held).await.unwrap();
        let mut session = scene.bench.another_session();
        let (lanes, care) = (scene.lanes(), scene.care());
        let send = TaskTracker::new()
            .spawn(async move { append_careful(&mut session, &lanes, &care).await });
        scene.bench.database.wait_for_blocked(1).await;
        // Plain sends go on beside it.
        let (lane, tail) = (scene.bench.lane(5), scene.tail);
        append(&mut scene.bench.session, lane, tail, &[1]).await;
        let end = if commits { "commit" } else { "rollback" };
        rival.execute(end).await.unwrap();
        let sent = send.await.unwrap();
        if commits {
            assert!(matches!(sent, Err(Failure::KeyTaken)), "{sent:?}");
        } else {
            assert!(sent.is_ok(), "{sent:?}");
        }
    }
}

#[tokio::test]
async fn movements_are_forgotten_when_their_messages_are_over() {
    let mut scene = Scene::new().await;
    scene.try_move().await.unwrap();
    assert!(!scene.bench.session.forget(10).await.unwrap());
    assert_eq!(scene.bench.count("moved").await, 3);
    let four_days = Duration::from_secs(4 * 24 * 3600 + 1);
    scene.bench.database.advance_clock(four_days).await;
    assert!(scene.bench.session.forget(2).await.unwrap(), "in steps");
    assert_eq!(scene.bench.count("moved").await, 1);
    assert!(!scene.bench.session.forget(10).await.unwrap());
    assert_eq!(scene.bench.count("moved").await, 0);
}

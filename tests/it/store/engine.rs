//! What the hot functions promise to each other.

use std::time::Duration;

use towpath::domain::lane::{Class, LaneId, QueueId, SubscriptionId, Writer};
use towpath::domain::queue::{QueueName, QueueSettings, Tenant};
use towpath::store::{
    Ack, AppendLane, Appended, ClaimBatch, Claims, Failure, LeaseKey, Reach, Session, Tail,
};

use crate::support::database::{Database, STATEMENT_TIMEOUT};
use crate::support::node;

/// Of every number that these tests give out.
pub(super) const SALT: u32 = 7;

/// A queue of its own in a database of its own, and a session to it.
pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) session: Session,
    pub(super) queue: QueueId,
}

impl Bench {
    pub(super) async fn new() -> Self {
        let database = Database::new().await;
        let raw: i32 = database
            .value(
                "insert into towpath.queue
                    (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
                 values ('default', 'q', 30, 0, towpath.clock()) returning queue_id",
            )
            .await;
        let session = Session::new(&database.options, STATEMENT_TIMEOUT);
        Self {
            database,
            session,
            queue: QueueId::new(raw).unwrap(),
        }
    }

    pub(super) fn another_session(&self) -> Session {
        Session::new(&self.database.options, STATEMENT_TIMEOUT)
    }

    pub(super) fn lane(&self, writer: u8) -> LaneId {
        LaneId::new(self.queue, Class::READY, Writer(writer))
    }

    /// Appends chunks of these sizes at the true tail of a lane.
    pub(super) async fn append(&mut self, writer: u8, sizes: &[i32]) -> Tail {
        let lane = self.lane(writer);
        let Appended::Stale(tail) = append(&mut self.session, lane, Tail::UNKNOWN, &[1]).await
        else {
            panic!("an unknown tail is always stale");
        };
        match append(&mut self.session, lane, tail, sizes).await {
            Appended::Stored { tail, .. } => tail,
            other => panic!("{other:?}"),
        }
    }

    /// One receiver asks for up to `size` messages.
    pub(super) async fn claim(&mut self, size: i32, window: Duration) -> Vec<LeaseKey> {
        leases(&claim(&mut self.session, self.queue, size, window).await)
    }

    pub(super) async fn ack(&mut self, leases: &[LeaseKey]) -> Vec<Ack> {
        let mut leases: Vec<_> = leases.iter().map(|lease| (*lease, SALT)).collect();
        leases.sort_unstable();
        self.session
            .ack(SubscriptionId::QUEUE, &leases)
            .await
            .unwrap()
    }
}

pub(super) async fn append(
    session: &mut Session,
    lane: LaneId,
    tail: Tail,
    sizes: &[i32],
) -> Appended {
    try_append(session, lane, tail, sizes).await.unwrap()
}

pub(super) async fn try_append(
    session: &mut Session,
    lane: LaneId,
    tail: Tail,
    sizes: &[i32],
) -> Result<Appended, Failure> {
    // Two to a page: a probe that walks past dead chunks touches as many pages.
    let chunks = sizes
        .iter()
        .map(|size| (*size, vec![b'x'; 4_000]))
        .collect();
    let lanes = [AppendLane {
        lane,
        tail,
        salt: SALT,
        chunks,
    }];
    Ok(session.append(&lanes).await?[0])
}

pub(super) async fn claim(
    session: &mut Session,
    queue: QueueId,
    size: i32,
    window: Duration,
) -> Claims {
    let slots = usize::try_from(size).unwrap();
    let batch = ClaimBatch {
        queues: vec![queue],
        first_slots: vec![0],
        tokens: vec![rand::random_range(1..i32::MAX); slots],
        windows: vec![window; slots],
        byte_budget: 1 << 20,
        low_waters: Vec::new(),
        wait: false,
    };
    session.claim(SubscriptionId::QUEUE, &batch).await.unwrap()
}

pub(super) fn leases(claims: &Claims) -> Vec<LeaseKey> {
    let deliveries = claims.deliveries.iter();
    deliveries
        .map(|delivery| LeaseKey {
            lane: delivery.lane,
            lo: delivery.seq,
            token: delivery.token,
            epoch: delivery.epoch,
        })
        .collect()
}

const WINDOW: Duration = Duration::from_secs(30);

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
    let mut bench = Bench::new().await;
    bench.append(0, &[3, 1, 62]).await;
    let first = bench.claim(2, WINDOW).await;
    let second = bench.claim(10, WINDOW).await;
    let rest = bench.claim(100, WINDOW).await;
    let seqs: Vec<_> = [first, second, rest]
        .concat()
        .into_iter()
        .map(|lease| lease.lo)
        .collect();
    assert_eq!(seqs, (0..66).collect::<Vec<_>>());
    assert!(bench.claim(10, WINDOW).await.is_empty());
}

#[tokio::test]
async fn an_expired_lease_is_claimed_again_with_another_token_and_count() {
    let mut bench = Bench::new().await;
    bench.append(0, &[2]).await;
    let first = bench.claim(2, WINDOW).await;
    bench.database.advance_clock(WINDOW).await;
    let claims = claim(&mut bench.session, bench.queue, 10, WINDOW).await;
    let second = leases(&claims);
    assert_eq!(second.len(), 2);
    assert!(
        claims
            .deliveries
            .iter()
            .all(|delivery| delivery.receive_count == 2)
    );
    assert!(
        first
            .iter()
            .zip(&second)
            .all(|(old, new)| old.lo == new.lo && old.token != new.token)
    );
    // A standard queue deletes by the older receipt too, and then the message is gone for good.
    assert_eq!(bench.ack(&first).await, [Ack::DeletedUnderNewer; 2]);
    assert_eq!(bench.ack(&second).await, [Ack::Gone; 2]);
    bench.database.advance_clock(WINDOW * 2).await;
    assert!(bench.claim(10, WINDOW).await.is_empty());
}

#[tokio::test]
async fn a_receipt_from_a_future_that_the_database_forgot_is_stale() {
    let mut bench = Bench::new().await;
    bench.append(0, &[1]).await;
    let lease = LeaseKey {
        lane: bench.lane(0),
        lo: 0,
        token: 5,
        epoch: 0,
    };
    assert_eq!(bench.ack(&[lease]).await, [Ack::Stale]);
    assert_eq!(
        bench
            .ack(&[LeaseKey {
                lane: bench.lane(9),
                ..lease
            }])
            .await,
        [Ack::Stale]
    );
    assert_eq!(bench.claim(1, WINDOW).await.len(), 1);
}

#[tokio::test]
async fn an_old_receipt_never_deletes_another_message_that_got_its_number() {
    let mut bench = Bench::new().await;
    bench.append(0, &[1]).await;
    let lease = bench.claim(1, WINDOW).await[0];
    let before_the_restore = LeaseKey {
        token: lease.token ^ 1,
        ..lease
    };
    let other_life = [(before_the_restore, SALT + 1)];
    let acked = bench.session.ack(SubscriptionId::QUEUE, &other_life).await;
    assert_eq!(acked.unwrap(), [Ack::Stale]);
    assert_eq!(
        bench.ack(&[before_the_restore]).await,
        [Ack::DeletedUnderNewer]
    );
}

#[tokio::test]
async fn only_the_newest_and_unexpired_lease_is_extended() {
    let mut bench = Bench::new().await;
    bench.append(0, &[1]).await;
    let old = bench.claim(1, WINDOW).await[0];
    bench.database.advance_clock(WINDOW).await;
    let extend = async |bench: &mut Bench, lease| {
        let leases = [(lease, WINDOW * 2)];
        bench
            .session
            .extend(SubscriptionId::QUEUE, &leases)
            .await
            .unwrap()[0]
    };
    assert_eq!(extend(&mut bench, old).await, None, "it has ended");
    let new = bench.claim(1, WINDOW).await[0];
    assert_eq!(extend(&mut bench, old).await, None, "it is not the newest");
    assert!(extend(&mut bench, new).await.is_some());
    bench.database.advance_clock(WINDOW).await;
    assert!(
        bench.claim(1, WINDOW).await.is_empty(),
        "the extension holds"
    );
}

#[tokio::test]
async fn a_delivery_that_is_handed_back_was_never_counted() {
    let mut bench = Bench::new().await;
    bench.append(0, &[1]).await;
    let lease = bench.claim(1, WINDOW).await;
    bench
        .session
        .hand_back(SubscriptionId::QUEUE, &lease)
        .await
        .unwrap();
    let claims = claim(&mut bench.session, bench.queue, 1, WINDOW).await;
    assert_eq!(claims.deliveries[0].receive_count, 1);
}

#[tokio::test]
async fn new_messages_and_those_that_come_back_at_once_take_turns() {
    let mut bench = Bench::new().await;
    bench.append(0, &[62]).await;
    bench.claim(10, Duration::ZERO).await;
    // Ten are visible again for ever; a receiver of six still gets new ones.
    let claims = claim(&mut bench.session, bench.queue, 6, Duration::ZERO).await;
    let new = claims
        .deliveries
        .iter()
        .filter(|delivery| delivery.receive_count == 1)
        .count();
    assert_eq!((claims.deliveries.len(), new), (6, 3));
}

#[tokio::test]
async fn an_answer_has_no_message_twice_though_its_window_is_zero() {
    let mut bench = Bench::new().await;
    bench.append(0, &[3]).await;
    for round in 1..=3 {
        let claims = claim(&mut bench.session, bench.queue, 4, Duration::ZERO).await;
        let mut numbers: Vec<_> = claims.deliveries.iter().map(|found| found.seq).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2], "round {round}");
        let counts = claims.deliveries.iter().map(|found| found.receive_count);
        assert!(counts.eq([round; 3]), "round {round}");
    }
}

#[tokio::test]
async fn the_lane_with_the_oldest_message_comes_first() {
    let mut bench = Bench::new().await;
    bench.append(5, &[1]).await;
    bench.append(1, &[1]).await;
    assert_eq!(bench.claim(1, WINDOW).await[0].lane, bench.lane(5));
    assert_eq!(bench.claim(1, WINDOW).await[0].lane, bench.lane(1));
}

#[tokio::test]
async fn two_writers_of_one_lane_never_give_out_a_number_twice() {
    let mut bench = Bench::new().await;
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
    let mut bench = Bench::new().await;
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
    let claims = claim(&mut bench.session, bench.queue, 10, WINDOW).await;
    assert!(claims.deliveries.is_empty() && claims.reports[0].reach == Reach::Gone);
}

#[tokio::test]
async fn a_session_at_another_isolation_level_is_refused() {
    let mut bench = Bench::new().await;
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
    let mut bench = Bench::new().await;
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
    let zero = Tail {
        next: 0,
        last_chunk: -61,
        bytes_total: 0,
        live_total: 0,
    };
    let refused = try_append(&mut bench.session, lane, zero, &[1])
        .await
        .unwrap_err();
    assert!(matches!(refused, Failure::Rejected(_)), "{refused:?}");
}

#[tokio::test]
async fn calls_that_are_dropped_halfway_poison_no_connection() {
    let database = Database::new().await;
    let store = node::store(&database);
    let tenant = Tenant::default();
    let name = |number| QueueName::parse("name", &format!("q{number}")).unwrap();
    for number in 0..200 {
        let name = name(number);
        let put = store.put_queue(&tenant, &name, QueueSettings::default());
        let patience = Duration::from_micros(rand::random_range(1..1500));
        let _dropped = tokio::time::timeout(patience, put).await;
    }
    for number in 1000..1050 {
        store
            .put_queue(&tenant, &name(number), QueueSettings::default())
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

//! What the tests of the engine share: a queue of its own, and messages held one by one, whatever
//! their leases are.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use towpath::domain::lane::{Class, LaneId, QueueId, SubscriptionId, Writer};
use towpath::store::{
    Ack, AckRest, Acked, AppendLane, Appended, ClaimBatch, ClaimQueue, ClaimReceiver, Claims,
    Commit, Extend, Extensions, Failure, Freed, HeldLease, LeaseKey, LeaseRow, NewChunk, Session,
    SpaceCursor, Tail,
};
use uuid::Uuid;

use crate::support::database::{Database, STATEMENT_TIMEOUT};

pub(super) const WINDOW: Duration = Duration::from_secs(30);
/// Of every number that these tests give out.
pub(super) const SALT: u32 = 7;
/// Most messages under one lease: as nodes ask, and a lease for each message.
pub(super) const RUNS: [i32; 2] = [62, 1];
/// The most that a lease covers.
pub(super) const RUN: i32 = 62;
/// The end of a lane that nobody has written to.
pub(super) const NEW_TAIL: Tail = Tail {
    next: 0,
    last_chunk: -61,
    bytes_total: 0,
    live_total: 0,
};

/// A queue of its own in a database of its own, and a session to it.
pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) session: Session,
    pub(super) queue: QueueId,
    /// Most messages under one lease.
    pub(super) run: i32,
}

/// One message of a lease, as a receipt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) lease: LeaseKey,
    /// The message's place in the lease.
    pub(super) bit: u32,
    /// How many messages the lease was given out with.
    pub(super) size: u32,
    pub(super) receiver: usize,
    pub(super) receive_count: i32,
    pub(super) visible_at: OffsetDateTime,
    pub(super) first_received_at: OffsetDateTime,
}

impl Held {
    pub(super) fn seq(&self) -> i64 {
        self.lease.row.lo + i64::from(self.bit)
    }

    pub(super) fn lane(&self) -> LaneId {
        self.lease.row.lane
    }

    pub(super) fn token(&self) -> i32 {
        self.lease.row.token
    }

    pub(super) fn rest(&self, salt: u32) -> AckRest {
        AckRest {
            lane: self.lane(),
            seq: self.seq(),
            token: self.token(),
            epoch: self.lease.epoch,
            salt,
            // Of no message that moved.
            id: Uuid::nil(),
        }
    }
}

impl Bench {
    pub(super) async fn new(run: i32) -> Self {
        let database = Database::new().await;
        let queue = new_queue(&database, "q").await;
        let session = Session::new(&database.options, STATEMENT_TIMEOUT, Commit::Flushed);
        Self {
            database,
            session,
            queue,
            run,
        }
    }

    /// Messages go to another queue after so many deliveries.
    pub(super) async fn dead_letters_after(&self, deliveries: Option<i32>) {
        let deliveries = deliveries.map_or("null".to_owned(), |most| most.to_string());
        let queue = self.queue.get();
        self.database
            .run(format!(
                "insert into towpath.queue
                    (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
                 values ('default', 'dead', 30, 0, towpath.clock())
                 on conflict do nothing;
                 update towpath.queue q
                 set max_receive_count = {deliveries},
                    dead_letter_queue_id = d.queue_id * nullif(({deliveries} > 0)::int, 0)
                 from towpath.queue d
                 where d.name = 'dead' and q.queue_id = {queue}"
            ))
            .await;
    }

    pub(super) fn another_session(&self) -> Session {
        Session::new(&self.database.options, STATEMENT_TIMEOUT, Commit::Flushed)
    }

    pub(super) fn lane(&self, writer: u8) -> LaneId {
        LaneId::new(self.queue, Class::READY, Writer(writer))
    }

    pub(super) fn delayed_lane(&self) -> LaneId {
        LaneId::new(self.queue, Class::DELAYED, Writer(0))
    }

    /// Appends chunks of these sizes at the true tail of a lane.
    pub(super) async fn append(&mut self, writer: u8, sizes: &[i32]) -> Tail {
        let chunks = sizes.iter().map(|size| chunk(*size)).collect();
        self.append_chunks(self.lane(writer), chunks).await
    }

    pub(super) async fn append_chunks(&mut self, lane: LaneId, chunks: Vec<NewChunk>) -> Tail {
        let Appended::Stale(tail) = append(&mut self.session, lane, Tail::UNKNOWN, &[1]).await
        else {
            panic!("an unknown tail is always stale");
        };
        let stored = self
            .session
            .append(&[append_lane(lane, tail, chunks)])
            .await
            .unwrap();
        match stored[0] {
            Appended::Stored { tail, .. } => tail,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn batch(&self, receivers: &[(usize, Duration)]) -> ClaimBatch {
        ClaimBatch {
            first_token: rand::random_range(1..i32::MAX / 2),
            queues: vec![ClaimQueue {
                queue: self.queue,
                first_receiver: 0,
            }],
            receivers: receivers
                .iter()
                .map(|(size, window)| ClaimReceiver {
                    size: *size,
                    window: *window,
                })
                .collect(),
            run: self.run,
            byte_budget: 1 << 20,
            low_waters: Vec::new(),
            wait: false,
        }
    }

    /// Receivers ask for messages.
    pub(super) async fn claims(&mut self, receivers: &[(usize, Duration)]) -> Claims {
        let batch = self.batch(receivers);
        self.session
            .claim(SubscriptionId::QUEUE, &batch)
            .await
            .unwrap()
    }

    /// One receiver asks for up to `size` messages.
    pub(super) async fn claim(&mut self, size: usize, window: Duration) -> Vec<Held> {
        held(&self.claims(&[(size, window)]).await)
    }

    pub(super) async fn ack(&mut self, held: &[Held]) -> Vec<Acked> {
        ack(&mut self.session, held, SALT).await
    }

    /// Moves the ends of what is held: for each message, whether it was done.
    pub(super) async fn extend(&mut self, held: &[Held], window: Duration) -> Vec<bool> {
        let said = extend(&mut self.session, &extends(held, window)).await;
        moved(held, window, &said)
    }

    /// Everything below the cursor that nobody holds goes.
    pub(super) async fn free(&mut self, lane: LaneId) -> Freed {
        self.session
            .free(lane, SpaceCursor(0), 10_000, Duration::ZERO, true)
            .await
            .unwrap()
    }

    pub(super) async fn purge(&self) {
        let store = crate::support::node::store(&self.database);
        store.purge_queue(self.queue).await.unwrap();
    }

    pub(super) async fn count(&self, table: &str) -> i64 {
        self.database
            .value(format!("select count(*) from towpath.{table}"))
            .await
    }
}

pub(super) async fn new_queue(database: &Database, name: &str) -> QueueId {
    let raw: i32 = database
        .value(format!(
            "insert into towpath.queue
                (tenant, name, visibility_timeout_seconds, receive_wait_seconds, created_at)
             values ('default', '{name}', 30, 0, towpath.clock()) returning queue_id"
        ))
        .await;
    QueueId::new(raw).unwrap()
}

/// Two to a page: a probe that walks past dead chunks touches as many pages.
pub(super) fn chunk(messages: i32) -> NewChunk {
    NewChunk {
        messages,
        delay: Duration::ZERO,
        time_to_live: None,
        sent_at: None,
        body: vec![b'x'; 4_000],
    }
}

pub(super) fn append_lane(lane: LaneId, tail: Tail, chunks: Vec<NewChunk>) -> AppendLane {
    AppendLane {
        lane,
        tail,
        salt: SALT,
        chunks,
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
    let chunks = sizes.iter().map(|size| chunk(*size)).collect();
    Ok(session.append(&[append_lane(lane, tail, chunks)]).await?[0])
}

/// The messages of a claim, in the order of their numbers within each lease.
pub(super) fn held(claims: &Claims) -> Vec<Held> {
    let messages = claims.leases.iter().flat_map(|lease| {
        let bits = (0..u64::BITS).filter(|bit| lease.mask >> bit & 1 == 1);
        bits.map(|bit| Held {
            lease: LeaseKey {
                row: LeaseRow {
                    lane: lease.lane,
                    lo: lease.lo,
                    token: lease.token,
                },
                epoch: lease.epoch,
            },
            bit,
            size: lease.mask.count_ones(),
            receiver: lease.receiver,
            receive_count: lease.receive_count,
            visible_at: lease.visible_at,
            first_received_at: lease.first_received_at,
        })
    });
    messages.collect()
}

pub(super) fn seqs(held: &[Held]) -> Vec<i64> {
    let mut seqs: Vec<_> = held.iter().map(Held::seq).collect();
    seqs.sort_unstable();
    seqs
}

/// The messages of each lease as the bits of a mask.
fn masks(held: &[Held]) -> BTreeMap<LeaseKey, (u64, u32)> {
    let mut leases: BTreeMap<LeaseKey, (u64, u32)> = BTreeMap::new();
    for message in held {
        let (mask, size) = leases.entry(message.lease).or_default();
        *mask |= 1 << message.bit;
        *size = message.size;
    }
    leases
}

/// The first statement of a delete.
pub(super) fn acks(held: &[Held]) -> Vec<Ack> {
    masks(held)
        .into_iter()
        .map(|(lease, (mask, size))| Ack {
            row: lease.row,
            mask,
            whole: mask.count_ones() == size,
        })
        .collect()
}

/// Deletes as nodes do: by lease, and what was not there in a second transaction.
pub(super) async fn ack(session: &mut Session, held: &[Held], salt: u32) -> Vec<Acked> {
    let acks = acks(held);
    let deleted = session.ack(SubscriptionId::QUEUE, &acks).await.unwrap();
    let deleted: BTreeMap<_, _> = acks.iter().map(|ack| ack.row).zip(deleted).collect();
    let mut outcomes = Vec::new();
    for message in held {
        if deleted[&message.lease.row] >> message.bit & 1 == 1 {
            outcomes.push(Acked::Deleted);
        } else {
            let rest = [message.rest(salt)];
            outcomes.extend(
                session
                    .ack_rest(SubscriptionId::QUEUE, &rest)
                    .await
                    .unwrap(),
            );
        }
    }
    outcomes
}

/// An entry for each lease.
pub(super) fn extends(held: &[Held], window: Duration) -> Vec<Extend> {
    masks(held)
        .into_iter()
        .map(|(lease, (mask, _))| Extend {
            lease,
            mask,
            window,
            delays: vec![],
            max_receives: None,
            reason: None,
        })
        .collect()
}

pub(super) async fn extend(session: &mut Session, entries: &[Extend]) -> Extensions {
    session
        .extend(SubscriptionId::QUEUE, entries)
        .await
        .unwrap()
}

/// For each message, whether what was said of [`extends`] moved it.
pub(super) fn moved(held: &[Held], window: Duration, said: &Extensions) -> Vec<bool> {
    let entries = extends(held, window);
    held.iter()
        .map(|message| {
            let place = entries
                .iter()
                .position(|entry| entry.lease == message.lease);
            said.entries[place.unwrap()].moved >> message.bit & 1 == 1
        })
        .collect()
}

/// A lease with all its messages, as a mover names it.
pub(super) fn whole_lease(held: &Held, mask: u64) -> HeldLease {
    let LeaseRow { lane, lo, token } = held.lease.row;
    HeldLease {
        lane,
        lo,
        token,
        mask,
    }
}

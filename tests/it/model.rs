//! Random histories of two nodes over one database, held against `domain::lifecycle::step`: every
//! message must be where the function says, whatever was asked of whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use time::OffsetDateTime;
use towpath::domain::lifecycle::{Event, Outcome, State, step};
use towpath::domain::message::{Body, Deletion, NewMessage, ReceivedMessage};
use towpath::domain::queue::{QueueName, QueueSettings, Tenant};
use towpath::service::{ReceiveRequest, Service};
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::node;

const OPERATIONS: usize = 150;
const MOST: usize = 10;
const WINDOWS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// How far the clock is put ahead at a time.
const PAUSES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(11),
    Duration::from_secs(31),
];

static TENANT: LazyLock<Tenant> = LazyLock::new(Tenant::default);

/// What is known of one message.
struct Message {
    state: State,
    queue: usize,
    body: String,
    sent_at: OffsetDateTime,
    first_received_at: Option<OffsetDateTime>,
    /// Of every delivery, the newest last.
    receipts: Vec<String>,
}

struct Model {
    dice: StdRng,
    nodes: [Service; 2],
    queues: [QueueName; 2],
    database: Database,
    /// The database's clock when everything began: times of the model count from here.
    origin: OffsetDateTime,
    messages: BTreeMap<Uuid, Message>,
    sent: usize,
}

impl Model {
    async fn new(seed: u64) -> Self {
        let database = Database::new().await;
        let nodes = [
            node::service(&database).await,
            node::service(&database).await,
        ];
        let queues = ["one", "two"].map(|name| QueueName::parse("name", name).unwrap());
        for queue in &queues {
            let put = nodes[0].put_queue(&TENANT, queue.clone(), QueueSettings::default());
            put.await.unwrap();
        }
        Self {
            dice: StdRng::seed_from_u64(seed),
            nodes,
            queues,
            origin: database.value("select towpath.clock()").await,
            database,
            messages: BTreeMap::new(),
            sent: 0,
        }
    }

    async fn now(&self) -> Duration {
        let now: OffsetDateTime = self.database.value("select towpath.clock()").await;
        self.since_origin(now)
    }

    fn since_origin(&self, time: OffsetDateTime) -> Duration {
        (time - self.origin).unsigned_abs()
    }

    fn node(&mut self) -> Service {
        self.nodes.choose(&mut self.dice).unwrap().clone()
    }

    async fn operate(&mut self) {
        match self.dice.random_range(0..100) {
            0..25 => self.send().await,
            25..65 => self.receive().await,
            65..85 => self.delete().await,
            85..90 => self.delete_what_was_never_delivered().await,
            _ => {
                let pause = *PAUSES.choose(&mut self.dice).unwrap();
                self.database.advance_clock(pause).await;
            }
        }
    }

    async fn send(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let count = self.dice.random_range(1..=MOST);
        let bodies: Vec<_> = (self.sent..self.sent + count)
            .map(|i| format!("message {i}"))
            .collect();
        self.sent += count;
        let messages = bodies.iter().map(|body| {
            let body = Body::text("body", body.clone()).unwrap();
            NewMessage { body }
        });
        let messages = messages.collect();
        let node = self.node();
        let sent = node.send_messages(&TENANT, &self.queues[queue], messages);
        for (sent, body) in sent.await.unwrap().into_iter().zip(bodies) {
            let message = Message {
                state: State::Ahead,
                queue,
                body,
                sent_at: sent.sent_at,
                first_received_at: None,
                receipts: vec![],
            };
            let other = self.messages.insert(sent.message_id, message);
            assert!(other.is_none(), "an id twice");
        }
    }

    /// How many messages of a queue a receiver would find at a time.
    fn receivable(&self, queue: usize, now: Duration) -> usize {
        let event = Event::Receive {
            token: 0,
            window: Duration::ZERO,
        };
        let there = |message: &&Message| {
            message.queue == queue && step(message.state, event, now).1 != Outcome::Hidden
        };
        self.messages.values().filter(there).count()
    }

    async fn receive(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let window = *WINDOWS.choose(&mut self.dice).unwrap();
        let max = self.dice.random_range(1..=MOST);
        let request = ReceiveRequest {
            max,
            wait: Some(Duration::ZERO),
            visibility_timeout: Some(window),
        };
        let node = self.node();
        let before = self.now().await;
        let received = node.receive_messages(&TENANT, &self.queues[queue], request);
        let received = received.await.unwrap();
        let after = self.now().await;
        let fewest = self.receivable(queue, before).min(max);
        let most = self.receivable(queue, after).min(max);
        assert!(
            (fewest..=most).contains(&received.len()),
            "received {} of {fewest} to {most} messages",
            received.len()
        );
        let ids: BTreeSet<_> = received.iter().map(|message| message.message_id).collect();
        assert_eq!(ids.len(), received.len(), "a message twice in one answer");
        for message in received {
            self.deliver(queue, window, message);
        }
    }

    fn deliver(&mut self, queue: usize, window: Duration, received: ReceivedMessage) {
        let visible_at = self.since_origin(received.visible_at);
        let receipt = node::receipt_key().open(&received.receipt_handle).unwrap();
        let event = Event::Receive {
            token: receipt.token,
            window,
        };
        let message = self
            .messages
            .get_mut(&received.message_id)
            .expect("it was sent");
        let (state, outcome) = step(message.state, event, visible_at - window);
        let receive_count = received.receive_count;
        assert_eq!(
            outcome,
            Outcome::Received { receive_count },
            "{:?}",
            message.state
        );
        assert_eq!(message.queue, queue, "of another queue");
        assert_eq!(received.body.bytes, message.body.as_bytes());
        assert_eq!(received.sent_at, message.sent_at);
        let first = *message
            .first_received_at
            .get_or_insert(received.first_received_at);
        assert_eq!(received.first_received_at, first);
        assert!(
            !message.receipts.contains(&received.receipt_handle),
            "a handle twice"
        );
        message.receipts.push(received.receipt_handle);
        message.state = state;
    }

    /// Deletes by receipts of any age, of messages that are there or gone.
    async fn delete(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let delivered = self
            .messages
            .iter()
            .filter(|(_, message)| message.queue == queue);
        let receipts =
            delivered.flat_map(|(id, message)| message.receipts.iter().map(|r| (*id, r)));
        let count = self.dice.random_range(1..=MOST);
        let (mut handles, mut events) = (vec![], vec![]);
        for (id, handle) in receipts.sample(&mut self.dice, count) {
            let token = node::receipt_key().open(handle).unwrap().token;
            handles.push(handle.clone());
            events.push((id, Event::Delete { token }));
        }
        if handles.is_empty() {
            return;
        }
        let node = self.node();
        let deleted = node.delete_messages(&TENANT, &self.queues[queue], handles);
        let deleted = deleted.await.unwrap();
        assert_eq!(deleted.len(), events.len());
        let now = self.now().await;
        for ((id, event), deletion) in events.into_iter().zip(deleted) {
            let message = self.messages.get_mut(&id).unwrap();
            let (state, outcome) = step(message.state, event, now);
            let expected = outcome == Outcome::Done;
            assert_eq!(
                deletion == Deletion::Deleted,
                expected,
                "{:?}",
                message.state
            );
            message.state = state;
        }
    }

    async fn delete_what_was_never_delivered(&mut self) {
        let event = Event::Delete { token: 1 };
        let (_, outcome) = step(State::Ahead, event, Duration::ZERO);
        assert_eq!(outcome, Outcome::Stale);
        let handles = vec![node::handle_of_no_delivery()];
        let node = self.node();
        let deleted = node.delete_messages(&TENANT, &self.queues[0], handles);
        assert!(matches!(deleted.await.unwrap()[..], [Deletion::Stale(_)]));
    }

    /// Once every window has ended, exactly what was not deleted comes, once each.
    async fn drain(&mut self) {
        self.database.advance_clock(Duration::from_secs(60)).await;
        for queue in 0..self.queues.len() {
            let request = ReceiveRequest {
                max: MOST,
                wait: Some(Duration::ZERO),
                visibility_timeout: Some(Duration::from_secs(3600)),
            };
            loop {
                let node = self.node();
                let received = node.receive_messages(&TENANT, &self.queues[queue], request);
                let received = received.await.unwrap();
                if received.is_empty() {
                    break;
                }
                for message in received {
                    self.deliver(queue, Duration::from_secs(3600), message);
                }
            }
            let now = self.now().await;
            assert_eq!(self.receivable(queue, now), 0, "messages were lost");
        }
    }
}

/// Says which history it was when one fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history of seed {}", self.0);
        }
    }
}

async fn follow(seed: u64) {
    let seed = Seed(seed);
    let mut model = Model::new(seed.0).await;
    for _ in 0..OPERATIONS {
        model.operate().await;
    }
    model.drain().await;
}

#[tokio::test]
async fn known_histories_agree_with_the_lifecycle() {
    for seed in [1, 2, 3] {
        follow(seed).await;
    }
}

#[tokio::test]
async fn a_new_history_agrees_with_the_lifecycle() {
    follow(rand::random()).await;
}

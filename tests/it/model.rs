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
use towpath::domain::message::{Body, Deletion, Extension, NewMessage, ReceivedMessage};
use towpath::domain::queue::{DeadLetter, Precondition, QueueName, QueueSettings, Tenant};
use towpath::domain::receipt::Receipt;
use towpath::service::{ReceiveRequest, Service, WindowRequest};
use uuid::Uuid;

use crate::support::database::Database;
use crate::support::{eventually, node};

const OPERATIONS: usize = 150;
const MOST: usize = 10;
/// The first queue's messages go to the second one after so many deliveries.
const MAX_RECEIVES: [Option<i32>; 2] = [Some(3), None];
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
    /// How often it was received before it came to this queue.
    deliveries_before: i32,
    /// Of every delivery in this queue, the newest last.
    receipts: Vec<String>,
    /// Of those in the queue where it was before.
    old_receipts: Vec<String>,
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
        for (queue, most) in queues.iter().zip(MAX_RECEIVES).rev() {
            let settings = QueueSettings {
                dead_letter: most.map(|max_receive_count| DeadLetter {
                    queue: queues[1].clone(),
                    max_receive_count,
                }),
                ..QueueSettings::default()
            };
            let any = Precondition::None;
            let put = nodes[0].put_queue(&TENANT, queue.clone(), settings, &any);
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
            0..20 => self.send().await,
            20..55 => self.receive().await,
            55..65 => self.delete().await,
            65..85 => self.change_windows().await,
            85..86 => self.delete_what_was_never_delivered().await,
            86..88 => self.delete_what_has_moved().await,
            88..90 => self.purge().await,
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
        let mut delays = Vec::new();
        for _ in 0..count {
            let delay = *WINDOWS.choose(&mut self.dice).unwrap();
            delays.push(self.dice.random_bool(0.3).then_some(delay));
        }
        let messages = bodies.iter().zip(&delays).map(|(body, delay)| NewMessage {
            delay: *delay,
            ..Body::text("body", body.clone()).unwrap().into()
        });
        let messages = messages.collect();
        let node = self.node();
        let sent = node.send_messages(&TENANT, &self.queues[queue], messages, None);
        let sent = sent.await.unwrap();
        for (sent, (body, delay)) in sent.into_iter().zip(bodies.into_iter().zip(delays)) {
            let state = match delay.unwrap_or_default() {
                Duration::ZERO => State::Ahead,
                delay => State::Delayed {
                    due: self.since_origin(sent.sent_at) + delay,
                },
            };
            let message = Message {
                state,
                queue,
                body,
                sent_at: sent.sent_at,
                first_received_at: None,
                deliveries_before: 0,
                receipts: vec![],
                old_receipts: vec![],
            };
            let other = self.messages.insert(sent.message_id, message);
            assert!(other.is_none(), "an id twice");
        }
    }

    /// How many messages of a queue a receiver would find at a time.
    fn receivable(&self, queue: usize, now: Duration) -> usize {
        let event = receive_event(queue, 0, Duration::ZERO);
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
        self.settle().await;
    }

    /// Waits for the mover, and follows what it moved.
    async fn settle(&mut self) {
        eventually("what was given up is moved", async || {
            let given_up = "select count(*) from towpath.lease where state = 2";
            (self.database.value::<i64>(given_up).await == 0).then_some(())
        })
        .await;
        let ids = "select coalesce(array_agg(id), '{}') from towpath.moved";
        let moved: Vec<Uuid> = self.database.value(ids).await;
        let now = self.now().await;
        for id in moved {
            let message = self.messages.get_mut(&id).expect("it was sent");
            if message.queue == 1 {
                continue;
            }
            // Its window ended, and a receive met it; or it is given up already.
            let met = step(message.state, receive_event(0, 0, Duration::ZERO), now).0;
            let State::GivenUp { receive_count, .. } = met else {
                panic!("it was moved, and is {:?}", message.state)
            };
            assert_eq!(Some(receive_count), MAX_RECEIVES[0]);
            assert_eq!(step(met, Event::Move, now), (State::Moved, Outcome::Done));
            message.queue = 1;
            message.state = State::Ahead;
            message.deliveries_before = receive_count;
            message.old_receipts = std::mem::take(&mut message.receipts);
        }
    }

    fn deliver(&mut self, queue: usize, window: Duration, received: ReceivedMessage) {
        let visible_at = self.since_origin(received.visible_at);
        let event = receive_event(queue, receipt(&received.receipt_handle).token, window);
        let message = self
            .messages
            .get_mut(&received.message_id)
            .expect("it was sent");
        let (state, outcome) = step(message.state, event, visible_at - window);
        let receive_count = received.receive_count - message.deliveries_before;
        assert_eq!(
            outcome,
            Outcome::Received { receive_count },
            "{:?}",
            message.state
        );
        assert_eq!(message.queue, queue, "of another queue");
        let deaths: Vec<_> = received
            .deaths
            .iter()
            .map(|death| (death.queue.as_str(), death.receive_count))
            .collect();
        let died = [("one", message.deliveries_before)];
        let expected = usize::from(message.deliveries_before > 0);
        assert_eq!(deaths, died[..expected]);
        assert_eq!(received.content.body.bytes, message.body.as_bytes());
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

    /// Some receipts of any age, of messages of a queue that are there or gone.
    fn some_receipts(&mut self, queue: usize) -> Vec<(Uuid, String)> {
        let delivered = self
            .messages
            .iter()
            .filter(|(_, message)| message.queue == queue);
        let receipts = delivered.flat_map(|(id, message)| {
            let receipts = message.receipts.iter();
            receipts.map(|receipt| (*id, receipt.clone()))
        });
        let count = self.dice.random_range(1..=MOST);
        receipts.sample(&mut self.dice, count)
    }

    async fn delete(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let receipts = self.some_receipts(queue);
        if receipts.is_empty() {
            return;
        }
        let handles = receipts.iter().map(|(_, handle)| handle.clone()).collect();
        let node = self.node();
        let deleted = node.delete_messages(&TENANT, &self.queues[queue], handles);
        let deleted = deleted.await.unwrap();
        assert_eq!(deleted.len(), receipts.len());
        let now = self.now().await;
        for ((id, handle), deletion) in receipts.into_iter().zip(deleted) {
            let message = self.messages.get_mut(&id).unwrap();
            let token = receipt(&handle).token;
            let (state, outcome) = step(message.state, Event::Delete { token }, now);
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

    /// Extends or gives up, by receipts of any age, some messages more than once.
    async fn change_windows(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let receipts = self.some_receipts(queue);
        if receipts.is_empty() {
            return;
        }
        let gives_up = self.dice.random_bool(0.5);
        let requests: Vec<_> = receipts
            .iter()
            .map(|(_, handle)| WindowRequest {
                receipt_handle: handle.clone(),
                window: Some(*WINDOWS.choose(&mut self.dice).unwrap()),
                reason: None,
            })
            .collect();
        let (node, name) = (self.node(), &self.queues[queue]);
        let changed = if gives_up {
            node.nack_messages(&TENANT, name, requests.clone()).await
        } else {
            node.extend_messages(&TENANT, name, requests.clone()).await
        };
        let changed = changed.unwrap();
        assert_eq!(changed.len(), receipts.len());
        let now = self.now().await;
        for (((id, handle), request), said) in receipts.into_iter().zip(requests).zip(changed) {
            let window = request.window.unwrap();
            // What the database's clock said then.
            let at = match said {
                Extension::VisibleAt(at) => self.since_origin(at) - window,
                Extension::DeadLettered | Extension::Stale(_) => now,
            };
            let message = self.messages.get_mut(&id).unwrap();
            let token = receipt(&handle).token;
            let event = if gives_up {
                Event::Nack {
                    token,
                    delay: window,
                    max_receives: MAX_RECEIVES[queue],
                }
            } else {
                Event::Extend { token, window }
            };
            let (state, outcome) = step(message.state, event, at);
            let told = match said {
                Extension::VisibleAt(_) => Outcome::Done,
                Extension::DeadLettered => Outcome::DeadLettered,
                Extension::Stale(_) => Outcome::Stale,
            };
            assert_eq!(told, outcome, "{event:?} of {:?}", message.state);
            message.state = state;
        }
        self.settle().await;
    }

    async fn purge(&mut self) {
        let queue = self.dice.random_range(0..self.queues.len());
        let node = self.node();
        let purged = node.purge_queue(&TENANT, &self.queues[queue]).await;
        purged.unwrap();
        let now = self.now().await;
        for message in self.messages.values_mut() {
            if message.queue == queue {
                message.state = step(message.state, Event::Purge, now).0;
            }
        }
    }

    async fn delete_what_was_never_delivered(&mut self) {
        let event = Event::Delete { token: 1 };
        let (_, outcome) = step(State::Ahead, event, Duration::ZERO);
        assert_eq!(outcome, Outcome::Stale);
        let handles = vec![node::handle_of_no_delivery()];
        let node = self.node();
        // Of the queue that was made first: the dead letters'.
        let deleted = node.delete_messages(&TENANT, &self.queues[1], handles);
        assert!(matches!(deleted.await.unwrap()[..], [Deletion::Stale(_)]));
    }

    /// By a receipt of the queue where it died: wherever the message is now, it stays as it is.
    async fn delete_what_has_moved(&mut self) {
        let old = self
            .messages
            .values()
            .flat_map(|message| &message.old_receipts);
        let Some(handle) = old.choose(&mut self.dice).cloned() else {
            return;
        };
        let event = Event::Delete {
            token: receipt(&handle).token,
        };
        let (state, outcome) = step(State::Moved, event, Duration::ZERO);
        assert_eq!((state, outcome), (State::Moved, Outcome::Stale));
        let node = self.node();
        let deleted = node.delete_messages(&TENANT, &self.queues[0], vec![handle]);
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
            self.settle().await;
            let now = self.now().await;
            let held = |message: &Message| matches!(message.state, State::Leased { visible_at, .. } if visible_at > now);
            for message in self.messages.values() {
                let gone = message.state == State::Deleted;
                assert!(
                    message.queue != queue || gone || held(message),
                    "lost: {:?}",
                    message.state
                );
            }
        }
    }
}

fn receive_event(queue: usize, token: i32, window: Duration) -> Event {
    Event::Receive {
        token,
        window,
        max_receives: MAX_RECEIVES[queue],
    }
}

fn receipt(handle: &str) -> Receipt {
    node::receipt_key().open(handle).unwrap()
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

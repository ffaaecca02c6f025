//! Those who send, receive and purge until they are told to stop, and write down what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use reqwest::Method;
use serde::Deserialize as _;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::caller::{Caller, Reply};
use super::plan::{FRAGILE, LATER, LATER_DELAY, QUEUES, SENT_TO, SWEPT};
use crate::chaos::history::{Change, Delete, Delivery, History, Mark, Outcome, Purge, Queue, Send};
use crate::chaos::load::Run;

/// Acknowledged and not deleted: those who send wait for those who receive, so that the end comes
/// soon after the stop.
const MAX_BACKLOG: i64 = 3_000;

/// How long extended messages are held.
const EXTENSION: Duration = Duration::from_secs(2);

const NACK: &str = "/nack";

/// Old receipts that a receiver keeps.
const MAX_KEPT: usize = 200;

/// Messages of one send under one key, or without one.
struct Batch {
    queue: Queue,
    key: Option<Mark>,
    messages: Vec<(Mark, Option<Duration>)>,
}

/// A message in somebody's hands, or not any more.
#[derive(Clone)]
pub(super) struct Held {
    message_id: Uuid,
    receive_count: u32,
    receipt_handle: String,
}

pub(super) struct Player {
    pub(super) caller: Caller,
    pub(super) run: Run,
    pub(super) number: u16,
    pub(super) stop: CancellationToken,
    pub(super) backlog: Arc<AtomicI64>,
    pub(super) history: History,
}

fn messages(queue: Queue, operation: &str) -> String {
    format!("/v1/queues/{queue}/messages{operation}")
}

fn moment(value: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()
}

impl Player {
    /// Sends batch after batch, some of them again under their key, and sometimes something else.
    pub(super) async fn send(mut self) -> History {
        let sender = self.number;
        let mut marks = (0..).map(|sequence| Mark { sender, sequence });
        while !self.stop.is_cancelled() {
            if self.backlog.load(Ordering::Relaxed) > MAX_BACKLOG {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            let batch = self.batch(&mut marks, None);
            let mut outcome = self.attempt(&batch).await;
            if batch.key.is_none() {
                continue;
            }
            for _attempt in 0..5 {
                if outcome == Outcome::Ok {
                    break;
                }
                outcome = self.attempt(&batch).await;
            }
            if outcome == Outcome::Ok && self.caller.dice.random_bool(0.2) {
                self.attempt(&batch).await;
                let other = self.batch(&mut marks, Some(&batch));
                self.attempt(&other).await;
            }
        }
        self.history
    }

    /// Something to send, under its own key, none, or that of another batch.
    fn batch(&mut self, marks: &mut impl Iterator<Item = Mark>, of: Option<&Batch>) -> Batch {
        let dice = &mut self.caller.dice;
        let size = match dice.random_range(0..100) {
            0..60 => 1,
            60..97 => dice.random_range(2..=10),
            _ => dice.random_range(11..=300),
        };
        let with_key = dice.random_bool(0.4);
        let with_delays = dice.random_bool(0.2);
        let delay = dice.random_range(0..3);
        let same = dice.random_bool(0.5);
        let marks: Vec<_> = marks.take(size).collect();
        let own = marks.first().copied().filter(|_| with_key);
        let messages = marks.into_iter().map(|mark| {
            let delay = if same { delay } else { dice.random_range(0..3) };
            (mark, with_delays.then(|| Duration::from_secs(delay)))
        });
        Batch {
            messages: messages.collect(),
            queue: of.map_or_else(
                || SENT_TO[self.caller.dice.random_range(0..SENT_TO.len())],
                |of| of.queue,
            ),
            key: of.map_or(own, |of| of.key),
        }
    }

    async fn attempt(&mut self, batch: &Batch) -> Outcome {
        let body = batch.messages.iter().map(|(mark, delay)| {
            let mut message = json!({ "body": self.run.body(*mark) });
            if let Some(delay) = delay {
                message["delay_seconds"] = delay.as_secs().into();
            }
            message
        });
        let body = json!({ "messages": body.collect::<Vec<_>>() });
        let key = batch
            .key
            .map(|Mark { sender, sequence }| format!("{sender}-{sequence}"));
        let path = messages(batch.queue, "");
        let reply = self
            .caller
            .ask(Method::POST, &path, &body, key.as_deref())
            .await;
        let replies = reply.of_each(batch.messages.len());
        for (at, ((mark, delay), (outcome, sent))) in batch.messages.iter().zip(replies).enumerate()
        {
            let default = if batch.queue == LATER {
                LATER_DELAY
            } else {
                Duration::ZERO
            };
            let delay = delay.unwrap_or(default);
            // An unknown one is stored after it was asked for, if at all.
            let sent_at = moment(&sent["sent_at"]).unwrap_or(reply.asked);
            self.history.sends.push(Send {
                queue: batch.queue,
                mark: *mark,
                key: batch.key.map(|key| (key, at)),
                outcome,
                message_id: Uuid::deserialize(&sent["message_id"]).ok(),
                asked: reply.asked,
                answered: reply.answered,
                not_before: (!delay.is_zero()).then(|| sent_at + delay),
            });
        }
        if reply.outcome == Outcome::Ok && batch.queue != SWEPT {
            let sent = i64::try_from(batch.messages.len()).unwrap();
            self.backlog.fetch_add(sent, Ordering::Relaxed);
        }
        reply.outcome
    }

    /// Receives, and deletes, extends, gives back or forgets what it got; and tries the same with
    /// receipts that are old.
    pub(super) async fn consume(mut self) -> History {
        let mut kept: Vec<(Queue, Held)> = Vec::new();
        while !self.stop.is_cancelled() {
            let queue = QUEUES[self.caller.dice.random_range(0..QUEUES.len())];
            let most = if self.caller.dice.random_bool(0.1) {
                100
            } else {
                10
            };
            let most = self.caller.dice.random_range(1..=most);
            let wait = u64::from(self.caller.dice.random_bool(0.2));
            let window = Duration::from_secs(self.caller.dice.random_range(1..=3));
            let received = self.receive(queue, most, wait, window).await;
            kept.extend(self.treat(queue, received).await);
            while !kept.is_empty() && (kept.len() > MAX_KEPT || self.caller.dice.random_bool(0.5)) {
                let at = self.caller.dice.random_range(0..kept.len());
                let (queue, old) = kept.swap_remove(at);
                match self.caller.dice.random_range(0..4) {
                    0..2 => self.delete(queue, &[old]).await,
                    2 => self.extend(queue, &[old], EXTENSION).await,
                    _ => self.nack(queue, &[old]).await,
                }
            }
        }
        self.history
    }

    pub(super) async fn receive(
        &mut self,
        queue: Queue,
        most: usize,
        wait: u64,
        window: Duration,
    ) -> Vec<Held> {
        let body = json!({
            "max_messages": most,
            "wait_seconds": wait,
            "visibility_timeout_seconds": window.as_secs(),
        });
        let reply = self.caller.post(&messages(queue, "/receive"), &body).await;
        // The node takes back what took half of its window; by then that may be too late.
        let may_be_late = reply.answered - reply.asked > window / 2;
        if reply.outcome == Outcome::Info || may_be_late {
            self.history.lost_receives.push((queue, reply.asked));
        }
        let received = reply.body["messages"].as_array();
        let received = received.filter(|_| reply.outcome == Outcome::Ok);
        let mut held = Vec::new();
        for message in received.into_iter().flatten() {
            let delivery = self.delivery(queue, &reply, message, window);
            held.push(Held {
                message_id: delivery.message_id,
                receive_count: delivery.receive_count,
                receipt_handle: message["receipt_handle"].as_str().unwrap().to_owned(),
            });
            self.history.deliveries.push(delivery);
        }
        held
    }

    fn delivery(&self, queue: Queue, reply: &Reply, message: &Value, window: Duration) -> Delivery {
        let visible_at = moment(&message["visible_at"]).unwrap();
        let deaths = message["deaths"]
            .as_array()
            .and_then(|deaths| deaths.last());
        Delivery {
            queue,
            mark: self.run.read(message["body"].as_str().unwrap()),
            message_id: Uuid::deserialize(&message["message_id"]).unwrap(),
            asked: reply.asked,
            delivered: visible_at - window,
            visible_at,
            first_received_at: moment(&message["first_received_at"]).unwrap(),
            receive_count: u32::deserialize(&message["receive_count"]).unwrap(),
            death: deaths.map(|death| {
                let receive_count = u32::deserialize(&death["receive_count"]).unwrap();
                (death["queue"].as_str().unwrap().to_owned(), receive_count)
            }),
        }
    }

    /// Does with each message what the dice say; what of it is to be tried again later.
    async fn treat(&mut self, queue: Queue, received: Vec<Held>) -> Vec<(Queue, Held)> {
        let (mut finished, mut extended, mut given_back) = (Vec::new(), Vec::new(), Vec::new());
        let mut kept = Vec::new();
        let spoilt = if queue == FRAGILE { 30 } else { 0 };
        for message in received {
            match self.caller.dice.random_range(0..100) + spoilt {
                0..55 => finished.push(message),
                55..65 => extended.push(message),
                65..75 | 100..115 => given_back.push(message),
                _ => kept.push((queue, message)),
            }
        }
        self.extend(queue, &extended, EXTENSION).await;
        self.nack(queue, &given_back).await;
        finished.extend(extended);
        self.delete(queue, &finished).await;
        let done = finished.into_iter().chain(given_back);
        kept.extend(
            done.filter(|_| self.caller.dice.random_bool(0.05))
                .map(|held| (queue, held)),
        );
        kept
    }

    pub(super) async fn delete(&mut self, queue: Queue, held: &[Held]) {
        if held.is_empty() {
            return;
        }
        let body = held
            .iter()
            .map(|held| json!({ "receipt_handle": held.receipt_handle }));
        let body = json!({ "messages": body.collect::<Vec<_>>() });
        let reply = self.caller.post(&messages(queue, "/delete"), &body).await;
        for (held, (outcome, _)) in held.iter().zip(reply.of_each(held.len())) {
            self.history.deletes.push(Delete {
                message_id: held.message_id,
                outcome,
                answered: reply.answered,
            });
            if outcome == Outcome::Ok && queue != SWEPT {
                self.backlog.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    async fn extend(&mut self, queue: Queue, held: &[Held], window: Duration) {
        let setting = json!({ "visibility_timeout_seconds": window.as_secs() });
        self.change(queue, "/extend", held, window, &setting).await;
    }

    async fn nack(&mut self, queue: Queue, held: &[Held]) {
        let delay = Duration::from_secs(self.caller.dice.random_range(0..3));
        let setting = json!({ "delay_seconds": delay.as_secs(), "reason": "the dice said so" });
        self.change(queue, NACK, held, delay, &setting).await;
    }

    async fn change(
        &mut self,
        queue: Queue,
        operation: &str,
        held: &[Held],
        window: Duration,
        setting: &Value,
    ) {
        if held.is_empty() {
            return;
        }
        let body = held.iter().map(|held| {
            let mut entry = setting.clone();
            entry["receipt_handle"] = held.receipt_handle.as_str().into();
            entry
        });
        let body = json!({ "messages": body.collect::<Vec<_>>() });
        let reply = self.caller.post(&messages(queue, operation), &body).await;
        for (held, (outcome, entry)) in held.iter().zip(reply.of_each(held.len())) {
            let visible_at = moment(&entry["visible_at"]);
            let is_clear = visible_at.is_some() || entry["dead_lettered"] == true;
            assert!(outcome != Outcome::Ok || is_clear, "{entry}");
            self.history.changes.push(Change {
                message_id: held.message_id,
                receive_count: held.receive_count,
                gives_back: operation == NACK,
                window,
                outcome,
                visible_at,
                asked: reply.asked,
            });
        }
    }

    /// Empties one queue every now and then.
    pub(super) async fn purge(mut self) -> History {
        while !self.stop.is_cancelled() {
            let pause = self.caller.dice.random_range(500..4_000);
            sleep(Duration::from_millis(pause)).await;
            let path = format!("/v1/queues/{SWEPT}/purge");
            let reply = self.caller.post(&path, &Value::Null).await;
            self.history.purges.push(Purge {
                queue: SWEPT,
                outcome: reply.outcome,
                asked: reply.asked,
                answered: reply.answered,
            });
        }
        self.history
    }
}

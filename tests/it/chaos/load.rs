//! Senders and receivers that go on whatever breaks, and write down what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use towpath::clock::Clock;

use super::history::{Delete, Delivery, History, Mark, Outcome, Send};
use crate::support::client::{Client, Message, Unknown};
use crate::support::database::Database;
use crate::support::eventually;

pub(super) const QUEUE: &str = "load";

/// Longer than a test.
pub(super) const LONG: Duration = Duration::from_secs(3600);

pub(super) fn now() -> OffsetDateTime {
    Clock::default().utc()
}

/// The bodies of one run: each says which it is, and whether it is whole.
#[derive(Debug, Clone)]
pub(super) struct Run(String);

impl Run {
    pub(super) fn new() -> Self {
        Self(format!("{:08x}", rand::random::<u32>()))
    }

    pub(super) fn body(&self, mark: Mark) -> String {
        let Mark { sender, sequence } = mark;
        // Of all sizes, so that chunks break everywhere.
        let padding = "x".repeat(sequence as usize * 7 % 300);
        let text = format!("{} {sender} {sequence} {padding}", self.0);
        let checksum = crc32fast::hash(text.as_bytes());
        format!("{text} {checksum}")
    }

    /// `None` for what is damaged, or of another run.
    pub(super) fn read(&self, body: &str) -> Option<Mark> {
        let mut words = body.strip_prefix(&self.0)?.split(' ').skip(1);
        let mark = Mark {
            sender: words.next()?.parse().ok()?,
            sequence: words.next()?.parse().ok()?,
        };
        (self.body(mark) == body).then_some(mark)
    }
}

/// How many messages were acknowledged, and how many that are to become.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    acknowledged: Arc<AtomicUsize>,
    pub(super) goal: usize,
}

impl Progress {
    pub(super) fn to(goal: usize) -> Self {
        let acknowledged = Arc::default();
        Self { acknowledged, goal }
    }

    pub(super) fn is_done(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed) >= self.goal
    }

    /// For those who go on until [`Self::end`].
    pub(super) fn endless() -> Self {
        // Work that ends later still counts.
        Self::to(usize::MAX / 2)
    }

    /// As if the goal was reached.
    pub(super) fn end(&self) {
        self.acknowledged.store(self.goal, Ordering::Relaxed);
    }

    fn add(&self, messages: usize) {
        self.acknowledged.fetch_add(messages, Ordering::Relaxed);
    }

    /// Waits until so many are acknowledged.
    pub(super) async fn reaches(&self, messages: usize) {
        eventually("sends go on", async || {
            (self.acknowledged.load(Ordering::Relaxed) >= messages).then_some(())
        })
        .await;
    }
}

/// Sends batches one after the other until enough is acknowledged; none is ever tried again.
pub(super) async fn send(
    client: Client,
    run: Run,
    sender: u16,
    batch: usize,
    progress: Progress,
) -> Vec<Send> {
    let mut sends = Vec::new();
    let mut marks = (0..).map(|sequence| Mark { sender, sequence });
    while !progress.is_done() {
        let marks: Vec<_> = marks.by_ref().take(batch).collect();
        let bodies: Vec<_> = marks.iter().map(|mark| run.body(*mark)).collect();
        let asked = now();
        let answer = client.send(QUEUE, &bodies).await;
        let ids = match &answer {
            Ok(ids) => ids.iter().copied().map(Some).collect(),
            Err(_unknown) => vec![None; marks.len()],
        };
        assert_eq!(ids.len(), marks.len());
        let attempts = marks.into_iter().zip(ids);
        sends.extend(attempts.map(|(mark, message_id)| Send {
            queue: QUEUE,
            mark,
            key: None,
            outcome: outcome(&answer),
            message_id,
            asked,
            answered: now(),
            not_before: None,
        }));
        match answer {
            Ok(ids) => progress.add(ids.len()),
            Err(_unknown) => client.until_ready().await,
        }
    }
    sends
}

fn outcome<T>(answer: &Result<T, Unknown>) -> Outcome {
    answer.as_ref().map_or(Outcome::Info, |_| Outcome::Ok)
}

/// What one receiver saw.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deletes: Vec<Delete>,
    pub(super) lost_receives: Vec<OffsetDateTime>,
    pub(super) failed_receives: usize,
}

impl Notes {
    pub(super) fn of(all: Vec<Notes>) -> Self {
        let mut sum = Self::default();
        for notes in all {
            sum.deliveries.extend(notes.deliveries);
            sum.deletes.extend(notes.deletes);
            sum.lost_receives.extend(notes.lost_receives);
            sum.failed_receives += notes.failed_receives;
        }
        sum
    }

    /// Receives once; no messages when that failed.
    async fn receive(&mut self, client: &Client, run: &Run, window: Duration) -> Vec<Message> {
        let asked = now();
        let answer = client.receive(QUEUE, 0, window).await;
        // The node takes back what took half of its window; by then that may be too late.
        if answer.is_err() || now() - asked > window / 2 {
            self.lost_receives.push(asked);
        }
        let messages = match answer {
            Ok(messages) => messages,
            Err(_unknown) => {
                self.failed_receives += 1;
                client.until_ready().await;
                Vec::new()
            }
        };
        self.deliveries
            .extend(messages.iter().map(|message| Delivery {
                queue: QUEUE,
                mark: run.read(&message.body),
                message_id: message.message_id,
                asked,
                delivered: message.visible_at - window,
                visible_at: message.visible_at,
                first_received_at: message.first_received_at,
                receive_count: message.receive_count,
                death: None,
            }));
        messages
    }

    async fn delete(&mut self, client: &Client, messages: &[Message]) {
        if messages.is_empty() {
            return;
        }
        let answer = client.delete(QUEUE, messages).await;
        let answered = now();
        self.deletes.extend(messages.iter().map(|message| Delete {
            message_id: message.message_id,
            outcome: outcome(&answer),
            answered,
        }));
    }
}

/// Receives until all is sent: deletes some at once, some when they may have expired, others never.
pub(super) async fn consume(
    client: Client,
    run: Run,
    window: Duration,
    progress: Progress,
) -> Notes {
    let mut notes = Notes::default();
    let mut kept = Vec::new();
    while !progress.is_done() {
        let received = notes.receive(&client, &run, window).await;
        let (deleted, kept_now): (Vec<_>, Vec<_>) = received
            .into_iter()
            .partition(|_| rand::rng().random_bool(0.5));
        notes.delete(&client, &deleted).await;
        if rand::rng().random_bool(0.3) {
            notes.delete(&client, &kept).await;
            kept = kept_now;
        }
    }
    notes
}

/// Those who send and those who receive, at work.
pub(super) struct Users {
    senders: JoinSet<Vec<Send>>,
    consumers: JoinSet<Notes>,
}

/// What they saw.
pub(super) struct Seen {
    pub(super) sends: Vec<Vec<Send>>,
    pub(super) notes: Notes,
}

impl Users {
    /// Three of each, on connections of their own.
    pub(super) fn start(client: &Client, run: &Run, window: Duration, progress: &Progress) -> Self {
        let (mut senders, mut consumers) = (JoinSet::new(), JoinSet::new());
        for sender in 0..3 {
            let (run, progress) = (run.clone(), progress.clone());
            let sending = send(client.another(), run.clone(), sender, 2, progress.clone());
            senders.spawn(sending);
            consumers.spawn(consume(client.another(), run, window, progress));
        }
        Self { senders, consumers }
    }

    /// Waits for all of them, who end when the goal is reached.
    pub(super) async fn end(self) -> Seen {
        Seen {
            sends: self.senders.join_all().await,
            notes: Notes::of(self.consumers.join_all().await),
        }
    }
}

impl Seen {
    /// That nobody was refused anything, or left without an answer.
    pub(super) fn assert_unhurt(&self) {
        let mut sends = self.sends.iter().flatten();
        assert!(sends.all(|send| send.outcome == Outcome::Ok));
        let mut deletes = self.notes.deletes.iter();
        assert!(deletes.all(|delete| delete.outcome == Outcome::Ok));
        assert_eq!(self.notes.failed_receives, 0);
    }
}

/// Waits until all that was begun has ended, also what nobody waits for.
pub(super) async fn sessions_rest(database: &Database) {
    eventually(
        "no session is busy, or left inside a transaction",
        async || {
            let busy = "select count(*) from pg_stat_activity
            where application_name = 'towpath' and state <> 'idle'";
            (database.value::<i64>(busy).await == 0).then_some(())
        },
    )
    .await;
}

/// Waits until nobody holds a message any more.
pub(super) async fn windows_have_ended(database: &Database) {
    eventually("all windows have ended", async || {
        let held = "select count(*) from towpath.lease where vt > clock_timestamp()";
        (database.value::<i64>(held).await == 0).then_some(())
    })
    .await;
}

/// Receives all that is there, for good. Nobody else may receive meanwhile.
pub(super) async fn drain(client: &Client, run: &Run) -> Notes {
    let mut notes = Notes::default();
    while !notes.receive(client, run, LONG).await.is_empty() {}
    notes
}

/// The history of senders and receivers that have ended, and of a drain after them.
pub(super) fn history(
    sends: Vec<Vec<Send>>,
    before: Notes,
    drained: OffsetDateTime,
    drain: Notes,
) -> History {
    let Notes {
        deliveries,
        deletes,
        lost_receives,
        failed_receives: _,
    } = Notes::of(vec![before, drain]);
    History {
        sends: sends.into_iter().flatten().collect(),
        deliveries,
        deletes,
        lost_receives: lost_receives
            .into_iter()
            .map(|asked| (QUEUE, asked))
            .collect(),
        drained: Some(drained),
        ..History::default()
    }
}

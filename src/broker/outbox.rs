//! The relay: takes messages that users left in the outbox, in transactions of their own, to their
//! queues.
//!
//! A row leaves the outbox in the transaction that stores its message, so that each message comes once
//! whatever happens to nodes and connections. One node does it, elected; two at once would be slow, not
//! wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::append::{self, Outgoing, With};
use crate::clock::Clock;
use crate::domain::attribute::{
    Attribute, AttributeName, AttributeType, AttributeValue, Attributes,
};
use crate::domain::lane::{QueueId, SubscriptionId};
use crate::domain::message::{Body, Content};
use crate::domain::queue::Queue;
use crate::store::{Care, Failure, OutboxRow, Session, Store};

const TASK: &str = "outbox";
/// How long an elected node holds the task without saying so again, and how often it does.
const TERM: Duration = Duration::from_secs(10);
const ELECT_EVERY: Duration = Duration::from_secs(3);
/// How often the relay looks while the outbox is in use.
const PAUSE: Duration = Duration::from_millis(20);
/// How long it goes on after the last message, before it sleeps until it is told.
const AWAKE: Duration = Duration::from_secs(5);
/// How often it looks although nothing was heard.
const SAFETY_PROBE: Duration = Duration::from_secs(3);
/// The pause after a failure.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// Rows and bytes of bodies that are taken at once.
const ROWS: i32 = 500;
const BYTES: i64 = 8 * 1024 * 1024;

/// Less than the number of any row.
const BEFORE_ALL: i64 = -1;

/// What the relay runs on.
#[derive(Debug)]
pub(super) struct Relay {
    /// For the election and to look queues up.
    pub(super) store: Store,
    pub(super) session: Session,
    pub(super) node: Uuid,
    /// The careful append batcher.
    pub(super) append: mpsc::Sender<append::Item>,
    pub(super) clock: Clock,
    /// Said when somebody left something in the outbox.
    pub(super) nudge: Arc<Notify>,
}

/// What the holder of the task knows.
#[derive(Debug)]
struct Known {
    /// Every row up to here is relayed: behind somebody's old snapshot they are all still walked past.
    low: i64,
    /// A row's number, and a transaction: once all before that have ended, all rows up to this are there
    /// to be seen.
    unsettled: Option<(i64, i64)>,
    last_row_at: Instant,
    state: State,
}

/// Whether those who use the outbox must say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// They need not.
    Awake,
    /// They must, but for those who began before this transaction.
    Dozing { next_tx: i64 },
    /// They must.
    Asleep,
}

impl Relay {
    /// Relays while this node is elected, until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let relaying = async {
            let mut known = None;
            let mut elected_at = None;
            loop {
                let pause = match self.turn(&mut known, &mut elected_at).await {
                    Ok(pause) => pause,
                    Err(failure) => {
                        tracing::warn!(
                            error = &failure as &dyn std::error::Error,
                            "the outbox is not relayed just now; it will be tried again"
                        );
                        TROUBLE_PAUSE
                    }
                };
                let is_asleep = known
                    .as_ref()
                    .is_some_and(|known: &Known| known.state == State::Asleep);
                let told = async {
                    if is_asleep {
                        self.nudge.notified().await;
                    } else {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = told => {}
                }
            }
        };
        let _ended: Option<()> = cancel.run_until_cancelled(relaying).await;
        // Unreachable now means that the term runs out instead.
        let _resigned = self.store.resign(TASK, self.node).await;
    }

    /// One look, if this node holds the task; how long to pause after it.
    async fn turn(
        &mut self,
        known: &mut Option<Known>,
        elected_at: &mut Option<Instant>,
    ) -> Result<Duration, Failure> {
        let now = self.clock.instant();
        let is_due = |at: Instant| now.saturating_duration_since(at) >= ELECT_EVERY;
        if elected_at.is_none_or(is_due) {
            *elected_at = None;
            if !self.store.elect(TASK, self.node, TERM).await? {
                *known = None;
                return Ok(ELECT_EVERY);
            }
            *elected_at = Some(now);
        }
        let known = match known {
            Some(known) => known,
            None => known.insert(Known {
                low: 0,
                unsettled: None,
                last_row_at: now,
                // The holder before may have gone while it was awake.
                state: self.doze().await?,
            }),
        };
        self.look(known, now).await
    }

    /// Relays what is there.
    async fn look(&mut self, known: &mut Known, now: Instant) -> Result<Duration, Failure> {
        let horizon = self.session.outbox_horizon(known.low).await?;
        let rows = self.session.outbox_next(known.low, ROWS, BYTES).await?;
        // All that is there was seen up to here.
        let seen = rows.last().map_or(i64::MAX, |row| row.id);
        let any = !rows.is_empty();
        if any {
            known.last_row_at = now;
            if known.state != State::Awake {
                self.session.set_outbox_awake(true).await?;
                known.state = State::Awake;
            }
            if !self.relay(rows).await? {
                return Ok(PAUSE);
            }
        }
        if let Some((last, next_tx)) = known.unsettled
            && horizon.oldest_tx >= next_tx
            && last <= seen
        {
            known.low = last;
            known.unsettled = None;
        }
        if known.unsettled.is_none() && horizon.last > known.low {
            known.unsettled = horizon.next_tx.map(|next_tx| (horizon.last, next_tx));
        }
        if any {
            return Ok(Duration::ZERO);
        }
        match known.state {
            State::Awake if now.saturating_duration_since(known.last_row_at) >= AWAKE => {
                known.state = self.doze().await?;
            }
            State::Dozing { next_tx } if horizon.oldest_tx >= next_tx => {
                known.state = State::Asleep;
            }
            State::Awake | State::Dozing { .. } => {}
            State::Asleep => return Ok(SAFETY_PROBE),
        }
        Ok(PAUSE)
    }

    /// Has those who use the outbox say so from now on.
    async fn doze(&mut self) -> Result<State, Failure> {
        self.session.set_outbox_awake(false).await?;
        let horizon = self.session.outbox_horizon(BEFORE_ALL).await?;
        let next_tx = horizon.next_tx.unwrap_or(i64::MAX);
        Ok(State::Dozing { next_tx })
    }

    /// Takes rows to their queues; whether all of them are there now.
    async fn relay(&mut self, rows: Vec<OutboxRow>) -> Result<bool, Failure> {
        let mut queues: BTreeMap<QueueId, Vec<OutboxRow>> = BTreeMap::new();
        for row in rows {
            queues.entry(row.queue).or_default().push(row);
        }
        let mut answers = Vec::new();
        for (id, rows) in queues {
            let Some(queue) = self.find(&rows).await?.filter(|queue| queue.id == id) else {
                self.drop_rows(&rows).await?;
                continue;
            };
            let (reply, answer) = oneshot::channel();
            // The batcher ends after this task.
            let _ended = self.append.send(item(queue, rows, reply)).await;
            answers.push(answer);
        }
        let mut all = true;
        for answer in answers {
            // What failed was logged where it was met, and is still in the outbox.
            all &= matches!(answer.await, Ok(Ok(_stored)));
        }
        Ok(all)
    }

    async fn find(&self, rows: &[OutboxRow]) -> Result<Option<Queue>, Failure> {
        match rows.first() {
            Some(OutboxRow {
                tenant,
                name: Some(name),
                ..
            }) => self.store.get_queue(tenant, name).await,
            _ => Ok(None),
        }
    }

    /// A deleted queue's messages go with it, those on their way too.
    async fn drop_rows(&mut self, rows: &[OutboxRow]) -> Result<(), Failure> {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        tracing::warn!(
            messages = ids.len(),
            queue_id = rows.first().map(|row| row.queue.get()),
            "messages in the outbox were for a queue that was deleted since; they are dropped"
        );
        let care = Care {
            outbox: ids,
            ..Care::default()
        };
        self.session
            .append_careful(SubscriptionId::QUEUE, &[], &care)
            .await?;
        Ok(())
    }
}

fn item(
    queue: Queue,
    rows: Vec<OutboxRow>,
    reply: oneshot::Sender<crate::domain::Result<append::Stored>>,
) -> append::Item {
    let ids = rows.iter().map(|row| row.id).collect();
    let delay = queue.settings.delay;
    let messages = rows.into_iter().map(|row| Outgoing {
        frame: Content {
            attributes: attributes(row.id, row.attributes),
            body: Body {
                kind: row.kind,
                bytes: row.body,
            },
            trace: None,
        }
        .into(),
        delay: row.delay.unwrap_or(delay),
        time_to_live: row.time_to_live,
        sent_at: None,
    });
    append::Item {
        target: queue.id,
        messages: messages.collect(),
        queue: Arc::new(queue),
        with: With::Outbox(ids),
        _room: None,
        reply,
    }
}

/// `leave_1` has refused what breaks a rule; one that it does not know costs an attribute, not a message.
fn attributes(row: i64, given: Vec<(String, String)>) -> Attributes {
    let attribute = |(name, value)| {
        let name = AttributeName::parse("attributes", name)?;
        let value = AttributeValue::Text(value);
        Attribute::new("attributes", name, AttributeType::STRING, value)
    };
    let kept = given.into_iter().filter_map(|given| {
        attribute(given)
            .inspect_err(|error| {
                tracing::error!(row, "an attribute in the outbox is dropped: {error}");
            })
            .ok()
    });
    Attributes::new("attributes", kept.collect()).unwrap_or_default()
}

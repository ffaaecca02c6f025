//! The closed loop: workers that each hold one connection and send the next request when the last
//! is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use hyper::Method;
use hyper::http::request;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use super::ledger::{Delivery, Sent};
use super::message::Form;
use super::rate::Count;
use crate::cli::http::{Connection, Server};
use crate::clock::Clock;
use crate::domain::limits::MAX_BATCH;

/// Pause after an answer that was not success, so that a server in trouble is not hammered.
const BACKOFF: Duration = Duration::from_millis(10);

/// Messages that may wait in the queue while senders and receivers both run: senders would
/// otherwise outrun receivers, who need two requests for a message.
const BACKLOG: usize = 2000;

/// Where, what and how: the same for all workers of a run.
pub(super) struct Plan {
    pub(super) clock: Clock,
    /// The start of the run, from which deliveries count their times.
    began: Instant,
    server: Server,
    pub(super) form: Form,
    pub(super) batch: usize,
    send: request::Parts,
    receive: request::Parts,
    delete: request::Parts,
    backlog: Semaphore,
}

/// The stretch of time in which answers count.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) end: Instant,
}

/// What one worker did.
#[derive(Default)]
pub(super) struct Work {
    pub(super) count: Count,
    pub(super) sent: Option<Sent>,
    pub(super) deliveries: Vec<Delivery>,
    /// Why a receive failed, if one did: then what did not come is not known to be lost.
    pub(super) not_received: Option<String>,
}

#[derive(Deserialize)]
struct Received<'a> {
    #[serde(borrow)]
    messages: Vec<ReceivedMessage<'a>>,
}

#[derive(Deserialize)]
struct ReceivedMessage<'a> {
    receipt_handle: &'a str,
    body: &'a str,
}

#[derive(Serialize)]
struct Deletes<'a> {
    messages: Vec<DeleteEntry<'a>>,
}

#[derive(Serialize)]
struct DeleteEntry<'a> {
    receipt_handle: &'a str,
}

#[derive(Deserialize)]
struct Deleted {
    messages: Vec<DeletedEntry>,
}

#[derive(Deserialize)]
struct DeletedEntry {
    deleted: bool,
}

impl Plan {
    pub(super) fn new(
        server: Server,
        token: &str,
        queue: &str,
        form: Form,
        connections: usize,
        batch: usize,
    ) -> anyhow::Result<Self> {
        let clock = Clock::default();
        let messages = format!("/v1/queues/{queue}/messages");
        let head = |action: &str| {
            let path = format!("{messages}{action}");
            server.head(Method::POST, &path, Some(token))
        };
        Ok(Self {
            began: clock.instant(),
            clock,
            send: head("")?,
            receive: head("/receive")?,
            delete: head("/delete")?,
            server,
            form,
            batch,
            backlog: Semaphore::new(BACKLOG.max(4 * connections * batch)),
        })
    }

    fn now(&self) -> Duration {
        self.clock.instant() - self.began
    }

    /// Posts `body` to the echo for as long as the window lasts.
    pub(super) async fn echo(
        &self,
        echo: &Server,
        body: Bytes,
        window: Window,
    ) -> anyhow::Result<Work> {
        let head = echo.head(Method::POST, "/echo", None)?;
        echo.connected(async |connection| {
            let mut work = Work::default();
            wait_for(window.start).await;
            while let Some(started) = self.before(window.end) {
                connection.exchange(&head, body.clone()).await?.success()?;
                self.measure(&mut work.count, started, window);
            }
            Ok(work)
        })
        .await
    }

    /// Sends messages as one sender. With `bounded`, never more than receivers keep up with.
    pub(super) async fn send(
        &self,
        sender: u16,
        bounded: bool,
        window: Window,
    ) -> anyhow::Result<Work> {
        let mut request = self.form.request(sender, self.batch);
        let batch = u32::try_from(self.batch)?;
        let mut sent = Sent {
            sender,
            ..Sent::default()
        };
        let work = async |connection: &mut Connection| {
            let mut count = Count::default();
            wait_for(window.start).await;
            loop {
                if bounded && !self.has_room(batch, window.end).await {
                    break;
                }
                let Some(started) = self.before(window.end) else {
                    break;
                };
                let first = sent.messages;
                sent.messages += batch;
                let body = request.numbered_from(first);
                let answer = connection.exchange(&self.send, body).await?;
                match answer.success().and_then(|body| self.acknowledged(&body)) {
                    Ok(()) => {
                        if self.measure(&mut count, started, window) && !bounded {
                            count.messages += u64::from(batch);
                        }
                    }
                    Err(refused) => {
                        count.fail(refused);
                        sent.unknown.extend(first..sent.messages);
                        self.backlog.add_permits(self.batch);
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
            }
            Ok(count)
        };
        let count = self.server.connected(work).await?;
        Ok(Work {
            count,
            sent: Some(sent),
            ..Work::default()
        })
    }

    /// Receives and deletes while the window lasts.
    pub(super) async fn receive(&self, window: Window) -> anyhow::Result<Work> {
        let request = Bytes::from(format!(
            r#"{{"max_messages":{},"wait_seconds":1}}"#,
            self.batch
        ));
        let work = async |connection: &mut Connection| {
            let mut work = Work::default();
            wait_for(window.start).await;
            while self.before(window.end).is_some() {
                let deleted = self.cycle(connection, &request, &mut work).await?;
                if self.before(window.end).is_some() {
                    work.count.messages += deleted;
                }
            }
            Ok(work)
        };
        self.server.connected(work).await
    }

    /// Receives and deletes until an answer is empty.
    pub(super) async fn drain(&self) -> anyhow::Result<Work> {
        let request = format!(r#"{{"max_messages":{MAX_BATCH},"wait_seconds":0}}"#);
        let request = Bytes::from(request);
        let work = async |connection: &mut Connection| {
            let mut work = Work::default();
            loop {
                let before = work.deliveries.len();
                self.cycle(connection, &request, &mut work).await?;
                if work.deliveries.len() == before {
                    return Ok(work);
                }
            }
        };
        self.server.connected(work).await
    }

    /// One receive and one delete of what it brought; the number of messages deleted.
    async fn cycle(
        &self,
        connection: &mut Connection,
        request: &Bytes,
        work: &mut Work,
    ) -> anyhow::Result<u64> {
        let asked = self.now();
        let answer = connection.exchange(&self.receive, request.clone()).await?;
        let answered = self.now();
        let body = match answer.success() {
            Ok(body) => body,
            Err(refused) => {
                work.not_received = Some(refused.to_string());
                work.count.fail(refused);
                tokio::time::sleep(BACKOFF).await;
                return Ok(0);
            }
        };
        let received: Received<'_> =
            serde_json::from_slice(&body).context("the answer to a receive is not understood")?;
        if received.messages.is_empty() {
            return Ok(0);
        }
        self.backlog.add_permits(received.messages.len());
        let first = work.deliveries.len();
        for message in &received.messages {
            let mark = self.form.read(message.body);
            let mark = mark.with_context(|| {
                format!(
                    "received a message that was not sent, or changed: {:?}",
                    message.body
                )
            })?;
            work.deliveries.push(Delivery {
                mark,
                asked,
                answered,
                deleted: None,
            });
        }
        let receipts = received.messages.iter().map(|message| DeleteEntry {
            receipt_handle: message.receipt_handle,
        });
        let messages = receipts.collect();
        self.delete(connection, Deletes { messages }, first, work)
            .await
    }

    /// Deletes what the deliveries from `first` on brought; the number of messages deleted.
    async fn delete(
        &self,
        connection: &mut Connection,
        deletes: Deletes<'_>,
        first: usize,
        work: &mut Work,
    ) -> anyhow::Result<u64> {
        let body = Bytes::from(serde_json::to_vec(&deletes)?);
        let answer = connection.exchange(&self.delete, body).await?;
        let entries: Deleted = match answer.json() {
            Ok(entries) => entries,
            Err(refused) => {
                work.count.fail(refused);
                return Ok(0);
            }
        };
        let now = self.now();
        let mut deleted = 0;
        let deliveries = work.deliveries.iter_mut().skip(first);
        for (delivery, entry) in deliveries.zip(entries.messages) {
            if entry.deleted {
                delivery.deleted = Some(now);
                deleted += 1;
            } else {
                work.count.fail("a delete was refused for a stale receipt");
            }
        }
        Ok(deleted)
    }

    /// A success says which messages were stored; anything less is not one.
    fn acknowledged(&self, answer: &[u8]) -> anyhow::Result<()> {
        let answer = std::str::from_utf8(answer)?;
        let stored = answer.matches("\"message_id\"").count();
        anyhow::ensure!(
            stored == self.batch,
            "{stored} of {} messages stored",
            self.batch
        );
        Ok(())
    }

    /// Whether receivers have caught up enough for another batch, waiting for them until `end`.
    async fn has_room(&self, batch: u32, end: Instant) -> bool {
        let room = self.backlog.acquire_many(batch);
        let Ok(Ok(room)) = tokio::time::timeout_at(end.into(), room).await else {
            return false;
        };
        room.forget();
        true
    }

    fn before(&self, end: Instant) -> Option<Instant> {
        Some(self.clock.instant()).filter(|now| *now < end)
    }

    /// Counts a request that was answered inside the window.
    fn measure(&self, count: &mut Count, started: Instant, window: Window) -> bool {
        let answered = self.clock.instant();
        if answered > window.end {
            return false;
        }
        count.latencies.push(answered - started);
        true
    }
}

async fn wait_for(start: Instant) {
    tokio::time::sleep_until(start.into()).await;
}

/// Runs `workers` jobs on `threads` threads, each a single-threaded runtime: no job ever moves.
///
/// # Errors
/// The first job's that fails.
pub(super) fn run<J, F>(
    plan: &Arc<Plan>,
    threads: usize,
    workers: usize,
    job: J,
) -> anyhow::Result<Vec<Work>>
where
    J: Fn(Arc<Plan>, usize) -> F + Sync,
    F: Future<Output = anyhow::Result<Work>> + 'static,
{
    let on_thread = &|thread: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, async {
            let mut jobs = JoinSet::new();
            for worker in (thread..workers).step_by(threads) {
                jobs.spawn_local(job(Arc::clone(plan), worker));
            }
            let mut done = Vec::new();
            while let Some(work) = jobs.join_next().await {
                done.push(work.context("a worker panicked")??);
            }
            Ok(done)
        })
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || on_thread(thread)))
            .collect();
        let mut all = Vec::new();
        for thread in running {
            let done: anyhow::Result<Vec<Work>> = thread
                .join()
                .unwrap_or_else(|_panic| Err(anyhow!("a thread of workers panicked")));
            all.extend(done?);
        }
        Ok(all)
    })
}

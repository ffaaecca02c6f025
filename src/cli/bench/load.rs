//! The closed loop: workers that each hold one connection and send the next request when the last
//! is answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hyper::Method;
use hyper::http::request;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::ledger::{Delivery, Moment, NEVER, Sent};
use super::message::Form;
use super::pace::{Pace, Shape, Stop, Window, wait_for};
use super::rate::Count;
use super::target::Target;
use crate::cli::http::{Answer, Connection, Server};
use crate::clock::Clock;

/// Pause after an answer that was not success, so that a server in trouble is not hammered.
const BACKOFF: Duration = Duration::from_millis(10);

/// Messages that may wait in the queue while senders and receivers both run: senders would
/// otherwise outrun receivers, who need two requests for a message.
const BACKLOG: usize = 2000;

/// Messages that one worker receives before they are judged, when a queue is emptied.
const DRAINED_AT_ONCE: usize = 20_000;

/// How often in a row a receive may find nothing before messages that must be there are missed.
const EMPTY_RECEIVES: u32 = 20;

/// Where, what and how: the same for all workers of a run.
pub(super) struct Plan {
    pub(super) clock: Clock,
    /// The start of the run, from which deliveries count their times.
    began: Instant,
    stop: Stop,
    pub(super) target: Target,
    pub(super) queue: String,
    /// The requests of the queue, for each of the target's servers.
    routes: Vec<Route>,
    pub(super) form: Form,
    pub(super) shape: Shape,
    backlog: Semaphore,
    /// Messages loaded or taken beforehand, for whoever watches.
    pub(super) done: AtomicU64,
}

struct Route {
    server: Server,
    send: request::Parts,
    receive: request::Parts,
    delete: request::Parts,
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
        target: Target,
        queue: String,
        form: Form,
        shape: Shape,
        stop: Stop,
    ) -> anyhow::Result<Self> {
        let clock = Clock::default();
        let messages = format!("/v1/queues/{queue}/messages");
        let routes = target.servers.iter().map(|server| {
            let head = |action: &str| {
                let path = format!("{messages}{action}");
                server.head(Method::POST, &path, target.token.as_deref())
            };
            Ok(Route {
                server: server.clone(),
                send: head("")?,
                receive: head("/receive")?,
                delete: head("/delete")?,
            })
        });
        let backlog = BACKLOG.max(4 * usize::from(shape.senders) * shape.batch);
        Ok(Self {
            began: clock.instant(),
            clock,
            stop,
            routes: routes.collect::<anyhow::Result<_>>()?,
            target,
            queue,
            form,
            shape,
            backlog: Semaphore::new(backlog),
            done: AtomicU64::new(0),
        })
    }

    /// Workers are spread over the servers.
    fn route(&self, worker: usize) -> &Route {
        let route = self.routes.get(worker % self.routes.len());
        route.expect("a target has a server")
    }

    fn now(&self) -> Moment {
        let since = self.clock.instant() - self.began;
        Moment::try_from(since.as_nanos()).unwrap_or(NEVER)
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
            wait_for(window.begin).await;
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
        worker: u16,
        sender: u16,
        bounded: bool,
        window: Window,
    ) -> anyhow::Result<Work> {
        let route = self.route(worker.into());
        let mut request = self.form.request(sender, self.shape.batch, "");
        let batch = u32::try_from(self.shape.batch)?;
        let mut sent = Sent {
            sender,
            ..Sent::default()
        };
        let work = async |connection: &mut Connection| {
            let mut count = Count::default();
            let mut pace = Pace::new(self.shape, worker, window.begin);
            wait_for(window.begin).await;
            loop {
                if bounded && !self.has_room(batch, window.end).await {
                    break;
                }
                let due = pace.next(&self.clock, window.end).await;
                let Some(now) = self.before(window.end) else {
                    self.backlog.add_permits(self.shape.batch);
                    break;
                };
                let first = sent.messages;
                sent.messages += batch;
                let body = request.numbered_from(first);
                let answer = connection.exchange(&route.send, body).await?;
                match answer
                    .success()
                    .and_then(|body| stored(&body, self.shape.batch))
                {
                    Ok(()) => {
                        let started = due.unwrap_or(now);
                        if self.measure(&mut count, started, window) && !bounded {
                            count.messages += u64::from(batch);
                        }
                    }
                    Err(refused) => {
                        count.fail(refused);
                        sent.unknown.extend(first..sent.messages);
                        self.backlog.add_permits(self.shape.batch);
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
            }
            Ok(count)
        };
        let count = route.server.connected(work).await?;
        Ok(Work {
            count,
            sent: Some(sent),
            ..Work::default()
        })
    }

    /// Sends `messages` as fast as it goes, with more members in each; every refusal is an error.
    pub(super) async fn preload(
        &self,
        worker: usize,
        sender: u16,
        messages: u32,
        more: &str,
    ) -> anyhow::Result<Work> {
        let route = self.route(worker);
        let batch = u32::try_from(self.target.batch_of(self.form.size()))?;
        let work = async |connection: &mut Connection| {
            let mut first = 0;
            while first < messages && !self.stop.is_said() {
                let batch = batch.min(messages - first) as usize;
                let mut request = self.form.request(sender, batch, more);
                let body = request.numbered_from(first);
                let answer = connection.exchange(&route.send, body).await?;
                stored(&answer.success()?, batch)?;
                first += u32::try_from(batch)?;
                self.done.fetch_add(batch as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        route.server.connected(work).await?;
        Ok(Work {
            sent: Some(Sent {
                sender,
                messages,
                ..Sent::default()
            }),
            ..Work::default()
        })
    }

    /// Receives until `messages` were taken by all workers, for `visibility` and without deleting.
    pub(super) async fn take(
        &self,
        worker: usize,
        messages: u64,
        visibility: Duration,
    ) -> anyhow::Result<Work> {
        let route = self.route(worker);
        let request = Bytes::from(format!(
            r#"{{"max_messages":{},"wait_seconds":1,"visibility_timeout_seconds":{}}}"#,
            self.target.batch_of(self.form.size()),
            visibility.as_secs()
        ));
        let work = async |connection: &mut Connection| {
            let mut work = Work::default();
            let mut empty = 0;
            while self.done.load(Ordering::Relaxed) < messages && !self.stop.is_said() {
                let (asked, answer) = self.ask(connection, route, &request).await?;
                let body = answer.success()?;
                let received = self.read(&body, asked, &mut work)?.len();
                self.done.fetch_add(received as u64, Ordering::Relaxed);
                empty = if received == 0 { empty + 1 } else { 0 };
                ensure!(
                    empty < EMPTY_RECEIVES,
                    "of {messages} messages to be in flight only {} came",
                    self.done.load(Ordering::Relaxed)
                );
            }
            Ok(work)
        };
        route.server.connected(work).await
    }

    /// Receives and deletes while the window lasts.
    pub(super) async fn receive(&self, worker: usize, window: Window) -> anyhow::Result<Work> {
        let request = Bytes::from(format!(
            r#"{{"max_messages":{},"wait_seconds":1}}"#,
            self.shape.batch
        ));
        let route = self.route(worker);
        let work = async |connection: &mut Connection| {
            let mut work = Work::default();
            wait_for(window.begin).await;
            while self.before(window.end).is_some() {
                let deleted = self.cycle(connection, route, &request, &mut work).await?;
                let now = self.clock.instant();
                if window.start <= now && now < window.end {
                    work.count.messages += deleted;
                }
            }
            Ok(work)
        };
        route.server.connected(work).await
    }

    /// Receives and deletes until an answer is empty, or enough was received for now.
    pub(super) async fn drain(&self, worker: usize) -> anyhow::Result<Work> {
        let batch = self.target.batch_of(self.form.size());
        let request = format!(r#"{{"max_messages":{batch},"wait_seconds":0}}"#);
        let request = Bytes::from(request);
        let route = self.route(worker);
        let work = async |connection: &mut Connection| {
            let mut work = Work::default();
            while work.deliveries.len() < DRAINED_AT_ONCE && !self.stop.is_said() {
                let before = work.deliveries.len();
                self.cycle(connection, route, &request, &mut work).await?;
                if work.deliveries.len() == before {
                    break;
                }
            }
            Ok(work)
        };
        route.server.connected(work).await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        route: &Route,
        request: &Bytes,
    ) -> anyhow::Result<(Moment, Answer)> {
        let asked = self.now();
        let answer = connection.exchange(&route.receive, request.clone()).await?;
        Ok((asked, answer))
    }

    /// Writes down what was received; its receipts.
    fn read<'a>(
        &self,
        body: &'a [u8],
        asked: Moment,
        work: &mut Work,
    ) -> anyhow::Result<Vec<DeleteEntry<'a>>> {
        let answered = self.now();
        let received: Received<'_> =
            serde_json::from_slice(body).context("the answer to a receive is not understood")?;
        let mut receipts = Vec::with_capacity(received.messages.len());
        for ReceivedMessage {
            receipt_handle,
            body,
        } in received.messages
        {
            let mark = self.form.read(body);
            let mark = mark.with_context(|| {
                format!("received a message that was not sent, or changed: {body:?}")
            })?;
            work.deliveries.push(Delivery {
                mark,
                asked,
                answered,
                deleted: NEVER,
            });
            receipts.push(DeleteEntry { receipt_handle });
        }
        Ok(receipts)
    }

    /// One receive and one delete of what it brought; the number of messages deleted.
    async fn cycle(
        &self,
        connection: &mut Connection,
        route: &Route,
        request: &Bytes,
        work: &mut Work,
    ) -> anyhow::Result<u64> {
        let (asked, answer) = self.ask(connection, route, request).await?;
        work.count.requests += 1;
        let body = match answer.success() {
            Ok(body) => body,
            Err(refused) => {
                work.not_received = Some(refused.to_string());
                work.count.fail(refused);
                tokio::time::sleep(BACKOFF).await;
                return Ok(0);
            }
        };
        let first = work.deliveries.len();
        let messages = self.read(&body, asked, work)?;
        if messages.is_empty() {
            return Ok(0);
        }
        self.backlog.add_permits(messages.len());
        let body = Bytes::from(serde_json::to_vec(&Deletes { messages })?);
        let answer = connection.exchange(&route.delete, body).await?;
        work.count.requests += 1;
        match answer.json() {
            Ok(entries) => Ok(self.deleted(entries, first, work)),
            Err(refused) => {
                work.count.fail(refused);
                Ok(0)
            }
        }
    }

    /// Writes down what became of the deliveries from `first` on.
    fn deleted(&self, entries: Deleted, first: usize, work: &mut Work) -> u64 {
        let now = self.now();
        let mut deleted = 0;
        let deliveries = work.deliveries.iter_mut().skip(first);
        for (delivery, entry) in deliveries.zip(entries.messages) {
            if entry.deleted {
                delivery.deleted = now;
                deleted += 1;
            } else {
                work.count.fail("a delete was refused for a stale receipt");
            }
        }
        deleted
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
        Some(self.clock.instant()).filter(|now| *now < end && !self.stop.is_said())
    }

    /// Counts a request that was answered inside the window.
    fn measure(&self, count: &mut Count, started: Instant, window: Window) -> bool {
        count.requests += 1;
        let answered = self.clock.instant();
        if answered < window.start || answered > window.end {
            return false;
        }
        count.latencies.push(answered - started);
        true
    }
}

/// A success says which messages were stored; anything less is not one.
fn stored(answer: &[u8], batch: usize) -> anyhow::Result<()> {
    let answer = std::str::from_utf8(answer)?;
    let stored = answer.matches("\"message_id\"").count();
    ensure!(stored == batch, "{stored} of {batch} messages stored");
    Ok(())
}

//! The servers that are measured, and the queues that the benchmark makes on them and takes away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use hyper::http::request;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::pace::Stop;
use super::workers;
use crate::cli::http::{Connection, Server};

/// Where a server says how many messages it takes at a time.
const LIMIT: &str = "/components/schemas/SendMessages/properties/messages/maxItems";

/// What a server that does not say takes.
const FEWEST: usize = 10;

/// Most that is asked of one request, whatever the server allows.
const MOST: usize = 1000;

/// Largest request for loading messages beforehand.
const REQUEST_BYTES: usize = 1024 * 1024;

/// What a message in a request needs beside its body.
const MESSAGE_BYTES: usize = 64;

/// Connections for what is done before and after measuring.
pub(super) const HELPERS: usize = 8;

/// One server, or several that share their queues.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) servers: Vec<Server>,
    pub(super) token: Option<String>,
    /// Messages in one request.
    pub(super) limit: usize,
}

impl Target {
    /// Asks the first server how much it takes at a time.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) async fn new(servers: Vec<Server>, token: Option<String>) -> anyhow::Result<Self> {
        let mut target = Self {
            servers,
            token,
            limit: FEWEST,
        };
        let asked = target
            .first()?
            .call(Method::GET, "/v1/openapi.json", None, None);
        let document: Option<Value> = asked.await?.json().ok();
        let limit = document.and_then(|document| document.pointer(LIMIT)?.as_u64());
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) {
            target.limit = limit.clamp(1, MOST);
        }
        Ok(target)
    }

    fn first(&self) -> anyhow::Result<&Server> {
        self.servers.first().context("no server is named")
    }

    fn head(&self, method: Method, path: &str) -> anyhow::Result<request::Parts> {
        self.first()?.head(method, path, self.token.as_deref())
    }

    /// As many messages of a size as a request may hold.
    pub(super) fn batch_of(&self, size: usize) -> usize {
        let fitting = REQUEST_BYTES / (size + MESSAGE_BYTES);
        self.limit.min(fitting).max(1)
    }

    pub(super) fn name(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        servers.join(" + ")
    }
}

/// How queues are made.
#[derive(Clone)]
pub(super) struct Making {
    pub(super) visibility_timeout: u16,
    /// Sent to each, if not empty.
    pub(super) first: Bytes,
    pub(super) stop: Stop,
}

/// Every queue that the benchmark made, to be taken away however it ends.
#[derive(Clone, Default)]
pub(super) struct Premises(Arc<Mutex<Vec<(Target, String)>>>);

impl Premises {
    fn made(&self) -> MutexGuard<'_, Vec<(Target, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes queues.
    ///
    /// # Errors
    /// The server refuses one.
    pub(super) fn make(
        &self,
        target: &Target,
        queues: &[String],
        making: &Making,
    ) -> anyhow::Result<()> {
        workers::run(1, HELPERS.min(queues.len()), |worker| {
            let mine = queues.iter().skip(worker).step_by(HELPERS).cloned();
            let mine = Vec::from_iter(mine);
            let (premises, target, making) = (self.clone(), target.clone(), making.clone());
            async move { premises.make_some(&target, mine, &making).await }
        })?;
        Ok(())
    }

    async fn make_some(
        &self,
        target: &Target,
        queues: Vec<String>,
        making: &Making,
    ) -> anyhow::Result<()> {
        let server = target.first()?;
        let settings = json!({ "visibility_timeout_seconds": making.visibility_timeout });
        let settings = Bytes::from(settings.to_string());
        let make = async |connection: &mut Connection| {
            for queue in queues {
                if making.stop.is_said() {
                    break;
                }
                let path = format!("/v1/queues/{queue}");
                let head = target.head(Method::PUT, &path)?;
                // Before asking: what is not answered may have been done.
                self.made().push((target.clone(), queue));
                let made = connection.exchange(&head, settings.clone()).await?;
                made.success()?;
                if !making.first.is_empty() {
                    let head = target.head(Method::POST, &format!("{path}/messages"))?;
                    let sent = connection.exchange(&head, making.first.clone()).await?;
                    sent.success()?;
                }
            }
            Ok(())
        };
        server.connected(make).await
    }

    /// Takes away the queues whose names begin with `prefix`.
    ///
    /// # Errors
    /// The server refuses to delete one, other than because it is not there.
    pub(super) fn remove(&self, prefix: &str) -> anyhow::Result<()> {
        let mut going: Vec<_> = {
            let mut made = self.made();
            let going = made.extract_if(.., |(_, queue)| queue.starts_with(prefix));
            going.collect()
        };
        let mut removed = Ok(());
        while let Some((target, _)) = going.last().cloned() {
            let of_target = going.extract_if(.., |(of, _)| of.servers == target.servers);
            let queues: Vec<_> = of_target.map(|(_, queue)| queue).collect();
            let done = workers::run(1, HELPERS.min(queues.len()), |worker| {
                let mine = queues.iter().skip(worker).step_by(HELPERS).cloned();
                let (target, mine) = (target.clone(), Vec::from_iter(mine));
                async move { remove_some(&target, mine).await }
            });
            removed = removed.and(done.map(drop));
        }
        removed
    }
}

async fn remove_some(target: &Target, queues: Vec<String>) -> anyhow::Result<()> {
    let remove = async |connection: &mut Connection| {
        for queue in queues {
            let head = target.head(Method::DELETE, &format!("/v1/queues/{queue}"))?;
            let answer = connection.exchange(&head, Bytes::new()).await?;
            if answer.status != StatusCode::NOT_FOUND {
                let deleted = answer.success();
                deleted.with_context(|| format!("cannot delete the queue {queue}"))?;
            }
        }
        Ok(())
    };
    target.first()?.connected(remove).await
}

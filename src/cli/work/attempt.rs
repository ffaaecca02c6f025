//! One message and its command: the message is held while the command runs, and then deleted or
//! given up.

use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::command::Running;
use crate::cli::client::{Client, is_passing};
use crate::cli::message::bytes_of;
use crate::cli::output::{note, plain};
use crate::domain::limits::MAX_REASON;

/// How long a command that was told to end may take.
const LAST_MOMENTS: Duration = Duration::from_secs(10);

/// Longest wait for an answer to an extend: others must have time to be tried.
const EXTEND_LIMIT: Duration = Duration::from_secs(5);

/// Most characters of the reason that is left with a message that was given up.
const MAX_REASON_CHARACTERS: usize = MAX_REASON / 4;

pub(super) struct Attempt<'a> {
    pub(super) client: &'a mut Client,
    pub(super) shared: &'a Shared,
    pub(super) message: &'a Value,
}

/// Why a command was told to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Its message is, or soon may be, in the hands of others.
    Lost,
    /// Somebody is in a hurry.
    Aborted,
}

/// Whether the message is still ours.
enum Held {
    Until(Instant),
    Lost(String),
}

impl Attempt<'_> {
    /// # Errors
    /// The command cannot be run at all, which is no message's fault.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let held_until = Instant::now() + self.shared.window;
        let body = match bytes_of(self.message) {
            Ok(body) => body,
            Err(error) => {
                self.give_up(&format!("{error:#}"), None).await;
                return Ok(());
            }
        };
        let mut running = match Running::start(&self.shared.command, self.message, body) {
            Ok(running) => running,
            Err(error) => {
                self.give_up("the command could not be started", Some(0))
                    .await;
                return Err(error);
            }
        };
        let (status, told) = self.hold(&mut running, held_until).await?;
        let last_line = running.last_line().await;
        match told {
            Some(Told::Lost) => {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                self.say("its command was ended; the message is left to others");
            }
            Some(Told::Aborted) => {
                self.give_up("the worker was told to end at once", Some(0))
                    .await;
            }
            None if status.success() => self.delete().await,
            None => {
                let reason = reason(status, &last_line);
                self.give_up(&reason, self.delay()).await;
            }
        }
        Ok(())
    }

    /// Waits for the command, and extends the message's window while it runs.
    async fn hold(
        &mut self,
        running: &mut Running,
        mut held_until: Instant,
    ) -> anyhow::Result<(ExitStatus, Option<Told>)> {
        let pause = self.shared.window / 3;
        let abort = self.shared.abort.clone();
        let mut told: Option<(Told, Instant)> = None;
        let mut extend_at = Instant::now() + pause;
        loop {
            let kill_at = told.map_or(held_until, |(_, at)| at + LAST_MOMENTS);
            tokio::select! {
                status = running.wait() => return Ok((status?, told.map(|(told, _)| told))),
                () = tokio::time::sleep_until(extend_at), if told.is_none() => {
                    match self.extend(held_until).await {
                        Held::Until(until) => held_until = until,
                        Held::Lost(why) => {
                            self.say(&format!("{why}; telling its command to end"));
                            running.terminate();
                            told = Some((Told::Lost, Instant::now()));
                        }
                    }
                    extend_at = Instant::now() + pause;
                }
                () = abort.cancelled(), if told.is_none() => {
                    running.terminate();
                    told = Some((Told::Aborted, Instant::now()));
                }
                () = tokio::time::sleep_until(kill_at), if told.is_some() => {
                    self.say("its command did not end; killing it");
                    running.kill();
                    told = told.map(|(told, at)| (told, at + LAST_MOMENTS));
                }
            }
        }
    }

    /// Asks for another window, again and again for as long as the one that we have lasts.
    async fn extend(&mut self, held_until: Instant) -> Held {
        let mut entry = self.receipt();
        entry["visibility_timeout_seconds"] = self.shared.window.as_secs().into();
        let pause = (self.shared.window / 20).min(Duration::from_secs(1));
        loop {
            let asked = Instant::now();
            let rest = held_until.saturating_duration_since(asked);
            if rest.is_zero() {
                return Held::Lost("the server could not be asked in time".to_owned());
            }
            let queue = &self.shared.queue;
            let asking = self.client.change(queue, "extend", vec![entry.clone()]);
            match timeout(rest.min(EXTEND_LIMIT), asking).await {
                Ok(Ok(ended)) if ended.iter().all(|entry| entry["error"].is_null()) => {
                    return Held::Until(asked + self.shared.window);
                }
                Ok(Ok(_stale)) => {
                    return Held::Lost("the message is in the hands of others".to_owned());
                }
                Ok(Err(error)) if !is_passing(&error) => return Held::Lost(error.to_string()),
                Ok(Err(_)) | Err(_) => sleep(pause).await,
            }
        }
    }

    async fn delete(&mut self) {
        let entries = vec![self.receipt()];
        let deleted = self
            .client
            .change(&self.shared.queue, "delete", entries)
            .await;
        let counter = match deleted {
            Ok(ended) if ended.iter().all(|entry| entry["deleted"] == true) => &self.shared.done,
            Ok(_stale) => {
                self.say("its command ended well, and others have received it meanwhile");
                &self.shared.failed
            }
            Err(error) => {
                self.say(&format!(
                    "its command ended well, but it may come again: {error}"
                ));
                &self.shared.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets others receive it, after some seconds or when the queue's policy says.
    async fn give_up(&mut self, reason: &str, delay: Option<u64>) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut entry = self.receipt();
        entry["reason"] = reason.into();
        if let Some(delay) = delay {
            entry["delay_seconds"] = delay.into();
        }
        let change = self.client.change(&self.shared.queue, "nack", vec![entry]);
        let next = match change
            .await
            .map(|mut ended| ended.pop().unwrap_or_default())
        {
            Ok(ended) if ended["dead_lettered"] == true => {
                "goes to the dead-letter queue".to_owned()
            }
            Ok(ended) => match ended["visible_at"].as_str() {
                Some(at) => format!("comes again at {at}"),
                None => "others have received it meanwhile".to_owned(),
            },
            Err(error) => format!("comes again when its visibility timeout ends: {error}"),
        };
        self.say(&format!("{}; {next}", plain(reason)));
    }

    fn delay(&self) -> Option<u64> {
        let attempts = self.message["receive_count"].as_u64().unwrap_or(1);
        self.shared.backoff.delay(attempts)
    }

    fn receipt(&self) -> Value {
        json!({ "receipt_handle": self.message["receipt_handle"] })
    }

    fn say(&self, what: &str) {
        let id = self.message["message_id"].as_str().unwrap_or_default();
        note(&format!("{id}: {what}"));
    }
}

/// Why a command's message is given up.
fn reason(status: ExitStatus, last_line: &str) -> String {
    use std::os::unix::process::ExitStatusExt as _;

    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    if last_line.is_empty() {
        return ended;
    }
    let text = format!("{ended}: {last_line}");
    text.replace('\0', " ")
        .chars()
        .take(MAX_REASON_CHARACTERS)
        .collect()
}

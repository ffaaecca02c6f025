//! `towpath work`: a command per message. Each of the workers receives one message at a time and has
//! one command running; `attempt` is one message with its command.

mod attempt;
mod command;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::block_on;
use super::client::{Client, is_passing, list, queue_name};
use super::output::{note, seconds};
use super::receive;
use crate::app::Signals;
use crate::domain::limits::{DEFAULT_VISIBILITY_TIMEOUT, MAX_RECEIVE_WAIT};

use attempt::Attempt;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath work orders -- ./handle-order
  towpath work orders -j 8 --exit-on-empty -- sh -c 'cat > \"$TOWPATH_MESSAGE_ID.txt\"'
  towpath work orders --backoff 10s --max-backoff 1h -- ./handle-order --fast

The command gets the body on its standard input, and in its environment TOWPATH_MESSAGE_ID,
TOWPATH_RECEIVE_COUNT, and TOWPATH_ATTRIBUTE_<NAME> for each attribute: in capitals, and with _
for what is neither letter nor digit. While it runs, the message stays hidden from others. When
it ends with 0, the message is deleted; else it is given up, with the exit code and the last
line of its standard error as the reason, and comes back by the queue's retry policy, or after a
time that doubles with each attempt.

A command whose message goes to others nevertheless (the server was away for too long, the queue
was purged) is told by SIGTERM, and killed 10 s later. Ctrl-C or SIGTERM ends this when the
running commands are done; a second one ends them and gives their messages back.";

/// Most commands at a time.
const MAX_PARALLEL: u16 = 256;

/// Wait before a receive is tried again that failed because the server is away.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Arguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// Commands at a time
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PARALLEL)))]
    parallel: u16,
    /// How long a message stays hidden at a time; it is extended after a third of it [default: the
    /// queue's]
    #[arg(long, value_name = "DURATION", value_parser = window)]
    visibility_timeout: Option<u64>,
    /// After how long a message comes back that failed for the first time [default: the queue's retry
    /// policy, else 1s]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    backoff: Option<u64>,
    /// The longest such time
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "15m")]
    max_backoff: u64,
    /// End when there is no message
    #[arg(long)]
    exit_on_empty: bool,
    /// With --exit-on-empty: how long to wait for one, up to 20s [default: as the queue says]
    #[arg(long, value_name = "DURATION", value_parser = receive::wait, requires = "exit_on_empty")]
    wait: Option<u64>,
    #[command(flatten)]
    access: Access,
}

/// A window that there is time in for extending it.
fn window(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        0 => Err("must be 1s or more".to_owned()),
        window => Ok(window),
    }
}

/// When a message comes back whose command failed.
#[derive(Clone, Copy)]
enum Backoff {
    /// By the queue's retry policy.
    Queue,
    /// Twice as long with each attempt.
    Doubling { first: u64, longest: u64 },
}

impl Backoff {
    /// Seconds, after so many attempts; `None` leaves it to the queue.
    fn delay(self, attempts: u64) -> Option<u64> {
        match self {
            Self::Queue => None,
            Self::Doubling { first, longest } => {
                let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
                let factor = 2u64.checked_pow(doubled).unwrap_or(u64::MAX);
                Some(first.saturating_mul(factor).min(longest))
            }
        }
    }
}

/// What all workers of this process share.
struct Shared {
    queue: String,
    command: Vec<OsString>,
    window: Duration,
    backoff: Backoff,
    exit_on_empty: bool,
    wait: Option<u64>,
    /// No more messages.
    stop: CancellationToken,
    /// No more time for those in hand either.
    abort: CancellationToken,
    done: AtomicU64,
    failed: AtomicU64,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    block_on(async {
        let mut signals = Signals::new()?;
        let parallel = arguments.parallel;
        let shared = Arc::new(arguments.shared(&mut client).await?);
        let mut workers = JoinSet::new();
        for _worker in 0..parallel {
            let worker = Worker {
                client: client.another(),
                shared: Arc::clone(&shared),
            };
            workers.spawn(worker.run());
        }
        let ended = shared.watch(&mut workers, &mut signals).await;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (done, failed) = (count(&shared.done), count(&shared.failed));
        note(&format!("{done} done, {failed} failed"));
        ended
    })
}

impl Arguments {
    /// Looks at the queue, as far as the token allows.
    async fn shared(self, client: &mut Client) -> anyhow::Result<Shared> {
        let queue = match client.queue(&self.queue).await {
            Ok(Some(queue)) => queue,
            Ok(None) => bail!("there is no queue {}", self.queue),
            Err(error)
                if super::client::status_of(&error) == Some(hyper::StatusCode::FORBIDDEN) =>
            {
                Value::Null
            }
            Err(error) => return Err(error),
        };
        let of_queue = queue["visibility_timeout_seconds"].as_u64();
        let window = self
            .visibility_timeout
            .or(of_queue.filter(|window| *window > 0));
        let backoff = match self.backoff {
            None if queue["retry_policy"].is_object() => Backoff::Queue,
            first => Backoff::Doubling {
                first: first.unwrap_or(1),
                longest: self.max_backoff,
            },
        };
        Ok(Shared {
            queue: self.queue,
            command: self.command,
            window: window.map_or(DEFAULT_VISIBILITY_TIMEOUT, Duration::from_secs),
            backoff,
            exit_on_empty: self.exit_on_empty,
            wait: self.wait,
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }
}

impl Shared {
    /// Waits for all workers. The first that fails, and the first signal, stop the others; a second
    /// signal takes their time.
    async fn watch(
        &self,
        workers: &mut JoinSet<anyhow::Result<()>>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let mut ended = Ok(());
        loop {
            tokio::select! {
                worker = workers.join_next() => {
                    let Some(worker) = worker else { break };
                    let worker = worker.context("a worker panicked").and_then(|worker| worker);
                    if worker.is_err() {
                        self.stop.cancel();
                        if ended.is_ok() {
                            ended = worker;
                        }
                    }
                }
                () = signals.next() => {
                    if self.stop.is_cancelled() {
                        self.abort.cancel();
                    } else {
                        note("ending when the running commands are done; once more to end them now");
                        self.stop.cancel();
                    }
                }
            }
        }
        if self.abort.is_cancelled() && ended.is_ok() {
            bail!("told twice to end: commands were ended and their messages given back");
        }
        ended
    }
}

struct Worker {
    client: Client,
    shared: Arc<Shared>,
}

impl Worker {
    async fn run(mut self) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let stop = shared.stop.clone();
        loop {
            // What was on its way to us when we hang up is visible to others again.
            let Some(received) = stop.run_until_cancelled(self.receive()).await else {
                return Ok(());
            };
            let Some(message) = received? else {
                return Ok(());
            };
            let attempt = Attempt {
                client: &mut self.client,
                shared: &shared,
                message: &message,
            };
            attempt.run().await?;
        }
    }

    /// The next message; `None` when there is none and that is the end.
    async fn receive(&mut self) -> anyhow::Result<Option<Value>> {
        let shared = &self.shared;
        let wait = if shared.exit_on_empty {
            shared.wait
        } else {
            Some(MAX_RECEIVE_WAIT.as_secs())
        };
        let ask = receive::ask(&shared.queue, 1, wait, Some(shared.window.as_secs()));
        let mut is_away = false;
        loop {
            let answer = match self.client.json(&ask).await {
                // Work goes on when the server comes back.
                Err(error) if is_passing(&error) => {
                    if !is_away {
                        note(&format!("waiting for the server: {error}"));
                    }
                    is_away = true;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                answer => answer?,
            };
            let mut messages = list(answer, "messages")?;
            match messages.pop() {
                None if shared.exit_on_empty => return Ok(None),
                None => {}
                message => return Ok(message),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_come_back_doubles_up_to_the_longest() {
        let backoff = Backoff::Doubling {
            first: 2,
            longest: 60,
        };
        let delays = [1, 2, 3, 6, 1000, u64::MAX].map(|attempts| backoff.delay(attempts).unwrap());
        assert_eq!(delays, [2, 4, 8, 60, 60, 60]);
        assert_eq!(Backoff::Queue.delay(3), None);
    }
}

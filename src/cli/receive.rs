//! `towpath receive`: prints messages and deletes what was printed.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::access::Access;
use super::block_on;
use super::client::{Ask, Client, list, queue_name, queue_path};
use super::message::{RECEIVED, receipts};
use super::output::{Form, Stream, note, seconds};
use crate::app::Signals;
use crate::domain::limits::MAX_RECEIVE_WAIT;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath receive orders
  towpath receive orders -n 10 --wait 5s
  towpath receive orders --ack none -o json        others may receive it later
  towpath receive orders --exit-on-empty > all.jsonl
  towpath receive orders --follow -o jsonl

A message is deleted when it was printed, and not before; with --ack none it is left to come
back when its visibility timeout ends. To look at messages without receiving them: `towpath
peek`.";

/// Messages that one request asks for: what is printed together, and deleted together.
const MAX_AT_ONCE: u64 = 100;

#[derive(Args)]
pub(super) struct Arguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// Most messages [default: 1; with --follow or --exit-on-empty all]
    #[arg(short = 'n', long = "max", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// How long to wait for a message, up to 20s [default: as the queue says]
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    wait: Option<u64>,
    /// How long they stay hidden from others [default: as the queue says]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    visibility_timeout: Option<u64>,
    /// Go on until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Go on until there is none
    #[arg(long)]
    exit_on_empty: bool,
    /// Delete what was printed (auto), or not (none)
    #[arg(long, value_enum, default_value = "auto", hide_possible_values = true)]
    ack: Acknowledge,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acknowledge {
    Auto,
    None,
}

/// The wait of a receive from the command line.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn wait(text: &str) -> Result<u64, String> {
    let wait = seconds(text)?;
    if wait > MAX_RECEIVE_WAIT.as_secs() {
        return Err(format!("must be {MAX_RECEIVE_WAIT:?} or less"));
    }
    Ok(wait)
}

/// Asks for messages.
pub(super) fn ask(queue: &str, max: u64, wait: Option<u64>, visibility: Option<u64>) -> Ask {
    let mut request = json!({ "max_messages": max });
    if let Some(wait) = wait {
        request["wait_seconds"] = wait.into();
    }
    if let Some(visibility) = visibility {
        request["visibility_timeout_seconds"] = visibility.into();
    }
    Ask::post(format!("{}/messages/receive", queue_path(queue)), &request)
}

pub(super) fn run(arguments: Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let mut stream = Stream::new(out, arguments.form.format(), &RECEIVED);
    let received = block_on(arguments.receive(&mut client, &mut stream));
    stream.end()?;
    received
}

impl Arguments {
    async fn receive(&self, client: &mut Client, stream: &mut Stream<'_>) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let goes_on = self.follow || self.exit_on_empty;
        let most = self.max.unwrap_or(if goes_on { u64::MAX } else { 1 });
        // One that follows always waits, or it would ask without a break.
        let longest = MAX_RECEIVE_WAIT.as_secs();
        let wait = match self.wait {
            wait if self.follow && !self.exit_on_empty => Some(wait.unwrap_or(longest).max(1)),
            wait => wait,
        };
        while stream.printed() < most {
            let at_once = (most - stream.printed()).min(MAX_AT_ONCE);
            let ask = ask(&self.queue, at_once, wait, self.visibility_timeout);
            let answer = tokio::select! {
                answer = client.persist(&ask) => answer?,
                () = signals.next() => return Ok(()),
            };
            let messages = list(answer, "messages")?;
            if messages.is_empty() {
                if self.follow && !self.exit_on_empty {
                    continue;
                }
                return Ok(());
            }
            self.print(client, stream, &messages).await?;
        }
        Ok(())
    }

    /// Prints messages and deletes them; gives them back when nobody reads them.
    async fn print(
        &self,
        client: &mut Client,
        stream: &mut Stream<'_>,
        messages: &[Value],
    ) -> anyhow::Result<()> {
        let printed = stream.push(messages);
        let receipts = receipts(messages);
        if let Err(error) = printed {
            // The reason for which this ends is the first one.
            let _too_late = client.change(&self.queue, "nack", receipts).await;
            return Err(error);
        }
        if self.ack == Acknowledge::None {
            return Ok(());
        }
        let ended = client.change(&self.queue, "delete", receipts).await?;
        let kept = ended
            .iter()
            .filter(|entry| entry["deleted"] != true)
            .count();
        if kept > 0 {
            note(&format!(
                "{kept} of these messages were in hand for too long and will come again"
            ));
        }
        Ok(())
    }
}

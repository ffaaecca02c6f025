//! `towpath check` and `top`: how queues are, for monitoring and for people.

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::access::Access;
use super::client::{Client, queue_name};
use super::output::{Form, Format, duration, print, seconds, text};
use super::queue::{STATS, stats};
use super::{Exit, block_on};
use crate::app::Signals;
use crate::clock::Clock;

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  towpath check
  towpath check --queue orders --max-age 1m --max-depth 1000
  towpath check --queue orders --queue dead --max-depth 500

Without limits it says whether the server answers. Depth counts messages that can be received;
age is that of the oldest message that is there, waiting or not. Exit codes: 0 within the
limits, 1 beyond one of them, 2 could not be found out.";

pub(super) const TOP_EXAMPLES: &str = "\
Examples:
  towpath top
  towpath top --prefix shop- --every 5s
  towpath top --once -o json";

/// Exit code: a limit is exceeded.
const EXCEEDED: u8 = 1;

/// Exit code: nobody knows.
const UNKNOWN: u8 = 2;

#[derive(Args)]
pub(super) struct CheckArguments {
    /// A queue; may be repeated [default: all]
    #[arg(long, value_parser = queue_name)]
    queue: Vec<String>,
    /// How old the oldest message may be
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    max_age: Option<u64>,
    /// How many messages may wait
    #[arg(long, value_name = "N")]
    max_depth: Option<u64>,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct TopArguments {
    /// Only queues whose names begin so
    #[arg(long, default_value = "")]
    prefix: String,
    /// How often
    #[arg(long, value_name = "DURATION", value_parser = seconds, default_value = "2s")]
    every: u64,
    /// Print it once
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

pub(super) fn check(arguments: CheckArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let unknown = |error: anyhow::Error| Exit::with(UNKNOWN, format!("unknown: {error:#}"));
    let found = arguments
        .access
        .client()
        .and_then(|mut client| block_on(stats(&mut client, arguments.queue.clone())));
    let found = found.map_err(unknown)?;
    let exceeded: Vec<_> = found
        .iter()
        .filter_map(|item| arguments.excess(item))
        .collect();
    if exceeded.is_empty() {
        return print(out, &format!("ok: {} queues\n", found.len()));
    }
    Err(Exit::with(EXCEEDED, exceeded.join("; ")).into())
}

impl CheckArguments {
    /// What is beyond a limit.
    fn excess(&self, item: &Value) -> Option<String> {
        let name = text(&item["name"]);
        let age = item["oldest_age_seconds"].as_u64().unwrap_or(0);
        let depth = item["visible"].as_u64().unwrap_or(0);
        let mut found = Vec::new();
        if let Some(most) = self.max_depth.filter(|most| depth > *most) {
            found.push(format!("{depth} messages wait in {name}, more than {most}"));
        }
        if let Some(most) = self.max_age.filter(|most| age > *most) {
            let (age, most) = (duration(age), duration(most));
            found.push(format!(
                "the oldest message of {name} is {age} old, more than {most}"
            ));
        }
        (!found.is_empty()).then(|| found.join("; "))
    }
}

pub(super) fn top(arguments: TopArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let format = arguments.form.format();
    block_on(async {
        let mut signals = Signals::new()?;
        loop {
            let items = tokio::select! {
                items = arguments.look(&mut client) => items?,
                () = signals.next() => return Ok(()),
            };
            if arguments.once || format != Format::Table {
                STATS.print(out, format, &items)?;
            } else {
                print(out, &arguments.screen(&client, &items))?;
            }
            if arguments.once {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(arguments.every.max(1))) => {}
                () = signals.next() => return Ok(()),
            }
        }
    })
}

impl TopArguments {
    /// The queues, those first in which most messages wait.
    async fn look(&self, client: &mut Client) -> anyhow::Result<Vec<Value>> {
        let queues = client
            .queues(Some(self.prefix.as_str()).filter(|it| !it.is_empty()))
            .await?;
        let names = queues.iter().filter_map(|queue| queue["name"].as_str());
        let names: Vec<_> = names.map(str::to_owned).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut items = stats(client, names).await?;
        items.sort_by_key(|item| std::cmp::Reverse(item["visible"].as_u64()));
        Ok(items)
    }

    fn screen(&self, client: &Client, items: &[Value]) -> String {
        // From the top left, over what was there.
        let clear = if std::io::stdout().is_terminal() {
            "\u{1b}[H\u{1b}[2J"
        } else {
            ""
        };
        let now = Clock::default().utc();
        let table = if items.is_empty() {
            format!("{}\n", STATS.none)
        } else {
            STATS.table(items)
        };
        let (hour, minute, second) = (now.hour(), now.minute(), now.second());
        format!(
            "{clear}{}  {hour:02}:{minute:02}:{second:02}Z  every {}\n\n{table}",
            client.server(),
            duration(self.every.max(1)),
        )
    }
}

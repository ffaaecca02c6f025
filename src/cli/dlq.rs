//! `towpath dlq` and `mv`: dead letters, and moving messages back or elsewhere.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::access::Access;
use super::client::{Ask, Client, list, queue_name, queue_path};
use super::message::body_shown;
use super::output::{
    Column, Form, Format, Listing, is_watched, note, plain, print, seconds, seconds_of, text, time,
};
use super::{block_on, peek};
use crate::app::Signals;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath dlq ls
  towpath dlq show dead
  towpath dlq redrive dead --dry-run
  towpath dlq redrive dead --rate 100";

pub(super) const MOVE_EXAMPLES: &str = "\
Examples:
  towpath mv dead orders --dry-run
  towpath mv dead orders --attribute color=red --rate 50
  towpath mv dead orders --detach

Messages that can be received move, and keep their ids. It is a redrive with one target: see
`towpath dlq`.";

/// How often the progress of a redrive is asked for.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the queues that others send their dead letters to
    #[command(after_help = "\
Examples:
  towpath dlq ls
  towpath dlq ls -o json")]
    Ls {
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
    /// Show dead letters: where they came from, and why
    #[command(after_help = "\
Examples:
  towpath dlq show dead
  towpath dlq show dead -n 100 -o json")]
    Show {
        /// The dead-letter queue
        #[arg(value_parser = queue_name)]
        queue: String,
        /// Most messages
        #[arg(short = 'n', long = "max", value_name = "N", default_value_t = 10,
            value_parser = clap::value_parser!(u64).range(1..))]
        max: u64,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
    /// Move dead letters back to where they came from, or to another queue
    #[command(after_help = "\
Examples:
  towpath dlq redrive dead --dry-run
  towpath dlq redrive dead --rate 100
  towpath dlq redrive dead --to orders --older-than 1h --reason timeout
  towpath dlq redrive dead --detach

The server does it; this shows how far it is. Ctrl-C leaves it running and says how to cancel it.")]
    Redrive(Redrive),
    /// List the redrives of a queue
    #[command(after_help = "\
Example:
  towpath dlq redrives dead")]
    Redrives {
        /// The dead-letter queue
        #[arg(value_parser = queue_name)]
        queue: String,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
    /// Cancel a redrive: what has moved has moved
    #[command(after_help = "\
Example:
  towpath dlq cancel dead \"$(towpath dlq redrive dead --rate 1 --detach -o name)\"")]
    Cancel {
        /// The dead-letter queue
        #[arg(value_parser = queue_name)]
        queue: String,
        /// The redrive
        redrive_id: uuid::Uuid,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
}

#[derive(Args)]
pub(super) struct Redrive {
    /// The dead-letter queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// Where to [default: where each message came from]
    #[arg(long, value_name = "QUEUE", value_parser = queue_name)]
    to: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
pub(super) struct Move {
    /// The queue they are in
    #[arg(value_name = "SRC", value_parser = queue_name)]
    from: String,
    /// The queue they go to
    #[arg(value_name = "DST", value_parser = queue_name)]
    to: String,
    #[command(flatten)]
    how: How,
}

/// Which messages move, and how fast.
#[derive(Args)]
struct How {
    /// Only those with this attribute, or with this value of it
    #[arg(long, value_name = "NAME[=VALUE]")]
    attribute: Option<String>,
    /// Only those that were sent longer ago
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    older_than: Option<u64>,
    /// Only those whose reason holds this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only this message; may be repeated
    #[arg(long, value_name = "ID")]
    message: Vec<uuid::Uuid>,
    /// Messages a second at the most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

const DEAD_LETTER_QUEUES: Listing = Listing {
    columns: &[
        Column {
            title: "NAME",
            cell: |item| text(&item["name"]),
        },
        Column {
            title: "VISIBLE",
            cell: |item| text(&item["visible"]),
        },
        Column {
            title: "IN FLIGHT",
            cell: |item| text(&item["in_flight"]),
        },
        Column {
            title: "OLDEST",
            cell: |item| seconds_of(&item["oldest_age_seconds"]),
        },
        Column {
            title: "OF",
            cell: |item| {
                let sources = item["sources"].as_array().into_iter().flatten();
                let names: Vec<_> = sources.filter_map(Value::as_str).collect();
                plain(&names.join(" "))
            },
        },
    ],
    name: "name",
    none: "no queue has a dead-letter queue; give it one with `towpath queue set`",
};

const DEAD_LETTERS: Listing = Listing {
    columns: &[
        Column {
            title: "SENT",
            cell: |message| time(&message["sent_at"]),
        },
        Column {
            title: "ID",
            cell: |message| text(&message["message_id"]),
        },
        Column {
            title: "FROM",
            cell: |message| text(&newest_death(message)["queue"]),
        },
        Column {
            title: "RECEIVED",
            cell: |message| text(&newest_death(message)["receive_count"]),
        },
        Column {
            title: "REASON",
            cell: |message| {
                let death = newest_death(message);
                let said = death.get("text").unwrap_or(&death["reason"]);
                text(said)
            },
        },
        Column {
            title: "BODY",
            cell: body_shown,
        },
    ],
    name: "message_id",
    none: "there are no dead letters",
};

const REDRIVES: Listing = Listing {
    columns: &[
        Column {
            title: "ID",
            cell: |task| text(&task["redrive_id"]),
        },
        Column {
            title: "STATE",
            cell: |task| text(&task["state"]),
        },
        Column {
            title: "TO",
            cell: |task| text(&task["to"]),
        },
        Column {
            title: "MOVED",
            cell: |task| text(&task["moved"]),
        },
        Column {
            title: "SKIPPED",
            cell: |task| text(&task["skipped"]),
        },
        Column {
            title: "STARTED",
            cell: |task| time(&task["created_at"]),
        },
        Column {
            title: "ENDED",
            cell: |task| time(&task["ended_at"]),
        },
    ],
    name: "redrive_id",
    none: "there was no redrive",
};

fn newest_death(message: &Value) -> &Value {
    let deaths = message["deaths"].as_array();
    deaths
        .and_then(|deaths| deaths.last())
        .unwrap_or(&Value::Null)
}

pub(super) fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Command::Ls { form, access } => {
            let mut client = access.client()?;
            let queues = block_on(dead_letter_queues(&mut client))?;
            DEAD_LETTER_QUEUES.print(out, form.format(), &queues)
        }
        Command::Show {
            queue,
            max,
            form,
            access,
        } => {
            let mut client = access.client()?;
            let messages = block_on(peek::messages(&mut client, &queue, max))?;
            DEAD_LETTERS.print(out, form.format(), &messages)
        }
        Command::Redrive(redrive) => redrive.how.run(&redrive.queue, redrive.to, out),
        Command::Redrives {
            queue,
            form,
            access,
        } => {
            let mut client = access.client()?;
            let redrives = block_on(async {
                let answer = client.json(&Ask::get(path(&queue, ""))).await?;
                list(answer, "items")
            })?;
            REDRIVES.print(out, form.format(), &redrives)
        }
        Command::Cancel {
            queue,
            redrive_id,
            form,
            access,
        } => {
            let mut client = access.client()?;
            let ask = Ask::new(Method::POST, path(&queue, &format!("/{redrive_id}/cancel")));
            let task = block_on(client.json(&ask))?;
            REDRIVES.one(out, form.format(), &task)
        }
    }
}

pub(super) fn mv(arguments: Move, out: &mut dyn Write) -> anyhow::Result<()> {
    arguments.how.run(&arguments.from, Some(arguments.to), out)
}

fn path(queue: &str, rest: &str) -> String {
    format!("{}/redrives{rest}", queue_path(queue))
}

/// Queues that others name, with those and what they hold.
async fn dead_letter_queues(client: &mut Client) -> anyhow::Result<Vec<Value>> {
    let queues = client.queues(None).await?;
    let mut found: Vec<(String, Vec<Value>)> = Vec::new();
    for queue in &queues {
        let Some(target) = queue["dead_letter_queue"].as_str() else {
            continue;
        };
        let source = queue["name"].clone();
        match found.iter_mut().find(|(name, _)| name == target) {
            Some((_, sources)) => sources.push(source),
            None => found.push((target.to_owned(), vec![source])),
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    // A queue may name one that is gone.
    found.retain(|(name, _)| queues.iter().any(|queue| queue["name"] == name.as_str()));
    let names = found.iter().map(|(name, _)| name.clone()).collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut items = super::queue::stats(client, names).await?;
    for (item, (_, sources)) in items.iter_mut().zip(found) {
        item["sources"] = sources.into();
    }
    Ok(items)
}

impl How {
    /// What the server is asked for.
    fn document(&self, to: Option<String>) -> Value {
        let mut filter = json!({});
        if let Some(attribute) = &self.attribute {
            let (name, value) = match attribute.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (attribute.as_str(), None),
            };
            filter["attribute"] = name.into();
            if let Some(value) = value {
                filter["attribute_value"] = value.into();
            }
        }
        if let Some(age) = self.older_than {
            filter["older_than_seconds"] = age.into();
        }
        if let Some(reason) = &self.reason {
            filter["reason_contains"] = reason.as_str().into();
        }
        if !self.message.is_empty() {
            filter["message_ids"] = self.message.iter().map(ToString::to_string).collect();
        }
        let mut document = json!({});
        if let Some(to) = to {
            document["to"] = to.into();
        }
        if filter != json!({}) {
            document["filter"] = filter;
        }
        if let Some(rate) = self.rate {
            document["max_messages_per_second"] = rate.into();
        }
        if self.dry_run {
            document["dry_run"] = true.into();
        }
        document
    }

    fn run(&self, queue: &str, to: Option<String>, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut client = self.access.client()?;
        let format = self.form.format();
        let ask = Ask::post(path(queue, ""), &self.document(to));
        block_on(async {
            // Before it begins: whoever interrupts us then is to know that it goes on.
            let mut signals = Signals::new()?;
            let mut task = client.json(&ask).await?;
            if self.dry_run {
                let least = if task["complete"] == false {
                    "at least "
                } else {
                    ""
                };
                let said = match format {
                    Format::Table => format!("{least}{} messages would move", task["matching"]),
                    Format::Json | Format::Jsonl | Format::Name => task.to_string(),
                };
                return print(out, &format!("{said}\n"));
            }
            if !self.detach {
                task = follow(&mut client, &mut signals, queue, task).await?;
            }
            REDRIVES.one(out, format, &task)?;
            match task["state"].as_str() {
                Some("failed") => bail!("the redrive failed: {}", text(&task["error"])),
                Some("cancelled") => bail!("the redrive was cancelled"),
                _ => Ok(()),
            }
        })
    }
}

/// Waits for the end of a redrive. Ctrl-C ends the waiting only.
async fn follow(
    client: &mut Client,
    signals: &mut Signals,
    queue: &str,
    mut task: Value,
) -> anyhow::Result<Value> {
    let id = task["redrive_id"]
        .as_str()
        .context("the redrive has no id")?;
    let id = id.to_owned();
    let bar = if is_watched() {
        indicatif::ProgressBar::new_spinner()
    } else {
        indicatif::ProgressBar::hidden()
    };
    while task["state"] == "running" {
        bar.set_message(format!("{} messages moved", text(&task["moved"])));
        bar.tick();
        let asking = async {
            tokio::time::sleep(PAUSE).await;
            client
                .persist(&Ask::get(path(queue, &format!("/{id}"))))
                .await
        };
        tokio::select! {
            asked = asking => task = asked?,
            () = signals.next() => {
                note(&format!(
                    "the redrive goes on; `towpath dlq redrives {queue}` shows it, \
                     `towpath dlq cancel {queue} {id}` cancels it"
                ));
                break;
            }
        }
    }
    bar.finish_and_clear();
    Ok(task)
}

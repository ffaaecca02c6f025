//! `towpath queue`: queues and their settings.

mod settings;

use std::io::{IsTerminal as _, Write};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::access::Access;
use super::client::{Ask, Client, queue_name, queue_path, status_of};
use super::output::{Column, Form, Listing, note, seconds_of, text, time};
use super::{Usage, block_on};

use settings::{Changes, Settings};

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath queue ls
  towpath queue create letters --visibility-timeout 1m
  towpath queue set orders --retention 14d
  towpath queue stats orders";

#[derive(Subcommand)]
pub(super) enum Command {
    /// List queues
    #[command(after_help = "\
Examples:
  towpath queue ls
  towpath queue ls --prefix ord -o name
  towpath queue ls -o json")]
    Ls {
        /// Only those whose names begin so
        #[arg(long)]
        prefix: Option<String>,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
    /// Show a queue with its settings
    #[command(after_help = "\
Examples:
  towpath queue get orders
  towpath queue get orders -o json")]
    Get(One),
    /// Create a queue
    #[command(after_help = "\
Examples:
  towpath queue create letters
  towpath queue create letters --if-not-exists
  towpath queue create parcels --delay 10s --dead-letter-queue dead --max-receive-count 5
  towpath queue create bills --retry-policy exponential:1s,factor=2,max=5m --tag team=shop")]
    Create(Create),
    /// Change some settings of a queue; the others stay
    #[command(after_help = "\
Examples:
  towpath queue set orders --visibility-timeout 2m --retention 14d
  towpath queue set orders --dead-letter-queue dead --max-receive-count 3
  towpath queue set orders --unset retry-policy --unset delay")]
    Set(Set),
    /// Delete queues with all their messages
    #[command(after_help = "\
Examples:
  towpath queue rm scratch --yes
  towpath queue rm scratch --if-exists --yes
  towpath queue rm dead --force --yes              also when other queues dead-letter to it")]
    Rm(Remove),
    /// Drop all messages of queues
    #[command(after_help = "\
Example:
  towpath queue purge scratch --yes")]
    Purge(Purge),
    /// Refuse sends, hand out nothing, or both
    #[command(after_help = "\
Examples:
  towpath queue pause orders                       both
  towpath queue pause orders --receiving           what is sent waits

A paused queue refuses sends with 409 (queue_paused), and answers receives as if it were empty.")]
    Pause(Pause),
    /// End a pause
    #[command(after_help = "\
Examples:
  towpath queue resume orders
  towpath queue resume orders --sending")]
    Resume(Pause),
    /// Count messages
    #[command(after_help = "\
Examples:
  towpath queue stats
  towpath queue stats orders dead
  towpath queue stats orders -o json")]
    Stats {
        /// Queues; all when left out
        #[arg(value_parser = queue_name)]
        queues: Vec<String>,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        access: Access,
    },
}

#[derive(Args)]
pub(super) struct One {
    /// Its name
    #[arg(value_parser = queue_name)]
    queue: String,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct Create {
    #[command(flatten)]
    settings: Settings,
    /// Leave one that exists as it is
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    one: One,
}

#[derive(Args)]
pub(super) struct Set {
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    one: One,
}

#[derive(Args)]
pub(super) struct Remove {
    /// Their names
    #[arg(value_parser = queue_name, required = true)]
    queues: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Also when other queues send their dead letters there
    #[arg(long)]
    force: bool,
    /// Those that do not exist are fine
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct Purge {
    /// Their names
    #[arg(value_parser = queue_name, required = true)]
    queues: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct Pause {
    /// Only sending
    #[arg(long, conflicts_with = "receiving")]
    sending: bool,
    /// Only receiving
    #[arg(long)]
    receiving: bool,
    #[command(flatten)]
    one: One,
}

const QUEUES: Listing = Listing {
    columns: &[
        Column {
            title: "NAME",
            cell: |queue| text(&queue["name"]),
        },
        Column {
            title: "VISIBILITY",
            cell: |queue| seconds_of(&queue["visibility_timeout_seconds"]),
        },
        Column {
            title: "DELAY",
            cell: |queue| seconds_of(&queue["delay_seconds"]),
        },
        Column {
            title: "RETENTION",
            cell: |queue| seconds_of(&queue["retention_seconds"]),
        },
        Column {
            title: "DEAD LETTERS TO",
            cell: |queue| text(&queue["dead_letter_queue"]),
        },
        Column {
            title: "AFTER",
            cell: |queue| text(&queue["max_receive_count"]),
        },
        Column {
            title: "DURABILITY",
            cell: |queue| text(&queue["durability"]),
        },
        Column {
            title: "PAUSED",
            cell: paused,
        },
        Column {
            title: "CREATED",
            cell: |queue| time(&queue["created_at"]),
        },
    ],
    name: "name",
    none: "there are no queues",
};

fn paused(queue: &Value) -> String {
    let is = |what: &str| queue[what].as_bool().unwrap_or(false);
    match (is("sending_paused"), is("receiving_paused")) {
        (false, false) => "-",
        (true, false) => "sending",
        (false, true) => "receiving",
        (true, true) => "both",
    }
    .to_owned()
}

/// Queues with what they hold.
pub(super) const STATS: Listing = Listing {
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
            title: "DELAYED",
            cell: |item| text(&item["delayed"]),
        },
        Column {
            title: "OLDEST",
            cell: |item| seconds_of(&item["oldest_age_seconds"]),
        },
    ],
    name: "name",
    none: "there are no queues",
};

pub(super) fn run(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Command::Ls {
            prefix,
            form,
            access,
        } => {
            let mut client = access.client()?;
            let queues = block_on(client.queues(prefix.as_deref()))?;
            QUEUES.print(out, form.format(), &queues)
        }
        Command::Get(one) => one.ask(Ask::get(queue_path(&one.queue)), out),
        Command::Create(create) => create.run(out),
        Command::Set(set) => {
            let changes = set.changes.document()?;
            set.one.ask(set.one.patch(&changes), out)
        }
        Command::Rm(remove) => remove.run(),
        Command::Purge(purge) => purge.run(),
        Command::Pause(pause) => pause.run(true, out),
        Command::Resume(pause) => pause.run(false, out),
        Command::Stats {
            queues,
            form,
            access,
        } => {
            let mut client = access.client()?;
            let stats = block_on(stats(&mut client, queues))?;
            STATS.print(out, form.format(), &stats)
        }
    }
}

/// What queues hold: these, or all.
///
/// # Errors
/// The server cannot be asked, or one of these does not exist.
pub(super) async fn stats(client: &mut Client, queues: Vec<String>) -> anyhow::Result<Vec<Value>> {
    let are_named = !queues.is_empty();
    let names = if are_named {
        queues
    } else {
        let all = client.queues(None).await?;
        let names = all.iter().filter_map(|queue| queue["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let mut items = Vec::new();
    for name in names {
        let counts = match client.counts(&name).await {
            // It was deleted between the listing and now.
            Err(error) if !are_named && status_of(&error) == Some(StatusCode::NOT_FOUND) => {
                continue;
            }
            counts => counts?,
        };
        let mut item = json!({ "name": name });
        for (member, value) in counts.as_object().into_iter().flatten() {
            item[member] = value.clone();
        }
        items.push(item);
    }
    Ok(items)
}

impl One {
    /// Prints the queue that a request is answered with.
    fn ask(&self, ask: Ask, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut client = self.access.client()?;
        let queue = block_on(client.json(&ask))?;
        QUEUES.one(out, self.form.format(), &queue)
    }

    fn patch(&self, changes: &Value) -> Ask {
        Ask::new(Method::PATCH, queue_path(&self.queue)).body(changes)
    }
}

impl Create {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let settings = self.settings.document();
        let ask = Ask::new(Method::PUT, queue_path(&self.one.queue)).body(&settings);
        // The server decides, so that of two that create it at once one is told.
        let ask = ask.header(
            HeaderName::from_static("if-none-match"),
            HeaderValue::from_static("*"),
        );
        let mut client = self.one.access.client()?;
        let created = block_on(async {
            match client.json(&ask).await {
                Err(error) if status_of(&error) == Some(StatusCode::PRECONDITION_FAILED) => {
                    if !self.if_not_exists {
                        let name = &self.one.queue;
                        bail!(
                            "the queue {name} exists already; change it with `towpath queue set`, \
                             or say --if-not-exists"
                        );
                    }
                    client.json(&Ask::get(queue_path(&self.one.queue))).await
                }
                created => created,
            }
        })?;
        QUEUES.one(out, self.one.form.format(), &created)
    }
}

impl Pause {
    fn run(&self, is_paused: bool, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut changes = json!({});
        if !self.receiving {
            changes["sending_paused"] = is_paused.into();
        }
        if !self.sending {
            changes["receiving_paused"] = is_paused.into();
        }
        self.one.ask(self.one.patch(&changes), out)
    }
}

impl Remove {
    fn run(&self) -> anyhow::Result<()> {
        let names = self.queues.join(", ");
        confirm(self.yes, &format!("Delete {names} with all messages?"))?;
        let mut client = self.access.client()?;
        block_on(async {
            for name in &self.queues {
                let ask = Ask::new(Method::DELETE, queue_path(name));
                let ask = ask.query("force", self.force.then_some(true));
                match client.call(&ask).await {
                    Err(error)
                        if self.if_exists && status_of(&error) == Some(StatusCode::NOT_FOUND) => {}
                    gone => {
                        gone.with_context(|| format!("{name} was not deleted"))?;
                    }
                }
            }
            Ok(())
        })
    }
}

impl Purge {
    fn run(&self) -> anyhow::Result<()> {
        let names = self.queues.join(", ");
        confirm(self.yes, &format!("Drop all messages of {names}?"))?;
        let mut client = self.access.client()?;
        block_on(async {
            for name in &self.queues {
                let path = format!("{}/purge", queue_path(name));
                let purged = client.call(&Ask::new(Method::POST, path)).await;
                purged.with_context(|| format!("{name} was not purged"))?;
            }
            Ok(())
        })
    }
}

/// Asks a person before something is gone for good. A program has to say that it means it.
pub(super) fn confirm(is_meant: bool, question: &str) -> anyhow::Result<()> {
    if is_meant {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Usage::new("nobody is there to be asked; say --yes").into());
    }
    note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    bail!("nothing was done")
}

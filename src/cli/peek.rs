//! `towpath peek`, `tail` and `dump`: messages without receiving them. Nothing changes for anybody
//! who receives.

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::access::Access;
use super::block_on;
use super::client::{Ask, Client, list, queue_name, queue_path};
use super::message::{RECEIVED, body_shown};
use super::output::{Column, Form, Format, Listing, Stream, note, text, time};
use crate::app::Signals;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath peek orders
  towpath peek orders -n 100 --state in-flight
  towpath peek orders --attribute color=red --text hello -o json

Nobody else notices: no message is hidden, and none is counted as received.";

pub(super) const TAIL_EXAMPLES: &str = "\
Examples:
  towpath tail orders
  towpath tail orders --all -o jsonl
  towpath tail orders --attribute color=red

Prints what arrives, until Ctrl-C, and takes nothing from those who receive. It looks once a
second: a message that is received and deleted between two looks is not seen.";

pub(super) const DUMP_EXAMPLES: &str = "\
Examples:
  towpath dump orders > messages.jsonl
  towpath dump orders --state visible > messages.jsonl

Messages are looked at, not received: they stay where they are, and those that come or go
meanwhile may be in it or not. A queue that nobody uses meanwhile is dumped as a whole. `towpath
load` sends them again.";

/// Messages of one page, the most that a server gives.
const PAGE: u64 = 100;

/// Messages that a tail remembers to have printed. Of a longer queue it would print some twice, and
/// so only looks at as many.
const MAX_SEEN: usize = 20_000;

/// How long a tail waits before it looks again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct Arguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// Most messages
    #[arg(short = 'n', long = "max", value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..))]
    max: u64,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct TailArguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// Print what is there already, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct DumpArguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    access: Access,
}

/// Which messages.
#[derive(Args)]
struct Which {
    /// Only visible, in-flight or delayed ones
    #[arg(long, value_enum, hide_possible_values = true)]
    state: Option<State>,
    /// Only those with this attribute, or with this value of it
    #[arg(long, value_name = "NAME[=VALUE]")]
    attribute: Option<String>,
    /// Only those whose text holds this
    #[arg(long)]
    text: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Visible,
    InFlight,
    Delayed,
}

/// Messages that were looked at.
pub(super) const PEEKED: Listing = Listing {
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
            title: "STATE",
            cell: |message| text(&message["state"]),
        },
        Column {
            title: "RECEIVED",
            cell: |message| text(&message["receive_count"]),
        },
        Column {
            title: "BODY",
            cell: body_shown,
        },
    ],
    name: "message_id",
    none: "there is no such message",
};

impl Which {
    fn ask(&self, queue: &str, limit: u64) -> Ask {
        let state = self.state.map(|state| match state {
            State::Visible => "visible",
            State::InFlight => "in_flight",
            State::Delayed => "delayed",
        });
        let (name, value) = match self.attribute.as_deref() {
            Some(attribute) => match attribute.split_once('=') {
                Some((name, value)) => (Some(name), Some(value)),
                None => (Some(attribute), None),
            },
            None => (None, None),
        };
        Ask::get(format!("{}/messages", queue_path(queue)))
            .query("limit", Some(limit))
            .query("state", state)
            .query("attribute", name)
            .query("attribute_value", value)
            .query("text", self.text.as_deref())
    }
}

/// Messages of a queue, page by page.
pub(super) struct Pages<'a> {
    queue: &'a str,
    which: &'a Which,
    cursor: Option<String>,
    is_at_end: bool,
}

impl<'a> Pages<'a> {
    fn new(queue: &'a str, which: &'a Which) -> Self {
        Self {
            queue,
            which,
            cursor: None,
            is_at_end: false,
        }
    }

    /// The next page, with so many messages at most; `None` after the last one.
    async fn next(&mut self, client: &mut Client, most: u64) -> anyhow::Result<Option<Vec<Value>>> {
        if self.is_at_end {
            return Ok(None);
        }
        let ask = self.which.ask(self.queue, most.min(PAGE));
        let page = client
            .persist(&ask.query("cursor", self.cursor.take()))
            .await?;
        self.cursor = page["next_cursor"].as_str().map(str::to_owned);
        self.is_at_end = self.cursor.is_none();
        list(page, "items").map(Some)
    }
}

pub(super) fn run(arguments: Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let messages = block_on(look(
        &mut client,
        Pages::new(&arguments.queue, &arguments.which),
        arguments.max,
    ))?;
    PEEKED.print(out, arguments.form.format(), &messages)
}

async fn look(client: &mut Client, mut pages: Pages<'_>, most: u64) -> anyhow::Result<Vec<Value>> {
    let mut messages = Vec::new();
    loop {
        let rest = most - messages.len() as u64;
        if rest == 0 {
            return Ok(messages);
        }
        match pages.next(client, rest).await? {
            Some(page) => messages.extend(page),
            None => return Ok(messages),
        }
    }
}

/// The messages of a queue as `peek` prints them.
///
/// # Errors
/// The server cannot be asked.
pub(super) async fn messages(
    client: &mut Client,
    queue: &str,
    most: u64,
) -> anyhow::Result<Vec<Value>> {
    let all = Which {
        state: None,
        attribute: None,
        text: None,
    };
    look(client, Pages::new(queue, &all), most).await
}

pub(super) fn dump(arguments: DumpArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let mut stream = Stream::new(out, Format::Jsonl, &RECEIVED);
    let mut pages = Pages::new(&arguments.queue, &arguments.which);
    block_on(async {
        while let Some(page) = pages.next(&mut client, PAGE).await? {
            stream.push(&page)?;
        }
        Ok(())
    })?;
    note(&format!(
        "dumped {} messages by looking at them: they are still in {}, and what came or went meanwhile may be missing",
        stream.printed(),
        arguments.queue
    ));
    stream.end()
}

pub(super) fn tail(arguments: TailArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let mut stream = Stream::new(out, arguments.form.format(), &PEEKED);
    let followed = block_on(arguments.follow(&mut client, &mut stream));
    stream.end()?;
    followed
}

impl TailArguments {
    async fn follow(&self, client: &mut Client, stream: &mut Stream<'_>) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let mut seen = Seen::default();
        let mut is_first = true;
        loop {
            let looked = tokio::select! {
                looked = self.look(client, &mut seen) => looked?,
                () = signals.next() => return Ok(()),
            };
            if self.all || !is_first {
                stream.push(&looked)?;
            }
            is_first = false;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = signals.next() => return Ok(()),
            }
        }
    }

    /// What was not there when this looked before.
    async fn look(&self, client: &mut Client, seen: &mut Seen) -> anyhow::Result<Vec<Value>> {
        let mut pages = Pages::new(&self.queue, &self.which);
        let (mut fresh, mut looked_at) = (Vec::new(), 0);
        while let Some(page) = pages.next(client, PAGE).await? {
            looked_at += page.len();
            let is_new = |message: &Value| seen.add(message["message_id"].as_str());
            fresh.extend(page.into_iter().filter(is_new));
            if looked_at >= MAX_SEEN {
                note(&format!(
                    "the queue is long: only {MAX_SEEN} messages are looked at"
                ));
                break;
            }
        }
        Ok(fresh)
    }
}

/// The ids of messages that were there before; of those beyond the limit the oldest are forgotten.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Whether it is new.
    fn add(&mut self, id: Option<&str>) -> bool {
        let Some(id) = id.filter(|id| !self.ids.contains(*id)) else {
            return false;
        };
        self.ids.insert(id.to_owned());
        self.order.push_back(id.to_owned());
        if self.order.len() > 2 * MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

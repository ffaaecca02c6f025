//! `towpath send`: messages from the command line, a file or the standard input, in batches. And
//! `towpath load`, which sends what `dump` wrote.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal as _, Read, Write};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::access::Access;
use super::client::{Ask, Client, fresh_key, list, queue_name, queue_path};
use super::message::{attribute, body_member, copy_of};
use super::output::{
    Column, Form, Format, Listing, Stream, is_watched, note, print, seconds, text, time,
};
use super::{Usage, block_on};
use crate::domain::limits::{MAX_BATCH, MAX_BODY_BYTES, MAX_REQUEST_BYTES};

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath send orders 'hello'
  towpath send orders 'hello' --attr color=red --attr size:Number=5 --delay 30s
  echo 'hello' | towpath send orders
  towpath send orders --file letter.txt
  seq 1 1000 | towpath send orders --lines
  towpath send orders --jsonl --file messages.jsonl

Without BODY, or with -, it is read from the standard input: all of it as one message, or with
--lines a message per line. A line of --jsonl is a message as the API takes it, such as
  {\"body\": \"hello\", \"attributes\": {\"color\": {\"value\": \"red\"}}, \"delay_seconds\": 30}
What is no UTF-8 goes as bytes. Each batch has a key of its own, so that it can be sent again,
and counts once, when a node goes away meanwhile.";

pub(super) const LOAD_EXAMPLES: &str = "\
Examples:
  towpath load orders < messages.jsonl
  towpath load orders --file messages.jsonl

Each line is a message as `towpath dump`, `peek` or `receive` print it with -o jsonl. What it
carries is sent as a new message: with another id, sent now, received never.";

/// Messages that are read ahead of their sending.
const READ_AHEAD: usize = MAX_BATCH;

/// A batch of about this many bytes of JSON is sent; with a larger message it may be a half more.
const MAX_BATCH_BYTES: usize = MAX_REQUEST_BYTES / 2;

#[derive(Args)]
pub(super) struct Arguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// The message's text; - is the standard input
    body: Option<String>,
    /// A message per line; empty lines are left out
    #[arg(long, conflicts_with = "jsonl")]
    lines: bool,
    /// A message per line, as JSON with attributes
    #[arg(long)]
    jsonl: bool,
    /// Read a file instead of the standard input
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// An attribute of every message that has none of this name; may be repeated
    #[arg(long, value_name = "NAME[:TYPE]=VALUE", value_parser = attribute)]
    attr: Vec<(String, Value)>,
    /// How long the messages stay hidden [default: as the queue says]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    delay: Option<u64>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct LoadArguments {
    /// The queue
    #[arg(value_parser = queue_name)]
    queue: String,
    /// Read a file instead of the standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

/// What has been sent.
const SENT: Listing = Listing {
    columns: &[
        Column {
            title: "SENT",
            cell: |sent| time(&sent["sent_at"]),
        },
        Column {
            title: "ID",
            cell: |sent| text(&sent["message_id"]),
        },
    ],
    name: "message_id",
    none: "there was nothing to send",
};

/// How input becomes messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Whole,
    Lines,
    Json,
    Dumped,
}

/// Where the input is from.
enum Source {
    Text(String),
    Input,
    File(PathBuf),
}

/// What every message has that does not say otherwise.
struct Defaults {
    attributes: Vec<(String, Value)>,
    delay: Option<u64>,
}

/// A message on its way out.
struct Outgoing {
    json: String,
    line: u64,
    /// Bytes of input that it took.
    length: u64,
}

pub(super) fn run(arguments: Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let cut = match (arguments.lines, arguments.jsonl) {
        (true, _) => Cut::Lines,
        (_, true) => Cut::Json,
        _ => Cut::Whole,
    };
    let source = match (arguments.body, arguments.file) {
        (Some(body), _) if body != "-" && cut == Cut::Whole => Source::Text(body),
        (Some(body), _) if body != "-" => {
            return Err(Usage::new(
                "--lines and --jsonl read the standard input or a --file, not BODY",
            )
            .into());
        }
        (None, Some(file)) => Source::File(file),
        (None, None) if cut == Cut::Whole && std::io::stdin().is_terminal() => {
            return Err(Usage::new("nothing to send: give a text, - or --file").into());
        }
        _ => Source::Input,
    };
    let defaults = Defaults {
        attributes: arguments.attr,
        delay: arguments.delay,
    };
    let client = arguments.access.client()?;
    let format = arguments.form.format();
    Sending::new(client, arguments.queue).run(source, cut, defaults, (out, format))
}

pub(super) fn load(arguments: LoadArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let source = arguments.file.map_or(Source::Input, Source::File);
    let defaults = Defaults {
        attributes: Vec::new(),
        delay: None,
    };
    let client = arguments.access.client()?;
    let format = arguments.form.format();
    Sending::new(client, arguments.queue).run(source, Cut::Dumped, defaults, (out, format))
}

struct Sending {
    client: Client,
    queue: String,
    sent: u64,
    last: Option<Value>,
}

impl Sending {
    fn new(client: Client, queue: String) -> Self {
        Self {
            client,
            queue,
            sent: 0,
            last: None,
        }
    }

    fn run(
        mut self,
        source: Source,
        cut: Cut,
        defaults: Defaults,
        (out, format): (&mut dyn Write, Format),
    ) -> anyhow::Result<()> {
        let bar = progress(&source, cut);
        let (sender, incoming) = mpsc::channel(READ_AHEAD);
        // Not waited for: a read of the standard input cannot be interrupted.
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                let read = read(source, cut, &defaults, &sender);
                if let Err(error) = read {
                    let _nobody_listens = sender.blocking_send(Err(error));
                }
            })?;
        let mut batches = Batches {
            incoming,
            ahead: VecDeque::new(),
        };
        let mut stream = (format != Format::Table).then(|| Stream::new(&mut *out, format, &SENT));
        let done = block_on(async {
            while let Some(batch) = batches.next().await? {
                let items = self.send(&batch).await?;
                bar.inc(batch.iter().map(|message| message.length).sum());
                bar.set_message(format!("{} messages", HumanCount(self.sent)));
                if let Some(stream) = &mut stream {
                    stream.push(&items)?;
                }
            }
            Ok(())
        });
        bar.finish_and_clear();
        match stream {
            Some(stream) => stream.end()?,
            None => self.tell(out)?,
        }
        done
    }

    /// Sends a batch, once, however often it has to be tried.
    async fn send(&mut self, batch: &[Outgoing]) -> anyhow::Result<Vec<Value>> {
        let (first, last) = match batch {
            [] => return Ok(Vec::new()),
            [only] => (only.line, only.line),
            [first, .., last] => (first.line, last.line),
        };
        let messages: Vec<_> = batch.iter().map(|message| message.json.as_str()).collect();
        let body = format!("{{\"messages\":[{}]}}", messages.join(","));
        let (name, value) = fresh_key()?;
        let path = format!("{}/messages", queue_path(&self.queue));
        let ask = Ask::new(hyper::Method::POST, path).text(body);
        let answered = self.client.persist(&ask.header(name, value)).await;
        let answer = answered.with_context(|| match (self.sent, first == last) {
            (0, true) => "nothing was sent".to_owned(),
            (sent, true) => format!("{sent} messages were sent, line {first} was not"),
            (sent, false) => format!("{sent} messages were sent, lines {first} to {last} were not"),
        })?;
        let items = list(answer, "messages")?;
        self.sent += batch.len() as u64;
        self.last = items.last().cloned();
        Ok(items)
    }

    fn tell(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        match (self.sent, &self.last) {
            (0, _) => {
                note(SENT.none);
                Ok(())
            }
            (1, Some(sent)) => print(
                out,
                &format!("sent {} to {}\n", text(&sent["message_id"]), self.queue),
            ),
            (sent, _) => print(out, &format!("sent {sent} messages to {}\n", self.queue)),
        }
    }
}

/// A bar where somebody sees it and there may be much to send.
fn progress(source: &Source, cut: Cut) -> ProgressBar {
    if cut == Cut::Whole || !is_watched() {
        return ProgressBar::hidden();
    }
    let length = match source {
        Source::File(path) => std::fs::metadata(path).ok().map(|file| file.len()),
        Source::Text(_) | Source::Input => None,
    };
    let (bar, form) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:30} {bytes}/{total_bytes}, {msg}, {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{bytes}, {msg}"),
    };
    let style = ProgressStyle::with_template(form).expect("the template is well-formed");
    bar.with_style(style)
}

/// Batches of what has been read: what is there goes, nothing is waited for but a first message.
struct Batches {
    incoming: mpsc::Receiver<anyhow::Result<Outgoing>>,
    ahead: VecDeque<anyhow::Result<Outgoing>>,
}

impl Batches {
    /// The next batch; `None` at the end of the input.
    ///
    /// # Errors
    /// What follows cannot be read, or is no message. All before it was in a batch.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<Outgoing>>> {
        if self.ahead.is_empty() {
            self.ahead.extend(self.incoming.recv().await);
        }
        let (mut batch, mut length) = (Vec::new(), 0);
        loop {
            if self.ahead.is_empty() {
                self.ahead.extend(self.incoming.try_recv().ok());
            }
            match self.ahead.pop_front() {
                Some(Ok(message)) => {
                    let is_full =
                        batch.len() == MAX_BATCH || length + message.json.len() > MAX_BATCH_BYTES;
                    if is_full && !batch.is_empty() {
                        self.ahead.push_front(Ok(message));
                        return Ok(Some(batch));
                    }
                    length += message.json.len();
                    batch.push(message);
                }
                Some(Err(error)) if batch.is_empty() => return Err(error),
                // Told when what stands before it was sent.
                Some(error) => {
                    self.ahead.push_front(error);
                    return Ok(Some(batch));
                }
                None => return Ok((!batch.is_empty()).then_some(batch)),
            }
        }
    }
}

type Outlet = mpsc::Sender<anyhow::Result<Outgoing>>;

/// Reads all input, until nobody takes what comes out.
fn read(source: Source, cut: Cut, defaults: &Defaults, outlet: &Outlet) -> anyhow::Result<()> {
    match source {
        Source::Text(text) => {
            let message = defaults.message(cut, text.as_bytes())?;
            hand_over(outlet, message, 1, text.len());
            Ok(())
        }
        Source::Input => cut_up(std::io::stdin().lock(), cut, defaults, outlet),
        Source::File(path) => {
            let file = std::fs::File::open(&path);
            let file = file.with_context(|| format!("cannot read {}", path.display()))?;
            cut_up(BufReader::new(file), cut, defaults, outlet)
        }
    }
}

fn cut_up(
    mut input: impl BufRead,
    cut: Cut,
    defaults: &Defaults,
    outlet: &Outlet,
) -> anyhow::Result<()> {
    if cut == Cut::Whole {
        let mut whole = Vec::new();
        input
            .take(MAX_BODY_BYTES as u64 + 1)
            .read_to_end(&mut whole)?;
        ensure!(
            whole.len() <= MAX_BODY_BYTES,
            "the input is longer than a message may be ({MAX_BODY_BYTES} bytes); --lines sends a message per line"
        );
        let message = defaults.message(cut, &whole)?;
        hand_over(outlet, message, 1, whole.len());
        return Ok(());
    }
    // JSON may need more bytes than what it says has.
    let limit = if cut == Cut::Lines {
        MAX_BODY_BYTES + 2
    } else {
        MAX_REQUEST_BYTES
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = input
            .by_ref()
            .take(limit as u64)
            .read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        ensure!(
            length < limit,
            "line {number} is longer than a message may be"
        );
        while line.last().is_some_and(|end| b"\r\n".contains(end)) {
            line.pop();
        }
        if line.is_empty() {
            continue;
        }
        let message = defaults.message(cut, &line);
        let message = message.with_context(|| format!("line {number} is not a message"))?;
        if !hand_over(outlet, message, number, length) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether somebody takes it.
fn hand_over(outlet: &Outlet, message: Value, line: u64, length: usize) -> bool {
    let outgoing = Outgoing {
        json: message.to_string(),
        line,
        length: length as u64,
    };
    outlet.blocking_send(Ok(outgoing)).is_ok()
}

impl Defaults {
    /// The message that some input is.
    fn message(&self, cut: Cut, input: &[u8]) -> anyhow::Result<Value> {
        let mut message = match cut {
            Cut::Whole | Cut::Lines => {
                let (member, body) = body_member(input);
                Map::from_iter([(member.to_owned(), body)])
            }
            Cut::Json => serde_json::from_slice(input)?,
            Cut::Dumped => match copy_of(&serde_json::from_slice(input)?)? {
                Value::Object(message) => message,
                other => return Err(anyhow!("{other} is not an object")),
            },
        };
        if let Some(delay) = self.delay {
            message
                .entry("delay_seconds")
                .or_insert_with(|| delay.into());
        }
        if !self.attributes.is_empty() {
            let attributes = message
                .entry("attributes")
                .or_insert_with(|| Value::Object(Map::new()));
            let attributes = attributes
                .as_object_mut()
                .context("attributes are a JSON object")?;
            for (name, value) in &self.attributes {
                attributes.entry(name).or_insert_with(|| value.clone());
            }
        }
        Ok(Value::Object(message))
    }
}

//! `towpath bench`: a closed loop over HTTP against a running server, beside a bare echo measured
//! in the same rounds, with a check that nothing was lost or repeated.

mod disk;
mod echo;
mod ledger;
mod load;
mod message;
mod rate;
mod report;

use std::io::{IsTerminal as _, Write};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use hyper::Method;
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use self::echo::Echo;
use self::ledger::{Delivery, Sent, Verdict};
use self::load::{Plan, Window, Work};
use self::message::{Form, MARK_BYTES};
use self::rate::{Count, Rate};
use self::report::{Report, Round};
use super::block_on;
use super::http::Server;
use super::token::Administrator;
use crate::app::Signals;
use crate::domain::limits::{MAX_BATCH, MAX_BODY_BYTES};

pub(super) use self::echo::serve_echo;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath bench
  towpath bench --scenario send --connections 128
  towpath bench --batch 10 --size 1000 --duration 10s -o json

Every round first measures a bare echo server with as many connections. \"messages / echo\" is
messages a second over the echo's requests a second; \"requests / echo\" counts a send as one request
and a cycle of one message as three. The queue is the bench's own and is deleted afterwards.

The exit code is 1 when a message was lost or came twice, or when that could not be checked.";

/// Time for all workers to connect before a round begins.
const CONNECTING: Duration = Duration::from_millis(200);

/// Shortest round; a shorter one would measure its own beginning.
const SHORTEST_ROUND: Duration = Duration::from_millis(100);

/// Pause between two looks for missing messages.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct Arguments {
    /// Sending alone, or cycles of sending, receiving and deleting
    #[arg(long, value_enum, default_value_t = Scenario::Cycle)]
    scenario: Scenario,
    /// Senders; a cycle has as many receivers beside them
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// Messages in one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_BATCH as i64))]
    batch: u8,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(MARK_BYTES as i64..=MAX_BODY_BYTES as i64))]
    size: u32,
    /// Length of a round, which has two measurements of that length
    #[arg(long, default_value = "5s", value_parser = parse_round)]
    duration: Duration,
    /// Rounds; the last line shows their medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Threads of the load client [default: half of the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    threads: Option<u8>,
    /// Visibility timeout of the queue, in whole seconds; missing messages are waited for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=43_200))]
    visibility_timeout: u16,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    administrator: Administrator,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Scenario {
    Send,
    Cycle,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn parse_round(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < SHORTEST_ROUND {
        return Err(format!(
            "must be at least {}",
            humantime::format_duration(SHORTEST_ROUND)
        ));
    }
    Ok(duration)
}

/// Runs the benchmark and prints its result on `out`; progress goes to stderr.
pub(super) fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let administrator = &arguments.administrator;
    let server = administrator.target.server()?;
    let token = administrator.token()?;
    let form = Form::new(arguments.size as usize);
    let queue = format!("bench-{}", form.run());
    let path = format!("/v1/queues/{queue}");
    let settings = json!({ "visibility_timeout_seconds": arguments.visibility_timeout });
    let created = server.call(Method::PUT, &path, Some(&token), Some(&settings));
    block_on(created)?.success()?;

    let (connections, batch) = (arguments.connections.into(), arguments.batch.into());
    let plan = Plan::new(server.clone(), &token, &queue, form, connections, batch)?;
    let output = arguments.output;
    let bench = Bench::new(arguments, server.clone(), plan);
    let measured = bench.and_then(|bench| block_on(unless_interrupted(bench)));
    let deleted = block_on(server.call(Method::DELETE, &path, Some(&token), None));
    let report = measured?;
    let deleted = deleted.and_then(|answer| answer.success().map(drop));
    deleted.with_context(|| format!("cannot delete the queue {queue}"))?;

    match output {
        Output::Table => out.write_all(report.table().as_bytes())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    let Verdict {
        lost,
        duplicated,
        invented,
        not_checked,
        ..
    } = report.verdict;
    if let Some(why) = not_checked {
        bail!("whether messages were lost is not checked: receives failed: {why}");
    }
    ensure!(
        lost + duplicated + invented == 0,
        "{lost} messages were lost, {duplicated} came twice, {invented} were never sent"
    );
    Ok(())
}

/// Measures on a thread of its own, which a signal leaves behind: it ends with the process.
async fn unless_interrupted(bench: Bench) -> anyhow::Result<Report> {
    let mut signals = Signals::new()?;
    let (done, measured) = oneshot::channel();
    std::thread::Builder::new()
        .name("bench".to_owned())
        .spawn(move || {
            let _interrupted = done.send(bench.measure());
        })?;
    tokio::select! {
        measured = measured => measured.context("the measurement panicked")?,
        () = signals.next() => bail!("interrupted"),
    }
}

/// A benchmark under way.
struct Bench {
    arguments: Arguments,
    server: Server,
    plan: Arc<Plan>,
    threads: usize,
    echo: Echo,
    sent: Vec<Sent>,
    deliveries: Vec<Delivery>,
    failed: Count,
}

impl Bench {
    fn new(arguments: Arguments, server: Server, plan: Plan) -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = arguments.threads.map_or(processors / 2, usize::from);
        Ok(Self {
            arguments,
            server,
            plan: Arc::new(plan),
            threads: threads.max(1),
            echo: Echo::start()?,
            sent: Vec::new(),
            deliveries: Vec::new(),
            failed: Count::default(),
        })
    }

    fn measure(mut self) -> anyhow::Result<Report> {
        let clock = self.plan.clock.clone();
        let data_dir = self.arguments.administrator.data_dir().ok();
        let directories = data_dir.into_iter().chain([std::env::temp_dir()]);
        let flush = disk::probe(&Vec::from_iter(directories), &clock);
        let mut rounds = Vec::new();
        for round in 0..self.arguments.rounds {
            progress(&format!("round {} of {}", round + 1, self.arguments.rounds))?;
            let echo = self.echo_round()?;
            let ours = self.our_round(round)?;
            rounds.push(Round::new(&self.arguments, echo, ours));
        }
        progress("receiving what is left")?;
        let verdict = self.settle()?;
        Ok(Report::new(
            &self.arguments,
            &self.server,
            rounds,
            flush,
            verdict,
            self.failed,
        ))
    }

    fn workers(&self) -> usize {
        let connections = usize::from(self.arguments.connections);
        match self.arguments.scenario {
            Scenario::Send => connections,
            Scenario::Cycle => 2 * connections,
        }
    }

    fn window(&self) -> Window {
        let start = self.plan.clock.instant() + CONNECTING;
        Window {
            start,
            end: start + self.arguments.duration,
        }
    }

    fn echo_round(&self) -> anyhow::Result<Rate> {
        let window = self.window();
        let server = Server::at(self.echo.address);
        let body = self.plan.form.request(0, self.plan.batch).numbered_from(0);
        let works = load::run(&self.plan, self.threads, self.workers(), |plan, _worker| {
            let (server, body) = (server.clone(), body.clone());
            async move { plan.echo(&server, body, window).await }
        })?;
        let mut count = Count::default();
        for work in works {
            count.add(work.count);
        }
        Ok(count.rate(self.arguments.duration))
    }

    fn our_round(&mut self, round: u8) -> anyhow::Result<Rate> {
        let window = self.window();
        let senders = self.arguments.connections;
        let bounded = self.arguments.scenario == Scenario::Cycle;
        let works = load::run(
            &self.plan,
            self.threads,
            self.workers(),
            |plan, worker| async move {
                match u16::try_from(worker) {
                    Ok(sender) if sender < senders => {
                        // Each round's senders count from zero, so they have numbers of their own.
                        let sender = u16::from(round) * senders + sender;
                        plan.send(sender, bounded, window).await
                    }
                    _ => plan.receive(window).await,
                }
            },
        )?;
        Ok(self.record(works).rate(self.arguments.duration))
    }

    /// Keeps what the verdict needs, and adds up what was counted.
    fn record(&mut self, works: Vec<Work>) -> Count {
        let mut total = Count::default();
        for Work {
            count,
            sent,
            deliveries,
            not_received: _,
        } in works
        {
            total.add(count);
            self.sent.extend(sent);
            self.deliveries.extend(deliveries);
        }
        self.failed.failed += total.failed;
        self.failed.failure = self.failed.failure.take().or(total.failure.take());
        total
    }

    /// Receives what is left until nothing is missing, or until what is missing would have come
    /// back had it only been in flight.
    fn settle(&mut self) -> anyhow::Result<Verdict> {
        let visibility = Duration::from_secs(self.arguments.visibility_timeout.into());
        // Half as long again, since an expired message comes back when somebody asks, not at once.
        let patience = self.plan.clock.instant() + visibility * 3 / 2;
        loop {
            let works = load::run(
                &self.plan,
                self.threads,
                self.workers(),
                |plan, _worker| async move { plan.drain().await },
            )?;
            let not_received = works.iter().find_map(|work| work.not_received.clone());
            self.record(works);
            let mut verdict = ledger::judge(&self.sent, &mut self.deliveries, visibility);
            verdict.not_checked = not_received.filter(|_| verdict.lost > 0);
            if verdict.lost == 0 || self.plan.clock.instant() > patience {
                return Ok(verdict);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Says on stderr how far it is, where somebody watches.
fn progress(text: &str) -> std::io::Result<()> {
    let mut watched = std::io::stderr();
    if watched.is_terminal() {
        writeln!(watched, "{text}")?;
    }
    Ok(())
}

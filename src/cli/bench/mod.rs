//! `towpath bench`: a closed loop over HTTP against running servers, beside a bare echo measured in
//! the same rounds, with a check that nothing was lost or repeated.

mod arguments;
mod baseline;
mod child;
mod condition;
mod disk;
mod echo;
mod ledger;
mod load;
mod machine;
mod message;
mod pace;
mod rate;
mod report;
mod side;
mod target;
mod workers;

use std::io::{IsTerminal as _, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::arguments::{Condition, Output};
use self::child::Child;
use self::condition::{IdleQueues, Passing};
use self::disk::Disk;
use self::ledger::{Ledger, Verdict};
use self::load::Plan;
use self::message::Form;
use self::pace::{Shape, Stop};
use self::rate::{Count, Rate};
use self::report::{Report, Round};
use self::side::{Measuring, Side};
use self::target::{Making, Premises, Target};
use super::http::Server;
use super::{block_on, token};
use crate::app::Signals;
use crate::clock::Clock;

pub(super) use self::arguments::{Arguments, EXAMPLES};
pub(super) use self::baseline::serve_baseline;
pub(super) use self::echo::serve_echo;

/// How long workers may take to end after a signal: receives wait for up to a second.
const GRACE: Duration = Duration::from_millis(1500);

/// Shortest time in which a pause notices a signal.
const TICK: Duration = Duration::from_millis(50);

/// Runs the benchmark and prints its result on `out`; progress goes to stderr.
pub(super) fn run(arguments: Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let output = arguments.output;
    let bench = Bench::new(arguments)?;
    let (premises, stop) = (bench.premises.clone(), bench.how.stop.clone());
    let (measured, removed) = block_on(async {
        let mut signals = Signals::new()?;
        let mut measuring = on_a_thread(move || bench.measure())?;
        let measured = tokio::select! {
            measured = &mut measuring => measured.context("the measurement panicked")?,
            () = signals.next() => {
                stop.now();
                let _too_late = timeout(GRACE, measuring).await;
                Err(anyhow::anyhow!("interrupted"))
            }
        };
        let removing = on_a_thread(move || premises.remove(""))?;
        let removed = tokio::select! {
            removed = removing => removed.context("removing the queues panicked")?,
            () = signals.next() => Err(anyhow::anyhow!("interrupted again: queues are left")),
        };
        Ok((measured, removed))
    })?;
    let report = measured?;
    removed?;
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

/// Works on a thread of its own, which a signal leaves behind: it ends with the process.
fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<oneshot::Receiver<T>> {
    let (done, worked) = oneshot::channel();
    std::thread::Builder::new()
        .name("bench".to_owned())
        .spawn(move || {
            let _left_behind = done.send(work());
        })?;
    Ok(worked)
}

/// A benchmark under way.
struct Bench {
    arguments: Arguments,
    how: Measuring,
    echo: Child,
    baseline: Option<Child>,
    premises: Premises,
    /// The server under test comes first.
    sides: Vec<Side>,
}

impl Bench {
    fn new(arguments: Arguments) -> anyhow::Result<Self> {
        let threads = arguments
            .threads
            .map_or(machine::processors() / 2, usize::from);
        let how = Measuring {
            scenario: arguments.scenario,
            threads: threads.max(1),
            duration: arguments.duration,
            visibility: Duration::from_secs(arguments.visibility_timeout.into()),
            stop: Stop::default(),
        };
        let baseline = arguments.baseline_database()?;
        let connections = arguments.baseline_connections;
        let baseline = baseline.map(|database| baseline::start(&database, connections));
        let mut bench = Self {
            echo: Child::start(echo::COMMAND, "")?,
            baseline: baseline.transpose()?,
            premises: Premises::default(),
            sides: Vec::new(),
            how,
            arguments,
        };
        bench.add_sides()?;
        Ok(bench)
    }

    fn add_sides(&mut self) -> anyhow::Result<()> {
        let administrator = &self.arguments.administrator;
        let token = administrator.token()?;
        let server = administrator.target.server()?;
        let under_test = block_on(Target::new(vec![server], Some(token.clone())))?;
        let limit = under_test.limit;
        ensure!(
            usize::from(self.arguments.batch) <= limit,
            "the server takes at most {limit} messages in one request"
        );
        self.add("A".to_owned(), under_test.name(), under_test.clone())?;
        if !self.arguments.against.is_empty() {
            let other = self.arguments.against_data_dir.as_deref();
            let other = other.map(token::token_in).transpose()?;
            let servers = self.arguments.against.clone();
            let other = block_on(Target::new(servers, Some(other.unwrap_or(token))))?;
            self.add("B".to_owned(), other.name(), other)?;
        }
        if let Some(condition) = self.arguments.condition {
            let what = format!("{} under this condition", under_test.name());
            let passing = self.passing(condition, &under_test)?;
            let side = self.add(condition.to_string(), what, under_test)?;
            side.condition = Some(condition);
            side.passing = passing;
        }
        if let Some(baseline) = &self.baseline {
            let what = "a classic table and a transaction per request".to_owned();
            let mut target = block_on(Target::new(vec![Server::at(baseline.address)], None))?;
            target.limit = limit;
            self.add(report::BASELINE.to_owned(), what, target)?;
        }
        Ok(())
    }

    fn add(&mut self, name: String, what: String, target: Target) -> anyhow::Result<&mut Side> {
        let form = Form::new(self.arguments.size as usize);
        let queue = format!("bench-{}", form.run());
        let shape = Shape {
            senders: self.arguments.connections,
            batch: self.arguments.batch.into(),
            rate: self.arguments.rate,
        };
        let plan = Plan::new(target, queue, form, shape, self.how.stop.clone())?;
        self.sides.push(Side {
            name,
            what,
            plan: Arc::new(plan),
            condition: None,
            passing: None,
            ledger: Ledger::new(self.how.visibility),
            failed: Count::default(),
            verdict: Verdict::default(),
        });
        self.sides.last_mut().context("one was just added")
    }

    fn making(&self, first: Bytes) -> Making {
        Making {
            visibility_timeout: self.arguments.visibility_timeout,
            first,
            stop: self.how.stop.clone(),
        }
    }

    fn passing(&self, condition: Condition, target: &Target) -> anyhow::Result<Option<Passing>> {
        Ok(match condition {
            Condition::HeldSnapshot(hold) => {
                let database = self.arguments.database()?;
                let database = database.context("a held snapshot needs --database-url")?;
                Some(Passing::Snapshot(database, hold, None))
            }
            Condition::IdleQueues(queues) => {
                let form = Form::new(self.arguments.size as usize);
                let first = form.request(0, 1, "").numbered_from(0);
                Some(Passing::Queues(IdleQueues {
                    premises: self.premises.clone(),
                    target: target.clone(),
                    prefix: format!("bench-idle-{}-", form.run()),
                    queues,
                    making: self.making(first),
                }))
            }
            Condition::Backlog(_) | Condition::InFlight(_) | Condition::Delayed(_) => None,
        })
    }

    fn measure(mut self) -> anyhow::Result<Report> {
        let clock = Clock::default();
        let configured = self.arguments.administrator.config(None).ok();
        let data_dir = configured.map(|config| config.data.dir);
        let directories = data_dir.into_iter().chain([std::env::temp_dir()]);
        let mut disk = Disk::find(directories.collect(), &clock);
        self.prepare()?;
        let mut rounds = Vec::new();
        for round in 0..self.arguments.rounds {
            progress(&format!("round {} of {}", round + 1, self.arguments.rounds))?;
            if let Some(disk) = &mut disk {
                disk.probe(&clock)?;
            }
            rounds.push(self.round(round, &clock)?);
        }
        progress("receiving what is left")?;
        for side in &mut self.sides {
            side.settle(&self.how)?;
        }
        Ok(Report::new(&self.arguments, self.sides, rounds, disk))
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        let making = self.making(Bytes::new());
        for side in &mut self.sides {
            // The baseline's queue goes with its schema.
            let is_ours = side.name != report::BASELINE;
            let premises = if is_ours {
                self.premises.clone()
            } else {
                Premises::default()
            };
            let plan = &side.plan;
            premises.make(&plan.target, std::slice::from_ref(&plan.queue), &making)?;
            side.prepare()?;
        }
        Ok(())
    }

    /// The echo first, then all sides, forwards and backwards in turn.
    fn round(&mut self, round: u8, clock: &Clock) -> anyhow::Result<Round> {
        let echo = self.echo_round()?;
        let mut sides = Vec::from_iter(self.sides.iter_mut().enumerate());
        if round % 2 == 1 {
            sides.reverse();
        }
        let mut rates = Vec::new();
        for (number, side) in sides {
            rates.push((number, side.round(round, &self.how)?));
            ensure!(!self.how.stop.is_said(), "interrupted");
            if side.passing.is_some() {
                rest(self.arguments.rest, clock, &self.how.stop);
            }
        }
        rates.sort_unstable_by_key(|(number, _)| *number);
        let sides = rates.into_iter().map(|(_, rate)| rate).collect();
        Ok(Round { echo, sides })
    }

    fn echo_round(&self) -> anyhow::Result<Rate> {
        let plan = &self.sides.first().context("nothing to measure")?.plan;
        let window = self.how.window(plan, Duration::ZERO);
        let server = Server::at(self.echo.address);
        let request = plan.form.request(0, plan.shape.batch, "");
        let body = { request }.numbered_from(0);
        let cpu = machine::cpu_time();
        let works = workers::run(self.how.threads, self.how.workers(plan), |_worker| {
            let (plan, server, body) = (Arc::clone(plan), server.clone(), body.clone());
            async move { plan.echo(&server, body, window).await }
        })?;
        let cpu = machine::cpu_time().saturating_sub(cpu);
        let mut count = Count::default();
        for work in works {
            count.add(work.count);
        }
        Ok(count.rate(self.how.duration, cpu))
    }
}

/// Waits, unless it is to stop.
fn rest(pause: Duration, clock: &Clock, stop: &Stop) {
    let end = clock.instant() + pause;
    while clock.instant() < end && !stop.is_said() {
        std::thread::sleep(TICK.min(pause));
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

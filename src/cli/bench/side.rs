//! One of the things that are compared: a server's queue, what happens to it before and while it is
//! measured, and what is known of its messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::ensure;

use super::arguments::{Condition, Scenario};
use super::condition::Passing;
use super::ledger::{Ledger, Verdict};
use super::load::{Plan, Work};
use super::machine::cpu_time;
use super::pace::{Stop, Window};
use super::rate::{Count, Rate};
use super::target::HELPERS;
use super::{progress, workers};

/// The numbers of those who load messages beforehand; senders of rounds stay below.
const PRELOADERS: u16 = 60_000;

/// For how long messages are taken or put off that nobody is to meet: half a day.
const AWAY: Duration = Duration::from_secs(12 * 60 * 60);

/// Time for all workers to connect before a measurement begins.
const CONNECTING: Duration = Duration::from_millis(50);
const CONNECTING_ONE: Duration = Duration::from_millis(1);

/// Pause between two looks for missing messages.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How often it is said how far loading is.
const SAY: Duration = Duration::from_secs(1);

pub(super) struct Side {
    pub(super) name: String,
    /// What it is, in a few words.
    pub(super) what: String,
    pub(super) plan: Arc<Plan>,
    pub(super) condition: Option<Condition>,
    pub(super) passing: Option<Passing>,
    pub(super) ledger: Ledger,
    pub(super) failed: Count,
    pub(super) verdict: Verdict,
}

/// How every side is measured.
#[derive(Clone)]
pub(super) struct Measuring {
    pub(super) scenario: Scenario,
    pub(super) threads: usize,
    pub(super) duration: Duration,
    pub(super) visibility: Duration,
    pub(super) stop: Stop,
}

impl Measuring {
    pub(super) fn workers(&self, plan: &Plan) -> usize {
        let senders = plan.shape.senders.into();
        match self.scenario {
            Scenario::Send => senders,
            Scenario::Cycle => 2 * senders,
        }
    }

    /// A window that begins when all workers are connected, after some time that does not count.
    pub(super) fn window(&self, plan: &Plan, before: Duration) -> Window {
        let workers = u32::try_from(self.workers(plan)).unwrap_or(u32::MAX);
        let connecting = CONNECTING + CONNECTING_ONE.saturating_mul(workers);
        let begin = plan.clock.instant() + connecting;
        let start = begin + before;
        let end = start + self.duration;
        Window { begin, start, end }
    }
}

impl Side {
    /// Brings the queue into the state that its measurements begin with.
    ///
    /// # Errors
    /// The server refuses or does not do it.
    pub(super) fn prepare(&mut self) -> anyhow::Result<()> {
        match self.condition {
            Some(Condition::Backlog(messages)) => {
                let works = self.preload(messages, "")?;
                self.record(works);
            }
            Some(Condition::InFlight(messages)) => {
                let mut works = self.preload(messages, "")?;
                for sent in works.iter_mut().filter_map(|work| work.sent.as_mut()) {
                    sent.visibility = Some(AWAY);
                }
                self.record(works);
                let works = self.take(messages)?;
                self.record(works);
                self.ledger.fold();
            }
            Some(Condition::Delayed(messages)) => {
                // Not written down: one that comes before its time was never sent.
                self.preload(messages, &format!(r#""delay_seconds":{},"#, AWAY.as_secs()))?;
            }
            Some(Condition::HeldSnapshot(_) | Condition::IdleQueues(_)) | None => {}
        }
        Ok(())
    }

    fn preload(&self, messages: u32, more: &str) -> anyhow::Result<Vec<Work>> {
        let helpers = u16::try_from(HELPERS)?;
        let more: Arc<str> = more.into();
        self.watched("loaded", messages, || {
            workers::run(1, HELPERS, |worker| {
                let (plan, more) = (Arc::clone(&self.plan), Arc::clone(&more));
                async move {
                    let number = u16::try_from(worker)?;
                    let share = messages / u32::from(helpers)
                        + u32::from(u32::from(number) < messages % u32::from(helpers));
                    plan.preload(worker, PRELOADERS + number, share, &more)
                        .await
                }
            })
        })
    }

    fn take(&self, messages: u32) -> anyhow::Result<Vec<Work>> {
        self.watched("taken", messages, || {
            workers::run(1, HELPERS, |worker| {
                let plan = Arc::clone(&self.plan);
                async move { plan.take(worker, messages.into(), AWAY).await }
            })
        })
    }

    /// Does some work, and says from time to time how far it is.
    fn watched<T>(&self, done: &str, messages: u32, work: impl FnOnce() -> T) -> T {
        let plan = &self.plan;
        plan.done.store(0, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let (end, ended) = channel::<()>();
            scope.spawn(move || {
                while ended.recv_timeout(SAY) == Err(RecvTimeoutError::Timeout) {
                    let so_far = plan.done.load(Ordering::Relaxed);
                    // Who closes stderr does not want to know.
                    let _told = progress(&format!("{so_far} of {messages} messages {done}"));
                }
            });
            let worked = work();
            drop(end);
            worked
        })
    }

    /// Measures once; `round` is new each time.
    ///
    /// # Errors
    /// The server cannot be reached, or breaks the protocol.
    pub(super) fn round(&mut self, round: u8, how: &Measuring) -> anyhow::Result<Rate> {
        let lasts = self.passing.as_ref().map_or(Duration::ZERO, Passing::lasts);
        if let Some(passing) = &mut self.passing {
            passing.begin()?;
        }
        let window = how.window(&self.plan, lasts.saturating_sub(how.duration));
        let senders = self.plan.shape.senders;
        let bounded = how.scenario == Scenario::Cycle;
        let cpu = cpu_time();
        let works = workers::run(how.threads, how.workers(&self.plan), |worker| {
            let plan = Arc::clone(&self.plan);
            async move {
                match u16::try_from(worker) {
                    Ok(number) if number < senders => {
                        // Each round's senders count from zero, so they have numbers of their own.
                        let sender = u16::from(round) * senders + number;
                        plan.send(number, sender, bounded, window).await
                    }
                    _ => plan.receive(worker - usize::from(senders), window).await,
                }
            }
        })?;
        let cpu = cpu_time().saturating_sub(cpu);
        if let Some(passing) = &mut self.passing {
            passing.end()?;
        }
        let mut count = self.record(works);
        self.ledger.fold();
        Ok(count.rate(how.duration, cpu))
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
            if let Some(sent) = sent {
                self.ledger.sent(sent);
            }
            self.ledger.received(deliveries);
        }
        self.failed.failed += total.failed;
        self.failed.failure = self.failed.failure.take().or(total.failure.take());
        total
    }

    /// Receives what is left until nothing is missing, or until what is missing would have come
    /// back had it only been in flight.
    ///
    /// # Errors
    /// The server cannot be reached, or breaks the protocol.
    pub(super) fn settle(&mut self, how: &Measuring) -> anyhow::Result<()> {
        // Half as long again, since an expired message comes back when somebody asks, not at once.
        let patience = how.visibility * 3 / 2;
        let mut until = self.plan.clock.instant() + patience;
        let mut left = u64::MAX;
        loop {
            ensure!(!how.stop.is_said(), "interrupted");
            let works = workers::run(how.threads, how.workers(&self.plan), |worker| {
                let plan = Arc::clone(&self.plan);
                async move { plan.drain(worker).await }
            })?;
            let not_received = works.iter().find_map(|work| work.not_received.clone());
            self.record(works);
            self.ledger.fold();
            let now = self.plan.clock.instant();
            let unsettled = self.ledger.unsettled();
            if unsettled < left {
                (left, until) = (unsettled, now + patience);
                progress(&format!("{}: {left} messages left", self.name))?;
                continue;
            }
            self.verdict = self.ledger.verdict();
            self.verdict.not_checked = not_received.filter(|_| self.verdict.lost > 0);
            if self.verdict.lost == 0 || now > until {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

//! One redrive, as long as this node holds it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::parts::{Part, Plan};
use super::targets::{Goes, Targets};
use super::{Redrives, TERMS, warn};
use crate::broker::{Redriven, Taken};
use crate::domain::Error;
use crate::domain::lane::SubscriptionId;
use crate::domain::queue::Queue;
use crate::domain::redrive::{Candidate, RedriveState, RedriveTask};
use crate::metrics::Count;
use crate::store::{Failure, LeaseRow, Progress};

/// How often a node says how far it is, and hears whether it is to go on.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long it waits when there is nothing to take, or when something went wrong.
const PAUSE: Duration = Duration::from_millis(500);
/// Leases of messages that are not meant which a redrive holds at once, each of up to 62 messages.
const MAX_HELD: usize = 50_000;
/// Leases in one statement.
const PAGE: usize = 1_000;
/// Claims in a row that brought nothing but messages which came after the start.
const MAX_LATE: usize = 3;

/// A redrive, and what this node holds for it.
#[derive(Debug)]
pub(super) struct Moving {
    redrives: Redrives,
    task: RedriveTask,
    pace: Pace,
    targets: Targets,
    /// Leases of messages that are not meant.
    held: BTreeSet<LeaseRow>,
    kept_at: Instant,
    progress: Progress,
    reported_at: Instant,
    /// Claims in a row that brought nothing that was there at the start.
    late: usize,
}

/// Why a node stops with a redrive.
enum End {
    /// Nothing is left to be moved.
    Completed,
    /// It cannot go on.
    Failed(String),
    /// Somebody cancelled it, or the node stops: nothing more is to be said.
    Released,
    /// Another node has it.
    Lost,
}

/// What one round did.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// There may be more.
    More,
    /// There was nothing to take.
    Nothing,
    /// Something could not be done just now.
    NotNow,
}

/// What ends a round.
enum Break {
    End(End),
    Failure(Failure),
    Error(Error),
}

impl From<Failure> for Break {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Moving {
    pub(super) fn new(redrives: Redrives, task: RedriveTask) -> Self {
        let now = redrives.clock.instant();
        Self {
            pace: Pace::new(task.max_per_second, now),
            targets: Targets::new(now),
            held: BTreeSet::new(),
            kept_at: now,
            progress: Progress::default(),
            reported_at: now,
            late: 0,
            redrives,
            task,
        }
    }

    /// Moves what is meant, until there is nothing left or somebody ends it; gives back the rest.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let end = self.work(&stop).await;
        self.give_back_all().await;
        let (store, id, node) = (&self.redrives.store, self.task.id, self.redrives.node);
        let ended = match end {
            End::Lost => return,
            End::Released => store.release_redrive(id, node).await,
            End::Completed => store.end_redrive(id, node, None).await,
            End::Failed(error) => {
                tracing::warn!(redrive = %id, error, "a redrive cannot go on");
                store.end_redrive(id, node, Some(error)).await
            }
        };
        if let Err(failure) = ended {
            warn(
                &failure,
                "the end of a redrive is not written down; a node will take it up again",
            );
        }
    }

    async fn work(&mut self, stop: &CancellationToken) -> End {
        let source = match self.source().await {
            Ok(source) => source,
            Err(end) => return end,
        };
        loop {
            let round = match self.round(&source, stop).await {
                Ok(round) => round,
                Err(Break::End(end)) => return self.last_report(end).await,
                Err(Break::Error(Error::QueueNotFound { .. })) => {
                    let error = "the queue was deleted".to_owned();
                    return self.last_report(End::Failed(error)).await;
                }
                Err(Break::Error(error)) => {
                    self.not_now(&error);
                    Round::NotNow
                }
                Err(Break::Failure(failure)) => {
                    self.not_now(&failure);
                    Round::NotNow
                }
            };
            if round != Round::More {
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }

    /// What a claim may have taken is hidden for a while, and nobody has it in hand.
    fn not_now(&mut self, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(redrive = %self.task.id, error, "a redrive cannot go on just now");
        self.progress.unsettled = true;
    }

    async fn source(&self) -> Result<Arc<Queue>, End> {
        let (id, name) = &self.task.source;
        let found = self.redrives.store.get_queue(&self.task.tenant, name).await;
        match found {
            Ok(Some(queue)) if queue.id == *id => Ok(Arc::new(queue)),
            Ok(_) => Err(End::Failed("the queue was deleted".to_owned())),
            Err(failure) => {
                warn(&failure, "a redrive cannot begin just now");
                Err(End::Released)
            }
        }
    }

    async fn round(
        &mut self,
        source: &Arc<Queue>,
        stop: &CancellationToken,
    ) -> Result<Round, Break> {
        if stop.is_cancelled() {
            return Err(Break::End(End::Released));
        }
        self.report_if_due().await?;
        self.keep_if_due().await?;
        if self.held.len() > MAX_HELD {
            let error = format!(
                "there are too many messages in the queue that are not meant: more than {MAX_HELD} \
                 chunks of them; what was moved has moved"
            );
            return Err(Break::End(End::Failed(error)));
        }
        let size = self.pace.claim();
        let broker = &self.redrives.broker;
        let taken = broker.take(source, size, TERMS.move_window).await;
        let taken = taken.map_err(Break::Error)?;
        let was_there = |taken: &Taken| {
            let mut messages = taken.messages.iter();
            messages.any(|message| self.task.was_there(taken.row.lane, message.seq))
        };
        let is_late = !taken.iter().any(was_there);
        self.late = if is_late { self.late + 1 } else { 0 };
        let messages: usize = taken.iter().map(|taken| taken.messages.len()).sum();
        if taken.is_empty() || (self.late > MAX_LATE && messages < size) {
            self.take_over(Plan::aside(&taken)).await?;
            return self.nothing_left().await;
        }
        let plan = self.plan(&taken).await;
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                // Nothing of it is to be hidden for long.
                let aside = self.take_over(Plan::aside(&taken)).await;
                self.give_back(&taken).await;
                aside?;
                return Err(error);
            }
        };
        let parts = self.take_over(plan).await?;
        self.move_parts(source, parts, stop).await
    }

    /// Everything visible was looked at. What others hold on behalf of a redrive comes back first.
    async fn nothing_left(&mut self) -> Result<Round, Break> {
        self.report().await?;
        let source = self.source().await.map_err(Break::End)?;
        if source.settings.receiving_paused {
            // It only looks empty.
            return Ok(Round::Nothing);
        }
        let store = &self.redrives.store;
        if store.is_redrive_settled(self.task.id, TERMS).await? {
            return Err(Break::End(End::Completed));
        }
        Ok(Round::Nothing)
    }

    /// What becomes of messages that were taken.
    async fn plan(&mut self, taken: &[Taken]) -> Result<Plan, Break> {
        let mut plan = Plan::default();
        self.targets.refresh(self.redrives.clock.instant());
        for taken in taken {
            let mut going = Vec::new();
            for message in &taken.messages {
                let age = Duration::try_from(taken.at - message.sent_at);
                let candidate = Candidate {
                    message_id: message.message_id,
                    age: age.unwrap_or_default(),
                    frame: &message.frame,
                };
                let is_meant = self.task.was_there(taken.row.lane, message.seq)
                    && self.task.filter.matches(candidate);
                if !is_meant {
                    continue;
                }
                let (store, task) = (&self.redrives.store, &self.task);
                match self.targets.of(store, task, message, taken.at).await? {
                    Goes::To(target) => going.push((message, target)),
                    Goes::Nowhere => plan.skipped += 1,
                    Goes::TargetGone => return Err(Break::End(target_gone())),
                }
            }
            plan.cut(taken, going, self.pace.step());
        }
        Ok(plan)
    }

    /// Makes messages those of the redrive: the parts that are to move.
    async fn take_over(&mut self, mut plan: Plan) -> Result<Vec<Part>, Break> {
        let holds = plan.holds(TERMS);
        if holds.is_empty() {
            return Ok(Vec::new());
        }
        let mut session = self.redrives.session.lock().await;
        let masks = session.hold(SubscriptionId::QUEUE, &holds).await?;
        drop(session);
        self.progress.skipped += plan.skipped;
        let mut parts = Vec::new();
        for (part, mask) in plan.into_parts().into_iter().zip(masks) {
            match part.target {
                _ if mask == 0 => {}
                None => {
                    self.held.insert(part.row());
                }
                Some(_) => parts.extend(part.left_with(mask)),
            }
        }
        Ok(parts)
    }

    /// Moves parts at the pace that is asked for. When the redrive ends meanwhile, the rest is given back.
    async fn move_parts(
        &mut self,
        source: &Queue,
        parts: Vec<Part>,
        stop: &CancellationToken,
    ) -> Result<Round, Break> {
        let mut parts = parts.into_iter().peekable();
        let mut round = Round::More;
        while parts.peek().is_some() {
            let mut batch = Vec::new();
            let mut messages = 0;
            while let Some(part) =
                parts.next_if(|part| batch.is_empty() || messages + part.len() <= self.pace.step())
            {
                messages += part.len();
                batch.push(part);
            }
            let due = self.pace.allow(messages, self.redrives.clock.instant());
            let wait = due.saturating_duration_since(self.redrives.clock.instant());
            let waited = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
            let goes_on = match waited {
                None => Err(Break::End(End::Released)),
                Some(()) => self.report_if_due().await,
            };
            if let Err(end) = goes_on {
                batch.extend(parts);
                self.let_go(batch.iter().map(Part::row).collect()).await;
                return Err(end);
            }
            if self.move_batch(source, batch).await? == Round::NotNow {
                round = Round::NotNow;
            }
        }
        Ok(round)
    }

    async fn move_batch(&mut self, source: &Queue, batch: Vec<Part>) -> Result<Round, Break> {
        let redriven: Vec<Redriven<'_>> = batch
            .iter()
            .filter_map(|part| {
                Some(Redriven {
                    lease: part.lease,
                    messages: &part.messages,
                    target: part.target.as_ref()?,
                })
            })
            .collect();
        let moved = self.redrives.broker.redrive(&redriven).await;
        let mut stayed = Vec::new();
        let mut went = 0;
        for (part, moved) in batch.iter().zip(moved) {
            match moved {
                Ok(()) => {
                    self.progress.moved += part.count();
                    went += part.len();
                }
                Err(error) => stayed.push((part, error)),
            }
        }
        let metrics = self.redrives.broker.metrics();
        metrics.count(source, &[(Count::Redriven, went)]);
        if stayed.is_empty() {
            return Ok(Round::More);
        }
        self.settle(stayed).await
    }

    /// Finds out what became of those that were not moved.
    async fn settle(&mut self, mut stayed: Vec<(&Part, Error)>) -> Result<Round, Break> {
        stayed.sort_unstable_by_key(|(part, _)| part.row());
        let rows: Vec<LeaseRow> = stayed.iter().map(|(part, _)| part.row()).collect();
        let masks = self.keep(&rows, TERMS.hold_window).await?;
        let mut back = Vec::new();
        let mut round = Round::More;
        for ((part, error), mask) in stayed.into_iter().zip(masks) {
            if mask == 0 {
                // It has moved after all, or somebody deleted it.
                continue;
            }
            match error {
                Error::QueueNotFound { .. } => {
                    self.targets.forget();
                    back.push(part.row());
                }
                Error::Internal(_) if mask == part.lease.mask => {
                    self.progress.failed += part.count();
                    self.held.insert(part.row());
                }
                _ => {
                    round = Round::NotNow;
                    back.push(part.row());
                }
            }
        }
        self.let_go(back).await;
        Ok(round)
    }

    /// Hides leases for so long from now on; zero gives them back. What each holds.
    async fn keep(&self, rows: &[LeaseRow], window: Duration) -> Result<Vec<u64>, Failure> {
        let mut session = self.redrives.session.lock().await;
        let kept = session.keep(SubscriptionId::QUEUE, rows, window).await;
        if kept.is_ok() && window.is_zero() {
            self.redrives.broker.wake(self.task.source.0);
        }
        kept
    }

    async fn give_back(&mut self, taken: &[Taken]) {
        let rows: Vec<LeaseRow> = taken.iter().map(|taken| taken.row).collect();
        for row in &rows {
            self.held.remove(row);
        }
        self.let_go(rows).await;
    }

    /// Gives leases back, as far as that can be done; the others come back when their windows end.
    async fn let_go(&mut self, mut rows: Vec<LeaseRow>) {
        rows.sort_unstable();
        for page in rows.chunks(PAGE) {
            if let Err(failure) = self.keep(page, Duration::ZERO).await {
                warn(&failure, "messages of a redrive are hidden for a while");
                self.progress.unsettled = true;
            }
        }
    }

    async fn give_back_all(&mut self) {
        let rows = std::mem::take(&mut self.held).into_iter().collect();
        self.let_go(rows).await;
    }

    /// Lets what is not meant stay hidden.
    async fn keep_if_due(&mut self) -> Result<(), Failure> {
        let now = self.redrives.clock.instant();
        if now.saturating_duration_since(self.kept_at) < TERMS.hold_window / 3 {
            return Ok(());
        }
        self.kept_at = now;
        let rows: Vec<LeaseRow> = self.held.iter().copied().collect();
        for page in rows.chunks(PAGE) {
            let masks = self.keep(page, TERMS.hold_window).await?;
            for (row, mask) in page.iter().zip(masks) {
                if mask == 0 {
                    self.held.remove(row);
                }
            }
        }
        Ok(())
    }

    async fn report_if_due(&mut self) -> Result<(), Break> {
        let now = self.redrives.clock.instant();
        if now.saturating_duration_since(self.reported_at) < REPORT_EVERY {
            return Ok(());
        }
        self.report().await
    }

    /// Says how far it is; hears whether it goes on.
    async fn report(&mut self) -> Result<(), Break> {
        let (id, node) = (self.task.id, self.redrives.node);
        self.reported_at = self.redrives.clock.instant();
        let progress = std::mem::take(&mut self.progress);
        let store = &self.redrives.store;
        match store.report_redrive(id, node, progress, TERMS).await {
            Ok(Some(RedriveState::Running)) => Ok(()),
            Ok(Some(_)) => Err(Break::End(End::Released)),
            Ok(None) => Err(Break::End(End::Lost)),
            Err(failure) => {
                // What was lost may be counted: nothing is counted twice.
                if !matches!(failure, Failure::Lost(_)) {
                    self.progress = progress;
                }
                self.progress.unsettled |= progress.unsettled;
                Err(failure.into())
            }
        }
    }

    /// The counts are whole before the end is said.
    async fn last_report(&mut self, end: End) -> End {
        if matches!(end, End::Lost) || self.progress == Progress::default() {
            return end;
        }
        match self.report().await {
            Err(Break::End(End::Lost)) => End::Lost,
            _ => end,
        }
    }
}

fn target_gone() -> End {
    End::Failed("the queue that messages were to go to was deleted".to_owned())
}

//! The lines of receivers: who waits on which queue, and which queue is looked at next.
//!
//! Only memory and time: what a claim finds, and what it means for those who wait, is `claim`'s.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Receive;
use super::claim::Delivery;
use crate::domain::Result;
use crate::domain::lane::QueueId;
use crate::domain::queue::Queue;

/// One request to receive, from its arrival to its answer.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) receive: Receive,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Vec<Delivery>>>,
}

/// The receivers of one queue, first come, first served.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) queue: Arc<Queue>,
    receivers: VecDeque<Receiver>,
    /// In the list of queues to look at next.
    hot: bool,
    /// When to look again although nobody says anything.
    timer: Option<Instant>,
    /// At or before the earliest deadline of a receiver.
    earliest: Instant,
    /// Since when lanes of this queue were found busy without a break.
    pub(super) busy_since: Option<Instant>,
    /// They were for too long: the next claim waits for them.
    pub(super) insist: bool,
}

/// All lines, the queues to look at next, and those to look at later.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: HashMap<QueueId, Line>,
    hot: VecDeque<QueueId>,
    timers: BTreeSet<(Instant, QueueId)>,
    waiting: usize,
}

impl Lines {
    /// Receivers in all lines.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn get_mut(&mut self, queue: QueueId) -> Option<&mut Line> {
        self.lines.get_mut(&queue)
    }

    /// Puts a receiver at the end of a queue's line, and has the queue looked at.
    pub(super) fn join(&mut self, queue: Arc<Queue>, receiver: Receiver) {
        let (id, deadline) = (queue.id, receiver.deadline);
        let line = self.lines.entry(id).or_insert_with(|| Line {
            queue: Arc::clone(&queue),
            receivers: VecDeque::new(),
            hot: false,
            timer: None,
            earliest: deadline,
            busy_since: None,
            insist: false,
        });
        line.earliest = line.earliest.min(deadline);
        // Also of the same version: whether its dead-letter queue lives is not counted in it.
        if queue.version >= line.queue.version {
            line.queue = queue;
        }
        line.receivers.push_back(receiver);
        self.waiting += 1;
        self.heat(id);
    }

    /// Receivers that got nothing stand first in their line again.
    pub(super) fn put_back(&mut self, queue: QueueId, receivers: Vec<Receiver>) {
        let Some(line) = self.lines.get_mut(&queue) else {
            return;
        };
        self.waiting += receivers.len();
        for receiver in receivers.into_iter().rev() {
            line.receivers.push_front(receiver);
        }
    }

    /// Puts a queue that somebody waits on in the list of those to look at.
    pub(super) fn heat(&mut self, queue: QueueId) {
        if let Some(line) = self.lines.get_mut(&queue).filter(|line| !line.hot) {
            line.hot = true;
            self.hot.push_back(queue);
        }
    }

    /// The same, for every queue that somebody waits on.
    pub(super) fn heat_all(&mut self) {
        let queues: Vec<_> = self.lines.keys().copied().collect();
        for queue in queues {
            self.heat(queue);
        }
    }

    /// The same, before all others.
    fn heat_first(&mut self, queue: QueueId) {
        if let Some(line) = self.lines.get_mut(&queue).filter(|line| !line.hot) {
            line.hot = true;
            self.hot.push_front(queue);
        }
    }

    /// Puts queues before all others, the first of them first.
    pub(super) fn heat_all_first(&mut self, queues: impl DoubleEndedIterator<Item = QueueId>) {
        for queue in queues.rev() {
            self.heat_first(queue);
        }
    }

    /// The queue to look at next, and whether its claim must wait for busy lanes.
    pub(super) fn next(&self) -> Option<(QueueId, bool)> {
        let queue = *self.hot.front()?;
        let insists = self.lines.get(&queue).is_some_and(|line| line.insist);
        Some((queue, insists))
    }

    /// Takes the queue to look at next off the list, with up to `most` of its receivers, who want
    /// about `messages` messages: those who have not hung up. A line without receivers goes.
    pub(super) fn take_next(
        &mut self,
        most: usize,
        messages: usize,
    ) -> Option<(Arc<Queue>, Vec<Receiver>)> {
        let queue = self.hot.pop_front()?;
        self.set_timer(queue, None);
        let line = self.lines.get_mut(&queue)?;
        line.hot = false;
        line.insist = false;
        let mut taken: Vec<Receiver> = Vec::new();
        let mut wanted = 0;
        while taken.len() < most && wanted < messages {
            let Some(receiver) = line.receivers.pop_front() else {
                break;
            };
            self.waiting -= 1;
            if !receiver.reply.is_closed() {
                wanted += receiver.receive.max;
                taken.push(receiver);
            }
        }
        if taken.is_empty() {
            self.lines.remove(&queue);
            return None;
        }
        Some((Arc::clone(&line.queue), taken))
    }

    /// Removes a line when nobody stands in it any more; whether that was so.
    pub(super) fn remove_if_empty(&mut self, queue: QueueId) -> bool {
        let is_empty = |line: &Line| line.receivers.is_empty();
        let empty = self.lines.get(&queue).is_none_or(is_empty);
        if empty {
            self.lines.remove(&queue);
        }
        empty
    }

    /// Ends a line; whoever stood in it.
    pub(super) fn end(&mut self, queue: QueueId) -> VecDeque<Receiver> {
        let line = self.lines.remove(&queue);
        let receivers = line.map(|line| line.receivers).unwrap_or_default();
        self.waiting -= receivers.len();
        receivers
    }

    /// Takes those out of a line whose time is up, and says when that is for the next one.
    pub(super) fn take_overdue(
        &mut self,
        queue: QueueId,
        now: Instant,
    ) -> (Vec<Receiver>, Option<Instant>) {
        let Some(line) = self.lines.get_mut(&queue) else {
            return (Vec::new(), None);
        };
        if line.earliest > now {
            return (Vec::new(), Some(line.earliest));
        }
        let receivers = std::mem::take(&mut line.receivers);
        let (overdue, waiting): (Vec<_>, Vec<_>) = receivers
            .into_iter()
            .partition(|receiver| receiver.deadline <= now);
        self.waiting -= overdue.len();
        let earliest = waiting.iter().map(|receiver| receiver.deadline).min();
        line.receivers = waiting.into();
        line.earliest = earliest.unwrap_or(now);
        (overdue, earliest)
    }

    /// The node shuts down: everybody who waits is looked after once more and then answered.
    pub(super) fn end_waits(&mut self, now: Instant) {
        for line in self.lines.values_mut() {
            line.earliest = now;
            for receiver in &mut line.receivers {
                receiver.deadline = now;
            }
        }
        self.heat_all();
    }

    /// Heats the queues whose timers have come.
    pub(super) fn fire_timers(&mut self, now: Instant) {
        while let Some((at, queue)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, queue));
            if let Some(line) = self.lines.get_mut(&queue) {
                line.timer = None;
            }
            self.heat(queue);
        }
    }

    /// How long until the next timer.
    pub(super) fn until_next_timer(&self, now: Instant) -> Option<Duration> {
        let (at, _) = self.timers.first()?;
        Some(at.saturating_duration_since(now))
    }

    /// Sets or ends a line's timer.
    pub(super) fn set_timer(&mut self, queue: QueueId, at: Option<Instant>) {
        if let Some(line) = self.lines.get_mut(&queue) {
            if let Some(old) = std::mem::replace(&mut line.timer, at) {
                self.timers.remove(&(old, queue));
            }
            if let Some(at) = at {
                self.timers.insert((at, queue));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::domain::queue::{QueueName, QueueSettings};

    type Answer = oneshot::Receiver<Result<Vec<Delivery>>>;

    /// A receiver joins; it has hung up once its answer is dropped.
    fn join(lines: &mut Lines, raw: i32) -> (QueueId, Answer) {
        let clock = Clock::default();
        let id = QueueId::new(raw).unwrap();
        let queue = Queue {
            id,
            name: QueueName::parse("name", &format!("q{raw}")).unwrap(),
            settings: QueueSettings::default(),
            dead_letters_to: None,
            created_at: clock.utc(),
            version: 1,
        };
        let receive = Receive {
            max: 1,
            wait: Duration::ZERO,
            window: Duration::ZERO,
        };
        let (reply, answer) = oneshot::channel();
        let deadline = clock.instant();
        lines.join(
            Arc::new(queue),
            Receiver {
                receive,
                deadline,
                reply,
            },
        );
        (id, answer)
    }

    #[test]
    fn queues_that_a_claim_did_not_get_to_come_first_and_keep_their_order() {
        let mut lines = Lines::default();
        let (queues, _answers): (Vec<_>, Vec<_>) = (1..=4).map(|raw| join(&mut lines, raw)).unzip();
        let mut taken: Vec<_> = (0..3).map(|_| lines.take_next(1, 1).unwrap().1).collect();
        for (queue, receivers) in queues.iter().zip(taken.drain(..)) {
            lines.put_back(*queue, receivers);
        }
        lines.heat_all_first(queues[..3].iter().copied());
        let mut order = Vec::new();
        while let Some((queue, _insists)) = lines.next() {
            order.push(queue);
            lines.take_next(1, 1);
        }
        assert_eq!(order, queues);
    }
}

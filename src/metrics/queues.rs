//! What is counted of each queue, for a limited number of queues. Those beyond it are only numbered; what
//! happens in them is in the node's sums.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::families::{
    DEAD_LETTERED, DELETED, EMPTY_RECEIVES, MESSAGES, OLDEST_AGE, OMITTED, RECEIVED, REDRIVEN,
    SENT, SENT_BYTES,
};
use super::text::{head, sample};
use crate::domain::lane::QueueId;
use crate::domain::queue::{Counts, QueueName};

/// Queues without series of their own that are remembered, so as to say how many they are; more are not counted.
const MAX_OMITTED: usize = 100_000;

/// How long nothing must happen in a queue until its series end; they begin anew with the next thing that does.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// How often that is looked at.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Messages stored for senders.
    Sent,
    /// Bytes of their bodies.
    SentBytes,
    /// Messages handed to receivers.
    Received,
    /// Receives without a message.
    EmptyReceives,
    /// Messages deleted.
    Deleted,
    /// Messages that went to the dead-letter queue.
    DeadLettered,
    /// Messages that redrives moved away.
    Redriven,
}

impl Count {
    pub(super) const ALL: [Self; 7] = [
        Self::Sent,
        Self::SentBytes,
        Self::Received,
        Self::EmptyReceives,
        Self::Deleted,
        Self::DeadLettered,
        Self::Redriven,
    ];

    pub(super) const fn family(self) -> &'static str {
        match self {
            Self::Sent => SENT,
            Self::SentBytes => SENT_BYTES,
            Self::Received => RECEIVED,
            Self::EmptyReceives => EMPTY_RECEIVES,
            Self::Deleted => DELETED,
            Self::DeadLettered => DEAD_LETTERED,
            Self::Redriven => REDRIVEN,
        }
    }
}

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHolds {
    /// Its number.
    pub queue: QueueId,
    /// Its name.
    pub name: QueueName,
    /// What it holds.
    pub counts: Counts,
}

/// The counters of one queue.
#[derive(Debug)]
pub(super) struct OfQueue {
    name: QueueName,
    counts: [AtomicU64; Count::ALL.len()],
}

impl OfQueue {
    fn new(name: &QueueName) -> Self {
        Self {
            name: name.clone(),
            counts: Default::default(),
        }
    }

    pub(super) fn add(&self, count: Count, number: u64) {
        self.counts[count as usize].fetch_add(number, Ordering::Relaxed);
    }

    fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Grows with whatever happens. Bytes go with messages.
    fn activity(&self) -> u64 {
        let all = Count::ALL.map(|count| self.get(count));
        all.into_iter().fold(0, u64::wrapping_add)
    }
}

#[derive(Debug, Default)]
struct Known {
    queues: HashMap<QueueId, Arc<OfQueue>>,
    omitted: HashSet<QueueId>,
}

/// All queues that something was counted of.
#[derive(Debug)]
pub(super) struct Queues {
    max: usize,
    known: RwLock<Known>,
    /// What they hold, where this node knows.
    holds: Mutex<Option<HashMap<QueueId, Counts>>>,
    idle: Mutex<Idle>,
}

/// Since when nothing has happened in each queue.
#[derive(Debug, Default)]
struct Idle {
    looked_at: Option<Instant>,
    /// When those without series were last numbered anew.
    numbered_at: Option<Instant>,
    since: HashMap<QueueId, (u64, Instant)>,
}

impl Queues {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            known: RwLock::default(),
            holds: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// The counters of a queue, unless there is no room for them.
    pub(super) fn of(&self, queue: QueueId, name: &QueueName) -> Option<Arc<OfQueue>> {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(of_queue) = known.queues.get(&queue) {
                return Some(Arc::clone(of_queue));
            }
            let is_numbered = known.omitted.len() >= MAX_OMITTED || known.omitted.contains(&queue);
            if is_numbered && known.queues.len() >= self.max {
                return None;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.add(self.max, queue, name)
    }

    pub(super) fn forget(&self, queue: QueueId) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.queues.remove(&queue);
        known.omitted.remove(&queue);
        drop(known);
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = holds.as_mut() {
            holds.remove(&queue);
        }
    }

    pub(super) fn set_holds(&self, holds: Option<Vec<QueueHolds>>) {
        let holds = holds.map(|holds| {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            for held in &holds {
                known.add(self.max, held.queue, &held.name);
            }
            let counts = holds.into_iter().map(|held| (held.queue, held.counts));
            counts.collect::<HashMap<_, _>>()
        });
        *self.holds.lock().unwrap_or_else(PoisonError::into_inner) = holds;
    }

    /// Ends the series of queues that nothing has happened in for long, and that hold nothing: so those of
    /// queues that another node deleted end, too.
    pub(super) fn forget_idle(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |at: Instant| now.saturating_duration_since(at) >= IDLE_PAUSE;
        if !idle.looked_at.is_none_or(is_due) {
            return;
        }
        idle.looked_at = Some(now);
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = holds.as_ref();
        let holds_some = |queue: &QueueId| holds.is_some_and(|holds| holds.contains_key(queue));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.queues.len();
        known.queues.retain(|queue, of_queue| {
            let activity = of_queue.activity();
            let (last, since) = idle.since.entry(*queue).or_insert((activity, now));
            if *last != activity || holds_some(queue) {
                (*last, *since) = (activity, now);
            }
            now.saturating_duration_since(*since) < IDLE
        });
        let Known { queues, omitted } = &mut *known;
        idle.since.retain(|queue, _| queues.contains_key(queue));
        // There may be room again, which is whose comes next; and some may be gone that another node deleted.
        let numbered_at = *idle.numbered_at.get_or_insert(now);
        if queues.len() < before || now.saturating_duration_since(numbered_at) >= IDLE {
            omitted.clear();
            idle.numbered_at = Some(now);
        }
    }

    /// What all queues hold together; the counters' sums are the exporter's.
    pub(super) fn render_sums(&self, text: &mut String) {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = holds.as_ref() {
            let sum = |of: fn(&Counts) -> u64| holds.values().map(of).sum::<u64>();
            head(text, MESSAGES);
            for (state, of) in STATES {
                sample(text, MESSAGES, &[("state", state)], sum(of));
            }
            let oldest = holds.values().filter_map(|counts| counts.oldest_age).max();
            head(text, OLDEST_AGE);
            sample(
                text,
                OLDEST_AGE,
                &[],
                oldest.unwrap_or_default().as_secs_f64(),
            );
        }
        drop(holds);
        self.render_omitted(text);
    }

    /// Each queue's own, by name.
    pub(super) fn render(&self, text: &mut String) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let queues = known.queues.iter();
        let mut queues: Vec<_> = queues.map(|(id, of)| (*id, Arc::clone(of))).collect();
        drop(known);
        queues.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        for count in Count::ALL {
            head(text, count.family());
            for (_, of_queue) in &queues {
                let labels = [("queue", of_queue.name.as_str())];
                sample(text, count.family(), &labels, of_queue.get(count));
            }
        }
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holds) = holds.as_ref() {
            // Whoever knows one of them knows all that hold something.
            let of = |queue: &QueueId| holds.get(queue).copied().unwrap_or_default();
            head(text, MESSAGES);
            for (id, of_queue) in &queues {
                for (state, count) in STATES {
                    let labels = [("queue", of_queue.name.as_str()), ("state", state)];
                    sample(text, MESSAGES, &labels, count(&of(id)));
                }
            }
            head(text, OLDEST_AGE);
            for (id, of_queue) in &queues {
                let age = of(id).oldest_age.unwrap_or_default();
                let labels = [("queue", of_queue.name.as_str())];
                sample(text, OLDEST_AGE, &labels, age.as_secs_f64());
            }
        }
        drop(holds);
        self.render_omitted(text);
    }

    fn render_omitted(&self, text: &mut String) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        head(text, OMITTED);
        sample(text, OMITTED, &[], known.omitted.len());
    }
}

/// A state of messages, and how many are in it.
type State = (&'static str, fn(&Counts) -> u64);

const STATES: [State; 3] = [
    ("visible", |counts| counts.visible),
    ("in_flight", |counts| counts.in_flight),
    ("delayed", |counts| counts.delayed),
];

impl Known {
    fn add(&mut self, max: usize, queue: QueueId, name: &QueueName) -> Option<Arc<OfQueue>> {
        if let Some(of_queue) = self.queues.get(&queue) {
            return Some(Arc::clone(of_queue));
        }
        if self.queues.len() < max {
            let of_queue = Arc::new(OfQueue::new(name));
            self.queues.insert(queue, Arc::clone(&of_queue));
            self.omitted.remove(&queue);
            return Some(of_queue);
        }
        if self.omitted.len() < MAX_OMITTED {
            self.omitted.insert(queue);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn queue(raw: i32) -> (QueueId, QueueName) {
        let id = QueueId::new(raw).unwrap();
        (id, QueueName::parse("name", &format!("q{raw}")).unwrap())
    }

    fn add(queues: &Queues, raw: i32) -> Option<Arc<OfQueue>> {
        let (id, name) = queue(raw);
        queues.of(id, &name)
    }

    fn shown(queues: &Queues) -> Vec<String> {
        let mut text = String::new();
        queues.render(&mut text);
        let lines = text
            .lines()
            .filter(|line| line.starts_with(SENT) || line.starts_with(OMITTED));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn queues_beyond_the_limit_are_left_out_and_numbered() {
        let queues = Queues::new(2);
        for raw in [2, 1, 3, 4, 3] {
            if let Some(of_queue) = add(&queues, raw) {
                of_queue.add(Count::Sent, 5);
            }
        }
        let expected = [
            "towpath_messages_sent_total{queue=\"q1\"} 5",
            "towpath_messages_sent_total{queue=\"q2\"} 5",
            "towpath_queues_omitted 2",
        ];
        assert_eq!(shown(&queues), expected);
        queues.forget(queue(1).0);
        assert!(add(&queues, 3).is_some(), "there is room now");
    }

    #[test]
    fn the_series_of_a_queue_end_when_nothing_happens_for_an_hour() {
        let queues = Queues::new(2);
        let now = Clock::default().instant();
        for raw in 1..=3 {
            add(&queues, raw);
        }
        queues.forget_idle(now);
        queues.forget_idle(now + IDLE / 2);
        add(&queues, 2).unwrap().add(Count::Received, 1);
        queues.forget_idle(now + IDLE - IDLE_PAUSE);
        assert_eq!(shown(&queues).len(), 3);
        assert!(shown(&queues).ends_with(&["towpath_queues_omitted 1".to_owned()]));
        queues.forget_idle(now + IDLE);
        let expected = [
            "towpath_messages_sent_total{queue=\"q2\"} 0",
            "towpath_queues_omitted 0",
        ];
        assert_eq!(shown(&queues), expected);
    }
}

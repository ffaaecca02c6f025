//! What clients saw, and whether the promises allow it.
//!
//! Clients only write down; the verdict is found afterwards. They run on the database's machine, so
//! that all times are of one clock.

mod lives;
mod story;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use lives::Life;

/// Longer than anything that was asked for may still happen when nobody waits for it any more.
const AFTERMATH: Duration = Duration::from_secs(60);

/// A queue's name.
pub(super) type Queue = &'static str;

/// Which message of a run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mark {
    pub(super) sender: u16,
    pub(super) sequence: u32,
}

/// How an operation ended, for who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done.
    Ok,
    /// It was refused: nothing was done.
    Fail,
    /// Nobody knows, and it may still come.
    Info,
}

/// Under which idempotency key a message was sent: the first message that was, and the message's
/// place in the batch.
pub(super) type Key = (Mark, usize);

/// An attempt to send a message.
#[derive(Debug, Clone)]
pub(super) struct Send {
    pub(super) queue: Queue,
    pub(super) mark: Mark,
    pub(super) key: Option<Key>,
    pub(super) outcome: Outcome,
    /// Its id when it was acknowledged; otherwise it may or may not be there.
    pub(super) message_id: Option<Uuid>,
    pub(super) asked: OffsetDateTime,
    pub(super) answered: OffsetDateTime,
    /// When it was to be delivered at the earliest, if it was delayed. What is sent while somebody
    /// claims may be delivered a moment before it was sent: a claim has the time of its beginning.
    pub(super) not_before: Option<OffsetDateTime>,
}

/// One message in one answer to a receive.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) queue: Queue,
    /// What its body says, unless that is damaged or of another run.
    pub(super) mark: Option<Mark>,
    pub(super) message_id: Uuid,
    pub(super) asked: OffsetDateTime,
    pub(super) delivered: OffsetDateTime,
    pub(super) visible_at: OffsetDateTime,
    pub(super) first_received_at: OffsetDateTime,
    pub(super) receive_count: u32,
    /// Where it died last, and after how many deliveries.
    pub(super) death: Option<(String, u32)>,
}

/// An attempt to delete a message.
#[derive(Debug, Clone)]
pub(super) struct Delete {
    pub(super) message_id: Uuid,
    pub(super) outcome: Outcome,
    pub(super) answered: OffsetDateTime,
}

/// An attempt to move the end of a delivery: an extend or a nack.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) message_id: Uuid,
    /// Which of the message's deliveries: that with this count.
    pub(super) receive_count: u32,
    /// A nack: when the message was delivered often enough it dies at once.
    pub(super) gives_back: bool,
    /// From the change to the new end, as asked for.
    pub(super) window: Duration,
    pub(super) outcome: Outcome,
    /// The new end. Without one, a change that was made has killed the message.
    pub(super) visible_at: Option<OffsetDateTime>,
    pub(super) asked: OffsetDateTime,
}

/// An attempt to purge a queue.
#[derive(Debug, Clone)]
pub(super) struct Purge {
    pub(super) queue: Queue,
    pub(super) outcome: Outcome,
    pub(super) asked: OffsetDateTime,
    pub(super) answered: OffsetDateTime,
}

/// Where a queue's messages go when they were received too often.
#[derive(Debug, Clone)]
pub(super) struct DeadLetters {
    pub(super) source: Queue,
    pub(super) target: Queue,
    pub(super) max_receive_count: u32,
}

/// Everything that happened to some queues.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) sends: Vec<Send>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deletes: Vec<Delete>,
    pub(super) changes: Vec<Change>,
    pub(super) purges: Vec<Purge>,
    /// When receives began that may have been answered to nobody.
    pub(super) lost_receives: Vec<(Queue, OffsetDateTime)>,
    pub(super) dead_letters: Vec<DeadLetters>,
    /// Everything was quiet then, and what was there was received once more.
    pub(super) drained: Option<OffsetDateTime>,
}

impl History {
    /// Adds what somebody else saw.
    pub(super) fn absorb(&mut self, other: Self) {
        self.sends.extend(other.sends);
        self.deliveries.extend(other.deliveries);
        self.deletes.extend(other.deletes);
        self.changes.extend(other.changes);
        self.purges.extend(other.purges);
        self.lost_receives.extend(other.lost_receives);
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Violation {
    /// Acknowledged, never deleted, and not there at the end.
    Lost(Mark),
    /// Received and never sent, or not as it was sent, or somewhere else.
    Invented(Uuid),
    /// One message is there under two ids.
    Doubled(Mark),
    /// Accepted under the key of another message.
    KeyReused(Mark),
    /// Delivered while somebody held it.
    HeldTwice(Uuid),
    /// Extended or given back by who did not hold it any more.
    Unfenced(Uuid),
    /// Delivered after its delete was acknowledged.
    Undeleted(Uuid),
    /// Acknowledged before a purge, and delivered after it.
    Unpurged(Uuid),
    /// Delivered before its time.
    Early(Uuid),
    /// The count or the time of its first delivery is not what was seen.
    Miscounted(Uuid),
    /// Delivered more often than its queue allows.
    Overdelivered(Uuid),
    /// Among the dead without having been delivered often enough.
    DiedEarly(Uuid),
    /// Delivered as a dead letter, and then again where it died.
    Resurrected(Uuid),
}

/// Everything that the promises do not allow.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let index = Index::of(history);
    let mut violations = lost(history);
    violations.extend(invented(history, &index));
    violations.extend(reused_keys(history));
    let mut lives: BTreeMap<Uuid, Life<'_>> = BTreeMap::new();
    for delivery in &history.deliveries {
        let life = lives.entry(delivery.message_id);
        life.or_default().deliveries.push(delivery);
    }
    for delete in &history.deletes {
        if let Some(life) = lives.get_mut(&delete.message_id) {
            life.deletes.push(delete);
        }
    }
    for change in &history.changes {
        if let Some(life) = lives.get_mut(&change.message_id) {
            life.changes.push(change);
        }
    }
    for life in lives.values_mut() {
        violations.extend(life.check(history, &index));
    }
    violations
}

/// What is asked for often.
struct Index<'a> {
    sends: HashMap<Mark, Vec<&'a Send>>,
    lost_receives: HashMap<Queue, Vec<OffsetDateTime>>,
    dead_letters: HashMap<Queue, &'a DeadLetters>,
}

impl<'a> Index<'a> {
    fn of(history: &'a History) -> Self {
        let mut sends: HashMap<_, Vec<_>> = HashMap::new();
        for send in &history.sends {
            sends.entry(send.mark).or_default().push(send);
        }
        let mut lost_receives: HashMap<_, Vec<_>> = HashMap::new();
        for (queue, asked) in &history.lost_receives {
            lost_receives.entry(*queue).or_default().push(*asked);
        }
        for asked in lost_receives.values_mut() {
            asked.sort();
        }
        let dead_letters = history.dead_letters.iter();
        Self {
            sends,
            lost_receives,
            dead_letters: dead_letters.map(|rule| (rule.source, rule)).collect(),
        }
    }

    /// The attempts to send a message.
    fn sends(&self, mark: Mark) -> &[&'a Send] {
        self.sends.get(&mark).map_or(&[], Vec::as_slice)
    }

    /// How many receives that began before a time may have been answered to nobody.
    fn lost_receives(&self, queue: Queue, before: OffsetDateTime) -> usize {
        let lost = self.lost_receives.get(queue);
        lost.map_or(0, |asked| asked.partition_point(|asked| *asked < before))
    }

    /// Whether what is sent to a queue may be received from another.
    fn leads_to(&self, home: Queue, queue: Queue) -> bool {
        let dies = self.dead_letters.get(home);
        home == queue || dies.is_some_and(|rule| rule.target == queue)
    }
}

fn lost(history: &History) -> Vec<Violation> {
    let Some(drained) = history.drained else {
        return Vec::new();
    };
    let deletes = history.deletes.iter();
    let deleted = deletes.filter(|delete| delete.outcome != Outcome::Fail);
    let mut gone: HashSet<_> = deleted.map(|delete| delete.message_id).collect();
    let left = history.deliveries.iter();
    let left = left.filter(|delivery| delivery.asked >= drained);
    gone.extend(left.map(|delivery| delivery.message_id));
    let mut violations = Vec::new();
    for send in &history.sends {
        let Some(id) = send.message_id else { continue };
        let mut purges = history.purges.iter();
        let is_lost = !gone.contains(&id) && !purges.any(|purge| may_take(purge, send));
        // Said once, however often it was acknowledged.
        if is_lost && gone.insert(id) {
            violations.push(Violation::Lost(send.mark));
        }
    }
    violations
}

fn may_take(purge: &Purge, send: &Send) -> bool {
    let until = match purge.outcome {
        Outcome::Ok => purge.answered,
        Outcome::Info => purge.answered + AFTERMATH,
        Outcome::Fail => return false,
    };
    purge.queue == send.queue && send.asked <= until
}

fn invented(history: &History, index: &Index<'_>) -> Vec<Violation> {
    let mut ids = HashMap::new();
    let mut violations = Vec::new();
    let acknowledged = history.sends.iter();
    let acknowledged = acknowledged.filter_map(|send| Some((send.mark, send.message_id?)));
    for (mark, id) in acknowledged {
        if *ids.entry(mark).or_insert(id) != id {
            violations.push(Violation::Doubled(mark));
        }
    }
    for delivery in &history.deliveries {
        let (id, queue) = (delivery.message_id, delivery.queue);
        let fits =
            |send: &&&Send| send.outcome != Outcome::Fail && index.leads_to(send.queue, queue);
        let sent = delivery
            .mark
            .filter(|mark| index.sends(*mark).iter().any(|send| fits(&send)));
        match sent {
            None => violations.push(Violation::Invented(id)),
            Some(mark) if *ids.entry(mark).or_insert(id) != id => {
                violations.push(Violation::Doubled(mark));
            }
            Some(_) => {}
        }
    }
    violations
}

/// What is sent under a key is what was sent under it first.
fn reused_keys(history: &History) -> Vec<Violation> {
    let mut marks = HashMap::new();
    let mut violations = Vec::new();
    for send in &history.sends {
        if let (Some(key), Outcome::Ok) = (send.key, send.outcome)
            && *marks.entry((send.queue, key)).or_insert(send.mark) != send.mark
        {
            violations.push(Violation::KeyReused(send.mark));
        }
    }
    violations
}

//! What clients saw, and whether the queue's promises allow it.
//!
//! Clients only write down; the verdict is found afterwards. They run on the database's machine, so
//! that all times are of one clock.

use std::collections::{BTreeMap, HashMap, HashSet};

use time::OffsetDateTime;
use uuid::Uuid;

/// Which message of a run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mark {
    pub(super) sender: u16,
    pub(super) sequence: u32,
}

/// An attempt to send a message.
#[derive(Debug, Clone)]
pub(super) struct Send {
    pub(super) mark: Mark,
    /// Its id when it was acknowledged; otherwise it may or may not be there.
    pub(super) message_id: Option<Uuid>,
}

/// One message in one answer to a receive.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// What its body says, unless that is damaged or of another run.
    pub(super) mark: Option<Mark>,
    pub(super) message_id: Uuid,
    pub(super) asked: OffsetDateTime,
    pub(super) delivered: OffsetDateTime,
    pub(super) visible_at: OffsetDateTime,
    pub(super) first_received_at: OffsetDateTime,
    pub(super) receive_count: u32,
}

/// An attempt to delete a message.
#[derive(Debug, Clone)]
pub(super) struct Delete {
    pub(super) message_id: Uuid,
    /// When it was acknowledged; otherwise the message may or may not be there.
    pub(super) acknowledged: Option<OffsetDateTime>,
}

/// Everything that happened to a queue.
#[derive(Debug)]
pub(super) struct History {
    pub(super) sends: Vec<Send>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deletes: Vec<Delete>,
    /// When receives began that may have been answered to nobody.
    pub(super) lost_receives: Vec<OffsetDateTime>,
    /// Everything was quiet then, and what was there was received once more.
    pub(super) drained: OffsetDateTime,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Violation {
    /// Acknowledged, never deleted, and not there at the end.
    Lost(Mark),
    /// Received and never sent, or not as it was sent.
    Invented(Uuid),
    /// One message is there under two ids.
    Doubled(Mark),
    /// Delivered while somebody held it.
    HeldTwice(Uuid),
    /// Delivered after its delete was acknowledged.
    Undeleted(Uuid),
    /// The count or the time of its first delivery is not what was seen.
    Miscounted(Uuid),
}

/// Everything that the promises do not allow.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = lost(history);
    violations.extend(invented(history));
    let mut by_message: BTreeMap<Uuid, Vec<&Delivery>> = BTreeMap::new();
    for delivery in &history.deliveries {
        let of_message = by_message.entry(delivery.message_id).or_default();
        of_message.push(delivery);
    }
    for deliveries in by_message.values_mut() {
        deliveries.sort_by_key(|delivery| delivery.delivered);
        violations.extend(held_twice(deliveries));
        violations.extend(miscounted(deliveries, &history.lost_receives));
    }
    violations.extend(undeleted(history));
    violations
}

fn lost(history: &History) -> Vec<Violation> {
    let deletes = history.deletes.iter();
    let deleted: HashSet<_> = deletes.map(|delete| delete.message_id).collect();
    let at_the_end = |delivery: &&Delivery| delivery.asked >= history.drained;
    let left = history.deliveries.iter().filter(at_the_end);
    let left: HashSet<_> = left.map(|delivery| delivery.message_id).collect();
    let is_lost = |send: &&Send| {
        let id = send.message_id.as_ref();
        id.is_some_and(|id| !deleted.contains(id) && !left.contains(id))
    };
    let lost = history.sends.iter().filter(is_lost);
    lost.map(|send| Violation::Lost(send.mark)).collect()
}

fn invented(history: &History) -> Vec<Violation> {
    let sends = history.sends.iter();
    let sent: HashMap<_, _> = sends.map(|send| (send.mark, send.message_id)).collect();
    let mut ids = HashMap::new();
    let mut violations = Vec::new();
    for Delivery {
        mark, message_id, ..
    } in &history.deliveries
    {
        let sent = mark.and_then(|mark| Some((mark, sent.get(&mark)?)));
        let Some((mark, acknowledged)) = sent else {
            violations.push(Violation::Invented(*message_id));
            continue;
        };
        let known = ids
            .entry(mark)
            .or_insert(acknowledged.unwrap_or(*message_id));
        if known != message_id {
            violations.push(Violation::Doubled(mark));
        }
    }
    violations
}

fn held_twice(deliveries: &[&Delivery]) -> Option<Violation> {
    let overlap = |pair: &&[&Delivery]| pair[1].delivered < pair[0].visible_at;
    let pair = deliveries.windows(2).find(overlap)?;
    Some(Violation::HeldTwice(pair[0].message_id))
}

fn undeleted(history: &History) -> Vec<Violation> {
    let mut gone: HashMap<Uuid, OffsetDateTime> = HashMap::new();
    for delete in &history.deletes {
        if let Some(at) = delete.acknowledged {
            let earliest = gone.entry(delete.message_id).or_insert(at);
            *earliest = at.min(*earliest);
        }
    }
    let is_later = |delivery: &&Delivery| {
        let gone = gone.get(&delivery.message_id);
        gone.is_some_and(|gone| delivery.asked >= *gone || delivery.delivered > *gone)
    };
    let later = history.deliveries.iter().filter(is_later);
    later
        .map(|delivery| Violation::Undeleted(delivery.message_id))
        .collect()
}

/// Each delivery counts one more than the one before; what lies between went to nobody.
fn miscounted(deliveries: &[&Delivery], lost: &[OffsetDateTime]) -> Option<Violation> {
    let first = deliveries.first()?;
    let mut count = 0;
    for delivery in deliveries {
        let unseen = delivery.receive_count.checked_sub(count + 1);
        let lost = lost.iter().filter(|asked| **asked < delivery.delivered);
        let is_right = unseen.is_some_and(|unseen| unseen as usize <= lost.count())
            && delivery.first_received_at == first.first_received_at
            && (delivery.receive_count > 1 || delivery.first_received_at == delivery.delivered);
        if !is_right {
            return Some(Violation::Miscounted(delivery.message_id));
        }
        count = delivery.receive_count;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(second: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn id(number: u32) -> Uuid {
        Uuid::from_u128(number.into())
    }

    fn mark(sequence: u32) -> Mark {
        let sender = 1;
        Mark { sender, sequence }
    }

    /// Message `number`, delivered at a second.
    fn delivery(number: u32, second: u64, receive_count: u32) -> Delivery {
        Delivery {
            mark: Some(mark(number)),
            message_id: id(number),
            asked: at(second),
            delivered: at(second),
            visible_at: at(second) + WINDOW,
            first_received_at: at(0),
            receive_count,
        }
    }

    fn delete(number: u32, second: Option<u64>) -> Delete {
        Delete {
            message_id: id(number),
            acknowledged: second.map(at),
        }
    }

    /// Message 0 is received twice and deleted, 1 is there at the end, the fate of 2 is unknown.
    fn good() -> History {
        let message_id = [Some(id(0)), Some(id(1)), None];
        let sends = (0..).zip(message_id);
        let sends = sends.map(|(sequence, message_id)| Send {
            mark: mark(sequence),
            message_id,
        });
        let again = Delivery {
            first_received_at: at(100),
            ..delivery(1, 100, 1)
        };
        History {
            sends: sends.collect(),
            deliveries: vec![delivery(0, 0, 1), delivery(0, 10, 2), again],
            deletes: vec![delete(0, Some(12))],
            lost_receives: vec![],
            drained: at(100),
        }
    }

    #[test]
    fn a_good_history_has_nothing_to_be_said_about() {
        assert_eq!(check(&good()), []);
        let mut unknown = good();
        unknown.deliveries.push(Delivery {
            first_received_at: at(100),
            ..delivery(2, 100, 1)
        });
        assert_eq!(check(&unknown), [], "it may have been stored");
        let mut unacknowledged = good();
        unacknowledged.deletes = vec![delete(0, None)];
        assert_eq!(check(&unacknowledged), [], "it may have been deleted");
    }

    #[test]
    fn an_acknowledged_message_that_is_not_there_at_the_end_is_lost() {
        let mut history = good();
        history.deliveries.pop();
        assert_eq!(check(&history), [Violation::Lost(mark(1))]);
        let mut history = good();
        history.deletes.clear();
        assert_eq!(check(&history), [Violation::Lost(mark(0))], "received once");
    }

    #[test]
    fn a_message_that_was_not_sent_like_that_is_invented() {
        let mut history = good();
        let mut damaged = delivery(7, 0, 1);
        damaged.mark = None;
        history.deliveries.extend([damaged, delivery(8, 0, 1)]);
        let expected = [Violation::Invented(id(7)), Violation::Invented(id(8))];
        assert_eq!(check(&history), expected);
    }

    #[test]
    fn a_message_under_two_ids_is_doubled() {
        for sequence in [1, 2] {
            let mut history = good();
            for number in [7, 8] {
                let mut copy = delivery(number, 0, 1);
                copy.mark = Some(mark(sequence));
                history.deliveries.push(copy);
            }
            // Nobody knows the right id of message 2.
            let doubled = if sequence == 1 { 2 } else { 1 };
            assert_eq!(
                check(&history),
                vec![Violation::Doubled(mark(sequence)); doubled]
            );
        }
    }

    #[test]
    fn a_delivery_before_the_end_of_the_last_one_is_a_second_holder() {
        let mut history = good();
        history.deliveries[1] = delivery(0, 9, 2);
        assert_eq!(check(&history), [Violation::HeldTwice(id(0))]);
    }

    #[test]
    fn a_delivery_after_an_acknowledged_delete_is_undeleted() {
        let mut history = good();
        history.deliveries.push(delivery(0, 20, 3));
        assert_eq!(check(&history), [Violation::Undeleted(id(0))]);
        // Asked for before, but handed out after it.
        let mut history = good();
        history.deliveries.push(Delivery {
            asked: at(11),
            ..delivery(0, 20, 3)
        });
        assert_eq!(check(&history), [Violation::Undeleted(id(0))]);
    }

    #[test]
    fn counts_grow_by_one_and_by_what_nobody_saw() {
        for wrong in [0, 1, 3] {
            let mut history = good();
            history.deliveries[1].receive_count = wrong;
            assert_eq!(check(&history), [Violation::Miscounted(id(0))], "{wrong}");
        }
        let mut lost = good();
        lost.deliveries[1].receive_count = 3;
        lost.lost_receives.push(at(5));
        assert_eq!(check(&lost), []);
        let mut another_first = good();
        another_first.deliveries[1].first_received_at = at(1);
        assert_eq!(check(&another_first), [Violation::Miscounted(id(0))]);
    }
}

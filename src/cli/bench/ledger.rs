//! Who sent what and who received what, and what that says about loss and repetition.
//!
//! Workers only write down; the verdict is found between measurements, so that checking costs
//! nothing while it is measured. A breach is one that no timing of the network can explain: the
//! claim behind an answer lies between the moments of asking and of being answered.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::message::Mark;

/// Nanoseconds since the start of the run.
pub(super) type Moment = u64;

/// The moment of what did not happen.
pub(super) const NEVER: Moment = Moment::MAX;

/// What one sender knows. Sequences run from 0.
#[derive(Debug, Default, Clone)]
pub(super) struct Sent {
    pub(super) sender: u16,
    pub(super) messages: u32,
    /// Sequences whose request was not answered with success: they may or may not be there.
    pub(super) unknown: Vec<u32>,
    /// For how long a receive hides these messages, when not for as long as the queue says.
    pub(super) visibility: Option<Duration>,
}

/// One message in one answer to a receive.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) mark: Mark,
    pub(super) asked: Moment,
    pub(super) answered: Moment,
    /// When its delete was acknowledged.
    pub(super) deleted: Moment,
}

/// What became of a run's messages.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// Messages whose sending was acknowledged.
    pub(super) acknowledged: u64,
    /// Of those, never received. Not to be believed beside a [`Verdict::not_checked`].
    pub(super) lost: u64,
    /// Why the messages that were not received are not known to be lost.
    pub(super) not_checked: Option<String>,
    /// Deliveries inside an earlier one's visibility window, or after a successful delete.
    pub(super) duplicated: u64,
    /// Deliveries after an earlier one's window ran out: a promise of the queue, not a fault.
    pub(super) redelivered: u64,
    /// Deliveries of what was never sent.
    pub(super) invented: u64,
}

impl Verdict {
    pub(super) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.redelivered += other.redelivered;
        self.invented += other.invented;
        if self.not_checked.is_none() {
            self.not_checked.clone_from(&other.not_checked);
        }
    }
}

/// Everything that is known of one queue's messages.
pub(super) struct Ledger {
    visibility: Moment,
    senders: HashMap<u16, Known>,
    /// Deliveries that are not judged yet, and the last one of every message in flight.
    open: Vec<Delivery>,
    repeated: Verdict,
}

struct Known {
    messages: u32,
    unknown: HashSet<u32>,
    visibility: Moment,
    /// A bit for each message that was received and deleted.
    settled: Vec<u64>,
}

impl Known {
    fn bit(sequence: u32) -> (usize, u64) {
        ((sequence / 64) as usize, 1 << (sequence % 64))
    }

    fn settled(&self) -> u64 {
        let bits = self.settled.iter().map(|word| u64::from(word.count_ones()));
        bits.sum()
    }

    fn is_settled(&self, sequence: u32) -> bool {
        let (word, bit) = Self::bit(sequence);
        self.settled.get(word).is_some_and(|word| word & bit != 0)
    }

    fn settle(&mut self, sequence: u32) {
        let (word, bit) = Self::bit(sequence);
        if self.settled.len() <= word {
            self.settled.resize(word + 1, 0);
        }
        if let Some(word) = self.settled.get_mut(word) {
            *word |= bit;
        }
    }
}

fn moment(duration: Duration) -> Moment {
    Moment::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

impl Ledger {
    /// Of a queue that hides received messages for `visibility`.
    pub(super) fn new(visibility: Duration) -> Self {
        Self {
            visibility: moment(visibility),
            senders: HashMap::new(),
            open: Vec::new(),
            repeated: Verdict::default(),
        }
    }

    pub(super) fn sent(&mut self, sent: Sent) {
        let Sent {
            sender,
            messages,
            unknown,
            visibility,
        } = sent;
        let known = Known {
            messages,
            unknown: unknown.into_iter().collect(),
            visibility: visibility.map_or(self.visibility, moment),
            settled: Vec::new(),
        };
        self.senders.insert(sender, known);
    }

    pub(super) fn received(&mut self, deliveries: Vec<Delivery>) {
        self.open.extend(deliveries);
    }

    /// Judges what was received so far, and forgets of it what no longer matters. All its senders
    /// must be known, and no request be under way.
    pub(super) fn fold(&mut self) {
        let mut deliveries = std::mem::take(&mut self.open);
        deliveries.sort_unstable_by_key(|delivery| (delivery.mark, delivery.asked));
        for of_one in deliveries.chunk_by(|one, next| one.mark == next.mark) {
            if let Some(in_flight) = self.judge(of_one) {
                self.open.push(in_flight);
            }
        }
    }

    /// The last delivery of a message, unless it was deleted.
    fn judge(&mut self, of_one: &[Delivery]) -> Option<Delivery> {
        let (first, again) = of_one.split_first()?;
        let Mark { sender, sequence } = first.mark;
        let verdict = &mut self.repeated;
        let known = self.senders.get_mut(&sender);
        let Some(known) = known.filter(|known| sequence < known.messages) else {
            verdict.invented += of_one.len() as u64;
            return None;
        };
        if known.is_settled(sequence) {
            verdict.duplicated += of_one.len() as u64;
            return None;
        }
        let mut window_ends = first.asked.saturating_add(known.visibility);
        let mut deleted = first.deleted;
        for delivery in again {
            if delivery.answered < window_ends || delivery.asked >= deleted {
                verdict.duplicated += 1;
            } else {
                verdict.redelivered += 1;
            }
            window_ends = delivery.asked.saturating_add(known.visibility);
            deleted = deleted.min(delivery.deleted);
        }
        if deleted < NEVER {
            known.settle(sequence);
            return None;
        }
        of_one.last().cloned()
    }

    /// What is known after the last [`Ledger::fold`].
    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = self.repeated.clone();
        let mut in_flight: HashMap<u16, u64> = HashMap::new();
        for Delivery { mark, .. } in &self.open {
            let known = self.senders.get(&mark.sender);
            if known.is_some_and(|known| !known.unknown.contains(&mark.sequence)) {
                *in_flight.entry(mark.sender).or_default() += 1;
            }
        }
        for (sender, known) in &self.senders {
            let acknowledged = u64::from(known.messages) - known.unknown.len() as u64;
            let settled_unknown = known.unknown.iter().filter(|&&it| known.is_settled(it));
            let settled = known.settled() - settled_unknown.count() as u64;
            let came = settled + in_flight.get(sender).copied().unwrap_or_default();
            verdict.acknowledged += acknowledged;
            verdict.lost += acknowledged - came;
        }
        verdict
    }

    /// How many messages may still be received.
    pub(super) fn unsettled(&self) -> u64 {
        let of = |known: &Known| u64::from(known.messages) - known.settled();
        self.senders.values().map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn sent(messages: u32) -> Sent {
        Sent {
            sender: 3,
            messages,
            ..Sent::default()
        }
    }

    fn seconds(seconds: u64) -> Moment {
        moment(Duration::from_secs(seconds))
    }

    fn delivery(sequence: u32, asked: u64, deleted: Option<u64>) -> Delivery {
        Delivery {
            mark: Mark {
                sender: 3,
                sequence,
            },
            asked: seconds(asked),
            answered: seconds(asked + 1),
            deleted: deleted.map_or(NEVER, seconds),
        }
    }

    /// The verdict, which must be the same however often it is asked for on the way.
    fn judge(sent: Sent, deliveries: &[Delivery]) -> Verdict {
        let mut at_once = Ledger::new(WINDOW);
        at_once.sent(sent.clone());
        at_once.received(deliveries.to_vec());
        at_once.fold();
        let mut in_order = deliveries.to_vec();
        in_order.sort_unstable_by_key(|delivery| delivery.asked);
        let mut step_by_step = Ledger::new(WINDOW);
        step_by_step.sent(sent);
        for delivery in in_order {
            step_by_step.received(vec![delivery]);
            step_by_step.fold();
        }
        assert_eq!(at_once.verdict(), step_by_step.verdict());
        at_once.verdict()
    }

    #[test]
    fn every_message_once_is_neither_loss_nor_duplicate() {
        let deliveries = [delivery(1, 5, Some(7)), delivery(0, 6, Some(8))];
        let expected = Verdict {
            acknowledged: 2,
            ..Verdict::default()
        };
        assert_eq!(judge(sent(2), &deliveries), expected);
    }

    #[test]
    fn an_acknowledged_message_that_never_came_is_lost() {
        assert_eq!(judge(sent(2), &[delivery(0, 5, Some(7))]).lost, 1);
    }

    #[test]
    fn a_message_in_flight_is_not_lost() {
        assert_eq!(
            judge(sent(2), &[delivery(0, 5, Some(7)), delivery(1, 5, None)]).lost,
            0
        );
    }

    #[test]
    fn a_message_of_unknown_fate_may_come_or_not() {
        let sent = Sent {
            unknown: vec![1],
            ..sent(2)
        };
        let verdict = judge(sent.clone(), &[delivery(0, 5, Some(7))]);
        assert_eq!((verdict.acknowledged, verdict.lost), (1, 0));
        for deleted in [None, Some(7)] {
            let both = [delivery(0, 5, Some(7)), delivery(1, 5, deleted)];
            let verdict = judge(sent.clone(), &both);
            assert_eq!((verdict.acknowledged, verdict.lost), (1, 0));
            assert_eq!((verdict.invented, verdict.duplicated), (0, 0));
        }
    }

    #[test]
    fn twice_inside_the_window_is_a_duplicate_and_later_is_a_redelivery() {
        let twice = [delivery(0, 5, None), delivery(0, 33, None)];
        assert_eq!(judge(sent(1), &twice).duplicated, 1);
        let later = [
            delivery(0, 5, None),
            delivery(0, 34, None),
            delivery(0, 70, Some(72)),
        ];
        let verdict = judge(sent(1), &later);
        assert_eq!((verdict.duplicated, verdict.redelivered), (0, 2));
        let too_early_again = [
            delivery(0, 5, None),
            delivery(0, 34, None),
            delivery(0, 40, None),
        ];
        let verdict = judge(sent(1), &too_early_again);
        assert_eq!((verdict.duplicated, verdict.redelivered), (1, 1));
    }

    #[test]
    fn a_message_may_be_hidden_for_longer_than_its_queue_says() {
        let hidden = Sent {
            visibility: Some(2 * WINDOW),
            ..sent(1)
        };
        let later = [delivery(0, 5, None), delivery(0, 34, None)];
        assert_eq!(judge(hidden, &later).duplicated, 1);
    }

    #[test]
    fn after_a_delete_it_is_a_duplicate_however_late() {
        let again = [
            delivery(0, 5, Some(7)),
            delivery(0, 100, None),
            delivery(0, 200, None),
        ];
        assert_eq!(judge(sent(1), &again).duplicated, 2);
    }

    #[test]
    fn what_was_never_sent_is_invented() {
        let deliveries = [delivery(0, 5, Some(7)), delivery(9, 5, Some(7))];
        assert_eq!(judge(sent(1), &deliveries).invented, 1);
    }
}

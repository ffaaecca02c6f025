//! Who sent what and who received what, and what that says about loss and repetition.
//!
//! Workers only write down; the verdict is found afterwards, so that checking costs nothing while
//! it is measured. A breach is one that no timing of the network can explain: the claim behind an
//! answer lies between the moments of asking and of being answered.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::message::Mark;

/// What one sender knows. Sequences run from 0.
#[derive(Debug, Default, Clone)]
pub(super) struct Sent {
    pub(super) sender: u16,
    pub(super) messages: u32,
    /// Sequences whose request was not answered with success: they may or may not be there.
    pub(super) unknown: Vec<u32>,
}

/// One message in one answer to a receive. Times are since the start of the run.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) mark: Mark,
    pub(super) asked: Duration,
    pub(super) answered: Duration,
    /// When its delete was acknowledged.
    pub(super) deleted: Option<Duration>,
}

/// What became of a run's messages.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
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

/// Compares what was sent with what was received.
pub(super) fn judge(sent: &[Sent], deliveries: &mut [Delivery], visibility: Duration) -> Verdict {
    deliveries.sort_unstable_by_key(|delivery| (delivery.mark, delivery.asked));
    let known: HashMap<u16, u32> = sent.iter().map(|of| (of.sender, of.messages)).collect();
    let mut verdict = Verdict::default();
    let mut received = HashSet::with_capacity(deliveries.len());
    for of_one in deliveries.chunk_by(|one, next| one.mark == next.mark) {
        let Some((first, again)) = of_one.split_first() else {
            continue;
        };
        received.insert(first.mark);
        let was_sent = known.get(&first.mark.sender);
        if was_sent.is_none_or(|messages| first.mark.sequence >= *messages) {
            verdict.invented += u64::try_from(of_one.len()).unwrap_or(u64::MAX);
            continue;
        }
        let mut window_ends = first.asked + visibility;
        let mut deleted = first.deleted.unwrap_or(Duration::MAX);
        for delivery in again {
            if delivery.answered < window_ends || delivery.asked >= deleted {
                verdict.duplicated += 1;
            } else {
                verdict.redelivered += 1;
            }
            window_ends = delivery.asked + visibility;
            deleted = deleted.min(delivery.deleted.unwrap_or(Duration::MAX));
        }
    }
    for Sent {
        sender,
        messages,
        unknown,
    } in sent
    {
        let unknown: HashSet<u32> = unknown.iter().copied().collect();
        for sequence in (0..*messages).filter(|sequence| !unknown.contains(sequence)) {
            let sender = *sender;
            verdict.acknowledged += 1;
            verdict.lost += u64::from(!received.contains(&Mark { sender, sequence }));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn sent(messages: u32) -> Vec<Sent> {
        let unknown = vec![];
        let sender = 3;
        vec![Sent {
            sender,
            messages,
            unknown,
        }]
    }

    fn delivery(sequence: u32, asked: u64, deleted: Option<u64>) -> Delivery {
        Delivery {
            mark: Mark {
                sender: 3,
                sequence,
            },
            asked: Duration::from_secs(asked),
            answered: Duration::from_secs(asked + 1),
            deleted: deleted.map(Duration::from_secs),
        }
    }

    #[test]
    fn every_message_once_is_neither_loss_nor_duplicate() {
        let mut deliveries = [delivery(1, 5, Some(7)), delivery(0, 6, Some(8))];
        let expected = Verdict {
            acknowledged: 2,
            ..Verdict::default()
        };
        assert_eq!(judge(&sent(2), &mut deliveries, WINDOW), expected);
    }

    #[test]
    fn an_acknowledged_message_that_never_came_is_lost() {
        let mut deliveries = [delivery(0, 5, Some(7))];
        assert_eq!(judge(&sent(2), &mut deliveries, WINDOW).lost, 1);
    }

    #[test]
    fn a_message_of_unknown_fate_may_come_or_not() {
        let mut sent = sent(2);
        sent[0].unknown = vec![1];
        let verdict = judge(&sent, &mut [delivery(0, 5, Some(7))], WINDOW);
        assert_eq!((verdict.acknowledged, verdict.lost), (1, 0));
        let mut both = [delivery(0, 5, Some(7)), delivery(1, 5, Some(7))];
        let verdict = judge(&sent, &mut both, WINDOW);
        assert_eq!((verdict.invented, verdict.duplicated), (0, 0));
    }

    #[test]
    fn twice_inside_the_window_is_a_duplicate_and_later_is_a_redelivery() {
        let mut twice = [delivery(0, 5, None), delivery(0, 33, None)];
        assert_eq!(judge(&sent(1), &mut twice, WINDOW).duplicated, 1);
        let mut later = [delivery(0, 5, None), delivery(0, 34, Some(36))];
        let verdict = judge(&sent(1), &mut later, WINDOW);
        assert_eq!((verdict.duplicated, verdict.redelivered), (0, 1));
    }

    #[test]
    fn after_a_delete_it_is_a_duplicate_however_late() {
        let mut again = [
            delivery(0, 5, Some(7)),
            delivery(0, 100, None),
            delivery(0, 200, None),
        ];
        assert_eq!(judge(&sent(1), &mut again, WINDOW).duplicated, 2);
    }

    #[test]
    fn what_was_never_sent_is_invented() {
        let mut deliveries = [delivery(0, 5, Some(7)), delivery(9, 5, Some(7))];
        assert_eq!(judge(&sent(1), &mut deliveries, WINDOW).invented, 1);
    }
}

//! How leases that a claim gave out are cut: into what moves, by where it goes, and what stays.

use std::sync::Arc;

use crate::broker::{Taken, TakenMessage};
use crate::domain::queue::Queue;
use crate::store::{HeldLease, Hold, LeaseRow, Terms};

/// Messages of one lease that stay together.
#[derive(Debug)]
pub(super) struct Part {
    /// The lease that the claim gave out.
    from: LeaseRow,
    /// The lease that they come to be under.
    pub(super) lease: HeldLease,
    /// Where they go; those that go nowhere are not looked at any more.
    pub(super) target: Option<Arc<Queue>>,
    pub(super) messages: Vec<TakenMessage>,
}

impl Part {
    fn of(from: LeaseRow, token: i32, target: Option<Arc<Queue>>) -> Self {
        Self {
            from,
            lease: HeldLease {
                lane: from.lane,
                lo: from.lo,
                token,
                mask: 0,
            },
            target,
            messages: Vec::new(),
        }
    }

    pub(super) fn row(&self) -> LeaseRow {
        LeaseRow {
            lane: self.lease.lane,
            lo: self.lease.lo,
            token: self.lease.token,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn count(&self) -> u64 {
        self.messages.len() as u64
    }

    /// Those of its messages that the lease still holds, if any: a delete by an old receipt may have been
    /// faster.
    pub(super) fn left_with(mut self, mask: u64) -> Option<Self> {
        self.messages
            .retain(|message| mask >> message.index & 1 == 1);
        self.lease.mask = mask;
        (!self.messages.is_empty()).then_some(self)
    }
}

/// What becomes of messages that were taken.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Of each lease those that move, then the one that keeps its row.
    parts: Vec<Part>,
    /// Messages that were meant and have nowhere to go.
    pub(super) skipped: u64,
}

impl Plan {
    /// Nothing of it moves.
    pub(super) fn aside(taken: &[Taken]) -> Self {
        let mut plan = Self::default();
        for taken in taken {
            plan.cut(taken, Vec::new(), 1);
        }
        plan
    }

    /// Of a lease these messages go, up to so many together.
    pub(super) fn cut(
        &mut self,
        taken: &Taken,
        going: Vec<(&TakenMessage, Arc<Queue>)>,
        most: usize,
    ) {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = taken.mask;
        for (message, target) in going {
            let bit = 1_u64 << message.index;
            rest &= !bit;
            let has_room = |part: &&mut Part| {
                part.len() < most && part.target.as_ref().is_some_and(|to| to.id == target.id)
            };
            if !parts.iter_mut().any(|part| has_room(&part)) {
                let token = another_token(taken.row.token);
                parts.push(Part::of(taken.row, token, Some(Arc::clone(&target))));
            }
            if let Some(part) = parts.iter_mut().find(has_room) {
                part.lease.mask |= bit;
                part.messages.push(message.clone());
            }
        }
        if rest != 0 {
            let mut part = Part::of(taken.row, taken.row.token, None);
            part.lease.mask = rest;
            parts.push(part);
        } else if let Some(last) = parts.last_mut() {
            last.lease.token = taken.row.token;
        }
        self.parts.append(&mut parts);
    }

    /// What the database is asked for, in the order of [`Self::into_parts`].
    pub(super) fn holds(&mut self, terms: Terms) -> Vec<Hold> {
        // The order among the parts of a lease stays.
        self.parts.sort_by_key(|part| part.from);
        self.parts
            .iter()
            .map(|part| Hold {
                row: part.from,
                mask: part.lease.mask,
                token: part.lease.token,
                to_move: part.target.is_some(),
                window: match part.target {
                    Some(_) => terms.move_window,
                    None => terms.hold_window,
                },
            })
            .collect()
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        self.parts
    }
}

/// Positive, as those of claims.
fn another_token(token: i32) -> i32 {
    loop {
        let other = rand::random_range(1..i32::MAX);
        if other != token {
            return other;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::domain::chunk::Frame;
    use crate::domain::lane::{Class, LaneId, QueueId, Writer};
    use crate::domain::message::{Body, BodyKind, Content};
    use crate::domain::queue::{QueueName, QueueSettings};

    const TERMS: Terms = Terms {
        term: Duration::from_secs(1),
        move_window: Duration::from_secs(2),
        hold_window: Duration::from_secs(3),
    };

    fn queue(number: i32) -> Arc<Queue> {
        Arc::new(Queue {
            id: QueueId::new(number).unwrap(),
            name: QueueName::parse("name", &format!("q{number}")).unwrap(),
            settings: QueueSettings::default(),
            dead_letters_to: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            version: 1,
        })
    }

    fn message(index: u8) -> TakenMessage {
        let body = Body {
            kind: BodyKind::Text,
            bytes: Bytes::from_static(b"x"),
        };
        let frame = Frame::from(Content::from(body));
        let id = Uuid::from_u128(index.into());
        TakenMessage::new(
            index,
            i64::from(index),
            [id, id],
            OffsetDateTime::UNIX_EPOCH,
            frame,
        )
    }

    fn taken(lo: i64, messages: u8) -> Taken {
        let queue = QueueId::new(9).unwrap();
        Taken {
            row: LeaseRow {
                lane: LaneId::new(queue, Class::READY, Writer(0)),
                lo,
                token: 5,
            },
            mask: (1 << messages) - 1,
            at: OffsetDateTime::UNIX_EPOCH,
            messages: (0..messages).map(message).collect(),
        }
    }

    #[test]
    fn a_lease_is_cut_by_where_its_messages_go_and_every_message_is_in_one_part() {
        let taken = [taken(100, 10), taken(0, 4)];
        let (a, b) = (queue(1), queue(2));
        let mut plan = Plan::default();
        for taken in &taken {
            let goes = |message: &TakenMessage| match message.index {
                0 | 2 | 3 | 5 | 9 => Some(Arc::clone(&a)),
                1 => Some(Arc::clone(&b)),
                _ => None,
            };
            let messages = taken.messages.iter();
            let going = messages.filter_map(|message| Some((message, goes(message)?)));
            plan.cut(taken, going.collect(), 3);
        }
        let holds = plan.holds(TERMS);
        assert!(holds.is_sorted_by_key(|hold| hold.row));
        let shape: Vec<_> = holds
            .iter()
            .map(|hold| (hold.row.lo, hold.mask, hold.to_move, hold.token == 5))
            .collect();
        assert_eq!(
            shape,
            [
                (0, 0b1101, true, false),
                // Nothing is left: the last one keeps the row.
                (0, 0b0010, true, true),
                (100, 0b1101, true, false),
                (100, 0b0010, true, false),
                (100, 0b10_0010_0000, true, false),
                (100, 0b01_1101_0000, false, true),
            ]
        );
        let parts = plan.into_parts();
        let part = parts.into_iter().nth(2).unwrap();
        assert_eq!(part.len(), 3);
        let left = part.left_with(0b1000).unwrap();
        assert_eq!((left.count(), left.lease.mask), (1, 0b1000));
        assert!(left.left_with(0).is_none());
    }

    #[test]
    fn what_does_not_move_keeps_its_lease() {
        let mut plan = Plan::aside(&[taken(0, 62)]);
        let holds = plan.holds(TERMS);
        assert_eq!(holds.len(), 1);
        assert_eq!(holds[0].token, 5);
        assert_eq!(holds[0].window, TERMS.hold_window);
        assert_eq!(holds[0].mask.count_ones(), 62);
    }
}

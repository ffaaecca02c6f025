//! The life of one message, as its receivers saw it.

use time::OffsetDateTime;

use super::{Change, DeadLetters, Delete, Delivery, History, Index, Outcome, Send, Violation};

/// All that was done with one message.
#[derive(Default)]
pub(super) struct Life<'a> {
    pub(super) deliveries: Vec<&'a Delivery>,
    pub(super) deletes: Vec<&'a Delete>,
    pub(super) changes: Vec<&'a Change>,
}

/// When a change was made, at the earliest, on the database's clock.
fn made(change: &Change) -> OffsetDateTime {
    change
        .visible_at
        .map_or(change.asked, |end| end - change.window)
}

impl Life<'_> {
    pub(super) fn check(&mut self, history: &History, index: &Index<'_>) -> Vec<Violation> {
        self.deliveries.sort_by_key(|delivery| delivery.delivered);
        self.changes.sort_by_key(|change| made(change));
        let Some(id) = self.deliveries.first().map(|delivery| delivery.message_id) else {
            return Vec::new();
        };
        let sends = self.deliveries.iter().find_map(|delivery| delivery.mark);
        let sends = sends.map_or(&[][..], |mark| index.sends(mark));
        let dies = sends
            .first()
            .and_then(|send| index.dead_letters.get(send.queue));
        let broken = [
            (self.is_held_twice(dies.copied()), Violation::HeldTwice(id)),
            (self.is_unfenced(), Violation::Unfenced(id)),
            (self.is_undeleted(), Violation::Undeleted(id)),
            (self.is_unpurged(history, sends), Violation::Unpurged(id)),
            (self.is_early(sends), Violation::Early(id)),
            (self.is_miscounted(index, sends), Violation::Miscounted(id)),
        ];
        let mut broken = Vec::from(broken);
        if let Some(rule) = dies {
            broken.extend([
                (self.is_overdelivered(rule), Violation::Overdelivered(id)),
                (self.died_early(rule, index), Violation::DiedEarly(id)),
                (self.is_resurrected(rule), Violation::Resurrected(id)),
            ]);
        }
        let broken = broken.into_iter().filter(|(is_broken, _)| *is_broken);
        broken.map(|(_, violation)| violation).collect()
    }

    /// What was done with one delivery, and may have been, in order.
    fn changes_of(&self, delivery: &Delivery) -> impl Iterator<Item = &Change> {
        let count = delivery.receive_count;
        let changes = self.changes.iter().copied();
        changes
            .filter(move |change| change.receive_count == count && change.outcome != Outcome::Fail)
    }

    /// Somebody holds the message until then, whatever became of what is not known.
    fn held_until(&self, delivery: &Delivery, rule: Option<&DeadLetters>) -> OffsetDateTime {
        let is_last = rule.is_some_and(|rule| delivery.receive_count >= rule.max_receive_count);
        let mut end = delivery.visible_at;
        let mut unknown = end;
        for change in self.changes_of(delivery) {
            match change.outcome {
                Outcome::Ok => end = change.visible_at.unwrap_or(change.asked),
                Outcome::Info if is_last && change.gives_back => {
                    unknown = unknown.min(change.asked);
                }
                // It may come as late as it likes, also after a later one.
                Outcome::Info => unknown = unknown.min(change.asked + change.window),
                Outcome::Fail => {}
            }
        }
        let is_known = self
            .changes_of(delivery)
            .all(|change| change.outcome == Outcome::Ok);
        if is_known { end } else { end.min(unknown) }
    }

    fn is_held_twice(&self, rule: Option<&DeadLetters>) -> bool {
        let mut pairs = self.deliveries.windows(2);
        pairs.any(|pair| pair[1].delivered < self.held_until(pair[0], rule))
    }

    /// Only the newest delivery that has not ended, of a message that is there, is changed.
    fn is_unfenced(&self) -> bool {
        let gone = self.gone();
        let is_late = |delivery: &&Delivery| {
            let mut end = Some(delivery.visible_at);
            let mut given_up = false;
            self.changes_of(delivery).any(|change| {
                if change.outcome != Outcome::Ok {
                    // It may have been made longer.
                    end = None;
                    return false;
                }
                let at = made(change);
                let mut newer = self.deliveries.iter();
                // Whoever gave it up for good may say so again until it has moved.
                let repeats = given_up && change.visible_at.is_none();
                given_up |= change.visible_at.is_none();
                let is_late = end.is_some_and(|end| at > end && !repeats)
                    || gone.is_some_and(|gone| at > gone)
                    || newer
                        .any(|newer| newer.delivered > delivery.delivered && newer.delivered < at);
                end = end.map(|_| change.visible_at.unwrap_or(change.asked));
                is_late
            })
        };
        self.deliveries
            .iter()
            .copied()
            .any(|delivery| is_late(&delivery))
    }

    /// When it was gone for good.
    fn gone(&self) -> Option<OffsetDateTime> {
        let deletes = self.deletes.iter();
        let deleted = deletes.filter(|delete| delete.outcome == Outcome::Ok);
        deleted.map(|delete| delete.answered).min()
    }

    fn is_undeleted(&self) -> bool {
        let Some(gone) = self.gone() else {
            return false;
        };
        let mut deliveries = self.deliveries.iter();
        deliveries.any(|delivery| delivery.asked >= gone || delivery.delivered > gone)
    }

    fn is_unpurged(&self, history: &History, sends: &[&Send]) -> bool {
        let acknowledged = sends.iter().filter(|send| send.outcome == Outcome::Ok);
        let Some(sent) = acknowledged.map(|send| send.answered).min() else {
            return false;
        };
        let purges = history.purges.iter();
        let mut purges = purges.filter(|purge| purge.outcome == Outcome::Ok && sent < purge.asked);
        purges.any(|purge| {
            let later = |delivery: &&Delivery| delivery.delivered > purge.answered;
            let mut there = self.deliveries.iter().copied();
            there.any(|delivery| delivery.queue == purge.queue && later(&delivery))
        })
    }

    fn is_early(&self, sends: &[&Send]) -> bool {
        let stored = sends.iter().filter(|send| send.outcome == Outcome::Ok);
        let known = stored.map(|send| send.not_before).min().flatten();
        let may_be = sends.iter().filter(|send| send.outcome == Outcome::Info);
        let not_before = known.or_else(|| may_be.map(|send| send.not_before).min().flatten());
        not_before.is_some_and(|earliest| self.deliveries[0].delivered < earliest)
    }

    /// Each delivery counts one more than the one before; what lies between went to nobody.
    fn is_miscounted(&self, index: &Index<'_>, sends: &[&Send]) -> bool {
        let first_received_at = self.deliveries[0].first_received_at;
        let home = sends.first().map(|send| send.queue);
        let mut count = 0;
        for delivery in &self.deliveries {
            let unseen = delivery.receive_count.checked_sub(count + 1);
            let mut lost = index.lost_receives(delivery.queue, delivery.delivered);
            if let Some(home) = home.filter(|home| *home != delivery.queue) {
                lost += index.lost_receives(home, delivery.delivered);
            }
            let is_right = unseen.is_some_and(|unseen| unseen as usize <= lost)
                && delivery.first_received_at == first_received_at
                && (delivery.receive_count > 1 || delivery.first_received_at == delivery.delivered);
            if !is_right {
                return true;
            }
            count = delivery.receive_count;
        }
        false
    }

    fn is_overdelivered(&self, rule: &DeadLetters) -> bool {
        let at_home = self.deliveries.iter();
        let mut at_home = at_home.filter(|delivery| delivery.queue == rule.source);
        at_home.any(|delivery| delivery.receive_count > rule.max_receive_count)
    }

    /// The dead say where they died and after how many deliveries, and somebody has seen them, or
    /// may have.
    fn died_early(&self, rule: &DeadLetters, index: &Index<'_>) -> bool {
        let dead = self.deliveries.iter();
        let Some(dead) = dead.copied().find(|delivery| delivery.queue == rule.target) else {
            return false;
        };
        let alive = self.deliveries.iter();
        let seen = alive
            .filter(|delivery| delivery.queue == rule.source)
            .count();
        let seen = seen + index.lost_receives(rule.source, dead.delivered);
        let told = dead.death.as_ref().is_some_and(|(queue, receive_count)| {
            queue == rule.source && *receive_count == rule.max_receive_count
        });
        !told
            || dead.receive_count <= rule.max_receive_count
            || seen < rule.max_receive_count as usize
    }

    fn is_resurrected(&self, rule: &DeadLetters) -> bool {
        let queues = self.deliveries.iter().map(|delivery| delivery.queue);
        let mut after_death = queues.skip_while(|queue| *queue != rule.target);
        after_death.any(|queue| queue == rule.source)
    }
}

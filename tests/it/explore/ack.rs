//! Ack: one ascending pass over whole keys, the only one that waits for rows.

use super::rest::Rest;
use super::rules::Mutation;
use super::store::{Fate, LeaseKey, Mask, NOBODY};
use super::world::{Call, Flow, Op, Receipt, World};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ack {
    /// By lease.
    left: Vec<(LeaseKey, Vec<Receipt>)>,
    deleted: Vec<Receipt>,
    /// What the leases did not have.
    rest: Vec<Receipt>,
}

impl Ack {
    pub(super) fn new(receipts: Vec<Receipt>, call: Call<'_>) -> Self {
        let mut left: Vec<(LeaseKey, Vec<Receipt>)> = Vec::new();
        for receipt in receipts {
            let key = (receipt.lane, receipt.lo, receipt.tok);
            match left.last_mut() {
                Some((last, asked)) if *last == key => asked.push(receipt),
                _ => left.push((key, vec![receipt])),
            }
        }
        // Taken from the end.
        if !(call.has(Mutation::AckUnsorted) && call.pid % 2 == 1) {
            left.reverse();
        }
        Self {
            left,
            deleted: Vec::new(),
            rest: Vec::new(),
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let pid = call.pid;
        let Some((key, asked)) = self.left.pop() else {
            return Flow::Commit(Op::Ack(self));
        };
        if let Some(by) = world.db.lease.locker(pid, key) {
            return Flow::Wait(by);
        }
        let Some(mut lease) = world.db.lease.get(pid, key).copied() else {
            self.rest.extend(asked);
            return Flow::On(Op::Ack(self));
        };
        let mask = asked
            .iter()
            .fold(0, |mask: Mask, receipt| mask | 1 << receipt.bit);
        let is_whole = u32::from(asked[0].size) == mask.count_ones();
        let trusts = call.has(Mutation::AckTrustsTheRow);
        let (there, gone): (Vec<_>, _) = asked
            .into_iter()
            .partition(|receipt| trusts || lease.mask & (1 << receipt.bit) != 0);
        self.deleted.extend(there);
        self.rest.extend(gone);
        lease.mask &= !mask;
        let is_left = !is_whole && lease.mask != 0;
        world.db.lease.put(pid, key, is_left.then_some(lease));
        Flow::On(Op::Ack(self))
    }

    pub(super) fn committed(self, world: &mut World, heard: bool) -> Option<Op> {
        acknowledge(world, &self.deleted, heard);
        let rest = Op::Rest(Rest::new(self.rest.clone()));
        (heard && !self.rest.is_empty()).then_some(rest)
    }
}

/// Messages are deleted. That promises nothing when nobody heard of it; nor beside a seek: what was
/// deleted before it comes back by intent.
pub(super) fn acknowledge(world: &mut World, receipts: &[Receipt], heard: bool) {
    for receipt in receipts {
        let epoch = world.db.cursor(NOBODY, receipt.lane).epoch;
        let fact = world.fact(receipt.message);
        if heard && epoch == receipt.epoch {
            fact.fate = Fate::Deleted;
        } else if fact.fate == Fate::Wanted {
            fact.fate = Fate::Loose;
        }
    }
}

//! Extend and nack: a lease in place, or one message's bit in a row of its own. Neither waits.

use super::rules::Mutation;
use super::store::{Lease, LeaseKey, SPLIT, Time};
use super::world::{Call, Flow, Op, Receipt, WINDOW, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Cursor,
    Parent,
    Split,
    Busy,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Extend {
    receipt: Receipt,
    now: Time,
    is_nack: bool,
    stage: Stage,
    to_move: Option<LeaseKey>,
}

impl Extend {
    pub(super) fn new(receipt: Receipt, now: Time, is_nack: bool) -> Self {
        Self {
            receipt,
            now,
            is_nack,
            stage: Stage::Cursor,
            to_move: None,
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let pid = call.pid;
        let receipt = self.receipt;
        let parent = (receipt.lane, receipt.lo, receipt.tok);
        let split = (receipt.lane, receipt.seq(), receipt.tok | SPLIT);
        match self.stage {
            Stage::Cursor => {
                let cursor = world.db.cursor(pid, receipt.lane);
                if cursor.epoch != receipt.epoch || receipt.lo < cursor.floor {
                    return Flow::Rollback(None);
                }
                self.stage = Stage::Parent;
            }
            Stage::Parent => self.take_parent(world, call, parent, split),
            Stage::Split => {
                if let Some(lease) = self.lock(world, call, split) {
                    self.put(world, call, split, lease);
                } else {
                    self.stage = Stage::Busy;
                }
            }
            Stage::Busy => {
                let is_there = [parent, split].into_iter().any(|key| {
                    let found = world.db.lease.get(pid, key);
                    found.is_some() && world.db.lease.locker(pid, key).is_some()
                });
                let again = Self {
                    stage: Stage::Cursor,
                    ..self
                };
                return Flow::Rollback(is_there.then_some(Op::Extend(again)));
            }
            Stage::Done => return Flow::Commit(Op::Extend(self)),
        }
        Flow::On(Op::Extend(self))
    }

    /// The newest delivery's row, if it has not ended and no other has locked it.
    fn lock(&self, world: &mut World, call: Call<'_>, key: LeaseKey) -> Option<Lease> {
        let lease = *world.db.lease.get(call.pid, key)?;
        let is_movers = lease.to_move && !call.has(Mutation::ExtendIgnoresState);
        if lease.vt <= self.now || is_movers {
            return None;
        }
        world.db.lease.lock(call.pid, key)
    }

    fn take_parent(
        &mut self,
        world: &mut World,
        call: Call<'_>,
        parent: LeaseKey,
        split: LeaseKey,
    ) {
        let bit = 1 << self.receipt.bit;
        let found = self.lock(world, call, parent);
        let mut one = Lease {
            epoch: self.receipt.epoch,
            mask: 1,
            vt: 0,
            rc: 1,
            to_move: false,
        };
        match found {
            Some(lease) if lease.mask == bit => {
                self.put(world, call, parent, lease);
                return;
            }
            Some(mut lease) if lease.mask & bit != 0 => {
                one.rc = lease.rc;
                lease.mask &= !bit;
                world.db.lease.put(call.pid, parent, Some(lease));
            }
            _ if call.has(Mutation::SplitWithoutCheck) => {}
            _ => {
                self.stage = Stage::Split;
                return;
            }
        }
        self.put(world, call, split, one);
    }

    fn put(&mut self, world: &mut World, call: Call<'_>, key: LeaseKey, mut lease: Lease) {
        let max = call.config.max_receives;
        lease.to_move = self.is_nack && max > 0 && lease.rc >= max;
        lease.vt = if self.is_nack && !lease.to_move {
            self.now
        } else {
            self.now + WINDOW
        };
        self.to_move = lease.to_move.then_some(key);
        world.db.lease.put(call.pid, key, Some(lease));
        self.stage = Stage::Done;
    }

    pub(super) fn committed(self, world: &mut World, heard: bool) -> Option<Op> {
        let fact = world.fact(self.receipt.message);
        if self.is_nack {
            fact.until = fact.until.min(self.now);
        } else if heard {
            fact.until = self.now + WINDOW;
        }
        world.movers.extend(self.to_move.filter(|_| heard));
        None
    }
}

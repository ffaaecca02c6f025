//! The second step of a deletion, in a transaction of its own: messages that were not in the lease
//! of their receipt. It never waits.

use super::ack::acknowledge;
use super::rules::Mutation;
use super::store::{Cursor, LeaseKey, Pid, SPLIT, Seq, covers};
use super::world::{Call, Flow, Op, Receipt, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Cursor,
    Split,
    Salt,
    Position,
    Busy,
    Moved,
    Judge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rest {
    left: Vec<Receipt>,
    stage: Stage,
    /// As it was before the leases were looked at.
    cursor: Option<Cursor>,
    is_moved: bool,
    deleted: Vec<Receipt>,
    busy: Vec<Receipt>,
}

impl Rest {
    pub(super) fn new(left: Vec<Receipt>) -> Self {
        Self {
            left,
            stage: Stage::Cursor,
            cursor: None,
            is_moved: false,
            deleted: Vec::new(),
            busy: Vec::new(),
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let pid = call.pid;
        let Some(receipt) = self.left.last().copied() else {
            return Flow::Commit(Op::Rest(self));
        };
        match self.stage {
            Stage::Cursor => {
                self.cursor = Some(world.db.cursor(pid, receipt.lane));
                if call.has(Mutation::RestReadsMovedFirst) {
                    self.is_moved = is_moved(world, pid, receipt);
                }
                self.stage = Stage::Split;
            }
            Stage::Split => {
                let key = (receipt.lane, receipt.seq(), receipt.tok | SPLIT);
                if world.db.lease.lock(pid, key).is_some() {
                    world.db.lease.put(pid, key, None);
                    self.next(Some(receipt));
                } else {
                    self.stage = Stage::Salt;
                }
            }
            Stage::Salt => self.read_salt(world, call, receipt),
            Stage::Position => self.clear_by_position(world, call, receipt),
            Stage::Busy => {
                if covering(world, pid, receipt).is_empty() {
                    self.stage = Stage::Moved;
                } else {
                    self.busy.push(receipt);
                    self.next(None);
                }
            }
            Stage::Moved => {
                if !call.has(Mutation::RestReadsMovedFirst) {
                    self.is_moved = is_moved(world, pid, receipt);
                }
                if call.has(Mutation::RestIgnoresMoved) {
                    self.is_moved = false;
                }
                self.stage = Stage::Judge;
                if !call.has(Mutation::RestReadsCursorLast) {
                    return self.run(world, call);
                }
            }
            Stage::Judge => self.judge(world, call, receipt),
        }
        Flow::On(Op::Rest(self))
    }

    /// The salt says whether the number is still that message's. A lease keeps its chunk: where
    /// there is no chunk there is nothing to delete either.
    fn read_salt(&mut self, world: &World, call: Call<'_>, receipt: Receipt) {
        let found = world.db.chunk_at(call.pid, receipt.lane, receipt.seq());
        let salt = found.map(|(_, chunk)| chunk.salt);
        if call.has(Mutation::RestIgnoresSalt) || salt == Some(receipt.salt) {
            self.stage = Stage::Position;
        } else if salt.is_some() {
            self.next(None);
        } else if call.has(Mutation::RestReadsSaltLoosely) {
            self.stage = Stage::Position;
        } else {
            self.stage = Stage::Moved;
        }
    }

    fn clear_by_position(&mut self, world: &mut World, call: Call<'_>, receipt: Receipt) {
        for key in covering(world, call.pid, receipt) {
            if let Some(mut lease) = world.db.lease.lock(call.pid, key) {
                lease.mask &= !(1 << (receipt.seq() - key.1));
                let is_left = lease.mask != 0;
                world.db.lease.put(call.pid, key, is_left.then_some(lease));
                return self.next(Some(receipt));
            }
        }
        self.stage = Stage::Busy;
    }

    /// No lease covers it: it was deleted, or it is not the receipt's any more.
    fn judge(&mut self, world: &World, call: Call<'_>, receipt: Receipt) {
        let now = world.db.cursor(call.pid, receipt.lane);
        let cursor = if call.has(Mutation::RestReadsCursorLast) {
            now
        } else {
            self.cursor.unwrap_or(now)
        };
        let is_gone = !self.is_moved && cursor.epoch == receipt.epoch && receipt.seq() < cursor.pos;
        self.next(is_gone.then_some(receipt));
    }

    fn next(&mut self, deleted: Option<Receipt>) {
        self.deleted.extend(deleted);
        self.left.pop();
        self.stage = Stage::Cursor;
        self.cursor = None;
        self.is_moved = false;
    }

    pub(super) fn committed(self, world: &mut World, heard: bool) -> Option<Op> {
        acknowledge(world, &self.deleted, heard);
        let again = Op::Rest(Self::new(self.busy.clone()));
        (heard && !self.busy.is_empty()).then_some(again)
    }
}

/// Whether the message is somewhere else by now.
fn is_moved(world: &World, pid: Pid, receipt: Receipt) -> bool {
    let place: Option<&(u8, Seq)> = world.db.moved.get(pid, receipt.message);
    place.is_some_and(|place| *place != (receipt.lane, receipt.seq()))
}

fn covering(world: &World, pid: Pid, receipt: Receipt) -> Vec<LeaseKey> {
    world
        .db
        .leases(pid, receipt.lane)
        .filter(|(key, lease)| {
            lease.epoch == receipt.epoch && covers(key.1, lease.mask, receipt.seq())
        })
        .map(|(key, _)| key)
        .collect()
}

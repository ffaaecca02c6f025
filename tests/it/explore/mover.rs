//! The move to a dead-letter queue: lease, floor, append there, delete here, in one transaction.

use super::append::{Append, Said};
use super::rules::Mutation;
use super::store::{DEAD, LeaseKey, Msg};
use super::world::{Call, Flow, Op, World};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stage {
    Lease,
    Floor,
    Append(Append),
    /// Of a move in two transactions: the copy is committed.
    Copied,
    Delete,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Move {
    pub(super) lease: LeaseKey,
    messages: Vec<Msg>,
    stage: Stage,
    /// Where they are now.
    appended: Option<Append>,
}

impl Move {
    pub(super) fn new(lease: LeaseKey) -> Self {
        Self {
            lease,
            messages: Vec::new(),
            stage: Stage::Lease,
            appended: None,
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let pid = call.pid;
        let lane = self.lease.0;
        match self.stage {
            Stage::Lease => {
                let locks = call.config.lock_to_move && !call.has(Mutation::MoveWithoutLaneLock);
                if locks && world.try_lane(pid, lane).is_err() {
                    return Flow::Rollback(None);
                }
                if world.db.lease.get(pid, self.lease).is_none() {
                    world.movers.remove(&self.lease);
                }
                if world.db.lease.lock(pid, self.lease).is_none() {
                    return Flow::Rollback(None);
                }
                self.stage = Stage::Floor;
            }
            Stage::Floor => {
                let cursor = world.db.cursor(pid, lane);
                let lease = *world.db.lease.get(pid, self.lease).unwrap();
                let is_dead = lease.epoch != cursor.epoch || self.lease.1 < cursor.floor;
                if is_dead && !call.has(Mutation::MoveIgnoresFloor) {
                    world.movers.remove(&self.lease);
                    return Flow::Rollback(None);
                }
                // The lease keeps its chunk: when it is read makes no difference.
                let (first, chunk) = world.db.chunk_at(pid, lane, self.lease.1).unwrap();
                self.messages = (0..8)
                    .filter(|bit| lease.mask & (1 << bit) != 0)
                    .map(|bit| chunk.messages[usize::from(self.lease.1 + bit - first)])
                    .collect();
                self.stage = Stage::Append(Append::new(DEAD, &self.messages, false));
            }
            Stage::Append(ref mut append) => match append.statement(world, call) {
                Said::On => {}
                Said::Wait(by) => return Flow::Wait(by),
                // The lease was given to its mover for a while: it may begin again.
                Said::Collided => return Flow::Rollback(Some(Op::Move(Self::new(self.lease)))),
                Said::GaveUp => return Flow::Rollback(None),
                Said::Done => {
                    self.appended = Some(append.clone());
                    if call.has(Mutation::MoveInTwoTransactions) {
                        self.stage = Stage::Copied;
                        return Flow::Commit(Op::Move(self));
                    }
                    self.stage = Stage::Delete;
                    return self.run(world, call);
                }
            },
            Stage::Copied | Stage::Delete => {
                world.db.lease.put(pid, self.lease, None);
                let next = world.tail(pid).unwrap().next;
                for (message, seq) in self.messages.iter().zip(next..) {
                    world.db.moved.put(pid, *message, Some((DEAD, seq)));
                }
                self.stage = Stage::Done;
            }
            Stage::Done => return Flow::Commit(Op::Move(self)),
        }
        Flow::On(Op::Move(self))
    }

    pub(super) fn committed(self, world: &mut World, call: Call<'_>, heard: bool) -> Option<Op> {
        if self.stage == Stage::Copied {
            return heard.then_some(Op::Move(self));
        }
        if let Some(append) = &self.appended {
            append.settle(world, call.pid, heard);
        }
        world.movers.remove(&self.lease);
        None
    }
}

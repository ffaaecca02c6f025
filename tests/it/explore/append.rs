//! Append: probe the tail, insert, look again at what was freed.

use super::rules::Mutation;
use super::store::{Chunk, DELAYED, Insert, Lane, Lease, Msg, Pid, Seq};
use super::world::{Call, Flow, Op, WINDOW, World};

/// Calls until a sender gives up: its first finds no tail, a rival makes another stale.
const CALLS: u8 = 4;

/// The end of a lane as a process knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tail {
    pub(super) next: Seq,
    /// The newest chunk: probes begin there.
    last: Seq,
    salt: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// Whether the messages were accepted before under their key.
    Known,
    Open,
    OpenLog {
        freed: Seq,
    },
    ProbeFreed {
        found: Seq,
    },
    Key,
    Insert,
    SecondLook,
    Done,
    /// Done before.
    Repeated,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Append {
    lane: Lane,
    messages: Vec<Msg>,
    /// With an idempotency key.
    is_keyed: bool,
    calls: u8,
    stage: Stage,
}

/// What came of a statement of an append.
pub(super) enum Said {
    On,
    Wait(Pid),
    /// Everything is to be rolled back. The append may be tried anew.
    Collided,
    GaveUp,
    /// Nothing is left to do but to commit.
    Done,
}

impl Append {
    pub(super) fn new(lane: Lane, messages: &[Msg], is_keyed: bool) -> Self {
        let mut new = Self {
            lane,
            messages: messages.to_vec(),
            is_keyed,
            calls: CALLS,
            stage: Stage::Done,
        };
        new.stage = new.first();
        new
    }

    fn first(&self) -> Stage {
        if self.is_keyed {
            Stage::Known
        } else {
            Stage::Open
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        match self.statement(world, call) {
            Said::On => Flow::On(Op::Append(self)),
            Said::Wait(by) => Flow::Wait(by),
            Said::Collided => Flow::Rollback(Some(Op::Append(self))),
            Said::GaveUp => Flow::Rollback(None),
            Said::Done => Flow::Commit(Op::Append(self)),
        }
    }

    pub(super) fn statement(&mut self, world: &mut World, call: Call<'_>) -> Said {
        let pid = call.pid;
        let freed = if call.has(Mutation::TailFromLogAlone) {
            0
        } else {
            world.db.freed(pid, self.lane)
        };
        if self.stage == Stage::Known {
            let is_known = world.db.keys.get(pid, self.messages[0]).is_some();
            self.stage = if is_known {
                Stage::Repeated
            } else {
                Stage::Open
            };
            return Said::On;
        }
        if [Stage::Done, Stage::Repeated].contains(&self.stage) {
            return Said::Done;
        }
        let Some(tail) = *world.tail(pid) else {
            return self.open(world, call, freed);
        };
        match self.stage {
            Stage::Known | Stage::Open | Stage::OpenLog { .. } => {
                match self.newest(world, pid, tail.last) {
                    Some((last, next)) if next > tail.next => {
                        return self.stale(world, call, last, next);
                    }
                    Some((_, next)) if next == tail.next => self.stage = self.write(),
                    found => {
                        let found = found.unwrap_or_default().1;
                        self.stage = Stage::ProbeFreed { found };
                    }
                }
            }
            // What the caller knows is not there. That is right if it was freed.
            Stage::ProbeFreed { .. } if freed == tail.next => self.stage = self.write(),
            Stage::ProbeFreed { found } => {
                let next = freed.max(found);
                return self.stale(world, call, next.saturating_sub(61), next);
            }
            Stage::Key => match world.db.keys.insert(pid, self.messages[0], ()) {
                _ if call.has(Mutation::KeyProbedOnly) => self.stage = Stage::Insert,
                Insert::Wait(by) => return Said::Wait(by),
                Insert::Duplicate => return self.collided(world, pid),
                Insert::Done => self.stage = Stage::Insert,
            },
            Stage::Insert => return self.insert(world, call, tail),
            Stage::SecondLook => {
                if freed > tail.next && !call.has(Mutation::AppendWithoutSecondLook) {
                    return self.collided(world, pid);
                }
                self.stage = Stage::Done;
            }
            Stage::Done | Stage::Repeated => {}
        }
        Said::On
    }

    fn write(&self) -> Stage {
        if self.is_keyed {
            Stage::Key
        } else {
            Stage::Insert
        }
    }

    /// A call that inserts nothing, and says where the lane ends.
    fn open(&mut self, world: &mut World, call: Call<'_>, freed: Seq) -> Said {
        let Stage::OpenLog { freed } = self.stage else {
            self.stage = Stage::OpenLog { freed };
            return Said::On;
        };
        let newest = self.newest(world, call.pid, freed.saturating_sub(61));
        let (last, next) = newest.unwrap_or_default();
        self.stale(world, call, last, next.max(freed))
    }

    fn newest(&self, world: &World, pid: Pid, from: Seq) -> Option<(Seq, Seq)> {
        let mut chunks = world.db.chunks(pid, self.lane);
        let (seq, chunk) = chunks.rfind(|(seq, _)| *seq >= from)?;
        Some((seq, seq + chunk.size()))
    }

    /// Another tail than the one that was known: a new opening, with a salt of its own.
    fn stale(&mut self, world: &mut World, call: Call<'_>, last: Seq, next: Seq) -> Said {
        if self.is_keyed && call.has(Mutation::KeyKeptWhenStale) {
            world.db.keys.put(call.pid, self.messages[0], Some(()));
            world.db.keys.end(call.pid, true);
        }
        let salt = world.new_salt();
        *world.tail(call.pid) = Some(Tail { next, last, salt });
        self.again(Said::On)
    }

    fn collided(&mut self, world: &mut World, pid: Pid) -> Said {
        *world.tail(pid) = None;
        self.again(Said::Collided)
    }

    fn again(&mut self, said: Said) -> Said {
        self.calls -= 1;
        self.stage = self.first();
        if self.calls == 0 { Said::GaveUp } else { said }
    }

    fn insert(&mut self, world: &mut World, call: Call<'_>, tail: Tail) -> Said {
        let pid = call.pid;
        let chunk = Chunk {
            salt: tail.salt,
            messages: self.messages.clone(),
        };
        let size = chunk.size();
        match world.db.log.insert(pid, (self.lane, tail.next), chunk) {
            Insert::Wait(by) => return Said::Wait(by),
            Insert::Duplicate => return self.collided(world, pid),
            Insert::Done => {}
        }
        if self.lane == DELAYED {
            let lease = Lease {
                epoch: world.db.cursor(pid, DELAYED).epoch,
                mask: (1 << size) - 1,
                vt: world.clock + WINDOW,
                rc: 0,
                to_move: false,
            };
            let tok = world.new_tok();
            let key = (DELAYED, tail.next, tok);
            world.db.lease.put(pid, key, Some(lease));
            for message in &self.messages {
                world.fact(*message).due = lease.vt;
            }
        }
        self.stage = Stage::SecondLook;
        Said::On
    }

    pub(super) fn committed(self, world: &mut World, call: Call<'_>, heard: bool) -> Option<Op> {
        self.settle(world, call.pid, heard);
        for message in &self.messages {
            world.fact(*message).sent |= heard;
        }
        None
    }

    /// What the process knows of the lane after a commit.
    pub(super) fn settle(&self, world: &mut World, pid: Pid, heard: bool) {
        if self.stage == Stage::Repeated {
            return;
        }
        let known = world.tail(pid).filter(|_| heard);
        *world.tail(pid) = known.map(|tail| Tail {
            last: tail.next,
            next: tail.next + u8::try_from(self.messages.len()).unwrap(),
            ..tail
        });
    }
}

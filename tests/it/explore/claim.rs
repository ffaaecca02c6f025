//! Claim: under the lane's lock expired leases first, then what is ahead of the cursor.

use super::rules::Mutation;
use super::store::{
    Cursor, DEAD, DELAYED, Fate, Insert, Lane, Lease, LeaseKey, Mask, NOBODY, Seq, Time, Tok,
};
use super::world::{Call, Flow, Op, Receipt, WINDOW, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Lock,
    Expired(Cursor),
    New(Cursor),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Claim {
    lane: Lane,
    /// How many messages its receiver still takes.
    room: u8,
    now: Time,
    stage: Stage,
    receipts: Vec<Receipt>,
    to_move: Vec<LeaseKey>,
    /// Of a claim whose receiver has one token for all its leases.
    tok: Option<Tok>,
}

impl Claim {
    pub(super) fn new(lane: Lane, room: u8, now: Time) -> Self {
        Self {
            lane,
            room,
            now,
            stage: Stage::Lock,
            receipts: Vec::new(),
            to_move: Vec::new(),
            tok: None,
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let pid = call.pid;
        match self.stage {
            Stage::Lock => {
                let unlocked = call.has(Mutation::ClaimWithoutLaneLock);
                if !unlocked && world.try_lane(pid, self.lane).is_err() {
                    return Flow::Rollback(None);
                }
                self.stage = Stage::Expired(world.db.cursor(pid, self.lane));
            }
            Stage::Expired(cursor) => {
                self.take_expired(world, call, cursor);
                self.stage = if self.lane == DELAYED || self.room == 0 {
                    Stage::Done
                } else {
                    Stage::New(cursor)
                };
            }
            Stage::New(cursor) => match self.take_new(world, call, cursor) {
                Insert::Done => self.stage = Stage::Done,
                Insert::Wait(by) => return Flow::Wait(by),
                Insert::Duplicate => return Flow::Rollback(None),
            },
            Stage::Done => return Flow::Commit(Op::Claim(self)),
        }
        Flow::On(Op::Claim(self))
    }

    /// One statement finds and locks them, others write them: to everybody else it is one.
    fn take_expired(&mut self, world: &mut World, call: Call<'_>, cursor: Cursor) {
        let pid = call.pid;
        let leases = world.db.leases(pid, self.lane);
        let expired: Vec<_> = leases
            .filter(|(key, lease)| {
                lease.vt <= self.now && world.db.lease.locker(pid, *key).is_none()
            })
            .map(|(key, lease)| (key, *lease))
            .collect();
        for (key, lease) in expired {
            let is_of_other_epoch =
                lease.epoch != cursor.epoch && !call.has(Mutation::EpochIgnored);
            if is_of_other_epoch || key.1 < cursor.floor {
                world.db.lease.put(pid, key, None);
                continue;
            }
            let max = call.config.max_receives;
            if max > 0 && self.lane != DEAD && lease.rc >= max {
                let lease = Lease {
                    to_move: true,
                    ..lease
                };
                let key = self.put_anew(world, call, key, lease);
                self.to_move.push(key);
                continue;
            }
            let taken = lowest(lease.mask, self.room);
            if taken == 0 {
                continue;
            }
            self.room -= u8::try_from(taken.count_ones()).unwrap();
            let rest = lease.mask & !taken;
            let lease = Lease {
                rc: lease.rc + 1,
                mask: taken,
                to_move: false,
                ..lease
            };
            let anew = self.put_anew(world, call, key, lease);
            if rest != 0 {
                let parent = Lease {
                    mask: rest,
                    vt: self.now,
                    rc: lease.rc - 1,
                    ..lease
                };
                world.db.lease.put(pid, key, Some(parent));
            }
            self.deliver(world, anew, lease);
        }
    }

    /// A lease's own: two that begin at one number may be claimed together.
    fn new_tok(&mut self, world: &mut World, call: Call<'_>) -> Tok {
        if call.has(Mutation::OneTokenPerReceiver) {
            *self.tok.get_or_insert_with(|| world.new_tok())
        } else {
            world.new_tok()
        }
    }

    /// The same lease under a new token, for a window from now on.
    fn put_anew(
        &mut self,
        world: &mut World,
        call: Call<'_>,
        key: LeaseKey,
        lease: Lease,
    ) -> LeaseKey {
        let pid = call.pid;
        let anew = (key.0, key.1, self.new_tok(world, call));
        if world.db.lease.get(pid, anew).is_some() {
            world.wrong = Some(format!(
                "two leases with the key {anew:?}: no claim succeeds"
            ));
        }
        let lease = Lease {
            vt: self.now + WINDOW,
            ..lease
        };
        world.db.lease.put(pid, key, None);
        world.db.lease.put(pid, anew, Some(lease));
        anew
    }

    fn take_new(&mut self, world: &mut World, call: Call<'_>, cursor: Cursor) -> Insert {
        let pid = call.pid;
        let chunks: Vec<_> = world
            .db
            .chunks(pid, self.lane)
            .map(|(seq, chunk)| (seq, seq + chunk.size()))
            .collect();
        let mut pos = cursor.pos;
        let mut taken: Vec<(Seq, u8)> = Vec::new();
        for (seq, end) in chunks {
            let lo = seq.max(pos);
            if end <= lo || self.room == 0 {
                continue;
            }
            let count = self.room.min(end - lo);
            self.room -= count;
            pos = lo + count;
            taken.push((lo, count));
        }
        if taken.is_empty() {
            return Insert::Done;
        }
        let row = (self.lane, 1, cursor.epoch, pos, cursor.floor);
        let inserted = world.db.cur.insert(pid, row, ());
        if !matches!(inserted, Insert::Done) {
            return inserted;
        }
        for (lo, count) in taken {
            let lease = Lease {
                epoch: cursor.epoch,
                mask: (1 << count) - 1,
                vt: self.now + WINDOW,
                rc: 1,
                to_move: false,
            };
            let key = (self.lane, lo, self.new_tok(world, call));
            world.db.lease.put(pid, key, Some(lease));
            self.deliver(world, key, lease);
        }
        Insert::Done
    }

    fn deliver(&mut self, world: &World, key: LeaseKey, lease: Lease) {
        let (lane, lo, tok) = key;
        for bit in (0..8).filter(|bit| lease.mask & (1 << bit) != 0) {
            let found = world.db.chunk_at(NOBODY, lane, lo + bit);
            // A lease without its chunk is found as what is wrong.
            let Some((first, chunk)) = found else {
                continue;
            };
            self.receipts.push(Receipt {
                lane,
                lo,
                tok,
                bit,
                size: u8::try_from(8 - lease.mask.leading_zeros()).unwrap(),
                epoch: lease.epoch,
                salt: chunk.salt,
                message: chunk.messages[usize::from(lo + bit - first)],
            });
        }
    }

    pub(super) fn committed(self, world: &mut World, heard: bool) -> Option<Op> {
        if !heard {
            return None;
        }
        world.movers.extend(self.to_move);
        for receipt in self.receipts {
            let fact = world.fact(receipt.message);
            let wrong = if fact.fate == Fate::Deleted {
                Some("delivered after its deletion")
            } else if fact.fate == Fate::Dropped {
                Some("delivered although purged or expired")
            } else if self.now < fact.until {
                Some("delivered while another holds it")
            } else if self.now < fact.due {
                Some("delivered before it was due")
            } else {
                None
            };
            fact.until = self.now + WINDOW;
            if fact.fate == Fate::Loose {
                fact.fate = Fate::Wanted;
            }
            if let Some(wrong) = wrong {
                world.wrong = Some(format!("message {}: {wrong}", receipt.message));
            }
            world.receipts.insert(receipt);
        }
        None
    }
}

/// So many of the lowest bits of a mask.
fn lowest(mask: Mask, count: u8) -> Mask {
    (0..8)
        .filter(|bit| mask & (1 << bit) != 0)
        .take(usize::from(count))
        .fold(0, |taken, bit| taken | 1 << bit)
}

//! What moves a cursor without a delivery: purge and seek wait for lane locks, retention tries.

use super::rules::{Item, Mutation};
use super::store::{DELAYED, Fate, Insert, Lane, LeaseKey, NOBODY, Pid, READY, Seq};
use super::world::{Call, Flow, Op, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Purge,
    Seek,
    Retain,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Floor {
    kind: Kind,
    to_lock: Vec<Lane>,
    to_set: Vec<Lane>,
    /// Floors that were written.
    floors: Vec<(Lane, Seq)>,
    /// Of a purge that deletes rows: those that its statement saw.
    rows: Vec<LeaseKey>,
}

impl Floor {
    fn new(kind: Kind, lanes: Vec<Lane>) -> Self {
        Self {
            kind,
            to_lock: lanes.clone(),
            to_set: lanes,
            floors: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn purge(call: Call<'_>) -> Self {
        let mut items = call.config.scripts.concat().into_iter();
        let is_delayed = items.any(|item| matches!(item, Item::Send(DELAYED, _)));
        // Taken from the end: ascending.
        let lanes = if is_delayed {
            vec![DELAYED, READY]
        } else {
            vec![READY]
        };
        Self::new(Kind::Purge, lanes)
    }

    pub(super) fn seek() -> Self {
        Self::new(Kind::Seek, vec![READY])
    }

    pub(super) fn retain() -> Self {
        Self::new(Kind::Retain, vec![READY])
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        if let Some(lane) = self.to_lock.pop() {
            return match world.try_lane(call.pid, lane) {
                Ok(()) => Flow::On(Op::Floor(self)),
                Err(_) if self.kind == Kind::Retain => Flow::Rollback(None),
                Err(by) => Flow::Wait(by),
            };
        }
        if let Some(lane) = self.to_set.pop() {
            return match self.set(world, call, lane) {
                Insert::Wait(by) => Flow::Wait(by),
                Insert::Done | Insert::Duplicate => Flow::On(Op::Floor(self)),
            };
        }
        if let Some(key) = self.rows.pop() {
            if let Some(by) = world.db.lease.locker(call.pid, key) {
                return Flow::Wait(by);
            }
            if world.db.lease.get(call.pid, key).is_some() {
                world.db.lease.put(call.pid, key, None);
            }
            return Flow::On(Op::Floor(self));
        }
        self.tell(world, call);
        Flow::Commit(Op::Floor(self))
    }

    /// Under the lane's lock its cursor stays as it is: reading and writing are one.
    fn set(&mut self, world: &mut World, call: Call<'_>, lane: Lane) -> Insert {
        let pid = call.pid;
        let cursor = world.db.cursor(pid, lane);
        let pos = if lane == DELAYED {
            cursor.floor
        } else {
            cursor.pos
        };
        let deletes = call.has(Mutation::PurgeDeletesRows);
        let row = match self.kind {
            Kind::Purge => {
                let chunks = world.db.chunks(pid, lane);
                let ends = chunks.map(|(seq, chunk)| seq + chunk.size());
                let tail = ends.max().unwrap_or_default().max(pos);
                self.floors.push((lane, tail));
                let floor = if deletes { cursor.floor } else { tail };
                (lane, 1, cursor.epoch, tail, floor)
            }
            Kind::Seek => {
                self.floors.push((lane, cursor.floor));
                (lane, 1, cursor.epoch + 1, cursor.floor, cursor.floor)
            }
            Kind::Retain => {
                let ends = world
                    .db
                    .chunks(pid, lane)
                    .map(|(seq, chunk)| seq + chunk.size());
                let floor = ends
                    .filter(|end| *end > cursor.floor)
                    .min()
                    .unwrap_or(cursor.floor);
                self.floors.push((lane, floor));
                (lane, 1, cursor.epoch, pos.max(floor), floor)
            }
        };
        if deletes {
            let seen = world.db.leases(pid, lane).map(|(key, _)| key);
            self.rows.extend(seen);
        }
        world.db.cur.insert(pid, row, ())
    }

    /// What the commit that follows means for the messages.
    fn tell(&self, world: &mut World, call: Call<'_>) {
        for (lane, floor) in &self.floors {
            let messages: Vec<_> = world.db.places().filter(|place| place.1 == *lane).collect();
            for (message, _, seq) in messages {
                if self.kind == Kind::Seek {
                    let fact = world.fact(message);
                    fact.until = 0;
                    if fact.fate == Fate::Deleted && seq >= *floor {
                        fact.fate = Fate::Loose;
                    }
                } else if seq < *floor && world.db.is_live(*lane, seq) {
                    let may_move = !call.config.lock_to_move && is_moved(world, *lane, seq);
                    world.fact(message).fate = if may_move { Fate::Loose } else { Fate::Dropped };
                }
            }
        }
    }
}

/// Whether a mover is at a message: it may be past its look at the floor.
fn is_moved(world: &World, lane: Lane, seq: Seq) -> bool {
    let nobody: Pid = NOBODY;
    let mut leases = world.db.leases(nobody, lane);
    leases.any(|(key, lease)| super::store::covers(key.1, lease.mask, seq) && world.is_moved(key))
}

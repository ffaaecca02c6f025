//! The space task: the cursor first, the leases second. It takes chunks of any age: the rule of
//! the age is a second wall, and a stopped process is not bound by it.

use super::rules::{Item, Mutation};
use super::store::{Cursor, Insert, Lane, Seq};
use super::world::{Call, Flow, Op, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Cursor,
    Scan,
    Probe,
    Delete,
    Record,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Free {
    lane: Lane,
    stage: Stage,
    cursor: Option<Cursor>,
    /// Chunks, from the end: first number and the one behind the last.
    chunks: Vec<(Seq, Seq)>,
    highest: Seq,
}

impl Free {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            stage: Stage::Cursor,
            cursor: None,
            chunks: Vec::new(),
            highest: 0,
        }
    }

    pub(super) fn run(mut self, world: &mut World, call: Call<'_>) -> Flow {
        let (pid, lane) = (call.pid, self.lane);
        let leases_first = call.has(Mutation::FreeReadsLeasesFirst);
        match self.stage {
            Stage::Cursor => {
                // A seek makes messages wanted that had no lease a moment before.
                let is_sought = call.config.scripts.concat().contains(&Item::Seek);
                let locks = is_sought && !call.has(Mutation::FreeWithoutLaneLock);
                if locks && world.try_lane(pid, lane).is_err() {
                    return Flow::Rollback(None);
                }
                self.cursor = Some(world.db.cursor(pid, lane));
                self.stage = Stage::Scan;
            }
            Stage::Scan => self.scan(world, call),
            Stage::Probe => {
                let Some((first, end)) = self.chunks.last().copied() else {
                    self.stage = Stage::Record;
                    return self.run(world, call);
                };
                let mut leases = world.db.leases(pid, lane);
                let is_leased = leases.any(|(key, _)| first <= key.1 && key.1 < end);
                drop(leases);
                if is_leased {
                    self.chunks.pop();
                } else {
                    self.stage = Stage::Delete;
                }
            }
            Stage::Delete => {
                let (first, end) = self.chunks.pop().unwrap();
                let is_past = !leases_first || end <= world.db.cursor(pid, lane).pos;
                if is_past && world.db.log.lock(pid, (lane, first)).is_some() {
                    world.db.log.put(pid, (lane, first), None);
                    self.highest = end;
                }
                self.stage = Stage::Probe;
            }
            Stage::Record => {
                if self.highest > world.db.freed(pid, lane) {
                    let row = (lane, 0, 0, self.highest, 0);
                    match world.db.cur.insert(pid, row, ()) {
                        Insert::Wait(by) => return Flow::Wait(by),
                        Insert::Duplicate => return Flow::Rollback(None),
                        Insert::Done => {}
                    }
                }
                self.stage = Stage::Done;
            }
            Stage::Done => return Flow::Commit(Op::Free(self)),
        }
        Flow::On(Op::Free(self))
    }

    /// Leases below the floor go at once; of chunks there is a list.
    fn scan(&mut self, world: &mut World, call: Call<'_>) {
        let (pid, lane) = (call.pid, self.lane);
        let cursor = self.cursor.unwrap();
        let dead: Vec<_> = world
            .db
            .leases(pid, lane)
            .map(|(key, _)| key)
            .filter(|key| key.1 < cursor.floor)
            .collect();
        for key in dead {
            if world.db.lease.lock(pid, key).is_some() {
                world.db.lease.put(pid, key, None);
            }
        }
        let pos = if call.has(Mutation::FreeReadsLeasesFirst) {
            Seq::MAX
        } else {
            cursor.pos
        };
        let chunks = world.db.chunks(pid, lane);
        self.chunks = chunks
            .map(|(seq, chunk)| (seq, seq + chunk.size()))
            .filter(|(_, end)| *end <= pos)
            .rev()
            .collect();
        self.stage = Stage::Probe;
    }
}

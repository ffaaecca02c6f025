//! Nodes over the database of the model: scripts of calls, their statements in every order, the
//! clock, and what crashes.

use std::collections::{BTreeMap, BTreeSet};

use super::ack::Ack;
use super::append::{Append, Tail};
use super::claim::Claim;
use super::extend::Extend;
use super::floor::Floor;
use super::mover::Move;
use super::rest::Rest;
use super::rules::{Config, Item, Mutation};
use super::search::Model;
use super::space::Free;
use super::store::{
    Chunk, Db, Fact, Fate, LANES, Lane, LeaseKey, Msg, NOBODY, Pid, READY, Seq, Time, Tok,
};

/// How long a delivery lasts, in ticks of the clock.
pub(super) const WINDOW: Time = 1;

/// What a client was given with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Receipt {
    pub(super) lane: Lane,
    pub(super) lo: Seq,
    pub(super) tok: Tok,
    pub(super) bit: u8,
    /// Bits of the lease.
    pub(super) size: u8,
    pub(super) epoch: u8,
    pub(super) salt: u8,
    pub(super) message: Msg,
}

impl Receipt {
    pub(super) fn seq(&self) -> Seq {
        self.lo + self.bit
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Append(Append),
    Claim(Claim),
    Ack(Ack),
    Rest(Rest),
    Extend(Extend),
    Floor(Floor),
    Free(Free),
    Move(Move),
}

/// What came of a statement.
pub(super) enum Flow {
    /// The transaction goes on.
    On(Op),
    Wait(Pid),
    /// The call is over without effect, or begins again.
    Rollback(Option<Op>),
    /// The transaction ends well, and its caller is answered.
    Commit(Op),
}

/// A step of the whole.
#[derive(Clone, Copy)]
pub(super) enum Event {
    Runs(Pid),
    RollsBack(Pid),
    Commits {
        pid: Pid,
        heard: bool,
    },
    /// The call is over, as if it had never been.
    Killed(Pid),
    /// The database comes back with so many of the commits that were not flushed.
    Crashes {
        left: usize,
    },
    Tick,
    Deadlock,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) db: Db,
    /// What a crash may leave: the database before each commit that was not flushed.
    behind: Vec<Db>,
    pub(super) locks: [Option<Pid>; LANES.len()],
    pub(super) clock: Time,
    ticks: u8,
    kills: u8,
    crashes: u8,
    /// Where each process is in its script, and the call that it is at.
    at: Vec<usize>,
    ops: Vec<Option<Op>>,
    /// Ends of lanes as each process knows them.
    pub(super) tails: Vec<Option<Tail>>,
    pub(super) receipts: BTreeSet<Receipt>,
    /// Who ever had a number and a salt.
    ids: BTreeMap<(Lane, Seq, u8), Msg>,
    /// Leases that movers were given.
    pub(super) movers: BTreeSet<LeaseKey>,
    next_tok: Tok,
    next_salt: u8,
    pub(super) wrong: Option<String>,
}

/// Who runs a statement, and under which rules.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) config: &'a Config,
    pub(super) pid: Pid,
}

impl Call<'_> {
    pub(super) fn has(&self, mutation: Mutation) -> bool {
        self.config.mutation == Some(mutation)
    }
}

impl World {
    /// Random in the product: no two are the same, whatever was lost.
    pub(super) fn new_tok(&mut self) -> Tok {
        self.next_tok += 1;
        self.next_tok
    }

    pub(super) fn new_salt(&mut self) -> u8 {
        self.next_salt += 1;
        self.next_salt
    }

    pub(super) fn fact(&mut self, message: Msg) -> &mut Fact {
        &mut self.db.facts[usize::from(message)]
    }

    pub(super) fn tail(&mut self, pid: Pid) -> &mut Option<Tail> {
        &mut self.tails[usize::from(pid)]
    }

    /// Takes a lane's advisory lock, or says who has it.
    pub(super) fn try_lane(&mut self, pid: Pid, lane: Lane) -> Result<(), Pid> {
        let lock = &mut self.locks[usize::from(lane)];
        match *lock {
            Some(by) if by != pid => Err(by),
            _ => {
                *lock = Some(pid);
                Ok(())
            }
        }
    }

    /// Whether somebody is moving what a lease covers.
    pub(super) fn is_moved(&self, key: LeaseKey) -> bool {
        let is_it = |op: &Option<Op>| matches!(op, Some(Op::Move(op)) if op.lease == key);
        self.ops.iter().any(is_it)
    }

    /// Calls that an item of a script may begin with. One that would find nothing waits instead.
    fn begin(&self, item: Item, call: Call<'_>) -> Vec<Op> {
        let clock = self.clock;
        let receipts = || self.receipts.iter().copied();
        match item {
            Item::Send(lane, messages) => vec![Op::Append(Append::new(lane, messages, false))],
            Item::SendOnce(lane, messages) => vec![Op::Append(Append::new(lane, messages, true))],
            Item::Claim(lane, room) => {
                let cursor = self.db.cursor(NOBODY, lane);
                let mut leases = self.db.leases(NOBODY, lane);
                let mut chunks = self.db.chunks(NOBODY, lane);
                let is_due = leases.any(|(_, lease)| lease.vt <= clock)
                    || chunks.any(|(seq, chunk)| seq + chunk.size() > cursor.pos);
                let claim = Op::Claim(Claim::new(lane, room, clock));
                is_due.then_some(claim).into_iter().collect()
            }
            Item::Ack => receipts()
                .map(|receipt| Op::Ack(Ack::new(vec![receipt], call)))
                .collect(),
            Item::AckAll => {
                let all: Vec<_> = receipts().collect();
                let is_batch = all.first().map(|r| r.tok) != all.last().map(|r| r.tok);
                let ack = is_batch.then(|| Op::Ack(Ack::new(all, call)));
                ack.into_iter().collect()
            }
            Item::Extend | Item::Nack => receipts()
                .map(|receipt| Op::Extend(Extend::new(receipt, clock, item == Item::Nack)))
                .collect(),
            Item::Purge => vec![Op::Floor(Floor::purge(call))],
            Item::Seek => vec![Op::Floor(Floor::seek())],
            Item::Retain => vec![Op::Floor(Floor::retain())],
            Item::Free(lane) => {
                let pos = self.db.cursor(NOBODY, lane).pos;
                let mut chunks = self.db.chunks(NOBODY, lane);
                let is_due = chunks.any(|(seq, chunk)| seq + chunk.size() <= pos);
                let free = is_due.then(|| Op::Free(Free::new(lane)));
                free.into_iter().collect()
            }
            Item::Move => {
                let keys = self.movers.iter().filter(|key| !self.is_moved(**key));
                keys.map(|key| Op::Move(Move::new(*key))).collect()
            }
        }
    }

    /// The next statement of a call.
    fn run(&mut self, op: Op, call: Call<'_>) -> Flow {
        match op {
            Op::Append(op) => op.run(self, call),
            Op::Claim(op) => op.run(self, call),
            Op::Ack(op) => op.run(self, call),
            Op::Rest(op) => op.run(self, call),
            Op::Extend(op) => op.run(self, call),
            Op::Floor(op) => op.run(self, call),
            Op::Free(op) => op.run(self, call),
            Op::Move(op) => op.run(self, call),
        }
    }

    /// After a commit. `heard`: the caller was told, and may have to call again.
    fn committed(&mut self, op: Op, call: Call<'_>, heard: bool) -> Option<Op> {
        match op {
            Op::Append(op) => op.committed(self, call, heard),
            Op::Claim(op) => op.committed(self, heard),
            Op::Ack(op) => op.committed(self, heard),
            Op::Rest(op) => op.committed(self, heard),
            Op::Extend(op) => op.committed(self, heard),
            Op::Floor(_) | Op::Free(_) => None,
            Op::Move(op) => op.committed(self, call, heard),
        }
    }

    fn end(&mut self, call: Call<'_>, commits: bool) {
        if commits && self.crashes > 0 && self.db.written_by(call.pid) {
            self.behind.push(self.db.settled());
        }
        self.db.end(call.pid, commits);
        for lock in &mut self.locks {
            lock.take_if(|by| *by == call.pid);
        }
    }

    fn go_on(&mut self, call: Call<'_>, op: Option<Op>) {
        self.at[usize::from(call.pid)] += usize::from(op.is_none());
        self.ops[usize::from(call.pid)] = op;
    }

    fn check(&mut self) {
        if self.wrong.is_none() {
            self.wrong = self.db.wrong();
        }
        for ((lane, seq), chunk) in self.db.log.seen(NOBODY) {
            for (message, seq) in chunk.messages.iter().zip(seq..) {
                let other = self.ids.insert((lane, seq, chunk.salt), *message);
                if other.is_some_and(|other| other != *message) {
                    self.wrong = Some(format!("number {seq} again under its old identity"));
                }
            }
        }
    }

    /// What a statement or an end of a transaction leads to, and whom it waits for.
    fn advance(&self, call: Call<'_>, op: &Op) -> (Vec<(Event, Self)>, Option<Pid>) {
        let mut next = self.clone();
        let pid = call.pid;
        match next.run(op.clone(), call) {
            Flow::Wait(by) => (Vec::new(), Some(by)),
            Flow::On(op) => {
                next.go_on(call, Some(op));
                (vec![(Event::Runs(pid), next)], None)
            }
            Flow::Rollback(op) => {
                next.end(call, false);
                next.go_on(call, op);
                (vec![(Event::RollsBack(pid), next)], None)
            }
            Flow::Commit(op) => {
                let mut ends = Vec::new();
                for heard in [true, false] {
                    if !heard && next.kills == 0 {
                        continue;
                    }
                    let mut next = next.clone();
                    next.kills -= u8::from(!heard);
                    next.end(call, true);
                    let then = next.committed(op.clone(), call, heard);
                    next.go_on(call, then);
                    next.check();
                    ends.push((Event::Commits { pid, heard }, next));
                }
                (ends, None)
            }
        }
    }

    fn killed(&self, call: Call<'_>, op: &Op) -> Self {
        let mut next = self.clone();
        next.kills -= 1;
        next.end(call, false);
        *next.tail(call.pid) = None;
        if let Op::Move(op) = op {
            next.movers.remove(&op.lease);
        }
        next.go_on(call, None);
        next
    }

    /// The database comes back as it was before some commit. Nodes that were at no call do not
    /// notice, and keep what they know: worse than what a broken connection makes of them.
    fn crashed(&self, config: &Config, left: usize) -> Self {
        let mut next = self.clone();
        next.crashes -= 1;
        next.db = self.behind[left].clone();
        next.behind = Vec::new();
        next.locks = Default::default();
        for (pid, op) in (0..).zip(&self.ops) {
            if op.is_some() {
                *next.tail(pid) = None;
                next.go_on(Call { config, pid }, None);
            }
        }
        next.check();
        next
    }

    /// Something waits for itself.
    fn deadlock(waits: &[Option<Pid>]) -> bool {
        (0..waits.len()).any(|start| {
            let mut at = waits[start];
            for _ in waits {
                match at {
                    Some(pid) if usize::from(pid) == start => return true,
                    Some(pid) => at = waits[usize::from(pid)],
                    None => return false,
                }
            }
            false
        })
    }
}

impl Model for Config {
    type State = World;
    type Event = Event;

    fn describe(&self, before: &World, event: &Event, after: &World) -> String {
        let op = |world: &World, pid: Pid| format!("{:?}", world.ops[usize::from(pid)]);
        match *event {
            Event::Runs(pid) => format!("{pid} runs a statement: {}", op(after, pid)),
            Event::RollsBack(pid) => format!("{pid} rolls back: {}", op(before, pid)),
            Event::Commits { pid, heard: true } => format!("{pid} commits: {}", op(before, pid)),
            Event::Commits { pid, heard: false } => {
                format!("{pid} commits and does not hear of it: {}", op(before, pid))
            }
            Event::Killed(pid) => format!("{pid} is killed: {}", op(before, pid)),
            Event::Crashes { left } => {
                format!("the database crashes, and loses its commits but for {left}")
            }
            Event::Tick => format!("it is {}", after.clock),
            Event::Deadlock => "deadlock".to_owned(),
        }
    }

    fn initial(&self) -> World {
        let fact = Fact {
            sent: false,
            fate: Fate::Wanted,
            until: 0,
            due: 0,
        };
        let mut db = Db {
            facts: vec![fact; usize::from(self.messages)],
            ..Db::default()
        };
        let mut seq = 0;
        for messages in self.stored {
            let chunk = Chunk {
                salt: 0,
                messages: messages.to_vec(),
            };
            for message in *messages {
                db.facts[usize::from(*message)].sent = true;
            }
            db.log.put(0, (READY, seq), Some(chunk.clone()));
            seq += chunk.size();
        }
        db.end(0, true);
        let processes = self.scripts.len();
        World {
            db,
            behind: Vec::new(),
            locks: Default::default(),
            clock: 0,
            ticks: self.ticks,
            kills: self.kills,
            crashes: self.crashes,
            at: vec![0; processes],
            ops: vec![None; processes],
            tails: vec![None; processes],
            receipts: BTreeSet::new(),
            ids: BTreeMap::new(),
            movers: BTreeSet::new(),
            next_tok: 0,
            next_salt: 0,
            wrong: None,
        }
    }

    fn successors(&self, world: &World) -> Vec<(Event, World)> {
        let mut all = Vec::new();
        let mut waits = vec![None; self.scripts.len()];
        for (ix, (pid, script)) in (0..).zip(self.scripts).enumerate() {
            let call = Call { config: self, pid };
            if let Some(op) = &world.ops[ix] {
                let (next, waits_for) = world.advance(call, op);
                all.extend(next);
                waits[ix] = waits_for;
                if world.kills > 0 {
                    all.push((Event::Killed(pid), world.killed(call, op)));
                }
            } else if let Some(item) = script.get(world.at[ix]) {
                for op in world.begin(*item, call) {
                    let mut next = world.clone();
                    next.ops[ix] = Some(op.clone());
                    all.extend(next.advance(call, &op).0);
                }
            }
        }
        if World::deadlock(&waits) {
            let mut next = world.clone();
            next.wrong = Some(format!("processes wait for each other: {waits:?}"));
            all.push((Event::Deadlock, next));
        }
        if world.ticks > 0 {
            let mut next = world.clone();
            next.ticks -= 1;
            next.clock += 1;
            all.push((Event::Tick, next));
        }
        if world.crashes > 0 {
            for left in 0..world.behind.len() {
                all.push((Event::Crashes { left }, world.crashed(self, left)));
            }
        }
        all
    }

    fn wrong(&self, world: &World) -> Option<String> {
        world.wrong.clone()
    }
}

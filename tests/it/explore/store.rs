//! The database of the model: rows with the versions that others see and those of a transaction
//! that runs, and what must be true of what is committed.

use std::collections::BTreeMap;

pub(super) type Pid = u8;
pub(super) type Lane = u8;
pub(super) type Seq = u8;
pub(super) type Tok = u8;
pub(super) type Msg = u8;
pub(super) type Time = u8;
/// Bits of a lease, relative to its `lo`.
pub(super) type Mask = u8;

/// The queue's ready lane and its delayed one, and the ready lane of its dead-letter queue.
pub(super) const READY: Lane = 0;
pub(super) const DEAD: Lane = 1;
pub(super) const DELAYED: Lane = 2;
pub(super) const LANES: [Lane; 3] = [READY, DEAD, DELAYED];
/// Who sees only what is committed.
pub(super) const NOBODY: Pid = Pid::MAX;
/// The bit of a token by which a row split off by extend or nack differs from its parent.
pub(super) const SPLIT: Tok = 0x80;

/// A row: what is committed, and what one transaction made of it (none: deleted).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row<V> {
    committed: Option<V>,
    pending: Option<(Pid, Option<V>)>,
}

/// What an insert met.
pub(super) enum Insert {
    Done,
    Wait(Pid),
    Duplicate,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Table<K: Ord, V>(BTreeMap<K, Row<V>>);

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy, V: Clone> Table<K, V> {
    /// The rows that a statement of this transaction sees.
    pub(super) fn seen(&self, pid: Pid) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.0.iter().filter_map(move |(key, row)| {
            let version = match &row.pending {
                Some((by, pending)) if *by == pid => pending,
                _ => &row.committed,
            };
            version.as_ref().map(|value| (*key, value))
        })
    }

    pub(super) fn get(&self, pid: Pid, key: K) -> Option<&V> {
        let row = self.0.get(&key)?;
        match &row.pending {
            Some((by, pending)) if *by == pid => pending.as_ref(),
            _ => row.committed.as_ref(),
        }
    }

    /// Who else has locked a row that is seen.
    pub(super) fn locker(&self, pid: Pid, key: K) -> Option<Pid> {
        let row = self.0.get(&key)?;
        match row.pending {
            Some((by, _)) if by != pid && row.committed.is_some() => Some(by),
            _ => None,
        }
    }

    /// What `select .. for update skip locked` by whole key finds, with the lock taken.
    pub(super) fn lock(&mut self, pid: Pid, key: K) -> Option<V> {
        if self.locker(pid, key).is_some() {
            return None;
        }
        let value = self.get(pid, key)?.clone();
        self.put(pid, key, Some(value.clone()));
        Some(value)
    }

    /// Writes a version of a row that no other has locked.
    pub(super) fn put(&mut self, pid: Pid, key: K, value: Option<V>) {
        let row = self.0.entry(key).or_insert(Row {
            committed: None,
            pending: None,
        });
        row.pending = Some((pid, value));
    }

    pub(super) fn insert(&mut self, pid: Pid, key: K, value: V) -> Insert {
        if let Some(row) = self.0.get(&key)
            && let Some((by, _)) = row.pending
            && by != pid
        {
            return Insert::Wait(by);
        }
        if self.get(pid, key).is_some() {
            return Insert::Duplicate;
        }
        self.put(pid, key, Some(value));
        Insert::Done
    }

    pub(super) fn end(&mut self, pid: Pid, commits: bool) {
        self.0.retain(|_, row| {
            if let Some((_, pending)) = row.pending.take_if(|(by, _)| *by == pid)
                && commits
            {
                row.committed = pending;
            }
            row.committed.is_some() || row.pending.is_some()
        });
    }

    fn written_by(&self, pid: Pid) -> bool {
        let is_of = |row: &Row<V>| matches!(&row.pending, Some((by, _)) if *by == pid);
        self.0.values().any(is_of)
    }

    fn forget_pending(&mut self) {
        self.0.retain(|_, row| {
            row.pending = None;
            row.committed.is_some()
        });
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Chunk {
    pub(super) salt: u8,
    pub(super) messages: Vec<Msg>,
}

impl Chunk {
    pub(super) fn size(&self) -> u8 {
        u8::try_from(self.messages.len()).unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) epoch: u8,
    pub(super) mask: Mask,
    pub(super) vt: Time,
    pub(super) rc: u8,
    /// Only a mover may have it.
    pub(super) to_move: bool,
}

/// Key of `cur`: lane, subscription, epoch, position, floor.
pub(super) type CursorKey = (Lane, u8, u8, Seq, Seq);
pub(super) type LeaseKey = (Lane, Seq, Tok);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cursor {
    pub(super) epoch: u8,
    /// Greatest for a delayed lane, which has nothing ahead.
    pub(super) pos: Seq,
    pub(super) floor: Seq,
}

/// What became of a message, as far as its clients were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fate {
    /// It must be there, once, if its sender was told so.
    Wanted,
    /// Deleted, and its consumer was told so.
    Deleted,
    /// Purged or expired.
    Dropped,
    /// It may be there or not: a seek went back over it after it was deleted.
    Loose,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Fact {
    pub(super) sent: bool,
    pub(super) fate: Fate,
    /// Until when its newest receiver holds it.
    pub(super) until: Time,
    pub(super) due: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Db {
    pub(super) log: Table<(Lane, Seq), Chunk>,
    pub(super) cur: Table<CursorKey, ()>,
    pub(super) lease: Table<LeaseKey, Lease>,
    /// Where messages are that left the lane they were sent to.
    pub(super) moved: Table<Msg, (Lane, Seq)>,
    /// Idempotency keys: each is named as its first message.
    pub(super) keys: Table<Msg, ()>,
    /// Not of the database, but lost with it: what was answered is only as good as what it rests on.
    pub(super) facts: Vec<Fact>,
}

impl Db {
    /// The newest cursor of the queue's subscription, as a statement sees it.
    pub(super) fn cursor(&self, pid: Pid, lane: Lane) -> Cursor {
        let (epoch, pos, floor) = self.newest(pid, lane, 1);
        Cursor {
            epoch,
            pos: if lane == DELAYED {
                Seq::MAX
            } else {
                pos.max(floor)
            },
            floor,
        }
    }

    /// Up to where a lane was freed.
    pub(super) fn freed(&self, pid: Pid, lane: Lane) -> Seq {
        self.newest(pid, lane, 0).1
    }

    fn newest(&self, pid: Pid, lane: Lane, sub: u8) -> (u8, Seq, Seq) {
        self.cur
            .seen(pid)
            .map(|(key, ())| key)
            .filter(|key| (key.0, key.1) == (lane, sub))
            .map(|key| (key.2, key.3, key.4))
            .max()
            .unwrap_or_default()
    }

    pub(super) fn chunks(
        &self,
        pid: Pid,
        lane: Lane,
    ) -> impl DoubleEndedIterator<Item = (Seq, &Chunk)> {
        self.log
            .seen(pid)
            .filter(move |((of, _), _)| *of == lane)
            .map(|((_, seq), chunk)| (seq, chunk))
    }

    /// The chunk that covers a number.
    pub(super) fn chunk_at(&self, pid: Pid, lane: Lane, seq: Seq) -> Option<(Seq, &Chunk)> {
        self.chunks(pid, lane)
            .find(|(first, chunk)| *first <= seq && seq < *first + chunk.size())
    }

    pub(super) fn leases(&self, pid: Pid, lane: Lane) -> impl Iterator<Item = (LeaseKey, &Lease)> {
        self.lease
            .seen(pid)
            .filter(move |((of, _, _), _)| *of == lane)
    }

    pub(super) fn end(&mut self, pid: Pid, commits: bool) {
        self.log.end(pid, commits);
        self.cur.end(pid, commits);
        self.lease.end(pid, commits);
        self.moved.end(pid, commits);
        self.keys.end(pid, commits);
        if commits {
            self.drop_old_cursors();
        }
    }

    /// The space task's least work, done at once: nobody reads any row but the newest.
    fn drop_old_cursors(&mut self) {
        let newest: Vec<_> = [0, 1]
            .into_iter()
            .flat_map(|sub| LANES.map(|lane| (lane, sub)))
            .map(|(lane, sub)| (lane, sub, self.newest(NOBODY, lane, sub)))
            .collect();
        self.cur.0.retain(|key, row| {
            row.pending.is_some()
                || newest.contains(&(key.0, key.1, (key.2, key.3, key.4)))
                    && row.committed.is_some()
        });
    }

    pub(super) fn written_by(&self, pid: Pid) -> bool {
        self.log.written_by(pid)
            || self.cur.written_by(pid)
            || self.lease.written_by(pid)
            || self.moved.written_by(pid)
    }

    /// What is left when every transaction that runs is gone.
    pub(super) fn settled(&self) -> Self {
        let mut db = self.clone();
        db.log.forget_pending();
        db.cur.forget_pending();
        db.lease.forget_pending();
        db.moved.forget_pending();
        db.keys.forget_pending();
        db
    }

    /// Whether a committed number can still be delivered.
    pub(super) fn is_live(&self, lane: Lane, seq: Seq) -> bool {
        let cursor = self.cursor(NOBODY, lane);
        let is_leased = || {
            self.leases(NOBODY, lane)
                .any(|(key, lease)| lease.epoch == cursor.epoch && covers(key.1, lease.mask, seq))
        };
        seq >= cursor.floor && (seq >= cursor.pos || is_leased())
    }

    /// Every committed message with its place.
    pub(super) fn places(&self) -> impl Iterator<Item = (Msg, Lane, Seq)> {
        self.log.seen(NOBODY).flat_map(|((lane, seq), chunk)| {
            let numbers = seq..;
            let messages = chunk.messages.iter().zip(numbers);
            messages.map(move |(message, seq)| (*message, lane, seq))
        })
    }

    /// What must never be seen in what is committed.
    pub(super) fn wrong(&self) -> Option<String> {
        let mut copies = vec![0; self.facts.len()];
        for (message, lane, seq) in self.places() {
            copies[usize::from(message)] += u8::from(self.is_live(lane, seq));
        }
        for (message, (fact, copies)) in self.facts.iter().zip(copies).enumerate() {
            let wrong = match (fact.fate, copies) {
                (Fate::Wanted, 0) if fact.sent => "was acknowledged and is lost",
                (Fate::Deleted, 1..) => "was deleted and is there",
                (Fate::Dropped, 1..) => "was purged or has expired and is there",
                (_, 2..) => "is there more than once",
                _ => continue,
            };
            return Some(format!("message {message} {wrong}"));
        }
        LANES.into_iter().find_map(|lane| self.wrong_leases(lane))
    }

    fn wrong_leases(&self, lane: Lane) -> Option<String> {
        let cursor = self.cursor(NOBODY, lane);
        let mut leased = Vec::new();
        for (key, lease) in self.leases(NOBODY, lane) {
            if lease.epoch != cursor.epoch || key.1 < cursor.floor {
                continue;
            }
            for seq in (key.1..key.1 + 8).filter(|seq| covers(key.1, lease.mask, *seq)) {
                if seq >= cursor.pos {
                    return Some(format!("a lease at or above the cursor: {key:?}"));
                }
                if self.chunk_at(NOBODY, lane, seq).is_none() {
                    return Some(format!("a lease without a chunk: {key:?}"));
                }
                if leased.contains(&seq) {
                    return Some(format!("two leases of number {seq}"));
                }
                leased.push(seq);
            }
        }
        None
    }
}

pub(super) fn covers(lo: Seq, mask: Mask, seq: Seq) -> bool {
    seq >= lo && seq - lo < 8 && mask & (1 << (seq - lo)) != 0
}

//! Lanes: the number under which a run of messages is stored.
//!
//! A lane is an append-only sequence of one queue, written mostly by one node. Its number says
//! whose it is, so that a receipt or a message id needs no look-up to be resolved.

/// Number of a queue: 1 to 2^31 - 1, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(i32);

impl QueueId {
    /// Wraps a number that the database gave out; `None` unless it is positive.
    pub fn new(raw: i32) -> Option<Self> {
        (raw > 0).then_some(Self(raw))
    }

    /// The number as the database stores it.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// Number of a node's appender: a hint that keeps nodes out of each other's lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Writer(pub u8);

/// A subscription of a log. Number 0 is the log's own book-keeping, 1 a queue's consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub i32);

impl SubscriptionId {
    /// The one subscription of a queue.
    pub const QUEUE: Self = Self(1);
}

/// What kind of messages a lane holds: kind in the two top bits, sub-class in the six below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub u8);

impl Class {
    /// Ready messages without priority or fairness.
    pub const READY: Self = Self(0);
    /// Messages that are hidden at first: each has a lease from the beginning, and nothing of such a
    /// lane lies ahead of a cursor.
    pub const DELAYED: Self = Self(1 << 6);
}

const WRITER_BITS: u32 = 8;
const CLASS_BITS: u32 = 8;
const SHARD_BITS: u32 = 10;
const QUEUE_BITS: u32 = 31;
const CLASS_SHIFT: u32 = WRITER_BITS;
const SHARD_SHIFT: u32 = CLASS_SHIFT + CLASS_BITS;
const QUEUE_SHIFT: u32 = SHARD_SHIFT + SHARD_BITS;

/// Number of a lane. From the top: sign and six bits (zero here, the namespace of advisory keys),
/// queue 31, shard 10, class 8, writer 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(i64);

impl LaneId {
    /// The lane of a queue that a writer appends messages of a class to.
    pub fn new(queue: QueueId, class: Class, writer: Writer) -> Self {
        Self(
            (i64::from(queue.0) << QUEUE_SHIFT)
                | (i64::from(class.0) << CLASS_SHIFT)
                | i64::from(writer.0),
        )
    }

    /// Reads a stored number; `None` when a bit outside the layout is set or the queue is zero.
    pub fn from_raw(raw: i64) -> Option<Self> {
        (raw >> (QUEUE_SHIFT + QUEUE_BITS) == 0 && raw >> QUEUE_SHIFT > 0).then_some(Self(raw))
    }

    /// The number as the database stores it.
    pub fn raw(self) -> i64 {
        self.0
    }

    /// The queue whose messages the lane holds.
    pub fn queue(self) -> QueueId {
        QueueId(
            field(self.0, QUEUE_SHIFT, QUEUE_BITS)
                .try_into()
                .expect("31 bits fit an i32"),
        )
    }

    /// The shard, 0 to 1023; always 0 on a single database.
    pub fn shard(self) -> u16 {
        field(self.0, SHARD_SHIFT, SHARD_BITS)
            .try_into()
            .expect("10 bits fit a u16")
    }

    /// The kind of messages in the lane.
    pub fn class(self) -> Class {
        Class(
            field(self.0, CLASS_SHIFT, CLASS_BITS)
                .try_into()
                .expect("8 bits fit a u8"),
        )
    }

    /// The writer whose lane this is.
    pub fn writer(self) -> Writer {
        Writer(
            field(self.0, 0, WRITER_BITS)
                .try_into()
                .expect("8 bits fit a u8"),
        )
    }
}

fn field(raw: i64, shift: u32, bits: u32) -> i64 {
    (raw >> shift) & ((1 << bits) - 1)
}

/// A place in a lane. The first message of a lane has number 0; numbers may be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The lane.
    pub lane: LaneId,
    /// The message's number in it, 0 to 2^41 - 1.
    pub seq: i64,
    /// 24 random bits of the opening of the lane under which the number was given out, so that a
    /// number that is used again after a crash is another identity.
    pub salt: u32,
}

impl Position {
    /// The greatest number: a message id has 41 bits for it.
    pub const MAX_SEQ: i64 = (1 << 41) - 1;
    /// The bits of a salt: a message id has 24 for it.
    pub const SALT_MASK: u32 = (1 << 24) - 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_lane_number_gives_back_its_parts(queue in 1..=i32::MAX, class: u8, writer: u8) {
            let lane = LaneId::new(QueueId(queue), Class(class), Writer(writer));
            prop_assert_eq!(LaneId::from_raw(lane.raw()), Some(lane));
            prop_assert_eq!(lane.queue().get(), queue);
            prop_assert_eq!(lane.class(), Class(class));
            prop_assert_eq!(lane.writer(), Writer(writer));
            prop_assert_eq!(lane.shard(), 0);
        }

        #[test]
        fn a_number_outside_the_layout_is_no_lane(raw: i64) {
            if let Some(lane) = LaneId::from_raw(raw) {
                prop_assert!(lane.queue().get() > 0 && raw < 1 << 57);
            }
        }
    }
}

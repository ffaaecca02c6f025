//! What a run of the model is made of: scripts of calls, limits, and the rule that is left out.

use super::store::{Lane, Msg};

/// A rule left out or bent. Each must be seen to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    /// Whether a rival was freed meanwhile is not asked after the insert.
    AppendWithoutSecondLook,
    /// Two nodes that find no idempotency key both send.
    KeyProbedOnly,
    /// A key is taken although its messages were not stored.
    KeyKeptWhenStale,
    /// What was freed is not remembered: numbers begin again.
    TailFromLogAlone,
    /// A message counts as deleted when its lease is there, whatever is left in that (F2).
    AckTrustsTheRow,
    /// Half of the nodes take leases in another order.
    AckUnsorted,
    /// "Gone already" is judged by a cursor that a claim has moved since.
    RestReadsCursorLast,
    /// A number without a chunk may be anybody's a moment later.
    RestReadsSaltLoosely,
    /// A number is as good as its message.
    RestIgnoresSalt,
    /// What is not in its lane counts as deleted.
    RestIgnoresMoved,
    /// Whether it was moved is asked before its lease is looked for.
    RestReadsMovedFirst,
    ClaimWithoutLaneLock,
    /// All leases of a receive have one token, those that begin at one number too.
    OneTokenPerReceiver,
    /// A message gets a row of its own although its lease did not have it.
    SplitWithoutCheck,
    /// What is its mover's can still be extended by who gave it up.
    ExtendIgnoresState,
    /// A lease of before a seek is as good as any (F3).
    EpochIgnored,
    /// Instead of a floor (F6).
    PurgeDeletesRows,
    /// And the cursor second (F9).
    FreeReadsLeasesFirst,
    /// Beside a seek.
    FreeWithoutLaneLock,
    /// There is a copy first, and then no original.
    MoveInTwoTransactions,
    MoveIgnoresFloor,
    /// A purge may commit between the look at the floor and the commit.
    MoveWithoutLaneLock,
}

/// What a process does next in its script, when it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Send(Lane, &'static [Msg]),
    /// With an idempotency key.
    SendOnce(Lane, &'static [Msg]),
    Claim(Lane, u8),
    /// One message by any receipt.
    Ack,
    /// All messages of any two receives, in one batch.
    AckAll,
    Extend,
    Nack,
    Purge,
    Seek,
    Retain,
    Free(Lane),
    Move,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Config {
    /// Chunks of the ready lane that are there from the beginning.
    pub(super) stored: &'static [&'static [Msg]],
    pub(super) messages: u8,
    pub(super) scripts: &'static [&'static [Item]],
    pub(super) ticks: u8,
    /// Transactions that are lost, or whose end nobody hears of.
    pub(super) kills: u8,
    /// Crashes of the database. Where there are any, commits are asynchronous.
    pub(super) crashes: u8,
    /// Whether a mover takes the lane's lock of what it moves. Else a move that has begun is not
    /// stopped by a purge.
    pub(super) lock_to_move: bool,
    /// The queue's `max_receive_count`; 0: it has no dead-letter queue.
    pub(super) max_receives: u8,
    pub(super) mutation: Option<Mutation>,
}

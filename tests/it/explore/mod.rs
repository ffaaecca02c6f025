//! An explicit-state model of the engine: every order of the SQL statements of a few calls, every
//! place where a node or the database may stop, and what must hold in each state that comes of it.
//!
//! **What is modelled.** A step is one statement of a hot function. It sees what is committed when it
//! begins and what its own transaction wrote; rows and advisory locks are held until the end;
//! inserts of one key and the deletes of `ack` wait, everything else tries or skips. What several
//! statements write to rows that one has locked is one step: nobody else can tell. The clock is a
//! small number that a step may raise; each call reads it once, when it begins. A node that is killed
//! leaves no trace of its transaction, or a commit that it did not hear of. Where the database may
//! crash, commits are asynchronous: it comes back as it was before any one of them. Nodes that were
//! at no call then do not notice, which is worse than the truth.
//!
//! **What is left out.** Who waits for how long, the order of lanes, bytes, time to live, plans; all
//! that one process does alone. Chunks have no age: the space task takes the youngest, because the
//! rule that it does not is only a second wall. Cursor rows below the newest vanish at each commit.
//! Tokens and salts are never drawn twice. Seek is no call of the product yet: it gives a lane a new
//! epoch, and leases of an older one are dead.
//!
//! **What must hold.** An acknowledged message is there exactly once until it was deleted, purged
//! or has expired, and then it is nowhere; nobody is given a message that was deleted or dropped,
//! that another holds, or that is not due; a number never has the same salt for two messages;
//! leases of the current epoch lie below the cursor, point into a chunk, and name a message once;
//! nobody waits for himself. What a consumer is told counts: *gone already* is a deletion.
//!
//! **That it would see it.** Each [`Mutation`] leaves a rule out, and must be found out. Several are
//! rules that nobody had written down until this model asked for them.

mod ack;
mod append;
mod claim;
mod extend;
mod floor;
mod mover;
mod rest;
mod rules;
mod search;
mod space;
mod store;
mod world;

use rules::{Config, Item, Mutation};
use search::explore;
use store::{DEAD, DELAYED, READY};

/// More states than any of these has: whoever makes one larger should know.
const MOST_STATES: usize = 150_000;

const NOTHING: Config = Config {
    stored: &[],
    messages: 2,
    scripts: &[],
    ticks: 0,
    kills: 0,
    crashes: 0,
    lock_to_move: true,
    max_receives: 0,
    mutation: None,
};

/// Two writers with one lane. While one is paused, the other's message is sent, received, deleted
/// and freed.
const APPENDS: Config = Config {
    scripts: &[
        &[Item::Send(READY, &[0])],
        &[Item::Send(READY, &[1])],
        &[
            Item::Claim(READY, 2),
            Item::Ack,
            Item::Claim(READY, 2),
            Item::Ack,
        ],
        &[Item::Free(READY), Item::Free(READY)],
    ],
    kills: 1,
    ..NOTHING
};

/// A lane that is drained and freed before it is written to again, by nobody else.
const REFILLS: Config = Config {
    stored: &[&[0]],
    scripts: &[
        &[Item::Claim(READY, 1), Item::Ack, Item::Claim(READY, 1)],
        &[Item::Free(READY), Item::Send(READY, &[1])],
    ],
    ..NOTHING
};

/// One message under one idempotency key, from two nodes, sent again when its fate is unknown.
const KEYS: Config = Config {
    scripts: &[
        &[Item::SendOnce(READY, &[0]), Item::SendOnce(READY, &[0])],
        &[Item::SendOnce(READY, &[0])],
        &[Item::Send(READY, &[1])],
    ],
    kills: 1,
    ..NOTHING
};

/// Two nodes claim in one lane, of which one has room for a part of a lease.
const CLAIMS: Config = Config {
    stored: &[&[0, 1]],
    scripts: &[
        &[Item::Claim(READY, 2), Item::Claim(READY, 2)],
        &[Item::Claim(READY, 1), Item::Claim(READY, 1)],
        &[Item::Ack],
    ],
    ticks: 2,
    kills: 1,
    ..NOTHING
};

/// Deletes by old and new receipts beside leases that are split in every way.
const SPLITS: Config = Config {
    stored: &[&[0, 1]],
    scripts: &[
        &[Item::Claim(READY, 2), Item::Claim(READY, 1)],
        &[Item::Extend, Item::Nack],
        &[Item::Ack, Item::Ack],
    ],
    ticks: 1,
    ..NOTHING
};

/// Two nodes delete the same messages of two leases.
const BATCHES: Config = Config {
    stored: &[&[0], &[1]],
    scripts: &[
        &[Item::Claim(READY, 2), Item::AckAll],
        &[Item::AckAll],
        &[Item::Extend],
    ],
    kills: 1,
    ..NOTHING
};

/// A message that is received too often: its mover beside its deletion, a purge, and kills.
const MOVES: Config = Config {
    stored: &[&[0]],
    messages: 1,
    scripts: &[
        &[
            Item::Claim(READY, 1),
            Item::Claim(READY, 1),
            Item::Claim(DEAD, 1),
        ],
        &[Item::Move, Item::Move],
        &[Item::Ack, Item::Ack],
        &[Item::Purge],
    ],
    ticks: 2,
    kills: 1,
    max_receives: 1,
    ..NOTHING
};

/// One of two messages is given up and moved, while its receiver does something else with it.
const GIVEN_UP: Config = Config {
    stored: &[&[0, 1]],
    scripts: &[
        &[Item::Claim(READY, 2), Item::Claim(DEAD, 1)],
        &[Item::Nack],
        &[Item::Extend],
        &[Item::Move],
        &[Item::Ack],
    ],
    max_receives: 1,
    ..NOTHING
};

/// A purge while messages are in flight, split, claimed again and sent.
const PURGES: Config = Config {
    stored: &[&[0, 1]],
    messages: 3,
    scripts: &[
        &[Item::Claim(READY, 2), Item::Claim(READY, 1)],
        &[Item::Purge],
        &[Item::Extend],
        &[Item::Send(READY, &[2])],
    ],
    ticks: 1,
    kills: 1,
    ..NOTHING
};

/// Two space tasks, one of which believes that it still is the only one.
const SPACE: Config = Config {
    stored: &[&[0], &[1]],
    scripts: &[
        &[Item::Claim(READY, 1), Item::Claim(READY, 1)],
        &[Item::Ack, Item::Ack],
        &[Item::Free(READY)],
        &[Item::Free(READY)],
    ],
    ..NOTHING
};

/// What has expired, in flight or not, beside its receiver and the space task.
const RETENTION: Config = Config {
    stored: &[&[0], &[1]],
    scripts: &[
        &[Item::Claim(READY, 1), Item::Claim(READY, 2)],
        &[Item::Ack],
        &[Item::Retain, Item::Free(READY)],
    ],
    ticks: 1,
    kills: 1,
    ..NOTHING
};

/// A crash that takes sends, claims and deletes with it, and receipts from before it.
const CRASHES: Config = Config {
    scripts: &[
        &[Item::Send(READY, &[0])],
        &[Item::Send(READY, &[1])],
        &[Item::Claim(READY, 1), Item::Claim(READY, 1)],
        &[Item::Ack, Item::Ack],
    ],
    crashes: 1,
    ..NOTHING
};

/// The same where nothing is ahead of a cursor.
const DELAYED_CRASHES: Config = Config {
    scripts: &[
        &[Item::Send(DELAYED, &[0])],
        &[Item::Send(DELAYED, &[1])],
        &[Item::Claim(DELAYED, 1), Item::Claim(DELAYED, 1)],
        &[Item::Ack],
    ],
    crashes: 1,
    ticks: 1,
    ..NOTHING
};

/// Back to the beginning while messages are in flight, deleted and freed.
const SEEKS: Config = Config {
    stored: &[&[0, 1]],
    scripts: &[
        &[
            Item::Claim(READY, 2),
            Item::Claim(READY, 1),
            Item::Claim(READY, 3),
        ],
        &[Item::Ack, Item::Ack],
        &[Item::Seek],
        &[Item::Free(READY)],
    ],
    ticks: 1,
    ..NOTHING
};

/// Delayed messages of two writers: due, deleted, purged, freed.
const DELAYS: Config = Config {
    scripts: &[
        &[Item::Send(DELAYED, &[0])],
        &[Item::Send(DELAYED, &[1])],
        &[Item::Claim(DELAYED, 2), Item::Ack],
        &[Item::Purge],
        &[Item::Free(DELAYED)],
    ],
    ticks: 1,
    ..NOTHING
};

/// Panics with the shortest way to what is wrong.
fn holds(config: Config) {
    let explored = explore(&config, MOST_STATES);
    println!("{} states", explored.states);
    if let Some(violation) = explored.violation {
        panic!("{}\n{}", violation.what, violation.trace.join("\n"));
    }
}

#[test]
fn a_paused_append_never_loses_what_it_acknowledges() {
    holds(APPENDS);
    holds(REFILLS);
}

#[test]
fn one_key_is_one_message_whoever_sends_it_again() {
    holds(KEYS);
}

#[test]
fn two_claims_never_hand_out_one_message() {
    holds(CLAIMS);
}

#[test]
fn what_was_deleted_by_any_receipt_stays_deleted_however_leases_are_split() {
    holds(SPLITS);
}

#[test]
fn deletes_of_the_same_messages_never_wait_for_each_other() {
    holds(BATCHES);
}

#[test]
fn a_dead_letter_is_in_one_place_and_its_old_receipts_do_not_delete_it() {
    holds(MOVES);
    holds(GIVEN_UP);
}

/// Without the lane's lock it may arrive after the purge; nothing else goes wrong.
#[test]
fn a_move_that_takes_no_lane_lock_may_outlive_a_purge_that_it_had_begun_before() {
    holds(Config {
        lock_to_move: false,
        ..MOVES
    });
}

#[test]
fn what_was_purged_or_has_expired_never_returns() {
    holds(PURGES);
    holds(RETENTION);
}

#[test]
fn space_is_taken_only_from_what_is_dead() {
    holds(SPACE);
}

#[test]
fn a_crash_loses_a_suffix_of_commits_and_confuses_no_message_with_another() {
    holds(CRASHES);
    holds(DELAYED_CRASHES);
}

#[test]
fn a_seek_makes_nobody_hold_a_message_twice() {
    holds(SEEKS);
}

#[test]
fn delayed_messages_are_neither_early_nor_lost() {
    holds(DELAYS);
}

/// Each rule, where it matters, and how that shows.
const MUTANTS: &[(Mutation, Config, &str)] = &[
    (Mutation::AppendWithoutSecondLook, APPENDS, "is lost"),
    (Mutation::TailFromLogAlone, REFILLS, "is lost"),
    (Mutation::KeyProbedOnly, KEYS, "more than once"),
    (Mutation::KeyKeptWhenStale, KEYS, "is lost"),
    (Mutation::ClaimWithoutLaneLock, CLAIMS, "another holds it"),
    (Mutation::OneTokenPerReceiver, CLAIMS, "no claim succeeds"),
    (
        Mutation::AckTrustsTheRow,
        SPLITS,
        "was deleted and is there",
    ),
    (Mutation::SplitWithoutCheck, SPLITS, "two leases of number"),
    (Mutation::AckUnsorted, BATCHES, "wait for each other"),
    (
        Mutation::RestIgnoresMoved,
        MOVES,
        "was deleted and is there",
    ),
    (
        Mutation::RestReadsMovedFirst,
        MOVES,
        "was deleted and is there",
    ),
    (Mutation::MoveInTwoTransactions, MOVES, "more than once"),
    (Mutation::MoveIgnoresFloor, MOVES, "was purged"),
    (Mutation::MoveWithoutLaneLock, MOVES, "was purged"),
    (Mutation::ExtendIgnoresState, GIVEN_UP, "another holds it"),
    (Mutation::PurgeDeletesRows, PURGES, "was purged"),
    (Mutation::FreeReadsLeasesFirst, SPACE, "is lost"),
    (
        Mutation::RestReadsCursorLast,
        CRASHES,
        "was deleted and is there",
    ),
    (Mutation::RestReadsSaltLoosely, CRASHES, "is lost"),
    (Mutation::RestReadsSaltLoosely, DELAYED_CRASHES, "is lost"),
    (Mutation::RestIgnoresSalt, CRASHES, "is lost"),
    (Mutation::EpochIgnored, SEEKS, "another holds it"),
    (Mutation::FreeWithoutLaneLock, SEEKS, "is lost"),
];

#[test]
fn every_rule_that_is_left_out_is_missed() {
    for (mutation, config, expected) in MUTANTS {
        let config = Config {
            mutation: Some(*mutation),
            ..config.clone()
        };
        let explored = explore(&config, MOST_STATES);
        let what = explored.violation.map(|violation| violation.what);
        let what = what.unwrap_or_else(|| panic!("nothing goes wrong with {mutation:?}"));
        assert!(what.contains(expected), "{mutation:?}: {what}");
    }
}

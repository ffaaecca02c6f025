//! The life of one message on a standard queue, as one pure function.
//!
//! The store must agree with this function on every history; the model tests hold it to that.

use std::time::Duration;

/// Where a message is. Times are counted from any fixed origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Never received: in the log, ahead of the cursor.
    Ahead,
    /// Received and not deleted. Once `visible_at` has come, anyone may receive it again.
    Leased {
        /// The token of the newest delivery.
        token: i32,
        /// How often it was received.
        receive_count: i32,
        /// The end of the newest delivery's window.
        visible_at: Duration,
    },
    /// Deleted. Nothing leads out of here.
    Deleted,
}

/// What is asked of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A receiver asks for a message; the delivery would carry this token.
    Receive {
        /// The token of the delivery, if there is one.
        token: i32,
        /// How long the receiver has for it.
        window: Duration,
    },
    /// A holder asks for more time, or for less.
    Extend {
        /// The token of the delivery that asks.
        token: i32,
        /// The new window, from now.
        window: Duration,
    },
    /// The node takes a delivery back that nobody got: as if it had not been.
    HandBack {
        /// The token of the delivery.
        token: i32,
    },
    /// A receiver, present or past, deletes.
    Delete {
        /// The token of any delivery of this message.
        token: i32,
    },
}

/// What the one who asked is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Received, for the how many-th time.
    Received {
        /// Counts from 1.
        receive_count: i32,
    },
    /// Nothing to receive here now.
    Hidden,
    /// Done.
    Done,
    /// The delivery that asks is not the newest one, or its window has passed.
    Stale,
}

/// One step: what becomes of a message, and what the one who asked is told.
pub fn step(state: State, event: Event, now: Duration) -> (State, Outcome) {
    match (state, event) {
        (State::Deleted, Event::Receive { .. }) => (state, Outcome::Hidden),
        (State::Deleted, Event::Delete { .. }) => (state, Outcome::Done),
        (State::Deleted | State::Ahead, Event::Extend { .. } | Event::HandBack { .. }) => {
            (state, Outcome::Stale)
        }
        (State::Ahead, Event::Receive { token, window }) => leased(token, 1, now + window),
        // No delivery has been: whoever deletes has a receipt from a future that a crash undid.
        (State::Ahead, Event::Delete { .. }) => (state, Outcome::Stale),
        (
            State::Leased {
                receive_count,
                visible_at,
                ..
            },
            Event::Receive { token, window },
        ) => {
            if now < visible_at {
                (state, Outcome::Hidden)
            } else {
                leased(token, receive_count + 1, now + window)
            }
        }
        // A standard queue deletes by any receipt of the message, as SQS does.
        (State::Leased { .. }, Event::Delete { .. }) => (State::Deleted, Outcome::Done),
        (
            State::Leased {
                token,
                receive_count,
                visible_at,
            },
            Event::Extend { token: by, window },
        ) => {
            if token == by && now < visible_at {
                (
                    State::Leased {
                        token,
                        receive_count,
                        visible_at: now + window,
                    },
                    Outcome::Done,
                )
            } else {
                (state, Outcome::Stale)
            }
        }
        (
            State::Leased {
                token,
                receive_count,
                visible_at,
            },
            Event::HandBack { token: by },
        ) => {
            if token == by && now < visible_at {
                let receive_count = receive_count - 1;
                (
                    State::Leased {
                        token,
                        receive_count,
                        visible_at: now,
                    },
                    Outcome::Done,
                )
            } else {
                (state, Outcome::Stale)
            }
        }
    }
}

fn leased(token: i32, receive_count: i32, visible_at: Duration) -> (State, Outcome) {
    (
        State::Leased {
            token,
            receive_count,
            visible_at,
        },
        Outcome::Received { receive_count },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> impl Strategy<Value = Event> {
        let token = 0..4i32;
        let window = (0..5u64).prop_map(Duration::from_secs);
        prop_oneof![
            (token.clone(), window.clone())
                .prop_map(|(token, window)| Event::Receive { token, window }),
            (token.clone(), window).prop_map(|(token, window)| Event::Extend { token, window }),
            token.clone().prop_map(|token| Event::HandBack { token }),
            token.prop_map(|token| Event::Delete { token }),
        ]
    }

    proptest! {
        /// The promises of the queue, read off every history of one message.
        #[test]
        fn a_message_keeps_the_promises(history in prop::collection::vec((events(), 0..3u64), 1..40)) {
            let mut state = State::Ahead;
            let mut now = Duration::ZERO;
            let mut held_until = Duration::ZERO;
            let mut deleted = false;
            for (event, pause) in history {
                now += Duration::from_secs(pause);
                let (next, outcome) = step(state, event, now);
                match (event, outcome) {
                    (Event::Receive { window, .. }, Outcome::Received { receive_count }) => {
                        prop_assert!(now >= held_until, "two holders");
                        prop_assert!(!deleted, "a deleted message came back");
                        prop_assert!(receive_count >= 1);
                        held_until = now + window;
                    }
                    (Event::Extend { window, .. }, Outcome::Done) => held_until = now + window,
                    (Event::HandBack { .. }, Outcome::Done) => held_until = now,
                    (Event::Delete { .. }, Outcome::Done) => {
                        deleted = true;
                        held_until = now;
                    }
                    (_, Outcome::Stale | Outcome::Hidden) => prop_assert_eq!(next, state),
                    other => prop_assert!(false, "{:?} cannot be an answer", other),
                }
                state = next;
            }
        }
    }
}

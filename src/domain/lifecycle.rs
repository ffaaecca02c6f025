//! The life of one message on a standard queue, as one pure function.
//!
//! The store must agree with this function on every history; the model tests hold it to that.

use std::time::Duration;

/// Where a message is. Times are counted from any fixed origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Never received: in the log, ahead of the cursor.
    Ahead,
    /// Never received, and hidden until it is due.
    Delayed {
        /// From then on anyone may receive it.
        due: Duration,
    },
    /// Received and not deleted. Once `visible_at` has come, anyone may receive it again.
    Leased {
        /// The token of the newest delivery.
        token: i32,
        /// How often it was received.
        receive_count: i32,
        /// The end of the newest delivery's window.
        visible_at: Duration,
    },
    /// Received as often as its queue allows: it waits to be moved.
    GivenUp {
        /// The token of the delivery that gave it up, unless its window just ended.
        token: Option<i32>,
        /// How often it was received.
        receive_count: i32,
    },
    /// In the dead-letter queue, where it has a life of its own. Nothing leads out of here.
    Moved,
    /// Deleted, purged or expired. Nothing leads out of here.
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
        /// After how many deliveries it goes to the dead-letter queue instead, if there is one.
        max_receives: Option<i32>,
    },
    /// A holder asks for more time, or for less.
    Extend {
        /// The token of the delivery that asks.
        token: i32,
        /// The new window, from now.
        window: Duration,
    },
    /// A holder gives it up.
    Nack {
        /// The token of the delivery that gives up.
        token: i32,
        /// How long the message stays hidden.
        delay: Duration,
        /// After how many deliveries it goes to the dead-letter queue instead, if there is one.
        max_receives: Option<i32>,
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
    /// The mover takes it to the dead-letter queue.
    Move,
    /// Everything in the queue is to go.
    Purge,
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
    /// That was its last delivery.
    DeadLettered,
    /// The delivery that asks is not the newest one, or its window has passed.
    Stale,
}

/// One step: what becomes of a message, and what the one who asked is told.
pub fn step(state: State, event: Event, now: Duration) -> (State, Outcome) {
    match (state, event) {
        (State::Deleted | State::Moved, Event::Receive { .. }) => (state, Outcome::Hidden),
        // No delivery has been: whoever deletes has a receipt from a future that a crash undid. What
        // was moved lives on elsewhere, under receipts of its own.
        (State::Ahead | State::Moved, Event::Delete { .. }) => (state, Outcome::Stale),
        (State::Deleted | State::Moved, Event::Delete { .. } | Event::Purge) => {
            (state, Outcome::Done)
        }
        // What was delayed has a lease from the beginning; a standard queue deletes by any receipt
        // of the message, as SQS does.
        (_, Event::Delete { .. } | Event::Purge) => (State::Deleted, Outcome::Done),
        (State::Ahead, Event::Receive { token, window, .. }) => leased(token, 1, now + window),
        (State::Delayed { due }, Event::Receive { token, window, .. }) => {
            if now < due {
                (state, Outcome::Hidden)
            } else {
                leased(token, 1, now + window)
            }
        }
        (
            State::Leased {
                receive_count,
                visible_at,
                ..
            },
            Event::Receive {
                token,
                window,
                max_receives,
            },
        ) => {
            if now < visible_at {
                (state, Outcome::Hidden)
            } else if max_receives.is_some_and(|most| receive_count >= most) {
                let given_up = State::GivenUp {
                    token: None,
                    receive_count,
                };
                (given_up, Outcome::Hidden)
            } else {
                leased(token, receive_count + 1, now + window)
            }
        }
        (
            State::Leased {
                token,
                receive_count,
                visible_at,
            },
            Event::Extend { .. } | Event::Nack { .. } | Event::HandBack { .. },
        ) if now < visible_at => {
            change(event, now, token, receive_count).unwrap_or((state, Outcome::Stale))
        }
        (State::GivenUp { .. }, Event::Receive { .. }) => (state, Outcome::Hidden),
        (State::GivenUp { .. }, Event::Move) => (State::Moved, Outcome::Done),
        // Whoever asks again is told again.
        (
            State::GivenUp {
                token: Some(token), ..
            },
            Event::Nack {
                token: by,
                max_receives: Some(_),
                ..
            },
        ) if by == token => (state, Outcome::DeadLettered),
        (_, Event::Extend { .. } | Event::Nack { .. } | Event::HandBack { .. } | Event::Move) => {
            (state, Outcome::Stale)
        }
    }
}

/// What the holder of a message changes; `None` when another one asks.
fn change(event: Event, now: Duration, token: i32, receive_count: i32) -> Option<(State, Outcome)> {
    let leased = |receive_count, visible_at| State::Leased {
        token,
        receive_count,
        visible_at,
    };
    let (by, next, outcome) = match event {
        Event::Extend { token: by, window } => {
            (by, leased(receive_count, now + window), Outcome::Done)
        }
        Event::HandBack { token: by } => (by, leased(receive_count - 1, now), Outcome::Done),
        Event::Nack {
            token: by,
            max_receives: Some(most),
            ..
        } if receive_count >= most => {
            let given_up = State::GivenUp {
                token: Some(token),
                receive_count,
            };
            (by, given_up, Outcome::DeadLettered)
        }
        Event::Nack {
            token: by, delay, ..
        } => (by, leased(receive_count, now + delay), Outcome::Done),
        Event::Receive { .. } | Event::Delete { .. } | Event::Move | Event::Purge => return None,
    };
    (by == token).then_some((next, outcome))
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

    const MOST: i32 = 3;

    fn events() -> impl Strategy<Value = Event> {
        let token = 0..4i32;
        let window = (0..5u64).prop_map(Duration::from_secs);
        let max_receives = Some(MOST);
        prop_oneof![
            (token.clone(), window.clone()).prop_map(move |(token, window)| Event::Receive {
                token,
                window,
                max_receives
            }),
            (token.clone(), window.clone())
                .prop_map(|(token, window)| Event::Extend { token, window }),
            (token.clone(), window).prop_map(move |(token, delay)| Event::Nack {
                token,
                delay,
                max_receives
            }),
            token.clone().prop_map(|token| Event::HandBack { token }),
            token.prop_map(|token| Event::Delete { token }),
            Just(Event::Move),
            Just(Event::Purge),
        ]
    }

    proptest! {
        /// The promises of the queue, read off every history of one message.
        #[test]
        fn a_message_keeps_the_promises(
            due in 0..5u64,
            history in prop::collection::vec((events(), 0..3u64), 1..40),
        ) {
            let due = Duration::from_secs(due);
            let mut state = if due.is_zero() { State::Ahead } else { State::Delayed { due } };
            let mut now = Duration::ZERO;
            let mut held_until = due;
            let mut deliveries = 0;
            let mut over = false;
            for (event, pause) in history {
                now += Duration::from_secs(pause);
                let (next, outcome) = step(state, event, now);
                match (event, outcome) {
                    (Event::Receive { window, .. }, Outcome::Received { receive_count }) => {
                        prop_assert!(now >= held_until, "two holders, or too early");
                        prop_assert!(!over, "it came back");
                        deliveries += 1;
                        prop_assert_eq!(receive_count, deliveries);
                        prop_assert!(deliveries <= MOST, "delivered too often");
                        held_until = now + window;
                    }
                    (Event::Extend { window, .. }, Outcome::Done) => held_until = now + window,
                    (Event::Nack { delay, .. }, Outcome::Done) => held_until = now + delay,
                    (Event::Nack { .. }, Outcome::DeadLettered) => {
                        prop_assert_eq!(deliveries, MOST);
                        over = true;
                    }
                    (Event::HandBack { .. }, Outcome::Done) => {
                        held_until = now;
                        deliveries -= 1;
                    }
                    (Event::Delete { .. } | Event::Purge | Event::Move, Outcome::Done) => {
                        over = true;
                    }
                    (Event::Receive { .. }, Outcome::Hidden) => {
                        let given_up = matches!(next, State::GivenUp { .. });
                        prop_assert!(next == state || given_up);
                        over |= given_up;
                    }
                    (_, Outcome::Stale) => prop_assert_eq!(next, state),
                    other => prop_assert!(false, "{:?} cannot be an answer", other),
                }
                state = next;
            }
        }
    }
}

//! Histories made by hand: each breaks one promise.

use super::*;

const WINDOW: Duration = Duration::from_secs(10);
const HOME: Queue = "home";
const GRAVE: Queue = "grave";
const MAX: u32 = 2;

fn at(second: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second)
}

fn id(number: u32) -> Uuid {
    Uuid::from_u128(number.into())
}

fn mark(sequence: u32) -> Mark {
    let sender = 1;
    Mark { sender, sequence }
}

/// Message `number`, acknowledged, or with an outcome that nobody knows.
fn send(number: u32, acknowledged: bool) -> Send {
    Send {
        queue: HOME,
        mark: mark(number),
        key: None,
        outcome: if acknowledged {
            Outcome::Ok
        } else {
            Outcome::Info
        },
        message_id: acknowledged.then(|| id(number)),
        asked: at(0),
        answered: at(0),
        not_before: None,
    }
}

/// Message `number`, delivered at a second.
fn delivery(number: u32, second: u64, receive_count: u32) -> Delivery {
    Delivery {
        queue: HOME,
        mark: Some(mark(number)),
        message_id: id(number),
        asked: at(second),
        delivered: at(second),
        visible_at: at(second) + WINDOW,
        first_received_at: at(0),
        receive_count,
        death: None,
    }
}

fn first_delivery(number: u32, second: u64) -> Delivery {
    Delivery {
        first_received_at: at(second),
        ..delivery(number, second, 1)
    }
}

fn delete(number: u32, outcome: Outcome, second: u64) -> Delete {
    Delete {
        message_id: id(number),
        outcome,
        answered: at(second),
    }
}

/// The end of message 0's first delivery is moved at a second.
fn change(second: u64, window: u64) -> Change {
    Change {
        message_id: id(0),
        receive_count: 1,
        gives_back: false,
        window: Duration::from_secs(window),
        outcome: Outcome::Ok,
        visible_at: Some(at(second + window)),
        asked: at(second),
    }
}

fn purge(outcome: Outcome, asked: u64, answered: u64) -> Purge {
    Purge {
        queue: HOME,
        outcome,
        asked: at(asked),
        answered: at(answered),
    }
}

/// Message 0 is received twice and deleted, 1 is there at the end, the fate of 2 is unknown.
fn good() -> History {
    History {
        sends: vec![send(0, true), send(1, true), send(2, false)],
        deliveries: vec![
            delivery(0, 0, 1),
            delivery(0, 10, 2),
            first_delivery(1, 100),
        ],
        deletes: vec![delete(0, Outcome::Ok, 12)],
        drained: Some(at(100)),
        ..History::default()
    }
}

/// Message 0 is received twice, and then as a dead letter.
fn dead() -> History {
    let mut history = good();
    history.dead_letters.push(DeadLetters {
        source: HOME,
        target: GRAVE,
        max_receive_count: MAX,
    });
    history.deliveries.push(Delivery {
        queue: GRAVE,
        death: Some((HOME.to_owned(), MAX)),
        ..delivery(0, 20, 3)
    });
    history.deletes = vec![delete(0, Outcome::Ok, 22)];
    history
}

#[test]
fn a_good_history_has_nothing_to_be_said_about() {
    assert_eq!(check(&good()), []);
    assert_eq!(check(&dead()), []);
    let mut unknown = good();
    unknown.deliveries.push(first_delivery(2, 100));
    assert_eq!(check(&unknown), [], "it may have been stored");
    let mut unacknowledged = good();
    unacknowledged.deletes = vec![delete(0, Outcome::Info, 12)];
    assert_eq!(check(&unacknowledged), [], "it may have been deleted");
}

#[test]
fn an_acknowledged_message_that_is_not_there_at_the_end_is_lost() {
    let mut history = good();
    history.deliveries.pop();
    assert_eq!(check(&history), [Violation::Lost(mark(1))]);
    let mut history = good();
    history.deletes.clear();
    assert_eq!(check(&history), [Violation::Lost(mark(0))], "received once");
    history.deletes = vec![delete(0, Outcome::Fail, 12)];
    assert_eq!(check(&history), [Violation::Lost(mark(0))], "not deleted");
    let mut history = dead();
    history.deliveries.pop();
    history.deletes.clear();
    assert_eq!(check(&history), [Violation::Lost(mark(0))], "died for good");
}

#[test]
fn what_a_purge_may_have_taken_is_not_lost() {
    for (outcome, asked, is_lost) in [
        (Outcome::Ok, 5, false),
        (Outcome::Info, 5, false),
        (Outcome::Fail, 5, true),
        // Answered before the message was sent, so it is not to blame.
        (Outcome::Ok, 1, true),
    ] {
        let mut history = good();
        history.deliveries.pop();
        history.sends[1].asked = at(3);
        // The others were not there before it.
        history.sends[0].answered = at(99);
        history.purges.push(purge(outcome, asked, asked + 1));
        let expected = is_lost.then_some(Violation::Lost(mark(1)));
        assert_eq!(check(&history), Vec::from_iter(expected), "{outcome:?}");
    }
}

#[test]
fn a_message_that_was_not_sent_like_that_is_invented() {
    let mut history = good();
    let mut damaged = delivery(7, 0, 1);
    damaged.mark = None;
    history.deliveries.extend([damaged, delivery(8, 0, 1)]);
    let expected = [Violation::Invented(id(7)), Violation::Invented(id(8))];
    assert_eq!(check(&history), expected);
    let mut refused = good();
    refused.sends[2].outcome = Outcome::Fail;
    refused.deliveries.push(delivery(2, 0, 1));
    assert_eq!(check(&refused), [Violation::Invented(id(2))]);
    let mut elsewhere = good();
    elsewhere.deliveries[2].queue = GRAVE;
    assert_eq!(check(&elsewhere), [Violation::Invented(id(1))]);
}

#[test]
fn a_message_under_two_ids_is_doubled() {
    for sequence in [1, 2] {
        let mut history = good();
        for number in [7, 8] {
            let mut copy = delivery(number, 0, 1);
            copy.mark = Some(mark(sequence));
            history.deliveries.push(copy);
        }
        // Nobody knows the right id of message 2.
        let doubled = if sequence == 1 { 2 } else { 1 };
        let expected = vec![Violation::Doubled(mark(sequence)); doubled];
        assert_eq!(check(&history), expected);
    }
}

#[test]
fn a_key_stands_for_one_message() {
    let mut history = good();
    for send in &mut history.sends[..2] {
        send.key = Some((mark(0), 0));
    }
    assert_eq!(check(&history), [Violation::KeyReused(mark(1))]);
    history.sends[1].queue = GRAVE;
    history.deliveries[2].queue = GRAVE;
    assert_eq!(check(&history), [], "keys belong to queues");
    let mut history = good();
    let again = Send {
        message_id: Some(id(9)),
        ..history.sends[0].clone()
    };
    history.sends.push(again);
    history.deletes.push(delete(9, Outcome::Info, 12));
    assert_eq!(check(&history), [Violation::Doubled(mark(0))]);
}

#[test]
fn a_delivery_before_the_end_of_the_last_one_is_a_second_holder() {
    let mut history = good();
    history.deliveries[1] = delivery(0, 9, 2);
    assert_eq!(check(&history), [Violation::HeldTwice(id(0))]);
}

#[test]
fn a_delivery_ends_when_its_holder_said_so() {
    let extended = change(5, 10);
    let mut history = good();
    history.changes.push(extended.clone());
    assert_eq!(check(&history), [Violation::HeldTwice(id(0))]);
    history.deliveries[1] = delivery(0, 15, 2);
    history.deletes[0].answered = at(17);
    assert_eq!(check(&history), []);
    // What may or may not have been given back earlier may have another holder.
    let mut history = good();
    history.deliveries[1] = delivery(0, 6, 2);
    history.changes.push(Change {
        outcome: Outcome::Info,
        visible_at: None,
        ..change(4, 1)
    });
    assert_eq!(check(&history), []);
    history.deliveries[1] = delivery(0, 4, 2);
    assert_eq!(check(&history), [Violation::HeldTwice(id(0))]);
    history.deliveries[1] = delivery(0, 6, 2);
    history.changes[0].outcome = Outcome::Fail;
    assert_eq!(check(&history), [Violation::HeldTwice(id(0))]);
}

#[test]
fn what_may_have_been_given_up_may_be_a_dead_letter_at_once() {
    let mut history = dead();
    let given_back = Change {
        receive_count: MAX,
        gives_back: true,
        outcome: Outcome::Info,
        visible_at: None,
        ..change(11, 9)
    };
    history.changes.push(given_back);
    history.deliveries[3].delivered = at(12);
    assert_eq!(check(&history), []);
    history.changes[0].gives_back = false;
    let held_twice = [Violation::HeldTwice(id(0))];
    assert_eq!(check(&history), held_twice, "an extend kills nobody");
    history.changes[0].gives_back = true;
    history.dead_letters[0].max_receive_count = MAX + 1;
    let found = check(&history);
    assert!(
        found.contains(&held_twice[0]),
        "not the last one: {found:?}"
    );
}

#[test]
fn who_gave_a_message_up_for_good_may_say_so_again_until_it_has_moved() {
    let mut history = dead();
    let given_up = |second| Change {
        receive_count: MAX,
        gives_back: true,
        outcome: Outcome::Ok,
        visible_at: None,
        ..change(second, 0)
    };
    history.deliveries[3].delivered = at(15);
    history.changes = vec![given_up(11), given_up(13)];
    assert_eq!(check(&history), []);
    history.changes[0].visible_at = Some(at(12));
    let found = check(&history);
    assert!(
        found.contains(&Violation::Unfenced(id(0))),
        "it had ended: {found:?}"
    );
}

#[test]
fn nobody_moves_the_end_of_a_delivery_that_is_not_his_any_more() {
    let unfenced = [Violation::Unfenced(id(0))];
    let mut given_back = good();
    given_back.deliveries[1] = delivery(0, 6, 2);
    given_back.changes = vec![change(5, 0), change(7, 10)];
    let found = check(&given_back);
    assert!(
        found.contains(&unfenced[0]),
        "there is a newer holder: {found:?}"
    );
    let mut ended = good();
    ended.deliveries.remove(1);
    ended.changes = vec![change(11, 1)];
    assert_eq!(check(&ended), unfenced, "it had ended");
    ended.changes.insert(
        0,
        Change {
            outcome: Outcome::Info,
            visible_at: None,
            ..change(5, 10)
        },
    );
    assert_eq!(check(&ended), [], "it may have been longer");
    let mut deleted = good();
    deleted.deliveries.remove(1);
    deleted.deletes[0].answered = at(3);
    deleted.changes = vec![change(5, 1)];
    assert_eq!(check(&deleted), unfenced, "it was deleted");
    let mut dead = good();
    dead.deliveries.remove(1);
    dead.changes = vec![change(5, 0), change(6, 1)];
    dead.changes[0].visible_at = None;
    assert_eq!(check(&dead), unfenced, "it was given up");
}

#[test]
fn a_delivery_after_an_acknowledged_delete_is_undeleted() {
    let mut history = good();
    history.deliveries.push(delivery(0, 20, 3));
    assert_eq!(check(&history), [Violation::Undeleted(id(0))]);
    // Asked for before, but handed out after it.
    let mut history = good();
    history.deliveries.push(Delivery {
        asked: at(11),
        ..delivery(0, 20, 3)
    });
    assert_eq!(check(&history), [Violation::Undeleted(id(0))]);
    history.deletes[0].outcome = Outcome::Info;
    assert_eq!(check(&history), []);
}

#[test]
fn what_was_acknowledged_before_a_purge_never_returns() {
    let mut history = good();
    history.purges.push(purge(Outcome::Ok, 1, 2));
    let expected = [Violation::Unpurged(id(0)), Violation::Unpurged(id(1))];
    assert_eq!(check(&history), expected);
    for send in &mut history.sends {
        send.answered = at(1);
    }
    assert_eq!(check(&history), [], "sent meanwhile");
    let mut unknown = good();
    unknown.purges.push(purge(Outcome::Info, 1, 2));
    assert_eq!(check(&unknown), []);
    let mut elsewhere = good();
    elsewhere.purges.push(Purge {
        queue: GRAVE,
        ..purge(Outcome::Ok, 1, 2)
    });
    assert_eq!(check(&elsewhere), []);
}

#[test]
fn a_delivery_before_its_time_is_early() {
    let mut history = good();
    history.sends[0].not_before = Some(at(1));
    assert_eq!(check(&history), [Violation::Early(id(0))]);
    history.sends[0].not_before = Some(at(0));
    history.sends[2].not_before = Some(at(101));
    history.deliveries.push(first_delivery(2, 100));
    assert_eq!(
        check(&history),
        [Violation::Early(id(2))],
        "if it was stored"
    );
}

#[test]
fn counts_grow_by_one_and_by_what_nobody_saw() {
    for wrong in [0, 1, 3] {
        let mut history = good();
        history.deliveries[1].receive_count = wrong;
        assert_eq!(check(&history), [Violation::Miscounted(id(0))], "{wrong}");
    }
    let mut lost = good();
    lost.deliveries[1].receive_count = 3;
    for (queue, second, is_right) in [(GRAVE, 5, false), (HOME, 11, false), (HOME, 5, true)] {
        lost.lost_receives = vec![(queue, at(second))];
        assert_eq!(check(&lost).is_empty(), is_right, "{queue} {second}");
    }
    let mut another_first = good();
    another_first.deliveries[1].first_received_at = at(1);
    assert_eq!(check(&another_first), [Violation::Miscounted(id(0))]);
}

#[test]
fn nobody_receives_more_often_than_a_queue_allows() {
    let mut history = dead();
    history.deliveries[3].queue = HOME;
    assert_eq!(check(&history), [Violation::Overdelivered(id(0))]);
}

#[test]
fn the_dead_were_delivered_often_enough_and_say_so() {
    let died_early = [Violation::DiedEarly(id(0))];
    for death in [
        None,
        Some((HOME.to_owned(), 1)),
        Some((GRAVE.to_owned(), MAX)),
    ] {
        let mut history = dead();
        history.deliveries[3].death = death;
        assert_eq!(check(&history), died_early);
    }
    let mut unseen = dead();
    unseen.deliveries.remove(1);
    let found = check(&unseen);
    assert!(found.contains(&died_early[0]), "{found:?}");
    unseen.lost_receives.push((HOME, at(5)));
    assert_eq!(check(&unseen), []);
    let mut counted_anew = dead();
    counted_anew.deliveries[3].receive_count = 1;
    let found = check(&counted_anew);
    assert!(found.contains(&died_early[0]), "{found:?}");
}

#[test]
fn the_dead_do_not_return_and_are_there_once() {
    let mut returned = dead();
    returned.deletes.clear();
    returned.deletes.push(delete(0, Outcome::Info, 22));
    returned.lost_receives.push((HOME, at(5)));
    returned.deliveries.push(delivery(0, 30, 4));
    let found = check(&returned);
    assert!(found.contains(&Violation::Resurrected(id(0))), "{found:?}");
    let mut twice = dead();
    twice.deliveries.push(twice.deliveries[3].clone());
    let found = check(&twice);
    assert!(found.contains(&Violation::HeldTwice(id(0))), "{found:?}");
    assert!(found.contains(&Violation::Miscounted(id(0))), "{found:?}");
}

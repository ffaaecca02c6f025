//! Messages that are hidden at first: they have leases from the beginning.

use std::time::Duration;

use towpath::domain::lane::SubscriptionId;
use towpath::store::{Acked, NewChunk, SpaceCursor, Tail};

use super::bench::{Bench, RUN, RUNS, WINDOW, append, chunk, extends, moved, seqs};
use crate::support::database::STATEMENT_TIMEOUT;

const DELAY: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

fn delayed(messages: i32, delay: Duration) -> NewChunk {
    NewChunk {
        delay,
        ..chunk(messages)
    }
}

impl Bench {
    async fn delay(&mut self, chunks: &[(i32, Duration)]) -> Tail {
        let chunks = chunks
            .iter()
            .map(|(messages, delay)| delayed(*messages, *delay))
            .collect();
        self.append_chunks(self.delayed_lane(), chunks).await
    }
}

#[tokio::test]
async fn delayed_messages_come_when_they_are_due_and_never_before() {
    for run in RUNS {
        let mut bench = Bench::new(run).await;
        bench
            .delay(&[(3, DELAY), (62, DELAY * 2), (1, DELAY / 2)])
            .await;
        assert_eq!(bench.count("lease").await, 3, "one for each chunk");
        // The clock goes on by itself, too: what a step leaves is as much as a second.
        let mut received = Vec::new();
        for (second, due) in [(4, 0), (1, 1), (4, 0), (1, 3), (9, 0), (1, 62)] {
            bench.database.advance_clock(SECOND * second).await;
            let claimed = bench.claim(100, WINDOW * 100).await;
            assert_eq!(claimed.len(), due, "after {} more", received.len());
            assert!(claimed.iter().all(|message| message.receive_count == 1));
            received.extend(claimed);
        }
        assert_eq!(seqs(&received), (0..66).collect::<Vec<_>>());
        assert_eq!(seqs(&received[..4]), [0, 1, 2, 65], "by their due times");
        assert_eq!(bench.ack(&received).await, vec![Acked::Deleted; 66]);
        assert_eq!(bench.count("lease").await, 0);
    }
}

#[tokio::test]
async fn a_delayed_chunk_is_split_among_receivers_as_others_are() {
    let mut bench = Bench::new(RUN).await;
    bench.delay(&[(5, DELAY)]).await;
    bench.database.advance_clock(DELAY).await;
    let claims = bench.claims(&[(1, WINDOW), (2, WINDOW)]).await;
    let first = super::bench::held(&claims);
    assert_eq!(seqs(&first), [0, 1, 2]);
    assert_eq!(first[0].first_received_at, claims.reports[0].now);
    let second = bench.claim(10, WINDOW).await;
    assert_eq!(seqs(&second), [3, 4]);
    let all = [first, second].concat();
    assert!(all.iter().all(|message| message.receive_count == 1));
    bench.database.advance_clock(WINDOW).await;
    let again = bench.claim(10, WINDOW).await;
    assert_eq!(again.len(), 5);
    assert!(again.iter().all(|message| message.receive_count == 2));
    assert_eq!(bench.ack(&all).await, [Acked::DeletedUnderNewer; 5]);
}

#[tokio::test]
async fn a_delayed_message_that_is_handed_back_was_never_received() {
    let mut bench = Bench::new(RUN).await;
    bench.delay(&[(2, DELAY)]).await;
    bench.database.advance_clock(DELAY).await;
    let held = bench.claim(2, WINDOW).await;
    let back: Vec<_> = extends(&held, WINDOW)
        .into_iter()
        .map(|entry| (entry.lease, entry.mask))
        .collect();
    let said = bench.session.hand_back(SubscriptionId::QUEUE, &back).await;
    assert_eq!(moved(&held, WINDOW, &said.unwrap()), [true; 2]);
    let again = bench.claim(2, WINDOW).await;
    assert!(again.iter().all(|message| message.receive_count == 1));
    assert_eq!(again.len(), 2);
}

#[tokio::test]
async fn a_receipt_of_a_delayed_message_deletes_it_and_one_that_nobody_has_does_not() {
    let mut bench = Bench::new(RUN).await;
    bench.delay(&[(2, DELAY)]).await;
    bench.database.advance_clock(DELAY).await;
    let held = bench.claim(1, WINDOW).await;
    assert_eq!(bench.ack(&held).await, [Acked::Deleted]);
    assert_eq!(bench.ack(&held).await, [Acked::Gone]);
    assert_eq!(seqs(&bench.claim(2, WINDOW).await), [1]);
}

#[tokio::test]
async fn a_purge_takes_delayed_messages_and_the_lane_goes_on() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.delay(&[(3, DELAY), (2, DELAY * 2)]).await;
    bench.database.advance_clock(DELAY).await;
    let held = bench.claim(1, WINDOW).await;
    bench.purge().await;
    assert_eq!(bench.extend(&held, WINDOW).await, [false]);
    let lane = bench.delayed_lane();
    let late = delayed(4, DELAY * 3);
    let lanes = [super::bench::append_lane(lane, tail, vec![late])];
    bench.session.append(&lanes).await.unwrap();
    bench.database.advance_clock(DELAY * 2).await;
    assert!(bench.claim(10, WINDOW).await.is_empty());
    bench.free(lane).await;
    assert_eq!(
        bench.count("log").await,
        1,
        "what came after the purge stays"
    );
    bench.database.advance_clock(DELAY).await;
    assert_eq!(seqs(&bench.claim(10, WINDOW).await), [5, 6, 7, 8]);
}

#[tokio::test]
async fn the_space_of_delayed_messages_is_freed_when_they_are_deleted() {
    let mut bench = Bench::new(RUN).await;
    let tail = bench.delay(&[(2, DELAY * 9), (2, DELAY), (1, DELAY)]).await;
    let lane = bench.delayed_lane();
    let first = bench.free(lane).await;
    assert_eq!(first.rows, 0, "all of it is due");
    assert_eq!((first.survivor, first.idle), (Some(SpaceCursor(0)), false));
    bench.database.advance_clock(DELAY).await;
    let held = bench.claim(10, WINDOW).await;
    assert_eq!(seqs(&held), [2, 3, 4]);
    bench.free(lane).await;
    assert_eq!(bench.count("log").await, 3, "all of it is held");

    bench.ack(&held[1..]).await;
    let young = bench
        .session
        .free(lane, SpaceCursor(0), 100, STATEMENT_TIMEOUT * 10, true)
        .await;
    assert_eq!(young.unwrap().rows, 0, "too young to go");
    bench.free(lane).await;
    assert_eq!(bench.count("log").await, 2, "half of a chunk is held");
    bench.ack(&held[..1]).await;
    bench.free(lane).await;
    assert_eq!(bench.count("log").await, 1);

    // Chunks go out of order here: the numbers behind them must not come again.
    let stale = append(&mut bench.session, lane, Tail::UNKNOWN, &[]).await;
    assert!(matches!(stale, towpath::store::Appended::Stale(found) if found.next == tail.next));
    let known = append(&mut bench.session, lane, tail, &[1]).await;
    assert!(
        matches!(known, towpath::store::Appended::Stored { .. }),
        "what was freed behind a chunk that stays is no news to whoever appended it: {known:?}"
    );
}

#[tokio::test]
async fn ready_and_delayed_messages_of_a_queue_come_in_one_answer() {
    let mut bench = Bench::new(RUN).await;
    bench.delay(&[(2, DELAY)]).await;
    bench.append(0, &[2]).await;
    bench.database.advance_clock(DELAY).await;
    let held = bench.claim(10, WINDOW).await;
    assert_eq!(seqs(&held), [0, 0, 1, 1]);
}

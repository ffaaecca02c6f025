//! What a redrive holds of its queue: taken over from claims, uncounted, in parts, and given back.

use std::time::Duration;

use towpath::domain::lane::{Class, LaneId, SubscriptionId, Writer};
use towpath::store::{Appended, Care, Hold, LeaseRow, VisibleChunk};

use super::bench::{
    Bench, Held, RUN, SALT, WINDOW, append_lane, chunk, new_queue, seqs, whole_lease,
};
use crate::support::node;

const SUB: SubscriptionId = SubscriptionId::QUEUE;
const MOVE: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(300);

/// Messages of a lease, under a token of their own or under its own.
fn hold(held: &Held, mask: u64, token: Option<i32>) -> Hold {
    Hold {
        row: held.lease.row,
        mask,
        token: token.unwrap_or(held.lease.row.token),
        to_move: token.is_some(),
        window: if token.is_some() { MOVE } else { LONG },
    }
}

fn under(held: &Held, token: i32) -> LeaseRow {
    LeaseRow {
        token,
        ..held.lease.row
    }
}

/// Four messages that one lease of a claim holds.
async fn four() -> (Bench, Held) {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[4]).await;
    let held = bench.claim(4, WINDOW).await;
    assert_eq!(held.len(), 4);
    (bench, held[0])
}

#[tokio::test]
async fn a_lease_is_taken_over_in_parts_and_its_delivery_is_forgotten() {
    let (mut bench, held) = four().await;
    let entries = [
        hold(&held, 0b0101, Some(7)),
        hold(&held, 0b0010, Some(8)),
        hold(&held, 0b1000, None),
    ];
    let masks = bench.session.hold(SUB, &entries).await.unwrap();
    assert_eq!(masks, [0b0101, 0b0010, 0b1000]);
    let rows = "select string_agg(
            format('%s %s %s %s', mask, rc, state, first_received_at is null), ', ' order by mask)
        from towpath.lease";
    let rows: String = bench.database.value(rows).await;
    assert_eq!(rows, "2 0 2 t, 5 0 2 t, 8 0 0 t");

    // Those that move are found by the move, each under its own lease.
    let target = new_queue(&bench.database, "target").await;
    let lane = LaneId::new(target, Class::READY, Writer(0));
    let tail = bench.append_chunks(lane, vec![chunk(1)]).await;
    let mut source = whole_lease(&held, 0b0101);
    source.token = 7;
    let care = Care {
        sources: vec![source],
        ..Care::default()
    };
    let lanes = [append_lane(lane, tail, vec![chunk(2)])];
    let moved = bench.session.append_careful(SUB, &lanes, &care).await;
    assert!(matches!(moved.unwrap()[0], Appended::Stored { .. }));

    // The short window ends; what is to stay hidden does.
    bench.database.advance_clock(MOVE).await;
    let again = bench.claim(10, WINDOW).await;
    assert_eq!(seqs(&again), [held.seq() + 1]);
    assert_eq!(again[0].receive_count, 1, "it was never counted");
    bench.database.advance_clock(LONG).await;
    let again = bench.claim(10, LONG * 2).await;
    assert_eq!(seqs(&again).last(), Some(&(held.seq() + 3)));
}

#[tokio::test]
async fn what_is_kept_stays_hidden_and_what_is_given_back_is_visible_at_once() {
    let (mut bench, held) = four().await;
    let entries = [hold(&held, 0b0011, Some(7)), hold(&held, 0b1100, None)];
    bench.session.hold(SUB, &entries).await.unwrap();
    let rows = [under(&held, 7), held.lease.row];
    let mut sorted = rows;
    sorted.sort_unstable();
    bench.session.keep(SUB, &sorted, LONG).await.unwrap();
    bench.database.advance_clock(LONG - WINDOW).await;
    assert_eq!(bench.claim(10, WINDOW).await, []);
    let back = bench.session.keep(SUB, &rows[..1], Duration::ZERO).await;
    assert_eq!(back.unwrap(), [0b0011]);
    let received = bench.claim(10, WINDOW).await;
    assert_eq!(seqs(&received), [held.seq(), held.seq() + 1]);
    assert_eq!(received[0].receive_count, 1);
    // It is another's now.
    let back = bench.session.keep(SUB, &rows[..1], Duration::ZERO).await;
    assert_eq!(back.unwrap(), [0]);
    assert_eq!(bench.claim(10, WINDOW).await, []);
}

#[tokio::test]
async fn nothing_is_taken_over_that_was_deleted_or_is_another_s_meanwhile() {
    let (mut bench, held) = four().await;
    let one = Held { bit: 1, ..held };
    bench.ack(&[one]).await;
    let entries = [
        hold(&held, 0b0010, Some(7)),
        hold(&held, 0b0001, Some(8)),
        hold(&held, 0b1100, None),
    ];
    let masks = bench.session.hold(SUB, &entries).await.unwrap();
    assert_eq!(masks, [0, 0b0001, 0b1100]);
    assert_eq!(bench.count("lease").await, 2);

    let (mut bench, held) = four().await;
    bench.database.advance_clock(WINDOW).await;
    let entry = [hold(&held, 0b1111, None)];
    let masks = bench.session.hold(SUB, &entry).await.unwrap();
    assert_eq!(masks, [0], "its window is over");
    let received = bench.claim(10, WINDOW).await;
    assert_eq!(received.len(), 4);
    let masks = bench.session.hold(SUB, &entry).await.unwrap();
    assert_eq!(masks, [0], "it is another's");
}

/// The numbers of the messages that a lane shows as visible, page by page.
async fn visible(bench: &Bench, page: i32) -> Vec<i64> {
    let store = node::store(&bench.database);
    let (mut from, mut found) = (0, vec![]);
    for lane in store.lanes_of(bench.queue).await.unwrap() {
        loop {
            let page = store.visible(lane, from, page, 1 << 20).await.unwrap();
            for VisibleChunk {
                seq, mask, salt, ..
            } in page.chunks
            {
                assert_eq!(salt, SALT);
                let bits = (0..64).filter(|bit| mask >> bit & 1 == 1);
                found.extend(bits.map(|bit| seq + bit));
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        from = 0;
    }
    store.close().await;
    found
}

#[tokio::test]
async fn what_is_shown_as_visible_is_what_a_claim_gets() {
    let mut bench = Bench::new(RUN).await;
    bench.append(0, &[62, 10, 62, 1]).await;
    let all: Vec<i64> = (0..135).collect();
    assert_eq!(visible(&bench, 1).await, all);
    let held = bench.claim(100, WINDOW).await;
    assert_eq!(visible(&bench, 2).await, all[100..]);
    bench.ack(&held[5..20]).await;
    bench.extend(&held[70..80], LONG).await;
    bench
        .database
        .advance_clock(WINDOW + Duration::from_secs(1))
        .await;
    for page in [1, 3, 100] {
        let shown = visible(&bench, page).await;
        let expected = [&all[..5], &all[20..70], &all[80..]].concat();
        assert_eq!(shown, expected);
    }
    let shown = visible(&bench, 100).await;
    assert_eq!(seqs(&bench.claim(200, WINDOW).await), shown);
    assert_eq!(visible(&bench, 100).await, [] as [i64; 0]);
    bench.purge().await;
    bench.database.advance_clock(LONG * 2).await;
    assert_eq!(
        visible(&bench, 100).await,
        [] as [i64; 0],
        "what was purged"
    );
    bench.append(0, &[3]).await;
    assert_eq!(visible(&bench, 100).await.len(), 3);
    bench
        .database
        .advance_clock(Duration::from_secs(5 * 24 * 3600))
        .await;
    assert_eq!(
        visible(&bench, 100).await,
        [] as [i64; 0],
        "what has expired"
    );
}

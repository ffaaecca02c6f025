//! Counts and peeks agree with a list of all messages after whatever happened to them.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use time::OffsetDateTime;
use towpath::domain::lane::LaneId;
use towpath::domain::peek::MessageState;
use towpath::domain::queue::Counts;
use towpath::store::{Acked, NewChunk, Peek, Tail};

use super::bench::{Bench, Held, NEW_TAIL, RUNS, WINDOW, append_lane, chunk};
use crate::support::node;

/// A message that is there.
#[derive(Debug, Clone, Copy)]
struct Message {
    sent_at: OffsetDateTime,
    visible_at: OffsetDateTime,
    received: bool,
    newest: Option<Held>,
}

struct Scene {
    bench: Bench,
    dice: StdRng,
    tails: BTreeMap<LaneId, Tail>,
    messages: BTreeMap<(LaneId, i64), Message>,
}

impl Scene {
    async fn send(&mut self, lane: LaneId, delay: Duration) {
        let tail = self.tails.get(&lane).copied().unwrap_or(NEW_TAIL);
        let chunks: Vec<_> = (0..self.dice.random_range(1..4))
            .map(|_| NewChunk {
                delay,
                ..chunk(self.dice.random_range(1..=62))
            })
            .collect();
        let lanes = [append_lane(lane, tail, chunks)];
        let stored = self.bench.session.append(&lanes).await.unwrap();
        let towpath::store::Appended::Stored { tail: next, at } = stored[0] else {
            panic!("{stored:?}")
        };
        for seq in tail.next..next.next {
            let message = Message {
                sent_at: at,
                visible_at: at + delay,
                received: false,
                newest: None,
            };
            self.messages.insert((lane, seq), message);
        }
        self.tails.insert(lane, next);
    }

    /// Some of the messages that were ever received and are there.
    fn some_held(&mut self) -> Vec<Held> {
        let received = self.messages.values().filter_map(|message| message.newest);
        received.sample(&mut self.dice, 20)
    }

    async fn operate(&mut self) {
        let window = WINDOW * self.dice.random_range(0..3);
        match self.dice.random_range(0..100) {
            0..20 => {
                let lane = self.bench.lane(self.dice.random_range(0..2));
                self.send(lane, Duration::ZERO).await;
            }
            20..30 => self.send(self.bench.delayed_lane(), window + WINDOW).await,
            30..60 => {
                let size = self.dice.random_range(1..100);
                for held in self.bench.claim(size, window).await {
                    let message = self.messages.get_mut(&(held.lane(), held.seq())).unwrap();
                    message.visible_at = held.visible_at;
                    message.received = true;
                    message.newest = Some(held);
                }
            }
            60..75 => {
                let held = self.some_held();
                let said = self.bench.ack(&held).await;
                assert_eq!(said, vec![Acked::Deleted; held.len()]);
                for held in held {
                    self.messages.remove(&(held.lane(), held.seq()));
                }
            }
            75..90 => {
                let held = self.some_held();
                let before = self.now().await;
                let said = self.bench.extend(&held, window).await;
                let after = self.now().await;
                for (held, moved) in held.iter().zip(said) {
                    let message = self.messages.get_mut(&(held.lane(), held.seq())).unwrap();
                    assert_eq!(moved, message.visible_at > before, "{message:?}");
                    if moved {
                        message.visible_at = after + window;
                    }
                }
            }
            90..98 => self.bench.database.advance_clock(WINDOW / 2 + window).await,
            _ => {
                self.bench.purge().await;
                self.messages.clear();
            }
        }
        if self.dice.random_bool(0.3) {
            for lane in self.tails.clone().into_keys() {
                self.bench.free(lane).await;
            }
        }
    }

    async fn now(&self) -> OffsetDateTime {
        self.bench.database.value("select towpath.clock()").await
    }

    async fn check(&self) {
        let store = node::store(&self.bench.database);
        let counts = store.count_messages(self.bench.queue).await.unwrap();
        let now = self.now().await;
        let (mut visible, mut in_flight, mut delayed) = (0, 0, 0);
        let mut states = BTreeMap::new();
        for (place, message) in &self.messages {
            let (count, state) = match (message.visible_at > now, message.received) {
                (false, _) => (&mut visible, MessageState::Visible),
                (true, true) => (&mut in_flight, MessageState::InFlight),
                (true, false) => (&mut delayed, MessageState::Delayed),
            };
            *count += 1;
            states.insert(*place, state);
        }
        let page = Peek {
            state: None,
            from: None,
            chunks: 3,
            messages: 50,
            bytes: usize::MAX,
        };
        let shown = super::peek::all(&store, self.bench.queue, &page).await;
        let shown = shown
            .iter()
            .map(|(place, standing)| (place, &standing.state));
        assert!(states.iter().eq(shown), "a peek shows the same messages");
        let oldest = self.messages.values().map(|message| message.sent_at).min();
        let oldest_age: Option<Duration> = oldest.map(|sent| (now - sent).try_into().unwrap());
        let expected = Counts {
            visible,
            in_flight,
            delayed,
            oldest_age: counts.oldest_age,
        };
        assert_eq!(counts, expected);
        let late = oldest_age.unwrap_or_default() - counts.oldest_age.unwrap_or_default();
        assert!(
            oldest_age.is_some() == counts.oldest_age.is_some() && late < Duration::from_secs(1),
            "{oldest_age:?} and {counts:?}"
        );
    }
}

#[tokio::test]
async fn counts_and_peeks_agree_with_a_list_of_all_messages() {
    for (run, seed) in RUNS.into_iter().zip([1, 2]) {
        let bench = Bench::new(run).await;
        let lanes = [bench.lane(0), bench.lane(1), bench.delayed_lane()];
        for lane in lanes {
            bench
                .database
                .run(format!(
                    "insert into towpath.lane values ({}, {})",
                    lane.raw(),
                    bench.queue.get()
                ))
                .await;
        }
        let mut scene = Scene {
            bench,
            dice: StdRng::seed_from_u64(seed),
            tails: BTreeMap::new(),
            messages: BTreeMap::new(),
        };
        scene.check().await;
        for _operation in 0..60 {
            scene.operate().await;
            scene.check().await;
        }
    }
}

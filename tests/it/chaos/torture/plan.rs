//! What a torture run is made of: its seed, its length, its queues, and the faults.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::sleep;
use towpath::clock::Clock;

use crate::chaos::history::{DeadLetters, Queue};
use crate::support::eventually;
use crate::support::server::Cluster;

pub(super) const NODES: usize = 3;

/// The defaults.
const PLAIN: Queue = "plain";
/// Its messages are delayed unless they say otherwise.
pub(super) const LATER: Queue = "later";
pub(super) const LATER_DELAY: Duration = Duration::from_secs(1);
/// It is purged now and then.
pub(super) const SWEPT: Queue = "swept";
/// Its messages die soon, and are in `GRAVE` then.
pub(super) const FRAGILE: Queue = "fragile";
const GRAVE: Queue = "grave";
const MAX_RECEIVE_COUNT: u32 = 3;

/// Each after the queue that it names.
pub(super) const QUEUES: [Queue; 5] = [PLAIN, LATER, SWEPT, GRAVE, FRAGILE];
/// Nothing is moved from them, or to them.
pub(super) const STEADY: [Queue; 3] = [PLAIN, LATER, SWEPT];
pub(super) const SENT_TO: [Queue; 4] = [PLAIN, LATER, SWEPT, FRAGILE];

pub(super) fn settings(queue: Queue) -> Value {
    match queue {
        LATER => json!({ "delay_seconds": LATER_DELAY.as_secs() }),
        FRAGILE => json!({
            "dead_letter_queue": GRAVE,
            "max_receive_count": MAX_RECEIVE_COUNT,
        }),
        _ => json!({}),
    }
}

pub(super) fn dead_letters() -> DeadLetters {
    DeadLetters {
        source: FRAGILE,
        target: GRAVE,
        max_receive_count: MAX_RECEIVE_COUNT,
    }
}

/// What can be said from outside.
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) length: Duration,
    /// Kills of the database and nothing else.
    pub(super) only_the_database: bool,
}

impl Plan {
    /// `TOWPATH_TORTURE_SECONDS`, else a time; `TOWPATH_TORTURE_SEED`, else a new one.
    pub(super) fn of_environment(length: Duration) -> Self {
        let length = number("TOWPATH_TORTURE_SECONDS").map_or(length, Duration::from_secs);
        Self {
            length,
            ..Self::short(length)
        }
    }

    /// As long as that, whatever the environment says.
    pub(super) fn short(length: Duration) -> Self {
        Self {
            seed: number("TOWPATH_TORTURE_SEED").unwrap_or_else(rand::random),
            length,
            only_the_database: false,
        }
    }

    /// The dice of one who takes part: each has his own, so that all do the same with one seed as
    /// far as the machine lets them.
    pub(super) fn dice(&self, player: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_add(player))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a switch of the tests is no configuration"
)]
fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A node is killed and started again.
    KillNode(usize),
    /// A node sleeps for so long, also longer than a window.
    PauseNode(usize, Duration),
    /// The database is killed; the nodes bring it back.
    KillDatabase,
    /// The database is told to drop everything.
    StopDatabase,
    /// Both at once.
    KillBoth(usize),
}

fn milliseconds(dice: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(dice.random_range(from..to))
}

impl Fault {
    fn any(dice: &mut StdRng) -> Self {
        let node = dice.random_range(0..NODES);
        match dice.random_range(0..10) {
            0..3 => Self::KillNode(node),
            3..6 => Self::PauseNode(node, milliseconds(dice, 1000, 4000)),
            6..8 => Self::KillDatabase,
            8 => Self::StopDatabase,
            _ => Self::KillBoth(node),
        }
    }

    async fn strike(self, cluster: &mut Cluster, dice: &mut StdRng) {
        if matches!(self, Self::KillDatabase | Self::KillBoth(_)) {
            cluster.kill_database().await;
        }
        match self {
            Self::KillNode(node) | Self::KillBoth(node) => {
                cluster.nodes[node].kill();
                sleep(milliseconds(dice, 0, 500)).await;
                cluster.nodes[node].start().await;
            }
            Self::PauseNode(node, duration) => {
                cluster.nodes[node].signal(Signal::SIGSTOP);
                sleep(duration).await;
                cluster.nodes[node].signal(Signal::SIGCONT);
            }
            Self::StopDatabase => {
                let running = async || cluster.postmaster();
                let postmaster = eventually("the database runs", running).await;
                kill(postmaster, Signal::SIGQUIT).unwrap();
            }
            Self::KillDatabase => {}
        }
        if !matches!(self, Self::KillNode(_) | Self::PauseNode(..)) {
            cluster.client(0).until_ready().await;
        }
    }
}

/// One fault after the other until the time is over; how many. All is well again then.
pub(super) async fn strike(cluster: &mut Cluster, plan: &Plan) -> usize {
    let mut dice = plan.dice(u64::MAX);
    let clock = Clock::default();
    let (began, mut faults) = (clock.instant(), 0);
    loop {
        let quiet = if plan.only_the_database {
            300..1200
        } else {
            200..2500
        };
        sleep(milliseconds(&mut dice, quiet.start, quiet.end)).await;
        if clock.instant() - began >= plan.length {
            break;
        }
        let fault = Fault::any(&mut dice);
        let fault = if plan.only_the_database {
            Fault::KillDatabase
        } else {
            fault
        };
        eprintln!(
            "{:6.2} s: {fault:?}",
            (clock.instant() - began).as_secs_f32()
        );
        fault.strike(cluster, &mut dice).await;
        faults += 1;
    }
    for node in 0..NODES {
        cluster.client(node).until_ready().await;
    }
    faults
}

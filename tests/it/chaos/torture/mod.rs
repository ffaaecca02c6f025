//! Everything at once: three nodes, clients that do all that can be done, and faults, by dice. What
//! the clients saw is then compared with what is promised.

mod caller;
mod plan;
mod players;
mod seeded;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use towpath::clock::Clock;

use super::history::{History, Outcome, Queue, Violation, check};
use super::load::{LONG, Run, now, sessions_rest};
use crate::support::server::Cluster;
use caller::{Bugs, Caller};
use plan::{NODES, Plan, QUEUES, STEADY};
use players::Player;

/// Room for three nodes and the test. A node that waits for nothing is no torture.
const SETTINGS: &[&str] = &["database.max_connections=150"];

/// Longer than a lease of those who move dead letters (30 s), after which others do it.
const QUIET_WITHIN: Duration = Duration::from_secs(90);

const SENDERS: u16 = 4;
const CONSUMERS: u16 = 6;

/// A run, and what became of it.
struct Torture {
    plan: Plan,
    cluster: Cluster,
    run: Run,
    backlog: Arc<AtomicI64>,
    bugs: Bugs,
    history: History,
    faults: usize,
    /// Counts that were not right, or not zero long after the end.
    miscounts: Vec<String>,
}

impl Torture {
    async fn prepare(plan: Plan) -> Self {
        eprintln!("TOWPATH_TORTURE_SEED={} for {:?}", plan.seed, plan.length);
        let cluster = Cluster::start(NODES, SETTINGS).await;
        for queue in QUEUES {
            let path = format!("/v1/queues/{queue}");
            let settings = plan::settings(queue);
            let put = cluster.client(0).ask(Method::PUT, &path, &settings).await;
            put.unwrap().expect(201);
        }
        let history = History {
            dead_letters: vec![plan::dead_letters()],
            ..History::default()
        };
        Self {
            plan,
            cluster,
            run: Run::new(),
            backlog: Arc::default(),
            bugs: Bugs::default(),
            history,
            faults: 0,
            miscounts: Vec::new(),
        }
    }

    fn player(&self, number: u16, stop: &CancellationToken) -> Player {
        let clients = (0..NODES).map(|node| self.cluster.client(node)).collect();
        let dice = self.plan.dice(number.into());
        Player {
            caller: Caller::new(clients, dice, &self.bugs),
            run: self.run.clone(),
            number,
            stop: stop.clone(),
            backlog: Arc::clone(&self.backlog),
            history: History::default(),
        }
    }

    /// The clients and the faults, until the time is over.
    async fn rage(&mut self) {
        let stop = CancellationToken::new();
        let mut players = JoinSet::new();
        for number in 0..SENDERS {
            players.spawn(self.player(number, &stop).send());
        }
        for number in SENDERS..SENDERS + CONSUMERS {
            players.spawn(self.player(number, &stop).consume());
        }
        players.spawn(self.player(SENDERS + CONSUMERS, &stop).purge());
        self.faults = plan::strike(&mut self.cluster, &self.plan).await;
        stop.cancel();
        for history in players.join_all().await {
            self.history.absorb(history);
        }
    }

    /// How many messages there are in each state, and the sum.
    async fn counts(&self, queue: Queue) -> (Value, u64) {
        let path = format!("/v1/queues/{queue}/counts");
        let client = self.cluster.client(0);
        let answer = client.ask(Method::GET, &path, &Value::Null).await;
        let counts = answer.unwrap().expect(200).clone();
        let states = ["visible", "in_flight", "delayed"];
        let sum = states.iter().map(|state| counts[state].as_u64().unwrap());
        let sum = sum.sum();
        (counts, sum)
    }

    /// Receives and deletes everything, until nothing is found three times in a row and the counts
    /// say that nothing is there. Before and after it they must be right.
    async fn drain(&mut self) {
        let mut player = self.player(u16::MAX, &CancellationToken::new());
        player.caller.be_patient();
        sessions_rest(&self.cluster.database()).await;
        let mut before = Vec::new();
        for queue in STEADY {
            before.push((queue, self.counts(queue).await));
        }
        let clock = Clock::default();
        let (began, mut empty_rounds) = (clock.instant(), 0);
        let mut taken: HashMap<_, u64> = HashMap::new();
        self.history.drained = Some(now());
        while empty_rounds < 3 && clock.instant() - began < QUIET_WITHIN {
            empty_rounds += 1;
            for queue in QUEUES {
                let more = self.take_all(&mut player, queue).await;
                *taken.entry(queue).or_default() += more;
                if more + self.counts(queue).await.1 > 0 {
                    empty_rounds = 0;
                }
            }
        }
        for (queue, (counts, sum)) in before {
            if sum != taken[queue] {
                self.miscounts
                    .push(format!("{queue} had {}, not {counts}", taken[queue]));
            }
        }
        for queue in QUEUES {
            let (counts, sum) = self.counts(queue).await;
            if sum > 0 {
                self.miscounts.push(format!("{queue} still has {counts}"));
            }
        }
        self.history.absorb(player.history);
    }

    /// Empties a queue as far as that is possible; how many messages were there.
    async fn take_all(&self, player: &mut Player, queue: Queue) -> u64 {
        let mut taken = 0;
        loop {
            let received = player.receive(queue, 100, 0, LONG).await;
            if received.is_empty() {
                return taken;
            }
            taken += received.len() as u64;
            player.delete(queue, &received).await;
        }
    }

    /// The broken promises.
    async fn verdict(&mut self) -> Vec<Violation> {
        self.rage().await;
        self.drain().await;
        check(&self.history)
    }

    /// That the run was worth it: everything was done, and refused where it should be.
    fn assert_worth(&self) {
        let History {
            sends,
            deliveries,
            deletes,
            changes,
            purges,
            lost_receives,
            ..
        } = &self.history;
        let repeated = sends
            .iter()
            .filter(|send| send.outcome == Outcome::Ok && send.key.is_some());
        let dead = deliveries
            .iter()
            .filter(|delivery| delivery.death.is_some());
        let again = deliveries
            .iter()
            .filter(|delivery| delivery.receive_count > 1);
        let changed = |outcome| {
            changes
                .iter()
                .filter(move |change| change.outcome == outcome)
        };
        let purged = purges.iter().filter(|purge| purge.outcome == Outcome::Ok);
        let unknown = sends.iter().filter(|send| send.outcome == Outcome::Info);
        let numbers = [
            ("faults", self.faults),
            ("sends", sends.len()),
            ("sends with keys", repeated.count()),
            ("sends of unknown outcome", unknown.count()),
            ("deliveries", deliveries.len()),
            ("redeliveries", again.count()),
            ("dead letters", dead.count()),
            ("lost receives", lost_receives.len()),
            ("deletes", deletes.len()),
            ("changes", changed(Outcome::Ok).count()),
            ("refused changes", changed(Outcome::Fail).count()),
            ("purges", purged.count()),
        ];
        eprintln!("{numbers:?}");
        for (what, number) in numbers {
            assert!(number > 0, "no {what}: {numbers:?}");
        }
    }

    /// What the database and the nodes say about it.
    async fn assert_healthy(&self) {
        sessions_rest(&self.cluster.database()).await;
        for node in 0..NODES {
            assert!(self.cluster.client(node).is_ready().await, "node {node}");
        }
        let database = self.cluster.database();
        let deadlocks = "select sum(deadlocks)::bigint from pg_stat_database";
        assert_eq!(database.value::<i64>(deadlocks).await, 0);
        // A crash resets what the database counts, but not its log.
        let data: String = database.value("show data_directory").await;
        let root = PathBuf::from(data).parent().unwrap().to_owned();
        let log = ["postgres.log.old", "postgres.log"]
            .map(|name| fs::read_to_string(root.join(name)).unwrap_or_default())
            .concat();
        assert!(log.contains("ready to accept connections"), "it is the log");
        for bad in [
            "deadlock detected",
            "PANIC",
            "dropped a lease",
            "syntax error",
        ] {
            let mut lines = log.lines().filter(|line| line.contains(bad));
            assert_eq!(lines.next(), None);
        }
    }
}

#[tokio::test]
async fn nothing_promised_is_broken_by_faults_at_random() {
    let plan = Plan::of_environment(Duration::from_secs(60));
    let mut torture = Torture::prepare(plan).await;
    let violations = torture.verdict().await;
    let mut wrong = torture.bugs.lock().unwrap().clone();
    let bugs = wrong.len();
    wrong.truncate(3);
    wrong.extend(torture.miscounts.clone());
    if !violations.is_empty() {
        wrong.push(torture.history.tell(&violations));
    }
    let seed = torture.plan.seed;
    assert!(
        wrong.is_empty(),
        "TOWPATH_TORTURE_SEED={seed}, {bugs} bugs:\n{}",
        wrong.join("\n")
    );
    torture.assert_worth();
    torture.assert_healthy().await;
}

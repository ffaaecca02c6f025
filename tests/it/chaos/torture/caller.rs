//! A client that hangs up now and then, and says how each operation ended.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use crate::chaos::history::Outcome;
use crate::chaos::load::now;
use crate::support::Answer;
use crate::support::client::{Client, Unknown};

/// Refusals of a server that is well.
const WELL_SAID: [&str; 2] = ["receipt_stale", "idempotency_key_reused"];

/// The answer to an operation.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    /// Of what was done, or of why it was not.
    pub(super) body: Value,
    pub(super) asked: OffsetDateTime,
    pub(super) answered: OffsetDateTime,
}

impl Reply {
    /// What is said of each message of a request. Whatever befell the request befell all of them.
    pub(super) fn of_each(&self, messages: usize) -> Vec<(Outcome, &Value)> {
        let entries = self.body["messages"].as_array();
        let entries = entries.filter(|_| self.outcome == Outcome::Ok);
        let Some(entries) = entries else {
            return vec![(self.outcome, &Value::Null); messages];
        };
        assert_eq!(entries.len(), messages, "{}", self.body);
        let outcome = |entry: &Value| match entry["error"]["code"].as_str() {
            None => Outcome::Ok,
            Some("receipt_stale") => Outcome::Fail,
            Some(_) => panic!("{entry}"),
        };
        entries
            .iter()
            .map(|entry| (outcome(entry), entry))
            .collect()
    }
}

/// Answers that no server gives who is asked rightly.
pub(super) type Bugs = Arc<Mutex<Vec<String>>>;

pub(super) struct Caller {
    /// One for each node.
    clients: Vec<Client>,
    pub(super) dice: StdRng,
    /// How many of a thousand operations are given up somewhere on their way.
    hang_ups: u32,
    bugs: Bugs,
}

impl Caller {
    pub(super) fn new(clients: Vec<Client>, dice: StdRng, bugs: &Bugs) -> Self {
        Self {
            clients,
            dice,
            hang_ups: 20,
            bugs: Arc::clone(bugs),
        }
    }

    /// Waits for every answer from now on.
    pub(super) fn be_patient(&mut self) {
        self.hang_ups = 0;
    }

    /// Asks any of the nodes.
    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> Reply {
        let client = &self.clients[self.dice.random_range(0..self.clients.len())];
        let hangs_up = self.dice.random_ratio(self.hang_ups, 1000);
        let patience = Duration::from_micros(self.dice.random_range(0..30_000));
        let asked = now();
        let asking = client.ask_under_key(method, path, body, key);
        let answer = if hangs_up {
            timeout(patience, asking).await.ok()
        } else {
            Some(asking.await)
        };
        let unknown = (Outcome::Info, Value::Null);
        let (outcome, body) = match answer.map(outcome) {
            None => unknown,
            Some(Ok(said)) => said,
            Some(Err(bug)) => {
                self.bugs.lock().unwrap().push(format!("{path}: {bug}"));
                unknown
            }
        };
        let answered = now();
        if outcome != Outcome::Ok && !is_well_said(&body) {
            sleep(patience).await;
        }
        Reply {
            outcome,
            body,
            asked,
            answered,
        }
    }

    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.ask(Method::POST, path, body, None).await
    }
}

fn is_well_said(problem: &Value) -> bool {
    problem["code"]
        .as_str()
        .is_some_and(|code| WELL_SAID.contains(&code))
}

/// How an operation ended, and what was said. Whatever breaks, a server that is asked rightly has
/// few things to say.
fn outcome(answer: Result<Answer, Unknown>) -> Result<(Outcome, Value), String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(unknown) if unknown.was_refused => return Ok((Outcome::Fail, Value::Null)),
        Err(_broken) => return Ok((Outcome::Info, Value::Null)),
    };
    let outcome = match answer.status {
        200 | 204 => Outcome::Ok,
        409 | 422 if is_well_said(&answer.body) => Outcome::Fail,
        503 | 504 if answer.body["outcome"] == "none" => Outcome::Fail,
        503 | 504 if answer.body["outcome"] == "unknown" => Outcome::Info,
        _ => return Err(format!("{answer:?}")),
    };
    Ok((outcome, answer.body))
}

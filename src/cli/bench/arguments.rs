//! What the command takes: the load, what it is compared with, and under which condition.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::message::MARK_BYTES;
use crate::cli::http::Server;
use crate::cli::token::Administrator;
use crate::config::{self, DatabaseUrl, Override};
use crate::domain::limits::MAX_BODY_BYTES;

pub(in crate::cli) const EXAMPLES: &str = "\
Examples:
  towpath bench
  towpath bench --scenario send --connections 128
  towpath bench --batch 10 --size 1000 --duration 10s -o json
  towpath bench --condition backlog=1M
  towpath bench --condition held-snapshot=2m --rate 2000 --database-url postgres://db/towpath
  towpath bench --against http://127.0.0.1:9324,http://127.0.0.1:9325
  towpath bench --baseline-database-url postgres://db/scratch

Every round measures a bare echo server with as many connections, then the server (A), then
whatever it is compared with. \"msgs/echo\" is messages a second over the echo's requests a second;
\"reqs/echo\" counts a send as one request and a cycle of one message as three. Ratios are taken
round by round. Queues are the bench's own and are deleted afterwards, also after Ctrl-C.

Conditions, each beside rounds without it:
  held-snapshot[=2m]  a transaction that holds a snapshot of the server's database for so long; the
                      load runs all the while, and the last --duration of it counts
  backlog=N           N messages wait in the queue
  in-flight=N         N messages of the queue are in the hands of somebody
  delayed=N           N messages of the queue are due in half a day
  idle-queues=N       N other queues exist, with a message each

The exit code is 1 when a message was lost or came twice, or when that could not be checked.";

/// Shortest round; a shorter one would measure its own beginning.
const SHORTEST_ROUND: Duration = Duration::from_millis(100);

/// Longest time for which a snapshot is held or a pause is made.
const LONGEST_HOLD: Duration = Duration::from_secs(60 * 60);

const DEFAULT_HOLD: Duration = Duration::from_secs(120);

/// Most messages that are loaded beforehand; they are numbered by 32 bits.
const MOST_MESSAGES: u32 = 100_000_000;

const MOST_QUEUES: u32 = 100_000;

#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// Sending alone, or cycles of sending, receiving and deleting
    #[arg(long, value_enum, default_value_t = Scenario::Cycle)]
    pub(super) scenario: Scenario,
    /// Senders; a cycle has as many receivers beside them
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) connections: u16,
    /// Messages in one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) batch: u16,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(MARK_BYTES as i64..=MAX_BODY_BYTES as i64))]
    pub(super) size: u32,
    /// Messages a second of all senders together [default: as many as they can]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Length of each measurement of a round
    #[arg(long, default_value = "5s", value_parser = parse_round)]
    pub(super) duration: Duration,
    /// Rounds, of which medians are taken
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(super) rounds: u8,
    /// Threads of the load client [default: half of the processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) threads: Option<u8>,
    /// Visibility timeout of the queue, in whole seconds; missing messages are waited for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=43_200))]
    pub(super) visibility_timeout: u16,
    /// Measure this server (B) too; with several, connections are split over them
    #[arg(long, value_name = "URL,URL", value_delimiter = ',')]
    pub(super) against: Vec<Server>,
    /// B's data directory, when its administrator's token is another
    #[arg(long, value_name = "DIRECTORY", requires = "against")]
    pub(super) against_data_dir: Option<PathBuf>,
    /// Measure A under this condition too; see below
    #[arg(long, value_name = "CONDITION")]
    pub(super) condition: Option<Condition>,
    /// Pause after a round under a condition that goes away with it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_hold)]
    pub(super) rest: Duration,
    #[arg(
        long,
        value_name = "URL",
        help = "A's database, to hold a snapshot in; the variable hides a password [env: DATABASE_URL]"
    )]
    pub(super) database_url: Option<String>,
    /// Measure a transaction per request too, in a schema of its own in this database
    #[arg(long, value_name = "URL")]
    pub(super) baseline_database_url: Option<String>,
    /// Connections that the baseline has to its database
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) baseline_connections: u16,
    /// Form of the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    #[command(flatten)]
    pub(super) administrator: Administrator,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scenario {
    Send,
    Cycle,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// What the server under test suffers from in every other measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    HeldSnapshot(Duration),
    Backlog(u32),
    InFlight(u32),
    Delayed(u32),
    IdleQueues(u32),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let messages = || count(value, MOST_MESSAGES);
        match name {
            "held-snapshot" => Ok(Self::HeldSnapshot(match value {
                Some(value) => parse_hold(value)?,
                None => DEFAULT_HOLD,
            })),
            "backlog" => Ok(Self::Backlog(messages()?)),
            "in-flight" => Ok(Self::InFlight(messages()?)),
            "delayed" => Ok(Self::Delayed(messages()?)),
            "idle-queues" => Ok(Self::IdleQueues(count(value, MOST_QUEUES)?)),
            _ => Err(
                "must be held-snapshot[=DURATION], backlog=N, in-flight=N, delayed=N or \
                 idle-queues=N"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldSnapshot(hold) => {
                write!(
                    formatter,
                    "held-snapshot={}",
                    humantime::format_duration(*hold)
                )
            }
            Self::Backlog(messages) => write!(formatter, "backlog={messages}"),
            Self::InFlight(messages) => write!(formatter, "in-flight={messages}"),
            Self::Delayed(messages) => write!(formatter, "delayed={messages}"),
            Self::IdleQueues(queues) => write!(formatter, "idle-queues={queues}"),
        }
    }
}

/// A whole number, `k` and `M` for thousands and millions.
fn count(value: Option<&str>, most: u32) -> Result<u32, String> {
    let value = value.ok_or("needs a number, such as 200k or 1M")?;
    let (digits, unit) = match (value.strip_suffix('k'), value.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1000),
        (_, Some(digits)) => (digits, 1_000_000),
        _ => (value, 1),
    };
    let digits: Option<u32> = digits.parse().ok();
    let number = digits.and_then(|digits| digits.checked_mul(unit));
    number
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("must be a whole number from 1 to {most}, such as 200k or 1M"))
}

fn parse_round(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration < SHORTEST_ROUND {
        return Err(format!(
            "must be at least {}",
            humantime::format_duration(SHORTEST_ROUND)
        ));
    }
    Ok(duration)
}

fn parse_hold(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration > LONGEST_HOLD {
        return Err(format!(
            "must be at most {}",
            humantime::format_duration(LONGEST_HOLD)
        ));
    }
    Ok(duration)
}

impl Arguments {
    /// The tested server's own database, where one is named.
    ///
    /// # Errors
    /// The configuration is not valid.
    pub(super) fn database(&self) -> Result<Option<DatabaseUrl>, config::Error> {
        self.database_at(self.database_url.as_ref(), "--database-url")
    }

    /// The database for the baseline.
    ///
    /// # Errors
    /// It is no URL of a database.
    pub(super) fn baseline_database(&self) -> Result<Option<DatabaseUrl>, config::Error> {
        match &self.baseline_database_url {
            Some(url) => self.database_at(Some(url), "--baseline-database-url"),
            None => Ok(None),
        }
    }

    /// Reads a URL as the configuration does, which takes its own when none is given.
    fn database_at(
        &self,
        url: Option<&String>,
        flag: &'static str,
    ) -> Result<Option<DatabaseUrl>, config::Error> {
        let url = url.map(|url| Override {
            key: "database.url".to_owned(),
            value: url.clone(),
            flag,
        });
        Ok(self.administrator.config(url)?.database.url)
    }

    /// The command as it was given, without passwords.
    pub(super) fn command_line(&self) -> String {
        let given = std::env::args().skip(1);
        let mut words = Vec::from_iter(["towpath".to_owned()].into_iter().chain(given));
        let secrets = [&self.database_url, &self.baseline_database_url];
        for url in secrets.into_iter().flatten() {
            let read = self.database_at(Some(url), "");
            let shown = read.ok().flatten().map(|url| url.masked());
            let shown = shown.unwrap_or_else(|| "***".to_owned());
            for word in &mut words {
                *word = word.replace(url.as_str(), &shown);
            }
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_shown_as_it_is_written() {
        for (text, shown) in [
            ("held-snapshot", "held-snapshot=2m"),
            ("held-snapshot=5s", "held-snapshot=5s"),
            ("backlog=10M", "backlog=10000000"),
            ("in-flight=200k", "in-flight=200000"),
            ("delayed=7", "delayed=7"),
            ("idle-queues=10k", "idle-queues=10000"),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "backlog",
            "backlog=0",
            "backlog=-1",
            "backlog=5000M",
            "idle-queues=1M",
            "held-snapshot=2h",
            "rain=1",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}

//! What is printed: a table for people, or the same as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::disk::Flush;
use super::ledger::Verdict;
use super::rate::{Count, Rate, median};
use super::{Arguments, Scenario};
use crate::cli::http::Server;

/// One round, or the medians of all.
#[derive(Debug, Serialize)]
pub(super) struct Round {
    echo_requests_per_second: f64,
    messages_per_second: f64,
    /// Messages a second over the echo's requests a second.
    messages_to_echo: f64,
    /// Requests a second over the echo's; a cycle counts as three. Not known for batched cycles,
    /// where a receive brings what there is.
    requests_to_echo: Option<f64>,
    send_p50_ms: f64,
    send_p99_ms: f64,
    echo_p50_ms: f64,
    echo_p99_ms: f64,
}

impl Round {
    pub(super) fn new(arguments: &Arguments, echo: Rate, ours: Rate) -> Self {
        let messages_to_echo = ours.messages_per_second / echo.requests_per_second;
        let requests_to_echo = match (arguments.scenario, arguments.batch) {
            (Scenario::Send, _) => Some(ours.requests_per_second / echo.requests_per_second),
            (Scenario::Cycle, 1) => Some(3.0 * messages_to_echo),
            (Scenario::Cycle, _) => None,
        };
        Self {
            echo_requests_per_second: echo.requests_per_second,
            messages_per_second: ours.messages_per_second,
            messages_to_echo,
            requests_to_echo,
            send_p50_ms: ours.p50_ms,
            send_p99_ms: ours.p99_ms,
            echo_p50_ms: echo.p50_ms,
            echo_p99_ms: echo.p99_ms,
        }
    }

    fn median(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(rounds.iter().map(field));
        let known = rounds.iter().filter_map(|round| round.requests_to_echo);
        Self {
            echo_requests_per_second: of(|round| round.echo_requests_per_second),
            messages_per_second: of(|round| round.messages_per_second),
            messages_to_echo: of(|round| round.messages_to_echo),
            requests_to_echo: Some(median(known)).filter(|median| !median.is_nan()),
            send_p50_ms: of(|round| round.send_p50_ms),
            send_p99_ms: of(|round| round.send_p99_ms),
            echo_p50_ms: of(|round| round.echo_p50_ms),
            echo_p99_ms: of(|round| round.echo_p99_ms),
        }
    }

    fn line(&self, name: &str) -> String {
        let requests_to_echo = self.requests_to_echo;
        let requests_to_echo = requests_to_echo.map_or("-".to_owned(), |it| format!("{it:.3}"));
        format!(
            "{name:>6} {:>15.0} {:>11.0} {:>15.3} {requests_to_echo:>15} {:>12.2} {:>12.2}\n",
            self.echo_requests_per_second,
            self.messages_per_second,
            self.messages_to_echo,
            self.send_p50_ms,
            self.send_p99_ms,
        )
    }
}

/// The whole result.
#[derive(Serialize)]
pub(super) struct Report {
    scenario: Scenario,
    connections: u16,
    batch: u8,
    size_bytes: u32,
    duration_seconds: f64,
    server: String,
    rounds: Vec<Round>,
    median: Round,
    fsync_p50_ms: Option<f64>,
    fsync_directory: Option<String>,
    #[serde(flatten)]
    pub(super) verdict: Verdict,
    failed_requests: u64,
    first_failure: Option<String>,
}

impl Report {
    pub(super) fn new(
        arguments: &Arguments,
        server: &Server,
        rounds: Vec<Round>,
        flush: Option<Flush>,
        verdict: Verdict,
        failed: Count,
    ) -> Self {
        let fsync = flush.map(|flush| {
            let directory = flush.directory.display().to_string();
            (flush.median.as_secs_f64() * 1e3, directory)
        });
        let (fsync_p50_ms, fsync_directory) = fsync.unzip();
        Self {
            scenario: arguments.scenario,
            connections: arguments.connections,
            batch: arguments.batch,
            size_bytes: arguments.size,
            duration_seconds: arguments.duration.as_secs_f64(),
            server: server.to_string(),
            median: Round::median(&rounds),
            rounds,
            fsync_p50_ms,
            fsync_directory,
            verdict,
            failed_requests: failed.failed,
            first_failure: failed.failure,
        }
    }

    pub(super) fn table(&self) -> String {
        let workers = match self.scenario {
            Scenario::Send => "senders",
            Scenario::Cycle => "senders and as many receivers",
        };
        let duration = Duration::from_secs_f64(self.duration_seconds);
        let mut text = format!(
            "{} {workers}, batches of {}, {} bytes, {} a round, {}\n\n",
            self.connections,
            self.batch,
            self.size_bytes,
            humantime::format_duration(duration),
            self.server
        );
        text.push_str(
            " round  echo requests/s  messages/s  messages / echo requests / echo  send p50 ms  send p99 ms\n",
        );
        for (number, round) in (1..).zip(&self.rounds) {
            let number: u32 = number;
            text.push_str(&round.line(&number.to_string()));
        }
        text.push_str(&self.median.line("median"));
        text.push('\n');
        self.notes(&mut text)
            .expect("writing to a string does not fail");
        text
    }

    fn notes(&self, text: &mut String) -> std::fmt::Result {
        if let (Some(fsync), Some(directory)) = (self.fsync_p50_ms, &self.fsync_directory) {
            writeln!(text, "fsync p50 {fsync:.2} ms in {directory}")?;
        }
        if let Some(failure) = &self.first_failure {
            writeln!(
                text,
                "{} requests failed, the first: {failure}",
                self.failed_requests
            )?;
        }
        let Verdict {
            acknowledged,
            lost,
            duplicated,
            redelivered,
            invented,
            ref not_checked,
        } = self.verdict;
        writeln!(text, "{acknowledged} messages acknowledged")?;
        if redelivered > 0 {
            writeln!(
                text,
                "{redelivered} came again after their visibility timeout"
            )?;
        }
        if invented > 0 {
            writeln!(text, "{invented} were never sent")?;
        }
        match not_checked {
            None => writeln!(text, "lost {lost}, duplicated {duplicated}"),
            Some(why) => writeln!(
                text,
                "loss not checked, duplicated {duplicated}; {lost} messages could not be received: {why}"
            ),
        }
    }
}

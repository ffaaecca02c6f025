//! What is printed: a table for people, or the same as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::arguments::{Arguments, Scenario};
use super::disk::Disk;
use super::ledger::Verdict;
use super::machine::Machine;
use super::rate::{Rate, Spread};
use super::side::Side;

/// The name of the side that the server under test is to beat; all others are held against it.
pub(super) const BASELINE: &str = "baseline";

/// One round: the echo, then every side in the order of the sides.
pub(super) struct Round {
    pub(super) echo: Rate,
    pub(super) sides: Vec<Rate>,
}

/// What one server did in one round, or a statistic of all rounds.
#[derive(Debug, Serialize)]
struct Figures<T> {
    messages_per_second: T,
    /// Messages a second over the echo's requests a second.
    messages_to_echo: T,
    /// Requests a second over the echo's; a cycle counts as three. Not known for batched cycles,
    /// where a receive brings what there is.
    requests_to_echo: Option<T>,
    send_p50_ms: T,
    send_p99_ms: T,
    client_cpu_us_per_request: T,
}

#[derive(Debug, Serialize)]
struct EchoFigures<T> {
    requests_per_second: T,
    p50_ms: T,
    p99_ms: T,
    client_cpu_us_per_request: T,
}

#[derive(Serialize)]
struct RoundReport {
    echo: EchoFigures<f64>,
    sides: Vec<Figures<f64>>,
}

#[derive(Serialize)]
struct SideReport {
    name: String,
    what: String,
    #[serde(flatten)]
    figures: Figures<Spread>,
    #[serde(flatten)]
    verdict: Verdict,
    failed_requests: u64,
    first_failure: Option<String>,
}

/// Messages a second of one side over those of another, round by round.
#[derive(Serialize)]
struct Ratio {
    name: String,
    #[serde(flatten)]
    spread: Spread,
}

#[derive(Serialize)]
struct Fsync {
    directory: String,
    p50_ms: f64,
    p99_ms: f64,
}

/// The whole result.
#[derive(Serialize)]
pub(super) struct Report {
    command: String,
    machine: Machine,
    scenario: Scenario,
    connections: u16,
    batch: u16,
    size_bytes: u32,
    rate: Option<u32>,
    duration_seconds: f64,
    fsync: Option<Fsync>,
    echo: EchoFigures<Spread>,
    sides: Vec<SideReport>,
    ratios: Vec<Ratio>,
    rounds: Vec<RoundReport>,
    /// Of all sides together.
    #[serde(flatten)]
    pub(super) verdict: Verdict,
}

impl Report {
    pub(super) fn new(
        arguments: &Arguments,
        sides: Vec<Side>,
        rounds: Vec<Round>,
        disk: Option<Disk>,
    ) -> Self {
        let mut verdict = Verdict::default();
        for side in &sides {
            verdict.add(&side.verdict);
        }
        let rounds: Vec<_> = rounds
            .into_iter()
            .map(|Round { echo, sides }| RoundReport {
                sides: sides
                    .iter()
                    .map(|side| figures(arguments, echo, *side))
                    .collect(),
                echo: EchoFigures {
                    requests_per_second: echo.requests_per_second,
                    p50_ms: echo.p50_ms,
                    p99_ms: echo.p99_ms,
                    client_cpu_us_per_request: echo.client_cpu_us,
                },
            })
            .collect();
        let ratios = ratios(&sides, &rounds);
        let sides = sides
            .into_iter()
            .enumerate()
            .map(|(number, side)| SideReport {
                name: side.name,
                what: side.what,
                figures: spread(rounds.iter().filter_map(|round| round.sides.get(number))),
                verdict: side.verdict,
                failed_requests: side.failed.failed,
                first_failure: side.failed.failure,
            });
        Self {
            command: arguments.command_line(),
            machine: Machine::this(),
            scenario: arguments.scenario,
            connections: arguments.connections,
            batch: arguments.batch,
            size_bytes: arguments.size,
            rate: arguments.rate,
            duration_seconds: arguments.duration.as_secs_f64(),
            fsync: disk.map(|mut disk| Fsync {
                p50_ms: disk.percentile(50).as_secs_f64() * 1e3,
                p99_ms: disk.percentile(99).as_secs_f64() * 1e3,
                directory: disk.directory.display().to_string(),
            }),
            echo: {
                let of = |figure: fn(&EchoFigures<f64>) -> f64| {
                    Spread::of(rounds.iter().map(|round| figure(&round.echo)))
                };
                EchoFigures {
                    requests_per_second: of(|echo| echo.requests_per_second),
                    p50_ms: of(|echo| echo.p50_ms),
                    p99_ms: of(|echo| echo.p99_ms),
                    client_cpu_us_per_request: of(|echo| echo.client_cpu_us_per_request),
                }
            },
            sides: sides.collect(),
            ratios,
            rounds,
            verdict,
        }
    }

    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        self.write(&mut text)
            .expect("writing to a string does not fail");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}\n", self.command)?;
        for side in &self.sides {
            writeln!(text, "{}: {}", side.name, side.what)?;
        }
        let header = format!(
            "{:>6} {:>9} {:>11} {:>9} {:>9} {:>11} {:>11} {:>11}",
            "",
            "echo/s",
            "messages/s",
            "msgs/echo",
            "reqs/echo",
            "send p50 ms",
            "send p99 ms",
            "client µs"
        );
        for (number, side) in self.sides.iter().enumerate() {
            writeln!(text, "\n{}\n{header}", side.name)?;
            for (round, of) in (1..).zip(&self.rounds) {
                let round: u32 = round;
                if let Some(figures) = of.sides.get(number) {
                    let echo = of.echo.requests_per_second;
                    line(text, &round.to_string(), echo, figures, |value| *value)?;
                }
            }
            let echo = &self.echo.requests_per_second;
            let figures = &side.figures;
            line(text, "median", echo.median, figures, |spread| spread.median)?;
            line(text, "min", echo.min, figures, |spread| spread.min)?;
            line(text, "max", echo.max, figures, |spread| spread.max)?;
        }
        writeln!(text)?;
        for Ratio { name, spread } in &self.ratios {
            let Spread { median, min, max } = spread;
            writeln!(text, "{name}: {median:.3} ({min:.3} to {max:.3})")?;
        }
        self.write_notes(text)
    }

    fn write_notes(&self, text: &mut String) -> std::fmt::Result {
        let EchoFigures {
            p50_ms,
            p99_ms,
            client_cpu_us_per_request,
            ..
        } = &self.echo;
        writeln!(
            text,
            "echo p50 {:.2} ms, p99 {:.2} ms, client {:.1} µs a request",
            p50_ms.median, p99_ms.median, client_cpu_us_per_request.median
        )?;
        if let Some(fsync) = &self.fsync {
            let Fsync {
                directory,
                p50_ms,
                p99_ms,
            } = fsync;
            writeln!(
                text,
                "fsync p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms in {directory}"
            )?;
        }
        let Machine {
            processors,
            processor,
            memory_bytes,
        } = &self.machine;
        let processor = processor.as_deref().unwrap_or("unknown processor");
        write!(text, "{processors} x {processor}")?;
        if let Some(memory) = memory_bytes {
            write!(text, ", {} MiB", memory >> 20)?;
        }
        writeln!(text)?;
        for side in &self.sides {
            side.write_verdict(text)?;
        }
        let Verdict {
            lost, duplicated, ..
        } = self.verdict;
        match &self.verdict.not_checked {
            None => writeln!(text, "lost {lost}, duplicated {duplicated}"),
            Some(why) => writeln!(
                text,
                "loss not checked, duplicated {duplicated}; {lost} messages could not be received: {why}"
            ),
        }
    }
}

impl SideReport {
    fn write_verdict(&self, text: &mut String) -> std::fmt::Result {
        let name = &self.name;
        if let Some(failure) = &self.first_failure {
            let failed = self.failed_requests;
            writeln!(
                text,
                "{name}: {failed} requests failed, the first: {failure}"
            )?;
        }
        let Verdict {
            acknowledged,
            lost,
            duplicated,
            redelivered,
            invented,
            not_checked: _,
        } = self.verdict;
        write!(text, "{name}: {acknowledged} messages acknowledged")?;
        for (number, what) in [
            (lost, "not received"),
            (duplicated, "came twice"),
            (redelivered, "came again after their visibility timeout"),
            (invented, "were never sent"),
        ] {
            if number > 0 {
                write!(text, ", {number} {what}")?;
            }
        }
        writeln!(text)
    }
}

fn line<T>(
    text: &mut String,
    name: &str,
    echo: f64,
    figures: &Figures<T>,
    of: impl Fn(&T) -> f64,
) -> std::fmt::Result {
    let requests_to_echo = figures.requests_to_echo.as_ref();
    let requests_to_echo = requests_to_echo.map_or("-".to_owned(), |it| format!("{:.3}", of(it)));
    writeln!(
        text,
        "{name:>6} {echo:>9.0} {:>11.0} {:>9.3} {requests_to_echo:>9} {:>11.2} {:>11.2} {:>11.1}",
        of(&figures.messages_per_second),
        of(&figures.messages_to_echo),
        of(&figures.send_p50_ms),
        of(&figures.send_p99_ms),
        of(&figures.client_cpu_us_per_request),
    )
}

fn figures(arguments: &Arguments, echo: Rate, side: Rate) -> Figures<f64> {
    let messages_to_echo = side.messages_per_second / echo.requests_per_second;
    let requests_to_echo = match (arguments.scenario, arguments.batch) {
        (Scenario::Send, _) => Some(side.requests_per_second / echo.requests_per_second),
        (Scenario::Cycle, 1) => Some(3.0 * messages_to_echo),
        (Scenario::Cycle, _) => None,
    };
    Figures {
        messages_per_second: side.messages_per_second,
        messages_to_echo,
        requests_to_echo,
        send_p50_ms: side.p50_ms,
        send_p99_ms: side.p99_ms,
        client_cpu_us_per_request: side.client_cpu_us,
    }
}

fn spread<'a>(rounds: impl Iterator<Item = &'a Figures<f64>>) -> Figures<Spread> {
    let rounds = Vec::from_iter(rounds);
    let of =
        |figure: fn(&Figures<f64>) -> f64| Spread::of(rounds.iter().map(|figures| figure(figures)));
    let requests = rounds.iter().filter_map(|figures| figures.requests_to_echo);
    let requests = Vec::from_iter(requests);
    Figures {
        messages_per_second: of(|figures| figures.messages_per_second),
        messages_to_echo: of(|figures| figures.messages_to_echo),
        requests_to_echo: (!requests.is_empty()).then(|| Spread::of(requests)),
        send_p50_ms: of(|figures| figures.send_p50_ms),
        send_p99_ms: of(|figures| figures.send_p99_ms),
        client_cpu_us_per_request: of(|figures| figures.client_cpu_us_per_request),
    }
}

/// Every side over the first one; of the baseline, the first one over it.
fn ratios(sides: &[Side], rounds: &[RoundReport]) -> Vec<Ratio> {
    let Some((first, others)) = sides.split_first() else {
        return Vec::new();
    };
    let ratio = |(number, side): (usize, &Side)| {
        let (ours, theirs) = (&first.name, &side.name);
        let is_baseline = theirs == BASELINE;
        let of_round = |round: &RoundReport| {
            let rate = |number: usize| Some(round.sides.get(number)?.messages_per_second);
            let (ours, theirs) = (rate(0)?, rate(number)?);
            Some(if is_baseline {
                ours / theirs
            } else {
                theirs / ours
            })
        };
        Ratio {
            name: if is_baseline {
                format!("{ours} / {theirs}")
            } else {
                format!("{theirs} / {ours}")
            },
            spread: Spread::of(rounds.iter().filter_map(of_round)),
        }
    };
    (1..).zip(others).map(ratio).collect()
}

//! `towpath bench` against a server in memory: it measures, and it notices loss and repetition.

use std::future::ready;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::fake::{ADMIN_TOKEN, Fake, Fault};
use super::{assert_exit, stderr, stdout, towpath};
use crate::support::eventually;

pub(super) fn bench(fake: &Fake, arguments: &[&str]) -> Output {
    let short =
        "bench --connections 4 --duration 150ms --rounds 2 --visibility-timeout 1 --rest 0s";
    let mut all = Vec::from_iter(short.split(' '));
    all.extend(arguments);
    let variables = [
        ("TOWPATH_URL", &*fake.url()),
        ("TOWPATH_TOKEN", ADMIN_TOKEN),
    ];
    towpath(&all, &variables)
}

/// A run that goes on while a test looks.
pub(super) fn running(fake: &Fake, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_towpath"))
        .arg("bench")
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .env("TOWPATH_URL", fake.url())
        .env("TOWPATH_TOKEN", ADMIN_TOKEN)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(super) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_faithful_server_loses_and_repeats_nothing_in_any_scenario() {
    for scenario in ["send", "cycle"] {
        for batch in ["1", "10"] {
            let fake = Fake::start(Fault::None);
            let output = bench(
                &fake,
                &["--scenario", scenario, "--batch", batch, "-o", "json"],
            );
            assert_exit(&output, 0);
            let report = json(&output);
            assert_eq!(report["rounds"].as_array().unwrap().len(), 2);
            assert!(report["acknowledged"].as_u64().unwrap() > 0);
            assert_eq!(
                (&report["lost"], &report["duplicated"]),
                (&0.into(), &0.into())
            );
            let side = &report["sides"][0];
            assert_eq!(side["failed_requests"], 0);
            for (of, figure) in [
                (&report["echo"], "requests_per_second"),
                (side, "messages_to_echo"),
                (side, "send_p99_ms"),
                (side, "client_cpu_us_per_request"),
            ] {
                let values = ["min", "median", "max"].map(|it| of[figure][it].as_f64().unwrap());
                assert!(
                    values[0] > 0.0 && values.is_sorted(),
                    "{figure} in {report}"
                );
            }
            let requests = fake.requests();
            let changes: Vec<_> = requests.iter().map(|(what, _)| what.as_str()).collect();
            assert_eq!(changes, ["PUT queue", "DELETE queue"]);
        }
    }
}

#[test]
fn the_table_ends_with_what_was_lost_and_duplicated() {
    let fake = Fake::start(Fault::None);
    let output = bench(&fake, &[]);
    assert_exit(&output, 0);
    assert!(
        stdout(&output).ends_with("\nlost 0, duplicated 0\n"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).contains("\nmedian "));
    assert_eq!(stderr(&output), "");
    let command = "towpath bench --connections 4 --duration 150ms --rounds 2";
    assert!(stdout(&output).starts_with(command));
}

#[test]
fn a_lost_message_is_reported_and_fails_the_run() {
    let fake = Fake::start(Fault::LosesOne);
    let output = bench(&fake, &[]);
    assert_exit(&output, 1);
    assert!(
        stdout(&output).ends_with("\nlost 1, duplicated 0\n"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn nothing_is_called_lost_where_nothing_could_be_received() {
    let fake = Fake::start(Fault::RefusesReceives);
    let output = bench(&fake, &["--scenario", "send"]);
    assert_exit(&output, 1);
    let expected = "whether messages were lost is not checked: receives failed: \
                    the server answered 403 Forbidden: no right to receive";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(stdout(&output).contains("\nloss not checked, duplicated 0; "));
}

#[test]
fn an_interrupted_run_deletes_its_queue() {
    let fake = Fake::start(Fault::None);
    let long = "--connections 1 --duration 200ms --rounds 50";
    let mut run = running(&fake, &Vec::from_iter(long.split(' ')));
    let sent = eventually("a message is sent", || {
        assert_eq!(run.try_wait().unwrap(), None, "it ended");
        ready((fake.sent() > 0).then_some(()))
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(sent);
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let requests = fake.requests();
    let changes: Vec<_> = requests.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(changes, ["PUT queue", "DELETE queue"]);
}

#[test]
fn a_batch_is_no_larger_than_the_server_takes() {
    let fake = Fake::start(Fault::None);
    let output = bench(&fake, &["--batch", "51"]);
    assert_exit(&output, 1);
    let expected = "error: the server takes at most 50 messages in one request\n";
    assert_eq!(stderr(&output), expected);
    assert_exit(&bench(&fake, &["--batch", "50"]), 0);
}

#[test]
fn a_steady_rate_is_not_exceeded() {
    let fake = Fake::start(Fault::None);
    let output = bench(&fake, &["--scenario", "send", "--rate", "100"]);
    assert_exit(&output, 0);
    // Two rounds of 150 ms, and what four senders may begin at the very end of each.
    assert!((1..=2 * (15 + 4)).contains(&fake.sent()), "{}", fake.sent());
}

#[test]
fn batches_of_large_messages_are_measured_too() {
    let fake = Fake::start(Fault::None);
    let output = bench(&fake, &["--batch", "10", "--size", "250000"]);
    assert_exit(&output, 0);
}

#[test]
fn a_repeated_message_is_reported_and_fails_the_run() {
    let fake = Fake::start(Fault::DeliversOneTwice);
    let output = bench(&fake, &["--scenario", "cycle", "--batch", "10"]);
    assert_exit(&output, 1);
    assert!(
        stdout(&output).ends_with("\nlost 0, duplicated 1\n"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_refused_send_is_counted_and_its_message_is_not_missed() {
    let fake = Fake::start(Fault::RefusesOneSend);
    let output = bench(&fake, &["-o", "json"]);
    assert_exit(&output, 0);
    let side = &json(&output)["sides"][0];
    assert_eq!(side["failed_requests"], 1);
    let failure = side["first_failure"].as_str().unwrap();
    assert_eq!(failure, "the server answered 503 Service Unavailable: busy");
}

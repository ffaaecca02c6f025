//! Every example of every help, as pasted into a shell, against a whole node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use sqlx::ConnectOptions as _;

use super::served::{Served, end};
use super::{commands, help, stderr, stdout};
use crate::support::eventually;
use crate::support::server::Cluster;

/// Where the examples' server listens.
const THERE: &str = "http://127.0.0.1:9324";

/// What is not run here, and why not.
const ELSEWHERE: &[(&str, &str)] = &[
    ("towpath serve", "takes the port 9324; `serve` tests it"),
    ("DATABASE_URL=", "is for somebody else's database"),
    ("postgres://", "is for somebody else's database"),
    ("towpath bench", "takes minutes; `bench` tests it"),
];

/// What goes on until it is told to end.
const ENDLESS: &[&str] = &["--follow", "towpath tail", "towpath top"];

/// What the examples speak of: queues as somebody has them who has just begun, and some files.
async fn prepare(served: &Served) {
    let home = served.home.path();
    let queues = "queues:
- name: dead
- name: scratch
- name: orders
  dead_letter_queue: dead
  max_receive_count: 1
";
    let message = "{\"body\": \"hello\", \"attributes\": {\"color\": {\"value\": \"red\"}}}\n";
    for (file, text) in [
        ("queues.yaml", queues),
        ("messages.jsonl", message),
        ("letter.txt", "hello"),
        ("handle-order", "#!/bin/sh\ncat > /dev/null\n"),
        ("shop.token", &served.token),
    ] {
        fs::write(home.join(file), text).unwrap();
    }
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(home.join("handle-order"), executable).unwrap();
    let names = served.text(&["queue", "ls", "-o", "name"]).await;
    if let names @ [_, ..] = &names.lines().collect::<Vec<_>>()[..] {
        let remove = ["queue", "rm", "--yes", "--force"];
        served.text(&[&remove[..], names].concat()).await;
    }
    served.text(&["apply", "-f", "queues.yaml"]).await;
    served.text(&["send", "orders", "to die"]).await;
    served
        .text(&["work", "orders", "--exit-on-empty", "--", "false"])
        .await;
    eventually("the letter is dead", async || {
        let stats = served.json(&["queue", "stats", "dead"]).await;
        (stats[0]["visible"] == 1).then_some(())
    })
    .await;
    served
        .text(&["send", "orders", "--jsonl", "--file", "messages.jsonl"])
        .await;
    for name in ["local", "shop"] {
        served
            .text(&["context", "add", name, "--url", &served.url])
            .await;
    }
}

/// The examples of a command: what stands below `Example`, up to an empty line, without what is said
/// about them.
fn examples(help: &str) -> Vec<String> {
    let below = help.split("\nExample").nth(1).unwrap_or_default();
    let lines = below.lines().skip(1).take_while(|line| !line.is_empty());
    let commands = lines.filter_map(|line| line.strip_prefix("  "));
    commands
        .map(|line| line.split("   ").next().unwrap_or(line).to_owned())
        .collect()
}

async fn run(served: &Served, example: &str, database: &str) -> Output {
    let example = example.replace(THERE, &served.url);
    let is_endless = ENDLESS.iter().any(|word| example.contains(word))
        || (example.contains("towpath work") && !example.contains("--exit-on-empty"));
    let mut command = if is_endless && !example.contains("--once") {
        let mut command = served.program("timeout");
        command.args(["--preserve-status", "-s", "INT", "2", "sh", "-c"]);
        command.arg(format!("exec {example}"));
        command
    } else {
        let mut command = served.program("sh");
        command.args(["-c", &example]);
        command
    };
    end(command.env("DATABASE_URL", database).spawn().unwrap()).await
}

#[tokio::test]
async fn every_example_of_every_help_works_as_pasted() {
    let cluster = Cluster::start(1, &[]).await;
    let served = Served::of(&cluster);
    let database = cluster.database().options.to_url_lossy().to_string();
    let mut wrong = Vec::new();
    let mut count = 0;
    for command in commands() {
        let examples = examples(&help(&command));
        assert!(!examples.is_empty(), "{command} has examples");
        prepare(&served).await;
        for example in examples {
            if ELSEWHERE
                .iter()
                .any(|(words, _why)| example.contains(words))
            {
                continue;
            }
            count += 1;
            let output = run(&served, &example, &database).await;
            if !output.status.success() {
                let (out, err) = (stdout(&output), stderr(&output));
                wrong.push(format!("{example}\n  {}: {out}{err}", output.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 50, "{count} examples were found");
}

#[test]
fn every_command_stands_in_the_document_with_an_example_from_its_help() {
    let document = include_str!("../../../docs/cli.md");
    let rows: Vec<_> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `towpath ")?.split_once('`'))
        .collect();
    for command in commands() {
        let help = help(&command);
        if command.is_empty() || help.contains("\nCommands:\n") {
            continue;
        }
        let row = rows.iter().find(|(name, _)| *name == command);
        let (_, row) = row.unwrap_or_else(|| panic!("docs/cli.md has no row for {command}"));
        let example = row
            .rsplit('`')
            .nth(1)
            .unwrap_or_default()
            .replace("\\|", "|");
        let known = examples(&help);
        assert!(
            known.contains(&example),
            "{command}: {example:?} is none of {known:?}"
        );
    }
}

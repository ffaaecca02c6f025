//! The table of metrics is a contract: this writes it down, and holds what operators are given to it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use towpath::metrics::{FAMILIES, Kind, Place};

use crate::support::compare_with_file;

const ALERTS: &str = include_str!("../../../docker/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../../docker/grafana/towpath.json");

const FRAME: &str = "# Metrics

`GET /metrics` and `GET /metrics/queues` answer in Prometheus' text format, to a token with the right
`read_metadata`, or to every address that may call where `metrics.public = true`. A node that is full
still answers them.

`/metrics` is about the node, all queues added up. `/metrics/queues` has the same counters and gauges for
each queue, with the label `queue`, for up to `metrics.max_queues` queues; `towpath_queues_omitted` says how many
more there are. Series of a queue end when it is deleted, and an hour after the last thing happened in it. Scrape
one of the two, or both: a sum over both counts twice, unless it asks for `{queue=\"\"}` (the node's) or
`{queue!=\"\"}` (the queues').

Counters and histograms are each node's own: add nodes up. What queues hold and how the database is are looked at
by one node for all, every `metrics.interval`, never by a scrape: the others do not export them. While another
node takes over, two may: use `max by (queue, state)` over the nodes.

[`../docker/prometheus/alerts.yml`](../docker/prometheus/alerts.yml) has alerts,
[`../docker/grafana/towpath.json`](../docker/grafana/towpath.json) is a dashboard.

Dead letters are what their own queue holds. There is no count of messages that expired, and no time from a receive
to its delete: neither is known where it could be counted for little.

The table is generated; `UPDATE_DOCS=1 cargo test the_table_of_metrics_is_current` writes it.

";

fn place(place: Place) -> &'static str {
    match place {
        Place::Node => "`/metrics`",
        Place::Elected => "`/metrics`, elected node",
        Place::Queues => "both",
        Place::ElectedQueues => "both, elected node",
        Place::Both => "both, without `queue`",
    }
}

#[test]
fn the_table_of_metrics_is_current() {
    let mut table = FRAME.to_owned();
    table.push_str("| metric | type | labels | where | what |\n|---|---|---|---|---|\n");
    for family in FAMILIES {
        let labels: Vec<_> = family.labels.iter().map(|it| format!("`{it}`")).collect();
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} |",
            family.name,
            family.kind.name(),
            labels.join(", "),
            place(family.place),
            family.help
        )
        .unwrap();
    }
    compare_with_file("docs/metrics.md", &table);
}

/// Runs Prometheus' own check of what it is given, which must find nothing.
#[track_caller]
pub(super) fn promtool(arguments: &[&str], input: &str) {
    let mut process = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is not installed: apt-get install prometheus");
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{input}");
}

fn check_rules(rules: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

/// Names that may stand in an expression: those of the table, and of a histogram its three.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for family in FAMILIES {
        if let Kind::Histogram(_) = family.kind {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", family.name)));
        } else {
            names.insert(family.name.to_owned());
        }
    }
    names
}

/// What looks like a metric in an expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = expression.split(|c| !is_of_name(c));
    words
        .filter(|word| word.starts_with("towpath_") || word.starts_with("http_server_"))
        .map(str::to_owned)
        .collect()
}

/// Every expression of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => expressions(other, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

fn dashboard() -> Vec<String> {
    let mut found = vec![];
    expressions(&serde_json::from_str(DASHBOARD).unwrap(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    found
}

#[test]
fn alerts_and_the_dashboard_ask_only_for_what_is_exported() {
    let names = names();
    // The alerts are read as text: what is said to people names metrics as well.
    for expression in dashboard().into_iter().chain([ALERTS.to_owned()]) {
        let asked = metrics_in(&expression);
        assert!(!asked.is_empty(), "{expression}");
        let unknown: Vec<_> = asked.difference(&names).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    let unknown = metrics_in("rate(towpath_messages_flown_total[5m]) > up");
    assert_eq!(unknown.difference(&names).count(), 1);
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown: BTreeSet<_> = dashboard().iter().flat_map(|it| metrics_in(it)).collect();
    for family in FAMILIES {
        let is_shown = shown.iter().any(|name| name.starts_with(family.name));
        assert!(is_shown, "{}", family.name);
    }
}

#[test]
fn prometheus_takes_the_alerts_and_the_expressions_of_the_dashboard() {
    check_rules(ALERTS);
    let rules: Vec<_> = dashboard()
        .into_iter()
        .enumerate()
        .map(|(number, expression)| {
            let expression = expression.replace("$__rate_interval", "5m");
            json!({"record": format!("dashboard:{number}"), "expr": expression})
        })
        .collect();
    // JSON is YAML.
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    check_rules(&rules.to_string());
}

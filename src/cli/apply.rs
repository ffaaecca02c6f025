//! `towpath apply` and `export`: queues as a file says they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::access::Access;
use super::block_on;
use super::client::{Ask, Client, queue_name, queue_path};
use super::output::print;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath apply -f queues.yaml --dry-run
  towpath apply -f queues.yaml
  towpath export | towpath apply -f -

The file lists queues with their settings, as PUT /v1/queues/{queue} takes them:
  queues:
    - name: dead
      retention_seconds: 1209600
    - name: orders
      visibility_timeout_seconds: 60
      dead_letter_queue: dead
      max_receive_count: 5

Each of them is created, or gets exactly these settings: what is left out gets its default.
Queues that the file does not name stay as they are. JSON is YAML, too.";

pub(super) const EXPORT_EXAMPLES: &str = "\
Examples:
  towpath export > queues.yaml
  towpath export --prefix shop- --format json > queues.json

What has its default is left out, as are messages: those are for `towpath dump`.";

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

#[derive(Args)]
pub(super) struct Arguments {
    /// The file; - is the standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change; the exit code is 0 all the same
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub(super) struct ExportArguments {
    /// Only queues whose names begin so
    #[arg(long)]
    prefix: Option<String>,
    /// yaml or json
    #[arg(long, value_enum, default_value = "yaml", hide_possible_values = true)]
    format: Notation,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, ValueEnum)]
enum Notation {
    Yaml,
    Json,
}

/// What a file says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definitions {
    queues: Vec<Definition>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Definition {
    name: String,
    #[serde(flatten)]
    settings: Map<String, Value>,
}

/// The settings that the server knows, each with its default, if it has one.
struct Known(BTreeMap<String, Option<Value>>);

impl Known {
    /// Asks the server, which may be newer or older than this program.
    async fn ask(client: &mut Client) -> anyhow::Result<Self> {
        let document = client.json(&Ask::get("/v1/openapi.json")).await?;
        let properties = &document["components"]["schemas"]["PutQueue"]["properties"];
        let properties = properties
            .as_object()
            .context("the server's OpenAPI document does not say what a queue has")?;
        let known = properties.iter().map(|(name, schema)| {
            let default = schema.get("x-default").cloned();
            (name.clone(), default)
        });
        Ok(Self(known.collect()))
    }

    /// The settings of a queue that are not left to their defaults.
    fn settings(&self, queue: &Value) -> Map<String, Value> {
        let members = queue.as_object().into_iter().flatten();
        let is_set = |name: &str, value: &Value| match self.0.get(name) {
            Some(default) => !is_default(value, default.as_ref()),
            None => false,
        };
        members
            .filter(|(name, value)| is_set(name, value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// Whether a value means the same as leaving it out.
fn is_default(value: &Value, default: Option<&Value>) -> bool {
    match default {
        Some(default) => value == default,
        None => {
            value.is_null()
                || *value == Value::Bool(false)
                || value.as_object().is_some_and(Map::is_empty)
        }
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let definitions = read(&arguments.file)?;
    let order = in_order(&definitions.queues)?;
    let mut client = arguments.access.client()?;
    block_on(async {
        let known = Known::ask(&mut client).await?;
        let mut unchanged = 0;
        for definition in &order {
            let name = &definition.name;
            let queue = client.queue(name).await?;
            let Some(change) = change(definition, queue.as_ref(), &known) else {
                unchanged += 1;
                continue;
            };
            if !arguments.dry_run {
                let settings = Value::Object(definition.settings.clone());
                let ask = Ask::new(Method::PUT, queue_path(name)).body(&settings);
                let put = client.json(&ask).await;
                put.with_context(|| format!("the queue {name} was not changed"))?;
            }
            print(out, &change)?;
        }
        let changed = order.len() - unchanged;
        let verb = if arguments.dry_run {
            "would change"
        } else {
            "changed"
        };
        print(
            out,
            &format!("{changed} {verb}, {unchanged} as they should be\n"),
        )
    })
}

fn read(path: &Path) -> anyhow::Result<Definitions> {
    let mut text = String::new();
    let unreadable = || format!("cannot read {}", path.display());
    if path == Path::new("-") {
        let input = std::io::stdin().lock().take(MAX_FILE + 1);
        std::io::BufReader::new(input).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).with_context(unreadable)?;
        file.take(MAX_FILE + 1).read_to_string(&mut text)
    }
    .with_context(unreadable)?;
    ensure!(
        text.len() as u64 <= MAX_FILE,
        "{} is longer than {MAX_FILE} bytes",
        path.display()
    );
    let definitions: Definitions = yaml_serde::from_str(&text)
        .with_context(|| format!("{} does not list queues", path.display()))?;
    for definition in &definitions.queues {
        queue_name(&definition.name)
            .map_err(|rule| anyhow::anyhow!("{:?} is no queue: {rule}", definition.name))?;
    }
    Ok(definitions)
}

/// Dead-letter queues before those that name them, which the server wants.
fn in_order(definitions: &[Definition]) -> anyhow::Result<Vec<Definition>> {
    let names: BTreeSet<&str> = definitions
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    ensure!(names.len() == definitions.len(), "a queue is listed twice");
    let mut order: Vec<Definition> = Vec::new();
    let mut done = BTreeSet::new();
    while order.len() < definitions.len() {
        let before = order.len();
        for definition in definitions {
            let target = definition.settings.get("dead_letter_queue");
            let target = target
                .and_then(Value::as_str)
                .filter(|name| names.contains(name));
            let is_ready = target.is_none_or(|target| done.contains(target));
            if is_ready && done.insert(definition.name.as_str()) {
                order.push(definition.clone());
            }
        }
        ensure!(
            order.len() > before,
            "dead-letter queues go round in a circle"
        );
    }
    Ok(order)
}

/// What would change, as lines for people; `None` when nothing would.
fn change(definition: &Definition, queue: Option<&Value>, known: &Known) -> Option<String> {
    let name = &definition.name;
    let wanted = &definition.settings;
    let mut lines = String::new();
    let Some(queue) = queue else {
        lines.push_str(&format!("+ {name}\n"));
        for (setting, value) in wanted {
            lines.push_str(&format!("    {setting}: {value}\n"));
        }
        return Some(lines);
    };
    let found = known.settings(queue);
    let members: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for setting in members {
        let default = known.0.get(setting).and_then(Option::as_ref);
        let shown = |value: Option<&Value>| {
            let value = value.or(default);
            value.map_or_else(|| "(none)".to_owned(), ToString::to_string)
        };
        let is = queue.get(setting);
        let (was, becomes) = (shown(is), shown(wanted.get(setting)));
        let stays_default = wanted
            .get(setting)
            .is_some_and(|value| is_default(value, default))
            && is.is_none_or(|value| is_default(value, default));
        if was != becomes && !stays_default {
            lines.push_str(&format!("    {setting}: {was} -> {becomes}\n"));
        }
    }
    (!lines.is_empty()).then(|| format!("~ {name}\n{lines}"))
}

pub(super) fn export(arguments: &ExportArguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut client = arguments.access.client()?;
    let definitions = block_on(async {
        let known = Known::ask(&mut client).await?;
        let queues = client.queues(arguments.prefix.as_deref()).await?;
        let queues = queues.iter().map(|queue| Definition {
            name: queue["name"].as_str().unwrap_or_default().to_owned(),
            settings: known.settings(queue),
        });
        Ok(Definitions {
            queues: queues.collect(),
        })
    })?;
    let text = match arguments.format {
        Notation::Yaml => yaml_serde::to_string(&definitions)?,
        Notation::Json => format!("{}\n", serde_json::to_string_pretty(&definitions)?),
    };
    print(out, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definitions(yaml: &str) -> Vec<Definition> {
        let definitions: Definitions = yaml_serde::from_str(yaml).unwrap();
        definitions.queues
    }

    fn names(definitions: &[Definition]) -> Vec<&str> {
        definitions
            .iter()
            .map(|queue| queue.name.as_str())
            .collect()
    }

    #[test]
    fn dead_letter_queues_come_first() {
        let given = definitions(
            "queues:
              - {name: a, dead_letter_queue: b, max_receive_count: 1}
              - {name: b, dead_letter_queue: c, max_receive_count: 1}
              - {name: c, dead_letter_queue: elsewhere, max_receive_count: 1}
              - {name: d}",
        );
        assert_eq!(names(&in_order(&given).unwrap()), ["c", "d", "b", "a"]);
    }

    #[test]
    fn what_cannot_be_put_in_order_is_refused() {
        let circle = "queues: [{name: a, dead_letter_queue: b}, {name: b, dead_letter_queue: a}]";
        assert!(in_order(&definitions(circle)).is_err());
        let twice = "queues: [{name: a}, {name: a}]";
        assert!(in_order(&definitions(twice)).is_err());
    }
}

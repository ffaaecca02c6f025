//! A queue's settings as flags.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::cli::Usage;
use crate::cli::client::queue_name;
use crate::cli::output::seconds;

/// The longest delay of an exponential policy that does not say: 15 minutes.
const MAX_BACKOFF_SECONDS: u64 = 15 * 60;

/// A queue's settings. What is left out is left to the server.
#[derive(Args)]
pub(super) struct Settings {
    /// How long a received message stays hidden from others
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    visibility_timeout: Option<u64>,
    /// How long a receive waits when it does not say
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    receive_wait: Option<u64>,
    /// How long a message stays hidden after it was sent when it does not say
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    delay: Option<u64>,
    /// How long messages live
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    retention: Option<u64>,
    /// Where messages go that were received too often
    #[arg(long, value_name = "QUEUE", value_parser = queue_name)]
    dead_letter_queue: Option<String>,
    /// How often is too often
    #[arg(long, value_name = "N")]
    max_receive_count: Option<u32>,
    /// What is on disk before it is answered: strict, relaxed or async
    #[arg(long, value_enum, hide_possible_values = true)]
    durability: Option<Durability>,
    /// For how long a repeated send is recognised
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    deduplication_window: Option<u64>,
    /// When a message that was given up comes back: fixed:30s, ladder:1s,10s,1m, or
    /// exponential:1s[,factor=2][,max=5m][,jitter=0.2]
    #[arg(long, value_name = "POLICY", value_parser = retry_policy)]
    retry_policy: Option<Value>,
    /// A tag; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    tag: Vec<(String, String)>,
}

/// Changes of a queue's settings.
#[derive(Args)]
pub(super) struct Changes {
    #[command(flatten)]
    settings: Settings,
    /// Put a setting back to its default, or remove it; may be repeated
    #[arg(long, value_name = "SETTING", value_enum, hide_possible_values = true)]
    unset: Vec<Setting>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Durability {
    Strict,
    Relaxed,
    Async,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Setting {
    VisibilityTimeout,
    ReceiveWait,
    Delay,
    Retention,
    DeadLetterQueue,
    Durability,
    DeduplicationWindow,
    RetryPolicy,
    Tags,
}

impl Setting {
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::VisibilityTimeout => &["visibility_timeout_seconds"],
            Self::ReceiveWait => &["receive_wait_seconds"],
            Self::Delay => &["delay_seconds"],
            Self::Retention => &["retention_seconds"],
            Self::DeadLetterQueue => &["dead_letter_queue", "max_receive_count"],
            Self::Durability => &["durability"],
            Self::DeduplicationWindow => &["deduplication_window_seconds"],
            Self::RetryPolicy => &["retry_policy"],
            Self::Tags => &["tags"],
        }
    }
}

impl Settings {
    /// What the server is told.
    pub(super) fn document(&self) -> Value {
        let durability = self.durability.map(|durability| match durability {
            Durability::Strict => "strict",
            Durability::Relaxed => "relaxed",
            Durability::Async => "async",
        });
        let tags: Map<String, Value> = self
            .tag
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect();
        let tags = (!tags.is_empty()).then(|| Value::Object(tags));
        let mut document = json!({});
        for (member, value) in [
            (
                "visibility_timeout_seconds",
                self.visibility_timeout.map(Value::from),
            ),
            ("receive_wait_seconds", self.receive_wait.map(Value::from)),
            ("delay_seconds", self.delay.map(Value::from)),
            ("retention_seconds", self.retention.map(Value::from)),
            (
                "dead_letter_queue",
                self.dead_letter_queue.clone().map(Value::from),
            ),
            ("max_receive_count", self.max_receive_count.map(Value::from)),
            ("durability", durability.map(Value::from)),
            (
                "deduplication_window_seconds",
                self.deduplication_window.map(Value::from),
            ),
            ("retry_policy", self.retry_policy.clone()),
            ("tags", tags),
        ] {
            if let Some(value) = value {
                document[member] = value;
            }
        }
        document
    }
}

impl Changes {
    /// What the server is told.
    ///
    /// # Errors
    /// Nothing is changed, or one setting in two ways.
    pub(super) fn document(&self) -> Result<Value, Usage> {
        let mut document = self.settings.document();
        for member in self.unset.iter().flat_map(|setting| setting.members()) {
            if document.get(member).is_some_and(|value| !value.is_null()) {
                let rule = format!("{member} is both set and unset");
                return Err(Usage::new(rule));
            }
            document[*member] = Value::Null;
        }
        if document.as_object().is_some_and(Map::is_empty) {
            return Err(Usage::new(
                "nothing to change; name a setting, such as --delay 10s",
            ));
        }
        Ok(document)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("must be KEY=VALUE, such as team=shop")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `fixed:30s`, `ladder:1s,10s` or `exponential:1s,factor=2,max=5m,jitter=0.2`. What is left out is
/// said all the same, or a change would keep it from the policy that was there.
fn retry_policy(given: &str) -> Result<Value, String> {
    let form = "must be such as fixed:30s, ladder:1s,10s,1m or exponential:1s,factor=2,max=5m";
    let (kind, rest) = given.split_once(':').ok_or(form)?;
    let mut policy = json!({ "type": kind, "jitter": 0.0 });
    let (mut delays, mut factor, mut longest) = (Vec::new(), None, None);
    for part in rest.split(',') {
        let number = |value: &str| {
            let number: Option<f64> = value.parse().ok();
            number.ok_or_else(|| format!("{part} is no number; {form}"))
        };
        match part.split_once('=') {
            None => delays.push(seconds(part)?),
            Some(("jitter", value)) => policy["jitter"] = number(value)?.into(),
            Some(("factor", value)) if kind == "exponential" => factor = Some(number(value)?),
            Some(("max", value)) if kind == "exponential" => longest = Some(seconds(value)?),
            Some(_) => return Err(format!("{part} is not known; {form}")),
        }
    }
    match (kind, delays.as_slice()) {
        ("fixed", [delay]) => policy["delay_seconds"] = (*delay).into(),
        ("exponential", [delay]) => {
            policy["delay_seconds"] = (*delay).into();
            policy["factor"] = factor.unwrap_or(2.0).into();
            let longest = longest.unwrap_or(MAX_BACKOFF_SECONDS.max(*delay));
            policy["max_delay_seconds"] = longest.into();
        }
        ("ladder", [_, ..]) => policy["delays_seconds"] = delays.into(),
        _ => return Err(form.to_owned()),
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_policy_is_one_word() {
        for (given, document) in [
            (
                "fixed:30s",
                json!({"type": "fixed", "jitter": 0.0, "delay_seconds": 30}),
            ),
            (
                "ladder:1s,10s,1m,jitter=0.5",
                json!({"type": "ladder", "jitter": 0.5, "delays_seconds": [1, 10, 60]}),
            ),
            (
                "exponential:1s,factor=3,max=5m",
                json!({"type": "exponential", "jitter": 0.0, "factor": 3.0,
                    "max_delay_seconds": 300, "delay_seconds": 1}),
            ),
            (
                "exponential:1h",
                json!({"type": "exponential", "jitter": 0.0, "factor": 2.0,
                    "max_delay_seconds": 3600, "delay_seconds": 3600}),
            ),
        ] {
            assert_eq!(retry_policy(given), Ok(document), "{given}");
        }
        for wrong in [
            "",
            "fixed",
            "fixed:1s,2s",
            "fixed:1s,max=2s",
            "ladder:",
            "other:1s",
            "fixed:1s,x=1",
        ] {
            assert!(retry_policy(wrong).is_err(), "{wrong}");
        }
    }
}

//! Retry policies over REST: one flat object for all of their kinds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{
    Array, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, Type,
};

use super::json::not_null;
use crate::domain::queue::seconds;
use crate::domain::retry::{self, Backoff, number};
use crate::domain::{Error, Result, limits};

/// After how long a message comes back that was given up without a delay.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryPolicy {
    /// Always the same delay (`fixed`), one for each delivery (`ladder`), or one that grows
    /// (`exponential`).
    #[schema(value_type = RetryPolicyType)]
    pub(super) r#type: String,
    /// The delay of `fixed`, the first one of `exponential`.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 43200)]
    pub(super) delay_seconds: Option<i64>,
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(required = false, schema_with = ladder_of_delays)]
    pub(super) delays_seconds: Option<Vec<i64>>,
    /// By how much each delay of `exponential` is longer than the one before, until the 32nd.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 1, maximum = 10)]
    pub(super) factor: Option<f64>,
    /// The longest delay of `exponential`.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 43200)]
    pub(super) max_delay_seconds: Option<i64>,
    /// By what part of itself each delay may be shorter, as dice decide; 0 when left out.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    pub(super) jitter: Option<f64>,
}

/// How the delay goes with the number of deliveries.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `RetryPolicy::parse` reads")]
pub(super) enum RetryPolicyType {
    Fixed,
    Ladder,
    Exponential,
}

impl RetryPolicy {
    /// The policy that it says.
    pub(super) fn parse(&self) -> Result<retry::RetryPolicy> {
        let members = [
            ("delay_seconds", self.delay_seconds.is_some()),
            ("delays_seconds", self.delays_seconds.is_some()),
            ("factor", self.factor.is_some()),
            ("max_delay_seconds", self.max_delay_seconds.is_some()),
        ];
        let only = |needed: &[&str]| {
            for (member, is_given) in members {
                if needed.contains(&member) != is_given {
                    let verb = if is_given { "goes not" } else { "is needed" };
                    let rule = format!("{verb} with a policy of type {}", self.r#type);
                    return Err(Error::invalid(format!("{PLACE}/{member}"), "", rule));
                }
            }
            Ok(())
        };
        let backoff = match self.r#type.as_str() {
            "fixed" => {
                only(&["delay_seconds"])?;
                Backoff::Fixed {
                    delay: delay("delay_seconds", self.delay_seconds)?,
                }
            }
            "ladder" => {
                only(&["delays_seconds"])?;
                Backoff::Ladder {
                    delays: ladder(self.delays_seconds.as_deref().unwrap_or_default())?,
                }
            }
            "exponential" => {
                only(&["delay_seconds", "factor", "max_delay_seconds"])?;
                self.exponential()?
            }
            other => {
                let rule = "one of fixed, ladder and exponential";
                return Err(Error::invalid(format!("{PLACE}/type"), other, rule));
            }
        };
        let jitter = self.jitter.unwrap_or(0.0);
        Ok(retry::RetryPolicy {
            backoff,
            jitter: number("/retry_policy/jitter", jitter, 0.0..=1.0)?,
        })
    }

    fn exponential(&self) -> Result<Backoff> {
        let first = delay("delay_seconds", self.delay_seconds)?;
        let max_delay = delay("max_delay_seconds", self.max_delay_seconds)?;
        if max_delay < first {
            return Err(Error::invalid(
                format!("{PLACE}/max_delay_seconds"),
                max_delay.as_secs().to_string(),
                "not less than delay_seconds",
            ));
        }
        let factor = self.factor.unwrap_or_default();
        let range = 1.0..=limits::MAX_RETRY_FACTOR;
        Ok(Backoff::Exponential {
            delay: first,
            factor: number("/retry_policy/factor", factor, range)?,
            max_delay,
        })
    }
}

/// An array whose numbers have bounds, which no attribute can say.
fn ladder_of_delays() -> Array {
    let delay = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .maximum(Some(43200));
    const TEXT: &str = "The delays of `ladder`: after the first delivery, the second, and so on. The last one \
        is also for all that follow.";
    ArrayBuilder::new()
        .description(Some(TEXT))
        .items(delay)
        .min_items(Some(1))
        .max_items(Some(limits::MAX_RETRY_DELAYS))
        .build()
}

const PLACE: &str = "/retry_policy";

fn delay(member: &str, given: Option<i64>) -> Result<Duration> {
    let range = Duration::ZERO..=limits::MAX_VISIBILITY_TIMEOUT;
    seconds(
        &format!("{PLACE}/{member}"),
        given.unwrap_or_default(),
        range,
    )
}

fn ladder(delays: &[i64]) -> Result<Vec<Duration>> {
    if !(1..=limits::MAX_RETRY_DELAYS).contains(&delays.len()) {
        return Err(Error::invalid(
            format!("{PLACE}/delays_seconds"),
            format!("{} delays", delays.len()),
            format!("1 to {} delays", limits::MAX_RETRY_DELAYS),
        ));
    }
    let delays = delays.iter().enumerate();
    delays
        .map(|(index, given)| delay(&format!("delays_seconds/{index}"), Some(*given)))
        .collect()
}

impl From<retry::RetryPolicy> for RetryPolicy {
    fn from(policy: retry::RetryPolicy) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).ok();
        let jitter = Some(policy.jitter).filter(|jitter| *jitter > 0.0);
        match policy.backoff {
            Backoff::Fixed { delay } => Self {
                r#type: "fixed".to_owned(),
                delay_seconds: seconds(delay),
                jitter,
                ..Self::default()
            },
            Backoff::Ladder { delays } => Self {
                r#type: "ladder".to_owned(),
                delays_seconds: Some(delays.into_iter().filter_map(seconds).collect()),
                jitter,
                ..Self::default()
            },
            Backoff::Exponential {
                delay,
                factor,
                max_delay,
            } => Self {
                r#type: "exponential".to_owned(),
                delay_seconds: seconds(delay),
                factor: Some(factor),
                max_delay_seconds: seconds(max_delay),
                jitter,
                ..Self::default()
            },
        }
    }
}

//! `towpath doctor`: what stands between this machine and a server that works, and what to do.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use hyper::header::DATE;
use serde_json::{Value, json};
use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::{Duration, OffsetDateTime};

use super::access::{Access, Found};
use super::client::{Ask, Client};
use super::output::{Column, Form, Listing, text};
use super::{Exit, block_on};
use crate::clock::Clock;

pub(super) const EXAMPLES: &str = "\
Examples:
  towpath doctor
  towpath doctor -o json

Exit codes: 0 all is well, 1 something is not.";

/// Clocks that are further apart are worth a word: tokens allow for half a minute.
const MAX_SKEW: Duration = Duration::seconds(10);

/// A token that ends sooner is worth a word.
const SOON: Duration = Duration::hours(1);

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    access: Access,
}

const FINDINGS: Listing = Listing {
    columns: &[
        Column {
            title: "CHECK",
            cell: |finding| text(&finding["check"]),
        },
        Column {
            title: "STATE",
            cell: |finding| text(&finding["state"]),
        },
        Column {
            title: "WHAT",
            cell: |finding| finding["what"].as_str().unwrap_or_default().to_owned(),
        },
    ],
    name: "check",
    none: "nothing was checked",
};

/// What was found, in the order of the questions.
#[derive(Default)]
struct Findings(Vec<Value>);

impl Findings {
    fn good(&mut self, check: &str, what: impl Into<String>) {
        self.add(check, "ok", what.into());
    }

    fn odd(&mut self, check: &str, what: impl Into<String>) {
        self.add(check, "warning", what.into());
    }

    fn bad(&mut self, check: &str, what: impl Into<String>) {
        self.add(check, "error", what.into());
    }

    fn add(&mut self, check: &str, state: &str, what: String) {
        self.0
            .push(json!({ "check": check, "state": state, "what": what }));
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    match arguments.access.find() {
        Ok(found) => block_on(async {
            examine(found, &mut findings).await;
            Ok(())
        })?,
        Err(error) => findings.bad("configuration", format!("{error:#}")),
    }
    FINDINGS.print(out, arguments.form.format(), &findings.0)?;
    let errors = findings
        .0
        .iter()
        .filter(|finding| finding["state"] == "error");
    match errors.count() {
        0 => Ok(()),
        errors => Err(Exit::with(1, format!("{errors} of these are wrong")).into()),
    }
}

async fn examine(found: Found, findings: &mut Findings) {
    let now = Clock::default().utc();
    let mut client = Client::new(found.server, None);
    match client.exchange(&Ask::get("/healthz")).await {
        Ok(answer) => {
            findings.good("server", format!("{} answers", client.server()));
            let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
            clocks(date, now, findings);
        }
        Err(error) => return findings.bad("server", format!("{error:#}")),
    }
    match client.call(&Ask::get("/readyz")).await {
        Ok(_) => findings.good("database", "the server is ready"),
        Err(error) => findings.bad(
            "database",
            format!("{error}; the server's log says why, or it is shutting down"),
        ),
    }
    version(&mut client, findings).await;
    let token = match found.token {
        Ok(token) => token,
        Err(error) => return findings.bad("token", format!("{error:#}")),
    };
    findings.good("token", format!("from {}", found.token_origin));
    rights(&token, now, findings);
    let mut client = Client::new(client.server().clone(), Some(token));
    let ask = Ask::get("/v1/queues").query("limit", Some(1));
    match client.call(&ask).await {
        Ok(_) => findings.good("access", "the server takes the token"),
        Err(error) => {
            let advice = match super::client::status_of(&error).map(|status| status.as_u16()) {
                Some(401) => "make one for this server: `towpath token`",
                Some(403) => {
                    "it may be fine: the token has other rights, or the address is not on the allowlist"
                }
                _ => "see docs/errors.md for the code",
            };
            let is_refused = super::client::code_of(&error) == Some("forbidden");
            let what = format!("{error}; {advice}");
            if is_refused {
                findings.odd("access", what);
            } else {
                findings.bad("access", what);
            }
        }
    }
}

/// Compares clocks by the header that servers date their answers with, to the second.
fn clocks(date: Option<&str>, now: OffsetDateTime, findings: &mut Findings) {
    // RFC 2822 knows the zone's old name as well.
    let Some(there) = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok()) else {
        return findings.odd("clock", "the server does not say what time it is");
    };
    let skew = there - now;
    if skew.abs() <= MAX_SKEW {
        return findings.good("clock", "within 10s of the server's");
    }
    let (seconds, side) = (
        skew.abs().whole_seconds(),
        if skew.is_positive() {
            "behind"
        } else {
            "ahead of"
        },
    );
    findings.odd(
        "clock",
        format!("{seconds}s {side} the server's; let NTP set both: tokens allow for 30s"),
    );
}

async fn version(client: &mut Client, findings: &mut Findings) {
    let ours = env!("CARGO_PKG_VERSION");
    match client.json(&Ask::get("/v1/openapi.json")).await {
        Ok(document) => match document["info"]["version"].as_str() {
            Some(theirs) if theirs == ours => findings.good("version", format!("both are {ours}")),
            Some(theirs) => findings.odd(
                "version",
                format!("the server is {theirs}, this program {ours}; use the same where you can"),
            ),
            None => findings.odd("version", "the server does not say what it is"),
        },
        Err(error) => findings.bad("version", format!("is this a Towpath? {error}")),
    }
}

/// What the token says of itself. Only the server can tell whether it is genuine.
fn rights(token: &str, now: OffsetDateTime, findings: &mut Findings) {
    let claims = token.split('.').nth(1);
    let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let Some(claims) = claims.and_then(|json| serde_json::from_slice::<Value>(&json).ok()) else {
        return findings.odd("rights", "the token does not say what it allows");
    };
    findings.good(
        "rights",
        format!(
            "{} may {}",
            text(&claims["sub"]),
            claims["scope"].as_str().unwrap_or("nothing")
        ),
    );
    let end = claims["exp"].as_i64();
    let Some(end) = end.and_then(|end| OffsetDateTime::from_unix_timestamp(end).ok()) else {
        return findings.odd("expiry", "the token does not say when it ends");
    };
    let when = end.format(&Rfc3339).unwrap_or_default();
    if end <= now {
        findings.bad(
            "expiry",
            format!("ended at {when}; make a new one: `towpath token`"),
        );
    } else if end - now < SOON {
        findings.odd(
            "expiry",
            format!("ends at {when}; make a new one soon: `towpath token`"),
        );
    } else {
        findings.good("expiry", format!("ends at {when}"));
    }
}

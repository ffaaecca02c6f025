//! The table of errors is a contract: this writes it down and notices when it changes.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use towpath::domain::{Error, Violation};
use towpath::http::rest::problem::Problem;

use crate::support::compare_with_file;

const FRAME: &str = "# Errors

Every error over REST is a problem (RFC 9457) of media type `application/problem+json`, with the
members `type` (`urn:towpath:error:` and the code), `title`, `status`, `detail`, `code`,
`request_id` and `retryable`. `errors` lists the fields that break rules: `pointer` for a place in
the body or `parameter` for a part of the address or a header, `value`, and `detail`. Problems with a
status of 500 and above have `outcome`: `none` when nothing was done, `unknown` when the change may have
happened. Retryable ones come with `Retry-After`. A code never changes its meaning; new ones may be
added.

This table is generated; `UPDATE_DOCS=1 cargo test the_table_of_errors_is_current` writes it.

";

const MESSAGE_ID: uuid::Uuid = uuid::Uuid::from_u128(0x5d3c_9a40_1b7e_8f21_9c55_0a4f_6e2b_7d18);

/// The example after another one. The match makes a new error without an example not build.
#[deny(clippy::wildcard_enum_match_arm)]
fn next(error: &Error) -> Option<Error> {
    let orders = || "orders".to_owned();
    let limit = Duration::from_secs(30);
    let message_id = MESSAGE_ID;
    Some(match error {
        Error::Malformed { .. } => {
            Error::invalid("/wait_seconds", "21", "whole seconds from 0 to 20")
        }
        Error::Invalid(_) => Error::TooLarge {
            field: "request body".to_owned(),
            limit_bytes: 8_388_608,
        },
        Error::TooLarge { .. } => Error::UnsupportedMediaType {
            header: "Content-Type",
            found: "text/plain".to_owned(),
            supported: "application/json",
        },
        Error::UnsupportedMediaType { .. } => Error::Unauthenticated {
            reason: "the bearer token has expired; ask for a new one",
        },
        Error::Unauthenticated { .. } => Error::Forbidden { right: "send" },
        Error::Forbidden { .. } => Error::AddressNotAllowed {
            address: [203, 0, 113, 9].into(),
        },
        Error::AddressNotAllowed { .. } => Error::NoSuchPath {
            path: "/v2".to_owned(),
        },
        Error::NoSuchPath { .. } => Error::MethodNotAllowed {
            method: "PATCH".to_owned(),
            path: "/v1/queues".to_owned(),
        },
        Error::MethodNotAllowed { .. } => Error::QueueNotFound { name: orders() },
        Error::QueueNotFound { .. } => Error::QueueInUse {
            name: orders(),
            sources: vec!["shop".to_owned()],
        },
        Error::QueueInUse { .. } => Error::RedriveNotFound {
            name: orders(),
            id: "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210".to_owned(),
        },
        Error::RedriveNotFound { .. } => Error::RedriveRunning {
            name: orders(),
            id: "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210".to_owned(),
        },
        Error::RedriveRunning { .. } => Error::QueuePaused { name: orders() },
        Error::QueuePaused { .. } => Error::PreconditionFailed {
            name: orders(),
            version: Some(4),
            header: "If-Match",
        },
        Error::PreconditionFailed { .. } => Error::IdempotencyKeyReused,
        Error::IdempotencyKeyReused => Error::ReceiptStale(vec![Violation::new(
            "/messages/0/receipt_handle",
            "",
            "the handle of the newest delivery",
        )]),
        Error::ReceiptStale(_) => Error::MessageNotFound { message_id },
        Error::MessageNotFound { .. } => Error::MessageInFlight { message_id },
        Error::MessageInFlight { .. } => Error::MessageNeverReceived { message_id },
        Error::MessageNeverReceived { .. } => Error::BodyTimeout { limit },
        Error::BodyTimeout { .. } => Error::Internal("the secret source".into()),
        Error::Internal(_) => Error::Overloaded {
            what: "requests in flight",
        },
        Error::Overloaded { .. } => Error::ShuttingDown,
        Error::ShuttingDown => Error::Unavailable(Some("the secret source".into())),
        Error::Unavailable(_) => Error::StorageFull(Some("the secret source".into())),
        Error::StorageFull(_) => Error::UnknownOutcome(Some("the secret source".into())),
        Error::UnknownOutcome(_) => Error::Timeout { limit },
        Error::Timeout { .. } => return None,
    })
}

fn examples() -> Vec<Error> {
    let first = Error::Malformed {
        detail: "the body is not JSON: EOF while parsing a value at line 1 column 13".to_owned(),
    };
    let mut examples = vec![first];
    while let Some(error) = next(examples.last().unwrap()) {
        examples.push(error);
    }
    examples
}

fn problems() -> Vec<Value> {
    examples()
        .iter()
        .map(|error| serde_json::to_value(Problem::new(error, "an-id")).unwrap())
        .collect()
}

#[test]
fn the_table_of_errors_is_current() {
    let mut table = FRAME.to_owned();
    table.push_str("| code | status | title | retryable | outcome | a detail |\n");
    table.push_str("|---|---|---|---|---|---|\n");
    for problem in problems() {
        let text = |name: &str| problem[name].as_str().unwrap_or("").to_owned();
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {} |",
            text("code"),
            problem["status"],
            text("title"),
            if problem["retryable"] == true {
                "yes"
            } else {
                "no"
            },
            text("outcome"),
            text("detail"),
        )
        .unwrap();
    }
    compare_with_file("docs/errors.md", &table);
}

#[test]
fn no_two_errors_share_a_code() {
    let mut codes: Vec<_> = problems()
        .iter()
        .map(|problem| problem["code"].to_string())
        .collect();
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), examples().len());
}

#[test]
fn no_problem_shows_its_source() {
    for problem in problems() {
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}

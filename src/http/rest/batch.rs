//! What requests about many messages have in common: a number of entries, and what is said of one
//! that failed while others did not.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Error, Result, Violation, limits};

/// Reads the entries of a request, each with its place among them.
///
/// # Errors
/// [`Error::Invalid`] when there are none or too many; what `read` says of one.
pub(super) fn entries<T, U>(
    messages: Vec<T>,
    read: impl Fn(T, usize) -> Result<U>,
) -> Result<Vec<U>> {
    if !(1..=limits::MAX_BATCH).contains(&messages.len()) {
        let given = format!("{} messages", messages.len());
        let rule = format!("a request has 1 to {} messages", limits::MAX_BATCH);
        return Err(Error::invalid("/messages", given, rule));
    }
    let entries = messages.into_iter().zip(0..);
    entries
        .map(|(message, index)| read(message, index))
        .collect()
}

/// Why one entry of a batch failed.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryError {
    /// What went wrong, for programs: the `code` that a problem would have.
    #[schema(example = "receipt_stale")]
    code: &'static str,
    /// What would be right.
    detail: String,
}

impl EntryError {
    pub(super) fn stale(violation: Violation) -> Self {
        Self {
            code: "receipt_stale",
            detail: violation.rule,
        }
    }
}

/// How the entries of a request ended, unless all of them are stale: then the request is.
///
/// # Errors
/// [`Error::ReceiptStale`].
pub(super) fn ended<T, U: From<T>>(
    outcomes: Vec<T>,
    stale: impl Fn(&T) -> Option<&Violation>,
) -> Result<Vec<U>> {
    let violations: Vec<_> = outcomes.iter().filter_map(stale).cloned().collect();
    if violations.len() == outcomes.len() {
        return Err(Error::ReceiptStale(violations));
    }
    Ok(outcomes.into_iter().map(U::from).collect())
}

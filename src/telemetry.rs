//! Logs: set up once per process, on stderr, so that stdout stays free for what was asked for.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{Log, LogFormat};

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log.filter = {filter:?} is not valid: levels such as \"info,towpath::broker=debug\"")]
    Filter {
        /// The filter as configured.
        filter: String,
        /// Where it goes wrong.
        source: ParseError,
    },
    /// Somebody was first.
    #[error("logs are already set up in this process")]
    AlreadySet(#[from] TryInitError),
}

/// Sends what the filter lets through to stderr, in colour on a terminal unless `NO_COLOR` is set.
///
/// # Errors
/// The filter is not valid, or logs were set up before.
pub fn init(log: &Log) -> Result<(), Error> {
    let filter = log.parse_filter().map_err(|source| Error::Filter {
        filter: log.filter.clone(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // What cannot be written is lost: the default says so by a macro that panics when stderr is
        // closed, which would end whatever task happened to log.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text if std::io::stderr().is_terminal() => lines.finish().try_init()?,
        LogFormat::Text => lines.with_ansi(false).finish().try_init()?,
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init()?,
    }
    Ok(())
}

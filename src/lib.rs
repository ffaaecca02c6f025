//! Towpath: an SQS-compatible message queue over HTTP, on PostgreSQL.

pub mod clock;
pub mod domain;

//! Towpath: an SQS-compatible message queue over HTTP, on PostgreSQL.

pub mod auth;
pub mod broker;
pub mod clock;
pub mod domain;
pub mod http;
pub mod maintenance;
pub mod postgres;
pub mod service;
pub mod store;

//! The integration tests, as one program.
// Always so for a test target; said for the lints that are more lenient with tests.
#![cfg(test)]

mod access;
mod backup;
mod bad_input;
mod broker;
mod chaos;
mod cli;
mod config;
mod docs;
#[cfg(feature = "docs-ui")]
mod docs_ui;
mod errors;
mod explore;
mod metrics;
mod model;
mod openapi;
mod openapi_rules;
mod postgres;
mod process;
mod rest;
mod serve;
mod stack;
mod store;
mod support;
mod tidy;
mod trace;

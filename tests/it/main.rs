//! The integration tests, as one program.
// Always so for a test target; said for the lints that are more lenient with tests.
#![cfg(test)]

mod access;
mod bad_input;
mod broker;
mod chaos;
mod cli;
mod config;
mod docs;
mod errors;
mod explore;
mod metrics;
mod model;
mod openapi;
mod postgres;
mod process;
mod rest;
mod serve;
mod stack;
mod store;
mod support;
mod tidy;
mod trace;

//! The integration tests, as one program.
// Always so for a test target; said for the lints that are more lenient with tests.
#![cfg(test)]

mod broker;
mod model;
mod store;
mod support;

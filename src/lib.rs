//! Towpath: a durable message queue over HTTP, on PostgreSQL.
//!
//! This page is the map of the code; `ARCHITECTURE.md` tells how it works and why.
//!
//! A request comes in at the top and goes down, each step another kind of thing:
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`cli`] | the command line; its client commands know a server by HTTP alone | [`app`], [`config`] |
//! | [`app`] | the composition root: builds a node, runs it, ends it | everything below |
//! | [`http`] | the accept loop, the one stack of checks, the REST handlers | [`service`], [`auth`] |
//! | [`service`] | a function per operation: look up, check, one call further down | [`broker`], [`store`] |
//! | [`broker`] | the hot path: batchers turn many requests into few statements | [`store`] |
//! | [`maintenance`] | background tasks that one node at a time is elected for | [`store`] |
//! | [`store`] | the only speaker of SQL; its functions in the database are in `migrations/` | |
//! | [`auth`] | who asks, from where, and may they: tokens, rights, addresses | |
//! | [`metrics`] | what a node counts and measures, for Prometheus | [`domain`] |
//! | [`domain`] | the nouns and their rules, without any I/O | nothing |
//!
//! All of them may use [`domain`], and [`clock`], the only reader of the machine's clocks. Beside
//! them stand [`postgres`] (where the database comes from: a URL, or a server that is started here),
//! [`config`] (the only reader of settings and of the environment) and [`telemetry`] (the log).

pub mod app;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod http;
pub mod maintenance;
pub mod metrics;
pub mod postgres;
pub mod service;
pub mod store;
pub mod telemetry;

//! The storage engine, statement by statement, on a real PostgreSQL.

mod bench;
mod careful;
mod counts;
mod delayed;
mod engine;
mod expiry;
mod five;
mod interleave;
mod leases;
mod limits;
mod plans;

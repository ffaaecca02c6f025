//! The storage engine, statement by statement, on a real PostgreSQL.

mod bench;
mod careful;
mod counts;
mod delayed;
mod engine;
mod expiry;
mod five;
mod held;
mod interleave;
mod leases;
mod limits;
mod listening;
mod peek;
mod plans;
mod unheld;

//! The storage engine, statement by statement, on a real PostgreSQL.

mod engine;
mod five;
mod limits;

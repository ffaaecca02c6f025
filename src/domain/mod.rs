//! The nouns of the queue and the rules that need no I/O.
//!
//! Nothing here may know of SQL, HTTP, tokio or serde: protocols render these types, the store
//! persists them, and both learn every rule from this one place.

pub mod access;
pub mod attribute;
pub mod chunk;
pub mod error;
pub mod lane;
pub mod lifecycle;
pub mod limits;
pub mod message;
pub mod message_id;
pub mod peek;
pub mod queue;
pub mod receipt;
pub mod redrive;
pub mod retry;
pub mod trace;

pub use error::{Error, Result, Violation};

//! Background tasks. Each is idempotent, takes no input, runs on a timer, and is safe on two
//! nodes at once; one node is elected to run it so that the others need not.
//!
//! A redrive has its input in its row, and a node for itself.

mod culprits;
pub mod observe;
pub mod redrive;
pub mod space;

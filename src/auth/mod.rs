//! Who is asking, and may they: principals, tokens, client addresses.
//!
//! Nothing here knows of SQL or axum, or reads a clock: whoever asks says what time it is.

mod authenticator;
mod client_address;
mod issuer;
mod networks;
mod principal;

pub use authenticator::Authenticator;
pub use client_address::client_address;
pub use issuer::{Issuer, MintedToken, SigningKey};
pub use networks::{Allowlist, Networks};
pub use principal::{Principal, Subject};

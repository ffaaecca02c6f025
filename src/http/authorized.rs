//! The right that a handler needs, standing in its signature. Who the caller is was found out by
//! the stack before.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::rest::problem::Failure;
use crate::auth::Principal;
use crate::domain::Error;
use crate::domain::access::Right;

/// A right as a type.
pub trait Needs {
    /// The right.
    const RIGHT: Right;
}

macro_rules! needs {
    ($($right:ident)*) => {$(
        #[doc = concat!("[`Right::", stringify!($right), "`](super::Right::", stringify!($right), ").")]
        pub struct $right;

        impl super::Needs for $right {
            const RIGHT: super::Right = super::Right::$right;
        }
    )*};
}

/// Every right as a type: `Authorized<needs::Send>`.
pub mod needs {
    needs!(ReadMetadata Configure Send Receive Delete Purge Administer);
}

/// The caller, who has the right `R`. Before a body is read, everyone else is refused.
pub struct Authorized<R> {
    principal: Arc<Principal>,
    right: PhantomData<fn() -> R>,
}

impl<R> Deref for Authorized<R> {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl<R: Needs, S: Sync> FromRequestParts<S> for Authorized<R> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        // A route that the stack takes for public has no principal, and does not get one here.
        let principal = parts
            .extensions
            .get::<Arc<Principal>>()
            .ok_or(Error::Unauthenticated {
                reason: "this needs a token",
            })?;
        principal.require(R::RIGHT)?;
        Ok(Self {
            principal: Arc::clone(principal),
            right: PhantomData,
        })
    }
}

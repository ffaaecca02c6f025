//! From a bearer token to a principal, quickly: checked tokens are remembered for a short time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use time::OffsetDateTime;

use super::issuer::Issuer;
use super::principal::Principal;
use crate::domain::Result;

/// Most tokens remembered. Only tokens that hold are, so strangers cannot fill it.
const MAX_REMEMBERED: u64 = 4096;

/// Longest time for which a token is not checked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// Checks bearer tokens.
pub struct Authenticator {
    issuer: Issuer,
    remembered: Cache<String, Remembered>,
}

#[derive(Clone)]
struct Remembered {
    principal: Arc<Principal>,
    until: OffsetDateTime,
}

/// By hand, because the cache would print its keys, which are tokens.
impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({:?}, ..)", self.issuer)
    }
}

impl Authenticator {
    /// Lets in who has a token of the issuer.
    pub fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            remembered: Cache::new(MAX_REMEMBERED),
        }
    }

    /// The issuer whose tokens hold here.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`](crate::domain::Error::Unauthenticated) when it does not hold.
    pub fn authenticate(&self, token: &str, now: OffsetDateTime) -> Result<Arc<Principal>> {
        if let Some(known) = self.remembered.get(token)
            && now < known.until
        {
            return Ok(known.principal);
        }
        let (principal, ends) = self.issuer.verify(token, now)?;
        let principal = Arc::new(principal);
        let known = Remembered {
            principal: Arc::clone(&principal),
            until: ends.min(now + REMEMBERED_FOR),
        };
        self.remembered.insert(token.to_owned(), known);
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{SigningKey, Subject};
    use crate::domain::access::Rights;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-20 12:00 UTC);

    #[test]
    fn a_remembered_token_still_ends() {
        let authenticator = Authenticator::new(Issuer::new("1", &SigningKey::new([1; 32])));
        let subject = Subject::parse("sub", "worker").unwrap();
        let life = Duration::from_secs(600);
        let token = authenticator
            .issuer()
            .mint(&subject, Rights::application(), life, NOW)
            .unwrap()
            .token;
        let first = authenticator.authenticate(&token, NOW).unwrap();
        let second = authenticator.authenticate(&token, NOW).unwrap();
        assert!(Arc::ptr_eq(&first, &second), "the second is remembered");
        let later = NOW + Duration::from_secs(60);
        let third = authenticator.authenticate(&token, later).unwrap();
        assert!(
            !Arc::ptr_eq(&first, &third),
            "after a while it is checked again"
        );
        let ended = NOW + life + Duration::from_secs(30);
        authenticator.authenticate(&token, ended).unwrap_err();
    }

    #[test]
    fn no_token_is_printed() {
        let authenticator = Authenticator::new(Issuer::new("1", &SigningKey::new([1; 32])));
        let subject = Subject::parse("sub", "worker").unwrap();
        let life = Duration::from_secs(600);
        let minted = authenticator
            .issuer()
            .mint(&subject, Rights::application(), life, NOW);
        let token = minted.unwrap().token;
        authenticator.authenticate(&token, NOW).unwrap();
        authenticator.remembered.run_pending_tasks();
        assert_eq!(authenticator.remembered.entry_count(), 1);
        assert!(!format!("{authenticator:?}").contains(&token));
    }

    #[test]
    fn what_does_not_hold_is_not_remembered() {
        let authenticator = Authenticator::new(Issuer::new("1", &SigningKey::new([1; 32])));
        authenticator.authenticate("a.b.c", NOW).unwrap_err();
        authenticator.remembered.run_pending_tasks();
        assert_eq!(authenticator.remembered.entry_count(), 0);
    }
}

//! The one who asks, once it is known who that is. What a request says of itself is not here.

use crate::domain::access::{Right, Rights};
use crate::domain::queue::Tenant;
use crate::domain::{Error, Result, limits};

/// A name for whoever holds a token: 1 to 128 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(String);

impl Subject {
    /// Checks a name that a caller sent in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name breaks the rule.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        let length = name.chars().count();
        if length == 0 || length > limits::MAX_SUBJECT || name.chars().any(char::is_control) {
            return Err(Error::invalid(
                field,
                name,
                "a subject is 1 to 128 characters without control characters",
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who asks, for whom, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Their name, as their credentials give it.
    pub subject: Subject,
    /// Whose queues they see.
    pub tenant: Tenant,
    /// What they may do.
    pub rights: Rights,
}

impl Principal {
    /// Whether the principal has a right.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when not.
    pub fn require(&self, right: Right) -> Result<()> {
        if self.rights.contains(right) {
            Ok(())
        } else {
            Err(Error::Forbidden {
                right: right.name(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_a_short_line_of_text() {
        for good in [
            "a",
            "orders-worker",
            "Ünal <u@example.org>",
            &"x".repeat(128),
        ] {
            assert_eq!(Subject::parse("sub", good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "a\0", "\u{1b}[2J", &"x".repeat(129)] {
            assert!(Subject::parse("sub", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_right_is_named() {
        let principal = Principal {
            subject: Subject::parse("sub", "a").unwrap(),
            tenant: Tenant::default(),
            rights: Rights::from_scope("send").unwrap(),
        };
        principal.require(Right::Send).unwrap();
        let error = principal.require(Right::Delete).unwrap_err();
        assert!(matches!(error, Error::Forbidden { right: "delete" }));
    }
}

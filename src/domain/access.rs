//! Rights: what a principal may do. One right per kind of operation, whatever the protocol.

/// What a route asks of its caller; a scope of a token names it by [`Right::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// See queues and their settings.
    ReadMetadata,
    /// Create, change and delete queues.
    Configure,
    /// Send messages.
    Send,
    /// Receive messages.
    Receive,
    /// Delete messages that were received.
    Delete,
    /// Drop everything that a queue holds.
    Purge,
    /// Issue tokens.
    Administer,
}

impl Right {
    /// Every right, in the order in which they are listed to people.
    pub const ALL: [Self; 7] = [
        Self::ReadMetadata,
        Self::Configure,
        Self::Send,
        Self::Receive,
        Self::Delete,
        Self::Purge,
        Self::Administer,
    ];

    /// The word for it in a token's scope.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadMetadata => "read_metadata",
            Self::Configure => "configure",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Delete => "delete",
            Self::Purge => "purge",
            Self::Administer => "administer",
        }
    }

    /// The right that a word of a scope names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u8);

impl Rights {
    /// Whether a right is in the set.
    pub const fn contains(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Everything an application needs: all rights but to administer.
    pub fn application() -> Self {
        Right::ALL
            .into_iter()
            .filter(|right| *right != Right::Administer)
            .collect()
    }

    /// The words of the set, separated by spaces, as a token's `scope` holds them (RFC 8693, 4.2).
    pub fn scope(self) -> String {
        Right::ALL
            .into_iter()
            .filter(|right| self.contains(*right))
            .map(Right::name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Reads a scope.
    ///
    /// # Errors
    /// The first word that names no right.
    pub fn from_scope(scope: &str) -> Result<Self, &str> {
        scope
            .split_ascii_whitespace()
            .map(|word| Right::from_name(word).ok_or(word))
            .collect()
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | right.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_back_as_written() {
        let all: Rights = Right::ALL.into_iter().collect();
        assert_eq!(Rights::from_scope(&all.scope()), Ok(all));
        assert!(!Rights::application().contains(Right::Administer));
        assert_eq!(Rights::from_scope("send fly"), Err("fly"));
        assert_eq!(Rights::from_scope(""), Ok(Rights::default()));
    }
}

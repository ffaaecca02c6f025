//! Which user of the operating system runs the managed server.

use nix::unistd::{Gid, Uid, User, getegid, geteuid};

use super::error::Error;

/// The server's user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// Whether this process must change to it, which only root can.
    pub(super) switch: bool,
}

/// Chooses the user: ourselves, or for root the owner of the cluster there is, the one `wanted`,
/// `postgres`, or `nobody`.
///
/// # Errors
/// [`Error::Account`] when there is no such user, or it is not the cluster's owner.
pub(super) fn choose(wanted: Option<&str>, owner: Option<(Uid, Gid)>) -> Result<Account, Error> {
    let us = geteuid();
    let wanted = wanted.map(named).transpose()?;
    let account = match (us.is_root(), &wanted, owner) {
        (false, _, _) => Account {
            uid: us,
            gid: getegid(),
            switch: false,
        },
        (true, None, Some((uid, gid))) => Account {
            uid,
            gid,
            switch: true,
        },
        (true, Some(user), _) => of(user),
        (true, None, None) => of(&named("postgres").or_else(|_| named("nobody"))?),
    };
    if account.uid.is_root() {
        return refuse(
            "PostgreSQL does not run as root; set TOWPATH_DATABASE_PG_USER to another user",
        );
    }
    if let Some(user) = wanted.filter(|user| user.uid != account.uid) {
        return refuse(&format!(
            "TOWPATH_DATABASE_PG_USER is `{}`, and only root can run a server as another user; \
             unset it or start as that user",
            user.name
        ));
    }
    match owner {
        Some((owner, _)) if owner != account.uid => refuse(&format!(
            "the cluster belongs to uid {owner}, and this would be uid {}; \
             run as its owner, or set another data directory",
            account.uid
        )),
        Some(_) => Ok(account),
        // Only initdb looks the name up, so a cluster that exists needs none.
        None if lookup(User::from_uid(account.uid))?.is_none() => refuse(&format!(
            "uid {} has no passwd entry, which initdb needs; add one or set DATABASE_URL",
            account.uid
        )),
        None => Ok(account),
    }
}

fn of(user: &User) -> Account {
    Account {
        uid: user.uid,
        gid: user.gid,
        switch: true,
    }
}

fn named(name: &str) -> Result<User, Error> {
    match lookup(User::from_name(name))? {
        Some(user) => Ok(user),
        None => refuse(&format!(
            "there is no user `{name}`; create it, set TOWPATH_DATABASE_PG_USER, or set DATABASE_URL"
        )),
    }
}

fn lookup(found: nix::Result<Option<User>>) -> Result<Option<User>, Error> {
    found.or_else(|errno| refuse(&format!("the passwd database cannot be read: {errno}")))
}

fn refuse<T>(why: &str) -> Result<T, Error> {
    Err(Error::Account {
        why: why.to_owned(),
    })
}

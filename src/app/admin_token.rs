//! The administrator's token, in files that only the server's user can read.
//!
//! Who can run the server can read its keys, so a token that is missing, ends soon or does not hold
//! is made anew, at every start and while the node runs: nobody is locked out.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::auth::{Issuer, Subject};
use crate::clock::Clock;
use crate::domain::access::{Right, Rights};

/// The token alone, in the data directory; the command line looks for it there.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

/// The token as a line of HTTP, which curl reads by `-H @file`: an argument of a program shows in
/// the list of processes.
const HEADER_FILE: &str = "admin.header";

const OWNER_ONLY: u32 = 0o600;
/// A token that holds for less than this much longer is replaced.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest time between two looks at the token of a node that runs.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// What keeps the token's files right.
pub(super) struct AdminToken {
    pub(super) data_dir: PathBuf,
    pub(super) issuer: Issuer,
    pub(super) lifetime: Duration,
    pub(super) clock: Clock,
}

impl AdminToken {
    /// Makes sure that the files hold a token that works for a while.
    pub(super) fn ensure(&self) -> anyhow::Result<()> {
        let directory = &self.data_dir;
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the data directory {}", directory.display()))?;
        let found = fs::read_to_string(directory.join(ADMIN_TOKEN_FILE)).unwrap_or_default();
        let token = match found.trim() {
            token if self.holds(token) => token.to_owned(),
            _ => {
                let subject = Subject::parse("subject", "administrator")?;
                let now = self.clock.utc();
                let minted = self
                    .issuer
                    .mint(&subject, everything(), self.lifetime, now)?;
                minted.token
            }
        };
        keep(&directory.join(ADMIN_TOKEN_FILE), &token)?;
        keep(
            &self.header_file(),
            &format!("Authorization: Bearer {token}"),
        )
    }

    /// Whether a token opens everything and will do so for a while.
    fn holds(&self, token: &str) -> bool {
        let now = self.clock.utc();
        let soon = now + RENEW_BEFORE.min(self.lifetime / 2);
        let verified = self.issuer.verify(token, now);
        verified.is_ok_and(|(who, ends)| who.rights == everything() && ends > soon)
    }

    pub(super) fn header_file(&self) -> PathBuf {
        self.data_dir.join(HEADER_FILE)
    }

    /// Ensures it again and again, until cancelled.
    pub(super) async fn renew(self, cancel: CancellationToken) {
        // Often enough to meet the second half of any token's life.
        let pause = LOOK_EVERY.min(self.lifetime / 4);
        while cancel
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            if let Err(error) = self.ensure() {
                tracing::error!(
                    error = &*error as &dyn std::error::Error,
                    "the administrator's token ends"
                );
            }
        }
    }
}

fn everything() -> Rights {
    Right::ALL.into_iter().collect()
}

/// Leaves a file of the owner's alone with this line in it.
fn keep(path: &Path, line: &str) -> anyhow::Result<()> {
    let line = format!("{line}\n");
    let kept = match fs::read_to_string(path) {
        Ok(found) if found == line => fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY)),
        Ok(_) | Err(_) => write(path, &line),
    };
    kept.with_context(|| {
        format!(
            "cannot write the administrator's token to {}",
            path.display()
        )
    })
}

/// Whole or not at all, and never readable by others in between.
fn write(path: &Path, line: &str) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        // Whatever is there, also a link, is not ours.
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&fresh)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::auth::SigningKey;

    const KEY: [u8; SigningKey::BYTES] = [7; SigningKey::BYTES];

    fn admin_token(data_dir: &Path, lifetime: Duration) -> AdminToken {
        AdminToken {
            data_dir: data_dir.to_owned(),
            issuer: Issuer::new("1", &SigningKey::new(KEY)),
            lifetime,
            clock: Clock::default(),
        }
    }

    fn found(data_dir: &Path) -> String {
        let text = fs::read_to_string(data_dir.join(ADMIN_TOKEN_FILE)).unwrap();
        text.trim().to_owned()
    }

    #[tokio::test]
    async fn a_node_that_runs_renews_the_token_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, cancel) = (Clock::default(), CancellationToken::new());
        let token = AdminToken {
            clock: clock.clone(),
            ..admin_token(dir.path(), Duration::from_secs(2))
        };
        token.ensure().unwrap();
        let first = found(dir.path());
        let tasks = TaskTracker::new();
        tasks.spawn(token.renew(cancel.clone()));
        tasks.close();
        let deadline = clock.instant() + Duration::from_secs(30);
        while found(dir.path()) == first {
            assert!(clock.instant() < deadline, "it is never renewed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let header = fs::read_to_string(dir.path().join(HEADER_FILE)).unwrap();
        assert!(header.starts_with("Authorization: Bearer ey"), "{header}");
        cancel.cancel();
        tasks.wait().await;
    }

    #[test]
    fn a_token_is_kept_until_half_its_life_or_a_week_is_left() {
        let dir = tempfile::tempdir().unwrap();
        for (days, kept_for) in [(30, 22), (2, 0)] {
            let day = Duration::from_secs(24 * 60 * 60);
            let token = admin_token(dir.path(), days * day);
            fs::write(dir.path().join(ADMIN_TOKEN_FILE), "").unwrap();
            token.ensure().unwrap();
            let first = found(dir.path());
            token.clock.advance(kept_for * day);
            token.ensure().unwrap();
            assert_eq!(found(dir.path()), first, "{days} days");
            token.clock.advance(day + Duration::from_secs(1));
            token.ensure().unwrap();
            assert_ne!(found(dir.path()), first, "{days} days");
        }
    }

    #[test]
    fn a_token_without_all_rights_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let token = admin_token(dir.path(), Duration::from_secs(3600));
        let subject = Subject::parse("subject", "administrator").unwrap();
        let (rights, now) = (Rights::application(), token.clock.utc());
        let less = token.issuer.mint(&subject, rights, token.lifetime, now);
        let less = less.unwrap().token;
        fs::write(dir.path().join(ADMIN_TOKEN_FILE), &less).unwrap();
        token.ensure().unwrap();
        assert_ne!(found(dir.path()), less);
    }

    #[test]
    fn the_token_is_not_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::write(&theirs, "untouched").unwrap();
        let fresh = format!("{ADMIN_TOKEN_FILE}.{}", std::process::id());
        symlink(&theirs, dir.path().join(fresh)).unwrap();
        admin_token(dir.path(), Duration::from_secs(3600))
            .ensure()
            .unwrap();
        assert_eq!(fs::read_to_string(theirs).unwrap(), "untouched");
        let mode = fs::symlink_metadata(dir.path().join(ADMIN_TOKEN_FILE)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, OWNER_ONLY);
    }
}

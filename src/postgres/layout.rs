//! The managed cluster on disk: its folders, their owner, and the two locks by which several
//! processes share it. What runs there is `managed`'s.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, geteuid};
use sha2::{Digest, Sha256};

use super::account::{self, Account};
use super::error::{Error, io_error};
use crate::clock::Clock;

/// Names the socket; nothing listens on it.
pub(super) const PORT: u16 = 5432;

/// What fits into a socket address, without the closing NUL.
const SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Whoever holds the boot lock creates a cluster (60 s) and starts it (60 s), or stops it (30 s).
const BOOT_LOCK_LIMIT: Duration = Duration::from_secs(150);

const BOOT_LOCK_POLL: Duration = Duration::from_millis(20);

/// A server's log that grew over this is put aside, once, when the server starts.
const LOG_BYTES: u64 = 16 << 20;

/// Folders and files of one managed cluster.
#[derive(Debug)]
pub(super) struct Layout {
    /// Above all others but perhaps `run`.
    pub(super) root: PathBuf,
    /// PostgreSQL's data directory.
    pub(super) data: PathBuf,
    /// Holds the socket.
    pub(super) run: PathBuf,
    /// The server's standard output and error.
    pub(super) log: PathBuf,
    /// Who owns all of it and runs the server.
    pub(super) account: Account,
}

impl Layout {
    /// Makes the folders of the cluster in `data_dir` that are missing.
    ///
    /// # Errors
    /// [`Error::Account`]; [`Error::Path`] for folders that the server's user could not enter or
    /// others could; [`Error::Io`].
    pub(super) fn prepare(data_dir: &Path, wanted_user: Option<&str>) -> Result<Layout, Error> {
        let found = fs::symlink_metadata(data_dir.join("pg")).ok();
        // Owned by root is a folder that was made and not yet handed over.
        let owner = found
            .map(|meta| (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid())))
            .filter(|(uid, _)| !uid.is_root());
        let account = account::choose(wanted_user, owner)?;
        if !data_dir.exists() {
            // The administrator's token lives here too, so others may pass through, not look.
            let mode = if account.switch { 0o711 } else { 0o700 };
            fs::create_dir_all(data_dir)
                .and_then(|()| fs::set_permissions(data_dir, PermissionsExt::from_mode(mode)))
                .map_err(io_error("create", data_dir))?;
        }
        let data_dir = fs::canonicalize(data_dir).map_err(io_error("resolve", data_dir))?;
        check_ours(&data_dir)?;
        if account.switch {
            check_enterable(&data_dir, account)?;
        }
        let root = data_dir.join("pg");
        let layout = Layout {
            data: root.join("data"),
            run: socket_dir(&root),
            log: root.join("postgres.log"),
            account,
            root,
        };
        layout.own_dir(&layout.root)?;
        layout.own_dir(&layout.run)?;
        Ok(layout)
    }

    /// Makes `dir` a folder for the server's user alone.
    pub(super) fn own_dir(&self, dir: &Path) -> Result<(), Error> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create", dir)(error)),
        }
        // Neither call follows a link, which anybody could have put into a shared folder.
        let mut meta = fs::symlink_metadata(dir).map_err(io_error("inspect", dir))?;
        if self.account.switch && meta.is_dir() && meta.uid() == 0 {
            let Account { uid, gid, .. } = self.account;
            lchown(dir, Some(uid.as_raw()), Some(gid.as_raw())).map_err(io_error("own", dir))?;
            meta = fs::symlink_metadata(dir).map_err(io_error("inspect", dir))?;
        }
        let private = meta.is_dir() && meta.mode() & 0o077 == 0;
        if private && meta.uid() == self.account.uid.as_raw() {
            return Ok(());
        }
        Err(Error::Path {
            path: dir.to_path_buf(),
            why: format!(
                "must be a folder of uid {} with mode 0700; move what is there out of the way",
                self.account.uid
            ),
        })
    }

    /// Opens a file for the server's user alone, making it if missing.
    ///
    /// The folder is another user's, who must not lead root to other files, by links of either kind.
    fn own_file(&self, name: &str, append: bool) -> Result<File, Error> {
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .append(append)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits());
        let opened = match options.clone().create_new(true).open(&path) {
            Ok(file) => self.hand_over(&file).map(|()| file),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(&path),
            Err(error) => Err(error),
        };
        let file = opened.map_err(io_error("open", &path))?;
        let meta = file.metadata().map_err(io_error("inspect", &path))?;
        // Ours is one that another process has made and not handed over yet.
        let owners = [self.account.uid.as_raw(), geteuid().as_raw()];
        if meta.is_file() && meta.nlink() == 1 && owners.contains(&meta.uid()) {
            return Ok(file);
        }
        Err(Error::Path {
            path,
            why: format!(
                "must be a plain file of uid {} with one name; move what is there out of the way",
                self.account.uid
            ),
        })
    }

    /// Gives a file that was just made to the server's user.
    fn hand_over(&self, file: &File) -> io::Result<()> {
        let Account { uid, gid, switch } = self.account;
        if !switch {
            return Ok(());
        }
        fchown(file, Some(uid.as_raw()), Some(gid.as_raw()))
    }

    /// The server's log, open for appending.
    pub(super) fn open_log(&self) -> Result<File, Error> {
        if fs::symlink_metadata(&self.log).is_ok_and(|meta| meta.len() > LOG_BYTES) {
            let aside = self.root.join("postgres.log.old");
            fs::rename(&self.log, aside).map_err(io_error("rename", &self.log))?;
        }
        self.own_file("postgres.log", true)
    }

    /// Waits for the right to decide whether the server is started or stopped.
    ///
    /// # Errors
    /// [`Error::BootLock`] when that takes longer than any holder should.
    pub(super) async fn lock_boot(&self, clock: &Clock) -> Result<File, Error> {
        let file = self.own_file("boot.lock", false)?;
        let path = self.root.join("boot.lock");
        let deadline = clock.instant() + BOOT_LOCK_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
                Err(TryLockError::WouldBlock) if clock.instant() < deadline => {
                    // Polled, since a thread that waits in flock cannot be called back.
                    tokio::time::sleep(BOOT_LOCK_POLL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let limit = BOOT_LOCK_LIMIT;
                    return Err(Error::BootLock { path, limit });
                }
            }
        }
    }

    /// Registers a user of the server until the file is closed. Call with the boot lock held: then
    /// nobody holds this one exclusively.
    pub(super) fn lock_users(&self) -> Result<File, Error> {
        let file = self.own_file("users.lock", false)?;
        let locked = file.try_lock_shared().map_err(io::Error::from);
        locked.map_err(io_error("lock", &self.root.join("users.lock")))?;
        Ok(file)
    }

    /// The major version that wrote the cluster; none if there is no cluster yet.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, Error> {
        if !self.data.exists() {
            return Ok(None);
        }
        let version = fs::read_to_string(self.data.join("PG_VERSION")).unwrap_or_default();
        match version.trim().parse() {
            Ok(major) => Ok(Some(major)),
            Err(_) => Err(Error::Path {
                path: self.data.clone(),
                why: "is not a PostgreSQL data directory (no PG_VERSION); move it away".to_owned(),
            }),
        }
    }
}

/// In the cluster's folder; when that makes the address too long, in one of the short paths
/// everybody computes alike.
fn socket_dir(root: &Path) -> PathBuf {
    let dir = root.join("run");
    if socket_in(&dir).as_os_str().len() <= SOCKET_PATH_BYTES {
        return dir;
    }
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let name = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
    PathBuf::from(format!("/tmp/towpath-{}", name.collect::<String>()))
}

/// The server's socket in that folder.
pub(super) fn socket_in(dir: &Path) -> PathBuf {
    dir.join(format!(".s.PGSQL.{PORT}"))
}

/// What is in the data directory is believed and in part executed, so nobody else may have put it
/// there.
fn check_ours(data_dir: &Path) -> Result<(), Error> {
    let meta = fs::metadata(data_dir).map_err(io_error("inspect", data_dir))?;
    let us = geteuid();
    let why = if ![0, us.as_raw()].contains(&meta.uid()) {
        format!(
            "this folder belongs to uid {}, not to uid {us} who would use it, nor to root; \
             run as its owner, or choose another data directory",
            meta.uid()
        )
    } else if meta.mode() & 0o022 != 0 {
        format!(
            "others may write to this folder (mode {:04o}); `chmod go-w` it, or choose another \
             data directory",
            meta.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    Err(Error::Path {
        path: data_dir.to_path_buf(),
        why,
    })
}

/// A server that cannot reach its folder says only "Permission denied", often about a parent.
fn check_enterable(path: &Path, account: Account) -> Result<(), Error> {
    for dir in path.ancestors() {
        let meta = fs::metadata(dir).map_err(io_error("inspect", dir))?;
        let bit = if meta.uid() == account.uid.as_raw() {
            0o100
        } else if meta.gid() == account.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        if meta.mode() & bit == 0 {
            return Err(Error::Path {
                path: dir.to_path_buf(),
                why: format!(
                    "PostgreSQL would run as uid {}, which may not enter this folder (mode {:04o}); \
                     choose another data directory or `chmod o+x` it",
                    account.uid,
                    meta.mode() & 0o7777
                ),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_a_short_socket_folder_and_always_the_same() {
        let short = Path::new("/var/lib/towpath/pg");
        assert_eq!(socket_dir(short), short.join("run"));
        let long = PathBuf::from(format!("/var/lib/{}/pg", "x".repeat(90)));
        let dir = socket_dir(&long);
        assert!(dir.starts_with("/tmp"), "{dir:?}");
        assert_eq!(dir, socket_dir(&long));
        assert_ne!(dir, socket_dir(&long.join("other")));
    }
}

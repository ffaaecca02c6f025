//! The server as a process: spawned, recognised, and signalled. When to do so is `managed`'s.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

/// A server this process started.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) pid: Pid,
    /// Cancelled when the process has ended and is reaped.
    pub(super) exited: CancellationToken,
}

/// Starts `command` from a thread of its own that then waits for it, because the kernel's
/// parent-death signal follows the thread that forked, not the process.
///
/// Blocks for the fork, so that no caller can be cancelled between it and knowing the child.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    let exited = CancellationToken::new();
    let on_exit = exited.clone().drop_guard();
    let (started, pid) = mpsc::channel();
    let parent = std::thread::Builder::new().name("postgres-parent".to_owned());
    parent.spawn(move || {
        let _on_exit = on_exit;
        match command.spawn() {
            Ok(mut child) => {
                let _received = started.send(Ok(child.id()));
                match child.wait() {
                    Ok(status) => tracing::info!(%status, "PostgreSQL has ended"),
                    Err(error) => tracing::error!(%error, "cannot wait for PostgreSQL"),
                }
            }
            Err(error) => {
                let _received = started.send(Err(error));
            }
        }
    })?;
    let pid = pid.recv().map_err(io::Error::other)??;
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    Ok(Child { pid, exited })
}

/// Asks for a fast shutdown: sessions are cut, committed work is flushed. A process that is
/// gone has obeyed.
pub(super) fn interrupt(pid: Pid) -> io::Result<()> {
    match kill(pid, Signal::SIGINT) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The server running on the data directory, whoever started it.
pub(super) fn postmaster(data: &Path) -> Option<Pid> {
    let pid = pid_in(&data.join("postmaster.pid"))?;
    is_postmaster(pid, data).then_some(pid)
}

/// Whether the process runs and is a server on the data directory, or may be.
pub(super) fn is_postmaster(pid: Pid, data: &Path) -> bool {
    identify(pid, data) == Identity::Postmaster
}

/// Removes a lock file that names a process which lives but is no server of this data directory.
///
/// PostgreSQL itself copes with a process that is absent, and refuses to start for any other of
/// its user: also for a zombie, which is what a killed server stays in a container whose init does
/// not reap. Call with the boot lock held and [`postmaster`] none.
pub(super) fn remove_stale(lock_file: &Path, data: &Path) -> io::Result<()> {
    let absent = pid_in(lock_file).is_some_and(|pid| identify(pid, data) == Identity::Absent);
    if absent || !lock_file.exists() {
        return Ok(());
    }
    tracing::warn!(path = %lock_file.display(), "removing the lock file of a server that is gone");
    match fs::remove_file(lock_file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn pid_in(lock_file: &Path) -> Option<Pid> {
    let content = fs::read_to_string(lock_file).ok()?;
    let pid = content.lines().next()?.trim().parse::<i32>().ok()?;
    (pid > 1).then(|| Pid::from_raw(pid))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Absent,
    /// A zombie, or somebody else who got the number.
    Stranger,
    Postmaster,
}

/// In doubt the answer is `Postmaster`: waiting in vain is better than a second server.
fn identify(pid: Pid, data: &Path) -> Identity {
    let proc = Path::new("/proc").join(pid.to_string());
    if !Path::new("/proc/self/stat").exists() {
        return match kill(pid, None) {
            Err(Errno::ESRCH) => Identity::Absent,
            Ok(()) | Err(_) => Identity::Postmaster,
        };
    }
    let (Ok(stat), Ok(process)) = (fs::read_to_string(proc.join("stat")), fs::metadata(&proc))
    else {
        return Identity::Absent;
    };
    // `pid (name) state …`; the name may hold anything, also parentheses.
    let Some((before, after)) = stat.rsplit_once(')') else {
        return Identity::Postmaster;
    };
    let dead = after.trim_start().starts_with(['Z', 'X']);
    let named = before
        .split_once('(')
        .is_some_and(|(_, name)| name == "postgres");
    let owned = fs::metadata(data).is_ok_and(|data| data.uid() == process.uid());
    if dead || !named || !owned {
        return Identity::Stranger;
    }
    match fs::read_link(proc.join("cwd")) {
        Ok(cwd) if cwd != data => Identity::Stranger,
        Ok(_) | Err(_) => Identity::Postmaster,
    }
}

/// The arguments by which our own program, told to run [`exec_with_parent`], becomes `command`.
pub(super) fn with_parent(helper: &Path, command: &Command, uid: u32, gid: u32) -> Command {
    let mut wrapped = Command::new(helper);
    wrapped.args(["internal-postgres", "--"]);
    for number in [std::process::id(), uid, gid] {
        wrapped.arg(number.to_string());
    }
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// Becomes the server, which the kernel then interrupts when the thread that started us ends.
///
/// For the hidden subcommand `internal-postgres`; `args` is what follows its `--`: our parent's
/// process id, user id and group id of the server, the program and its arguments. The user is
/// changed here and not by the parent, so that a build below root's home can be executed, and
/// before the signal is asked for, which a change of user would clear.
///
/// Returns only if that failed. Only Linux has such a signal.
pub fn exec_with_parent(args: impl IntoIterator<Item = OsString>) -> io::Error {
    match become_server(args.into_iter()) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

#[cfg(target_os = "linux")]
fn become_server(mut args: impl Iterator<Item = OsString>) -> io::Result<std::convert::Infallible> {
    use nix::unistd::{Gid, Uid, geteuid, getppid, setgid, setgroups, setuid};
    use std::os::unix::process::CommandExt;

    let mut number = || -> io::Result<u32> {
        let text = args.next().and_then(|arg| arg.into_string().ok());
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))
    };
    let (parent, uid, gid) = (number()?, number()?, number()?);
    let program = args.next().ok_or(ErrorKind::InvalidInput)?;
    if geteuid().is_root() {
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
    // The parent may have ended before the signal was asked for.
    if u32::try_from(getppid().as_raw()) != Ok(parent) {
        return Err(io::Error::other("the process to live with has ended"));
    }
    Err(Command::new(program).args(args).exec())
}

#[cfg(not(target_os = "linux"))]
fn become_server(_: impl Iterator<Item = OsString>) -> io::Result<std::convert::Infallible> {
    Err(ErrorKind::Unsupported.into())
}

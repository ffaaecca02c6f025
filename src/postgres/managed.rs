//! The managed server: started when nobody has, shared by all processes on its data directory,
//! brought back when it dies, stopped by the last who leaves.
//!
//! Nothing here ends a server that is alive while somebody uses it, or starts a second one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::discover::{self, Places};
use super::error::{Error, io_error};
use super::layout::{self, Layout};
use super::process::{self, Child};
use super::{APPLICATION_NAME, PostgresConfig};
use crate::clock::Clock;

/// Crash recovery of a busy server takes seconds; checkpoints every 2 GB of WAL keep it there.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A new cluster takes a second, on a slow disk a few.
const INITDB_LIMIT: Duration = Duration::from_secs(60);

/// A fast shutdown writes one checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Connecting to a socket nobody listens on costs microseconds.
const READY_POLL: Duration = Duration::from_millis(10);

/// A stopped (SIGSTOP) server accepts into its backlog and never answers.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// How soon the death of a server that another process started is seen.
const ALIVE_POLL: Duration = Duration::from_secs(1);

/// Between attempts to bring a dead server back.
const REVIVE_PAUSE: Duration = Duration::from_secs(5);

/// Between starts while processes of a killed server still hold its shared memory.
const RESPAWN_PAUSE: Duration = Duration::from_millis(100);

/// How much of a program's output an error quotes.
const OUTPUT_BYTES: u64 = 2048;

/// Role and database.
const NAME: &str = "towpath";

/// This process's part in a managed cluster.
pub(super) struct Managed {
    config: PostgresConfig,
    layout: Layout,
    clock: Clock,
    /// The server, if we started it; it may have ended.
    child: Mutex<Option<Child>>,
    /// The shared lock that says we use the server; none once closed.
    users: Mutex<Option<File>>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

enum Probe {
    Ready,
    /// Answers, but does not serve: recovers, or shuts down.
    Busy,
    Silent,
}

impl Managed {
    /// Starts the cluster's server or attaches to the one running, and watches it from then on.
    pub(super) async fn open(
        config: PostgresConfig,
        clock: Clock,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Arc<Managed>, Error> {
        // Of the variables that the driver reads, the one that `connect_options` cannot overrule.
        if let Some(options) = PgConnectOptions::new_without_pgpass().get_options() {
            let options = options.to_owned();
            return Err(Error::Options { options });
        }
        let layout = Layout::prepare(&config.data_dir, config.server_user.as_deref())?;
        let managed = Arc::new(Managed {
            config,
            layout,
            clock,
            child: Mutex::default(),
            users: Mutex::default(),
            supervisor: Mutex::default(),
            stop: cancel.child_token(),
        });
        let started = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            started = managed.join() => started,
        };
        match started {
            Ok(()) => {
                let supervisor = tracker.spawn(Arc::clone(&managed).supervise());
                *lock(&managed.supervisor) = Some(supervisor);
                Ok(managed)
            }
            Err(Error::Cancelled) => managed.close().await.and(Err(Error::Cancelled)),
            // A server that is slow to recover is left to it, for the next attempt to find ready.
            Err(error @ Error::NotReady { .. }) => Err(error),
            Err(error) => {
                if let Err(unclosed) = managed.close().await {
                    let unclosed = &unclosed as &dyn std::error::Error;
                    tracing::error!(error = unclosed, "PostgreSQL may be left running");
                }
                Err(error)
            }
        }
    }

    async fn join(&self) -> Result<(), Error> {
        let boot = self.layout.lock_boot(&self.clock).await?;
        *lock(&self.users) = Some(self.layout.lock_users()?);
        let outcome = self.start_or_attach().await;
        drop(boot);
        outcome
    }

    /// Over the socket, as the cluster's only role.
    pub(super) fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.layout.run)
            .port(layout::PORT)
            .username(NAME)
            .database(NAME)
            .ssl_mode(PgSslMode::Disable)
            .application_name(APPLICATION_NAME)
    }

    /// Ends this process's use of the server and stops it if that was the last.
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.stop.cancel();
        let supervisor = lock(&self.supervisor).take();
        if let Some(supervisor) = supervisor
            && let Err(error) = supervisor.await
        {
            tracing::error!(%error, "the supervisor of PostgreSQL failed");
        }
        let Some(users) = lock(&self.users).take() else {
            return Ok(());
        };
        let boot = self.layout.lock_boot(&self.clock).await?;
        let outcome = match users.try_lock() {
            Ok(()) => self.stop_server().await,
            Err(_) => Ok(()),
        };
        // Before the boot lock, whose next holder counts on this one being free. And explicitly:
        // closing the file would leave it locked while a child being forked still has a copy.
        let unlocked = users.unlock();
        drop(boot);
        unlocked.map_err(io_error("unlock", &self.layout.root.join("users.lock")))?;
        outcome
    }

    /// Call with the boot lock held.
    async fn start_or_attach(&self) -> Result<(), Error> {
        let began = self.clock.instant();
        let mut started: Option<(Child, u64)> = None;
        loop {
            match self.probe().await? {
                Probe::Ready => break,
                Probe::Busy => {}
                Probe::Silent if process::postmaster(&self.layout.data).is_some() => {}
                Probe::Silent => match started {
                    Some((ref child, _)) if !child.exited.is_cancelled() => {}
                    Some((_, log_from)) => {
                        self.check_worth_another_start(log_from)?;
                        tokio::time::sleep(RESPAWN_PAUSE).await;
                        started = Some(self.start().await?);
                    }
                    None => started = Some(self.start().await?),
                },
            }
            if self.clock.instant() - began > READY_LIMIT {
                return Err(Error::NotReady {
                    limit: READY_LIMIT,
                    log: self.layout.log.clone(),
                });
            }
            tokio::time::sleep(READY_POLL).await;
        }
        let ms = (self.clock.instant() - began).as_secs_f64() * 1e3;
        let data = self.layout.data.display();
        if started.is_some() {
            let uid = self.layout.account.uid.as_raw();
            tracing::info!(%data, uid, ms, "started PostgreSQL");
        } else {
            *lock(&self.child) = None;
            tracing::info!(%data, ms, "attached to the running PostgreSQL");
        }
        Ok(())
    }

    async fn probe(&self) -> Result<Probe, Error> {
        let options = self.connect_options();
        match tokio::time::timeout(PROBE_LIMIT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => {
                // The server does not mind how this ends; it has answered.
                let _closed = connection.close().await;
                Ok(Probe::Ready)
            }
            Ok(Err(sqlx::Error::Database(error))) => match error.code().as_deref() {
                Some("57P03") => Ok(Probe::Busy),
                // Too many connections: somebody is served.
                Some("53300") => Ok(Probe::Ready),
                // The server's first start.
                Some("3D000") => self.create_database().await.map(|()| Probe::Ready),
                Some(_) | None => Err(Error::Connect {
                    target: self.layout.run.display().to_string(),
                    source: sqlx::Error::Database(error),
                }),
            },
            Ok(Err(_)) | Err(_) => Ok(Probe::Silent),
        }
    }

    async fn create_database(&self) -> Result<(), Error> {
        let options = self.connect_options().database("postgres");
        let mut connection = super::connect(&options).await?;
        connection
            .execute("create database towpath")
            .await
            .map_err(Error::Query)?;
        connection.close().await.map_err(Error::Query)
    }

    /// Spawns the server, on a new cluster if there is none. Also answers where in the log its
    /// output begins.
    async fn start(&self) -> Result<(Child, u64), Error> {
        let Layout { data, run, .. } = &self.layout;
        let cluster = self.layout.cluster_major()?;
        let places = Places {
            bin_dir: self.config.bin_dir.as_deref(),
            search_path: self.config.search_path.as_deref(),
            root: Path::new("/"),
            data_dir: &self.config.data_dir,
        };
        let cluster = cluster.map(|major| (data.as_path(), major));
        let bin_dir = discover::find(places, cluster).await?.bin_dir;
        if cluster.is_none() {
            self.initdb(&bin_dir).await?;
        }
        // Whatever tidies the folder for temporary files may have taken it.
        self.layout.own_dir(run)?;
        let mut socket_lock = layout::socket_in(run).into_os_string();
        socket_lock.push(".lock");
        for lock_file in [data.join("postmaster.pid"), PathBuf::from(socket_lock)] {
            process::remove_stale(&lock_file, data).map_err(io_error("remove", &lock_file))?;
        }
        let log = self.layout.open_log()?;
        let log_from = log
            .metadata()
            .map_err(io_error("inspect", &self.layout.log))?;
        let command = self.server_command(&bin_dir, log)?;
        let spawned = process::spawn(command);
        let child = spawned.map_err(io_error("run", &bin_dir.join("postgres")))?;
        *lock(&self.child) = Some(child.clone());
        Ok((child, log_from.len()))
    }

    fn server_command(&self, bin_dir: &Path, log: File) -> Result<Command, Error> {
        let mut command = Command::new(bin_dir.join("postgres"));
        let folders = [("-D", &self.layout.data), ("-k", &self.layout.run)];
        for (flag, folder) in folders {
            command.arg(flag).arg(folder);
        }
        for setting in self.settings() {
            command.arg("-c").arg(setting);
        }
        if let Some(helper) = &self.config.pdeath_helper {
            let account = self.layout.account;
            let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
            command = process::with_parent(helper, &command, uid, gid);
            self.confine(&mut command);
        } else {
            self.confine(&mut command);
            self.change_user(&mut command);
        }
        let error_log = log.try_clone();
        let error_log = error_log.map_err(io_error("duplicate", &self.layout.log))?;
        // A terminal's Ctrl-C must reach us and not the server: we drain first.
        command.process_group(0).stdout(log).stderr(error_log);
        Ok(command)
    }

    fn settings(&self) -> Vec<OsString> {
        let on_off = |on| if on { "on" } else { "off" };
        let settings = [
            format!("port={}", layout::PORT),
            "listen_addresses=".to_owned(),
            "unix_socket_permissions=0700".to_owned(),
            format!("max_connections={}", self.config.max_connections),
            format!("fsync={}", on_off(self.config.fsync)),
            "full_page_writes=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "wal_compression=on".to_owned(),
            "max_wal_size=2GB".to_owned(),
            "checkpoint_timeout=15min".to_owned(),
            // Queue tables turn over all the time.
            "autovacuum_naptime=5s".to_owned(),
            // The locks of a client that died must not wait for the end of its statement.
            "client_connection_check_interval=2s".to_owned(),
        ];
        settings.map(OsString::from).into()
    }

    /// Creates the cluster aside and moves it into place whole, so that one which is there can be
    /// started.
    async fn initdb(&self, bin_dir: &Path) -> Result<(), Error> {
        let aside = self.layout.root.join("data.new");
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(io_error("remove", &aside))?;
        }
        let mut command = Command::new(bin_dir.join("initdb"));
        command.arg("-D").arg(&aside).args([
            "--username=towpath",
            "--encoding=UTF8",
            "--locale=C",
            "--auth-local=trust",
            "--auth-host=reject",
            "--data-checksums",
        ]);
        if !self.config.fsync {
            command.arg("--no-sync");
        }
        self.confine(&mut command);
        self.change_user(&mut command);
        let mut command = tokio::process::Command::from(command);
        let output = command.kill_on_drop(true).output();
        let Ok(output) = tokio::time::timeout(INITDB_LIMIT, output).await else {
            let output = format!("it still ran after {INITDB_LIMIT:?}");
            return Err(Error::Initdb { output });
        };
        let output = output.map_err(io_error("run", &bin_dir.join("initdb")))?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Initdb { output });
        }
        fs::rename(&aside, &self.layout.data)
            .and_then(|()| File::open(&self.layout.root)?.sync_all())
            .map_err(io_error("create", &self.layout.data))
    }

    /// Secrets in our environment are not the server's business, and `PG*` must not steer it.
    fn confine(&self, command: &mut Command) {
        command
            .env_clear()
            .envs([("LC_ALL", "C"), ("TZ", "UTC")])
            .current_dir(&self.layout.root)
            .stdin(Stdio::null());
    }

    fn change_user(&self, command: &mut Command) {
        let account = self.layout.account;
        if account.switch {
            command.uid(account.uid.as_raw()).gid(account.gid.as_raw());
        }
    }

    /// A server that was killed leaves processes that notice within moments; until then a new one
    /// refuses to start. Anything else it says is final.
    fn check_worth_another_start(&self, log_from: u64) -> Result<(), Error> {
        let log = &self.layout.log;
        let output = tail(log, log_from).map_err(io_error("read", log))?;
        let passing = ["pre-existing shared memory block", "\" already exists"];
        if passing.iter().any(|words| output.contains(words)) {
            return Ok(());
        }
        let log = log.clone();
        Err(Error::Start { log, output })
    }

    /// Call with the boot lock held and nobody using the server.
    async fn stop_server(&self) -> Result<(), Error> {
        let child = lock(&self.child).clone();
        let child = child.filter(|child| !child.exited.is_cancelled());
        let data = &self.layout.data;
        // A server just spawned has not written its file yet.
        let pid = child.as_ref().map(|child| child.pid);
        let Some(pid) = pid.or_else(|| process::postmaster(data)) else {
            return Ok(());
        };
        process::interrupt(pid).map_err(io_error("interrupt the server of", data))?;
        let gone = async {
            match child {
                Some(child) => child.exited.cancelled().await,
                // Its file is gone a moment before it is.
                None => self.ended(pid, READY_POLL).await,
            }
        };
        let stopped = tokio::time::timeout(STOP_LIMIT, gone).await;
        stopped.map_err(|_elapsed| Error::Stop {
            pid: pid.as_raw(),
            limit: STOP_LIMIT,
        })?;
        tracing::info!(data = %data.display(), "stopped PostgreSQL");
        Ok(())
    }

    async fn supervise(self: Arc<Self>) {
        let revive = async {
            loop {
                self.server_gone().await;
                tracing::error!(data = %self.layout.data.display(), "PostgreSQL has died; starting it again");
                if let Err(error) = self.revive().await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "PostgreSQL stays down for now"
                    );
                    tokio::time::sleep(REVIVE_PAUSE).await;
                }
                // Whatever the reason, never in a circle without a pause.
                tokio::time::sleep(ALIVE_POLL).await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = revive => {}
        }
    }

    async fn revive(&self) -> Result<(), Error> {
        let _boot = self.layout.lock_boot(&self.clock).await?;
        self.start_or_attach().await
    }

    async fn server_gone(&self) {
        let child = lock(&self.child).clone();
        match child {
            Some(child) => child.exited.cancelled().await,
            None => match process::postmaster(&self.layout.data) {
                Some(pid) => self.ended(pid, ALIVE_POLL).await,
                // It answers and cannot be seen, as from another container: then it is asked.
                None => {
                    while !matches!(self.probe().await, Ok(Probe::Silent)) {
                        tokio::time::sleep(ALIVE_POLL).await;
                    }
                }
            },
        }
    }

    async fn ended(&self, pid: Pid, poll: Duration) {
        while process::is_postmaster(pid, &self.layout.data) {
            tokio::time::sleep(poll).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of the file, from `from` on and not more than an error should quote.
fn tail(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let start = file
        .metadata()?
        .len()
        .saturating_sub(OUTPUT_BYTES)
        .max(from);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

//! Servers to compare with, in processes of their own, so that they cost what a server costs: this
//! program again, under a hidden command.

use std::io::{BufRead as _, BufReader, Write, sink, stdin};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

/// A running server; dropping it ends it.
pub(super) struct Child {
    child: std::process::Child,
    pub(super) address: SocketAddr,
}

impl Child {
    /// Starts this program as `command`, which is told `secret` where nobody else reads it.
    pub(super) fn start(command: &str, secret: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for us: what it has in a database is to be removed first.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command}"))?;
        let told = child
            .stdin
            .as_mut()
            .map(|input| writeln!(input, "{secret}"));
        told.transpose()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "{command} did not start");
        let address = line.trim().parse();
        let address = address.with_context(|| format!("{command} does not say where it is"))?;
        Ok(Self { child, address })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The end of its input ends it; it also comes when this process dies.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// What the parent tells.
pub(super) fn secret() -> anyhow::Result<String> {
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Says on `out` where it serves, and serves until the parent ends or ends this.
pub(super) async fn serve(router: Router, out: &mut impl Write) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    let listener = listener.tap_io(|stream| {
        // Without it the server would only be slower.
        let _best_effort = stream.set_nodelay(true);
    });
    let input_ends = tokio::task::spawn_blocking(|| std::io::copy(&mut stdin(), &mut sink()));
    tokio::select! {
        served = axum::serve(listener, router) => served.context("the server failed"),
        _ended = input_ends => Ok(()),
    }
}

/// Runs a server to its end.
pub(super) fn run(server: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(server);
    // Reading stdin holds a thread of the runtime that nothing can interrupt.
    runtime.shutdown_background();
    served
}

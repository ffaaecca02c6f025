//! The bare echo that ratios are taken to: an axum server that does nothing, in a process of its
//! own, so that it costs what a server costs.

use std::io::{BufRead as _, BufReader, Write, sink, stdin};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;

/// The running echo; dropping it ends it.
pub(super) struct Echo {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Echo {
    /// Starts this program again as the echo.
    pub(super) fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .arg("internal-echo")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the echo server")?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        let address = address.context("the echo server did not say where it listens")?;
        Ok(Self { child, address })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // The end of its input ends it; it also comes when this process dies.
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// Answers every request with its own body until stdin ends; says on `out` where.
///
/// # Errors
/// It cannot listen.
pub(in crate::cli) fn serve_echo(out: &mut impl Write) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        let listener = listener.tap_io(|stream| {
            // Without it the echo would only be slower.
            let _best_effort = stream.set_nodelay(true);
        });
        let router = Router::new()
            .route("/echo", post(async |body: Bytes| body))
            // The default is less than what one request may hold.
            .layer(DefaultBodyLimit::disable());
        let input_ends = tokio::task::spawn_blocking(|| std::io::copy(&mut stdin(), &mut sink()));
        tokio::select! {
            served = axum::serve(listener, router) => served.context("the echo server failed"),
            _ended = input_ends => Ok(()),
        }
    });
    // Reading stdin holds a thread of the runtime that nothing can interrupt.
    runtime.shutdown_background();
    served
}

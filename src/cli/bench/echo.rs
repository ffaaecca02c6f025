//! The bare echo that ratios are taken to: an axum server that does nothing.

use std::io::Write;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;

use super::child;

/// The hidden command.
pub(super) const COMMAND: &str = "internal-echo";

/// Answers every request with its own body until stdin ends; says on `out` where.
///
/// # Errors
/// It cannot listen.
pub(in crate::cli) fn serve_echo(out: &mut impl Write) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/echo", post(async |body: Bytes| body))
        // The default is less than what one request may hold.
        .layer(DefaultBodyLimit::disable());
    child::run(child::serve(router, out))
}

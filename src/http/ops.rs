//! What operators' machines ask: is the process alive, and should it get requests. Unlike all else
//! these two are answered to everyone, at any load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use super::rest::Json;
use super::rest::problem::{Failure, chain};
use super::{Gate, to_its_end};
use crate::domain::{Error, Result};

/// Whether a path is one of this file's.
pub(super) fn is_probe(path: &str) -> bool {
    path == "/healthz" || path == "/readyz"
}

/// How the node is.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` for a living process, `ready` for one that should get requests.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process alive?
///
/// Looks at nothing but the process itself: a node whose database is away is alive.
#[utoipa::path(
    get, path = "/healthz", operation_id = "getHealth", tag = "operations", security(()),
    responses((status = 200, description = "The process is alive", body = Health,
        example = json!({"status": "ok"}))),
)]
pub(super) async fn get_health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Should this node get requests?
///
/// Yes when its database answers within a second, has the schema, and the node is not shutting
/// down. The database is asked at most once a second.
#[utoipa::path(
    get, path = "/readyz", operation_id = "getReadiness", tag = "operations", security(()),
    responses(
        (status = 200, description = "The node should get requests", body = Health,
            example = json!({"status": "ready"})),
        (status = 503, description = "The node should get no requests now"),
    ),
)]
pub(super) async fn get_readiness(State(gate): State<Arc<Gate>>) -> Result<Json<Health>, Failure> {
    let http = &gate.http;
    if http.shutdown.draining.is_cancelled() {
        return Err(Error::ShuttingDown.into());
    }
    let service = http.service.clone();
    let check = async move { service.is_ready().await };
    gate.readiness
        .ask(&http.tasks, http.clock.instant(), check)
        .await?;
    Ok(Json(Health { status: "ready" }))
}

/// How long an answer about the database holds: probes are everybody's, and must not be a way to
/// make it work or the log grow.
const READINESS_HOLDS: Duration = Duration::from_secs(1);

/// What was last found out about the database. The lock is held while it is being found out.
#[derive(Default)]
pub(super) struct Readiness(Arc<Mutex<Option<Known>>>);

#[derive(Clone, Copy)]
struct Known {
    at: Instant,
    is_ready: bool,
}

impl Readiness {
    /// Tells what is known, or runs the check to its end when that is too old.
    async fn ask(
        &self,
        tasks: &TaskTracker,
        now: Instant,
        check: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let mut known = Arc::clone(&self.0).lock_owned().await;
        let is_ready = match *known {
            Some(last) if now.saturating_duration_since(last.at) < READINESS_HOLDS => last.is_ready,
            last => {
                let refreshed = async move {
                    let is_ready = told(last, check.await);
                    *known = Some(Known { at: now, is_ready });
                    Ok(is_ready)
                };
                to_its_end(tasks, refreshed).await?
            }
        };
        if is_ready {
            Ok(())
        } else {
            Err(Error::Unavailable(None))
        }
    }
}

/// Logs a change, and says whether the node is ready.
fn told(last: Option<Known>, found: Result<()>) -> bool {
    let was_ready = last.is_none_or(|last| last.is_ready);
    match &found {
        Ok(()) if !was_ready => tracing::info!("ready again"),
        Err(error) if was_ready => tracing::error!("not ready: {}", chain(error)),
        Ok(()) | Err(_) => {}
    }
    found.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::clock::Clock;

    #[derive(Default, Clone)]
    struct Database(Arc<AtomicU32>);

    impl Database {
        fn check(&self) -> impl Future<Output = Result<()>> + Send + 'static {
            let asked = Arc::clone(&self.0);
            async move {
                let before = asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                (before == 0).then_some(()).ok_or(Error::Unavailable(None))
            }
        }

        fn was_asked(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn the_database_is_asked_at_most_once_a_second() {
        let (readiness, tasks, database) = (
            Readiness::default(),
            TaskTracker::new(),
            Database::default(),
        );
        let now = Clock::default().instant();
        let ask = |ms| {
            let then = now + Duration::from_millis(ms);
            readiness.ask(&tasks, then, database.check())
        };
        let (one, two, three) = tokio::join!(ask(0), ask(0), ask(999));
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        assert_eq!(database.was_asked(), 1);
        let (one, two) = tokio::join!(ask(1000), ask(1999));
        assert!(one.is_err() && two.is_err());
        assert_eq!(database.was_asked(), 2);
    }

    #[tokio::test]
    async fn a_probe_that_hangs_up_does_not_make_the_next_one_ask_again() {
        let (readiness, tasks, database) = (
            Readiness::default(),
            TaskTracker::new(),
            Database::default(),
        );
        let now = Clock::default().instant();
        tokio::select! {
            biased;
            _ = readiness.ask(&tasks, now, database.check()) => panic!("it waits"),
            () = std::future::ready(()) => {}
        }
        readiness.ask(&tasks, now, database.check()).await.unwrap();
        assert_eq!(database.was_asked(), 1);
    }
}

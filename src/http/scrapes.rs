//! Metrics for Prometheus: who may read them, and in which form. What is counted is not decided here.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::IntoResponse;

use super::Gate;
use super::authorized::{Authorized, needs};
use super::rest::NoQuery;
use super::rest::problem::Failure;

const OF_NODE: &str = "/metrics";
const OF_QUEUES: &str = "/metrics/queues";

/// Prometheus' text format.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4";

/// Whether a path is one of this file's.
pub(super) fn is_scrape(path: &str) -> bool {
    path == OF_NODE || path == OF_QUEUES
}

/// Somebody who may read metrics: with the right, or anybody where they are public.
pub(super) struct Scraper;

impl FromRequestParts<Arc<Gate>> for Scraper {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, gate: &Arc<Gate>) -> Result<Self, Failure> {
        if !gate.http.metrics_are_public {
            Authorized::<needs::ReadMetadata>::from_request_parts(parts, gate).await?;
        }
        Ok(Self)
    }
}

/// Read the node's metrics
///
/// In Prometheus' text format, queues added up. What they are is in docs/metrics.md. Where `metrics.public` is set
/// no token is needed.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain",
        example = "# HELP towpath_messages_deleted_total Messages deleted by receivers\n\
                   # TYPE towpath_messages_deleted_total counter\n\
                   towpath_messages_deleted_total 42\n")),
)]
pub(super) async fn get_metrics(
    _scraper: Scraper,
    _query: NoQuery,
    State(gate): State<Arc<Gate>>,
) -> impl IntoResponse {
    let text = gate.http.service.metrics().render();
    ([(CONTENT_TYPE, MEDIA_TYPE)], text)
}

/// Read the metrics of queues
///
/// As `getMetrics`, each queue for itself: for as many queues as `metrics.max_queues` says.
/// `towpath_queues_omitted` says how many are left out.
#[utoipa::path(
    get, path = "/metrics/queues", operation_id = "getQueueMetrics", tag = "operations",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain",
        example = "# HELP towpath_messages_deleted_total Messages deleted by receivers\n\
                   # TYPE towpath_messages_deleted_total counter\n\
                   towpath_messages_deleted_total{queue=\"orders\"} 42\n")),
)]
pub(super) async fn get_queue_metrics(
    _scraper: Scraper,
    _query: NoQuery,
    State(gate): State<Arc<Gate>>,
) -> impl IntoResponse {
    let text = gate.http.service.metrics().render_queues();
    ([(CONTENT_TYPE, MEDIA_TYPE)], text)
}

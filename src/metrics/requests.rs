//! How long requests take, by method, route and status: a histogram for each that has occurred.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use ::metrics::{Histogram, Recorder as _};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::families::REQUEST_SECONDS;
use super::{METADATA, key};

/// Methods that have series of their own; others share one, since callers can make any up.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
const OTHER: &str = "other";

/// Most series: routes and methods are few, and a server answers with some dozens of statuses. Beyond it
/// nothing is recorded.
const MAX_SERIES: usize = 4_096;

/// By route, then by method and status. A look-up takes a lock for reading and allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Requests(RwLock<HashMap<String, OfRoute>>);

/// By method and status.
type OfRoute = HashMap<(&'static str, u16), Histogram>;

impl Requests {
    pub(super) fn record(
        &self,
        recorder: &PrometheusRecorder,
        method: &str,
        route: &str,
        status: u16,
        took: Duration,
    ) {
        let method = METHODS.into_iter().find(|known| *known == method);
        let method = method.unwrap_or(OTHER);
        let seconds = took.as_secs_f64();
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = known.get(route).and_then(|of| of.get(&(method, status))) {
            histogram.record(seconds);
            return;
        }
        let series: usize = known.values().map(HashMap::len).sum();
        drop(known);
        if series >= MAX_SERIES {
            return;
        }
        let status_text = status.to_string();
        let labels = [
            ("method", method),
            ("route", route),
            ("status", &status_text),
        ];
        let histogram = recorder.register_histogram(&key(REQUEST_SECONDS, &labels), &METADATA);
        histogram.record(seconds);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let of_route = known.entry(route.to_owned()).or_default();
        of_route.insert((method, status), histogram);
    }
}

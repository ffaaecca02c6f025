//! The table of all metrics: docs/metrics.md is written from it, and nothing else is exported.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows, until the node starts anew.
    Counter,
    /// The value of a moment.
    Gauge,
    /// How many values were at most so large, with these bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Prometheus' word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Where a metric is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `/metrics`, on every node.
    Node,
    /// `/metrics`, on the elected node.
    Elected,
    /// `/metrics`, and with the label `queue` at `/metrics/queues`, on every node.
    Queues,
    /// The same, on the elected node.
    ElectedQueues,
    /// `/metrics` and `/metrics/queues` alike, on every node.
    Both,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name, with the unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels but for `queue`.
    pub labels: &'static [&'static str],
    /// Where it is.
    pub place: Place,
    /// What it says.
    pub help: &'static str,
}

pub(super) const MESSAGES: &str = "towpath_queue_messages";
pub(super) const OLDEST_AGE: &str = "towpath_queue_oldest_message_age_seconds";
pub(super) const OMITTED: &str = "towpath_queues_omitted";
pub(super) const SENT: &str = "towpath_messages_sent_total";
pub(super) const SENT_BYTES: &str = "towpath_sent_bytes_total";
pub(super) const RECEIVED: &str = "towpath_messages_received_total";
pub(super) const EMPTY_RECEIVES: &str = "towpath_empty_receives_total";
pub(super) const DELETED: &str = "towpath_messages_deleted_total";
pub(super) const DEAD_LETTERED: &str = "towpath_messages_dead_lettered_total";
pub(super) const REDRIVEN: &str = "towpath_messages_redriven_total";
pub(super) const WAIT: &str = "towpath_message_wait_seconds";
pub(super) const WAITERS: &str = "towpath_long_poll_waiters";
pub(super) const STORE_SECONDS: &str = "towpath_store_seconds";
pub(super) const BATCH_SIZE: &str = "towpath_batch_size";
pub(super) const REQUEST_SECONDS: &str = "http_server_request_duration_seconds";
pub(super) const AUTH_FAILURES: &str = "towpath_auth_failures_total";
pub(super) const DB_CONNECTIONS: &str = "towpath_db_connections";
pub(super) const SNAPSHOT_AGE: &str = "towpath_db_oldest_snapshot_age_seconds";
pub(super) const DEAD_ROWS: &str = "towpath_db_dead_rows";
pub(super) const TASK_SUCCESS: &str = "towpath_task_last_success_timestamp_seconds";
pub(super) const BUILD_INFO: &str = "towpath_build_info";

const REQUEST_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0,
];
const STORE_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];
const SIZE_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
];
/// From milliseconds to a day.
const WAIT_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0, 21600.0, 86400.0,
];

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    place: Place,
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        labels,
        place,
        help,
    }
}

/// Every metric, in the order of the documentation.
pub const FAMILIES: &[Family] = &[
    family(
        MESSAGES,
        Kind::Gauge,
        &["state"],
        Place::ElectedQueues,
        "Messages that a queue holds: visible, in_flight or delayed",
    ),
    family(
        OLDEST_AGE,
        Kind::Gauge,
        &[],
        Place::ElectedQueues,
        "How long ago the oldest message that is still there was sent; 0 when there is none",
    ),
    family(
        OMITTED,
        Kind::Gauge,
        &[],
        Place::Both,
        "Queues without series of their own, because there are more than metrics.max_queues",
    ),
    family(
        SENT,
        Kind::Counter,
        &[],
        Place::Queues,
        "Messages stored for senders; a repeated send counts once",
    ),
    family(
        SENT_BYTES,
        Kind::Counter,
        &[],
        Place::Queues,
        "Bytes of the bodies of messages sent",
    ),
    family(
        RECEIVED,
        Kind::Counter,
        &[],
        Place::Queues,
        "Messages handed to receivers; one that is received again counts again",
    ),
    family(
        EMPTY_RECEIVES,
        Kind::Counter,
        &[],
        Place::Queues,
        "Receives that were answered without a message",
    ),
    family(
        DELETED,
        Kind::Counter,
        &[],
        Place::Queues,
        "Messages deleted by receivers",
    ),
    family(
        DEAD_LETTERED,
        Kind::Counter,
        &[],
        Place::Queues,
        "Messages that left the queue for its dead-letter queue",
    ),
    family(
        REDRIVEN,
        Kind::Counter,
        &[],
        Place::Queues,
        "Messages that redrives moved out of the queue",
    ),
    family(
        WAIT,
        Kind::Histogram(WAIT_BUCKETS),
        &[],
        Place::Node,
        "From a message's sending to its first receive, delays included",
    ),
    family(
        WAITERS,
        Kind::Gauge,
        &[],
        Place::Node,
        "Receives that wait for a message",
    ),
    family(
        STORE_SECONDS,
        Kind::Histogram(STORE_BUCKETS),
        &["op"],
        Place::Node,
        "Time of a statement of the hot path at the database: append, claim, ack or extend",
    ),
    family(
        BATCH_SIZE,
        Kind::Histogram(SIZE_BUCKETS),
        &["op"],
        Place::Node,
        "Messages that such a statement carried; for claims, receivers",
    ),
    family(
        REQUEST_SECONDS,
        Kind::Histogram(REQUEST_BUCKETS),
        &["method", "route", "status"],
        Place::Node,
        "Time from a request's head to its answer, the waiting of receives included",
    ),
    family(
        AUTH_FAILURES,
        Kind::Counter,
        &["reason"],
        Place::Node,
        "Requests refused for who sent them: unauthenticated, forbidden or address_not_allowed",
    ),
    family(
        DB_CONNECTIONS,
        Kind::Gauge,
        &["state"],
        Place::Node,
        "Connections to the database: idle or used in the pool, or dedicated to a batcher or task",
    ),
    family(
        SNAPSHOT_AGE,
        Kind::Gauge,
        &["holder"],
        Place::Elected,
        "Age of the oldest transaction that holds back vacuum, by what holds it: session, \
         prepared_transaction, replication_slot or standby; 0 when none does",
    ),
    family(
        DEAD_ROWS,
        Kind::Gauge,
        &["table"],
        Place::Elected,
        "Dead rows of a hot table, as PostgreSQL estimates them",
    ),
    family(
        TASK_SUCCESS,
        Kind::Gauge,
        &["task"],
        Place::Elected,
        "When a background task of this node last did its work, in seconds since 1970",
    ),
    family(
        BUILD_INFO,
        Kind::Gauge,
        &["version"],
        Place::Node,
        "Always 1; the label says which version runs",
    ),
];

/// The row of a metric.
pub(super) fn of(name: &str) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.name == name);
    found.expect("every name of this file has a row")
}

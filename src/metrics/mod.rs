//! What a node counts and measures, and how it says so to Prometheus. Who may read it is decided in `http`.
//!
//! Handles are made once and kept, so that what is counted on the hot path costs an atomic addition, and is
//! counted per request or batch. Series of queues stand in a bounded map of their own (`queues`): the exporter
//! cannot forget a series whose handle is still held. What only the elected node knows is laid over the rest as
//! a whole (`Seen`), and taken away as a whole when it is elected no more.

mod database;
mod families;
mod queues;
mod requests;
mod text;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use time::OffsetDateTime;

// From the root, since this module has the crate's name.
use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};

pub use database::{Database, DeadRows, SnapshotAge};
pub use families::{FAMILIES, Family, Kind, Place};
pub use queues::{Count, QueueHolds};

use crate::domain::lane::QueueId;
use crate::domain::queue::Queue;
use queues::Queues;
use requests::Requests;

/// Whom series belong to: names of code, which nothing here asks for.
const METADATA: Metadata<'static> = Metadata::new("towpath", Level::INFO, None);

/// A kind of statement of the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Stores messages.
    Append,
    /// Hands messages to receivers.
    Claim,
    /// Deletes messages.
    Ack,
    /// Moves the ends of windows.
    Extend,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Append, Self::Claim, Self::Ack, Self::Extend];

    const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Claim => "claim",
            Self::Ack => "ack",
            Self::Extend => "extend",
        }
    }
}

/// Why somebody was refused for who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or one that does not hold.
    Unauthenticated,
    /// The token lacks the right.
    Forbidden,
    /// The address is not on the allowlist.
    AddressNotAllowed,
}

impl Refusal {
    const ALL: [Self; 3] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::AddressNotAllowed,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::AddressNotAllowed => "address_not_allowed",
        }
    }
}

/// Connections to the database at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Of the pool, with nothing to do.
    pub idle: usize,
    /// Of the pool, at work.
    pub used: usize,
    /// Of batchers and background tasks, each its own.
    pub dedicated: usize,
}

/// The metrics of one node; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Parts>);

struct Parts {
    recorder: PrometheusRecorder,
    exporter: PrometheusHandle,
    counts: [Counter; Count::ALL.len()],
    store: [Histogram; Operation::ALL.len()],
    batch: [Histogram; Operation::ALL.len()],
    wait: Histogram,
    waiters: Gauge,
    connections: [Gauge; 3],
    refusals: [Counter; Refusal::ALL.len()],
    requests: Requests,
    queues: Queues,
    database: Mutex<Option<Database>>,
}

/// By hand: what is counted is for who scrapes it.
impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// Nothing counted yet. At most `max_queues` queues have series of their own.
    pub fn new(max_queues: usize) -> Self {
        let recorder = recorder();
        let labelled = |name, label, value| key(name, &[(label, value)]);
        let counts = Count::ALL
            .map(|count| recorder.register_counter(&Key::from_name(count.family()), &METADATA));
        let by_operation = |name| {
            Operation::ALL.map(|operation| {
                recorder.register_histogram(&labelled(name, "op", operation.name()), &METADATA)
            })
        };
        let gauge = |key: &Key| recorder.register_gauge(key, &METADATA);
        let connections = ["idle", "used", "dedicated"]
            .map(|state| gauge(&labelled(families::DB_CONNECTIONS, "state", state)));
        let refusals = Refusal::ALL.map(|refusal| {
            let key = labelled(families::AUTH_FAILURES, "reason", refusal.name());
            recorder.register_counter(&key, &METADATA)
        });
        let version = env!("CARGO_PKG_VERSION");
        gauge(&labelled(families::BUILD_INFO, "version", version)).set(1.0);
        Self(Arc::new(Parts {
            counts,
            store: by_operation(families::STORE_SECONDS),
            batch: by_operation(families::BATCH_SIZE),
            wait: recorder.register_histogram(&Key::from_name(families::WAIT), &METADATA),
            waiters: gauge(&Key::from_name(families::WAITERS)),
            connections,
            refusals,
            requests: Requests::default(),
            queues: Queues::new(max_queues),
            database: Mutex::default(),
            exporter: recorder.handle(),
            recorder,
        }))
    }

    /// Counts what happened in a queue.
    pub fn count(&self, queue: &Queue, counts: &[(Count, usize)]) {
        let of_queue = self.0.queues.of(queue.id, &queue.name);
        for (count, number) in counts {
            let number = u64::try_from(*number).unwrap_or(u64::MAX);
            self.0.counts[*count as usize].increment(number);
            if let Some(of_queue) = &of_queue {
                of_queue.add(*count, number);
            }
        }
    }

    /// A statement of the hot path has ended, well or not, that carried so many messages; a claim, so many
    /// receivers.
    pub fn statement(&self, operation: Operation, took: Duration, size: usize) {
        self.0.store[operation as usize].record(took.as_secs_f64());
        self.0.batch[operation as usize].record(as_float(size));
    }

    /// Messages were received for the first time, so long after they were sent.
    pub fn waited(&self, wait: Duration, messages: usize) {
        self.0.wait.record_many(wait.as_secs_f64(), messages);
    }

    /// So many receives wait that did not before, or fewer.
    pub fn waiters_changed(&self, before: usize, now: usize) {
        if before != now {
            self.0.waiters.increment(as_float(now) - as_float(before));
        }
    }

    /// Somebody was refused.
    pub fn refused(&self, refusal: Refusal) {
        self.0.refusals[refusal as usize].increment(1);
    }

    /// A request was answered. `route` is a template of a path: there is a limited number of them.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.0
            .requests
            .record(&self.0.recorder, method, route, status, took);
    }

    /// A background task has done its work once more. Not for hot paths.
    pub fn task_succeeded(&self, task: &'static str, at: OffsetDateTime) {
        let key = key(families::TASK_SUCCESS, &[("task", task)]);
        let gauge = self.0.recorder.register_gauge(&key, &METADATA);
        gauge.set(
            Duration::try_from(at - OffsetDateTime::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
        );
    }

    /// How many connections there are to the database.
    pub fn set_connections(&self, connections: Connections) {
        let Connections {
            idle,
            used,
            dedicated,
        } = connections;
        for (gauge, count) in self.0.connections.iter().zip([idle, used, dedicated]) {
            gauge.set(as_float(count));
        }
    }

    /// What queues hold, of all that hold something; `None` on a node that does not know.
    pub fn set_queues(&self, holds: Option<Vec<QueueHolds>>) {
        self.0.queues.set_holds(holds);
    }

    /// How the database is; `None` on a node that does not look.
    pub fn set_database(&self, database: Option<Database>) {
        *self
            .0
            .database
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = database;
    }

    /// A queue is gone, and with it its series.
    pub fn forget(&self, queue: QueueId) {
        self.0.queues.forget(queue);
    }

    /// Takes in what histograms were given, which takes memory until then, and forgets queues that nothing
    /// happened in for long. To be called every second or so.
    pub fn upkeep(&self, now: Instant) {
        self.0.exporter.run_upkeep();
        self.0.queues.forget_idle(now);
    }

    /// Everything of this node, queues added up.
    pub fn render(&self) -> String {
        let mut text = self.0.exporter.render();
        self.0.queues.render_sums(&mut text);
        let database = self.0.database.lock();
        let database = database.unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = database.as_ref() {
            database.render(&mut text);
        }
        text
    }

    /// Each queue's own.
    pub fn render_queues(&self) -> String {
        let mut text = String::new();
        self.0.queues.render(&mut text);
        text
    }
}

fn recorder() -> PrometheusRecorder {
    let mut builder = PrometheusBuilder::new();
    for family in FAMILIES {
        if let Kind::Histogram(buckets) = family.kind {
            let name = Matcher::Full(family.name.to_owned());
            let set = builder.set_buckets_for_metric(name, buckets);
            builder = set.expect("a histogram has buckets");
        }
    }
    let recorder = builder.build_recorder();
    for family in FAMILIES {
        let (name, help) = (family.name.into(), family.help.into());
        match family.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
        }
    }
    recorder
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels = labels.iter();
    let labels = labels.map(|(name, value)| Label::new(*name, (*value).to_owned()));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what is counted here is far below 2^52"
)]
fn as_float(count: usize) -> f64 {
    count as f64
}

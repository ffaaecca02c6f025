//! The parts of a node that stand below its protocols, over a test's database.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::broker::{Broker, BrokerOptions, BrokerParts, Keys, WriterLease};
use towpath::clock::Clock;
use towpath::domain::lane::{Class, LaneId, Position, QueueId, SubscriptionId, Writer};
use towpath::domain::message_id::IdKey;
use towpath::domain::receipt::{Receipt, ReceiptKey};
use towpath::maintenance::redrive::{self, Redrives};
use towpath::metrics::Metrics;
use towpath::service::Service;
use towpath::store::{Commit, Session, Store};
use uuid::Uuid;

use super::database::{Database, STATEMENT_TIMEOUT};

/// Queues with series of their own: few, so that a test can have more.
pub(crate) const MAX_QUEUES: usize = 3;

fn options() -> BrokerOptions {
    BrokerOptions {
        append_batch: 512,
        claim_batch: 256,
        ack_batch: 1024,
        queue_length: 8192,
        max_waiting_receives: 1000,
        safety_probe: Duration::from_secs(5),
        statement_timeout: STATEMENT_TIMEOUT,
    }
}

pub(crate) fn store(database: &Database) -> Store {
    Store::new(
        database.options.clone(),
        4,
        Duration::from_secs(5),
        STATEMENT_TIMEOUT,
    )
}

/// A broker with a writer number of its own; all brokers of the tests share their keys.
pub(crate) async fn broker(database: &Database) -> Broker {
    start(database, &options()).await
}

/// The same, which does not look at queues for safety while a test lasts.
pub(crate) async fn broker_without_safety_net(database: &Database) -> Broker {
    let options = BrokerOptions {
        safety_probe: Duration::from_secs(600),
        ..options()
    };
    start(database, &options).await
}

async fn start(database: &Database, options: &BrokerOptions) -> Broker {
    let store = store(database);
    let node = Uuid::new_v4();
    let writer = async || WriterLease::take(store.clone(), node).await.unwrap();
    let parts = BrokerParts {
        store: &store,
        node,
        keys: Keys {
            id: IdKey::new(&[1; 16]),
            receipt: receipt_key(),
        },
        writers: [writer().await, writer().await],
        clock: Clock::default(),
        tracker: &TaskTracker::new(),
        draining: CancellationToken::new(),
        background: CancellationToken::new(),
        failed: CancellationToken::new(),
        metrics: Metrics::new(MAX_QUEUES),
    };
    Broker::start(options, parts)
}

pub(crate) async fn service(database: &Database) -> Service {
    let broker = broker(database).await;
    Service::new(broker, store(database), Uuid::new_v4(), TaskTracker::new())
}

/// A service whose node does redrives, too, until that is cancelled.
pub(crate) async fn redriving(database: &Database, until: CancellationToken) -> Service {
    let (broker, id) = (broker(database).await, Uuid::new_v4());
    let service = Service::new(broker.clone(), store(database), id, TaskTracker::new());
    let session = Session::new(&database.options, STATEMENT_TIMEOUT, Commit::Soon);
    let redrives = Redrives {
        store: store(database),
        session: Arc::new(Mutex::new(session)),
        broker,
        node: id,
        wanted: service.redrives_wanted(),
        clock: Clock::default(),
    };
    TaskTracker::new().spawn(redrive::run(redrives, until));
    service
}

pub(crate) fn receipt_key() -> ReceiptKey {
    ReceiptKey::new(1, &[2; ReceiptKey::BYTES])
}

/// A genuine handle, as from before a restore: the first queue of a database has not delivered so
/// many messages.
pub(crate) fn handle_of_no_delivery() -> String {
    let lane = LaneId::new(QueueId::new(1).unwrap(), Class::READY, Writer(0));
    receipt_key().seal(&Receipt {
        position: Position {
            lane,
            seq: 1_000_000,
            salt: 1,
        },
        subscription: SubscriptionId::QUEUE,
        epoch: 0,
        token: 1,
        lease_size: 1,
        lease_index: 0,
        moved: false,
    })
}

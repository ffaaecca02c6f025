//! The composition root: from a configuration to a server, and back to nothing.

mod admin_token;
mod banner;
mod listen;
mod migrate;
mod signals;

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::auth::{Allowlist, Authenticator, Issuer, Networks, SigningKey};
use crate::broker::{Broker, BrokerOptions, BrokerParts, Keys, WriterLease};
use crate::clock::Clock;
use crate::config::{self, Config, Loaded};
use crate::domain::message_id::IdKey;
use crate::domain::receipt::ReceiptKey;
use crate::http::{self, Http, HttpLimits, Shutdown};
use crate::maintenance::observe::{self, Observe};
use crate::maintenance::redrive::{self, Redrives};
use crate::maintenance::space::{self, Space};
use crate::metrics::Metrics;
use crate::postgres::{self, Postgres, PostgresConfig};
use crate::service::Service;
use crate::store::{Commit, Store};
use admin_token::AdminToken;
use listen::Port;

pub use admin_token::ADMIN_TOKEN_FILE;
pub use listen::reachable;
pub use migrate::migrate;
pub use signals::Signals;

/// How long what runs beside requests may take to end, once no request is left.
const TASKS_DEADLINE: Duration = Duration::from_secs(10);

/// How long the connections of the pool may take to say goodbye, once nobody uses them.
const STORE_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a server until it is told to stop: SIGTERM, SIGINT or SIGHUP once to end what runs, twice
/// to end at once.
///
/// # Errors
/// What keeps it from starting, or from stopping in order.
pub fn serve(loaded: Loaded) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let served = runtime.block_on(run(loaded.config));
    // A name that is still being looked up holds a thread that nothing can interrupt.
    runtime.shutdown_background();
    served
}

/// Hears signals from the first moment to the last: whatever the node is at, the first one asks it
/// to stop and the second one leaves it there.
async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    // Before anything slow: a taken port is the commonest thing to go wrong.
    let port = listen::take(config.server.listen)?;
    let mut node = Box::pin(node(&config, port, &stop));
    tokio::select! {
        ended = node.as_mut() => return ended,
        () = signals.next() => stop.cancel(),
    }
    tracing::info!("stopping; once more to stop at once");
    tokio::select! {
        ended = node => ended,
        () = signals.next() => anyhow::bail!("told twice to stop: stopped before all had ended"),
    }
}

/// A node from its database to its end, which `stop` asks for.
async fn node(config: &Config, port: Port, stop: &CancellationToken) -> anyhow::Result<()> {
    let clock = Clock::default();
    let (database_tasks, give_up) = (TaskTracker::new(), CancellationToken::new());
    let mut opening = pin!(postgres::open(
        postgres_config(config),
        clock.clone(),
        &database_tasks,
        give_up.clone(),
    ));
    let opened = tokio::select! {
        opened = opening.as_mut() => opened,
        () = stop.cancelled() => {
            // Not dropped: a server that is coming up must go down again.
            give_up.cancel();
            opening.await
        }
    };
    let postgres = match opened {
        Err(postgres::Error::Cancelled) => return Ok(()),
        opened => opened?,
    };
    let served = serve_on(config, clock, port, &postgres, stop).await;
    let closed = postgres.close().await;
    served?;
    Ok(closed?)
}

/// Serves over a database, until told to stop and ended in order.
async fn serve_on(
    config: &Config,
    clock: Clock,
    port: Port,
    postgres: &Postgres,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let starting = Node::start(config, clock, postgres);
    let Some(node) = stop.run_until_cancelled(starting).await.transpose()? else {
        return Ok(());
    };
    let listener = port.listen()?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    tracing::info!(%address, managed_database = postgres.is_managed(), node = %node.id, "serving");
    if let Err(error) = banner::print(&mut std::io::stdout().lock(), address, &node.header_file) {
        tracing::warn!(%error, "nobody reads the standard output; it has no more than the first lines");
    }
    tell_systemd(NotifyState::Ready);

    let Node {
        router,
        shutdown,
        tasks,
        background,
        failed,
        store,
        ..
    } = node;
    let limits = http_limits(config);
    let server = http::serve::serve(listener, router, limits, tasks.clone(), shutdown.clone());
    let mut server = pin!(server);
    tokio::select! {
        () = server.as_mut() => {}
        () = stop.cancelled() => {}
        () = failed.cancelled() => tracing::error!("a batcher ended by a bug; stopping"),
    }
    tell_systemd(NotifyState::Stopping);
    end_requests(server, &shutdown, config.server.shutdown_delay).await;
    background.cancel();
    tasks.close();
    if timeout(TASKS_DEADLINE, tasks.wait()).await.is_err() {
        tracing::warn!(tasks = tasks.len(), "tasks did not end in time");
    }
    if timeout(STORE_DEADLINE, store.close()).await.is_err() {
        tracing::warn!("connections to the database did not end in time");
    }
    anyhow::ensure!(
        !failed.is_cancelled(),
        "stopped because of a bug; the log has it"
    );
    tracing::info!("stopped serving");
    Ok(())
}

/// Tells systemd, where it started this process and waits to be told (`Type=notify`).
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd how this node is");
    }
}

/// Everything of a node but its socket.
struct Node {
    id: Uuid,
    /// What curl reads the administrator's token from.
    header_file: PathBuf,
    router: axum::Router,
    shutdown: Shutdown,
    /// Requests' changes, connections, batchers, background tasks.
    tasks: TaskTracker,
    /// Ends the background tasks, once no request is left.
    background: CancellationToken,
    /// Cancelled when the node has met a bug that it cannot live with.
    failed: CancellationToken,
    store: Store,
}

impl Node {
    async fn start(config: &Config, clock: Clock, postgres: &Postgres) -> anyhow::Result<Self> {
        let options = postgres.connect_options();
        postgres::assert_safe(&options, config.database.allow_unsafe_durability).await?;
        postgres::migrate(&options).await?;
        let database = &config.database;
        let store = Store::new(
            options,
            database.pool_size,
            database.acquire_timeout,
            database.statement_timeout,
        );
        let (keys, signing) = keys(&store).await?;
        let lifetime = config.access.token_lifetime;
        let issuer = || signing.issuer().with_max_lifetime(lifetime);
        let admin_token = AdminToken {
            data_dir: config.data.dir.clone(),
            issuer: issuer(),
            lifetime,
            clock: clock.clone(),
        };
        admin_token.ensure()?;
        let header_file = admin_token.header_file();

        let id = Uuid::now_v7();
        let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
        let (shutdown, failed) = (Shutdown::default(), CancellationToken::new());
        tasks.spawn(admin_token.renew(background.clone()));
        let metrics = Metrics::new(config.metrics.max_queues);
        let beside = (&tasks, &background);
        maintain(config, &store, id, &clock, &metrics, beside);
        let parts = BrokerParts {
            store: &store,
            node: id,
            keys,
            writers: [
                WriterLease::take(store.clone(), id).await?,
                WriterLease::take(store.clone(), id).await?,
            ],
            clock: clock.clone(),
            tracker: &tasks,
            draining: shutdown.stop.clone(),
            background: background.clone(),
            failed: failed.clone(),
            metrics,
        };
        let broker = Broker::start(&broker_options(config), parts);
        let service = Service::new(broker.clone(), store.clone(), id, tasks.clone());
        let work = redrives(&service, broker, &store, database, id, clock.clone());
        tasks.spawn(redrive::run(work, background.clone()));
        let router = http::router(Http {
            service,
            authenticator: Authenticator::new(issuer()),
            allowlist: Allowlist::new(Networks::new(config.access.allowed_ips.iter().copied())),
            trusted_proxies: Networks::new(config.access.trusted_proxies.iter().copied()),
            limits: http_limits(config),
            metrics_are_public: config.metrics.public,
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
            clock,
        });
        Ok(Self {
            id,
            header_file,
            router,
            shutdown,
            tasks,
            background,
            failed,
            store,
        })
    }
}

/// What the redrives of a node run on.
fn redrives(
    service: &Service,
    broker: Broker,
    store: &Store,
    database: &config::Database,
    node: Uuid,
    clock: Clock,
) -> Redrives {
    let session = store.session(database.statement_timeout, Commit::Soon);
    Redrives {
        store: store.clone(),
        session: Arc::new(Mutex::new(session)),
        broker,
        node,
        wanted: service.redrives_wanted(),
        clock,
    }
}

/// Starts what runs in the background, until told to end.
fn maintain(
    config: &Config,
    store: &Store,
    node: Uuid,
    clock: &Clock,
    metrics: &Metrics,
    (tasks, background): (&TaskTracker, &CancellationToken),
) {
    let limit = config.database.statement_timeout;
    let (say_holding, holding) = watch::channel(None);
    let space = Space {
        store: store.clone(),
        session: store.session(limit, Commit::Soon),
        node,
        min_age: limit * 2,
        clock: clock.clone(),
        holding: say_holding,
        metrics: metrics.clone(),
    };
    tasks.spawn(space::run(space, background.clone()));
    let observe = Observe {
        store: store.clone(),
        metrics: metrics.clone(),
        holding,
        interval: config.metrics.interval,
        old_snapshot: config.maintenance.old_snapshot_warning,
        clock: clock.clone(),
    };
    tasks.spawn(observe::run(observe, background.clone()));
    let (metrics, store) = (metrics.clone(), store.clone());
    tasks.spawn(observe::upkeep(
        metrics,
        store,
        clock.clone(),
        background.clone(),
    ));
}

/// Unready first, then nothing new after the delay, then the end of what runs.
async fn end_requests(
    mut server: Pin<&mut impl Future<Output = ()>>,
    shutdown: &Shutdown,
    delay: Duration,
) {
    shutdown.draining.cancel();
    tokio::select! {
        () = server.as_mut() => return,
        () = tokio::time::sleep(delay) => {}
    }
    shutdown.stop.cancel();
    server.await;
}

/// The keys that all nodes of a database share; the first to come makes them.
async fn keys(store: &Store) -> anyhow::Result<(Keys, Signing)> {
    let (signing_id, signing) = store
        .secret("signing", fresh::<{ SigningKey::BYTES }>())
        .await?;
    let (receipt_id, receipt) = store
        .secret("receipt", fresh::<{ ReceiptKey::BYTES }>())
        .await?;
    let (_, id) = store
        .secret("message_id", fresh::<{ IdKey::BYTES }>())
        .await?;
    let receipt_id = u8::try_from(receipt_id).context("too many receipt keys")?;
    let keys = Keys {
        id: IdKey::new(&id),
        receipt: ReceiptKey::new(receipt_id, &receipt),
    };
    let signing = Signing {
        id: signing_id.to_string(),
        key: SigningKey::new(signing),
    };
    Ok((keys, signing))
}

/// What tokens are signed with.
struct Signing {
    id: String,
    key: SigningKey,
}

impl Signing {
    fn issuer(&self) -> Issuer {
        Issuer::new(&self.id, &self.key)
    }
}

/// Random bytes from a generator that the operating system seeded.
fn fresh<const N: usize>() -> [u8; N] {
    let mut key = [0; N];
    rand::fill(&mut key);
    key
}

fn postgres_config(config: &Config) -> PostgresConfig {
    let database = &config.database;
    PostgresConfig {
        url: database.url.as_ref().map(|url| url.expose().to_owned()),
        bin_dir: database.pg_bin.clone(),
        search_path: config::search_path(),
        server_user: database.pg_user.clone(),
        data_dir: config.data.dir.clone(),
        max_connections: database.max_connections,
        fsync: true,
        pdeath_helper: None,
        allow_unsafe_durability: database.allow_unsafe_durability,
    }
}

fn broker_options(config: &Config) -> BrokerOptions {
    let broker = &config.broker;
    BrokerOptions {
        append_batch: broker.append_batch,
        claim_batch: broker.claim_batch,
        ack_batch: broker.ack_batch,
        queue_length: broker.queue_length,
        max_waiting_receives: broker.max_waiting_receives,
        safety_probe: broker.safety_probe,
        statement_timeout: config.database.statement_timeout,
    }
}

fn http_limits(config: &Config) -> HttpLimits {
    let server = &config.server;
    HttpLimits {
        max_request_bytes: server.max_request_bytes,
        max_buffered_bytes: server.max_buffered_bytes,
        request_timeout: server.request_timeout,
        body_timeout: server.body_timeout,
        max_in_flight: server.max_in_flight_requests,
        max_connections: server.max_connections,
        first_request_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        drain_timeout: server.drain_timeout,
    }
}

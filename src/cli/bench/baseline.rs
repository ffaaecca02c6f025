//! What Towpath is compared with: the same REST shapes over a classic table, with a transaction of
//! its own for every request. No tokens, no checks of what is sent, so that only storage differs.

use std::collections::HashSet;
use std::io::Write;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::routing::{post, put};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgPool, Row as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::child::{self, Child};
use crate::config::DatabaseUrl;

/// The hidden command.
const COMMAND: &str = "internal-baseline";

/// Longest wait for the database, for a connection or for a statement.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a waiting receive looks for messages that nothing announced: those that come back.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The classic table, found by the search path.
const TABLE: &str = "
create table message (
    id bigint generated always as identity primary key,
    queue text not null,
    body text not null,
    visible_at timestamptz not null default clock_timestamp(),
    receive_count int not null default 0,
    receipt uuid
);
create index on message (queue, visible_at);";

const SEND: &str = "insert into message (queue, body) select $1, unnest($2::text[]) returning id";

const RECEIVE: &str = "
update message
set visible_at = clock_timestamp() + make_interval(secs => $3),
    receive_count = receive_count + 1,
    receipt = gen_random_uuid()
where id in (
    select id from message where queue = $1 and visible_at <= clock_timestamp()
    order by visible_at limit $2 for update skip locked)
returning id, receipt, body";

const DELETE: &str = "
delete from message m using unnest($1::bigint[], $2::uuid[]) gone (id, receipt)
where m.id = gone.id and m.receipt = gone.receipt
returning m.id";

/// Starts the server on a database; its schema goes when it ends.
pub(super) fn start(database: &DatabaseUrl, connections: u16) -> anyhow::Result<Child> {
    let secret = format!("{connections} {}", database.expose());
    Child::start(COMMAND, &secret).context("the baseline needs its database")
}

struct Baseline {
    pool: PgPool,
    /// Of its one queue, in seconds.
    visibility: AtomicU32,
    /// About as many permits as messages that nobody was woken for.
    arrived: Semaphore,
}

type Shared = State<Arc<Baseline>>;
type Answer = Result<Vec<u8>, (StatusCode, String)>;
type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

#[derive(Deserialize)]
struct Settings {
    visibility_timeout_seconds: u32,
}

#[derive(Deserialize)]
struct Send {
    messages: Vec<NewMessage>,
}

#[derive(Deserialize)]
struct NewMessage {
    body: String,
}

#[derive(Deserialize)]
struct Receive {
    max_messages: u32,
    wait_seconds: u32,
}

#[derive(Deserialize)]
struct Delete {
    messages: Vec<Receipt>,
}

#[derive(Deserialize)]
struct Receipt {
    receipt_handle: String,
}

#[derive(Serialize)]
struct Messages<T> {
    messages: Vec<T>,
}

#[derive(Serialize)]
struct Stored {
    message_id: i64,
}

#[derive(Serialize)]
struct Delivered {
    message_id: i64,
    receipt_handle: String,
    body: String,
}

#[derive(Serialize)]
struct Deleted {
    deleted: bool,
}

/// Serves until stdin ends, whose first line is a number of connections and the database's URL; says
/// on `out` where.
///
/// # Errors
/// The database cannot be used, or it cannot listen.
pub(in crate::cli) fn serve_baseline(out: &mut impl Write) -> anyhow::Result<()> {
    let secret = child::secret()?;
    child::run(async {
        let told = secret.split_once(' ').context("not told what to use")?;
        let (connections, url) = (told.0.parse()?, told.1);
        let options = PgConnectOptions::from_str(url)
            .context("not a URL of a database")?
            .options([("statement_timeout", PATIENCE.as_millis().to_string())])
            .disable_statement_logging();
        let schema = format!("towpath_bench_{:08x}", rand::random::<u32>());
        let mut admin = options.connect().await.context("cannot connect")?;
        let create = format!("create schema {schema}");
        admin.execute(AssertSqlSafe(create)).await?;
        let served = serve(
            options.options([("search_path", &schema)]),
            connections,
            out,
        )
        .await;
        let drop = format!("drop schema {schema} cascade");
        let dropped = admin.execute(AssertSqlSafe(drop)).await;
        served?;
        dropped.with_context(|| format!("cannot drop the schema {schema}"))?;
        Ok(())
    })
}

async fn serve(
    options: PgConnectOptions,
    connections: u32,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(connections)
        .acquire_timeout(PATIENCE)
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    sqlx::raw_sql(TABLE).execute(&pool).await?;
    let baseline = Arc::new(Baseline {
        pool: pool.clone(),
        visibility: AtomicU32::new(30),
        arrived: Semaphore::new(0),
    });
    let messages = "/v1/queues/{queue}/messages";
    let router = Router::new()
        .route("/v1/queues/{queue}", put(create).delete(clear))
        .route(messages, post(send))
        .route(&format!("{messages}/receive"), post(receive))
        .route(&format!("{messages}/delete"), post(delete))
        .layer(DefaultBodyLimit::disable())
        .with_state(baseline);
    let served = child::serve(router, out).await;
    pool.close().await;
    served
}

/// A statement, which is a transaction of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "what is compared with is no part of the product, whose SQL lives in `store`"
)]
fn query<'q>(statement: &'static str) -> Query<'q> {
    sqlx::query(statement)
}

impl Baseline {
    async fn run(&self, query: Query<'_>) -> Result<Vec<PgRow>, (StatusCode, String)> {
        query.fetch_all(&self.pool).await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> (StatusCode, String) {
    let problem = serde_json::json!({ "title": "baseline", "detail": error.to_string() });
    (StatusCode::INTERNAL_SERVER_ERROR, problem.to_string())
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(failed)
}

fn messages<T: Serialize>(messages: Vec<T>) -> Answer {
    serde_json::to_vec(&Messages { messages }).map_err(failed)
}

async fn create(State(baseline): Shared, body: Bytes) -> Answer {
    let settings: Settings = read(&body)?;
    let visibility = settings.visibility_timeout_seconds;
    baseline.visibility.store(visibility, Ordering::Relaxed);
    Ok(Vec::new())
}

async fn clear(State(baseline): Shared, Path(queue): Path<String>) -> Answer {
    let clear = query("delete from message where queue = $1").bind(queue);
    baseline.run(clear).await?;
    Ok(Vec::new())
}

async fn send(State(baseline): Shared, Path(queue): Path<String>, body: Bytes) -> Answer {
    let request: Send = read(&body)?;
    let bodies = request.messages.into_iter().map(|message| message.body);
    let insert = query(SEND).bind(queue).bind(Vec::from_iter(bodies));
    let rows = baseline.run(insert).await?;
    baseline.arrived.add_permits(rows.len());
    let stored = rows.iter().map(|row| {
        Ok(Stored {
            message_id: row.try_get(0)?,
        })
    });
    messages(stored.collect::<Result<_, sqlx::Error>>().map_err(failed)?)
}

async fn receive(State(baseline): Shared, Path(queue): Path<String>, body: Bytes) -> Answer {
    let request: Receive = read(&body)?;
    let end = Instant::now() + Duration::from_secs(request.wait_seconds.into());
    let visibility = baseline.visibility.load(Ordering::Relaxed);
    loop {
        let update = query(RECEIVE)
            .bind(&queue)
            .bind(i64::from(request.max_messages))
            .bind(f64::from(visibility));
        let rows = baseline.run(update).await?;
        if !rows.is_empty() || Instant::now() >= end {
            let delivered: Result<_, _> = rows.iter().map(delivered).collect();
            return messages(delivered.map_err(failed)?);
        }
        let look = end.min(Instant::now() + LOOK_AGAIN);
        if let Ok(Ok(woken)) = timeout_at(look, baseline.arrived.acquire()).await {
            woken.forget();
        }
    }
}

fn delivered(row: &PgRow) -> Result<Delivered, sqlx::Error> {
    let message_id = row.try_get(0)?;
    let receipt: Uuid = row.try_get(1)?;
    Ok(Delivered {
        message_id,
        receipt_handle: format!("{message_id}:{receipt}"),
        body: row.try_get(2)?,
    })
}

async fn delete(State(baseline): Shared, body: Bytes) -> Answer {
    let request: Delete = read(&body)?;
    let (mut ids, mut receipts) = (Vec::<i64>::new(), Vec::<Uuid>::new());
    for Receipt { receipt_handle } in &request.messages {
        let (id, receipt) = receipt_handle.split_once(':').unwrap_or_default();
        ids.push(id.parse().map_err(failed)?);
        receipts.push(receipt.parse().map_err(failed)?);
    }
    let rows = baseline
        .run(query(DELETE).bind(&ids).bind(receipts))
        .await?;
    let gone: Result<HashSet<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let gone = gone.map_err(failed)?;
    let entries = ids.iter().map(|id| Deleted {
        deleted: gone.contains(id),
    });
    messages(entries.collect())
}

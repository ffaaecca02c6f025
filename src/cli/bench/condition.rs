//! Conditions that come and go with a measurement: a held snapshot, and queues that lie idle.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::target::{Making, Premises, Target};
use crate::config::DatabaseUrl;

/// Longest wait for the database.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is there during a measurement and not before or after it.
pub(super) enum Passing {
    Snapshot(DatabaseUrl, Duration, Option<Holder>),
    Queues(IdleQueues),
}

/// Queues with a message each that nobody asks for.
pub(super) struct IdleQueues {
    pub(super) premises: Premises,
    pub(super) target: Target,
    /// What their names begin with, and no other's.
    pub(super) prefix: String,
    pub(super) queues: u32,
    pub(super) making: Making,
}

impl Passing {
    /// For how long the load is to run at least.
    pub(super) fn lasts(&self) -> Duration {
        match self {
            Self::Snapshot(_, hold, _) => *hold,
            Self::Queues(_) => Duration::ZERO,
        }
    }

    /// Brings it about.
    ///
    /// # Errors
    /// The database or the server refuses.
    pub(super) fn begin(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Snapshot(database, _, holder) => *holder = Some(Holder::begin(database)?),
            Self::Queues(idle) => {
                let names = (0..idle.queues).map(|number| format!("{}{number}", idle.prefix));
                idle.premises
                    .make(&idle.target, &Vec::from_iter(names), &idle.making)?;
            }
        }
        Ok(())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// It was gone before, or will not go.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Snapshot(_, _, holder) => holder.take().map_or(Ok(()), Holder::end),
            Self::Queues(idle) => idle.premises.remove(&idle.prefix),
        }
    }
}

/// A session that holds a snapshot.
pub(super) struct Holder {
    runtime: Runtime,
    connection: PgConnection,
}

impl Holder {
    /// Begins a transaction that sees the database as it is now.
    fn begin(database: &DatabaseUrl) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(database.expose())
            .context("not a URL of a database")?
            .application_name("towpath bench")
            .options([("idle_in_transaction_session_timeout", "0")])
            .disable_statement_logging();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let connection = runtime.block_on(within(async {
            let mut connection = options.connect().await?;
            connection
                .execute("begin isolation level repeatable read")
                .await?;
            let tables = "select count(*) from pg_class where relnamespace = \
                          to_regnamespace('towpath')";
            let tables: i64 = connection.fetch_one(tables).await?.try_get(0)?;
            ensure!(tables > 0, "this is not a database of Towpath");
            Ok(connection)
        }))?;
        Ok(Self {
            runtime,
            connection,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// It had ended before.
    fn end(self) -> anyhow::Result<()> {
        let Self {
            runtime,
            mut connection,
        } = self;
        let ended = runtime.block_on(within(async {
            connection.execute("select 1").await?;
            connection.execute("rollback").await?;
            Ok(connection.close().await?)
        }));
        ended.context("the snapshot was not held to the end")
    }
}

async fn within<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let done = timeout(PATIENCE, work).await;
    done.with_context(|| format!("the database did not answer within {PATIENCE:?}"))?
}

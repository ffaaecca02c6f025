//! The schema without a server: what `serve` does before it serves.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::postgres_config;
use crate::clock::Clock;
use crate::config::Loaded;
use crate::postgres;

/// Brings the schema up to date, unless it is only to be checked; tells which migrations the
/// database had not seen. A managed database is started for it, and stopped unless others use it.
///
/// # Errors
/// The database cannot be opened, or a migration fails.
pub fn migrate(loaded: Loaded, only_check: bool) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let tasks = TaskTracker::new();
        let postgres = postgres::open(
            postgres_config(&loaded.config),
            Clock::default(),
            &tasks,
            CancellationToken::new(),
        )
        .await?;
        let options = postgres.connect_options();
        let missing = async {
            let missing = postgres::missing_migrations(&options).await?;
            if !only_check {
                postgres::migrate(&options).await?;
            }
            Ok::<_, postgres::Error>(missing)
        }
        .await;
        postgres.close().await?;
        Ok(missing?)
    })
}

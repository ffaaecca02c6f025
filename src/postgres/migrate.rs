//! Brings the schema up to date. The statements are in `migrations/`.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, Row as _};

use super::error::Error;

/// Everything is made in the schema `towpath`, also the list of applied migrations. A migration
/// of another node may take long, but a lock that does not come at all must not hang the start.
const SESSION: &str = "
    set search_path to towpath;
    set lock_timeout to '60s';
    set statement_timeout to 0;
    set client_min_messages to warning;
";

/// The versions that were applied; none where the list is not there yet.
const APPLIED: &str = "select version from towpath.migrations where success";

const HAS_LIST: &str = "select to_regclass('towpath.migrations') is not null";

/// Which migrations of this program the database has not seen, such as `7 queue surface`.
///
/// # Errors
/// [`Error::Connect`]; [`Error::Query`].
pub async fn missing_migrations(options: &PgConnectOptions) -> Result<Vec<String>, Error> {
    let mut connection = super::connect(options).await?;
    let has_list = connection.fetch_one(HAS_LIST).await.map_err(Error::Query)?;
    let mut applied: Vec<i64> = Vec::new();
    if has_list.get::<bool, _>(0) {
        let rows = connection.fetch_all(APPLIED).await.map_err(Error::Query)?;
        applied.extend(rows.iter().map(|row| row.get::<i64, _>(0)));
    }
    connection.close().await.map_err(Error::Query)?;
    let migrator = sqlx::migrate!("./migrations");
    let missing = migrator
        .iter()
        .filter(|migration| !applied.contains(&migration.version));
    Ok(missing
        .map(|migration| format!("{} {}", migration.version, migration.description))
        .collect())
}

/// Applies the migrations this program was built with and the database has not seen. Any number of
/// nodes may do so at once: they take turns, and all but one find nothing left to do.
///
/// # Errors
/// [`Error::Connect`]; [`Error::Query`]; [`Error::Migrate`].
pub async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.create_schema("towpath");
    migrator.dangerous_set_table_name("towpath.migrations");
    // A node of this release may start again after one of the next has migrated.
    migrator.set_ignore_missing(true);
    let mut connection = super::connect(options).await?;
    connection.execute(SESSION).await.map_err(Error::Query)?;
    // An error leaves the session's lock taken; the connection ends with this function.
    migrator
        .run(&mut connection)
        .await
        .map_err(Error::Migrate)?;
    connection.close().await.map_err(Error::Query)
}

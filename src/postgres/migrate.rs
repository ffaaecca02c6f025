//! Brings the schema up to date. The statements are in `migrations/`.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor};

use super::error::Error;

/// Everything is made in the schema `towpath`, also the list of applied migrations. A migration
/// of another node may take long, but a lock that does not come at all must not hang the start.
const SESSION: &str = "
    set search_path to towpath;
    set lock_timeout to '60s';
    set statement_timeout to 0;
    set client_min_messages to warning;
";

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

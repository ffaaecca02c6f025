//! A PostgreSQL somebody else runs, named by a URL. Nothing is started for it, ever.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::APPLICATION_NAME;
use super::error::Error;

/// Reads the URL.
///
/// # Errors
/// [`Error::Url`], which does not repeat the URL: it may hold a password.
pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, Error> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(Error::Url { source: None });
    }
    let options = PgConnectOptions::from_str(url).map_err(|source| Error::Url {
        source: Some(source),
    })?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name(APPLICATION_NAME),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_server_and_may_name_the_application() {
        let options = connect_options("postgres://u:p@db:5433/queue").unwrap();
        assert_eq!(
            (
                options.get_host(),
                options.get_port(),
                options.get_database()
            ),
            ("db", 5433, Some("queue"))
        );
        assert_eq!(options.get_application_name(), Some("towpath"));
        let options = connect_options("postgresql://db/queue?application_name=x").unwrap();
        assert_eq!(options.get_application_name(), Some("x"));
    }

    #[test]
    fn a_bad_url_is_refused_without_being_repeated() {
        for url in [
            "mysql://u:hunter2@db/q",
            "postgres://u:hunter2@db:port/q",
            "hunter2",
            "",
        ] {
            let error = anyhow::Error::from(connect_options(url).unwrap_err());
            let shown = format!("{error:#} {error:?}");
            assert!(shown.contains("DATABASE_URL"), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

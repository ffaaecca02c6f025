//! Checks that the server keeps what it acknowledges, before anything is acknowledged.

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection, Executor, Row};

use super::discover::OLDEST_MAJOR;
use super::error::Error;

/// As our sessions see them: role and database may set them too.
const SETTINGS: &str = "
    select name, setting
    from pg_catalog.pg_settings
    where name in (
        'server_version_num', 'fsync', 'full_page_writes', 'synchronous_commit',
        'data_checksums', 'default_transaction_isolation'
    )
";

/// Refuses a server that is too old, or whose settings would lose acknowledged messages.
///
/// `allow_unsafe` is the override for tests and throw-away data: settings that lose messages in a
/// crash are then logged. Missing data checksums are only ever logged, since an existing server
/// cannot get them without being stopped; the managed one always has them.
///
/// # Errors
/// [`Error::Unsafe`] names every setting at fault; [`Error::Connect`]; [`Error::Query`].
pub async fn assert_safe(options: &PgConnectOptions, allow_unsafe: bool) -> Result<(), Error> {
    let mut connection = super::connect(options).await?;
    let rows = connection.fetch_all(SETTINGS).await.map_err(Error::Query)?;
    connection.close().await.map_err(Error::Query)?;
    let settings = rows.iter().map(setting).collect::<Result<Vec<_>, _>>();
    let report = examine(&settings.map_err(Error::Query)?);
    let mut findings = report.unsupported;
    if allow_unsafe {
        for finding in report.lossy {
            tracing::warn!(
                finding,
                "UNSAFE: acknowledged messages may be lost in a crash"
            );
        }
    } else {
        findings.extend(report.lossy);
    }
    for finding in report.advice {
        tracing::warn!(finding, "a damaged disk page may go unnoticed");
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Error::Unsafe { findings })
}

fn setting(row: &PgRow) -> sqlx::Result<(String, String)> {
    Ok((row.try_get("name")?, row.try_get("setting")?))
}

#[derive(Debug, Default)]
struct Report {
    unsupported: Vec<String>,
    lossy: Vec<String>,
    advice: Vec<String>,
}

fn examine(settings: &[(String, String)]) -> Report {
    let mut report = Report::default();
    for (name, value) in settings {
        match (name.as_str(), value.as_str()) {
            ("server_version_num", number) => {
                let major = number.parse::<u32>().unwrap_or(0) / 10_000;
                if major < OLDEST_MAJOR {
                    report.unsupported.push(format!(
                        "the server is PostgreSQL {major}; {OLDEST_MAJOR} or newer is needed"
                    ));
                }
            }
            ("default_transaction_isolation", "read committed")
            | ("fsync" | "full_page_writes" | "data_checksums", "on")
            | ("synchronous_commit", "on" | "remote_apply") => {}
            ("default_transaction_isolation", value) => report.unsupported.push(format!(
                "default_transaction_isolation is `{value}`; it must be `read committed`"
            )),
            ("synchronous_commit", value) => report.lossy.push(format!(
                "synchronous_commit is `{value}`; it must be `on` or `remote_apply`"
            )),
            ("data_checksums", value) => report.advice.push(format!(
                "data_checksums is `{value}`; stop the server and run `pg_checksums --enable`"
            )),
            (name, value) => report
                .lossy
                .push(format!("{name} is `{value}`; it must be `on`")),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, value: &str) -> Report {
        examine(&[(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn every_setting_that_loses_messages_is_named_with_its_value_and_the_right_one() {
        for value in ["off", "local", "remote_write"] {
            let lossy = report("synchronous_commit", value).lossy.concat();
            assert!(lossy.contains("synchronous_commit is"), "{lossy}");
            assert!(lossy.contains(value), "{lossy}");
            assert!(lossy.contains("must be `on`"), "{lossy}");
        }
        assert_eq!(
            report("fsync", "off").lossy,
            ["fsync is `off`; it must be `on`"]
        );
        assert_eq!(report("full_page_writes", "off").lossy.len(), 1);
        for value in ["on", "remote_apply"] {
            assert!(report("synchronous_commit", value).lossy.is_empty());
        }
    }

    #[test]
    fn what_statements_rely_on_cannot_be_overridden_and_checksums_are_advice() {
        assert_eq!(report("server_version_num", "140009").unsupported.len(), 1);
        assert!(
            report("server_version_num", "150014")
                .unsupported
                .is_empty()
        );
        let isolation = report("default_transaction_isolation", "serializable");
        assert_eq!(isolation.unsupported.len(), 1);
        let checksums = report("data_checksums", "off");
        assert_eq!((checksums.lossy.len(), checksums.advice.len()), (0, 1));
    }
}

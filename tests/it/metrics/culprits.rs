//! Whoever keeps dead rows from being removed is seen, measured and named.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Executor as _};
use towpath::store::{Holder, HolderKind, Store};

use super::{NODE, scrape_node};
use crate::support::database::STATEMENT_TIMEOUT;
use crate::support::eventually;
use crate::support::server::Cluster;

const AGE: &str = "towpath_db_oldest_snapshot_age_seconds{holder=\"session\"}";
/// So many looks that one who is named in each would be named often.
const LOOKS: Duration = Duration::from_secs(4);

#[tokio::test]
async fn whoever_holds_an_old_snapshot_is_measured_and_named_once_with_what_ends_it() {
    let settings = ["metrics.interval=1s", "maintenance.old_snapshot_warning=1s"];
    let cluster = Cluster::start(1, &settings).await;
    let options = cluster.database().options.application_name("night-report");
    let mut culprit = options.connect().await.unwrap();
    let begin = "begin isolation level repeatable read; select count(*) from towpath.queue";
    culprit.execute(sqlx::raw_sql(begin)).await.unwrap();
    let pid: i32 = sqlx::Row::get(
        &culprit.fetch_one("select pg_backend_pid()").await.unwrap(),
        0,
    );

    eventually("the snapshot grows old", async || {
        let scrape = scrape_node(&cluster, 0, NODE).await;
        let age = scrape.values.get(AGE).copied()?;
        (age > LOOKS.as_secs_f64()).then_some(())
    })
    .await;
    let log = cluster.nodes[0].log();
    let remedy = format!("select pg_terminate_backend({pid});");
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&remedy)).collect();
    println!("{}", lines.join("\n"));
    assert_eq!(lines.len(), 1, "{log}");
    for said in [
        "WARN",
        "night-report",
        "towpath",
        "idle in transaction",
        "since=",
    ] {
        assert!(lines[0].contains(said), "{said} is not in {}", lines[0]);
    }
    assert!(!lines[0].contains("select count"), "{}", lines[0]);

    // As it is told to be done.
    let administrator = cluster.database();
    administrator.run(remedy).await;
    eventually("nobody holds one", async || {
        let scrape = scrape_node(&cluster, 0, NODE).await;
        (*scrape.values.get(AGE)? < 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_role_without_privileges_sees_who_keeps_dead_rows() {
    let cluster = Cluster::start(1, &[]).await;
    let database = cluster.database();
    database.run("create role plain login").await;
    let mut culprit = database.connect().await;
    let begin = "begin isolation level repeatable read; select 1";
    culprit.execute(sqlx::raw_sql(begin)).await.unwrap();
    let pid: i32 = sqlx::Row::get(
        &culprit.fetch_one("select pg_backend_pid()").await.unwrap(),
        0,
    );
    let slot = "select pg_create_physical_replication_slot('forgotten', true)";
    database.run(slot).await;

    let plain = database.options.clone().username("plain");
    let wait = Duration::from_secs(5);
    let store = Store::new(plain, 1, wait, STATEMENT_TIMEOUT);
    let session = |holder: &Holder| holder.pid == Some(pid);
    let holders = store.snapshot_holders().await.unwrap();
    let found = holders.iter().find(|holder| session(holder)).unwrap();
    println!("{found:?}");
    assert_eq!(found.kind, HolderKind::Session);
    assert_eq!(found.user.as_deref(), Some("towpath"));
    assert!(found.xmin.is_some());
    assert_eq!(found.since, None, "it is not for everybody to see");
    assert_eq!(store.dead_rows().await.unwrap().len(), 6);

    database.run("grant pg_read_all_stats to plain").await;
    let holders = store.snapshot_holders().await.unwrap();
    let found = holders.iter().find(|holder| session(holder)).unwrap();
    println!("{found:?}");
    assert!(found.since.is_some() && found.age.is_some());
    assert_eq!(found.application_name.as_deref(), Some("test"));
    assert_eq!(found.state.as_deref(), Some("idle in transaction"));
    // A slot that nobody has fed back to holds nothing.
    assert!(
        !holders
            .iter()
            .any(|holder| holder.kind == HolderKind::ReplicationSlot)
    );
}

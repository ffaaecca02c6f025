//! Connections to the database that are lost in the middle of a statement, and what callers are
//! told.

use reqwest::Method;
use sqlx::Executor as _;
use tokio::task::JoinSet;

use super::load::QUEUE;
use crate::support::Answer;
use crate::support::database::Database;
use crate::support::{ask, eventually, http_on, request};

/// The answer to a request whose session ends while it is at the database.
async fn ask_and_lose(database: &Database, method: Method, path: &str) -> Answer {
    let router = towpath::http::router(http_on(database).await);
    let mut gate = database.connect().await;
    let lock = "begin; lock table towpath.queue";
    gate.execute(lock).await.unwrap();
    let mut asking = JoinSet::new();
    let request = request(method.as_str(), path, "");
    asking.spawn(async move { ask(&router, request).await });
    eventually("the session waits", async || {
        let terminated = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        (database.value::<i64>(terminated).await == 1).then_some(())
    })
    .await;
    asking.join_all().await.remove(0)
}

#[tokio::test]
async fn a_change_whose_session_is_lost_may_have_happened_and_a_look_has_changed_nothing() {
    let database = Database::new().await;
    let queue = format!("/v1/queues/{QUEUE}");
    for (method, path, outcome) in [
        (Method::PUT, queue.as_str(), "unknown"),
        (Method::DELETE, queue.as_str(), "unknown"),
        (Method::GET, queue.as_str(), "none"),
        (Method::GET, "/v1/queues", "none"),
    ] {
        let answer = ask_and_lose(&database, method.clone(), path).await;
        assert_eq!(answer.expect(503)["outcome"], outcome, "{method} {path}");
    }
}

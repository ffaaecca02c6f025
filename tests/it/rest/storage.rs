//! A database that has no room left on its disk: what callers are told.

use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::database::Database;
use crate::support::{Answer, ask, http_on, request};

#[tokio::test]
async fn what_the_database_has_no_room_for_is_answered_by_507() {
    let database = Database::new().await;
    let router = towpath::http::router(http_on(&database).await);
    let post = async |verb: &str, body: serde_json::Value| -> Answer {
        let path = format!("/v1/queues/q/messages{verb}");
        ask(&router, request("POST", &path, &body.to_string())).await
    };
    ask(&router, request("PUT", "/v1/queues/q", "")).await;
    let message = json!({"messages": [{"body": "hello"}]});
    let receive = json!({"max_messages": 1});
    post("", message.clone()).await.expect(200);
    post("", message.clone()).await.expect(200);
    let received = post("/receive", receive.clone()).await;
    let handle = &received.expect(200)["messages"][0]["receipt_handle"];
    let delete = json!({"messages": [{"receipt_handle": handle}]});

    let mut sql = database.connect().await;
    let no_room = "create function towpath.no_room() returns trigger language plpgsql as \
                   $$ begin raise 'no space' using errcode = '53100'; end $$";
    sql.execute(no_room).await.unwrap();
    for table in ["log", "lease"] {
        let trigger = format!(
            "create trigger no_room before insert or update or delete on towpath.{table} \
             for each row execute function towpath.no_room()"
        );
        sql.execute(AssertSqlSafe(trigger)).await.unwrap();
    }
    for (verb, body) in [("", &message), ("/receive", &receive), ("/delete", &delete)] {
        let refused = post(verb, body.clone()).await;
        let problem = refused.expect_problem(507, "storage_full");
        assert_eq!(problem["outcome"], "none");
        assert_eq!(problem["retryable"], true);
        assert_eq!(refused.header("retry-after"), "1");
    }

    let room = "drop function towpath.no_room() cascade";
    sql.execute(room).await.unwrap();
    post("", message).await.expect(200);
    post("/receive", receive).await.expect(200);
    let deleted = post("/delete", delete).await;
    assert_eq!(deleted.expect(200)["messages"][0]["deleted"], true);
}

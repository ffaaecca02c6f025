//! What the log says of those who were refused and of new tokens, over a router without a socket.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;

use crate::support::{ask, request, router};

/// The log of this thread, for as long as it lives.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(LevelFilter::INFO)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Level and fields of every line whose message begins like this.
    fn lines(&self, beginning: &str) -> Vec<(String, Value)> {
        let lines = self.text();
        let lines = lines.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let level = line["level"].as_str().unwrap().to_owned();
            (level, line["fields"].take())
        });
        lines
            .filter(|(_, fields)| fields["message"].as_str().unwrap().starts_with(beginning))
            .collect()
    }
}

#[tokio::test]
async fn a_new_token_is_logged_by_all_but_itself() {
    let router = router().await;
    let (log, _guard) = Log::begin();
    let body = r#"{"subject":"orders-worker","scope":"send receive","lifetime_seconds":60}"#;
    let answer = ask(&router, request("POST", "/v1/tokens", body)).await;
    let token = answer.expect(200)["token"].as_str().unwrap();

    let lines = log.lines("a token was issued");
    let [(level, fields)] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(level, "INFO");
    assert_eq!(fields["request_id"], answer.header("x-request-id"));
    assert_eq!(fields["subject"], "orders-worker");
    assert_eq!(fields["scope"], "send receive");
    assert_eq!(fields["by"], "tester");
    let jti = fields["jti"].as_str().unwrap();
    jti.parse::<uuid::Uuid>().unwrap();
    let seal = token.rsplit('.').next().unwrap();
    assert!(!log.text().contains(seal), "{}", log.text());

    let bad = ask(&router, request("POST", "/v1/tokens", "{}")).await;
    bad.expect_problem(422, "invalid");
    assert_eq!(log.lines("a token was issued").len(), 1);
}

#[tokio::test]
async fn refusals_are_logged_a_few_a_second() {
    let router = router().await;
    let (log, _guard) = Log::begin();
    let mut ids = vec![];
    for _ in 0..100 {
        let mut stranger = request("GET", "/v1/queues", "");
        let credentials = "Bearer not-a-good-one".parse().unwrap();
        stranger.headers_mut().insert("authorization", credentials);
        let answer = ask(&router, stranger).await;
        answer.expect_problem(401, "unauthenticated");
        ids.push(answer.header("x-request-id").to_owned());
    }
    let lines = log.lines("refused: ");
    assert!((10..100).contains(&lines.len()), "{lines:?}");
    for ((level, fields), id) in lines.iter().zip(&ids).take(10) {
        assert_eq!(
            (level.as_str(), &fields["request_id"]),
            ("WARN", &id.as_str().into())
        );
        assert_eq!(fields["client"], "127.0.0.1");
        assert_eq!(fields["left_out"], 0);
    }
    assert!(!log.text().contains("not-a-good-one"));
}

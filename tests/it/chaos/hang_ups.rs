//! Clients that hang up at any moment.

use std::collections::HashSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::history::{Send, Violation, check};
use super::load::{self, LONG, Notes, Progress, QUEUE, Run};
use crate::support::client::{Client, Message};
use crate::support::database::Database;
use crate::support::server::Cluster;

/// Its messages are claimed for those who hang up.
const PREY: &str = "prey";
const WINDOW: Duration = Duration::from_secs(2);

/// What those who hang up ask for.
struct Storm {
    address: SocketAddr,
    token: String,
    receipt_handles: Vec<String>,
}

impl Storm {
    fn request(&self) -> String {
        let mut random = rand::rng();
        let queue = random.random_range(0..100);
        let handle = &self.receipt_handles[random.random_range(0..self.receipt_handles.len())];
        // Most often what goes through the pool, where a session that is given back half-way would
        // meet its next borrower.
        let (method, path, body) = match random.random_range(0..8) {
            0 | 6 | 7 => ("PUT", format!("q{queue}"), json!({})),
            1 => ("DELETE", format!("q{queue}"), json!({})),
            2 => (
                "POST",
                "storm/messages".to_owned(),
                json!({"messages": [{"body": "x".repeat(queue * 20 + 1)}]}),
            ),
            3 => (
                "POST",
                "storm/messages/delete".to_owned(),
                json!({"messages": [{"receipt_handle": handle}]}),
            ),
            4 => (
                "POST",
                "q/messages/receive".to_owned(),
                json!({"wait_seconds": 20}),
            ),
            _ => (
                "POST",
                format!("{PREY}/messages/receive"),
                json!({"visibility_timeout_seconds": WINDOW.as_secs(), "wait_seconds": 20}),
            ),
        };
        let body = body.to_string();
        format!(
            "{method} /v1/queues/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )
    }

    /// Connects, asks for something, perhaps not to the end, and is gone some microseconds later.
    fn hang_up(&self) {
        let request = self.request();
        let mut random = rand::rng();
        let whole = random.random_bool(0.8);
        let length = if whole {
            request.len()
        } else {
            random.random_range(0..request.len())
        };
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(&request.as_bytes()[..length]).unwrap();
        std::thread::sleep(Duration::from_micros(random.random_range(0..4_000)));
    }

    /// Hangs up again and again until others have done their work; how often.
    fn rage(&self, others: &Progress) -> usize {
        let mut times = 0;
        while !others.is_done() {
            self.hang_up();
            times += 1;
        }
        times
    }
}

async fn send_all(client: &Client, queue: &str, messages: usize) {
    client.put_queue(queue).await;
    for _batch in 0..messages / 10 {
        let bodies = ["x"; 10].map(ToOwned::to_owned);
        client.send(queue, &bodies).await.unwrap();
    }
}

async fn receive_all(client: &Client, queue: &str, messages: usize) -> Vec<Message> {
    let mut received = Vec::new();
    while received.len() < messages {
        let more = client.receive(queue, 5, LONG).await.unwrap();
        assert!(!more.is_empty(), "only {} of {messages}", received.len());
        received.extend(more);
    }
    received
}

/// Whether a queue is there for others to see.
async fn is_there(database: &Database, queue: &str) -> bool {
    let queues =
        format!("select count(*) from towpath.queue where name = '{queue}' and deleted_at is null");
    database.value::<i64>(queues).await == 1
}

/// Creates and deletes a queue. What is acknowledged is there for others to see; under a storm the
/// server may have no time.
async fn create_and_delete(client: &Client, database: &Database) {
    for (method, created) in [(Method::PUT, true), (Method::DELETE, false)] {
        let answer = client.ask(method, "/v1/queues/calm", &Value::Null).await;
        let answer = answer.unwrap();
        if matches!(answer.status, 200..300) {
            assert_eq!(is_there(database, "calm").await, created, "{answer:?}");
        }
    }
}

/// Everything that can be asked for, by somebody who waits for the answers.
async fn ask_for_everything(client: Client, database: Database, number: usize) {
    let queue = format!("calm-{number}");
    let path = format!("/v1/queues/{queue}");
    send_all(&client, &queue, 10).await;
    let received = receive_all(&client, &queue, 10).await;
    client.delete(&queue, &received).await.unwrap();
    for (method, path, status) in [
        (Method::GET, path.as_str(), 200),
        (Method::GET, "/v1/queues", 200),
        (Method::DELETE, path.as_str(), 204),
        (Method::GET, path.as_str(), 404),
        (Method::PUT, path.as_str(), 201),
    ] {
        let answer = client.ask(method, path, &Value::Null).await.unwrap();
        answer.expect(status);
    }
    assert!(is_there(&database, &queue).await);
}

/// Where a storm rages, until everything that is sent meanwhile is acknowledged.
async fn send_through(
    storm: Storm,
    client: &Client,
    database: &Database,
    run: &Run,
) -> Vec<Vec<Send>> {
    let (storm, progress) = (Arc::new(storm), Progress::to(1_500));
    let mut raging = JoinSet::new();
    for _thread in 0..6 {
        let (storm, progress) = (Arc::clone(&storm), progress.clone());
        raging.spawn_blocking(move || storm.rage(&progress));
    }
    let mut senders = JoinSet::new();
    for (sender, batch) in (0..).zip([1, 1, 3]) {
        let sending = load::send(
            client.another(),
            run.clone(),
            sender,
            batch,
            progress.clone(),
        );
        senders.spawn(sending);
    }
    while !progress.is_done() {
        create_and_delete(client, database).await;
    }
    let times: usize = raging.join_all().await.into_iter().sum();
    assert!(times > 500, "hung up only {times} times");
    senders.join_all().await
}

#[tokio::test]
async fn clients_that_hang_up_spoil_nothing_for_others() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(0);
    client.put_queue(QUEUE).await;
    client.put_queue("q").await;
    send_all(&client, PREY, 200).await;
    send_all(&client, "storm", 100).await;
    let handles = receive_all(&client, "storm", 100).await.into_iter();
    let storm = Storm {
        address: cluster.nodes[0].address(),
        token: client.token().to_owned(),
        receipt_handles: handles.map(|message| message.receipt_handle).collect(),
    };
    let (database, run) = (cluster.database(), Run::new());
    let sends = send_through(storm, &client, &database, &run).await;

    load::sessions_rest(&database).await;
    let mut calm = JoinSet::new();
    for number in 0..20 {
        calm.spawn(ask_for_everything(
            client.another(),
            cluster.database(),
            number,
        ));
    }
    calm.join_all().await;

    // Nobody got what was claimed for those who hung up, whether that was counted or not.
    let claimed = format!(
        "select count(*) from towpath.lease where lane_id >> 26 =
            (select queue_id from towpath.queue where name = '{PREY}')"
    );
    assert!(database.value::<i64>(claimed).await > 0);
    let prey = receive_all(&client, PREY, 200).await;
    let ids: HashSet<_> = prey.iter().map(|message| message.message_id).collect();
    assert_eq!(ids.len(), 200);

    let drained = load::now();
    let drain = load::drain(&client, &run).await;
    let history = load::history(sends, Notes::default(), drained, drain);
    assert_eq!(check(&history), [] as [Violation; 0]);
}

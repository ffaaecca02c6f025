//! What Prometheus sees of a node: names, types and values after some traffic, and who may look. In `files` the
//! documentation and what operators are given, in `culprits` those who hold back vacuum.

mod culprits;
mod files;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use towpath::domain::access::{Right, Rights};
use towpath::metrics::{FAMILIES, Kind, Place};

use crate::support::client::{Client, Message};
use crate::support::database::Database;
use crate::support::node::MAX_QUEUES;
use crate::support::server::Cluster;
use crate::support::socket::Server;
use crate::support::{all_rights, eventually, http, http_on, token};

const NODE: &str = "/metrics";
const QUEUES: &str = "/metrics/queues";

/// What one scrape says.
#[derive(Debug)]
struct Scrape {
    text: String,
    /// By name and labels as they are written.
    values: BTreeMap<String, f64>,
    /// Each metric's type.
    types: BTreeMap<String, String>,
}

impl Scrape {
    fn read(text: String) -> Self {
        let (mut values, mut types) = (BTreeMap::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(of_type) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of_type.split_once(' ').unwrap();
                let before = types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is there twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let before = values.insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{series} is there twice");
            }
        }
        Self {
            text,
            values,
            types,
        }
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        match self.values.get(series) {
            Some(value) => *value,
            None => panic!("no {series} in\n{}", self.text),
        }
    }
}

async fn get(at: SocketAddr, path: &str, token: Option<&str>) -> reqwest::Response {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = http.get(format!("http://{at}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

async fn scrape(at: SocketAddr, path: &str, token: &str) -> Scrape {
    let answer = get(at, path, Some(token)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4"
    );
    Scrape::read(answer.text().await.unwrap())
}

/// One scrape of a node of a cluster.
async fn scrape_node(cluster: &Cluster, node: usize, path: &str) -> Scrape {
    let client = cluster.client(node);
    scrape(cluster.nodes[node].address(), path, client.token()).await
}

/// Until a scrape says what it should.
async fn scraped(cluster: &Cluster, path: &str, expected: &[(&str, f64)]) -> Scrape {
    let said = Mutex::new(String::new());
    eventually("all of that is scraped", async || {
        let scrape = scrape_node(cluster, 0, path).await;
        let found = |series: &str| scrape.values.get(series).copied();
        let others = expected.iter();
        let others: Vec<_> = others
            .filter(|(series, value)| found(series) != Some(*value))
            .map(|(series, value)| format!("{series}: {:?}, not {value}", found(series)))
            .collect();
        let now = others.join("\n");
        let mut before = said.lock().unwrap();
        if *before != now {
            println!("{now}\n");
            *before = now;
        }
        others.is_empty().then_some(scrape)
    })
    .await
}

async fn post(client: &Client, path: &str, body: Value) -> Value {
    let path = format!("/v1/queues/{path}");
    let answer = client.ask(Method::POST, &path, &body).await.unwrap();
    answer.expect(200).clone()
}

async fn receive_one(client: &Client, queue: &str) -> Message {
    let received = client.receive(queue, 0, Duration::from_secs(600)).await;
    received.unwrap().remove(0)
}

/// Three messages of five bytes: one is deleted, one is in flight, one becomes a dead letter. One more is
/// delayed and one refused.
async fn traffic(client: &Client) {
    client.put_queue("dead").await;
    let settings = json!({"dead_letter_queue": "dead", "max_receive_count": 1});
    let put = client.ask(Method::PUT, "/v1/queues/orders", &settings);
    put.await.unwrap().expect(201);
    let path = "/v1/queues/orders/messages";
    for _repeated in 0..2 {
        let send = json!({"messages": [{"body": "first"}, {"body": "again"}, {"body": "third"}]});
        let sent = client.ask_under_key(Method::POST, path, &send, Some("key"));
        sent.await.unwrap().expect(200);
    }
    let received = client
        .receive("orders", 0, Duration::from_secs(600))
        .await
        .unwrap();
    assert_eq!(received.len(), 3);
    client.delete("orders", &received[..1]).await.unwrap();
    let handle = &received[1].receipt_handle;
    let entry = json!({"messages": [{"receipt_handle": handle}]});
    let nacked = post(client, "orders/messages/nack", entry).await;
    assert_eq!(nacked["messages"][0]["dead_lettered"], true, "{nacked}");
    let delayed = json!({"messages": [{"body": "later", "delay_seconds": 600}]});
    post(client, "orders/messages", delayed).await;
    let nothing = client
        .receive("orders", 0, Duration::from_secs(600))
        .await
        .unwrap();
    assert!(nothing.is_empty());
    let stranger = Client::new(client.address(), "nobody's");
    let refused = stranger.ask(Method::GET, "/v1/queues", &Value::Null).await;
    refused.unwrap().expect_problem(401, "unauthenticated");
}

/// What a node says after that.
const OF_NODE: &[(&str, f64)] = &[
    ("towpath_messages_sent_total", 4.0),
    ("towpath_sent_bytes_total", 20.0),
    ("towpath_messages_received_total", 3.0),
    ("towpath_empty_receives_total", 1.0),
    ("towpath_messages_deleted_total", 1.0),
    ("towpath_messages_dead_lettered_total", 1.0),
    ("towpath_message_wait_seconds_count", 3.0),
    ("towpath_queue_messages{state=\"visible\"}", 1.0),
    ("towpath_queue_messages{state=\"in_flight\"}", 1.0),
    ("towpath_queue_messages{state=\"delayed\"}", 1.0),
    ("towpath_queues_omitted", 0.0),
    (
        "towpath_auth_failures_total{reason=\"unauthenticated\"}",
        1.0,
    ),
    ("towpath_batch_size_sum{op=\"append\"}", 5.0),
    ("towpath_batch_size_sum{op=\"ack\"}", 1.0),
    ("towpath_batch_size_sum{op=\"extend\"}", 1.0),
    (
        "http_server_request_duration_seconds_count{method=\"PUT\",route=\"/v1/queues/{queue}\",status=\"201\"}",
        2.0,
    ),
    (
        "http_server_request_duration_seconds_count{method=\"GET\",route=\"/v1/queues\",status=\"401\"}",
        1.0,
    ),
    ("towpath_build_info{version=\"0.1.0\"}", 1.0),
];

/// What is said of its queues.
const OF_QUEUES: &[(&str, f64)] = &[
    ("towpath_messages_sent_total{queue=\"orders\"}", 4.0),
    ("towpath_messages_sent_total{queue=\"dead\"}", 0.0),
    ("towpath_sent_bytes_total{queue=\"orders\"}", 20.0),
    ("towpath_messages_received_total{queue=\"orders\"}", 3.0),
    ("towpath_empty_receives_total{queue=\"orders\"}", 1.0),
    ("towpath_messages_deleted_total{queue=\"orders\"}", 1.0),
    (
        "towpath_messages_dead_lettered_total{queue=\"orders\"}",
        1.0,
    ),
    (
        "towpath_queue_messages{queue=\"orders\",state=\"in_flight\"}",
        1.0,
    ),
    (
        "towpath_queue_messages{queue=\"orders\",state=\"delayed\"}",
        1.0,
    ),
    (
        "towpath_queue_messages{queue=\"dead\",state=\"visible\"}",
        1.0,
    ),
];

#[tokio::test]
async fn a_scrape_says_what_happened_and_exports_the_table_of_metrics_and_nothing_else() {
    let cluster = Cluster::start(1, &["metrics.interval=1s"]).await;
    let client = cluster.client(0);
    traffic(&client).await;
    scraped(&cluster, NODE, OF_NODE).await;
    // Some of the metrics come with the first look at the database and the first sweep.
    let scrape = eventually("every metric is there", async || {
        let scrape = scrape_node(&cluster, 0, NODE).await;
        (scrape.types == table(|_| true)).then_some(scrape)
    })
    .await;
    assert!(scrape.value("towpath_store_seconds_count{op=\"claim\"}") >= 2.0);
    assert!(scrape.value("towpath_message_wait_seconds_bucket{le=\"30\"}") >= 3.0);
    assert!(scrape.value("towpath_queue_oldest_message_age_seconds") > 0.0);
    assert!(scrape.value("towpath_db_connections{state=\"dedicated\"}") >= 3.0);
    for table in ["cur", "dedup", "lease", "log", "moved", "wake"] {
        scrape.value(&format!("towpath_db_dead_rows{{table=\"{table}\"}}"));
    }
    let of_queues = scraped(&cluster, QUEUES, OF_QUEUES).await;
    assert_eq!(
        of_queues.types,
        table(|place| !matches!(place, Place::Node | Place::Elected))
    );
    files::promtool(&["check", "metrics"], &scrape.text);
    files::promtool(&["check", "metrics"], &of_queues.text);

    // A queue that is deleted has no series.
    let gone = client.ask(Method::DELETE, "/v1/queues/dead?force=true", &Value::Null);
    gone.await.unwrap().expect(204);
    let of_queues = scrape_node(&cluster, 0, QUEUES).await;
    assert!(!of_queues.text.contains("queue=\"dead\""), "{of_queues:?}");
}

/// Names and types of the metrics of some places.
fn table(is_there: impl Fn(Place) -> bool) -> BTreeMap<String, String> {
    let families = FAMILIES.iter().filter(|family| is_there(family.place));
    families
        .map(|family| (family.name.to_owned(), family.kind.name().to_owned()))
        .collect()
}

#[tokio::test]
async fn receives_that_wait_are_counted_while_they_wait() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(0);
    client.put_queue("orders").await;
    let waiting = client.clone();
    let receive = async move { receive_waiting(&waiting).await };
    let wait = async {
        scraped(&cluster, NODE, &[("towpath_long_poll_waiters", 1.0)]).await;
        client.send("orders", &["hello".to_owned()]).await.unwrap();
    };
    let (received, ()) = tokio::join!(receive, wait);
    assert_eq!(received.body, "hello");
    let after = [
        ("towpath_long_poll_waiters", 0.0),
        ("towpath_empty_receives_total", 0.0),
    ];
    scraped(&cluster, NODE, &after).await;
}

async fn receive_waiting(client: &Client) -> Message {
    let received = client.receive("orders", 20, Duration::from_secs(600)).await;
    received.unwrap().remove(0)
}

#[tokio::test]
async fn what_queues_hold_is_said_by_one_node_and_by_another_when_that_is_gone() {
    let mut cluster = Cluster::start(2, &["metrics.interval=1s"]).await;
    let client = cluster.client(0);
    client.put_queue("orders").await;
    client.send("orders", &["hello".to_owned()]).await.unwrap();
    let series = "towpath_queue_messages{state=\"visible\"}";
    let says = async |cluster: &Cluster, node: usize| {
        let scrape = scrape_node(cluster, node, NODE).await;
        scrape.values.get(series).copied()
    };
    let elected = eventually("a node says it", async || {
        let both = [says(&cluster, 0).await, says(&cluster, 1).await];
        assert!(both.contains(&None), "{both:?}: both say it");
        both.iter().position(|value| *value == Some(1.0))
    })
    .await;
    cluster.nodes[elected].kill();
    eventually("the other says it", async || {
        (says(&cluster, 1 - elected).await? == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn metrics_need_the_right_to_see_queues_unless_they_are_public() {
    let closed = Server::start(http().await).await;
    let public = Server::start(towpath::http::Http {
        metrics_are_public: true,
        ..http().await
    })
    .await;
    let others = Right::ALL.into_iter();
    let others: Rights = others
        .filter(|right| *right != Right::ReadMetadata)
        .collect();
    let wrong = token(others);
    for path in [NODE, QUEUES] {
        assert_eq!(get(closed.address, path, None).await.status(), 401);
        assert_eq!(get(closed.address, path, Some(&wrong)).await.status(), 403);
        scrape(closed.address, path, &token(all_rights())).await;
        for credentials in [None, Some("nobody's"), Some(&*wrong)] {
            let answer = get(public.address, path, credentials).await;
            assert_eq!(answer.status(), 200);
        }
    }
    assert_eq!(get(public.address, "/v1/queues", None).await.status(), 401);
    let refused = scrape(closed.address, NODE, &token(all_rights())).await;
    let series = "towpath_auth_failures_total{reason=\"forbidden\"}";
    assert_eq!(refused.value(series), 2.0);
}

#[tokio::test]
async fn an_address_that_is_not_allowed_reads_no_public_metrics() {
    let elsewhere = ["192.0.2.1/32".parse().unwrap()];
    let networks = towpath::auth::Networks::new(elsewhere);
    let server = Server::start(towpath::http::Http {
        metrics_are_public: true,
        allowlist: towpath::auth::Allowlist::new(networks),
        ..http().await
    })
    .await;
    assert_eq!(get(server.address, NODE, None).await.status(), 403);
}

#[tokio::test]
async fn a_node_that_is_full_still_tells_its_metrics() {
    let mut full = http().await;
    full.limits.max_in_flight = 0;
    let server = Server::start(full).await;
    let token = token(all_rights());
    let answer = get(server.address, "/v1/queues", Some(&token)).await;
    assert_eq!(answer.status(), 503);
    let scrape = scrape(server.address, NODE, &token).await;
    let series = "http_server_request_duration_seconds_count{method=\"GET\",route=\"/v1/queues\",status=\"503\"}";
    assert_eq!(scrape.value(series), 1.0);
}

#[tokio::test]
async fn queues_beyond_the_limit_are_in_the_sums_and_have_no_series() {
    const MORE: usize = 2;
    let database = Database::new().await;
    let server = Server::start(http_on(&database).await).await;
    let token = token(all_rights());
    let client = Client::at(server.address, &token);
    for number in 0..MAX_QUEUES + MORE {
        let queue = format!("q{number}");
        client.put_queue(&queue).await;
        client.send(&queue, &["hello".to_owned()]).await.unwrap();
        let message = receive_one(&client, &queue).await;
        client.delete(&queue, &[message]).await.unwrap();
    }
    let node = scrape(server.address, NODE, &token).await;
    assert_eq!(
        node.value("towpath_messages_deleted_total"),
        (MAX_QUEUES + MORE) as f64
    );
    assert_eq!(node.value("towpath_queues_omitted"), MORE as f64);
    let queues = scrape(server.address, QUEUES, &token).await;
    assert_eq!(queues.value("towpath_queues_omitted"), MORE as f64);
    let series = queues.values.keys();
    let deleted = series.filter(|series| series.starts_with("towpath_messages_deleted_total"));
    assert_eq!(deleted.count(), MAX_QUEUES);
    assert!(
        !queues.text.contains("towpath_queue_messages"),
        "not elected"
    );
}

#[tokio::test]
async fn a_method_or_path_of_a_callers_own_makes_no_series() {
    let server = Server::start(http().await).await;
    let token = token(all_rights());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for number in 0..5 {
        let method = Method::from_bytes(format!("BREW{number}").as_bytes()).unwrap();
        let url = format!("http://{}/pot/{number}", server.address);
        let answer = http.request(method, url).bearer_auth(&token).send().await;
        assert_eq!(answer.unwrap().status(), 404);
    }
    let scrape = scrape(server.address, NODE, &token).await;
    let series = "http_server_request_duration_seconds_count{method=\"other\",route=\"none\",status=\"404\"}";
    assert_eq!(scrape.value(series), 5.0);
    assert!(!scrape.text.contains("BREW"));
}

#[test]
fn histograms_have_bounds_that_ascend() {
    for family in FAMILIES {
        if let Kind::Histogram(bounds) = family.kind {
            assert!(bounds.is_sorted(), "{}", family.name);
        }
    }
}

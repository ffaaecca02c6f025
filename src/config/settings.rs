//! The validated types of every setting, how each is read from its text, and the ranges. What a
//! setting means is said in `config.default.toml`, once.

use std::fmt;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::domain::limits::{MAX_RECEIVE_WAIT, MAX_REQUEST_BYTES, MAX_TOKEN_LIFETIME};

/// Time for a load balancer to notice that a node is not ready, where nobody at a terminal waits.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

/// Most of what the server may be told to keep of request bodies: 1 TiB.
const MAX_BUFFERED_BYTES: usize = 1 << 40;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Everything that can be configured, validated. `config.default.toml` documents each field.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HTTP server.
    pub server: Server,
    /// What is kept on this machine's disk.
    pub data: Data,
    /// Where PostgreSQL comes from, and the connections to it.
    pub database: Database,
    /// Who may call.
    pub access: Access,
    /// The hot path's batches and queues.
    pub broker: Broker,
    /// What is counted, and who may read it.
    pub metrics: Metrics,
    /// Background tasks.
    pub maintenance: Maintenance,
    /// Logs.
    pub log: Log,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Most connections open at once.
    pub max_connections: u32,
    /// Most requests being answered at once, waiting receives included.
    pub max_in_flight_requests: usize,
    /// Longest time for one answer.
    #[serde(deserialize_with = "duration")]
    pub request_timeout: Duration,
    /// Longest time for a request's body to arrive.
    #[serde(deserialize_with = "duration")]
    pub body_timeout: Duration,
    /// Longest time from the beginning of a connection to the head of its first request.
    #[serde(deserialize_with = "duration")]
    pub header_timeout: Duration,
    /// Longest time without a request on a connection that had one.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// Time between turning unready and refusing connections; "auto" is resolved.
    #[serde(deserialize_with = "shutdown_delay")]
    pub shutdown_delay: Duration,
    /// Longest time that started requests may take after that.
    #[serde(deserialize_with = "duration")]
    pub drain_timeout: Duration,
    /// Largest request body.
    pub max_request_bytes: usize,
    /// Most bytes of request bodies in memory.
    pub max_buffered_bytes: usize,
}

/// `[data]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Absolute path of the data directory, the default filled in. It may not exist yet.
    pub dir: PathBuf,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// An external PostgreSQL; `None` asks for the managed one.
    #[serde(deserialize_with = "database_url")]
    pub url: Option<DatabaseUrl>,
    /// Directory of the managed PostgreSQL's programs; `None` looks for them.
    #[serde(deserialize_with = "unless_empty")]
    pub pg_bin: Option<PathBuf>,
    /// System user of the managed PostgreSQL when we are root.
    #[serde(deserialize_with = "unless_empty")]
    pub pg_user: Option<String>,
    /// Connections of the pool.
    pub pool_size: u32,
    /// Longest wait for a connection of the pool.
    #[serde(deserialize_with = "duration")]
    pub acquire_timeout: Duration,
    /// Longest time for one statement.
    #[serde(deserialize_with = "duration")]
    pub statement_timeout: Duration,
    /// Start although the server may lose what it acknowledged.
    pub allow_unsafe_durability: bool,
    /// `max_connections` of the managed PostgreSQL.
    pub max_connections: u32,
}

/// `[access]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Addresses that may call; empty means every address.
    #[serde(deserialize_with = "networks")]
    pub allowed_ips: Vec<IpNet>,
    /// Proxies whose forwarding header is believed; never every address.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Life of the administrator's token.
    #[serde(deserialize_with = "duration")]
    pub token_lifetime: Duration,
}

/// `[broker]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Messages after which an appending statement takes no more requests.
    pub append_batch: usize,
    /// Receivers per claiming statement.
    pub claim_batch: usize,
    /// Receipts after which a deleting or extending statement takes no more requests.
    pub ack_batch: usize,
    /// Requests waiting per batcher.
    pub queue_length: usize,
    /// Receives waiting for a message.
    pub max_waiting_receives: usize,
    /// How often a waiting queue is looked at unasked.
    #[serde(deserialize_with = "duration")]
    pub safety_probe: Duration,
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Whether they are read without a token.
    pub public: bool,
    /// The pause between two looks at the database.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// Queues with series of their own.
    pub max_queues: usize,
}

/// `[maintenance]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// The age from which on a transaction that holds back vacuum is warned of.
    #[serde(deserialize_with = "duration")]
    pub old_snapshot_warning: Duration,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Directives of `tracing_subscriber`'s filter.
    pub filter: String,
    /// How a line looks; "auto" is resolved.
    pub format: LogFormat,
}

impl Log {
    /// The filter, read.
    ///
    /// # Errors
    /// It is not valid.
    pub fn parse_filter(&self) -> Result<EnvFilter, ParseError> {
        EnvFilter::builder().parse(&self.filter)
    }

    fn check(&self) -> Result<(), Refused> {
        match self.parse_filter() {
            Ok(_) => Ok(()),
            Err(error) => Err(Refused {
                key: "log.filter",
                rule: format!("must be levels such as \"info,towpath::broker=debug\": {error}"),
            }),
        }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "LogFormatChoice")]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum LogFormatChoice {
    Auto,
    Text,
    Json,
}

impl From<LogFormatChoice> for LogFormat {
    fn from(choice: LogFormatChoice) -> Self {
        match choice {
            LogFormatChoice::Auto if std::io::stderr().is_terminal() => Self::Text,
            LogFormatChoice::Text => Self::Text,
            LogFormatChoice::Auto | LogFormatChoice::Json => Self::Json,
        }
    }
}

/// Parameters of a URL whose names and values are shown.
const SHOWN_PARAMETERS: [&str; 8] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "sslmode",
    "sslrootcert",
    "user",
];

/// A `postgres://` URL, which may hold a password: `Debug` masks it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(url::Url);

impl DatabaseUrl {
    /// The URL, password and all, for the driver.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The URL without its password, and of its query only what is known to be no secret.
    pub fn masked(&self) -> String {
        let mut url = self.0.clone();
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "***".to_owned();
        }
        if url.query().is_some() {
            let mut masked = url.query_pairs_mut();
            masked.clear();
            for (name, value) in self.0.query_pairs() {
                if SHOWN_PARAMETERS.contains(&&*name) {
                    masked.append_pair(&name, &value);
                } else {
                    masked.append_key_only("***");
                }
            }
        }
        url.into()
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked())
    }
}

/// A value out of its range, or one that contradicts another.
pub(super) struct Refused {
    pub(super) key: &'static str,
    pub(super) rule: String,
}

impl Config {
    /// Checks what the types cannot say.
    pub(super) fn check(&self) -> Result<(), Refused> {
        let Self {
            server,
            data: _,
            database,
            access,
            broker,
            metrics,
            maintenance,
            log,
        } = self;
        server.check()?;
        database.check()?;
        access.check()?;
        broker.check()?;
        metrics.check()?;
        maintenance.check()?;
        log.check()?;
        if server.max_in_flight_requests <= broker.max_waiting_receives {
            return Err(Refused {
                key: "server.max_in_flight_requests",
                rule: format!(
                    "must exceed broker.max_waiting_receives, which is {}",
                    broker.max_waiting_receives
                ),
            });
        }
        Ok(())
    }
}

impl Server {
    fn check(&self) -> Result<(), Refused> {
        let longest_wait = MAX_RECEIVE_WAIT + SECOND;
        number(
            "server.max_connections",
            self.max_connections,
            1..=1_000_000,
        )?;
        number(
            "server.max_in_flight_requests",
            self.max_in_flight_requests,
            2..=1_000_000,
        )?;
        time(
            "server.request_timeout",
            self.request_timeout,
            longest_wait..=HOUR,
        )?;
        // As long as the whole answer may take, it would never be what ends one.
        time(
            "server.body_timeout",
            self.body_timeout,
            SECOND..=self.request_timeout - SECOND,
        )?;
        time(
            "server.header_timeout",
            self.header_timeout,
            100 * MILLISECOND..=MINUTE,
        )?;
        time("server.idle_timeout", self.idle_timeout, SECOND..=HOUR)?;
        time(
            "server.shutdown_delay",
            self.shutdown_delay,
            Duration::ZERO..=10 * MINUTE,
        )?;
        time(
            "server.drain_timeout",
            self.drain_timeout,
            Duration::ZERO..=10 * MINUTE,
        )?;
        number(
            "server.max_request_bytes",
            self.max_request_bytes,
            1024..=MAX_REQUEST_BYTES,
        )?;
        number(
            "server.max_buffered_bytes",
            self.max_buffered_bytes,
            self.max_request_bytes..=MAX_BUFFERED_BYTES,
        )
    }
}

impl Database {
    fn check(&self) -> Result<(), Refused> {
        number("database.pool_size", self.pool_size, 1..=1000)?;
        time(
            "database.acquire_timeout",
            self.acquire_timeout,
            10 * MILLISECOND..=MINUTE,
        )?;
        time(
            "database.statement_timeout",
            self.statement_timeout,
            100 * MILLISECOND..=10 * MINUTE,
        )?;
        number(
            "database.max_connections",
            self.max_connections,
            20..=10_000,
        )
    }
}

impl Access {
    fn check(&self) -> Result<(), Refused> {
        time(
            "access.token_lifetime",
            self.token_lifetime,
            MINUTE..=MAX_TOKEN_LIFETIME,
        )?;
        match self
            .trusted_proxies
            .iter()
            .find(|network| network.prefix_len() == 0)
        {
            // Then any caller could choose the address that the allowlist sees.
            Some(everyone) => Err(Refused {
                key: "access.trusted_proxies",
                rule: format!("{everyone} trusts every caller; name the proxies' own addresses"),
            }),
            None => Ok(()),
        }
    }
}

impl Broker {
    fn check(&self) -> Result<(), Refused> {
        number("broker.append_batch", self.append_batch, 1..=10_000)?;
        number("broker.claim_batch", self.claim_batch, 1..=10_000)?;
        number("broker.ack_batch", self.ack_batch, 1..=10_000)?;
        number("broker.queue_length", self.queue_length, 1..=1_000_000)?;
        number(
            "broker.max_waiting_receives",
            self.max_waiting_receives,
            1..=1_000_000,
        )?;
        time(
            "broker.safety_probe",
            self.safety_probe,
            100 * MILLISECOND..=MINUTE,
        )
    }
}

impl Metrics {
    fn check(&self) -> Result<(), Refused> {
        time("metrics.interval", self.interval, SECOND..=10 * MINUTE)?;
        number("metrics.max_queues", self.max_queues, 1..=10_000)
    }
}

impl Maintenance {
    fn check(&self) -> Result<(), Refused> {
        time(
            "maintenance.old_snapshot_warning",
            self.old_snapshot_warning,
            SECOND..=24 * HOUR,
        )
    }
}

fn number<N: PartialOrd + fmt::Display>(
    key: &'static str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<(), Refused> {
    if range.contains(&value) {
        return Ok(());
    }
    let rule = format!("must be {} to {}", range.start(), range.end());
    Err(Refused { key, rule })
}

fn time(
    key: &'static str,
    value: Duration,
    range: RangeInclusive<Duration>,
) -> Result<(), Refused> {
    if range.contains(&value) {
        return Ok(());
    }
    let [shortest, longest] =
        [range.start(), range.end()].map(|end| humantime::format_duration(*end));
    let rule = format!("must be {shortest} to {longest}");
    Err(Refused { key, rule })
}

fn parse_duration<E: serde::de::Error>(text: &str) -> Result<Duration, E> {
    humantime::parse_duration(text)
        .map_err(|error| E::custom(format!("not a duration such as \"30s\" or \"5m\": {error}")))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?)
}

fn shutdown_delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "auto" if std::io::stderr().is_terminal() => Ok(Duration::ZERO),
        "auto" => Ok(SHUTDOWN_DELAY),
        text => parse_duration(text),
    }
}

fn unless_empty<'de, D: Deserializer<'de>, T: From<String>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| T::from(text)))
}

fn database_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DatabaseUrl>, D::Error> {
    let Some(text) = unless_empty::<D, String>(deserializer)? else {
        return Ok(None);
    };
    match url::Url::parse(&text) {
        // Then what was meant as a password is elsewhere, where it would be shown.
        Ok(url)
            if url.cannot_be_a_base() || url.path().contains('@') || url.fragment().is_some() =>
        {
            Err(D::Error::custom(
                "not of the form postgres://user:password@host:5432/database; in a user or password, \
                 write / as %2F, ? as %3F and # as %23",
            ))
        }
        Ok(url) if ["postgres", "postgresql"].contains(&url.scheme()) => Ok(Some(DatabaseUrl(url))),
        Ok(_) => Err(D::Error::custom(
            "must begin with postgres:// or postgresql://",
        )),
        Err(error) => Err(D::Error::custom(format!(
            "not a URL such as postgres://user:password@host:5432/database: {error}"
        ))),
    }
}

/// A single address is the range of itself.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parse = |text: &String| {
        let network = text.parse::<IpNet>().ok();
        network
            .or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)))
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "`{text}` is not an address or a range such as 10.0.0.0/8 or 2001:db8::/32"
                ))
            })
    };
    texts.iter().map(parse).collect()
}

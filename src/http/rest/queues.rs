//! Queues over REST: wire types and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Json;
use super::json::{Input, not_null};
use super::page;
use super::parameters::{ForceParameter, QueueInPath, QueueParameter, QueueToDelete, query};
use super::problem::Failure;
use crate::domain::queue::{DeadLetter, Durability, QueueName, QueueSettings, seconds};
use crate::domain::{self, limits};
use crate::http::Gate;
use crate::http::authorized::{Authorized, needs};
use crate::service::{PutOutcome, Service};

/// What a user sets on a queue. What is left out has its default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQueue {
    /// How long a received message stays hidden from others; 30 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 43200, default = 30)]
    visibility_timeout_seconds: Option<i64>,
    /// How long a receive waits for a message when it does not say; 0 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 20, default = 0)]
    receive_wait_seconds: Option<i64>,
    /// How long a message stays hidden after it was sent when it does not say; 0 when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 0, maximum = 315360000, default = 0)]
    delay_seconds: Option<i64>,
    /// How long messages live after they were sent, whatever their state; 345600 (4 days) when left out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 60, maximum = 315360000, default = 345600)]
    retention_seconds: Option<i64>,
    /// The queue that messages go to when they were received `max_receive_count` times and not deleted.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,80}$")]
    dead_letter_queue: Option<String>,
    /// After how many deliveries; goes with `dead_letter_queue`.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    max_receive_count: Option<i64>,
    /// What is on disk before it is answered: everything (`strict`, when left out), sends only
    /// (`relaxed`), or nothing (`async`).
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, value_type = DurabilityName, default = "strict")]
    durability: Option<String>,
    /// For how long a send with an `Idempotency-Key` is recognised when it comes again; 300 when left
    /// out.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, minimum = 1, maximum = 2592000, default = 300)]
    deduplication_window_seconds: Option<i64>,
}

/// What is on disk before it is answered.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes; `durability_name` writes")]
enum DurabilityName {
    Strict,
    Relaxed,
    Async,
}

const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Strict => "strict",
        Durability::Relaxed => "relaxed",
        Durability::Async => "async",
    }
}

impl PutQueue {
    fn settings(&self) -> domain::Result<QueueSettings> {
        let default = QueueSettings::default();
        let or = |field, given: Option<i64>, range, default| {
            given.map_or(Ok(default), |given| seconds(field, given, range))
        };
        let zero = Duration::ZERO;
        let settings = QueueSettings {
            visibility_timeout: or(
                "/visibility_timeout_seconds",
                self.visibility_timeout_seconds,
                zero..=limits::MAX_VISIBILITY_TIMEOUT,
                default.visibility_timeout,
            )?,
            receive_wait: or(
                "/receive_wait_seconds",
                self.receive_wait_seconds,
                zero..=limits::MAX_RECEIVE_WAIT,
                default.receive_wait,
            )?,
            delay: or(
                "/delay_seconds",
                self.delay_seconds,
                zero..=limits::MAX_LIFE,
                default.delay,
            )?,
            retention: or(
                "/retention_seconds",
                self.retention_seconds,
                limits::MIN_RETENTION..=limits::MAX_LIFE,
                default.retention,
            )?,
            dead_letter: self.dead_letter()?,
            durability: self.durability()?,
            deduplication_window: or(
                "/deduplication_window_seconds",
                self.deduplication_window_seconds,
                Duration::from_secs(1)..=limits::MAX_DEDUPLICATION_WINDOW,
                default.deduplication_window,
            )?,
        };
        if settings.delay >= settings.retention {
            return Err(domain::Error::invalid(
                "/delay_seconds",
                settings.delay.as_secs().to_string(),
                "less than retention_seconds, or no message would ever be received",
            ));
        }
        Ok(settings)
    }

    fn dead_letter(&self) -> domain::Result<Option<DeadLetter>> {
        let (queue, count) = match (&self.dead_letter_queue, self.max_receive_count) {
            (None, None) => return Ok(None),
            (Some(queue), Some(count)) => (queue, count),
            (Some(_), None) => {
                let rule = "given together with dead_letter_queue";
                return Err(domain::Error::invalid("/max_receive_count", "", rule));
            }
            (None, Some(_)) => {
                let rule = "given together with max_receive_count";
                return Err(domain::Error::invalid("/dead_letter_queue", "", rule));
            }
        };
        let max_receive_count = i32::try_from(count)
            .ok()
            .filter(|count| (1..=limits::MAX_RECEIVE_COUNT).contains(count))
            .ok_or_else(|| {
                let rule = format!("a whole number from 1 to {}", limits::MAX_RECEIVE_COUNT);
                domain::Error::invalid("/max_receive_count", count.to_string(), rule)
            })?;
        Ok(Some(DeadLetter {
            queue: QueueName::parse("/dead_letter_queue", queue)?,
            max_receive_count,
        }))
    }

    fn durability(&self) -> domain::Result<Durability> {
        let all = [Durability::Strict, Durability::Relaxed, Durability::Async];
        match &self.durability {
            None => Ok(Durability::default()),
            Some(given) => all
                .into_iter()
                .find(|durability| durability_name(*durability) == given)
                .ok_or_else(|| {
                    let rule = "one of strict, relaxed and async";
                    domain::Error::invalid("/durability", given, rule)
                }),
        }
    }
}

/// A queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Queue {
    /// Its name.
    #[schema(example = "orders")]
    name: String,
    /// How long a received message stays hidden from others.
    #[schema(minimum = 0, maximum = 43200, example = 30)]
    visibility_timeout_seconds: u64,
    /// How long a receive waits for a message when it does not say.
    #[schema(minimum = 0, maximum = 20, example = 0)]
    receive_wait_seconds: u64,
    /// How long a message stays hidden after it was sent when it does not say.
    #[schema(minimum = 0, maximum = 315360000, example = 0)]
    delay_seconds: u64,
    /// How long messages live after they were sent, whatever their state.
    #[schema(minimum = 60, maximum = 315360000, example = 345600)]
    retention_seconds: u64,
    /// The queue that messages go to when they were received too often.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    dead_letter_queue: Option<String>,
    /// After how many deliveries.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 1000)]
    max_receive_count: Option<i32>,
    /// What is on disk before it is answered.
    #[schema(value_type = DurabilityName)]
    durability: &'static str,
    /// For how long a send with an `Idempotency-Key` is recognised when it comes again.
    #[schema(minimum = 1, maximum = 2592000, example = 300)]
    deduplication_window_seconds: u64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// Counts the changes of its settings.
    #[schema(minimum = 1, example = 1)]
    version: i64,
}

impl From<domain::queue::Queue> for Queue {
    fn from(queue: domain::queue::Queue) -> Self {
        let settings = queue.settings;
        let dead_letter = settings.dead_letter;
        Self {
            name: queue.name.as_str().to_owned(),
            visibility_timeout_seconds: settings.visibility_timeout.as_secs(),
            receive_wait_seconds: settings.receive_wait.as_secs(),
            delay_seconds: settings.delay.as_secs(),
            retention_seconds: settings.retention.as_secs(),
            max_receive_count: dead_letter.as_ref().map(|to| to.max_receive_count),
            dead_letter_queue: dead_letter.map(|to| to.queue.as_str().to_owned()),
            durability: durability_name(settings.durability),
            deduplication_window_seconds: settings.deduplication_window.as_secs(),
            created_at: queue.created_at,
            version: queue.version,
        }
    }
}

/// Queues in the order of their names.
#[derive(Serialize, ToSchema)]
pub(super) struct QueuePage {
    /// The queues.
    items: Vec<Queue>,
    /// Leads to the next page; missing on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// Create a queue or replace its settings
///
/// A queue that has these settings already stays as it is, so the request can be repeated. What the
/// body leaves out gets its default; an empty body means all defaults.
#[utoipa::path(
    put, path = "/v1/queues/{queue}", operation_id = "putQueue", tag = "queues",
    params(QueueParameter),
    request_body(content = PutQueue, description = "Its settings",
        example = json!({"visibility_timeout_seconds": 60})),
    responses(
        (status = 200, description = "The queue exists with these settings", body = Queue,
            example = json!(super::openapi::queue_example())),
        (status = 201, description = "The queue was created", body = Queue,
            headers(("location" = String, description = "The queue's path")),
            example = json!(super::openapi::queue_example())),
    ),
)]
pub(super) async fn put_queue(
    caller: Authorized<needs::Configure>,
    QueueInPath(name): QueueInPath,
    State(gate): State<Arc<Gate>>,
    body: Option<Input<PutQueue>>,
) -> Result<(StatusCode, Option<[(HeaderName, String); 1]>, Json<Queue>), Failure> {
    let settings = body
        .map_or_else(PutQueue::default, |Input(body, _place)| body)
        .settings()?;
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move { service.put_queue(&tenant, name, settings).await };
    let (queue, outcome) = gate.change(change).await?;
    let (status, location) = match outcome {
        PutOutcome::Created => {
            let path = format!("/v1/queues/{}", queue.name.as_str());
            (StatusCode::CREATED, Some([(LOCATION, path)]))
        }
        PutOutcome::Updated | PutOutcome::Unchanged => (StatusCode::OK, None),
    };
    Ok((status, location, Json(queue.into())))
}

/// Get a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}", operation_id = "getQueue", tag = "queues",
    params(QueueParameter),
    responses(
        (status = 200, description = "The queue", body = Queue,
            example = json!(super::openapi::queue_example())),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn get_queue(
    caller: Authorized<needs::ReadMetadata>,
    QueueInPath(name): QueueInPath,
    State(service): State<Service>,
) -> Result<Json<Queue>, Failure> {
    Ok(Json(service.get_queue(&caller.tenant, &name).await?.into()))
}

/// Delete a queue with all its messages
///
/// Receives that wait on it are told. One that is the dead-letter queue of others stays, unless `force`
/// is given: then they deliver on.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "deleteQueue", tag = "queues",
    params(QueueParameter, ForceParameter),
    responses(
        (status = 204, description = "The queue is gone"),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Other queues send their dead letters there"),
    ),
)]
pub(super) async fn delete_queue(
    caller: Authorized<needs::Configure>,
    QueueToDelete { queue, force }: QueueToDelete,
    State(gate): State<Arc<Gate>>,
) -> Result<StatusCode, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move { service.delete_queue(&tenant, &queue, force).await };
    gate.change(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drop all messages of a queue
///
/// Waiting, in flight and delayed ones alike, however many. A message that is sent meanwhile may stay.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/purge", operation_id = "purgeQueue", tag = "queues",
    params(QueueParameter),
    responses(
        (status = 204, description = "The messages are gone"),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn purge_queue(
    caller: Authorized<needs::Purge>,
    QueueInPath(name): QueueInPath,
    State(gate): State<Arc<Gate>>,
) -> Result<StatusCode, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move { service.purge_queue(&tenant, &name).await };
    gate.change(change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a queue holds.
#[derive(Serialize, ToSchema)]
pub(super) struct Counts {
    /// Messages that can be received.
    #[schema(minimum = 0)]
    visible: u64,
    /// Messages that somebody received, or gave up with a delay that has not passed.
    #[schema(minimum = 0)]
    in_flight: u64,
    /// Messages whose delay has not passed.
    #[schema(minimum = 0)]
    delayed: u64,
    /// How long ago the oldest one that is still there was first sent; missing when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    oldest_age_seconds: Option<u64>,
}

/// Count the messages of a queue
///
/// Exact, as of a second ago at the most. Messages that have expired count until they are passed by.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/counts", operation_id = "countMessages", tag = "queues",
    params(QueueParameter),
    responses(
        (status = 200, description = "How many there are", body = Counts,
            example = json!({"visible": 12, "in_flight": 3, "delayed": 0, "oldest_age_seconds": 41})),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn count_messages(
    caller: Authorized<needs::ReadMetadata>,
    QueueInPath(name): QueueInPath,
    State(service): State<Service>,
) -> Result<Json<Counts>, Failure> {
    let counts = service.count_messages(&caller.tenant, &name).await?;
    Ok(Json(Counts {
        visible: counts.visible,
        in_flight: counts.in_flight,
        delayed: counts.delayed,
        oldest_age_seconds: counts.oldest_age.map(|age| age.as_secs()),
    }))
}

/// Which page of the queues.
pub(super) struct ListQueues {
    limit: usize,
    after: Option<QueueName>,
    prefix: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for ListQueues {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let [limit, cursor, prefix] = query(parts, ["limit", "cursor", "prefix"])?;
        let after = cursor.map(|cursor| {
            QueueName::parse("cursor", &page::key(&cursor)?)
                .map_err(|_not_a_name| page::not_a_cursor(&cursor))
        });
        if let Some(prefix) = &prefix {
            QueueName::parse("prefix", prefix)?;
        }
        Ok(Self {
            limit: page::limit(limit.as_deref())?,
            after: after.transpose()?,
            prefix,
        })
    }
}

/// The same for the OpenAPI document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes; `ListQueues` reads")]
pub(super) struct ListQueuesParameters {
    /// Most queues on the page; 100 when left out.
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i32>,
    /// The `next_cursor` of the page before.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// Only queues whose names begin like this.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{1,80}$")]
    prefix: Option<String>,
}

/// List queues by name
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "listQueues", tag = "queues",
    params(ListQueuesParameters),
    responses((status = 200, description = "A page of queues", body = QueuePage,
        example = json!({"items": [super::openapi::queue_example()], "next_cursor": "b3JkZXJz"}))),
)]
pub(super) async fn list_queues(
    caller: Authorized<needs::ReadMetadata>,
    page: ListQueues,
    State(service): State<Service>,
) -> Result<Json<QueuePage>, Failure> {
    let found = service
        .list_queues(
            &caller.tenant,
            page.prefix.as_deref(),
            page.after.as_ref(),
            page.limit,
        )
        .await?;
    Ok(Json(QueuePage {
        items: found.items.into_iter().map(Queue::from).collect(),
        next_cursor: found.next.map(|last| page::cursor(last.as_str())),
    }))
}

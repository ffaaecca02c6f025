//! Queues over REST: wire types and handlers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::header::{ETAG, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Json;
use super::conditions::{Conditions, IfMatch, IfMatchParameter, IfNoneMatchParameter, entity_tag};
use super::json::{Input, Patch};
use super::page;
use super::parameters::{ForceParameter, QueueInPath, QueueParameter, QueueToDelete, query};
use super::patch_queue::PatchQueue;
use super::problem::Failure;
use super::queue_settings::{DurabilityName, PutQueue, durability_name};
use super::retry_policy::RetryPolicy;
use crate::domain::queue::QueueName;
use crate::domain::{self, limits};
use crate::http::Gate;
use crate::http::authorized::{Authorized, needs};
use crate::service::{PutOutcome, Service};

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
    /// What its user keeps with it.
    #[schema(value_type = BTreeMap<String, String>)]
    tags: BTreeMap<String, String>,
    /// Whether sends are refused.
    #[schema(example = false)]
    sending_paused: bool,
    /// Whether receives are answered as if the queue were empty.
    #[schema(example = false)]
    receiving_paused: bool,
    /// After how long a message comes back that was given up without a delay; at once when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = RetryPolicy)]
    retry_policy: Option<RetryPolicy>,
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
        let tags = settings.tags.iter();
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
            tags: tags
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            sending_paused: settings.sending_paused,
            receiving_paused: settings.receiving_paused,
            retry_policy: settings.retry_policy.map(RetryPolicy::from),
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

/// An answer that shows a queue: its version is the entity tag.
pub(super) struct Shown(domain::queue::Queue);

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        let tag = entity_tag(self.0.version);
        ([(ETAG, tag)], Json(Queue::from(self.0))).into_response()
    }
}

/// Create a queue or replace its settings
///
/// A queue that has these settings already stays as it is, so the request can be repeated. What the
/// body leaves out gets its default; an empty body means all defaults.
#[utoipa::path(
    put, path = "/v1/queues/{queue}", operation_id = "putQueue", tag = "queues",
    params(QueueParameter, IfMatchParameter, IfNoneMatchParameter),
    request_body(content = PutQueue, description = "Its settings",
        example = json!({"visibility_timeout_seconds": 60})),
    responses(
        (status = 200, description = "The queue exists with these settings", body = Queue,
            headers(("etag" = String, description = "Its version, in quotation marks")),
            example = json!(super::openapi::queue_example())),
        (status = 201, description = "The queue was created", body = Queue,
            headers(("etag" = String, description = "Its version, in quotation marks"),
                ("location" = String, description = "The queue's path")),
            example = json!(super::openapi::queue_example())),
        (status = 412, description = "The queue is not as the request wants it to be"),
    ),
)]
pub(super) async fn put_queue(
    caller: Authorized<needs::Configure>,
    QueueInPath(name): QueueInPath,
    Conditions(precondition): Conditions,
    State(gate): State<Arc<Gate>>,
    body: Option<Input<PutQueue>>,
) -> Result<(StatusCode, Option<[(HeaderName, String); 1]>, Shown), Failure> {
    let settings = body
        .map_or_else(PutQueue::default, |Input(body, _place)| body)
        .settings()?;
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move {
        service
            .put_queue(&tenant, name, settings, &precondition)
            .await
    };
    let (queue, outcome) = gate.change(change).await?;
    let (status, location) = match outcome {
        PutOutcome::Created => {
            let path = format!("/v1/queues/{}", queue.name.as_str());
            (StatusCode::CREATED, Some([(LOCATION, path)]))
        }
        PutOutcome::Updated | PutOutcome::Unchanged => (StatusCode::OK, None),
    };
    Ok((status, location, Shown(queue)))
}

/// Change some of a queue's settings
///
/// A merge patch (RFC 7396), also taken as `application/merge-patch+json`: what is left out stays as it is,
/// and `null` stands for the default. Tags are merged one by one, where `null` removes one, and so is a
/// retry policy of the same type; one of another type replaces it. What comes of it follows the rules of a
/// PUT. Patches of different settings at one time are all kept.
#[utoipa::path(
    patch, path = "/v1/queues/{queue}", operation_id = "patchQueue", tag = "queues",
    params(QueueParameter, IfMatchParameter),
    request_body(content = PatchQueue, description = "The settings that change",
        example = json!({"delay_seconds": 5, "retention_seconds": null, "tags": {"team": "billing"}})),
    responses(
        (status = 200, description = "The queue has these settings now", body = Queue,
            headers(("etag" = String, description = "Its version, in quotation marks")),
            example = json!(super::openapi::queue_example())),
        (status = 404, description = "There is no such queue"),
        (status = 412, description = "The queue is not as the request wants it to be"),
    ),
)]
pub(super) async fn patch_queue(
    caller: Authorized<needs::Configure>,
    QueueInPath(name): QueueInPath,
    IfMatch(precondition): IfMatch,
    State(gate): State<Arc<Gate>>,
    Patch(patch, _place): Patch<PatchQueue>,
) -> Result<Shown, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move {
        let new = |queue: &domain::queue::Queue| patch.settings_of(queue);
        service
            .change_queue(&tenant, &name, &precondition, new)
            .await
    };
    let (queue, _outcome) = gate.change(change).await?;
    Ok(Shown(queue))
}

/// Get a queue
#[utoipa::path(
    get, path = "/v1/queues/{queue}", operation_id = "getQueue", tag = "queues",
    params(QueueParameter),
    responses(
        (status = 200, description = "The queue", body = Queue,
            headers(("etag" = String, description = "Its version, in quotation marks")),
            example = json!(super::openapi::queue_example())),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn get_queue(
    caller: Authorized<needs::ReadMetadata>,
    QueueInPath(name): QueueInPath,
    State(service): State<Service>,
) -> Result<Shown, Failure> {
    Ok(Shown(service.get_queue(&caller.tenant, &name).await?))
}

/// Delete a queue with all its messages
///
/// Receives that wait on it are told. One that is the dead-letter queue of others stays, unless `force`
/// is given: then they deliver on.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "deleteQueue", tag = "queues",
    params(QueueParameter, ForceParameter, IfMatchParameter),
    responses(
        (status = 204, description = "The queue is gone"),
        (status = 404, description = "There is no such queue"),
        (status = 409, description = "Other queues send their dead letters there"),
        (status = 412, description = "The queue is not as the request wants it to be"),
    ),
)]
pub(super) async fn delete_queue(
    caller: Authorized<needs::Configure>,
    QueueToDelete { queue, force }: QueueToDelete,
    IfMatch(precondition): IfMatch,
    State(gate): State<Arc<Gate>>,
) -> Result<StatusCode, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move {
        service
            .delete_queue(&tenant, &queue, force, &precondition)
            .await
    };
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
    tag: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for ListQueues {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let [limit, cursor, prefix, tag] = query(parts, ["limit", "cursor", "prefix", "tag"])?;
        let after = cursor.map(|cursor| {
            QueueName::parse("cursor", &page::key(&cursor)?)
                .map_err(|_not_a_name| page::not_a_cursor(&cursor))
        });
        if let Some(prefix) = &prefix {
            QueueName::parse("prefix", prefix)?;
        }
        if let Some(tag) = &tag {
            check_tag(tag)?;
        }
        Ok(Self {
            limit: page::limit(limit.as_deref())?,
            after: after.transpose()?,
            prefix,
            tag,
        })
    }
}

/// What a queue could have, as its key or as both.
fn check_tag(tag: &str) -> domain::Result<()> {
    let longest = limits::MAX_TAG_KEY + 1 + limits::MAX_TAG_VALUE;
    if (1..=longest).contains(&tag.chars().count()) && !tag.contains('\0') {
        return Ok(());
    }
    let rule = "a tag's key, or its key, a colon and its value";
    Err(domain::Error::invalid("tag", tag, rule))
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
    /// Only queues with this tag: its key, or its key, a colon and its value.
    #[param(
        nullable = false,
        min_length = 1,
        max_length = 385,
        example = "team:billing"
    )]
    tag: Option<String>,
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
            page.tag.as_deref(),
            page.after.as_ref(),
            page.limit,
        )
        .await?;
    Ok(Json(QueuePage {
        items: found.items.into_iter().map(Queue::from).collect(),
        next_cursor: found.next.map(|last| page::cursor(last.as_str())),
    }))
}

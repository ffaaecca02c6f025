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
use super::parameters::{QueueInPath, QueueParameter, query};
use super::problem::Failure;
use crate::domain::queue::{QueueName, QueueSettings, seconds};
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
}

impl PutQueue {
    fn settings(&self) -> domain::Result<QueueSettings> {
        let default = QueueSettings::default();
        let or = |field, given: Option<i64>, max, default| {
            given.map_or(Ok(default), |given| {
                seconds(field, given, Duration::ZERO..=max)
            })
        };
        Ok(QueueSettings {
            visibility_timeout: or(
                "/visibility_timeout_seconds",
                self.visibility_timeout_seconds,
                limits::MAX_VISIBILITY_TIMEOUT,
                default.visibility_timeout,
            )?,
            receive_wait: or(
                "/receive_wait_seconds",
                self.receive_wait_seconds,
                limits::MAX_RECEIVE_WAIT,
                default.receive_wait,
            )?,
        })
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
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// Counts the changes of its settings.
    #[schema(minimum = 1, example = 1)]
    version: i64,
}

impl From<domain::queue::Queue> for Queue {
    fn from(queue: domain::queue::Queue) -> Self {
        let whole = |duration: Duration| duration.as_secs();
        Self {
            name: queue.name.as_str().to_owned(),
            visibility_timeout_seconds: whole(queue.settings.visibility_timeout),
            receive_wait_seconds: whole(queue.settings.receive_wait),
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
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", operation_id = "deleteQueue", tag = "queues",
    params(QueueParameter),
    responses(
        (status = 204, description = "The queue is gone"),
        (status = 404, description = "There is no such queue"),
    ),
)]
pub(super) async fn delete_queue(
    caller: Authorized<needs::Configure>,
    QueueInPath(name): QueueInPath,
    State(gate): State<Arc<Gate>>,
) -> Result<StatusCode, Failure> {
    let service = gate.http.service.clone();
    let tenant = caller.tenant.clone();
    let change = async move { service.delete_queue(&tenant, &name).await };
    gate.change(change).await?;
    Ok(StatusCode::NO_CONTENT)
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

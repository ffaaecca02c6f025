//! How an error is said over REST: RFC 9457 problems. What can go wrong is not decided here, but
//! every error has to pass, so each chain of sources is logged here, once.

use std::error::Error as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Error, Violation};
use crate::http::request_id::RequestId;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// How long a caller should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What is wrong with a request or with the server (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:towpath:error:` and the code.
    #[schema(example = "urn:towpath:error:invalid")]
    r#type: String,
    /// The code in words; the same for every problem with this code.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened this time, for people.
    detail: String,
    /// What went wrong, for programs. Never changes its meaning; new ones may be added.
    #[schema(example = "invalid")]
    code: &'static str,
    /// The request, as the server's log knows it.
    request_id: String,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// For 5xx: `none` when nothing was done, `unknown` when it may have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    outcome: Option<&'static str>,
    /// Each field that breaks a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// One field that breaks one rule.
#[derive(Debug, Serialize, ToSchema)]
struct FieldError {
    /// For a field of the body: where it is, as a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "/messages/0/body")]
    pointer: Option<String>,
    /// For a part of the path, a parameter of the query or a header: its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameter: Option<String>,
    /// The value that was sent, shortened.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    value: String,
    /// What would be right.
    detail: String,
}

impl From<&Violation> for FieldError {
    fn from(violation: &Violation) -> Self {
        let field = Some(violation.field.clone());
        let in_body = violation.field.is_empty() || violation.field.starts_with('/');
        Self {
            pointer: field.clone().filter(|_| in_body),
            parameter: field.filter(|_| !in_body),
            value: violation.value.clone(),
            detail: violation.rule.clone(),
        }
    }
}

/// What is the same for every error of one variant.
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    retryable: bool,
    outcome: Option<&'static str>,
}

impl Kind {
    /// The request has to change.
    const fn refused(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self {
            status,
            code,
            title,
            retryable: false,
            outcome: None,
        }
    }

    /// The same request may succeed later.
    const fn not_now(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        outcome: &'static str,
    ) -> Self {
        Self {
            status,
            code,
            title,
            retryable: true,
            outcome: Some(outcome),
        }
    }

    #[deny(clippy::wildcard_enum_match_arm)]
    #[expect(
        clippy::too_many_lines,
        reason = "the whole list in one match is clearest"
    )]
    const fn of(error: &Error) -> Self {
        use StatusCode as S;
        match error {
            Error::Malformed { .. } => {
                Self::refused(S::BAD_REQUEST, "malformed", "The request cannot be read")
            }
            Error::Invalid(_) => Self::refused(
                S::UNPROCESSABLE_ENTITY,
                "invalid",
                "The request breaks a rule",
            ),
            Error::TooLarge { .. } => Self::refused(
                S::PAYLOAD_TOO_LARGE,
                "too_large",
                "The request is too large",
            ),
            Error::UnsupportedMediaType { .. } => Self::refused(
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body's media type is not supported",
            ),
            Error::Unauthenticated { .. } => Self::refused(
                S::UNAUTHORIZED,
                "unauthenticated",
                "Good credentials are needed",
            ),
            Error::Forbidden { .. } => {
                Self::refused(S::FORBIDDEN, "forbidden", "The token lacks a right")
            }
            Error::AddressNotAllowed { .. } => Self::refused(
                S::FORBIDDEN,
                "address_not_allowed",
                "The client's address is not allowed",
            ),
            Error::NoSuchPath { .. } => {
                Self::refused(S::NOT_FOUND, "no_such_path", "There is nothing here")
            }
            Error::MethodNotAllowed { .. } => Self::refused(
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The path does not have this method",
            ),
            Error::QueueNotFound { .. } => {
                Self::refused(S::NOT_FOUND, "queue_not_found", "There is no such queue")
            }
            Error::QueueInUse { .. } => {
                Self::refused(S::CONFLICT, "queue_in_use", "Other queues need this one")
            }
            Error::RedriveNotFound { .. } => Self::refused(
                S::NOT_FOUND,
                "redrive_not_found",
                "There is no such redrive",
            ),
            Error::RedriveRunning { .. } => Self::refused(
                S::CONFLICT,
                "redrive_running",
                "Another redrive of the queue runs",
            ),
            Error::QueuePaused { .. } => {
                Self::refused(S::CONFLICT, "queue_paused", "Sending is paused")
            }
            Error::PreconditionFailed { .. } => Self::refused(
                S::PRECONDITION_FAILED,
                "precondition_failed",
                "The queue is not as the request wants it to be",
            ),
            Error::IdempotencyKeyReused => Self::refused(
                S::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "The key belongs to another request",
            ),
            Error::MessageNotFound { .. } => Self::refused(
                S::NOT_FOUND,
                "message_not_found",
                "There is no such message",
            ),
            Error::MessageInFlight { .. } => {
                Self::refused(S::CONFLICT, "message_in_flight", "The message is in flight")
            }
            Error::MessageNeverReceived { .. } => Self::refused(
                S::CONFLICT,
                "message_never_received",
                "The message is ready and was never received",
            ),
            Error::ReceiptStale(_) => Self::refused(
                S::CONFLICT,
                "receipt_stale",
                "The receipt handle is of an old delivery",
            ),
            Error::BodyTimeout { .. } => Self {
                retryable: true,
                ..Self::refused(
                    S::REQUEST_TIMEOUT,
                    "body_timeout",
                    "The body did not arrive in time",
                )
            },
            Error::Timeout { .. } => Self::not_now(
                S::GATEWAY_TIMEOUT,
                "timeout",
                "The request took too long",
                "unknown",
            ),
            Error::Overloaded { .. } => Self::not_now(
                S::SERVICE_UNAVAILABLE,
                "overloaded",
                "The node is at a limit",
                "none",
            ),
            Error::ShuttingDown => Self::not_now(
                S::SERVICE_UNAVAILABLE,
                "shutting_down",
                "The node is shutting down",
                "none",
            ),
            Error::Unavailable(_) => Self::not_now(
                S::SERVICE_UNAVAILABLE,
                "unavailable",
                "The database is not available",
                "none",
            ),
            Error::StorageFull(_) => Self::not_now(
                S::INSUFFICIENT_STORAGE,
                "storage_full",
                "The database's disk is full",
                "none",
            ),
            Error::UnknownOutcome(_) => Self::not_now(
                S::SERVICE_UNAVAILABLE,
                "unknown_outcome",
                "The outcome is unknown",
                "unknown",
            ),
            Error::Internal(_) => Self {
                retryable: false,
                ..Self::not_now(
                    S::INTERNAL_SERVER_ERROR,
                    "internal",
                    "The server has a bug",
                    "unknown",
                )
            },
        }
    }
}

impl Problem {
    /// The problem that says an error about a request.
    pub fn new(error: &Error, request_id: &str) -> Self {
        let kind = Kind::of(error);
        let violations: &[Violation] = match error {
            Error::Invalid(violations) | Error::ReceiptStale(violations) => violations,
            _ => &[],
        };
        Self {
            r#type: format!("urn:towpath:error:{}", kind.code),
            title: kind.title,
            status: kind.status.as_u16(),
            detail: error.to_string(),
            code: kind.code,
            request_id: request_id.to_owned(),
            retryable: kind.retryable,
            outcome: kind.outcome,
            errors: violations.iter().map(FieldError::from).collect(),
        }
    }
}

/// What becomes a problem. It travels as a value from wherever it happens to the top of the stack,
/// which knows the request's id.
#[derive(Debug)]
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Kind::of(&self.0).status.into_response();
        response.extensions_mut().insert(Arc::new(self.0));
        response
    }
}

/// Writes the problem into a response that stands for an error, and says for which one; leaves any
/// other response as it is.
pub(in crate::http) fn render(
    response: &mut Response,
    request_id: &RequestId,
) -> Option<Arc<Error>> {
    let error = response.extensions_mut().remove::<Arc<Error>>()?;
    log(&error, request_id);
    let problem = Problem::new(&error, request_id.as_str());
    let body = serde_json::to_vec(&problem).expect("a problem has text and numbers only");
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if problem.retryable {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    if matches!(*error, Error::Unauthenticated { .. }) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    Some(error)
}

/// Logs what an operator has to repair. Bad requests are the caller's business, shedding load must stay
/// cheap, and an error of a shared batch that has no source was logged by whoever ran the batch.
fn log(error: &Error, request_id: &RequestId) {
    if error.source().is_none() && !matches!(error, Error::Timeout { .. }) {
        return;
    }
    tracing::error!(%request_id, code = Kind::of(error).code, "request failed: {}", chain(error));
}

/// An error and its sources, for the log.
pub(in crate::http) fn chain(error: &Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some libraries repeat their source in their own text.
        let text = cause.to_string();
        if !chain.ends_with(&text) {
            chain.push_str(": ");
            chain.push_str(&text);
        }
        source = cause.source();
    }
    chain
}

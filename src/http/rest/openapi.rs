//! The OpenAPI document: its frame, what every operation has in common, and the route that serves
//! it. What one operation has of its own stands beside its handler.

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, Info, License, Object, OpenApi, OpenApiBuilder, Ref,
    RefOr, Required, Response, Schema, Server, Tag,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::openapi_3_0;
use super::problem::{MEDIA_TYPE, Problem};
use crate::domain::{Error, Violation};
use crate::http::ops;

/// Where the document is served, to everyone.
pub(in crate::http) const PATH: &str = "/v1/openapi.json";

/// The operations whose handlers take `Option<Input<_>>`. To declare that to utoipa makes the schema
/// nullable, which is another thing.
const BODY_MAY_BE_EMPTY: [&str; 2] = ["putQueue", "receiveMessages"];

pub(super) const RECEIPT_HANDLE: &str =
    "AQEAAAAABAAAAAAAAAAAAAAAAADK_rqrzQAAAAEAAAAAAAAATQEAAKrG1hD0Vd8jW5ZzZ3aP9Q";

/// The document as it is served and committed: pretty JSON that ends with a line feed.
pub fn document() -> String {
    let mut api = super::api().into_openapi();
    let schemas = api.components.iter_mut();
    for schema in schemas.flat_map(|components| components.schemas.values_mut()) {
        flatten(schema);
    }
    for (path, item) in &mut api.paths.paths {
        for operation in [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ] {
            operation.iter_mut().for_each(|it| complete(path, it));
        }
    }
    let mut document = serde_json::to_value(api).expect("the document has text keys only");
    extend_defaults(&mut document);
    format!("{document:#}\n")
}

/// Makes what fields of bodies have by default an extension, `x-default`: generators take a field with a
/// default for one that has to be sent (openapi-typescript), or send it (openapi-python-client), which a
/// merge would take for a wish.
fn extend_defaults(document: &mut Value) {
    let schemas = document["components"]["schemas"].as_object_mut();
    for (_name, schema) in schemas.into_iter().flatten() {
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (_name, property) in properties.into_iter().flatten() {
            let Some(property) = property.as_object_mut() else {
                continue;
            };
            if let Some(default) = property.shift_remove("default") {
                property.insert("x-default".to_owned(), default);
            }
        }
    }
}

/// The same in OpenAPI 3.0.3, for generators of clients that read nothing newer. Not served.
pub fn document_3_0() -> String {
    let document = serde_json::from_str(&document()).expect("it was just written");
    let document = openapi_3_0::down_converted(document);
    format!("{document:#}\n")
}

/// The API's description
///
/// This document, in OpenAPI 3.1.
#[utoipa::path(
    get, path = "/v1/openapi.json", operation_id = "getOpenApi", tag = "operations", security(()),
    responses((status = 200, description = "The OpenAPI document", body = Object,
        content_type = "application/json")),
)]
pub(super) async fn get_open_api() -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> = LazyLock::new(document);
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

/// The document without its operations.
pub(super) fn frame() -> OpenApi {
    let mut info = Info::new("Towpath", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "A durable message queue over HTTP. Every error is a problem (RFC 9457) with a stable \
         `code`, and every answer carries `X-Request-Id`: but for 400 and 431 without a body, which \
         the HTTP library gives to heads that it cannot read."
            .to_owned(),
    );
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A token from `POST /v1/tokens` or `towpath token`."))
        .build();
    let mut components = Components::new();
    let mut schemas = vec![(Problem::name().into_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let tag = |name, description: &str| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    };
    OpenApiBuilder::new()
        .info(info)
        // Relative to where the document is served.
        .servers(Some([Server::new("/")]))
        .components(Some(components))
        .security(Some([SecurityRequirement::new("bearer", [] as [&str; 0])]))
        .tags(Some([
            tag("queues", "Create, change, list and delete queues"),
            tag("messages", "Send, receive and delete messages"),
            tag(
                "redrives",
                "Move messages out of dead-letter queues, back to where they came from",
            ),
            tag("tokens", "Issue access tokens"),
            tag("operations", "For operators and their machines"),
        ]))
        .build()
}

/// Makes one object of what is written as several: utoipa describes a flattened struct by `allOf`, at
/// which generators stumble.
fn flatten(schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::AllOf(all)) = schema else {
        return;
    };
    let mut whole = Object::new();
    // Its own members come last there, and first here.
    for part in std::mem::take(&mut all.items).into_iter().rev() {
        let RefOr::T(Schema::Object(part)) = part else {
            unreachable!("only inlined structs are flattened");
        };
        whole.properties.extend(part.properties);
        whole.required.extend(part.required);
    }
    whole.description = all.description.take();
    *schema = RefOr::T(Schema::Object(whole));
}

/// Adds what an operation shares with all others of its sort: the ways to fail, and headers.
fn complete(path: &str, operation: &mut Operation) {
    let is_public = operation.security.is_some();
    let is_probe = ops::is_probe(path);
    let has_body = operation.request_body.is_some();
    let id = operation.operation_id.clone().unwrap_or_default();
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        let may_be_empty = BODY_MAY_BE_EMPTY.contains(&id.as_str());
        body.required = Some(if may_be_empty {
            Required::False
        } else {
            Required::True
        });
    }
    let responses = &mut operation.responses.responses;
    let mut add = |applies: bool, status: &str, description: &str| {
        if applies {
            let response = RefOr::T(Response::new(description));
            responses.entry(status.to_owned()).or_insert(response);
        }
    };
    add(true, "400", "The request cannot be read");
    add(!is_public, "401", "Good credentials are needed");
    add(
        !is_public,
        "403",
        "The token lacks a right, or the client's address is not allowed",
    );
    add(!is_probe, "403", "The client's address is not allowed");
    add(has_body, "408", "The body did not arrive in time");
    add(has_body, "413", "The request is too large");
    add(has_body, "415", "The body's media type is not supported");
    add(!is_public, "422", "The request breaks a rule");
    add(!is_probe, "500", "The server has a bug");
    add(!is_probe, "503", "The node cannot do it just now");
    add(!is_public, "504", "The request took too long");
    add(!is_public, "507", "The database's disk is full");
    for (status, response) in responses {
        let RefOr::T(response) = response else {
            continue;
        };
        for (name, description) in headers(status) {
            let header = HeaderBuilder::new()
                .schema(Some(String::schema()))
                .description(Some(description))
                .build();
            response.headers.insert(name.to_owned(), header.into());
        }
        if let Some(error) = example(status, &id, is_public) {
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name(Problem::name())))
                .example(Some(problem(&error)))
                .build();
            response
                .content
                .insert(MEDIA_TYPE.to_owned(), RefOr::T(content));
        }
    }
}

/// The headers of every answer with a status, and what they say.
fn headers(status: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_retryable = ["408", "503", "504", "507"].contains(&status);
    [
        (
            true,
            "X-Request-Id",
            "The request, as the server's log knows it",
        ),
        (
            is_retryable,
            "Retry-After",
            "In how many seconds to try again",
        ),
        (status == "401", "WWW-Authenticate", "`Bearer`"),
    ]
    .into_iter()
    .filter_map(|(applies, name, description)| applies.then_some((name, description)))
}

fn problem(error: &Error) -> Value {
    json!(Problem::new(error, "0199f3a1-6c1e-7b5a-8a44-3d1f0c9be210"))
}

/// The error that stands for a status of an operation in the document.
fn example(status: &str, operation: &str, is_public: bool) -> Option<Error> {
    let orders = || "orders".to_owned();
    let limit = Duration::from_secs(30);
    Some(match status {
        "400" => Error::Malformed {
            detail: "the body is not JSON: EOF while parsing a value at line 1 column 13"
                .to_owned(),
        },
        "401" => Error::Unauthenticated {
            reason: "the bearer token has expired; ask for a new one",
        },
        "403" if is_public => Error::AddressNotAllowed {
            address: [203, 0, 113, 9].into(),
        },
        "403" => Error::Forbidden { right: "send" },
        "404" => Error::QueueNotFound { name: orders() },
        "408" => Error::BodyTimeout { limit },
        "409" if operation == "sendMessages" => Error::QueuePaused { name: orders() },
        "409" if operation == "deleteQueue" => Error::QueueInUse {
            name: orders(),
            sources: vec!["shop".to_owned()],
        },
        "412" => Error::PreconditionFailed {
            name: orders(),
            version: Some(4),
            header: "If-Match",
        },
        "409" => Error::ReceiptStale(vec![Violation::new(
            "/messages/0/receipt_handle",
            "",
            "the handle of the newest delivery",
        )]),
        "413" => Error::TooLarge {
            field: "/messages/0/body".to_owned(),
            limit_bytes: crate::domain::limits::MAX_BODY_BYTES,
        },
        "415" => Error::UnsupportedMediaType {
            header: "Content-Type",
            found: "text/plain".to_owned(),
            supported: "application/json",
        },
        "422" => Error::invalid("/wait_seconds", "21", "whole seconds from 0 to 20"),
        "500" => Error::internal("never shown"),
        "503" => Error::Unavailable(None),
        "504" => Error::Timeout { limit },
        "507" => Error::StorageFull(None),
        _ => return None,
    })
}

pub(super) fn queue_example() -> Value {
    json!({
        "name": "orders",
        "visibility_timeout_seconds": 60,
        "receive_wait_seconds": 0,
        "delay_seconds": 0,
        "retention_seconds": 345600,
        "durability": "strict",
        "deduplication_window_seconds": 300,
        "tags": {"team": "billing"},
        "sending_paused": false,
        "receiving_paused": false,
        "created_at": "2026-11-20T12:00:00.123456Z",
        "version": 1,
    })
}

pub(super) fn message_example() -> Value {
    json!({
        "message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18",
        "receipt_handle": RECEIPT_HANDLE,
        "body": "hello",
        "body_kind": "text",
        "attributes": {"colour": {"type": "String", "value": "red"}},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "sent_at": "2026-11-20T12:00:00.123456Z",
        "first_received_at": "2026-11-20T12:00:01.5Z",
        "receive_count": 1,
        "visible_at": "2026-11-20T12:00:31.5Z",
    })
}

pub(super) fn peeked_message_example() -> Value {
    json!({
        "message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18",
        "state": "delayed",
        "body": "hello",
        "body_kind": "text",
        "sent_at": "2026-11-20T12:00:00.123456Z",
        "receive_count": 0,
        "visible_at": "2026-11-20T12:01:00.123456Z",
    })
}

pub(super) fn located_message_example() -> Value {
    let mut message = peeked_message_example();
    message["queue"] = json!("orders");
    message
}

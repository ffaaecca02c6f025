//! The REST door under /v1: wire types and handlers. A handler decodes, names the right, calls one
//! function of `service` and encodes; rules live below.

mod batch;
mod conditions;
mod json;
mod json_body;
mod message;
mod messages;
mod octets;
pub mod openapi;
mod openapi_3_0;
mod page;
mod parameters;
mod patch_queue;
mod peek;
pub mod problem;
mod queue_settings;
mod queues;
mod redrives;
mod retry_policy;
pub(super) mod tokens;
mod windows;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Gate, ops, scrapes};
pub(super) use json::Json;
pub(super) use parameters::NoQuery;

/// Every route, with its description: this list is the OpenAPI document.
pub(super) fn api() -> OpenApiRouter<Arc<Gate>> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(
            queues::put_queue,
            queues::get_queue,
            queues::patch_queue,
            queues::delete_queue
        ))
        .routes(routes!(queues::list_queues))
        .routes(routes!(messages::send_messages))
        .routes(routes!(messages::receive_messages))
        .routes(routes!(messages::delete_messages))
        .routes(routes!(windows::extend_messages))
        .routes(routes!(windows::nack_messages))
        .routes(routes!(peek::peek_messages))
        .routes(routes!(
            peek::get_message,
            peek::cancel_message,
            peek::reschedule_message
        ))
        .routes(routes!(queues::purge_queue))
        .routes(routes!(queues::count_messages))
        .routes(routes!(redrives::start_redrive, redrives::list_redrives))
        .routes(routes!(redrives::get_redrive))
        .routes(routes!(redrives::cancel_redrive))
        .routes(routes!(tokens::create_token))
        .routes(routes!(openapi::get_open_api))
        .routes(routes!(ops::get_health))
        .routes(routes!(ops::get_readiness))
        .routes(routes!(scrapes::get_metrics))
        .routes(routes!(scrapes::get_queue_metrics))
}

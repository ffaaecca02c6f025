//! The API's description for people, at `/docs`: Swagger UI, all of it out of this program, so that it
//! works without the internet. It reads the OpenAPI document as anybody does.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa_swagger_ui::Config;

use super::rest::problem::Failure;
use crate::domain::Error;

/// Its pages ask this server and nobody else, run none but its scripts, and stand in nobody's frame.
/// Swagger UI writes styles into its page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // A new release has new pages under the old names.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// Whether a path is one of this file's.
pub(super) fn is_page(path: &str) -> bool {
    path == "/docs" || path.starts_with("/docs/")
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        // The pages' links are relative.
        .route("/docs", get(Redirect::permanent("/docs/")))
        .route("/docs/", get(|| page(String::new())))
        .route("/docs/{*file}", get(|Path(file)| page(file)))
}

async fn page(file: String) -> Result<Response, Failure> {
    // The validator is somebody else's server.
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("../v1/openapi.json").validator_url("none")));
    let found = utoipa_swagger_ui::serve(&file, Arc::clone(&CONFIG));
    let found = found.map_err(|error| Error::internal(error.to_string()))?;
    let Some(found) = found else {
        let path = format!("/docs/{file}");
        return Err(Error::NoSuchPath { path }.into());
    };
    let bytes = match found.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    };
    Ok((HEADERS, [(CONTENT_TYPE, found.content_type)], bytes).into_response())
}

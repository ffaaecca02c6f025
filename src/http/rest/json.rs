//! JSON bodies: the only way in and out for them, so that every bad one is answered by a problem
//! that names the field, its value and the rule.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use tokio::sync::OwnedSemaphorePermit;

use super::problem::Failure;
use crate::domain::{Error, Result};
use crate::http::Gate;

pub(super) const MEDIA_TYPE: &str = "application/json";

/// RFC 7396.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// What a patch may be, for errors.
const PATCHES: &str = "application/json and application/merge-patch+json";

/// Largest body in which a bad value is looked up to be shown: as a tree, JSON takes up to twenty
/// times its own size.
const MAX_LOOKED_UP: usize = 64 * 1024;

/// An answer of JSON text, in UTF-8.
pub(in crate::http) struct Json<T>(pub(in crate::http) T);

/// A body of JSON text, in UTF-8, of one shape, and its place among the bytes that the server keeps
/// of requests. Who keeps the body keeps the place.
///
/// As an argument of a handler it refuses another media type, text that is no JSON, and JSON of
/// another shape. `Option<Input<T>>` also takes an empty body.
pub(super) struct Input<T>(pub(super) T, pub(super) OwnedSemaphorePermit);

impl<T: DeserializeOwned> FromRequest<Arc<Gate>> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Self, Failure> {
        require(request.headers(), MEDIA_TYPE)?;
        let (body, place) = read(request.into_body(), gate).await?;
        Ok(Self(parse(&body)?, place))
    }
}

impl<T: DeserializeOwned> OptionalFromRequest<Arc<Gate>> for Input<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Option<Self>, Failure> {
        let (head, body) = request.into_parts();
        if head.headers.contains_key(CONTENT_TYPE) {
            require(&head.headers, MEDIA_TYPE)?;
        }
        let (body, place) = read(body, gate).await?;
        if body.is_empty() {
            return Ok(None);
        }
        require(&head.headers, MEDIA_TYPE)?;
        Ok(Some(Self(parse(&body)?, place)))
    }
}

/// The same for a patch, whose media type may say so.
pub(super) struct Patch<T>(pub(super) T, pub(super) OwnedSemaphorePermit);

impl<T: DeserializeOwned> FromRequest<Arc<Gate>> for Patch<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, gate: &Arc<Gate>) -> Result<Self, Failure> {
        if is_of(request.headers(), MERGE_PATCH) {
            require_no_coding(request.headers(), PATCHES)?;
        } else {
            require(request.headers(), PATCHES)?;
        }
        let (body, place) = read(request.into_body(), gate).await?;
        Ok(Self(parse(&body)?, place))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => (
                [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))],
                Body::from(body),
            )
                .into_response(),
            Err(error) => Failure(Error::internal(error)).into_response(),
        }
    }
}

/// Refuses a body that is not JSON as it stands. `supported` is what the operation reads.
pub(super) fn require(headers: &HeaderMap, supported: &'static str) -> Result<()> {
    require_no_coding(headers, supported)?;
    if is_of(headers, MEDIA_TYPE) {
        return Ok(());
    }
    let found = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    Err(Error::UnsupportedMediaType {
        header: "Content-Type",
        found: String::from_utf8_lossy(found.unwrap_or_default()).into_owned(),
        supported,
    })
}

/// Whether the body has a media type, whatever its parameters are.
pub(super) fn is_of(headers: &HeaderMap, media_type: &str) -> bool {
    let found = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let mut parts = found.unwrap_or_default().split(|c| *c == b';');
    let essence = parts.next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(media_type.as_bytes())
}

pub(super) fn require_no_coding(headers: &HeaderMap, supported: &'static str) -> Result<()> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(found) = codings.find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    else {
        return Ok(());
    };
    Err(Error::UnsupportedMediaType {
        header: "Content-Encoding",
        found: String::from_utf8_lossy(found.as_bytes()).into_owned(),
        supported,
    })
}

/// Reads a body whose size the stack has limited.
pub(super) async fn read(body: Body, gate: &Gate) -> Result<(Bytes, OwnedSemaphorePermit)> {
    let limit = gate.http.limits.body_timeout;
    tokio::time::timeout(limit, collect(body, gate))
        .await
        .map_err(|_elapsed| Error::BodyTimeout { limit })?
}

async fn collect(mut body: Body, gate: &Gate) -> Result<(Bytes, OwnedSemaphorePermit)> {
    let failed = |error: axum::Error| unread(&error, gate.http.limits.max_request_bytes);
    if let Some(length) = body.size_hint().exact() {
        let place = room(gate, usize::try_from(length).unwrap_or(usize::MAX))?;
        let whole = to_bytes(body, usize::MAX).await.map_err(failed)?;
        return Ok((whole, place));
    }
    let mut place = room(gate, 0)?;
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(part) = frame.map_err(failed)?.into_data() {
            place.merge(room(gate, part.len())?);
            whole.extend_from_slice(&part);
        }
    }
    Ok((Bytes::from(whole), place))
}

fn room(gate: &Gate, bytes: usize) -> Result<OwnedSemaphorePermit> {
    u32::try_from(bytes)
        .ok()
        .and_then(|bytes| Arc::clone(&gate.buffer).try_acquire_many_owned(bytes).ok())
        .ok_or(Error::Overloaded {
            what: "bytes of requests in memory",
        })
}

fn unread(error: &axum::Error, limit_bytes: usize) -> Error {
    if is_length_limit(error) {
        Error::TooLarge {
            field: "request body".to_owned(),
            limit_bytes,
        }
    } else {
        Error::Malformed {
            detail: "the body ended before its end".to_owned(),
        }
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map(|Object(value)| value)
        .map_err(|error| explain::<T>(body, &error))
}

/// Says what is wrong. Only here, where time is cheap, are paths kept and values looked up.
fn explain<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> Error {
    if error.classify() != Category::Data {
        let detail = if body.is_empty() {
            "the body is empty; this operation needs a JSON object".to_owned()
        } else {
            format!("the body is not JSON: {error}")
        };
        return Error::Malformed { detail };
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let pointer = match serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) {
        Ok(_) => String::new(),
        Err(error) => pointer(error.path()),
    };
    let value = Some(body)
        .filter(|body| body.len() <= MAX_LOOKED_UP)
        .and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok())
        .and_then(|document| document.pointer(&pointer).map(ToString::to_string));
    let rule = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let rule = rule.strip_suffix(&place).unwrap_or(&rule);
    let rule = rule.replace("expected i64", "expected a whole number");
    let rule = rule.replace("expected f64", "expected a number");
    Error::invalid(pointer, value.unwrap_or_default(), rule)
}

/// A member's name as a JSON pointer has it.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escaped(key)),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

/// For a field that may be left out but not be `null`, so that there is one way to say "default".
pub(super) fn not_null<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// What a patch says of a field: nothing, `null` for its default, or another value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Change<T> {
    #[default]
    Keep,
    Reset,
    Set(T),
}

impl<T> Change<T> {
    /// What comes of a field that is this now, or has its default.
    pub(super) fn onto(self, now: Option<T>) -> Option<T> {
        match self {
            Self::Keep => now,
            Self::Reset => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<T>::deserialize(deserializer)?;
        Ok(value.map_or(Self::Reset, Self::Set))
    }
}

/// For a field that is a JSON object of known members and may be left out.
pub(super) fn object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Object::deserialize(deserializer).map(|Object(value)| Some(value))
}

/// For a field of a patch that is a JSON object of known members.
pub(super) fn change_of_object<'de, T, D>(deserializer: D) -> Result<Change<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let value = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(value.map_or(Change::Reset, |Object(value)| Change::Set(value)))
}

/// A JSON object whose members the caller names, each once.
#[derive(Debug, Clone)]
pub(super) struct Members<T>(pub(super) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor(PhantomData))
    }
}

struct MembersVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
    type Value = Members<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members<T>, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            if found.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            found.insert(name, members.next_value()?);
        }
        Ok(Members(found))
    }
}

/// For a field that is an array of JSON objects.
pub(super) fn objects<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// For a field that is an object of up to `MOST` JSON objects by name, in the order given. A name may
/// come twice.
pub(super) fn named_objects<'de, T, D, const MOST: usize>(
    deserializer: D,
) -> Result<Vec<(String, T)>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(NamedVisitor::<T, MOST>(PhantomData))
}

struct NamedVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for NamedVisitor<T, MOST> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object of up to {MOST} members")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut named = Vec::new();
        while let Some((name, Object(value))) = members.next_entry()? {
            if named.len() == MOST {
                return Err(serde::de::Error::custom(format_args!(
                    "up to {MOST} members"
                )));
            }
            named.push((name, value));
        }
        Ok(named)
    }
}

/// A struct that is read from an object only. What serde derives reads it from an array of its
/// fields' values as well, which no document of ours allows.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Outer {
        #[serde(deserialize_with = "objects")]
        items: Vec<Inner>,
        #[serde(default, deserialize_with = "not_null")]
        count: Option<i64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Inner {
        body: String,
    }

    fn refusal(body: &[u8]) -> Error {
        parse::<Outer>(body).unwrap_err()
    }

    #[test]
    fn a_wrong_shape_names_field_value_and_rule() {
        for (body, expected) in [
            (
                r#"{"items":[{"body":"a"},{"body":5}]}"#,
                r#"/items/1/body is "5": invalid type: integer `5`, expected a string"#,
            ),
            (
                r#"{"items":[{"body":"a","b/c~":1}]}"#,
                r#"/items/0/b~1c~0 is "1": unknown field `b/c~`, expected `body`"#,
            ),
            (
                r#"{"items":[{}]}"#,
                r#"/items/0 is "{}": missing field `body`"#,
            ),
            (
                r#"{"items":[],"count":null}"#,
                r#"/count is "null": invalid type: null, expected a whole number"#,
            ),
            (
                r#"{"items":[],"count":1.5}"#,
                r#"/count is "1.5": invalid type: floating point `1.5`, expected a whole number"#,
            ),
            (
                r#"{"items":[],"count":99999999999999999999}"#,
                r#"/count is "1e+20": invalid type: floating point `1e+20`, expected a whole number"#,
            ),
            (
                r#"{"items":[],"items":[]}"#,
                r#"the body is "{\"items\":[]}": duplicate field `items`"#,
            ),
            (
                r#"{"items":{}}"#,
                r#"/items is "{}": invalid type: map, expected a sequence"#,
            ),
            (
                r#"[[{"body":"a"}]]"#,
                r#"the body is "[[{\"body\":\"a\"}]]": invalid type: sequence, expected a JSON object"#,
            ),
            (
                r#"{"items":[["a"]]}"#,
                r#"/items/0 is "[\"a\"]": invalid type: sequence, expected a JSON object"#,
            ),
            (
                "5",
                r#"the body is "5": invalid type: integer `5`, expected a JSON object"#,
            ),
        ] {
            let error = refusal(body.as_bytes());
            assert!(matches!(error, Error::Invalid(_)), "{body}");
            assert_eq!(error.to_string(), expected, "{body}");
        }
    }

    #[test]
    fn no_value_is_looked_up_in_a_large_body() {
        let body = format!(
            r#"{{"items":[{{"body":"{}"}}],"count":"x"}}"#,
            "x".repeat(MAX_LOOKED_UP)
        );
        assert_eq!(
            refusal(body.as_bytes()).to_string(),
            r#"/count: invalid type: string "x", expected a whole number"#
        );
    }

    #[test]
    fn text_that_is_no_json_is_malformed() {
        for body in [
            &b""[..],
            b"{",
            b"{\"items\":[]}x",
            b"\xef\xbb\xbf{}",
            b"{\"items\":[{\"body\":\"\xff\"}]}",
            b"{\"items\":[{\"body\":\"\\ud800\"}]}",
            b"{\"items\":[],\"count\":1e400}",
            b"{\"items\":[{\"body\":\"a\nb\"}]}",
        ] {
            let error = refusal(body);
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }

    #[test]
    fn deep_json_is_refused_and_overflows_nothing() {
        let deep = "[".repeat(100_000);
        for body in [
            deep.clone(),
            format!("{{\"items\":{deep}"),
            deep.replace('[', "{\"a\":"),
        ] {
            assert!(parse::<Outer>(body.as_bytes()).is_err());
        }
    }

    #[test]
    fn only_the_media_type_of_json_is_read() {
        for (value, good) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/jsonl", false),
            ("application/problem+json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(require(&headers, MEDIA_TYPE).is_ok(), good, "{value}");
        }
        assert!(require(&HeaderMap::new(), MEDIA_TYPE).is_err());
    }
}

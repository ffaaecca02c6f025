//! Conditional requests (RFC 9110, 13): the headers that say how a queue must be for a change to be made.

use axum::extract::FromRequestParts;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use utoipa::IntoParams;

use super::problem::Failure;
use crate::domain::queue::Precondition;
use crate::domain::{Error, Result};

/// The entity tag of a queue's version.
pub(super) fn entity_tag(version: i64) -> String {
    format!("\"{version}\"")
}

/// `If-Match`, of an operation on a queue that is there.
pub(super) struct IfMatch(pub(super) Precondition);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        if let Some(given) = list(parts, &IF_NONE_MATCH) {
            let rule = "a header for PUT; this operation has If-Match";
            return Err(Error::invalid("If-None-Match", given, rule).into());
        }
        Ok(Self(if_match(parts)?))
    }
}

/// `If-Match` or `If-None-Match: *`.
pub(super) struct Conditions(pub(super) Precondition);

impl<S: Sync> FromRequestParts<S> for Conditions {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let precondition = if_match(parts)?;
        let Some(given) = list(parts, &IF_NONE_MATCH) else {
            return Ok(Self(precondition));
        };
        let rule = match precondition {
            Precondition::None if given == "*" => return Ok(Self(Precondition::Absent)),
            Precondition::None => "only `*`: the queue must not be there",
            _ => "not together with If-Match",
        };
        Err(Error::invalid("If-None-Match", given, rule).into())
    }
}

/// All that a header says: several of one name are one list.
fn list(parts: &Parts, name: &HeaderName) -> Option<String> {
    let mut values = parts.headers.get_all(name).iter();
    let mut list = String::from_utf8_lossy(values.next()?.as_bytes()).into_owned();
    for value in values {
        list.push(',');
        list.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(list)
}

fn if_match(parts: &Parts) -> Result<Precondition> {
    match list(parts, &IF_MATCH) {
        None => Ok(Precondition::None),
        Some(given) if given.trim() == "*" => Ok(Precondition::Exists),
        Some(given) => versions(&given).map(Precondition::Version).ok_or_else(|| {
            let rule = "`*`, or entity tags in quotation marks, separated by commas";
            Error::invalid("If-Match", given, rule)
        }),
    }
}

/// The versions that a list of entity tags names. `None` when it is no such list. Weak tags never match,
/// and others that we did not give out do not either.
fn versions(list: &str) -> Option<Vec<i64>> {
    let mut versions = Vec::new();
    let mut rest = list;
    let mut is_empty = true;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(versions).filter(|_| !is_empty);
        }
        is_empty = false;
        let strong = rest.strip_prefix("W/");
        let is_weak = strong.is_some();
        let quoted = strong.unwrap_or(rest).strip_prefix('"')?;
        let (tag, behind) = quoted.split_once('"')?;
        let is_of_tag = |c: char| c > ' ' && c != '\u{7f}';
        let ends = behind.trim_start_matches([' ', '\t']);
        if !tag.chars().all(is_of_tag) || !(ends.is_empty() || ends.starts_with(',')) {
            return None;
        }
        let version = tag.parse().ok();
        // As we write it: no plus, no zeros.
        versions.extend(version.filter(|version: &i64| !is_weak && version.to_string() == tag));
        rest = ends;
    }
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes; `if_match` reads")]
pub(super) struct IfMatchParameter {
    /// Only a queue with one of these entity tags, as `ETag` gave them, or `*` for any: anything else is
    /// answered 412, and nothing is done.
    #[param(rename = "If-Match", nullable = false, example = "\"4\"")]
    if_match: Option<String>,
}

/// The same for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes; `Conditions` reads")]
pub(super) struct IfNoneMatchParameter {
    /// `*`: only when there is no such queue; one that is there is answered 412, and stays as it is.
    #[param(rename = "If-None-Match", nullable = false, pattern = "^\\*$")]
    if_none_match: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_entity_tags_is_read_as_it_is_written() {
        for (list, expected) in [
            (r#""4""#, Some(&[4][..])),
            (r#""4","5" , "6""#, Some(&[4, 5, 6])),
            (r#" ,, "4",	,"#, Some(&[4])),
            (r#"W/"4", "5""#, Some(&[5])),
            (
                r#""", "a,b", "04", "+4", "4 ", "9999999999999999999""#,
                None,
            ),
            (
                r#""", "a,b", "04", "+4", "ö", "9999999999999999999""#,
                Some(&[]),
            ),
            ("", None),
            (" , ", None),
            ("4", None),
            (r#""4"#, None),
            (r#""4" "5""#, None),
            (r#""4"5"#, None),
            (r#"w/"4""#, None),
            (r#"W/ "4""#, None),
            (r#"*, "4""#, None),
            ("\"\u{7f}\"", None),
        ] {
            assert_eq!(versions(list).as_deref(), expected, "{list}");
        }
        assert_eq!(versions(&entity_tag(i64::MAX)), Some(vec![i64::MAX]));
    }
}

//! Pages of listings: how many items, and where to go on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::{Error, Result, limits};

/// How many items a page has, from the query's `limit`.
pub(super) fn limit(given: Option<&str>) -> Result<usize> {
    limit_up_to(given, limits::DEFAULT_PAGE, limits::MAX_PAGE)
}

/// The same for a page with other limits: `default` items, and `most`.
pub(super) fn limit_up_to(given: Option<&str>, default: usize, most: usize) -> Result<usize> {
    let Some(given) = given else {
        return Ok(default);
    };
    given
        .parse()
        .ok()
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| {
            let rule = format!("a whole number from 1 to {most}");
            Error::invalid("limit", given, rule)
        })
}

/// The cursor that leads on from the last key of a page.
pub(super) fn cursor(last_key: &str) -> String {
    URL_SAFE_NO_PAD.encode(last_key)
}

/// The key behind a cursor that a caller sent back.
pub(super) fn key(cursor: &str) -> Result<String> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|key| String::from_utf8(key).ok())
        .ok_or_else(|| not_a_cursor(cursor))
}

/// What is wrong with a cursor that we did not make.
pub(super) fn not_a_cursor(cursor: &str) -> Error {
    Error::invalid("cursor", cursor, "the `next_cursor` of the page before")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_bounds() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some("1000")).unwrap(), 1000);
        for bad in [
            "0",
            "1001",
            "-1",
            "1.0",
            "",
            " 1",
            "ten",
            "99999999999999999999",
        ] {
            assert!(limit(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_leads_back_to_its_key() {
        assert_eq!(key(&cursor("orders")).unwrap(), "orders");
        for bad in ["!", "=", "_w"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}

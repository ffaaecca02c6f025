//! The number of a request: in its answer, in problems and in logs.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Builder;

use crate::clock::Clock;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a caller, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// What a request is called: the caller's own `X-Request-Id` where it is fit to be logged, else a
/// UUID version 7.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    pub(super) fn of(headers: &HeaderMap, clock: &Clock) -> Self {
        let given = headers
            .get(X_REQUEST_ID)
            .filter(|id| is_plain(id.as_bytes()));
        Self(given.cloned().unwrap_or_else(|| fresh(clock)))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn put_on(self, headers: &mut HeaderMap) {
        headers.insert(X_REQUEST_ID, self.0);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_plain(id: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(good)
}

/// Not `Uuid::now_v7`: it takes a lock for its counter and asks the kernel for each id's randomness.
fn fresh(clock: &Clock) -> HeaderValue {
    let since_1970 = clock.utc() - time::OffsetDateTime::UNIX_EPOCH;
    let millis = u64::try_from(since_1970.whole_milliseconds()).unwrap_or(0);
    let id = Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut [0; 36])).expect("a UUID is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &'static [u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(given).unwrap());
        RequestId::of(&headers, &Clock::default()).to_string()
    }

    #[test]
    fn a_plain_id_of_the_caller_is_kept() {
        assert_eq!(of(b"order-4711/a:b_c.d+e=f@g"), "order-4711/a:b_c.d+e=f@g");
    }

    #[test]
    fn any_other_id_is_replaced() {
        for bad in [
            &b""[..],
            b"two words",
            b"\"quoted\"",
            b"\xc3\xa4",
            b"<b>",
            &[b'x'; 129],
        ] {
            let id = of(bad).parse::<uuid::Uuid>().unwrap();
            assert_eq!(id.get_version_num(), 7);
        }
    }
}

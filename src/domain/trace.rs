//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): where a message belongs in the traces
//! of those who send and receive it. We carry it and look no further than whether it is well formed.

use std::fmt;

use super::error::{Error, Result};
use super::limits;

/// Characters of a `traceparent` of version 00, and of the part of a later one that we know.
const KNOWN: usize = 55;
/// Most members of a `tracestate`, and the longest key and value of one.
const MAX_MEMBERS: usize = 32;
const MAX_PART: usize = 256;

/// The trace and the span that a message was sent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace and the span.
    pub traceparent: Traceparent,
    /// What vendors add to it.
    pub tracestate: Option<Tracestate>,
}

/// The ids of a trace and of a span, and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traceparent(pub(super) String);

impl Traceparent {
    /// Checks what a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no `traceparent`.
    pub fn parse(field: impl fmt::Display, text: &str) -> Result<Self> {
        if is_traceparent(text) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "a traceparent of W3C Trace Context: version, trace id, parent id and flags, in lower-case \
                    hexadecimal, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Err(Error::invalid(field.to_string(), text, rule))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_traceparent(text: &str) -> bool {
    // A later version may have more behind what we know of.
    let (known, more) = text.split_at_checked(KNOWN).unwrap_or((text, ""));
    let parts: Vec<&str> = known.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else {
        return false;
    };
    let is_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|c| c != b'0');
    let is_later = version != "00" && text.len() <= limits::MAX_TRACEPARENT;
    is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
        && (more.is_empty()
            || is_later && more.starts_with('-') && more.bytes().all(|c| c.is_ascii_graphic()))
}

/// What vendors say about a trace, as a list of keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracestate(pub(super) String);

impl Tracestate {
    /// Checks what a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no `tracestate`, or too long.
    pub fn parse(field: impl fmt::Display, text: &str) -> Result<Self> {
        if is_tracestate(text) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "a tracestate of W3C Trace Context: up to 32 members key=value, each key once, with commas \
                    between them, 512 bytes at most, such as vendor=t61rcWkgMzE";
        Err(Error::invalid(field.to_string(), text, rule))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_tracestate(text: &str) -> bool {
    if text.len() > limits::MAX_TRACESTATE {
        return false;
    }
    let mut keys = Vec::new();
    for member in text.split(',') {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let Some((key, value)) = member.split_once('=') else {
            return false;
        };
        if keys.len() == MAX_MEMBERS || keys.contains(&key) || !is_key(key) || !is_value(value) {
            return false;
        }
        keys.push(key);
    }
    !keys.is_empty()
}

fn is_key(key: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-*/".contains(c))
    };
    key.len() <= MAX_PART
        && match key.split_once('@') {
            Some((tenant, system)) => is_part(tenant) && is_part(system),
            None => is_part(key),
        }
}

fn is_value(value: &str) -> bool {
    let good = |c: char| c == ' ' || c.is_ascii_graphic() && c != '=';
    (1..=MAX_PART).contains(&value.len()) && value.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_has_ids_that_are_not_zero() {
        let later = GOOD.replacen("00", "cc", 1);
        for text in [GOOD, &later, &format!("{later}-what-will-be")] {
            assert!(is_traceparent(text), "{text}");
        }
        for text in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0g", 1),
            &GOOD.replace('-', "_"),
            &format!("{GOOD}-x"),
            &format!("{GOOD} "),
            &format!(" {GOOD}"),
            &format!("{later}x"),
            &format!("{later}-\n"),
            &format!("{later}-{}", "x".repeat(100)),
            GOOD.strip_suffix('1').unwrap(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
    }

    #[test]
    fn a_tracestate_is_a_list_of_keys_and_values() {
        let members = |count: usize| {
            let members: Vec<_> = (0..count).map(|i| format!("k{i}=v")).collect();
            members.join(",")
        };
        let longest = format!("k={}, l={}", "v".repeat(256), "v".repeat(250));
        for text in [
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "a=1 , b=2\t,,",
            "fw529a3039@dt=FfAAAAAAAA,0/*_-=! ~",
            &members(32),
            &longest,
        ] {
            assert!(is_tracestate(text), "{text}");
        }
        for text in [
            "",
            ",",
            "a",
            "a=",
            "=1",
            "A=1",
            "a=1=2",
            "a=1,a=2",
            "@a=1",
            "a@=1",
            "a@b@c=1",
            "a=é",
            "a=1\n",
            &members(33),
            &format!("{longest}v"),
            &format!("k={}", "v".repeat(257)),
            &format!("{}=v", "k".repeat(257)),
        ] {
            assert!(!is_tracestate(text), "{text}");
        }
    }
}

//! Bodies that are JSON values. Their text is kept, because a number or the order of members would
//! not survive in a tree; so it is checked that whoever can read the answer around it can read it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::{Error, Result, limits};

/// The text of a value that a caller sent in `field`, without the space between its parts.
///
/// # Errors
/// [`Error::Invalid`] when it is nested too deep, or has a string or a number that parsers refuse.
pub(super) fn compact(field: impl fmt::Display, value: Box<RawValue>) -> Result<String> {
    let mut text = String::from(Box::<str>::from(value));
    let mut scan = Scan::default();
    text.retain(|c| scan.keeps(c));
    if scan.deepest > limits::MAX_JSON_DEPTH {
        let rule = format!("a value nested up to {} deep", limits::MAX_JSON_DEPTH);
        return Err(Error::invalid(field.to_string(), text, rule));
    }
    match serde_json::from_str::<Readable>(&text) {
        Ok(Readable) => Ok(text),
        Err(error) => {
            let rule = format!("a value that common parsers read: {error}");
            Err(Error::invalid(field.to_string(), text, rule))
        }
    }
}

/// What has been seen of a JSON text.
#[derive(Default)]
struct Scan {
    is_in_string: bool,
    is_escaped: bool,
    depth: usize,
    deepest: usize,
}

impl Scan {
    /// Whether the next character is more than space between parts.
    fn keeps(&mut self, c: char) -> bool {
        if self.is_in_string {
            self.is_in_string = self.is_escaped || c != '"';
            self.is_escaped = !self.is_escaped && c == '\\';
            return true;
        }
        match c {
            '"' => self.is_in_string = true,
            '[' | '{' => {
                self.depth += 1;
                self.deepest = self.deepest.max(self.depth);
            }
            ']' | '}' => self.depth = self.depth.saturating_sub(1),
            ' ' | '\t' | '\n' | '\r' => return false,
            _ => {}
        }
        true
    }
}

/// A value that can be read, whatever it is. It is not kept.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _value: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ \\t\"\\\\{}\\[\\],:]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let members = prop::collection::vec((any::<String>(), inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn compact_text_is_what_serde_json_writes(value in values()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compacted(&pretty).unwrap(), value.to_string());
        }
    }

    fn compacted(text: &str) -> Result<String> {
        compact("body_json", RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn only_the_space_between_parts_is_left_out() {
        for (text, expected) in [
            ("null", "null"),
            (" [ 1 , 2 ]", "[1,2]"),
            ("{\n\t\"b\" : 1,\r\n \"a\": {} }", r#"{"b":1,"a":{}}"#),
            (r#"" a \" b \\" "#, r#"" a \" b \\""#),
            (r#"[ "\\" , " \u00e9 é " ]"#, r#"["\\"," \u00e9 é "]"#),
            (
                "[123456789012345678901234567890, 1.10, 1e2, -0]",
                "[123456789012345678901234567890,1.10,1e2,-0]",
            ),
        ] {
            assert_eq!(compacted(text).unwrap(), expected);
        }
    }

    #[test]
    fn what_common_parsers_refuse_is_refused() {
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        compacted(&nested(limits::MAX_JSON_DEPTH)).unwrap();
        for text in [
            &nested(limits::MAX_JSON_DEPTH + 1),
            &nested(100_000),
            "1e400",
            r#"{"a":[-1e999]}"#,
            r#""\ud800""#,
            r#"{"\udc00":1}"#,
        ] {
            assert!(matches!(compacted(text), Err(Error::Invalid(_))));
        }
    }
}

//! Attributes: named and typed values that a message has beside its body.
//!
//! Names, types and numbers follow the rules of SQS, so that every door takes the same ones.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::error::{Error, Result};
use super::limits;

/// The orders of magnitude that a number may have.
const MAGNITUDES: std::ops::RangeInclusive<i64> = -128..=126;

/// What an attribute is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttributeName(pub(super) String);

impl AttributeName {
    /// Checks a name that a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it breaks the rule.
    pub fn parse(field: impl fmt::Display, name: String) -> Result<Self> {
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let begins = |reserved: &str| {
            name.get(..reserved.len())
                .is_some_and(|first| first.eq_ignore_ascii_case(reserved))
        };
        let rule = if name.is_empty()
            || name.len() > limits::MAX_ATTRIBUTE_NAME
            || !name.chars().all(good)
        {
            "the name of an attribute has 1 to 256 letters, digits, underscores, hyphens and dots"
        } else if begins("aws.") || begins("amazon.") {
            "the name of an attribute does not begin with AWS. or Amazon."
        } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
            "the name of an attribute has no dot at its ends and no two dots in a row"
        } else {
            return Ok(Self(name));
        };
        Err(Error::invalid(field.to_string(), name, rule))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the value of an attribute may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeKind {
    /// Text.
    String,
    /// A decimal number, as text.
    Number,
    /// Bytes.
    Binary,
}

/// The type of an attribute: a kind and perhaps a label, which means something to callers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeType {
    kind: AttributeKind,
    /// Both, as they were given: `Number.int`.
    name: Cow<'static, str>,
}

impl AttributeType {
    /// The type of an attribute that does not say.
    pub const STRING: Self = Self::plain(AttributeKind::String, "String");
    const NUMBER: Self = Self::plain(AttributeKind::Number, "Number");
    const BINARY: Self = Self::plain(AttributeKind::Binary, "Binary");

    const fn plain(kind: AttributeKind, name: &'static str) -> Self {
        Self {
            kind,
            name: Cow::Borrowed(name),
        }
    }

    /// Reads a type that a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it breaks the rule.
    pub fn parse(field: impl fmt::Display, name: &str) -> Result<Self> {
        let known = name.len() <= limits::MAX_ATTRIBUTE_TYPE && !name.contains(char::is_control);
        let known = known.then(|| Self::named(name)).flatten();
        known.ok_or_else(|| {
            let rule = "String, Number or Binary, with or without a dot and a label behind it, \
                        256 bytes at most, without control characters";
            Error::invalid(field.to_string(), name, rule)
        })
    }

    /// The type of a name whose characters and length are right.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (kind, label) = match name.split_once('.') {
            Some((kind, label)) => (kind, Some(label)),
            None => (name, None),
        };
        let plain = match kind {
            "String" => Self::STRING,
            "Number" => Self::NUMBER,
            "Binary" => Self::BINARY,
            _ => return None,
        };
        match label {
            None => Some(plain),
            Some("") => None,
            Some(_) => Some(Self {
                kind: plain.kind,
                name: Cow::Owned(name.to_owned()),
            }),
        }
    }

    /// What the value may be.
    pub fn kind(&self) -> AttributeKind {
        self.kind
    }

    /// The type as it was given.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// Of a string or a number.
    Text(String),
    /// Of a binary attribute.
    Bytes(Bytes),
}

impl AttributeValue {
    /// Bytes that a caller gave as base64 in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no base64.
    pub fn base64(field: impl fmt::Display, text: &str) -> Result<Self> {
        match STANDARD.decode(text) {
            Ok(bytes) => Ok(Self::Bytes(bytes.into())),
            Err(error) => Err(not_base64(field, text, error)),
        }
    }

    /// What is stored, sent and counted of it.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

pub(super) fn not_base64(
    field: impl fmt::Display,
    text: &str,
    error: base64::DecodeError,
) -> Error {
    let rule = format!("base64 with its padding (RFC 4648, 4): {error}");
    Error::invalid(field.to_string(), text, rule)
}

/// A named value beside the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    pub(super) name: AttributeName,
    pub(super) data_type: AttributeType,
    pub(super) value: AttributeValue,
}

impl Attribute {
    /// An attribute whose value a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the value is empty, or not one of its type.
    pub fn new(
        field: impl fmt::Display,
        name: AttributeName,
        data_type: AttributeType,
        value: AttributeValue,
    ) -> Result<Self> {
        let broken = match (data_type.kind, &value) {
            _ if value.as_bytes().is_empty() => Some("the value of an attribute is not empty"),
            (AttributeKind::String, AttributeValue::Text(text)) => {
                let rule = "the value of a String attribute has no U+0000";
                text.contains('\0').then_some(rule)
            }
            (AttributeKind::Number, AttributeValue::Text(text)) => {
                let rule = "the value of a Number attribute is a decimal number such as -12.5 or 6e23, of \
                            up to 38 digits and an order of magnitude from -128 to 126";
                (!is_number(text)).then_some(rule)
            }
            (AttributeKind::Binary, AttributeValue::Bytes(_)) => None,
            (AttributeKind::String | AttributeKind::Number, AttributeValue::Bytes(_)) => {
                Some("the value of a String or a Number attribute is text")
            }
            (AttributeKind::Binary, AttributeValue::Text(_)) => {
                Some("the value of a Binary attribute is bytes")
            }
        };
        if let Some(rule) = broken {
            let shown = match &value {
                AttributeValue::Text(text) => text,
                AttributeValue::Bytes(_) => "",
            };
            return Err(Error::invalid(field.to_string(), shown, rule));
        }
        Ok(Self {
            name,
            data_type,
            value,
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Its type.
    pub fn data_type(&self) -> &AttributeType {
        &self.data_type
    }

    /// Its value, one of its type.
    pub fn value(&self) -> &AttributeValue {
        &self.value
    }

    /// What it counts of a message's size, in bytes.
    fn size(&self) -> usize {
        self.name().len() + self.data_type.name.len() + self.value.as_bytes().len()
    }
}

/// Whether a text is a number as SQS takes them.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()),
        None => (text, Some(0)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    let Some(exponent) = exponent.filter(|_| digits().all(|digit| digit.is_ascii_digit())) else {
        return false;
    };
    let mut significant = digits().enumerate().filter(|(_, digit)| *digit != b'0');
    let Some((first, _)) = significant.next() else {
        return digits().next().is_some();
    };
    let last = significant.last().map_or(first, |(last, _)| last);
    let place = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
    let magnitude = place(whole.len()) - 1 - place(first) + i64::from(exponent);
    last - first < limits::MAX_NUMBER_DIGITS && MAGNITUDES.contains(&magnitude)
}

/// The attributes of a message, in the order of their names. Clones share them; none take no memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Option<Arc<[Attribute]>>);

impl Attributes {
    /// The attributes that a caller gave in `field`, in any order.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there are too many, or two of one name.
    pub fn new(field: impl fmt::Display, mut attributes: Vec<Attribute>) -> Result<Self> {
        if attributes.len() > limits::MAX_ATTRIBUTES {
            let rule = format!("a message has up to {} attributes", limits::MAX_ATTRIBUTES);
            let found = format!("{} attributes", attributes.len());
            return Err(Error::invalid(field.to_string(), found, rule));
        }
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut pairs = attributes.windows(2);
        if let Some([twice, _]) = pairs.find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            let rule = "a message has one attribute of a name";
            return Err(Error::invalid(field.to_string(), twice.name(), rule));
        }
        Ok(Self::stored(attributes))
    }

    /// Attributes that were checked before, in order.
    pub(super) fn stored(attributes: Vec<Attribute>) -> Self {
        Self((!attributes.is_empty()).then(|| attributes.into()))
    }

    /// Each of them, in the order of their names.
    pub fn iter(&self) -> std::slice::Iter<'_, Attribute> {
        self.0.as_deref().unwrap_or_default().iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What they count of a message's size: names, types and values, in bytes.
    pub fn size(&self) -> usize {
        self.iter().map(Attribute::size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, data_type: &str, value: &str) -> Result<Attribute> {
        Attribute::new(
            "value",
            AttributeName::parse("name", name.to_owned())?,
            AttributeType::parse("type", data_type)?,
            AttributeValue::Text(value.to_owned()),
        )
    }

    #[test]
    fn names_follow_the_rules_of_sqs() {
        for name in [
            "a",
            "A.b-c_9",
            "AWS",
            "awsome.thing",
            "Amazons.x",
            &"x".repeat(256),
        ] {
            assert!(text(name, "String", "x").is_ok(), "{name}");
        }
        for name in [
            "",
            "a b",
            "é",
            ".a",
            "a.",
            "a..b",
            ".",
            "AWS.x",
            "aws.x",
            "Amazon.x",
            "aMAZON.",
            "a/b",
            &"x".repeat(257),
        ] {
            let error = text(name, "String", "x").unwrap_err();
            assert!(error.to_string().starts_with("name"), "{error}");
        }
    }

    #[test]
    fn types_are_three_kinds_with_labels() {
        let longest = format!("String.{}", "x".repeat(249));
        for name in ["String", "String.é", "String.a.b", "Number.int", &longest] {
            let attribute = text("a", name, "1").unwrap();
            assert_eq!(attribute.data_type().as_str(), name);
        }
        let longer = format!("{longest}x");
        for name in [
            "",
            "string",
            "String.",
            "Text",
            "Strings",
            "String.a\nb",
            " String",
            &longer,
        ] {
            let error = text("a", name, "1").unwrap_err();
            assert!(error.to_string().starts_with("type"), "{error}");
        }
    }

    #[test]
    fn numbers_are_decimal_with_38_digits() {
        let digits = "1".repeat(38);
        let zeros = "0".repeat(50);
        for number in [
            "0",
            "-0",
            "00",
            "0.0",
            "7",
            "+7",
            "-12.50",
            ".5",
            "5.",
            "6e23",
            "6E+23",
            "1e-128",
            "9.9e126",
            "0e999",
            "0.01e-126",
            &digits,
            &format!("-{digits}"),
            &format!("{zeros}{digits}{zeros}"),
            &format!("0.{zeros}{digits}"),
        ] {
            assert!(is_number(number), "{number}");
        }
        for number in [
            "",
            " ",
            "-",
            "+-1",
            "--1",
            ".",
            "e5",
            ".e5",
            "1e",
            "1e1.5",
            "1 ",
            " 1",
            "0x10",
            "1_000",
            "1,5",
            "NaN",
            "Infinity",
            "1e127",
            "1e-129",
            "0.001e-126",
            "1e99999999999",
            "\u{0661}",
            &format!("{digits}1"),
            &format!("1{zeros}1"),
            &"9".repeat(130),
        ] {
            assert!(!is_number(number), "{number}");
        }
    }

    #[test]
    fn a_value_is_one_of_its_type_and_not_empty() {
        let value = |data_type: &str, value| {
            let name = AttributeName::parse("name", "a".to_owned()).unwrap();
            let data_type = AttributeType::parse("type", data_type).unwrap();
            Attribute::new("value", name, data_type, value)
        };
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let bytes = |text: &str| AttributeValue::base64("value", text).unwrap();
        for (data_type, good) in [
            ("String", text("x\n")),
            ("Number", text("1")),
            ("Binary", bytes("AP8=")),
        ] {
            value(data_type, good).unwrap();
        }
        for (data_type, bad) in [
            ("String", text("")),
            ("String", text("a\0")),
            ("String", bytes("AP8=")),
            ("Number", text("one")),
            ("Number", bytes("AP8=")),
            ("Binary", text("AP8=")),
            ("Binary", bytes("")),
        ] {
            assert!(matches!(value(data_type, bad), Err(Error::Invalid(_))));
        }
        for bad in ["AP8", "AP-_", "A P8=", "AP9=", "é"] {
            assert!(AttributeValue::base64("value", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_are_in_the_order_of_their_names_and_each_there_once() {
        let named = |names: &[&str]| {
            let attributes = names.iter().map(|name| text(name, "String", "x").unwrap());
            Attributes::new("attributes", attributes.collect())
        };
        let sorted = named(&["b", "B", "a"]).unwrap();
        let names: Vec<_> = sorted.iter().map(Attribute::name).collect();
        assert_eq!(names, ["B", "a", "b"]);
        assert_eq!(sorted.size(), 3 * (1 + 6 + 1));
        assert!(named(&[]).unwrap().is_empty());
        assert!(named(&["a", "b", "a"]).is_err());
        let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(named(&many[..64]).is_ok());
        assert!(named(&many).is_err());
    }
}

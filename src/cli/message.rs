//! Messages as `/v1` writes them: what they carry, and how they are shown.

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::output::{Column, Listing, plain, plain_last, text, time};

/// Received messages.
pub(super) const RECEIVED: Listing = Listing {
    columns: &[
        Column {
            title: "SENT",
            cell: |message| time(&message["sent_at"]),
        },
        Column {
            title: "ID",
            cell: |message| text(&message["message_id"]),
        },
        Column {
            title: "RECEIVED",
            cell: |message| format!("#{}", text(&message["receive_count"])),
        },
        Column {
            title: "ATTRIBUTES",
            cell: attributes_shown,
        },
        Column {
            title: "BODY",
            cell: body_shown,
        },
    ],
    name: "message_id",
    none: "there was no message",
};

/// The members that make a message what it is: those that are sent.
const CARRIED: [&str; 6] = [
    "body",
    "body_json",
    "body_base64",
    "attributes",
    "traceparent",
    "tracestate",
];

/// What a message carries.
///
/// # Errors
/// The body is not what it says.
pub(super) fn bytes_of(message: &Value) -> anyhow::Result<Vec<u8>> {
    let decode = |text: &Value| {
        let text = text.as_str().context("a body in base64 is text")?;
        STANDARD.decode(text).context("a body is not base64")
    };
    if let Some(encoded) = message.get("body_base64") {
        return decode(encoded);
    }
    if let Some(value) = message.get("body_json") {
        return Ok(value.to_string().into_bytes());
    }
    let body = &message["body"];
    if message["body_kind"] == "base64" {
        return decode(body);
    }
    let body = body.as_str().context("the message has no body")?;
    Ok(body.as_bytes().to_vec())
}

/// The body for a message to be sent: text where it is some, else base64.
pub(super) fn body_member(bytes: &[u8]) -> (&'static str, Value) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => ("body", text.into()),
        _ => ("body_base64", STANDARD.encode(bytes).into()),
    }
}

/// A message that carries what another one does.
///
/// # Errors
/// It is no message.
pub(super) fn copy_of(message: &Value) -> anyhow::Result<Value> {
    let members = message.as_object().context("a message is a JSON object")?;
    let copied = CARRIED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), members.get(*name)?.clone())));
    let mut copy: Map<String, Value> = copied.collect();
    if message["body_kind"] == "base64"
        && let Some(body) = copy.remove("body")
    {
        copy.insert("body_base64".to_owned(), body);
    }
    let has_body = ["body", "body_json", "body_base64"].map(|name| copy.contains_key(name));
    ensure!(has_body.contains(&true), "the message has no body");
    Ok(Value::Object(copy))
}

/// The receipt handles of messages, as entries of a batch.
pub(super) fn receipts(messages: &[Value]) -> Vec<Value> {
    messages
        .iter()
        .map(|message| json!({ "receipt_handle": message["receipt_handle"] }))
        .collect()
}

/// Attributes with their values, in order.
pub(super) fn attributes(message: &Value) -> impl Iterator<Item = (&str, &str)> {
    let members = message["attributes"].as_object().into_iter().flatten();
    members.filter_map(|(name, attribute)| Some((name.as_str(), attribute["value"].as_str()?)))
}

fn attributes_shown(message: &Value) -> String {
    let shown: Vec<_> = attributes(message)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if shown.is_empty() {
        return "-".to_owned();
    }
    plain(&shown.join(" "))
}

/// A body on one line.
pub(super) fn body_shown(message: &Value) -> String {
    match bytes_of(message).map(String::from_utf8) {
        Ok(Ok(body)) => plain_last(&body),
        Ok(Err(bytes)) => format!("({} bytes)", bytes.as_bytes().len()),
        Err(_) => "-".to_owned(),
    }
}

/// `name=value` or `name:Type=value` from the command line.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn attribute(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("must be NAME=VALUE or NAME:TYPE=VALUE, such as color=red or size:Number=5")?;
    Ok(match name.split_once(':') {
        Some((name, kind)) => (name.to_owned(), json!({ "type": kind, "value": value })),
        None => (name.to_owned(), json!({ "value": value })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_however_it_is_written() {
        for (message, bytes) in [
            (json!({"body": "hello"}), &b"hello"[..]),
            (json!({"body": "hello", "body_kind": "text"}), b"hello"),
            (json!({"body": "AP8=", "body_kind": "base64"}), b"\x00\xff"),
            (json!({"body_base64": "AP8="}), b"\x00\xff"),
            (json!({"body_json": {"a": [1, 2]}}), b"{\"a\":[1,2]}"),
        ] {
            assert_eq!(bytes_of(&message).unwrap(), bytes, "{message}");
            let again = copy_of(&message).unwrap();
            assert_eq!(bytes_of(&again).unwrap(), bytes, "{again}");
        }
        for wrong in [json!({}), json!({"body": 5}), json!({"body_base64": "!"})] {
            assert!(bytes_of(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_text_is_sent_as_base64() {
        assert_eq!(body_member(b"hello"), ("body", "hello".into()));
        assert_eq!(body_member(b"a\0"), ("body_base64", "YQA=".into()));
        assert_eq!(body_member(b"\xff"), ("body_base64", "/w==".into()));
    }

    #[test]
    fn a_copy_has_what_was_sent_and_no_more() {
        let received = json!({
            "message_id": "5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18", "body": "x", "body_kind": "text",
            "receive_count": 3, "attributes": {"color": {"type": "String", "value": "red"}},
        });
        let copy = json!({
            "body": "x", "attributes": {"color": {"type": "String", "value": "red"}},
        });
        assert_eq!(copy_of(&received).unwrap(), copy);
        assert!(copy_of(&json!({"message_id": "x"})).is_err());
    }
}

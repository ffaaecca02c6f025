//! The OpenAPI document in version 3.0.3, for generators of clients that read nothing newer. What 3.0
//! says differently is rewritten, and what it cannot say is left out: such a schema allows more.

use serde_json::{Map, Value, json};

/// Keywords of schemas that 3.0 does not have and that only narrow what is valid.
const UNKNOWN_KEYWORDS: [&str; 18] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

const OCTET_STREAM: &str = "application/octet-stream";

/// A document of 3.1 as one of 3.0.3.
pub(super) fn down_converted(mut document: Value) -> Value {
    document["openapi"] = json!("3.0.3");
    if let Some(members) = document.as_object_mut() {
        members.shift_remove("webhooks");
        members.shift_remove("jsonSchemaDialect");
    }
    if let Some(info) = document["info"].as_object_mut() {
        info.shift_remove("summary");
        if let Some(license) = info.get_mut("license").and_then(Value::as_object_mut)
            && let Some(Value::String(identifier)) = license.shift_remove("identifier")
        {
            let url = format!("https://spdx.org/licenses/{identifier}.html");
            license.insert("url".to_owned(), url.into());
        }
    }
    walk(&mut document);
    document
}

/// Finds the schemas of a document.
fn walk(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("example" | "examples", _) => {}
                    ("schema", member) => schema(member),
                    ("schemas", Value::Object(schemas)) => schemas.values_mut().for_each(schema),
                    (OCTET_STREAM, member) => {
                        // In 3.1 bytes need no schema.
                        if member["schema"].is_null() || member["schema"] == json!({}) {
                            member["schema"] = json!({"type": "string", "format": "binary"});
                        }
                        walk(member);
                    }
                    (_, member) => walk(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        _ => {}
    }
}

fn schema(value: &mut Value) {
    let Value::Object(members) = value else {
        // `true` and `false` are schemas in 3.1.
        *value = match value {
            Value::Bool(false) => json!({"not": {}}),
            _ => json!({}),
        };
        return;
    };
    for keyword in UNKNOWN_KEYWORDS {
        members.shift_remove(keyword);
    }
    // Before the parts: a part that is null alone has no other form in 3.0.
    null_among_alternatives(members);
    for (name, member) in members.iter_mut() {
        match (name.as_str(), member) {
            ("properties", Value::Object(parts)) => parts.values_mut().for_each(schema),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(schema);
            }
            ("additionalProperties", Value::Bool(_)) => {}
            ("additionalProperties" | "items" | "not", part) => schema(part),
            _ => {}
        }
    }
    types(members);
    renamed_keywords(members);
    reference(members);
}

/// `oneOf` and `anyOf` with null become `nullable`.
fn null_among_alternatives(members: &mut Map<String, Value>) {
    for keyword in ["oneOf", "anyOf"] {
        let Some(Value::Array(alternatives)) = members.get_mut(keyword) else {
            continue;
        };
        let before = alternatives.len();
        alternatives.retain(|alternative| alternative["type"] != "null");
        if alternatives.len() == before {
            continue;
        }
        if alternatives.len() == 1 {
            let only = members.shift_remove(keyword).expect("it was just there");
            members.insert("allOf".to_owned(), only);
        }
        members.insert("nullable".to_owned(), true.into());
    }
}

/// A list of types becomes one type, `nullable` where null was among them.
fn types(members: &mut Map<String, Value>) {
    let is_null = |kind: &Value| kind == "null";
    let kinds = match members.get("type") {
        Some(Value::Array(kinds)) => kinds.clone(),
        Some(kind) if is_null(kind) => vec![kind.clone()],
        _ => return,
    };
    let is_nullable = kinds.iter().any(is_null);
    let kinds: Vec<_> = kinds.into_iter().filter(|kind| !is_null(kind)).collect();
    match kinds.as_slice() {
        [] => {
            members.shift_remove("type");
            members.insert("enum".to_owned(), json!([null]));
        }
        [kind] => {
            members.insert("type".to_owned(), kind.clone());
        }
        _ => {
            members.shift_remove("type");
            let of_kind = |kind| match is_nullable {
                true => json!({"type": kind, "nullable": true}),
                false => json!({"type": kind}),
            };
            let alternatives = kinds.into_iter().map(of_kind).collect::<Vec<_>>();
            members
                .entry("anyOf")
                .or_insert_with(|| alternatives.into());
            return;
        }
    }
    if is_nullable {
        members.insert("nullable".to_owned(), true.into());
    }
}

/// What has another name, or another form, in 3.0.
fn renamed_keywords(members: &mut Map<String, Value>) {
    if let Some(only) = members.shift_remove("const") {
        members.insert("enum".to_owned(), json!([only]));
    }
    if let Some(Value::Array(examples)) = members.shift_remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        members.entry("example").or_insert(first);
    }
    for (exclusive, inclusive) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        if let Some(bound @ Value::Number(_)) = members.get(exclusive).cloned() {
            members.insert(inclusive.to_owned(), bound);
            members.insert(exclusive.to_owned(), true.into());
        }
    }
    let encoding = members.shift_remove("contentEncoding");
    let media_type = members.shift_remove("contentMediaType");
    let format = match (encoding, media_type) {
        (Some(encoding), _) if encoding == "base64" => "byte",
        (None, Some(media_type)) if media_type == OCTET_STREAM => "binary",
        _ => return,
    };
    members.insert("type".to_owned(), "string".into());
    members.insert("format".to_owned(), format.into());
}

/// What stands beside a reference is not seen in 3.0.
fn reference(members: &mut Map<String, Value>) {
    if members.len() > 1
        && let Some(target) = members.shift_remove("$ref")
    {
        let target = json!({ "$ref": target });
        match members.get_mut("allOf") {
            Some(Value::Array(parts)) => parts.push(target),
            _ => {
                members.insert("allOf".to_owned(), json!([target]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_3_0_says_differently_is_rewritten() {
        let reference = json!({"$ref": "#/components/schemas/Queue"});
        for (newer, older) in [
            (
                json!({"type": ["string", "null"], "maxLength": 3}),
                json!({"type": "string", "maxLength": 3, "nullable": true}),
            ),
            (
                json!({"type": ["string", "integer"]}),
                json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
            ),
            (
                json!({"type": "null"}),
                json!({"enum": [null], "nullable": true}),
            ),
            (
                json!({"oneOf": [{"type": "null"}, reference]}),
                json!({"allOf": [reference], "nullable": true}),
            ),
            (
                json!({"anyOf": [{"const": 1}, {"type": "null"}, {"const": 2}]}),
                json!({"anyOf": [{"enum": [1]}, {"enum": [2]}], "nullable": true}),
            ),
            (
                json!({"$ref": "#/components/schemas/Queue", "description": "Where it is"}),
                json!({"description": "Where it is", "allOf": [reference]}),
            ),
            (reference.clone(), reference.clone()),
            (
                json!({"type": "number", "exclusiveMinimum": 0, "examples": [1, 2]}),
                json!({"type": "number", "exclusiveMinimum": true, "minimum": 0, "example": 1}),
            ),
            (
                json!({"type": "string", "contentEncoding": "base64"}),
                json!({"type": "string", "format": "byte"}),
            ),
            (
                json!({"contentMediaType": "application/octet-stream"}),
                json!({"type": "string", "format": "binary"}),
            ),
            (
                json!({"type": "object", "propertyNames": {"pattern": "a"}, "additionalProperties":
                    {"type": ["string", "null"]}}),
                json!({"type": "object", "additionalProperties":
                    {"type": "string", "nullable": true}}),
            ),
            (
                json!({"properties": {"type": {"type": "string"}, "any": true}, "items": false,
                    "additionalProperties": false}),
                json!({"properties": {"type": {"type": "string"}, "any": {}}, "items": {"not": {}},
                    "additionalProperties": false}),
            ),
        ] {
            let mut found = newer.clone();
            schema(&mut found);
            assert_eq!(found, older, "{newer}");
        }
    }

    #[test]
    fn schemas_are_found_wherever_they_stand_and_examples_stay() {
        let text = json!({"type": ["string", "null"]});
        let older = json!({"type": "string", "nullable": true});
        let document = |version: &str, text: &Value, bytes: Value, license: Value| {
            json!({
                "openapi": version,
                "info": {"title": "T", "license": license},
                "paths": {"/": {"post": {
                    "parameters": [{"schema": text, "example": text}],
                    "requestBody": {"content": {"application/octet-stream": bytes}},
                    "responses": {"200": {
                        "headers": {"X": {"schema": text}},
                        "content": {"application/json": {"schema": {"items": text}, "example": text}},
                    }},
                }}},
                "components": {"schemas": {"Text": text}},
            })
        };
        let newer = document(
            "3.1.0",
            &text,
            json!({}),
            json!({"name": "A", "identifier": "Apache-2.0"}),
        );
        let mut expected = document(
            "3.0.3",
            &older,
            json!({"schema": {"type": "string", "format": "binary"}}),
            json!({"name": "A", "url": "https://spdx.org/licenses/Apache-2.0.html"}),
        );
        let operation = &mut expected["paths"]["/"]["post"];
        operation["parameters"][0]["example"] = text.clone();
        operation["responses"]["200"]["content"]["application/json"]["example"] = text;
        assert_eq!(down_converted(newer), expected);
    }
}

//! The OpenAPI document: current, and such that generators of clients accept it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{ask, compare_with_file, request, router};

pub(crate) fn document() -> Value {
    serde_json::from_str(&towpath::http::rest::openapi::document()).unwrap()
}

const OCTETS: &str = "application/octet-stream";

/// The schema of a body that is bytes.
fn octets() -> Value {
    serde_json::json!({"type": "string", "format": "binary"})
}

/// Method, path and description of every operation.
pub(crate) fn operations(document: &Value) -> Vec<(String, &String, &Value)> {
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path, operation));
        }
    }
    operations
}

fn is_public(operation: &Value) -> bool {
    operation["security"] == serde_json::json!([{}])
}

/// Every object in a document, with where it is.
fn objects<'a>(place: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) => {
            found.push((place.to_owned(), value));
            for (name, member) in members {
                objects(&format!("{place}/{name}"), member, found);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                objects(&format!("{place}/{i}"), item, found);
            }
        }
        _ => {}
    }
}

pub(crate) fn all_objects(document: &Value) -> Vec<(String, &Value)> {
    let mut found = vec![];
    objects("", document, &mut found);
    found
}

#[test]
fn the_openapi_document_is_current() {
    let document = towpath::http::rest::openapi::document();
    compare_with_file("openapi/openapi.json", &document);
    let older = towpath::http::rest::openapi::document_3_0();
    compare_with_file("openapi/openapi-3.0.json", &older);
}

#[tokio::test]
async fn the_document_is_served_to_everyone() {
    let mut request = request("GET", "/v1/openapi.json", "");
    request.headers_mut().clear();
    let answer = ask(&router().await, request).await;
    assert_eq!(answer.expect(200), &document());
    assert_eq!(answer.header("content-type"), "application/json");
}

#[test]
fn every_operation_is_fully_described() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["security"], serde_json::json!([{"bearer": []}]));
    let tags: Vec<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let place = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{place}: {id} is taken");
        assert!(
            id.starts_with(|c: char| c.is_ascii_lowercase())
                && id.contains(|c: char| c.is_ascii_uppercase())
                && id.chars().all(|c| c.is_ascii_alphanumeric()),
            "{place}: {id} is not a verb and a noun in camel case"
        );
        let own = operation["tags"].as_array().unwrap();
        assert!(
            own.len() == 1 && tags.contains(&&own[0]),
            "{place}: {own:?}"
        );
        let summary = operation["summary"].as_str().unwrap();
        assert!(
            !summary.is_empty() && !summary.ends_with('.'),
            "{place}: {summary}"
        );
        assert!(
            operation["security"].is_null() || is_public(operation),
            "{place}"
        );
    }
}

#[test]
fn only_a_few_operations_need_no_token() {
    let document = document();
    let public: Vec<_> = operations(&document)
        .into_iter()
        .filter(|(_, _, operation)| is_public(operation))
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert_eq!(
        public,
        ["GET /healthz", "GET /readyz", "GET /v1/openapi.json"]
    );
}

#[test]
fn every_answer_is_described_with_an_example() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let place = format!("{method} {path}");
        if !is_public(operation) {
            for status in ["401", "422", "504"] {
                assert!(responses.contains_key(status), "{place}: no {status}");
            }
        }
        assert!(responses.contains_key("400"), "{place}: no 400");
        if !["/healthz", "/readyz"].contains(&path.as_str()) {
            for status in ["403", "500", "503"] {
                assert!(responses.contains_key(status), "{place}: no {status}");
            }
        }
        let is_text = path.starts_with("/metrics");
        let media_types = |status: &str| match status {
            "204" => vec![],
            _ if status < "400" && is_text => vec!["text/plain"],
            _ if status < "400" => vec!["application/json"],
            _ => vec!["application/problem+json"],
        };
        for (status, response) in responses {
            let place = format!("{place} {status}");
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{place}"
            );
            let found: Vec<_> = response["content"]
                .as_object()
                .into_iter()
                .flatten()
                .collect();
            let types: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(types, media_types(status), "{place}");
            for (_name, content) in found {
                let is_open = path == "/v1/openapi.json";
                let example = &content["example"];
                assert!(
                    is_open || example.is_object() || is_text && example.is_string(),
                    "{place}: no example"
                );
            }
        }
    }
}

/// The operations whose answer is a queue.
const SHOW_A_VERSION: [&str; 3] = ["putQueue", "getQueue", "patchQueue"];

#[test]
fn every_answer_is_described_with_its_headers() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let mut expected = vec!["X-Request-Id"];
            if status.as_str() < "300"
                && SHOW_A_VERSION.contains(&operation["operationId"].as_str().unwrap())
            {
                expected.push("etag");
            }
            match status.as_str() {
                "201" => expected.push("location"),
                "401" => expected.push("WWW-Authenticate"),
                "408" | "503" | "504" | "507" => expected.push("Retry-After"),
                _ => {}
            }
            let headers = response["headers"].as_object().unwrap();
            let found: BTreeSet<_> = headers.keys().map(String::as_str).collect();
            let expected = expected.into_iter().collect();
            assert_eq!(found, expected, "{method} {path} {status}");
        }
    }
}

#[test]
fn every_request_body_has_an_example_and_its_limits() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let Some(body) = operation.get("requestBody") else {
            assert!(
                !operation["responses"]
                    .as_object()
                    .unwrap()
                    .contains_key("415")
            );
            continue;
        };
        let place = format!("{method} {path}");
        let content = body["content"].as_object().unwrap();
        let mut media_types = vec!["application/json"];
        if operation["operationId"] == "sendMessages" {
            media_types.push(OCTETS);
            assert_eq!(content[OCTETS]["schema"], octets(), "{place}");
        }
        assert_eq!(content.keys().collect::<Vec<_>>(), media_types, "{place}");
        assert!(
            content["application/json"]["example"].is_object(),
            "{place}"
        );
        assert!(
            content["application/json"]["schema"]["$ref"].is_string(),
            "{place}"
        );
        let may_be_empty =
            ["putQueue", "receiveMessages"].contains(&operation["operationId"].as_str().unwrap());
        assert_eq!(body["required"], !may_be_empty, "{place}");
        for status in ["408", "413", "415"] {
            assert!(
                operation["responses"][status].is_object(),
                "{place}: no {status}"
            );
        }
    }
}

#[test]
fn no_field_is_nullable_but_in_patches_and_no_number_without_bounds() {
    let document = document();
    for (place, object) in all_objects(&document) {
        if place.contains("/example") {
            continue;
        }
        // In a patch null is the default, and nothing is no change.
        let is_patch = place.starts_with("/components/schemas/PatchQueue/");
        let types = object["type"].as_array();
        let is_nullable = types.is_some_and(|types| types.len() == 2 && types[1] == "null");
        assert!(
            object["type"].is_string() || types.is_none() || is_patch && is_nullable,
            "{place}: more than one type"
        );
        for combined in ["oneOf", "anyOf", "allOf"] {
            assert!(object[combined].is_null(), "{place}: {combined}");
        }
        if object["type"] == "integer" || object["type"][0] == "integer" {
            assert!(object["minimum"].is_number(), "{place}: no minimum");
        }
        if object["type"] == "object" && place.starts_with("/components/schemas") {
            let is_map = object["additionalProperties"].is_object();
            assert!(
                object["properties"].is_object() || is_map,
                "{place}: no properties"
            );
        }
    }
}

#[test]
fn request_schemas_are_closed() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let is_read = [
            "PutQueue",
            "PatchQueue",
            "RetryPolicy",
            "SendMessages",
            "MessageToSend",
            "AttributeToSend",
            "ReceiveMessages",
            "DeleteMessages",
            "MessageToDelete",
            "ExtendMessages",
            "MessageToExtend",
            "NackMessages",
            "RescheduleMessage",
            "MessageToNack",
            "StartRedrive",
            "RedriveFilter",
            "CreateToken",
        ]
        .contains(&name.as_str());
        let is_closed = schema["additionalProperties"] == false;
        assert_eq!(is_read, is_closed, "{name}");
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut used = BTreeSet::new();
    for (place, object) in all_objects(&document) {
        let Some(target) = object["$ref"].as_str() else {
            continue;
        };
        let name = target.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{place} leads to {target}");
        used.insert(name);
    }
    assert_eq!(used, schemas.keys().map(String::as_str).collect());
}

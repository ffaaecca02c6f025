//! What generators of clients trip over, looked for in the whole OpenAPI document: whatever is added to
//! it later must keep to this.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::openapi::{all_objects, document, operations};

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

/// Media types whose content is no JSON, and needs no example.
const OPAQUE: [&str; 2] = ["application/octet-stream", "text/plain"];

fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Every rule that a document breaks, and where.
fn broken_rules(document: &Value) -> Vec<String> {
    let mut broken = vec![];
    if list(&document["security"]).is_empty() {
        broken.push("the document has no security".to_owned());
    }
    let tags: Vec<_> = list(&document["tags"])
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(document) {
        let id = text(operation, "operationId");
        let own = list(&operation["tags"]);
        let summary = text(operation, "summary");
        let rules = [
            (METHODS.contains(&method.as_str()), "is no method"),
            (ids.insert(id), "has the operationId of another one"),
            (is_verb_and_noun(id), "has no operationId like verbNoun"),
            (
                own.len() == 1 && tags.contains(&&own[0]),
                "has not one tag of the list",
            ),
            (
                !summary.is_empty() && !summary.ends_with('.'),
                "has no summary",
            ),
        ];
        let place = format!("{method} {path}");
        broken.extend(told(&place, &rules));
        broken.extend(broken_answers(&place, &operation["responses"]));
        broken.extend(broken_contents(
            &place,
            &operation["requestBody"]["content"],
        ));
        for parameter in list(&operation["parameters"]) {
            broken.extend(broken_parameter(&place, parameter));
        }
    }
    for (place, object) in all_objects(document) {
        if !place.contains("/example") {
            broken.extend(broken_schema(document, &place, object));
        }
    }
    for (name, schema) in members(&document["components"]["schemas"]) {
        broken.extend(broken_component(name, schema));
    }
    broken
}

fn told(place: &str, rules: &[(bool, &str)]) -> Vec<String> {
    let broken = rules.iter().filter(|(holds, _)| !holds);
    broken.map(|(_, what)| format!("{place} {what}")).collect()
}

fn is_verb_and_noun(id: &str) -> bool {
    id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.contains(|c: char| c.is_ascii_uppercase())
        && id.chars().all(|c| c.is_ascii_alphanumeric())
}

fn broken_answers(place: &str, responses: &Value) -> Vec<String> {
    let fails = members(responses).any(|(status, _)| status.starts_with('4'));
    let mut broken = told(place, &[(fails, "has no 4xx")]);
    for (status, response) in members(responses) {
        let place = format!("{place} {status}");
        let is_described = !text(response, "description").is_empty();
        broken.extend(told(&place, &[(is_described, "has no description")]));
        broken.extend(broken_contents(&place, &response["content"]));
    }
    broken
}

fn broken_contents(place: &str, contents: &Value) -> Vec<String> {
    let mut broken = vec![];
    for (media_type, content) in members(contents) {
        let is_opaque = OPAQUE.iter().any(|opaque| media_type.starts_with(opaque));
        let is_open = content["schema"] == json!({"type": "object"});
        let has_example = !content["example"].is_null() || content["examples"].is_object();
        let has_schema = is_opaque || is_open || content["schema"]["$ref"].is_string();
        let rules = [
            (is_opaque || is_open || has_example, "has no example"),
            (has_schema, "has a schema without a name"),
        ];
        broken.extend(told(&format!("{place} {media_type}"), &rules));
    }
    broken
}

fn broken_parameter(place: &str, parameter: &Value) -> Vec<String> {
    let is_in_path = parameter["in"] == "path";
    let is_map = parameter["schema"]["type"] == "object";
    let rules = [
        (
            !text(parameter, "description").is_empty(),
            "has no description",
        ),
        (
            parameter["required"] == is_in_path,
            "is not required where it is in the path only",
        ),
        (
            parameter["schema"]["type"].is_string(),
            "has more than one type",
        ),
        (!is_map, "is an object"),
    ];
    told(&format!("{place} {}", text(parameter, "name")), &rules)
}

fn broken_schema(document: &Value, place: &str, object: &Value) -> Vec<String> {
    let target = text(object, "$ref").strip_prefix('#');
    let is_choice = object["oneOf"].is_array() || object["anyOf"].is_array();
    let is_component = place.strip_prefix("/components/schemas/");
    let is_component = is_component.is_some_and(|name| !name.contains('/'));
    let is_model = object["type"] == "object" && object["properties"].is_object();
    let is_integer = object["type"] == "integer";
    let rules = [
        (
            object["$ref"].is_null() || target.is_some_and(|at| document.pointer(at).is_some()),
            "leads nowhere",
        ),
        (
            !is_choice || object["discriminator"].is_object(),
            "is a choice that nothing tells",
        ),
        (!is_model || is_component, "is an object without a name"),
        (
            !is_integer || object["minimum"].is_number(),
            "has no minimum",
        ),
        (
            object["format"] != "int32" || object["maximum"].is_number(),
            "has no maximum",
        ),
    ];
    told(place, &rules)
}

/// A field that may be missing and may be null as well has three states, which most languages do not
/// have. What merges into what is there needs them.
fn broken_component(name: &str, schema: &Value) -> Vec<String> {
    let merges = name.starts_with("Patch");
    let rules = [
        (!name.contains('_'), "is generic"),
        (
            !text(schema, "description").is_empty(),
            "has no description",
        ),
    ];
    let mut broken = told(name, &rules);
    for (field, property) in members(&schema["properties"]) {
        let is_nullable = list(&property["type"]).iter().any(|kind| kind == "null")
            || list(&property["oneOf"])
                .iter()
                .any(|one| one["type"] == "null");
        let is_required = list(&schema["required"]).iter().any(|one| one == field);
        let is_reference = property["$ref"].is_string();
        let is_id = field == "id" || field.ends_with("_id");
        let rules = [
            (
                merges || is_required || !is_nullable,
                "is nullable and optional",
            ),
            (
                is_reference || !text(property, "description").is_empty(),
                "has no description",
            ),
            (
                !is_id || property["type"] != "integer",
                "is an id and a number",
            ),
            (
                property["default"].is_null(),
                "has a default, which clients would send",
            ),
        ];
        broken.extend(told(&format!("{name}.{field}"), &rules));
    }
    broken
}

#[test]
fn no_generator_of_clients_trips_over_the_document() {
    let broken = broken_rules(&document());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of all rules is clearest")]
fn each_rule_sees_what_breaks_it() {
    const SEND: &str = "/paths/~1v1~1queues~1{queue}~1messages/post";
    const QUEUE: &str = "/components/schemas/Queue";
    let send = |rest: &str| format!("{SEND}{rest}");
    let queue = |rest: &str| format!("{QUEUE}{rest}");
    let json_of_send = send("/requestBody/content/application~1json");
    for (place, value, complaint) in [
        ("/security".to_owned(), json!([]), "has no security"),
        (send("/operationId"), json!("putQueue"), "of another one"),
        (send("/operationId"), json!("send"), "like verbNoun"),
        (send("/tags"), json!(["messages", "queues"]), "not one tag"),
        (send("/tags"), json!(["unknown"]), "not one tag"),
        (send("/summary"), json!("Sends."), "has no summary"),
        (
            send("/responses"),
            json!({"200": {"description": "."}}),
            "has no 4xx",
        ),
        (
            send("/responses/200/description"),
            Value::Null,
            "has no description",
        ),
        (
            format!("{json_of_send}/example"),
            Value::Null,
            "has no example",
        ),
        (
            format!("{json_of_send}/schema"),
            json!({"type": "string"}),
            "schema without a name",
        ),
        (
            send("/parameters/0/description"),
            json!(""),
            "has no description",
        ),
        (
            send("/parameters/0/required"),
            json!(false),
            "is not required",
        ),
        (
            send("/parameters/1/schema/type"),
            json!(["string", "null"]),
            "more than one type",
        ),
        (
            send("/parameters/1/schema/type"),
            json!("object"),
            "is an object",
        ),
        (
            format!("{json_of_send}/schema"),
            json!({"$ref": "#/components/schemas/Gone"}),
            "leads nowhere",
        ),
        (
            queue("/properties/name"),
            json!({"anyOf": []}),
            "nothing tells",
        ),
        (
            queue("/properties/name"),
            json!({"type": "object", "properties": {}}),
            "object without a name",
        ),
        (
            queue("/properties/version/minimum"),
            Value::Null,
            "has no minimum",
        ),
        (
            queue("/properties/version/format"),
            json!("int32"),
            "has no maximum",
        ),
        (
            queue("/properties/dead_letter_queue/type"),
            json!(["string", "null"]),
            "optional",
        ),
        (
            queue("/properties/name/description"),
            Value::Null,
            "has no description",
        ),
        (queue("/description"), Value::Null, "has no description"),
        (
            queue("/properties"),
            json!({"queue_id": {"type": "integer", "minimum": 0, "description": "."}}),
            "is an id and a number",
        ),
        (
            "/components/schemas/PutQueue/properties/delay_seconds".to_owned(),
            json!({"type": "integer", "minimum": 0, "description": ".", "default": 0}),
            "has a default",
        ),
        (
            "/components/schemas".to_owned(),
            json!({"Page_Queue": {"description": "."}}),
            "is generic",
        ),
    ] {
        let mut document = document();
        let target = document.pointer_mut(&place);
        *target.unwrap_or_else(|| panic!("{place} is gone")) = value;
        let broken = broken_rules(&document);
        let is_seen = broken.iter().any(|broken| broken.contains(complaint));
        assert!(is_seen, "{place}: {complaint} is not in {broken:?}");
    }
}

//! Bodies near to good ones, changed at random: each is served or refused, and none is our bug.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Number, Value, json};
use tokio::runtime::Runtime;

use crate::support::{ask, request, router};

const CASES: u32 = 800;

/// Good requests: the seeds.
fn seeds() -> Vec<(&'static str, &'static str, Value)> {
    let queue = "/v1/queues/orders";
    vec![
        (
            "PUT",
            queue,
            json!({"visibility_timeout_seconds": 60, "receive_wait_seconds": 0}),
        ),
        (
            "PUT",
            queue,
            json!({
                "dead_letter_queue": "others", "max_receive_count": 3, "durability": "relaxed",
                "delay_seconds": 1, "retention_seconds": 60, "deduplication_window_seconds": 5,
                "tags": {"a": "b"}, "sending_paused": false, "receiving_paused": false,
                "retry_policy": {"type": "ladder", "delays_seconds": [1, 2], "jitter": 0.5},
            }),
        ),
        (
            "PATCH",
            queue,
            json!({
                "tags": {"a": null}, "delay_seconds": null, "durability": "strict",
                "retry_policy": {
                    "type": "exponential", "delay_seconds": 1, "factor": 1.5,
                    "max_delay_seconds": 5,
                },
            }),
        ),
        (
            "POST",
            "/v1/queues/orders/messages",
            json!({"messages": [
                {"body": "one"}, {"body": "two", "delay_seconds": 1, "time_to_live_seconds": 9},
            ]}),
        ),
        (
            "POST",
            "/v1/queues/orders/messages/receive",
            json!({"max_messages": 2, "wait_seconds": 0, "visibility_timeout_seconds": 1}),
        ),
        (
            "POST",
            "/v1/queues/orders/messages/delete",
            json!({"messages": [{"receipt_handle": "A".repeat(71)}]}),
        ),
        (
            "POST",
            "/v1/queues/orders/messages/extend",
            json!({"messages": [
                {"receipt_handle": "A".repeat(71), "visibility_timeout_seconds": 60},
            ]}),
        ),
        (
            "POST",
            "/v1/queues/orders/messages/nack",
            json!({"messages": [
                {"receipt_handle": "A".repeat(71), "delay_seconds": 1, "reason": "why"},
            ]}),
        ),
        (
            "POST",
            "/v1/tokens",
            json!({"subject": "a", "scope": "send receive", "lifetime_seconds": 60}),
        ),
    ]
}

/// JSON of any shape.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        (-2..30i64).prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What is done to a value inside a document, or to the document's text.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(Value),
    /// Takes out an object's first member or an array's last item.
    Remove,
    /// Gives an object's first member another name.
    Rename(String),
    Add(String, Value),
    /// Takes out so many bytes and puts these in.
    Splice(usize, Vec<u8>),
}

/// Mutations, each with the place where it happens: values are counted from the root.
fn mutations() -> impl Strategy<Value = (usize, Mutation)> {
    let on_value = prop_oneof![
        anything().prop_map(Mutation::Replace),
        Just(Mutation::Remove),
        any::<String>().prop_map(Mutation::Rename),
        (any::<String>(), anything()).prop_map(|(name, value)| Mutation::Add(name, value)),
    ];
    let on_text = (0..4usize, prop::collection::vec(any::<u8>(), 0..4))
        .prop_map(|(length, bytes)| Mutation::Splice(length, bytes));
    prop_oneof![4 => (0..8usize, on_value), 1 => (0..80usize, on_text)]
}

/// The value at a place; what is left of `at` says how far it is.
fn find<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| find(item, at)),
        Value::Object(members) => members.values_mut().find_map(|member| find(member, at)),
        _ => None,
    }
}

fn change(value: &mut Value, mutation: Mutation) {
    match (mutation, value) {
        (Mutation::Replace(new), value) => *value = new,
        (Mutation::Remove, Value::Array(items)) => {
            items.pop();
        }
        (Mutation::Remove, Value::Object(members)) => {
            take_first(members);
        }
        (Mutation::Rename(name), Value::Object(members)) => {
            if let Some(value) = take_first(members) {
                members.insert(name, value);
            }
        }
        (Mutation::Add(_, new), Value::Array(items)) => items.push(new),
        (Mutation::Add(name, new), Value::Object(members)) => {
            members.insert(name, new);
        }
        _ => {}
    }
}

fn take_first(members: &mut Map<String, Value>) -> Option<Value> {
    let name = members.keys().next().cloned()?;
    members.shift_remove(&name)
}

fn mutate(mut body: Value, mutations: Vec<(usize, Mutation)>) -> Vec<u8> {
    let mut splices = vec![];
    for (mut at, mutation) in mutations {
        if let Mutation::Splice(length, bytes) = mutation {
            splices.push((at, length, bytes));
        } else if let Some(value) = find(&mut body, &mut at) {
            change(value, mutation);
        }
    }
    let mut text = body.to_string().into_bytes();
    for (at, length, bytes) in splices {
        let from = at.min(text.len());
        let to = (from + length).min(text.len());
        text.splice(from..to, bytes);
    }
    text
}

#[test]
fn no_mutated_body_is_our_bug() {
    let runtime = Runtime::new().unwrap();
    let router = runtime.block_on(async {
        let router = router().await;
        for queue in ["orders", "others"] {
            let path = format!("/v1/queues/{queue}");
            let created = ask(&router, request("PUT", &path, "")).await;
            created.expect(201);
        }
        router
    });
    let strategy = (
        prop::sample::select(seeds()),
        prop::collection::vec(mutations(), 1..4),
    );
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&strategy, |((method, path, body), mutations)| {
        let text = mutate(body, mutations);
        let mut request = request(method, path, "{}");
        *request.body_mut() = axum::body::Body::from(text.clone());
        let answer = runtime.block_on(ask(&router, request));
        let shown = String::from_utf8_lossy(&text);
        prop_assert!(answer.status < 500, "{}: {:?}", shown, answer);
        let explained = answer.status < 400 || answer.body["detail"].is_string();
        prop_assert!(explained, "{}: {:?}", shown, answer);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

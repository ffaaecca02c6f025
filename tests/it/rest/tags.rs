//! Tags of queues: kept, shown, and looked for.

use serde_json::json;

use super::{Node, text};

/// The names on all pages of a listing.
async fn names(node: &Node, query: &str, limit: usize) -> Vec<String> {
    let mut names = vec![];
    let mut cursor = String::new();
    loop {
        let url = format!(
            "http://{}/v1/queues?limit={limit}&{query}{cursor}",
            node.address
        );
        let page = super::answer(node.http.get(url).bearer_auth(&node.token)).await;
        let page = page.expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{page}");
        names.extend(items.iter().map(|queue| text(&queue["name"])));
        let Some(next) = page.get("next_cursor") else {
            return names;
        };
        assert_eq!(items.len(), limit, "a page before the last is full");
        cursor = format!("&cursor={}", next.as_str().unwrap());
    }
}

#[tokio::test]
async fn tags_are_kept_as_they_are_and_go_with_a_put_without_them() {
    let (node, _database) = Node::alone().await;
    let (long_key, long_value) = ("é".repeat(128), "🚂".repeat(256));
    let tags = json!({
        "team": "billing", "a/b~c:d": "", "ö 'x' \"y\"": "\\ \n $1", (long_key): long_value,
    });
    node.put("q", json!({ "tags": tags })).await;
    assert_eq!(node.get("q").await.expect(200)["tags"], tags);
    let many: serde_json::Map<_, _> = (0..50).map(|n| (n.to_string(), json!(""))).collect();
    node.put("q", json!({ "tags": many })).await;
    let shown = node.get("q").await.body;
    assert_eq!(shown["tags"].as_object().unwrap().len(), 50);
    node.put("q", json!({})).await;
    assert_eq!(node.get("q").await.body["tags"], json!({}));
}

#[tokio::test]
async fn queues_are_found_by_a_tag_page_by_page() {
    let (node, _database) = Node::alone().await;
    for number in 0..12 {
        let tags = match number % 4 {
            0 => json!({"team": "billing", "tier": "1"}),
            1 => json!({"team": "shop"}),
            2 => json!({"team:billing": "x"}),
            _ => json!({}),
        };
        node.put(&format!("q-{number:02}"), json!({ "tags": tags }))
            .await;
    }
    let of = |numbers: &[usize]| -> Vec<String> {
        let names = numbers.iter().map(|number| format!("q-{number:02}"));
        names.collect()
    };
    for limit in [1, 2, 3, 100] {
        for (query, expected) in [
            ("tag=team", of(&[0, 1, 4, 5, 8, 9])),
            // Also a key that is spelt like that.
            ("tag=team:billing", of(&[0, 2, 4, 6, 8, 10])),
            ("tag=team:billing:x", of(&[2, 6, 10])),
            ("tag=team%3Ashop", of(&[1, 5, 9])),
            ("tag=tier:1&prefix=q-0", of(&[0, 4, 8])),
            ("tag=team:bill", of(&[])),
            ("tag=tea", of(&[])),
            ("tag=billing", of(&[])),
            ("tag=team:", of(&[])),
        ] {
            let found = names(&node, query, limit).await;
            // A full last page may be followed by an empty one only if more were there.
            assert_eq!(found, expected, "{query} by {limit}");
        }
    }
}

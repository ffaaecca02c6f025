//! Receipt handles that are forged, of another queue, or of a delivery that is long over.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use sqlx::Executor as _;
use towpath::domain::receipt::{Receipt, ReceiptKey};

use super::{Target, expect_violation};
use crate::support::{Answer, node};

const RULE: &str = "a receipt handle as a receive on this queue gave it out";

impl Target {
    async fn delete(&self, queue: &str, handles: &[&str]) -> Answer {
        let handles: Vec<_> = handles
            .iter()
            .map(|handle| json!({"receipt_handle": handle}))
            .collect();
        let body = json!({"messages": handles}).to_string();
        let path = format!("/v1/queues/{queue}/messages/delete");
        self.ask("POST", &path, &body).await
    }
}

/// A handle with other bytes, encoded as ours are.
fn changed(handle: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = URL_SAFE_NO_PAD.decode(handle).unwrap();
    change(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn beginning(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[tokio::test]
async fn a_forged_receipt_deletes_nothing() {
    let target = Target::new().await;
    let before = target.state().await;
    let handle = target.handle.as_str();
    let receipt = node::receipt_key().open(handle).unwrap();
    let another = ReceiptKey::new(1, &[3; ReceiptKey::BYTES]);
    let bytes = URL_SAFE_NO_PAD.decode(handle).unwrap();
    let mut forged = vec![
        ("empty", String::new()),
        ("a word", "forged".to_owned()),
        ("not base64", "*".repeat(71)),
        ("without its last character", beginning(handle, 70)),
        ("with one more", format!("{handle}A")),
        ("with padding", format!("{handle}=")),
        ("twice", format!("{handle}{handle}")),
        ("with a space", format!(" {handle}")),
        ("with NUL", format!("{handle}\0")),
        ("in the other alphabet", STANDARD.encode([0xff; 53])),
        ("all zero", changed(handle, |bytes| bytes.fill(0))),
        ("of 1 MiB", "A".repeat(1024 * 1024 - 200)),
        ("of another cluster", another.seal(&receipt)),
        ("of another key number", {
            ReceiptKey::new(2, &[2; ReceiptKey::BYTES]).seal(&receipt)
        }),
        ("of another message, unsealed", {
            let next = Receipt {
                token: receipt.token.wrapping_add(1),
                ..receipt
            };
            let other = URL_SAFE_NO_PAD.decode(another.seal(&next)).unwrap();
            changed(handle, |bytes| bytes[..37].copy_from_slice(&other[..37]))
        }),
        (
            "without its seal",
            changed(handle, |bytes| bytes.truncate(37)),
        ),
    ];
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80] {
            let flipped = changed(handle, |bytes| bytes[at] ^= flip);
            forged.push(("with a bit flipped", flipped));
        }
    }
    for (label, handle) in &forged {
        let answer = target.delete("orders", &[handle]).await;
        let dots = if handle.len() > 64 { "…" } else { "" };
        let value = beginning(handle, 64) + dots;
        let field = "/messages/0/receipt_handle";
        expect_violation(label, &answer, field, &value, RULE);
    }
    assert_eq!(target.state().await, before);
}

#[tokio::test]
async fn a_forged_receipt_is_refused_without_asking_the_database() {
    let target = Target::new().await;
    let mut gate = target.database.connect().await;
    let refused = async || target.delete("orders", &["forged"]).await;
    // A node looks at a queue again after a second: not in each of these moments.
    for _moment in 0..5 {
        refused().await.expect_problem(422, "invalid");
        gate.execute("begin; lock table towpath.queue")
            .await
            .unwrap();
        let answer = refused().await;
        gate.execute("rollback").await.unwrap();
        if answer.status == 422 {
            return;
        }
    }
    panic!("the database is asked each time");
}

#[tokio::test]
async fn a_receipt_of_another_queue_deletes_nothing() {
    let target = Target::new().await;
    let before = target.state().await;
    let answer = target.delete("others", &[&target.handle]).await;
    let value = beginning(&target.handle, 64) + "…";
    let field = "/messages/0/receipt_handle";
    expect_violation("of another queue", &answer, field, &value, RULE);
    assert_eq!(target.state().await, before);
    target.delete("orders", &[&target.handle]).await.expect(200);
    assert_ne!(target.state().await, before, "the right queue takes it");
}

#[tokio::test]
async fn one_forged_receipt_spoils_the_whole_request() {
    let target = Target::new().await;
    let before = target.state().await;
    let answer = target.delete("orders", &[&target.handle, "forged"]).await;
    let field = "/messages/1/receipt_handle";
    expect_violation("the second", &answer, field, "forged", RULE);
    assert_eq!(target.state().await, before);
}

#[tokio::test]
async fn a_receipt_of_no_delivery_is_stale() {
    let target = Target::new().await;
    let before = target.state().await;
    let stale = node::handle_of_no_delivery();
    let answer = target.delete("orders", &[&stale]).await;
    let problem = answer.expect_problem(409, "receipt_stale");
    let error = &problem["errors"][0];
    assert_eq!(error["pointer"], "/messages/0/receipt_handle");
    assert_eq!(error["value"], beginning(&stale, 64) + "…");
    assert!(error["detail"].as_str().unwrap().contains("receive again"));
    assert_eq!(target.state().await, before);
}

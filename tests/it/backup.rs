//! Backups by the commands that operators are given, and what is there after a restore.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::server::Cluster;
use crate::support::temp_dir;

const QUEUE: &str = "q";
const WINDOW: Duration = Duration::from_secs(60);

/// The commands of docs/operating.md that stand below a comment with this name.
fn commands(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let text = fs::read_to_string(file).unwrap();
    let mut blocks = text.split("```sh\n").skip(1);
    let block = blocks.find(|block| block.starts_with(&format!("# {name}\n")));
    let block = block.unwrap_or_else(|| panic!("there are no commands `{name}`"));
    block.split("```").next().unwrap().to_owned()
}

/// Runs them, with the programs of the server that runs, on other places than those they name.
fn run(cluster: &Cluster, name: &str, backup: &Path) {
    let postmaster = cluster.postmaster().unwrap();
    let server = fs::read_link(format!("/proc/{postmaster}/exe")).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let bin = server.parent().unwrap().display();
    let commands = commands(name)
        .replace("/var/lib/towpath", cluster.dir().to_str().unwrap())
        .replace("/srv/backup", backup.to_str().unwrap());
    let output = Command::new("sh")
        .args(["-euc", &commands])
        .env("PATH", format!("{bin}:{}", path.display()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{commands}{told}");
}

/// A node with three messages, one of which was received and one deleted.
async fn original() -> Cluster {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(0);
    client.put_queue(QUEUE).await;
    let bodies = ["one", "two", "three"].map(ToOwned::to_owned);
    client.send(QUEUE, &bodies).await.unwrap();
    let received = client.receive(QUEUE, 5, WINDOW).await.unwrap();
    client.delete(QUEUE, &received[..1]).await.unwrap();
    for message in &received[1..] {
        let handle = &message.receipt_handle;
        let body = serde_json::json!({"messages": [{"receipt_handle": handle}]});
        let path = format!("/v1/queues/{QUEUE}/messages/nack");
        let nacked = client.ask(reqwest::Method::POST, &path, &body).await;
        nacked.unwrap().expect(200);
    }
    cluster
}

/// Everything that was not deleted is there, under the token from before.
async fn is_whole(client: &Client) {
    let mut found = vec![];
    while found.len() < 2 {
        let received = client.receive(QUEUE, 20, WINDOW).await.unwrap();
        assert!(!received.is_empty(), "only {found:?} came");
        client.delete(QUEUE, &received).await.unwrap();
        found.extend(received.into_iter().map(|message| message.receive_count));
    }
    assert_eq!(found, [2, 2]);
    let more = client.receive(QUEUE, 0, WINDOW).await.unwrap();
    assert!(more.is_empty(), "{more:?}");
}

#[tokio::test]
async fn a_dump_is_restored_into_another_database() {
    let (original, backup) = (original().await, temp_dir());
    run(&original, "dump", backup.path());
    run(&original, "restore a dump", backup.path());
    let socket = original.dir().join("pg/run");
    let url = format!(
        "database.url=postgres://towpath@localhost/restored?host={}",
        socket.display()
    );
    let restored = Cluster::start(1, &[&url]).await;
    let client = restored.client(0).with_token(original.client(0).token());
    is_whole(&client).await;
}

#[tokio::test]
async fn a_base_backup_becomes_a_data_directory() {
    let (original, backup) = (original().await, temp_dir());
    run(&original, "base backup", backup.path());
    run(&original, "restore a base backup", backup.path());
    let token = original.client(0).token().to_owned();
    drop(original);
    let restored = Cluster::start_in(backup, 1, &[]).await;
    is_whole(&restored.client(0).with_token(&token)).await;
}

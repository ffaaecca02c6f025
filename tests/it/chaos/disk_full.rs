//! A database without room on its disk: what is answered, and what is there once it has some again. Only
//! root may mount the small disks; for others the tests of `rest::storage` have to do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor as _};

use super::load::LONG;
use crate::support::client::Client;
use crate::support::server::Cluster;
use crate::support::{Answer, eventually, temp_dir};

const QUEUE: &str = "q";

/// More messages than any of the disks has room for.
const MANY: u32 = 400;

/// After so many refusals the disk is taken to be full.
const REFUSALS: usize = 3;

/// A disk of a few megabytes in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path, megabytes: u32) -> Option<Self> {
        let mut command = Command::new("mount");
        let size = format!("size={megabytes}m,mode=755");
        command.args(["-t", "tmpfs", "-o", &size, "towpath-test"]);
        let mounted = command.arg(place).output().ok()?.status.success();
        if !mounted {
            println!("nothing can be mounted here: not tested");
        }
        mounted.then(|| Self(place.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        let _gone = command.arg("--lazy").arg(&self.0).status();
        let _gone = fs::remove_dir(&self.0);
    }
}

/// What became of the messages that were sent, by their numbers.
#[derive(Default)]
struct Sent {
    acknowledged: BTreeSet<u32>,
    /// Those of which it was said that nothing was done.
    refused: BTreeSet<u32>,
    /// The last refusal.
    last: Option<Answer>,
}

impl Sent {
    /// Sends large messages, which do not compress, until some are refused.
    async fn fill(client: &Client) -> Self {
        let (mut sent, mut refusals) = (Self::default(), 0);
        for number in 0..MANY {
            let mut noise = vec![0; 150_000];
            rand::fill(&mut noise[..]);
            let body = format!("{number} {}", STANDARD.encode(noise));
            let body = json!({"messages": [{ "body": body }]});
            let path = format!("/v1/queues/{QUEUE}/messages");
            let answer = client.ask(Method::POST, &path, &body).await.unwrap();
            match answer.status {
                200 => {
                    sent.acknowledged.insert(number);
                }
                503 | 507 => {
                    if answer.body["outcome"] == "none" {
                        sent.refused.insert(number);
                    }
                    println!("{}: {}", answer.status, answer.body);
                    sent.last = Some(answer);
                    refusals += 1;
                    if refusals == REFUSALS {
                        break;
                    }
                }
                _ => panic!("{answer:?}"),
            }
        }
        sent
    }

    /// Whether what was acknowledged is there, and what was refused is not.
    async fn is_kept(&self, client: &Client) {
        client.until_ready().await;
        eventually("there is room again", async || {
            let body = json!({"messages": [{"body": "last"}]});
            let path = format!("/v1/queues/{QUEUE}/messages");
            let answer = client.ask(Method::POST, &path, &body).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        let mut found = BTreeSet::new();
        loop {
            let Ok(messages) = client.receive(QUEUE, 1, LONG).await else {
                continue;
            };
            if messages.is_empty() {
                break;
            }
            let numbers = messages
                .iter()
                .filter_map(|message| message.body.split_once(' '));
            found.extend(numbers.map(|(number, _)| number.parse::<u32>().unwrap()));
        }
        let lost: Vec<_> = self.acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let done: Vec<_> = self.refused.intersection(&found).collect();
        assert!(done.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn a_disk_that_is_full_of_messages_is_answered_by_507_until_there_is_room() {
    let dir = temp_dir();
    let Some(_disk) = SmallDisk::mount(dir.path(), 24) else {
        return;
    };
    let ballast = dir.path().join("ballast");
    File::create(&ballast).unwrap().set_len(0).unwrap();
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let cluster = Cluster::start(1, &[]).await;
    let owner = fs::metadata(cluster.dir().join("pg/data")).unwrap();
    let place = dir.path().join("tables");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    let client = cluster.client(0);
    client.put_queue(QUEUE).await;
    let mut database = cluster.database().connect().await;
    let create = format!("create tablespace small location '{}'", place.display());
    database.execute(AssertSqlSafe(create)).await.unwrap();
    let alter = "alter table towpath.log set tablespace small";
    database.execute(alter).await.unwrap();

    let sent = Sent::fill(&client).await;
    assert!(sent.acknowledged.len() > 5, "{}", sent.acknowledged.len());
    let last = sent.last.as_ref().expect("the disk is full");
    assert_eq!(last.expect_problem(507, "storage_full")["outcome"], "none");
    assert_eq!(last.header("retry-after"), "1");
    assert!(client.is_ready().await);

    fs::remove_file(ballast).unwrap();
    sent.is_kept(&client).await;
}

#[tokio::test]
async fn a_disk_that_is_full_of_wal_loses_nothing_that_was_acknowledged() {
    let dir = temp_dir();
    let place = dir.path().to_owned();
    let Some(_disk) = SmallDisk::mount(&place, 160) else {
        return;
    };
    let cluster = Cluster::start_in(dir, 1, &[]).await;
    let ballast = place.join("ballast");
    fs::write(&ballast, vec![1; 48 << 20]).unwrap();
    let client = cluster.client(0);
    client.put_queue(QUEUE).await;
    let sent = Sent::fill(&client).await;
    assert!(sent.acknowledged.len() > 5, "{}", sent.acknowledged.len());
    let last = sent.last.as_ref().expect("the disk is full");
    assert!([503, 507].contains(&last.status), "{last:?}");

    fs::remove_file(ballast).unwrap();
    sent.is_kept(&client).await;
}

//! Nodes behind nginx, with the configuration that operators are given.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use towpath::domain::limits::MAX_BODY_BYTES;

use super::load::LONG;
use super::rolling::free_address;
use crate::support::client::Client;
use crate::support::server::Cluster;
use crate::support::{eventually, temp_dir};

const QUEUE: &str = "q";

struct Nginx {
    process: Child,
    _dir: TempDir,
}

impl Nginx {
    fn start(front: SocketAddr, nodes: &[SocketAddr]) -> Self {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/nginx.conf");
        let mut text = fs::read_to_string(ours).unwrap();
        let places = ["9324", "9325", "9326", "9327"].map(|port| format!("127.0.0.1:{port}"));
        let addresses = [front].into_iter().chain(nodes.iter().copied());
        for (place, address) in places.iter().zip(addresses) {
            assert_eq!(text.matches(place).count(), 1, "{place}");
            text = text.replace(place, &address.to_string());
        }
        // Where it was told to put them when it was built is root's.
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders = folders.map(|name| format!("    {name}_temp_path {name};\n"));
        text = text.replace("http {\n", &format!("http {{\n{}", folders.concat()));
        let dir = temp_dir();
        let file = dir.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let pid = format!("daemon off; pid {};", dir.path().join("pid").display());
        // Where Debian keeps it is on root's path only.
        let process = ["nginx", "/usr/sbin/nginx"]
            .into_iter()
            .find_map(|program| {
                let mut command = Command::new(program);
                command.args(["-e", "stderr", "-g", &pid, "-p"]);
                command.arg(dir.path()).arg("-c").arg(&file);
                command.stdin(Stdio::null()).spawn().ok()
            });
        Self {
            process: process.expect("nginx is not installed: apt-get install nginx-light"),
            _dir: dir,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it, which a kill would not do.
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _gone = self.process.wait();
    }
}

#[tokio::test]
async fn large_messages_and_waiting_receives_pass_through_nginx_and_a_dead_node_costs_nothing() {
    let mut cluster = Cluster::start(0, &[]).await;
    let nodes: Vec<_> = std::iter::repeat_with(free_address).take(3).collect();
    for node in &nodes {
        let listen = format!("server.listen={node}");
        cluster.add_node(&[&listen]).await;
    }
    let front = free_address();
    let _nginx = Nginx::start(front, &nodes);
    let client = Client::new(Arc::new(Mutex::new(Some(front))), cluster.client(0).token());
    client.until_ready().await;
    client.put_queue(QUEUE).await;

    let large = ["x".repeat(MAX_BODY_BYTES), "y".repeat(MAX_BODY_BYTES)];
    let sent = client.send(QUEUE, &large).await.unwrap();
    let mut received = client.receive(QUEUE, 10, LONG).await.unwrap();
    while received.len() < sent.len() {
        received.extend(client.receive(QUEUE, 10, LONG).await.unwrap());
    }
    assert!(
        large
            .iter()
            .all(|body| received.iter().any(|message| message.body == *body))
    );
    client.delete(QUEUE, &received).await.unwrap();

    let waiting = client.another();
    let waiting = tokio_util::task::TaskTracker::new()
        .spawn(async move { waiting.receive(QUEUE, 20, LONG).await });
    client.send(QUEUE, &["hello".to_owned()]).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap()[0].body, "hello");

    cluster.nodes[1].kill();
    // What is asked for by GET is asked of another node; thereby nginx notices.
    for _request in 0..10 {
        assert!(client.is_ready().await);
    }
    for number in 0..30 {
        client.send(QUEUE, &[number.to_string()]).await.unwrap();
    }
    eventually("all of them are received", async || {
        let received = client.receive(QUEUE, 0, LONG).await.unwrap();
        received.is_empty().then_some(())
    })
    .await;
}

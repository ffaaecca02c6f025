//! Nodes and the database are killed under load.

use std::time::Duration;

use tokio::task::JoinSet;

use super::history::{Send, Violation, check};
use super::load::{self, Notes, Progress, QUEUE, Run};
use crate::support::server::Cluster;

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A node is killed and started again.
    Node(usize),
    /// The database is killed; the nodes bring it back.
    Database,
    /// Both at once.
    All(usize),
}

async fn strike(cluster: &mut Cluster, fault: Fault) {
    match fault {
        Fault::Node(_) => {}
        Fault::Database | Fault::All(_) => cluster.kill_database().await,
    }
    match fault {
        Fault::Database => {}
        Fault::Node(node) | Fault::All(node) => {
            cluster.nodes[node].kill();
            cluster.nodes[node].start().await;
        }
    }
}

/// Faults one after the other, spread over the run, each once sends go on after the last.
async fn strike_all(cluster: &mut Cluster, progress: &Progress, faults: &[Fault]) {
    let step = progress.goal / (faults.len() + 1);
    for (fault, number) in faults.iter().zip(1..) {
        progress.reaches(step * number).await;
        strike(cluster, *fault).await;
    }
    progress.reaches(progress.goal).await;
}

fn start_senders(
    cluster: &Cluster,
    run: &Run,
    progress: &Progress,
    batches: &[usize],
) -> JoinSet<Vec<Send>> {
    let mut senders = JoinSet::new();
    for (sender, batch) in (0..).zip(batches) {
        let client = cluster.client(usize::from(sender) % 2);
        let (run, progress) = (run.clone(), progress.clone());
        senders.spawn(load::send(client, run, sender, *batch, progress));
    }
    senders
}

#[tokio::test]
async fn ten_thousand_sends_survive_kills_of_nodes_and_database_each_exactly_once() {
    let mut cluster = Cluster::start(2, &[]).await;
    cluster.client(0).put_queue(QUEUE).await;
    let (run, progress) = (Run::new(), Progress::to(10_000));
    let senders = start_senders(&cluster, &run, &progress, &[1, 1, 1, 1, 3, 10, 10, 10]);
    let faults = [
        Fault::Node(0),
        Fault::Database,
        Fault::Node(1),
        Fault::All(0),
        Fault::Database,
        Fault::All(1),
    ];
    strike_all(&mut cluster, &progress, &faults).await;
    let sends = senders.join_all().await;

    let drained = load::now();
    let drain = load::drain(&cluster.client(1), &run).await;
    let received = drain.deliveries.len();
    assert!(received >= 10_000, "{received}");
    assert!(
        drain
            .deliveries
            .iter()
            .all(|delivery| delivery.receive_count == 1)
    );
    let history = load::history(sends, Notes::default(), drained, drain);
    assert_eq!(check(&history), [] as [Violation; 0]);
}

#[tokio::test]
async fn receivers_see_no_loss_no_second_holder_and_nothing_deleted_through_kills() {
    const WINDOW: Duration = Duration::from_secs(1);
    let mut cluster = Cluster::start(2, &[]).await;
    cluster.client(0).put_queue(QUEUE).await;
    let (run, progress) = (Run::new(), Progress::to(3_000));
    let senders = start_senders(&cluster, &run, &progress, &[1, 1, 5]);
    let mut consumers = JoinSet::new();
    for consumer in 0..4 {
        let client = cluster.client(consumer % 2);
        let (run, progress) = (run.clone(), progress.clone());
        consumers.spawn(load::consume(client, run, WINDOW, progress));
    }
    let faults = [
        Fault::Node(0),
        Fault::Database,
        Fault::Node(1),
        Fault::All(0),
        Fault::Database,
    ];
    strike_all(&mut cluster, &progress, &faults).await;
    let (sends, notes) = (senders.join_all().await, consumers.join_all().await);

    load::windows_have_ended(&cluster.database()).await;
    let drained = load::now();
    let drain = load::drain(&cluster.client(0), &run).await;
    let history = load::history(sends, Notes::of(notes), drained, drain);
    let again = history.deliveries.iter();
    let again = again.filter(|delivery| delivery.receive_count > 1).count();
    let deletes = history.deletes.len();
    assert!(
        again > 100 && deletes > 100,
        "{again} redeliveries, {deletes} deletes"
    );
    assert_eq!(check(&history), [] as [Violation; 0]);
}

//! What a node hears of others, and that it notices when it cannot hear.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use towpath::store::{Failure, News, Store};
use uuid::Uuid;

use crate::support::database::{Database, STATEMENT_TIMEOUT};
use crate::support::node;

const QUIET: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(2);

/// A way to a database that can fall silent: nothing goes through any more, and nobody is told.
struct Way {
    address: SocketAddr,
    /// Of the connections that are open.
    silent: Arc<Mutex<CancellationToken>>,
}

impl Way {
    async fn to(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            silent: Arc::default(),
        };
        let (silent, to) = (Arc::clone(&way.silent), database.options.clone());
        let tasks = TaskTracker::new();
        tasks.clone().spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let silent = silent.lock().unwrap().clone();
                if let Some(directory) = to.get_socket() {
                    let socket = directory.join(format!(".s.PGSQL.{}", to.get_port()));
                    let server = UnixStream::connect(socket).await.unwrap();
                    tasks.spawn(pass(client, server, silent));
                } else {
                    let server = TcpStream::connect((to.get_host(), to.get_port()));
                    tasks.spawn(pass(client, server.await.unwrap(), silent));
                }
            }
        });
        way
    }

    fn options(&self, database: &Database) -> PgConnectOptions {
        let direct = &database.options;
        let options = if direct.get_socket().is_some() {
            PgConnectOptions::new_without_pgpass()
                .username(direct.get_username())
                .database(direct.get_database().unwrap())
                .ssl_mode(PgSslMode::Disable)
        } else {
            direct.clone()
        };
        options.host("127.0.0.1").port(self.address.port())
    }

    fn fall_silent(&self) {
        let open = std::mem::take(&mut *self.silent.lock().unwrap());
        open.cancel();
    }
}

async fn pass(
    mut client: TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    silent: CancellationToken,
) {
    let passing = copy_bidirectional(&mut client, &mut server);
    if silent.run_until_cancelled(passing).await.is_none() {
        // Both ends stay open.
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_connection_that_fell_silent_is_not_listened_to_for_ever() {
    let database = Database::new().await;
    let way = Way::to(&database).await;
    let options = way.options(&database);
    let store = Store::new(options, 1, STATEMENT_TIMEOUT, STATEMENT_TIMEOUT);
    let [this, other] = [Uuid::new_v4(), Uuid::new_v4()];
    let mut listener = store.listen(this, QUIET, DEADLINE).await.unwrap();
    let quiet = timeout(QUIET * 5, listener.next()).await;
    assert!(
        quiet.is_err(),
        "nothing is said, and nothing is wrong: {quiet:?}"
    );
    let speaker = node::store(&database);
    speaker.notify_queues(other).await.unwrap();
    assert_eq!(listener.next().await.unwrap(), News::Queues);

    way.fall_silent();
    speaker.notify_queues(other).await.unwrap();
    let lost = timeout(DEADLINE * 5, listener.next()).await;
    let lost = lost.expect("it is noticed");
    assert!(matches!(lost, Err(Failure::Unreachable(_))), "{lost:?}");
    let mut again = store.listen(this, QUIET, DEADLINE).await.unwrap();
    speaker.notify_queues(other).await.unwrap();
    assert_eq!(again.next().await.unwrap(), News::Queues);
}

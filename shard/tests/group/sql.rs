//! SQL connections: through a node's gate, and past it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shard::client::{ConnectError, Groups};
use shard::id::GroupId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{AsyncMessage, Client, NoTls};

pub(crate) const GROUP: GroupId = GroupId(1);

/// For whatever must happen, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A session with the group's leader.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// What PostgreSQL said beside its answers.
    pub(crate) notices: Arc<Mutex<Vec<String>>>,
}

impl Session {
    /// Through the gate of the leader that `groups` reaches.
    pub(crate) async fn open(groups: &dyn Groups, patience: Duration) -> Result<Session, ConnectError> {
        let backend = groups.connect(GROUP, patience).await?;
        let mut config = tokio_postgres::Config::new();
        config.user("postgres").dbname("postgres");
        let (client, mut connection) = config
            .connect_raw(backend, NoTls)
            .await
            .expect("the gate was open");
        let notices = Arc::new(Mutex::new(Vec::new()));
        let heard = notices.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = futures::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message {
                    heard.lock().push(notice.message().to_owned());
                }
            }
        });
        Ok(Session { client, notices })
    }

    pub(crate) async fn run(&self, sql: &str) {
        within(self.client.batch_execute(sql)).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        number(&self.client, sql).await.unwrap()
    }

    /// Process id and secret key of the backend.
    pub(crate) async fn cancel_key(&self) -> (i32, i32) {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let token = self.client.cancel_token();
        let sending = tokio::spawn(async move { token.cancel_query_raw(theirs, NoTls).await });
        let mut request = [0; 16];
        ours.read_exact(&mut request).await.unwrap();
        drop(ours.shutdown().await);
        sending.await.unwrap().unwrap();
        let field = |at: usize| i32::from_be_bytes(request[at..at + 4].try_into().unwrap());
        (field(8), field(12))
    }
}

/// A connection to a PostgreSQL on its private socket, past the gate.
pub(crate) async fn direct(socket_dir: &Path) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(socket_dir)
        .port(5432)
        .user("postgres")
        .dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) async fn number(client: &Client, sql: &str) -> Result<i64, tokio_postgres::Error> {
    within(client.query_one(sql, &[])).await?.try_get(0)
}

/// What must end in time, one way or the other.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it must not hang")
}

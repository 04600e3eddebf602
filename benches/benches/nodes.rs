//! What it costs that nodes talk within TLS: a question and its answer, a new connection, and bytes on their way:
//! `cargo bench -p benches --bench nodes`.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::FutureExt;
use futures::future::BoxFuture;
use shard::config::{Config, LogConfig, PostgresConfig, Timing};
use shard::id::{GroupId, NodeId};
use shard::tls::{Authority, Files, NodeTls, Stream, node_name};
use shard::transport::{Handlers, Refusal, StreamHandler, StreamPurpose, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const GROUP: GroupId = GroupId(1);
const SOON: Duration = Duration::from_secs(10);
/// A large piece of WAL.
const PIECE: usize = 1 << 20;

/// Answers questions with themselves, and each [`PIECE`] of a stream with a byte.
struct Answers;

impl Handlers for Answers {
    fn stream(
        &self,
        _: GroupId,
        _: StreamPurpose,
        _: NodeId,
    ) -> BoxFuture<'_, Result<StreamHandler, Refusal>> {
        let handler: StreamHandler = Box::new(|mut stream: Stream| {
            async move {
                let mut piece = vec![0; PIECE];
                while stream.read_exact(&mut piece).await.is_ok() {
                    let answered = async {
                        stream.write_all(&piece[..1]).await?;
                        stream.flush().await
                    };
                    if answered.await.is_err() {
                        return;
                    }
                }
            }
            .boxed()
        });
        async move { Ok(handler) }.boxed()
    }

    fn call(&self, _: NodeId, body: Bytes) -> BoxFuture<'_, Bytes> {
        async move { body }.boxed()
    }
}

fn certificate(folder: &std::path::Path, authority: &Authority, node: NodeId) -> NodeTls {
    let issued = authority.issue("bench", node, []).expect("a certificate");
    let path = |end: &str| folder.join(format!("{}.{end}", node_name("bench", node)));
    let files = Files {
        ca: folder.join("ca.crt"),
        certificate: path("crt"),
        key: path("key"),
    };
    std::fs::write(&files.certificate, issued.certificate).expect("it can be written");
    std::fs::write(&files.key, issued.key).expect("it can be written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&files.key, private).expect("permissions");
    NodeTls::load(&files, "bench", Some(node)).expect("a good certificate")
}

/// Two nodes; the second one asks the first.
async fn pair(certificates: [Option<NodeTls>; 2]) -> [Transport; 2] {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [listen().await, listen().await].map(|bound| bound.expect("a free port"));
    let nodes = [1, 2].map(NodeId);
    let addresses = listeners
        .each_ref()
        .map(|listener| listener.local_addr().expect("an address"));
    let mut parts = nodes.into_iter().zip(listeners).zip(certificates);
    [(); 2].map(|()| {
        let ((node, listener), tls) = parts.next().expect("there are two");
        let config = Config {
            node,
            cluster: "bench".into(),
            secret: "a secret of enough bytes".into(),
            tls,
            data_dir: "/nowhere".into(),
            nodes: nodes.into_iter().zip(addresses).collect(),
            groups: [(GROUP, nodes.to_vec())].into(),
            postgres: PostgresConfig::default(),
            timing: Timing::default(),
            log: LogConfig::default(),
        };
        Transport::serve(&config, listener, Arc::new(Answers))
    })
}

fn nodes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let (authority, own) = Authority::create("bench").expect("an authority");
    std::fs::write(folder.path().join("ca.crt"), own.certificate).expect("it can be written");
    let tls = [1, 2].map(|node| Some(certificate(folder.path(), &authority, NodeId(node))));
    for (name, certificates) in [("clear", [None, None]), ("tls", tls)] {
        let [_one, two] = runtime.block_on(pair(certificates));
        let mut group = criterion.benchmark_group("nodes");
        for size in [100, 8 << 10] {
            let body = Bytes::from(vec![7; size]);
            group.bench_function(
                BenchmarkId::new(format!("question, {size} bytes"), name),
                |bencher| {
                    bencher.to_async(&runtime).iter(|| async {
                        let answer = two.call(NodeId(1), body.clone(), SOON).await;
                        black_box(answer.expect("an answer"));
                    });
                },
            );
        }
        group.bench_function(BenchmarkId::new("connection", name), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let stream = two.open_stream(NodeId(1), GROUP, StreamPurpose::Sql, SOON).await;
                black_box(stream.expect("a stream"));
            });
        });
        let opened = two.open_stream(NodeId(1), GROUP, StreamPurpose::Sql, SOON);
        let stream = runtime.block_on(opened).expect("a stream");
        let stream = tokio::sync::Mutex::new(stream);
        let piece = vec![7; PIECE];
        group.throughput(Throughput::Bytes(PIECE as u64));
        group.bench_function(BenchmarkId::new("1 MiB", name), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let mut stream = stream.lock().await;
                stream.write_all(&piece).await.expect("it is written");
                stream.flush().await.expect("it is sent");
                black_box(stream.read_u8().await.expect("an answer"));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, nodes);
criterion_main!(benches);

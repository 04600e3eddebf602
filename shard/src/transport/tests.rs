//! The port against friends, strangers and noise. Real sockets.

mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::handshake::{Hello, Purpose, greet};
use super::*;
use crate::config::{LogConfig, PostgresConfig, Timing};

const SECRET: &str = "the secret of the tests";
const GROUP: GroupId = GroupId(1);
const SOON: Duration = Duration::from_secs(10);

/// Streams to group 1 echo; calls are answered with the caller and the question.
#[derive(Default)]
struct Echo {
    heard: parking_lot::Mutex<Vec<Bytes>>,
}

impl Handlers for Echo {
    fn stream(
        &self,
        group: GroupId,
        purpose: StreamPurpose,
        _: NodeId,
    ) -> BoxFuture<'_, Result<StreamHandler, Refusal>> {
        let hint = Some(NodeId(2));
        async move {
            match (group, purpose) {
                (GROUP, StreamPurpose::Sql) => Ok(Box::new(|stream: Stream| {
                    async move {
                        let (mut read, mut write) = tokio::io::split(stream);
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                    .boxed()
                }) as StreamHandler),
                (GROUP, StreamPurpose::Replication) => Err(Refusal::NotLeader { hint }),
                _ => Err(Refusal::UnknownGroup),
            }
        }
        .boxed()
    }

    fn call(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Bytes> {
        self.heard.lock().push(body.clone());
        async move { format!("{from}: {}", String::from_utf8_lossy(&body)).into() }.boxed()
    }
}

/// Answers an append after `delay` bytes' worth of milliseconds, in the order of arrival at least.
struct Slow {
    arrived: Arc<parking_lot::Mutex<Vec<u8>>>,
}

impl RaftEndpoint for Slow {
    fn receive(&self, _: NodeId, kind: Kind, body: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let arrived = Arc::clone(&self.arrived);
        async move {
            arrived.lock().push(body[0]);
            // The first to arrive are the last to be answered.
            tokio::time::sleep(Duration::from_millis(u64::from(20 - body[0]))).await;
            (kind == Kind::Append).then_some(body)
        }
        .boxed()
    }
}

/// Enters a queue, as openraft's is entered, and answers.
struct Queued(mpsc::Sender<Bytes>);

impl RaftEndpoint for Queued {
    fn receive(&self, _: NodeId, _: Kind, body: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let queue = self.0.clone();
        async move { queue.send(body.clone()).await.ok().map(|()| body) }.boxed()
    }
}

struct Net {
    one: Transport,
    two: Transport,
    /// Behind `one`.
    echo: Arc<Echo>,
    address: SocketAddr,
    config: Config,
}

async fn net() -> Net {
    net_with([None, None]).await
}

/// What the two nodes have of TLS.
async fn net_with(tls: [Option<NodeTls>; 2]) -> Net {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = first.local_addr().unwrap();
    let config = |node, tls| Config {
        node,
        cluster: "test".into(),
        secret: SECRET.into(),
        tls,
        data_dir: "/nowhere".into(),
        nodes: [(NodeId(1), address), (NodeId(2), second.local_addr().unwrap())].into(),
        groups: [(GROUP, vec![NodeId(1), NodeId(2)])].into(),
        postgres: PostgresConfig::default(),
        timing: Timing::default(),
        log: LogConfig::default(),
    };
    let [mine, theirs] = tls;
    let (mine, theirs) = (config(NodeId(1), mine), config(NodeId(2), theirs));
    let echo = Arc::new(Echo::default());
    Net {
        one: Transport::serve(&mine, first, echo.clone()),
        two: Transport::serve(&theirs, second, Arc::new(Echo::default())),
        echo,
        address,
        config: theirs,
    }
}

fn hello(from: u64, purpose: Purpose) -> Hello {
    Hello {
        cluster: "test".into(),
        from: NodeId(from),
        to: Some(NodeId(1)),
        purpose,
    }
}

fn credentials(secret: &str, tls: Option<NodeTls>) -> Credentials {
    Credentials {
        cluster: "test".into(),
        secret: secret.into(),
        tls,
    }
}

async fn knock(net: &Net, secret: &str, hello: &Hello) -> Result<Stream, HandshakeError> {
    let stream = TcpStream::connect(net.address).await.unwrap();
    greet(stream, &credentials(secret, None), hello).await
}

/// The connection is closed by the other end, whatever it says before.
async fn closes(mut stream: impl AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    let _ = closed.expect("the connection must be closed");
}

#[tokio::test]
async fn streams_and_calls_reach_the_other_node() {
    let net = net().await;
    let mut stream = net
        .two
        .open_stream(NodeId(1), GROUP, StreamPurpose::Sql, SOON)
        .await
        .unwrap();
    stream.write_all(b"select 1").await.unwrap();
    let mut echo = [0; 8];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"select 1");

    let refused = net
        .two
        .open_stream(NodeId(1), GROUP, StreamPurpose::Replication, SOON)
        .await;
    let hint = Some(NodeId(2));
    assert!(matches!(refused, Err(StreamError::Refused(Refusal::NotLeader { hint: h })) if h == hint));
    let refused = net
        .two
        .open_stream(NodeId(1), GroupId(9), StreamPurpose::Sql, SOON)
        .await;
    assert!(matches!(
        refused,
        Err(StreamError::Refused(Refusal::UnknownGroup))
    ));
    let unknown = net
        .two
        .open_stream(NodeId(9), GROUP, StreamPurpose::Sql, SOON)
        .await;
    assert!(matches!(unknown, Err(StreamError::UnknownNode(NodeId(9)))));

    let answer = net
        .one
        .call(NodeId(2), Bytes::from_static(b"status"), SOON)
        .await
        .unwrap();
    assert_eq!(&answer[..], b"1: status");
    let answer = call_as_client(
        net.address,
        NodeId(1),
        &credentials(SECRET, None),
        Bytes::from_static(b"hi"),
        SOON,
    )
    .await
    .unwrap();
    assert_eq!(&answer[..], b"0: hi");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_question() {
    let net = net().await;
    net.two.call(NodeId(1), Bytes::new(), SOON).await.unwrap();
    let first = net.two.kept.addresses(NodeId(1));
    assert_eq!(first.len(), 1);
    net.two.call(NodeId(1), Bytes::new(), SOON).await.unwrap();
    assert_eq!(net.two.kept.addresses(NodeId(1)), first);
    // Two at a time take two.
    let both = [(); 2].map(|()| net.two.call(NodeId(1), Bytes::new(), SOON));
    futures::future::try_join_all(both).await.unwrap();
    assert_eq!(net.two.kept.addresses(NodeId(1)).len(), 2);
    // One that the other end has closed is not used.
    net.one.shutdown();
    while !net.two.kept.addresses(NodeId(1)).is_empty() {
        let answer = net
            .two
            .call(NodeId(1), Bytes::new(), Duration::from_millis(300))
            .await;
        assert!(answer.is_err(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_question_whose_asker_is_gone_is_not_answered() {
    let net = net().await;
    let question = |words: &'static [u8]| {
        let length = u32::try_from(words.len()).unwrap();
        [
            &length.to_be_bytes()[..],
            &crc32c::crc32c(words).to_be_bytes(),
            words,
        ]
        .concat()
    };
    let mut call = knock(&net, SECRET, &hello(2, Purpose::Call)).await.unwrap();
    call.write_all(&question(b"early")).await.unwrap();
    call.read_exact(&mut [0; 16]).await.unwrap();
    // Nothing else runs between these two, as if the node slept.
    call.tcp().try_write(&question(b"late")).unwrap();
    drop(call);
    net.two
        .call(NodeId(1), Bytes::from_static(b"next"), SOON)
        .await
        .unwrap();
    assert_eq!(
        *net.echo.heard.lock(),
        [Bytes::from_static(b"early"), Bytes::from_static(b"next")]
    );
}

/// Tokio makes a task wait that has done much without a pause; no request may enter the queue after the one behind it for that.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_enter_a_queue_in_order() {
    const MANY: u32 = 20_000;
    let net = net().await;
    let (queue, mut queued) = mpsc::channel(MANY as usize);
    net.one.register(GROUP, Arc::new(Queued(queue)));
    let ask = |number: u32| {
        let body = vec![Bytes::from(number.to_be_bytes().to_vec())];
        net.two.request(NodeId(1), Lane::Bulk, Kind::Append, GROUP, body)
    };
    // The connection is made in the background.
    while let Err(RequestError::NotConnected) = ask(0).await.await.unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    queued.recv().await.unwrap();
    let mut answers = Vec::new();
    for number in 0..MANY {
        answers.push(ask(number).await);
    }
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    let mut order = Vec::new();
    queued.recv_many(&mut order, MANY as usize).await;
    let sorted = (0..MANY).map(|number| Bytes::from(number.to_be_bytes().to_vec()));
    assert!(order.into_iter().eq(sorted));
}

#[tokio::test]
async fn requests_arrive_in_order_and_are_answered_as_they_finish() {
    let net = net().await;
    let arrived = Arc::default();
    net.one.register(
        GROUP,
        Arc::new(Slow {
            arrived: Arc::clone(&arrived),
        }),
    );
    let ask = |kind, byte| {
        net.two
            .request(NodeId(1), Lane::Bulk, kind, GROUP, vec![Bytes::from(vec![byte])])
    };
    // The connection is made in the background.
    while let Err(RequestError::NotConnected) = ask(Kind::Append, 0).await.await.unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    arrived.lock().clear();
    let mut answers = Vec::new();
    for byte in 0..20 {
        answers.push(ask(Kind::Append, byte).await);
    }
    for (byte, answer) in (0..).zip(answers) {
        assert_eq!(answer.await.unwrap().unwrap()[0], byte);
    }
    assert_eq!(*arrived.lock(), (0..20).collect::<Vec<u8>>());
    assert_eq!(
        ask(Kind::Vote, 20).await.await.unwrap(),
        Err(RequestError::Refused)
    );
    net.one.unregister(GROUP);
    assert_eq!(
        ask(Kind::Append, 1).await.await.unwrap(),
        Err(RequestError::Refused)
    );
    net.one.shutdown();
    let lost = ask(Kind::Append, 1).await.await.unwrap().unwrap_err();
    assert!(
        matches!(lost, RequestError::Lost | RequestError::NotConnected),
        "{lost:?}"
    );
}

#[tokio::test]
async fn peers_that_do_not_belong_here_are_refused() {
    let net = net().await;
    let wrong_secret = knock(&net, "another secret, also long", &hello(2, Purpose::Call)).await;
    assert!(
        matches!(wrong_secret, Err(HandshakeError::WrongSecret)),
        "{wrong_secret:?}"
    );
    let mut other = hello(2, Purpose::Call);
    other.cluster = "production".into();
    assert!(matches!(
        knock(&net, SECRET, &other).await,
        Err(HandshakeError::OtherCluster)
    ));
    let mut other = hello(2, Purpose::Call);
    other.to = Some(NodeId(2));
    assert!(matches!(
        knock(&net, SECRET, &other).await,
        Err(HandshakeError::OtherNode)
    ));
    for purpose in [Purpose::Raft, Purpose::Stream(GROUP, StreamPurpose::Sql)] {
        for stranger in [0, 7] {
            let refused = knock(&net, SECRET, &hello(stranger, purpose)).await;
            assert!(
                matches!(refused, Err(HandshakeError::UnknownNode)),
                "{stranger} {purpose:?}"
            );
        }
    }
    let mut nameless = hello(0, Purpose::Call);
    nameless.to = None;
    knock(&net, SECRET, &nameless).await.unwrap();
}

#[tokio::test]
async fn server_without_the_secret_is_refused_by_its_client() {
    let net = net().await;
    let impostor = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = impostor.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = impostor.accept().await.unwrap();
        let mut greeting = vec![0; 42];
        stream.read_exact(&mut greeting).await.unwrap();
        stream.write_all(&greeting).await.unwrap();
        let mut proof = vec![0; 256];
        let _ = stream.read(&mut proof).await.unwrap();
        // Accepts anyone, and sends the client's own words back for a proof.
        proof[0] = 1;
        stream.write_all(&proof[..33]).await.unwrap();
    });
    let mut config = net.config.clone();
    config.nodes.insert(NodeId(1), address);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    config.groups.clear();
    let two = Transport::serve(&config, listener, Arc::new(Echo::default()));
    let answer = two.call(NodeId(1), Bytes::new(), SOON).await;
    // The transport's own Raft connection may have met the impostor first; then nobody listens.
    assert!(
        matches!(answer, Err(CallError::Handshake(_) | CallError::Io(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn noise_ends_its_own_connection_only() {
    let net = net().await;
    let mut stream = net
        .two
        .open_stream(NodeId(1), GROUP, StreamPurpose::Sql, SOON)
        .await
        .unwrap();
    let noises: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0, 0, 0, 8, 4, 210, 22, 47],
        &[0xff; 4096],
        b"HWDHNODE\x00\x09aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        &[&b"HWDHNODE\x00\x01"[..], &[7; 32], &[0xff, 0xff], &[7; 64]].concat(),
        &[&b"HWDHNODE\x00\x01"[..], &[7; 32], &[0, 4], &[7; 64]].concat(),
    ];
    for noise in noises {
        let mut raw = TcpStream::connect(net.address).await.unwrap();
        raw.write_all(noise).await.unwrap();
        closes(raw).await;
    }
    // Members whose bytes are damaged after a good handshake.
    let mut raft = knock(&net, SECRET, &hello(2, Purpose::Raft)).await.unwrap();
    raft.write_all(&[&u32::MAX.to_be_bytes()[..], &[0; 64]].concat())
        .await
        .unwrap();
    closes(raft).await;
    let mut raft = knock(&net, SECRET, &hello(2, Purpose::Raft)).await.unwrap();
    raft.write_all(&[&20u32.to_be_bytes()[..], &[1; 64]].concat())
        .await
        .unwrap();
    closes(raft).await;
    let mut call = knock(&net, SECRET, &hello(2, Purpose::Call)).await.unwrap();
    call.write_all(&u64::MAX.to_be_bytes()).await.unwrap();
    closes(call).await;

    stream.write_all(b"alive").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"alive");
}

#[tokio::test]
async fn silent_connections_are_closed_in_time() {
    let net = net().await;
    let mute = TcpStream::connect(net.address).await.unwrap();
    let mut half = TcpStream::connect(net.address).await.unwrap();
    half.write_all(b"HWDH").await.unwrap();
    let begun = tokio::time::Instant::now();
    closes(mute).await;
    closes(half).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // Far more strangers than may be in their handshake at once: those who know the secret still come in.
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(net.address).await.unwrap());
    }
    let credentials = credentials(SECRET, None);
    let answer = call_as_client(net.address, NodeId(1), &credentials, Bytes::new(), SOON).await;
    assert!(answer.is_ok(), "{answer:?}");
}

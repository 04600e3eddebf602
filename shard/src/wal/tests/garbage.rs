//! Bytes that are not the protocol, on either side, and clients that are no walreceiver.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::log::{ALL, MemoryLog};
use super::{PATIENCE, VERSION};
use crate::wal::frame::{Frame, FrameReader, put_frame, put_str};
use crate::wal::message::{
    Positions, Reply, StreamMessage, parse_error, parse_row, parse_standby_message, parse_stream_message,
    put_status,
};
use crate::wal::{
    Lsn, RebuildReason, Receiver, SEGMENT_SIZE, Sender, SenderError, StandbyStatus, TimelineId,
};

const START: Lsn = Lsn(SEGMENT_SIZE);

/// A sender of a log with `bytes` committed bytes, which may cut anywhere, and what it reports.
fn sender(bytes: usize) -> (MemoryLog, Sender<MemoryLog>, watch::Receiver<StandbyStatus>) {
    let log = MemoryLog::new("7", START);
    log.allow(ALL);
    log.put(&vec![1; bytes]);
    let status = watch::Sender::new(StandbyStatus::default());
    let seen = status.subscribe();
    (
        log.clone(),
        Sender::new(log, VERSION, status).cutting_anywhere(),
        seen,
    )
}

/// A client by hand.
struct Client {
    reader: FrameReader<tokio::io::ReadHalf<DuplexStream>>,
    writer: tokio::io::WriteHalf<DuplexStream>,
    serving: JoinHandle<Result<(), SenderError>>,
}

impl Client {
    fn connect(sender: &Sender<MemoryLog>) -> Client {
        let (ours, theirs) = duplex(1 << 16);
        let sender = sender.clone();
        let serving = tokio::spawn(async move { sender.serve(theirs).await });
        let (reader, writer) = tokio::io::split(ours);
        let reader = FrameReader::new(reader, 1 << 20, 1 << 16);
        Client {
            reader,
            writer,
            serving,
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The server may have closed the connection already; the test sees that by its answer.
        let _ = self.writer.write_all(bytes).await;
    }

    async fn log_in(&mut self) {
        self.send(&startup("user\0postgres\0replication\0true\0\0")).await;
        self.until(b'Z').await;
    }

    async fn query(&mut self, text: &str) {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'Q', |out| put_str(out, text));
        self.send(&out).await;
    }

    async fn until(&mut self, tag: u8) -> Frame {
        loop {
            let frame = self.reader.read().await.unwrap();
            if frame.tag == tag {
                return frame;
            }
        }
    }

    async fn stream(&mut self) -> StreamMessage {
        parse_stream_message(self.until(b'd').await.body).unwrap()
    }

    /// What `serve` answered; the connection is closed first.
    async fn ended(self) -> Result<(), SenderError> {
        drop((self.reader, self.writer));
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .unwrap()
            .unwrap()
    }
}

fn startup(options: &str) -> Vec<u8> {
    let mut packet = u32::try_from(options.len() + 8).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&[0, 3, 0, 0]);
    packet.extend_from_slice(options.as_bytes());
    packet
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let (log, sender, status) = sender(1000);
    let mut good = Client::connect(&sender);
    good.log_in().await;
    good.query(&format!("START_REPLICATION {START} TIMELINE 1")).await;
    assert!(matches!(
        good.stream().await,
        StreamMessage::XLogData { start: START, .. }
    ));

    let bad: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0xff; 100],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0, 0, 0, 4],
        vec![0, 0, 0, 8, 0, 2, 0, 0],
        startup("user\0x\0\0"),
        startup("replication"),
        startup("replication\0database\0\0"),
        80_877_103_u32.to_be_bytes().to_vec(),
    ];
    for bytes in bad {
        let mut client = Client::connect(&sender);
        client.send(&bytes).await;
        assert!(client.ended().await.is_err() || bytes.is_empty(), "{bytes:?}");
    }
    let after_startup: [&[u8]; 5] = [
        &[b'Q', 0, 0, 0, 3],
        &[b'Q', 0xff, 0xff, 0xff, 0xff],
        &[b'Q', 0, 0, 0, 10, b'x'],
        &[b'Q', 0, 0, 0, 5, b'x'],
        &[b'?', 0, 0, 0, 4],
    ];
    for bytes in after_startup {
        let mut client = Client::connect(&sender);
        client.log_in().await;
        client.send(bytes).await;
        assert!(client.ended().await.is_err(), "{bytes:?}");
    }
    let mut random = StdRng::seed_from_u64(9);
    for _ in 0..200 {
        let mut bytes = vec![0; random.random_range(1..300)];
        random.fill(&mut bytes[..]);
        let mut client = Client::connect(&sender);
        if random.random() {
            client.log_in().await;
        }
        client.send(&bytes).await;
        let _ = client.ended().await;
    }

    assert!(status.borrow().connected);
    log.put(&[2; 10]);
    let next = StreamMessage::XLogData {
        start: START + 1000,
        bytes: Bytes::from_static(&[2; 10]),
    };
    while good.stream().await != next {}
}

#[tokio::test]
async fn unknown_commands_get_an_error_and_the_session_goes_on() {
    let (_log, sender, _) = sender(1000);
    let mut client = Client::connect(&sender);
    client
        .send(&[&8_u32.to_be_bytes()[..], &80_877_103_u32.to_be_bytes()].concat())
        .await;
    client
        .send(&[&8_u32.to_be_bytes()[..], &80_877_104_u32.to_be_bytes()].concat())
        .await;
    // Both questions for encryption are answered by one byte each, which is no frame.
    let mut answer = [0; 2];
    let Client {
        reader,
        writer,
        serving,
    } = client;
    let mut raw = reader.into_inner().unsplit(writer);
    raw.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"NN");
    let (reader, writer) = tokio::io::split(raw);
    let reader = FrameReader::new(reader, 1 << 20, 1 << 16);
    let mut client = Client {
        reader,
        writer,
        serving,
    };

    client.log_in().await;
    let cases = [
        ("SELECT 1", "0A000"),
        ("SHOW nothing", "42704"),
        ("TIMELINE_HISTORY 1", "58P01"),
        ("TIMELINE_HISTORY 9", "58P01"),
        ("START_REPLICATION 0/1000000 TIMELINE 9", "22023"),
        ("START_REPLICATION nonsense", "0A000"),
    ];
    for (command, code) in cases {
        client.query(command).await;
        assert_eq!(parse_error(client.until(b'E').await.body).0, code, "{command}");
        client.until(b'Z').await;
    }
    client.query("IDENTIFY_SYSTEM").await;
    let row = parse_row(client.until(b'D').await.body).unwrap();
    let expected = ["7", "1", "0/10003E8"].map(|text| Some(Bytes::from(text)));
    assert_eq!(row[..3], expected);
}

#[tokio::test]
async fn position_beyond_the_end_is_waited_for() {
    let (log, sender, status) = sender(1000);
    let mut client = Client::connect(&sender);
    client.log_in().await;
    let from = START + 8192;
    client
        .query(&format!("START_REPLICATION {from} TIMELINE 1"))
        .await;
    let mut out = BytesMut::new();
    put_status(&mut out, Positions::default(), Reply::Requested);
    client.send(&out).await;
    assert!(matches!(client.stream().await, StreamMessage::Keepalive { .. }));
    assert!(!status.borrow().has_all(TimelineId(1), START + 1000) || status.borrow().sendable == from);
    log.put(&[3; 8192]);
    let first = loop {
        if let StreamMessage::XLogData { start, bytes } = client.stream().await {
            break (start, bytes.len());
        }
    };
    assert_eq!(first, (from, 1000));
}

#[tokio::test]
async fn standby_with_a_history_of_its_own_must_be_rebuilt() {
    let left = START + 500;
    let stray = START + 504;
    let reason = RebuildReason::Diverged {
        timeline: TimelineId(1),
        asked: stray,
        left,
    };
    for from in [stray, START] {
        let (log, sender, status) = sender(1000);
        log.switch(
            TimelineId(2),
            left,
            Bytes::from_static(b"1\t0/10001F4\tno reason\n"),
        );
        let mut client = Client::connect(&sender);
        client.log_in().await;
        client
            .query(&format!("START_REPLICATION {from} TIMELINE 1"))
            .await;
        if from == START {
            let mut out = BytesMut::new();
            let positions = Positions {
                written: stray,
                flushed: stray,
                replayed: stray,
            };
            put_status(&mut out, positions, Reply::NotNeeded);
            client.send(&out).await;
        } else {
            assert_eq!(parse_error(client.until(b'E').await.body).0, "22023");
        }
        let ended = tokio::time::timeout(PATIENCE, client.serving)
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(ended, Err(SenderError::Rebuild(found)) if found == reason));
        assert_eq!(status.borrow().rebuild, Some(reason));
    }
}

#[tokio::test]
async fn newer_walreceiver_replaces_the_older() {
    let (_log, sender, status) = sender(1000);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&sender);
        client.log_in().await;
        client
            .query(&format!("START_REPLICATION {START} TIMELINE 1"))
            .await;
        client.until(b'W').await;
        clients.push(client);
    }
    let newer = clients.pop().unwrap();
    let ended = clients.pop().unwrap().serving.await.unwrap();
    assert!(matches!(ended, Err(SenderError::Replaced)));
    assert!(status.borrow().connected);
    let _ = newer.ended().await;
    assert!(!status.borrow().connected);
}

#[tokio::test]
async fn receiver_refuses_garbage() {
    let mut random = StdRng::seed_from_u64(10);
    for round in 0..300 {
        let (ours, mut theirs) = duplex(1 << 16);
        let mut bytes = vec![0; random.random_range(1..2000)];
        random.fill(&mut bytes[..]);
        let mut answer = BytesMut::new();
        put_frame(&mut answer, b'R', |out| out.extend_from_slice(&[0; 4]));
        put_frame(&mut answer, b'Z', |out| out.extend_from_slice(b"I"));
        put_frame(&mut answer, b'W', |out| out.extend_from_slice(&[0; 3]));
        if round % 3 != 0 {
            // Well-formed frames with nonsense in them get further.
            let tag = *b"dDTCE".get(round % 5).unwrap();
            put_frame(&mut answer, tag, |out| out.extend_from_slice(&bytes));
        }
        answer.extend_from_slice(&bytes);
        theirs.write_all(&answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let receive = async {
            let receiver = Receiver::connect(ours, "postgres").await?;
            let mut streaming = receiver.start(TimelineId(1), START).await?;
            loop {
                streaming.next().await?;
            }
            #[allow(unreachable_code, reason = "gives the block its error type")]
            Ok::<(), crate::wal::ReceiverError>(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), receive).await;
        assert!(ended.expect("it must not hang").is_err());
        let _ = parse_stream_message(Bytes::from(bytes.clone()));
        let _ = parse_standby_message(Bytes::from(bytes.clone()));
        let _ = parse_row(Bytes::from(bytes.clone()));
        let _ = parse_error(Bytes::from(bytes));
    }
}

//! What can reach the node-to-node port.

use bytes::Bytes;
use futures::FutureExt;
use hmac::Mac;

use super::call;
use super::frame::{self, Frame};
use super::handshake::{Hello, NONCE_LENGTH, Purpose, challenge_with, greet_with, greeting, proof};
use crate::call::{Answer, Question};
use crate::id::NodeId;

const SECRET: &str = "a secret that the other end holds";
const OURS: [u8; NONCE_LENGTH] = [7; NONCE_LENGTH];
const THEIRS: [u8; NONCE_LENGTH] = [9; NONCE_LENGTH];

/// What is read from memory never waits.
fn now<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("all bytes are at hand")
}

/// A Raft connection: frames, and one frame with these bytes inside and a right checksum.
pub fn node_frames(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let before = rest;
        match now(frame::read(&mut rest)) {
            Ok(Some(frame)) => written_as_read(&frame, &before[..before.len() - rest.len()]),
            Ok(None) => {
                assert!(rest.is_empty(), "the connection ended before its end");
                break;
            }
            Err(_) => break,
        }
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let checksum = crc32c::crc32c(bytes);
    let sealed = [&length.to_be_bytes()[..], &checksum.to_be_bytes(), bytes].concat();
    if let Ok(Some(frame)) = now(frame::read(&mut &sealed[..])) {
        written_as_read(&frame, &sealed);
    }
}

fn written_as_read(frame: &Frame, wire: &[u8]) {
    let mut again = Vec::new();
    let body = std::slice::from_ref(&frame.body);
    now(frame::write(
        &mut again,
        frame.kind,
        frame.group,
        frame.request,
        body,
    ))
    .expect("what was read can be written");
    assert_eq!(again, wire, "a frame is not written as it was read");
}

/// Both ends of a handshake, against these bytes, and against a peer who holds the secret and says them.
pub fn node_handshake(bytes: &[u8]) {
    let hello = Hello {
        cluster: "fuzz".to_owned(),
        from: NodeId(1),
        to: Some(NodeId(2)),
        purpose: Purpose::Raft,
    };
    let against = |said: &[u8]| tokio::io::join(std::io::Cursor::new(said.to_vec()), Vec::new());
    let refused = now(challenge_with(OURS, &mut against(bytes), SECRET)).is_err();
    assert!(refused, "a proof was guessed");
    let refused = now(greet_with(OURS, &mut against(bytes), SECRET, &hello)).is_err();
    assert!(refused, "a proof was guessed");

    // The client's hello is these bytes.
    let mut said = greeting(&THEIRS);
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    said.extend_from_slice(&length.to_be_bytes());
    said.extend_from_slice(bytes);
    let client = proof(SECRET, "howdah client", &[&THEIRS, &OURS, bytes]);
    said.extend_from_slice(&client.finalize().into_bytes());
    if let Ok(challenged) = now(challenge_with(OURS, &mut against(&said), SECRET)) {
        let again = postcard::to_stdvec(&challenged.hello).expect("plain values can be encoded");
        assert_eq!(postcard::from_bytes(&again), Ok(challenged.hello));
    }

    // The server's verdict is the first of these bytes.
    let body = postcard::to_stdvec(&hello).expect("plain values can be encoded");
    let verdict = bytes.get(..1).unwrap_or(&[1]);
    let server = proof(SECRET, "howdah server", &[&OURS, &THEIRS, &body, verdict]);
    let mut said = greeting(&THEIRS);
    said.extend_from_slice(verdict);
    said.extend_from_slice(&server.finalize().into_bytes());
    let welcome = now(greet_with(OURS, &mut against(&said), SECRET, &hello)).is_ok();
    assert_eq!(welcome, verdict == [1], "the verdict {verdict:?} was misread");
}

/// A call's question or answer.
pub fn node_call(bytes: &[u8]) {
    let mut rest = bytes;
    if let Ok(body) = now(call::read(&mut rest)) {
        let mut again = Vec::new();
        now(call::write(&mut again, &body)).expect("what was read can be written");
        assert_eq!(again, bytes[..bytes.len() - rest.len()]);
        messages(&body);
    }
    messages(bytes);
    let mut sealed = Vec::new();
    if now(call::write(&mut sealed, &Bytes::copy_from_slice(bytes))).is_ok() {
        assert_eq!(now(call::read(&mut &sealed[..])).ok().as_deref(), Some(bytes));
    }
}

fn messages(body: &[u8]) {
    if let Ok(question) = Question::decode(body) {
        assert_eq!(Question::decode(&question.encode()).ok(), Some(question));
    }
    if let Ok(answer) = Answer::decode(body) {
        let again = Answer::decode(&answer.encode()).map(|again| format!("{again:?}"));
        assert_eq!(again.ok(), Some(format!("{answer:?}")));
    }
}

//! How two ends of a node-to-node connection prove to each other that they hold the cluster's secret.
//!
//! ```text
//! client -> server   "HWDHNODE" | version u16 | client nonce [32]
//! server -> client   "HWDHNODE" | version u16 | server nonce [32]
//! client -> server   length u16 | hello | HMAC(secret, "howdah client" | nonces | hello) [32]
//! server -> client   verdict u8 | HMAC(secret, "howdah server" | nonces | hello | verdict) [32]
//! ```
//!
//! All numbers are big endian; the hello is postcard. The secret itself never crosses the wire, and
//! both nonces are in both proofs, so no proof can be replayed. The client proves first, so that
//! whoever merely connects learns nothing that depends on the secret.
//!
//! Where the configuration has `[tls]`, TLS comes first and all of this passes within it: each end has proved by certificate to be
//! a node of the cluster, the server to be the one that is meant, and the server compares the client's certificate with the hello.
//! Without TLS, what follows the handshake is neither encrypted nor authenticated.

use std::io;
use std::time::Duration;

use hmac::{Hmac, Mac};
use rustls::InvalidMessage;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Credentials;
use crate::id::{GroupId, NodeId};
use crate::tls::{NodeTls, Stream};

/// The longest that a handshake may take, from either end's view.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const MAGIC: [u8; 8] = *b"HWDHNODE";
const VERSION: u16 = 1;
const GREETING_LENGTH: usize = MAGIC.len() + 2 + NONCE_LENGTH;
pub(super) const NONCE_LENGTH: usize = 32;
const PROOF_LENGTH: usize = 32;
const MAX_HELLO: usize = 1024;

/// What a connection is for. It serves nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// The Raft messages of all groups from one node to another, and their answers.
    Raft,
    /// Raw bytes to a group's PostgreSQL.
    Stream(GroupId, StreamPurpose),
    /// One question and its answer.
    Call,
}

/// What a stream to a group's PostgreSQL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamPurpose {
    /// A client's session: goes through the gate.
    Sql,
    /// A node that settles transactions across groups: through the gate too, also before clients are let in.
    Settle,
    /// Another replica that is being rebuilt: base backup, `pg_rewind`.
    Replication,
}

/// What the client claims to be and to want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) cluster: String,
    /// `NodeId(0)`: a tool that knows the secret but is no node.
    pub(super) from: NodeId,
    /// None: whoever listens at the address.
    pub(super) to: Option<NodeId>,
    pub(super) purpose: Purpose,
}

/// The server's answer to a hello whose proof is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    Welcome = 1,
    OtherCluster = 2,
    OtherNode = 3,
    UnknownNode = 4,
    Busy = 5,
    OtherCertificate = 6,
}

impl Verdict {
    fn from_byte(byte: u8) -> Option<Verdict> {
        match byte {
            1 => Some(Verdict::Welcome),
            2 => Some(Verdict::OtherCluster),
            3 => Some(Verdict::OtherNode),
            4 => Some(Verdict::UnknownNode),
            5 => Some(Verdict::Busy),
            6 => Some(Verdict::OtherCertificate),
            _ => None,
        }
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed or took too long.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
    /// One of the two does not accept the other's certificate, or they could not agree for another reason.
    #[error("TLS with the other end failed")]
    Tls(#[source] rustls::Error),
    /// The other end does not begin with TLS.
    #[error("the other end does not speak TLS, which this node requires: its configuration has [tls]")]
    NoTls,
    /// The other end begins with TLS.
    #[error("the other end speaks TLS, for which this node's configuration has no [tls]")]
    UnexpectedTls,
    /// The other end does not speak this protocol at all.
    #[error("the other end is no Howdah node")]
    Garbage,
    /// The other end speaks another version of it.
    #[error("the other end speaks version {0} of the node-to-node protocol, this node version {VERSION}")]
    Version(u16),
    /// The other end does not prove that it holds the cluster's secret: it has another one, or ended the connection before.
    #[error("the other end does not prove that it holds this cluster's secret")]
    WrongSecret,
    /// The other end holds the secret, but belongs to another cluster.
    #[error("the other end belongs to another cluster")]
    OtherCluster,
    /// Another node answers at this address.
    #[error("another node answers at this address")]
    OtherNode,
    /// The server does not know the client as a node of the cluster.
    #[error("the other end does not know this node")]
    UnknownNode,
    /// The client has another node's certificate.
    #[error("the other end does not take this certificate for this node's")]
    OtherCertificate,
    /// The server has as many connections as it allows.
    #[error("the other end has too many connections")]
    Busy,
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => HandshakeError::NoTls,
            Some(error) => HandshakeError::Tls(error.clone()),
            None => HandshakeError::Io(error),
        }
    }
}

/// The client's half: TLS where there is, then its proof.
pub(super) async fn greet(
    stream: TcpStream,
    credentials: &Credentials,
    hello: &Hello,
) -> Result<Stream, HandshakeError> {
    bounded(async {
        let mut stream = match (&credentials.tls, hello.to) {
            (Some(tls), Some(to)) => tls.connect(stream, to).await?,
            // Nobody is meant, so nobody can be believed.
            (Some(_), None) => return Err(HandshakeError::OtherNode),
            (None, _) => Stream::Plain(stream),
        };
        greet_with(rand::random(), &mut stream, &credentials.secret, hello).await?;
        Ok(stream)
    })
    .await
}

/// [`greet`] with a given nonce, and for as long as it takes.
pub(super) async fn greet_with(
    nonce: [u8; NONCE_LENGTH],
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    secret: &str,
    hello: &Hello,
) -> Result<(), HandshakeError> {
    stream.write_all(&greeting(&nonce)).await?;
    stream.flush().await?;
    let server_nonce = read_greeting(stream).await?;
    let body = postcard::to_stdvec(hello).map_err(|_| HandshakeError::Garbage)?;
    let length = u16::try_from(body.len()).map_err(|_| HandshakeError::Garbage)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(&body);
    let client_proof = proof(secret, "howdah client", &[&nonce, &server_nonce, &body]);
    message.extend_from_slice(&client_proof.finalize().into_bytes());
    stream.write_all(&message).await?;
    stream.flush().await?;

    let mut answer = [0; 1 + PROOF_LENGTH];
    match stream.read_exact(&mut answer).await {
        Ok(_) => {}
        // A server that cannot verify our proof says nothing more.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(HandshakeError::WrongSecret);
        }
        Err(error) => return Err(error.into()),
    }
    let expected = proof(
        secret,
        "howdah server",
        &[&nonce, &server_nonce, &body, &answer[..1]],
    );
    expected
        .verify_slice(&answer[1..])
        .map_err(|_| HandshakeError::WrongSecret)?;
    match Verdict::from_byte(answer[0]) {
        Some(Verdict::Welcome) => Ok(()),
        Some(Verdict::OtherCluster) => Err(HandshakeError::OtherCluster),
        Some(Verdict::OtherNode) => Err(HandshakeError::OtherNode),
        Some(Verdict::UnknownNode) => Err(HandshakeError::UnknownNode),
        Some(Verdict::Busy) => Err(HandshakeError::Busy),
        Some(Verdict::OtherCertificate) => Err(HandshakeError::OtherCertificate),
        None => Err(HandshakeError::Garbage),
    }
}

/// The server's half up to the client's proof; [`Challenged::answer`] ends it.
pub(super) async fn challenge(
    stream: TcpStream,
    tls: Option<&NodeTls>,
    secret: &str,
) -> Result<(Stream, Challenged), HandshakeError> {
    bounded(async {
        let mut stream = match tls {
            Some(tls) => tls.accept(stream).await?,
            None => Stream::Plain(stream),
        };
        let challenged = challenge_with(rand::random(), &mut stream, secret).await?;
        Ok((stream, challenged))
    })
    .await
}

/// [`challenge`] with a given nonce, and for as long as it takes.
pub(super) async fn challenge_with(
    nonce: [u8; NONCE_LENGTH],
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    secret: &str,
) -> Result<Challenged, HandshakeError> {
    let client_nonce = read_greeting(stream).await?;
    stream.write_all(&greeting(&nonce)).await?;
    stream.flush().await?;
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_HELLO {
        return Err(HandshakeError::Garbage);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut claimed = [0; PROOF_LENGTH];
    stream.read_exact(&mut claimed).await?;
    proof(secret, "howdah client", &[&client_nonce, &nonce, &body])
        .verify_slice(&claimed)
        .map_err(|_| HandshakeError::WrongSecret)?;
    let hello = postcard::from_bytes(&body).map_err(|_| HandshakeError::Garbage)?;
    let transcript = [&client_nonce[..], &nonce[..], &body[..]].concat();
    Ok(Challenged { hello, transcript })
}

/// A client that proved to hold the secret and waits for the verdict.
pub(super) struct Challenged {
    pub(super) hello: Hello,
    transcript: Vec<u8>,
}

impl Challenged {
    /// Tells the client the verdict, with the server's own proof.
    pub(super) async fn answer(&self, stream: &mut Stream, secret: &str, verdict: Verdict) -> io::Result<()> {
        let byte = verdict as u8;
        let mut message = vec![byte];
        let server_proof = proof(secret, "howdah server", &[&self.transcript, &[byte]]);
        message.extend_from_slice(&server_proof.finalize().into_bytes());
        let send = async {
            stream.write_all(&message).await?;
            stream.flush().await
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, send).await?
    }
}

async fn bounded<T>(exchange: impl Future<Output = Result<T, HandshakeError>>) -> Result<T, HandshakeError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, exchange).await {
        Ok(result) => result,
        Err(elapsed) => Err(HandshakeError::Io(elapsed.into())),
    }
}

pub(super) fn greeting(nonce: &[u8; NONCE_LENGTH]) -> Vec<u8> {
    let mut message = Vec::with_capacity(GREETING_LENGTH);
    message.extend_from_slice(&MAGIC);
    message.extend_from_slice(&VERSION.to_be_bytes());
    message.extend_from_slice(nonce);
    message
}

async fn read_greeting(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; NONCE_LENGTH], HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    // An alert of TLS is shorter than a greeting.
    stream.read_exact(&mut magic[..2]).await?;
    // Types of records: an alert, a handshake (RFC 8446, 5.1).
    if let [21 | 22, 3] = magic[..2] {
        return Err(HandshakeError::UnexpectedTls);
    }
    stream.read_exact(&mut magic[2..]).await?;
    if magic != MAGIC {
        return Err(HandshakeError::Garbage);
    }
    let version = stream.read_u16().await?;
    if version != VERSION {
        return Err(HandshakeError::Version(version));
    }
    let mut nonce = [0; NONCE_LENGTH];
    stream.read_exact(&mut nonce).await?;
    Ok(nonce)
}

pub(super) fn proof(secret: &str, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(label.as_bytes());
    for part in parts {
        mac.update(part);
    }
    mac
}

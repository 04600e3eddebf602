//! A client before it has a session: what it wants, in the clear or within TLS.

use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use shard::tls::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::conn::Parameters;
use crate::analysis::Refusal;
use crate::failure::Failure;
use crate::protocol::{Body, Malformed};
use crate::tls::{ALPN, Tls};

/// PostgreSQL's own limit (MAX_STARTUP_PACKET_LENGTH).
pub(super) const LONGEST_STARTUP: usize = 10_000;
const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
/// The first byte of a TLS handshake, which is no length of a start-up packet.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client wants.
pub(super) enum Wish {
    Session { minor: i32, parameters: Parameters },
    Cancel { process_id: i32, secret_key: Vec<u8> },
    Nothing,
}

/// Whether the client said within TLS that it speaks PostgreSQL's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alpn {
    Agreed,
    Absent,
}

/// A client that has not proved yet who it is.
pub(super) struct Stranger {
    /// None while TLS is agreed on: one that fails in that is not answered.
    pub(super) stream: Option<Stream>,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    pub(super) address: IpAddr,
}

impl Stranger {
    pub(super) fn is_encrypted(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_encrypted)
    }

    /// What the client wants, within TLS if it asks for that and there is some.
    pub(super) async fn read_wish(&mut self, tls: Option<&Tls>) -> Result<Wish, Failure> {
        let (mut tls_settled, mut gss_settled) = (false, false);
        if let (Some(tls), Some(Stream::Plain(stream))) = (tls, &self.stream) {
            let mut first = [0];
            let peeked = stream.peek(&mut first).await;
            match peeked {
                Ok(1) if first == [TLS_HANDSHAKE] => {
                    if self.encrypt(tls).await == Alpn::Absent {
                        let words = "received direct SSL connection request without ALPN protocol negotiation extension";
                        return Err(Refusal::new("08P01", words).into());
                    }
                    (tls_settled, gss_settled) = (true, true);
                }
                Ok(1..) => {}
                Ok(0) | Err(_) => return Ok(Wish::Nothing),
            }
        }
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(Wish::Nothing);
            };
            let Some((packet, code)) = read_packet(stream, &mut self.input).await? else {
                return Ok(Wish::Nothing);
            };
            let mut body = Body::new(&packet);
            match (code, tls) {
                (SSL_REQUEST, Some(tls)) if !tls_settled => {
                    // They came in the clear, from whomever, and must not be taken for what the client
                    // says within TLS (CVE-2021-23214).
                    if !self.input.is_empty() {
                        return Err(Refusal::new("08P01", "received unencrypted data after SSL request")
                            .detail(
                                "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
                            )
                            .into());
                    }
                    if stream.write_all(b"S").await.is_err() {
                        return Ok(Wish::Nothing);
                    }
                    self.encrypt(tls).await;
                    (tls_settled, gss_settled) = (true, true);
                }
                (SSL_REQUEST, None) if !tls_settled => {
                    tls_settled = true;
                    if stream.write_all(b"N").await.is_err() {
                        return Ok(Wish::Nothing);
                    }
                }
                (GSS_REQUEST, _) if !gss_settled => {
                    gss_settled = true;
                    if stream.write_all(b"N").await.is_err() {
                        return Ok(Wish::Nothing);
                    }
                }
                (CANCEL_REQUEST, _) => {
                    return Ok(Wish::Cancel {
                        process_id: body.i32()?,
                        secret_key: cancel_key(&body)?,
                    });
                }
                _ if code >> 16 == 3 => {
                    return Ok(Wish::Session {
                        minor: code & 0xffff,
                        parameters: read_parameters(&mut body)?,
                    });
                }
                _ => {
                    let (major, minor) = (code >> 16, code & 0xffff);
                    let words =
                        format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
                    return Err(Refusal::unsupported(words).into());
                }
            }
        }
    }

    /// Goes over to TLS; says whether PostgreSQL's protocol was agreed on within. A client with which that fails is
    /// left without a stream, and so without an answer: nothing can be said that it could read.
    async fn encrypt(&mut self, tls: &Tls) -> Alpn {
        let Some(Stream::Plain(stream)) = self.stream.take() else {
            return Alpn::Absent;
        };
        match tls.acceptor().accept(stream).await {
            Ok(stream) => {
                let agreed = stream.get_ref().1.alpn_protocol() == Some(ALPN);
                self.stream = Some(Stream::encrypted(stream));
                if agreed { Alpn::Agreed } else { Alpn::Absent }
            }
            Err(error) => {
                tracing::debug!(%error, "could not accept SSL connection");
                Alpn::Absent
            }
        }
    }
}

/// The key of a CancelRequest. Before protocol 3.2 it had 4 bytes.
fn cancel_key(body: &Body<'_>) -> Result<Vec<u8>, Malformed> {
    match body.rest() {
        key if (4..=256).contains(&key.len()) => Ok(key.to_vec()),
        _ => Err(Malformed("invalid length of query cancel packet")),
    }
}

/// One packet without its length and code; `None` when the client goes before all of it came.
pub(super) async fn read_packet(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<Option<(BytesMut, i32)>, Failure> {
    let mut length = None;
    loop {
        if length.is_none()
            && let Some((head, _)) = input.split_first_chunk::<4>()
        {
            let given = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(0);
            if !(8..=LONGEST_STARTUP).contains(&given) {
                return Err(Malformed("invalid length of startup packet").into());
            }
            length = Some(given);
        }
        if let Some(length) = length.filter(|length| *length <= input.len()) {
            let mut packet = input.split_to(length);
            packet.advance(4);
            let code = packet.get_i32();
            return Ok(Some((packet, code)));
        }
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
}

pub(super) fn read_parameters(body: &mut Body<'_>) -> Result<Parameters, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = body.cstr()?;
        if name.is_empty() {
            return Ok(parameters);
        }
        parameters.push((name.to_vec(), body.cstr()?.to_vec()));
    }
}

//! A connection, with TLS or without.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// The bytes of a protocol go in and out here.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<Encrypted>),
}

/// A connection within TLS.
#[derive(Debug)]
pub struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// It may hold what was written and has not gone out.
    unsent: bool,
}

impl Stream {
    /// What TLS was agreed on for, by either end.
    pub fn encrypted(stream: impl Into<TlsStream<TcpStream>>) -> Stream {
        Stream::Tls(Box::new(Encrypted {
            stream: stream.into(),
            unsent: false,
        }))
    }

    /// Whether nobody on the way can read what passes.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// What is below TLS.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(encrypted) => encrypted.stream.get_ref().0,
        }
    }

    /// The certificate that the other end has proved to hold, if it was asked for one.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(encrypted) => encrypted.stream.get_ref().1.peer_certificates()?.first(),
        }
    }

    /// Goes on sending what TLS still holds. Whoever waits for something else than this connection's bytes must have
    /// called this since the last write.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn drain(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(encrypted) => match encrypted.send(cx) {
                Poll::Ready(sent) => sent,
                Poll::Pending => Ok(()),
            },
        }
    }
}

impl Encrypted {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unsent = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(encrypted) => {
                // Whoever waits for an answer has sent the question. Where it cannot be sent, why may be there to be read.
                let _ = encrypted.send(cx);
                Pin::new(&mut encrypted.stream).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(encrypted) => {
                // What TLS holds is bounded by one write.
                ready!(encrypted.send(cx))?;
                encrypted.unsent = true;
                Pin::new(&mut encrypted.stream).poll_write(cx, bytes)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(encrypted) => encrypted.send(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
        }
    }
}

//! A client's connection, with TLS or without.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The bytes of the protocol go in and out here.
#[derive(Debug)]
pub(crate) enum ClientStream {
    /// As they are.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<Encrypted>),
}

/// A connection within TLS.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// It may hold what was written and has not gone out.
    unsent: bool,
}

impl ClientStream {
    pub(crate) fn encrypted(stream: TlsStream<TcpStream>) -> ClientStream {
        let unsent = false;
        ClientStream::Tls(Box::new(Encrypted { stream, unsent }))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, ClientStream::Tls(_))
    }

    /// Goes on sending what TLS still holds. Whoever waits must have called this since the last write.
    pub(crate) fn drain(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self {
            ClientStream::Plain(_) => Ok(()),
            ClientStream::Tls(encrypted) => match encrypted.send(cx) {
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

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Tls(encrypted) => {
                // What TLS holds is bounded by one write.
                ready!(encrypted.send(cx))?;
                encrypted.unsent = true;
                Pin::new(&mut encrypted.stream).poll_write(cx, bytes)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ClientStream::Tls(encrypted) => encrypted.send(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
        }
    }
}

//! The protocol by hand: what was answered, message by message.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Result;

/// An exchange that is not answered whole in that time hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// A type byte and a length.
const HEADER: usize = 5;

/// One message of a server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// What kind: the protocol's type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

impl Message {
    /// The fields of an ErrorResponse or a NoticeResponse, by their type bytes.
    #[must_use]
    pub fn fields(&self) -> Vec<(u8, String)> {
        let parts = self.body.split(|byte| *byte == 0);
        let field = |part: &[u8]| {
            let (kind, text) = part.split_first()?;
            Some((*kind, String::from_utf8_lossy(text).into_owned()))
        };
        parts.filter_map(field).collect()
    }

    /// One of these fields.
    #[must_use]
    pub fn field(&self, kind: u8) -> Option<String> {
        let found = self.fields().into_iter().find(|(found, _)| *found == kind);
        found.map(|(_, text)| text)
    }

    /// An error's SQLSTATE.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        (self.tag == b'E').then(|| self.field(b'C')).flatten()
    }

    /// Whether it is an error of Howdah's own: PostgreSQL's say in which routine of its source they were raised.
    #[must_use]
    pub fn is_own_error(&self) -> bool {
        self.tag == b'E' && self.field(b'R').is_none()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.tag))?;
        if matches!(self.tag, b'E' | b'N') {
            for (kind, text) in self.fields() {
                write!(f, " {}={text:?}", char::from(kind))?;
            }
            return Ok(());
        }
        if !self.body.is_empty() {
            write!(f, " {}", self.body.escape_ascii())?;
        }
        Ok(())
    }
}

/// Why no whole answer came.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The server closed the connection after these messages.
    #[error("the connection was closed after {0:?}")]
    Closed(Vec<Message>),
    /// These messages, and then nothing.
    #[error("nothing more for two minutes after {0:?}")]
    Hangs(Vec<Message>),
}

/// A connection whose messages are all seen.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
    /// What was said before the first ReadyForQuery.
    pub greeting: Vec<Message>,
}

impl Wire {
    /// Connects as the superuser.
    ///
    /// # Errors
    /// Where the server does not let it in.
    pub async fn connect(address: SocketAddr) -> Result<Wire> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let mut wire = Wire {
            stream,
            input: BytesMut::new(),
            greeting: Vec::new(),
        };
        let mut out = BytesMut::new();
        let parameters = [("user", "postgres"), ("database", "postgres")];
        frontend::startup_message(parameters, &mut out)?;
        wire.greeting = wire.exchange(&out).await?;
        if wire.greeting.last().is_none_or(|last| last.tag != b'Z') {
            return Err(format!("{address} does not let us in: {:?}", wire.greeting).into());
        }
        Ok(wire)
    }

    /// Sends these messages, which must end in one that is answered with ReadyForQuery, and returns what comes up to that.
    ///
    /// # Errors
    /// Where the connection ends, or nothing comes for long.
    pub async fn exchange(&mut self, bytes: &[u8]) -> std::result::Result<Vec<Message>, Broken> {
        let mut said = Vec::new();
        // It may be closed while we still write; what it said before that is read all the same.
        let _ = self.stream.write_all(bytes).await;
        loop {
            while let Some(message) = self.next() {
                let last = message.tag == b'Z';
                said.push(message);
                if last {
                    return Ok(said);
                }
            }
            match timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Err(Broken::Hangs(said)),
                Ok(Ok(0) | Err(_)) => return Err(Broken::Closed(said)),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// The connection itself.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn next(&mut self) -> Option<Message> {
        let head = self.input.get(1..HEADER)?;
        let length = u32::from_be_bytes(head.try_into().ok()?);
        let whole = usize::try_from(length).ok()? + 1;
        if self.input.len() < whole {
            return None;
        }
        let mut message = self.input.split_to(whole);
        let tag = message.get_u8();
        message.advance(HEADER - 1);
        Some(Message {
            tag,
            body: message.freeze(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_postgresql_names_its_routine() {
        let error = |body: &'static [u8]| Message {
            tag: b'E',
            body: Bytes::from_static(body),
        };
        let own = error(b"SERROR\0C0A000\0Mno\0\0");
        let theirs = error(b"SERROR\0C0A000\0Mno\0Rfunction\0\0");
        assert_eq!(own.sqlstate().as_deref(), Some("0A000"));
        assert_eq!(own.field(b'M').as_deref(), Some("no"));
        assert!(own.is_own_error() && !theirs.is_own_error());
    }
}

//! The one place where a session waits: for its client and its backends, in both directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use shard::tls::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::alarm::Alarm;
use super::conn::Conn;
use crate::registry;

/// Beyond this much unsent output nothing more is read that would add to it.
pub(crate) const HIGH_WATER: usize = 64 << 10;
/// Room made before a read.
const READ_ROOM: usize = 16 << 10;
/// A buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 256 << 10;

/// The client's side.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    /// Where what goes out is counted, and where an operator's requests come.
    pub(crate) entry: Option<Arc<registry::Client>>,
}

/// What a turn waits for besides its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The client's next bytes.
    Client,
    /// Answers only: the client is not read.
    Answers,
    /// Output to go out.
    Written,
}

/// What has happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The client sent something.
    Client,
    /// The client went away.
    ClientGone,
    /// The backend that is read sent something.
    Backend,
    /// The connection to the backend at this place ended.
    Broken(usize, String),
    /// Output has gone out.
    Written,
    /// The session's alarm rings.
    Alarm,
    /// An operator asks something of the session.
    Asked,
}

/// Sends what there is to send and waits for one event. Reads only the backend at `reading`.
///
/// Backpressure: while the client does not take its answers, its backend is not read; the kernel's
/// buffers then make PostgreSQL wait.
pub(crate) async fn turn(
    client: &mut Client,
    slots: &mut [Option<Conn>],
    alarm: &mut Alarm,
    reading: Option<usize>,
    wait: Wait,
) -> Event {
    poll_fn(|cx| {
        // Before what may never end.
        if alarm.poll(cx).is_ready() {
            return Poll::Ready(Event::Alarm);
        }
        poll_turn(cx, client, slots, reading, wait)
    })
    .await
}

fn poll_turn(
    cx: &mut Context<'_>,
    client: &mut Client,
    slots: &mut [Option<Conn>],
    reading: Option<usize>,
    wait: Wait,
) -> Poll<Event> {
    if let Some(entry) = &client.entry
        && entry.poll_bell(cx).is_ready()
    {
        return Poll::Ready(Event::Asked);
    }
    let mut written = false;
    let due = client.output.len();
    match flush(cx, &mut client.stream, &mut client.output) {
        Ok(progress) => written |= progress,
        Err(_) => return Poll::Ready(Event::ClientGone),
    }
    if let Some(entry) = &client.entry {
        let sent = due - client.output.len();
        entry.counters.sent.add(u64::try_from(sent).unwrap_or(0));
    }
    if client.stream.drain(cx).is_err() {
        return Poll::Ready(Event::ClientGone);
    }
    for (place, slot) in slots.iter_mut().enumerate() {
        let Some(conn) = slot else { continue };
        match flush(cx, &mut conn.stream, &mut conn.output) {
            Ok(progress) => written |= progress,
            // Its last words may still be there to be read.
            Err(_) if reading == Some(place) => conn.output.clear(),
            Err(error) => return Poll::Ready(Event::Broken(place, error.to_string())),
        }
    }
    if client.output.len() < HIGH_WATER
        && let Some(place) = reading
        && let Some(Some(conn)) = slots.get_mut(place)
    {
        match fill(cx, &mut conn.stream, &mut conn.input) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Event::Broken(place, ended(conn))),
            Poll::Ready(Ok(_)) => return Poll::Ready(Event::Backend),
            Poll::Ready(Err(error)) => return Poll::Ready(Event::Broken(place, error.to_string())),
            Poll::Pending => {}
        }
    }
    if wait == Wait::Client {
        match fill(cx, &mut client.stream, &mut client.input) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Event::ClientGone),
            Poll::Ready(Ok(_)) => return Poll::Ready(Event::Client),
            Poll::Pending => {}
        }
    }
    if written && wait == Wait::Written {
        return Poll::Ready(Event::Written);
    }
    Poll::Pending
}

fn ended(conn: &Conn) -> String {
    match &conn.last_words {
        Some(words) => words.message.clone(),
        None => "it closed the connection".to_owned(),
    }
}

/// Whether the connection of an idle backend still stands, without waiting.
pub(crate) async fn still_there(conn: &mut Conn) -> bool {
    poll_fn(|cx| {
        // Its last words come before its end.
        loop {
            match fill(cx, &mut conn.stream, &mut conn.input) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                Poll::Ready(Ok(_)) if conn.input.len() < HIGH_WATER => {}
                Poll::Ready(Ok(_)) | Poll::Pending => return Poll::Ready(true),
            }
        }
    })
    .await
}

fn fill<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    if input.is_empty() && input.capacity() > KEEP {
        *input = BytesMut::new();
    }
    if input.capacity() - input.len() < READ_ROOM / 4 {
        input.reserve(READ_ROOM);
    }
    poll_read_buf(Pin::new(stream), cx, input)
}

/// Writes as much as goes; whether any went.
fn flush<S: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    stream: &mut S,
    output: &mut BytesMut,
) -> io::Result<bool> {
    let mut progress = false;
    while !output.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, output) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(count)) => {
                output.advance(count);
                progress = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    if output.is_empty() {
        if output.capacity() > KEEP {
            *output = BytesMut::new();
        }
        // Also what TLS has kept of an earlier write: another node's backend is reached within it.
        if let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(cx) {
            return Err(error);
        }
    }
    Ok(progress)
}

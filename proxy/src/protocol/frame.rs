//! Where a message ends: the type byte, the length, and the bounds on it.

/// Type byte and total length of a message at the head of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The type byte.
    pub(crate) tag: u8,
    /// Of the whole message, type byte and length field included.
    pub(crate) len: usize,
}

/// Type byte and length field.
pub(crate) const HEADER: usize = 5;

/// A length that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a message of type {0:#04x} gives a length below its own header's")]
    TooShort(u8),
    #[error("a message of {len} bytes is longer than the {max} bytes that are allowed")]
    TooLong { len: usize, max: usize },
    #[error("there is no message of type {0:#04x}")]
    UnknownType(u8),
}

/// Reads the header of the message at the head of `buf`; `None` while it is not all there.
/// The body need not have arrived.
pub(crate) fn peek(buf: &[u8], max: usize) -> Result<Option<Frame>, FrameError> {
    let Some((header, _)) = buf.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [tag, a, b, c, d] = *header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length < 4 {
        return Err(FrameError::TooShort(tag));
    }
    let len = length.saturating_add(1);
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    Ok(Some(Frame { tag, len }))
}

/// As [`peek`], for a client: its types are few, and those without a payload are short.
pub(crate) fn peek_frontend(buf: &[u8], max: usize) -> Result<Option<Frame>, FrameError> {
    /// PostgreSQL's own limit for messages that carry names only (PQ_SMALL_MESSAGE_LIMIT).
    const SMALL: usize = 10_001;
    let Some(tag) = buf.first() else {
        return Ok(None);
    };
    let max = match tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => max,
        b'E' | b'D' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' | b'p' => max.min(SMALL),
        other => return Err(FrameError::UnknownType(*other)),
    };
    peek(buf, max)
}

/// Whether what a client has sent behind a Bind only describes, executes and closes until a Sync that is there, too.
pub(crate) fn syncs_next(mut behind: &[u8], max: usize) -> bool {
    while let Ok(Some(frame)) = peek_frontend(behind, max) {
        match (frame.tag, behind.get(frame.len..)) {
            (b'S', _) => return true,
            (b'D' | b'E' | b'C' | b'H', Some(rest)) => behind = rest,
            _ => break,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_decides_before_the_body_arrives() {
        assert_eq!(peek(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(peek(b"Q\0\0\0\x0a", 100), Ok(Some(Frame { tag: b'Q', len: 11 })));
        assert_eq!(peek(b"Q\0\0\0\x03", 100), Err(FrameError::TooShort(b'Q')));
        assert_eq!(
            peek(b"Q\0\0\x01\0", 100),
            Err(FrameError::TooLong { len: 257, max: 100 })
        );
        assert_eq!(peek_frontend(b"G", 100), Err(FrameError::UnknownType(b'G')));
    }

    #[test]
    fn a_pipeline_ends_where_its_sync_has_come_and_nothing_is_bound_before() {
        let (execute, sync, bind) = (b"E\0\0\0\x09\0\0\0\0\0", b"S\0\0\0\x04", b"B\0\0\0\x04");
        assert!(syncs_next(&[&execute[..], sync].concat(), 100));
        assert!(syncs_next(&[&execute[..], execute, sync, bind].concat(), 100));
        assert!(!syncs_next(execute, 100));
        assert!(!syncs_next(&[&execute[..], &sync[..3]].concat(), 100));
        assert!(!syncs_next(&[&execute[..], bind, sync].concat(), 100));
    }
}

//! The content of a timeline history file, `00000002.history`.

use bytes::Bytes;

use super::{Lsn, TimelineId};

/// One ancestor of a timeline: where its child left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first position that belongs to its child instead.
    pub end: Lsn,
}

/// A history file that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of a timeline history file is malformed")]
pub struct HistoryFileError {
    line: usize,
}

/// The ancestors that a history file names, oldest first; the last one is the parent.
///
/// The form is `readTimeLineHistory`'s in PostgreSQL's `timeline.c`: one line per ancestor, its id
/// in decimal, white space, its end, and a reason that is for people; `#` starts a comment.
pub fn parse_history_file(content: &Bytes) -> Result<Vec<Ancestor>, HistoryFileError> {
    let text = String::from_utf8_lossy(content);
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let ancestor = words
            .next()
            .and_then(|id| id.parse().ok())
            .map(TimelineId)
            .zip(words.next().and_then(|end| end.parse().ok()))
            .map(|(timeline, end)| Ancestor { timeline, end });
        let ordered = |next: &Ancestor| ancestors.last().is_none_or(|last| last.timeline < next.timeline);
        match ancestor {
            Some(ancestor) if ordered(&ancestor) => ancestors.push(ancestor),
            _ => return Err(HistoryFileError { line: number + 1 }),
        }
    }
    Ok(ancestors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_the_last_line() {
        let content = b"# comment\n1\t0/3000060\tno recovery target specified\n\n2\t0/5000028\tx\n";
        let ancestors = parse_history_file(&Bytes::from_static(content)).unwrap();
        let parent = Ancestor {
            timeline: TimelineId(2),
            end: Lsn(0x500_0028),
        };
        assert_eq!(ancestors.len(), 2);
        assert_eq!(ancestors.last(), Some(&parent));
    }

    #[test]
    fn garbage_is_an_error() {
        for bad in ["1", "x\t0/1", "1\t0", "2\t0/1\n1\t0/2", "\u{fffd}"] {
            assert!(parse_history_file(&Bytes::from(bad)).is_err(), "{bad}");
        }
    }
}

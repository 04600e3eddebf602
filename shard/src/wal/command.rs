//! The replication commands that a walreceiver sends.

use super::{Lsn, TimelineId};

/// A START_REPLICATION command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) from: Lsn,
    pub(super) timeline: Option<TimelineId>,
}

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    IdentifySystem,
    TimelineHistory(TimelineId),
    Start(Start),
    Show(String),
    Unknown,
}

/// Reads a command; what is none of ours is `Unknown`.
pub(super) fn parse_command(command: &str) -> Request {
    let command = command.trim().trim_end_matches(';');
    let mut words = command.split_whitespace();
    match words.next().map(str::to_ascii_uppercase).as_deref() {
        Some("IDENTIFY_SYSTEM") => Request::IdentifySystem,
        Some("TIMELINE_HISTORY") => words
            .next()
            .and_then(|id| id.parse().ok())
            .map_or(Request::Unknown, |id| Request::TimelineHistory(TimelineId(id))),
        Some("START_REPLICATION") => parse_start(words).map_or(Request::Unknown, Request::Start),
        Some("SHOW") => words
            .next()
            .map_or(Request::Unknown, |name| Request::Show(name.to_owned())),
        _ => Request::Unknown,
    }
}

/// `[SLOT name] [PHYSICAL] X/X [TIMELINE n]`; the slot is not needed, the log keeps WAL by itself.
fn parse_start<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Start> {
    let mut word = words.next()?;
    if word.eq_ignore_ascii_case("SLOT") {
        words.next()?;
        word = words.next()?;
    }
    if word.eq_ignore_ascii_case("PHYSICAL") {
        word = words.next()?;
    }
    let from = word.parse().ok()?;
    let timeline = match words.next() {
        Some(word) if word.eq_ignore_ascii_case("TIMELINE") => Some(TimelineId(words.next()?.parse().ok()?)),
        Some(_) => return None,
        None => None,
    };
    Some(Start { from, timeline })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_a_walreceiver() {
        let start = |from, timeline| Request::Start(Start { from, timeline });
        let two = Some(TimelineId(2));
        let cases = [
            ("IDENTIFY_SYSTEM", Request::IdentifySystem),
            ("TIMELINE_HISTORY 2", Request::TimelineHistory(TimelineId(2))),
            (
                "START_REPLICATION 0/3000000 TIMELINE 2",
                start(Lsn(0x300_0000), two),
            ),
            (
                "START_REPLICATION SLOT \"s\" PHYSICAL 1/0 TIMELINE 2",
                start(Lsn(1 << 32), two),
            ),
            ("start_replication physical 0/0;", start(Lsn(0), None)),
            ("START_REPLICATION SLOT s LOGICAL 0/0", Request::Unknown),
            ("START_REPLICATION", Request::Unknown),
            ("TIMELINE_HISTORY -1", Request::Unknown),
            ("SHOW wal_segment_size", Request::Show("wal_segment_size".into())),
            ("", Request::Unknown),
        ];
        for (command, expected) in cases {
            assert_eq!(parse_command(command), expected, "{command}");
        }
    }
}

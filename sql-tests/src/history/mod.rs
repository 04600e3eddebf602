//! What clients asked, what they were told, and what was broken meanwhile, in Jepsen's form: one
//! operation map a line, two for each operation (its invocation and its completion).

mod edn;

use std::fmt;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

pub use self::edn::{Edn, NotEdn};
use crate::Result;

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It took place, and this is what it returned.
    Ok,
    /// It did not take place.
    Fail,
    /// Nobody knows: it may have taken place, or still take place at any later time. Its process
    /// does nothing more; the client goes on as another one.
    Info,
}

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client: one operation at a time.
    Client(u64),
    /// Whoever breaks things.
    Nemesis,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its place in the history, from 0.
    pub index: u64,
    /// Where the operation stands.
    pub kind: Kind,
    /// Whose it is.
    pub process: Process,
    /// What is done: `txn`, `read`, `write`, `cas`, `add`, `transfer`, ...; a fault's name.
    pub f: String,
    /// On what, and with what result.
    pub value: Edn,
    /// Nanoseconds since the history began, on a monotonic clock.
    pub time: u64,
    /// Why it failed, or is not known.
    pub error: Option<String>,
}

/// A whole history, in order of `index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The lines.
    pub ops: Vec<Op>,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{:index {}, :type :{}, ", self.index, self.kind.word())?;
        match self.process {
            Process::Client(number) => write!(f, ":process {number}, ")?,
            Process::Nemesis => write!(f, ":process :nemesis, ")?,
        }
        write!(f, ":f :{}, :value {}, :time {}", self.f, self.value, self.time)?;
        if let Some(error) = &self.error {
            write!(f, ", :error {}", Edn::Text(error.clone()))?;
        }
        write!(f, "}}")
    }
}

impl Op {
    fn read(line: &str) -> Result<Op> {
        let map = Edn::read(line)?;
        let missing = |key: &str| format!("an operation without :{key}: {line}");
        let number = |key: &str| -> Result<u64> {
            let number = map.get(key).and_then(Edn::int).ok_or_else(|| missing(key))?;
            Ok(u64::try_from(number)?)
        };
        let word = |key: &str| map.get(key).and_then(Edn::word).ok_or_else(|| missing(key));
        Ok(Op {
            index: number("index")?,
            kind: match word("type")? {
                "invoke" => Kind::Invoke,
                "ok" => Kind::Ok,
                "fail" => Kind::Fail,
                "info" => Kind::Info,
                other => return Err(format!("an operation of type :{other}").into()),
            },
            process: match map.get("process") {
                Some(Edn::Keyword(_)) => Process::Nemesis,
                _ => Process::Client(number("process")?),
            },
            f: word("f")?.to_owned(),
            value: map.get("value").cloned().unwrap_or(Edn::Nil),
            time: number("time")?,
            error: map.get("error").map(|error| match error {
                Edn::Text(text) => text.clone(),
                other => other.to_string(),
            }),
        })
    }
}

impl History {
    /// Reads a history, one operation a line; empty lines are skipped.
    ///
    /// # Errors
    /// Where a line is not an operation.
    pub fn read(source: impl BufRead) -> Result<History> {
        let mut ops = Vec::new();
        for line in source.lines() {
            let line = line?;
            if !line.trim().is_empty() {
                ops.push(Op::read(&line)?);
            }
        }
        Ok(History { ops })
    }

    /// Writes it, one operation a line.
    ///
    /// # Errors
    /// Where `sink` fails.
    pub fn write(&self, mut sink: impl Write) -> Result<()> {
        for op in &self.ops {
            writeln!(sink, "{op}")?;
        }
        sink.flush()?;
        Ok(())
    }
}

/// Records a history while it happens. Clones record the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            began: Instant::now(),
            ops: Arc::default(),
        }
    }
}

impl Recorder {
    /// Records a line. The time and the place are those of this call: an invocation is recorded
    /// before its first byte is sent, a completion after its last byte has come.
    pub fn record(&self, process: Process, kind: Kind, f: &str, value: Edn, error: Option<String>) {
        let mut ops = self.ops.lock();
        let time = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let index = ops.len() as u64;
        ops.push(Op {
            index,
            kind,
            process,
            f: f.to_owned(),
            value,
            time,
            error,
        });
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.lock().len()
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last line of a process.
    #[must_use]
    pub fn last_of(&self, process: Process) -> Option<Op> {
        let ops = self.ops.lock();
        ops.iter().rev().find(|op| op.process == process).cloned()
    }

    /// All of it so far.
    #[must_use]
    pub fn history(&self) -> History {
        History {
            ops: self.ops.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let recorder = Recorder::default();
        let value = Edn::read("[[:append 1 2] [:r 1 nil]]").expect("it is EDN");
        recorder.record(Process::Client(4), Kind::Invoke, "txn", value.clone(), None);
        let words = "57P03: no \"leader\"".to_owned();
        recorder.record(Process::Client(4), Kind::Info, "txn", value, Some(words));
        recorder.record(Process::Nemesis, Kind::Info, "kill", Edn::Int(1), None);
        let history = recorder.history();
        let mut text = Vec::new();
        history.write(&mut text).expect("memory takes it");
        assert_eq!(History::read(&text[..]).expect("it is a history"), history);
    }
}

//! What a client sends up to one ReadyForQuery, kept as what it means: so it can be shown, and cut short where a server refused.

use std::fmt;

use bytes::{BufMut, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend::{self, CopyData};

use super::wire::Message;

/// Whether the order of rows means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Rows come in the order that was asked for, or there is one at most.
    Given,
    /// Rows of a table without ORDER BY.
    Any,
}

/// A message of the extended protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Parse; types are OIDs, 0 to have PostgreSQL find it out.
    Parse {
        /// The statement's name.
        name: String,
        /// Its text.
        sql: String,
        /// Its parameters' types.
        types: Vec<u32>,
    },
    /// Bind.
    Bind {
        /// The portal's name.
        portal: String,
        /// The statement's.
        statement: String,
        /// Each parameter's format, 0 for text and 1 for binary, and its bytes.
        values: Vec<(i16, Option<Vec<u8>>)>,
        /// The results' formats.
        results: Vec<i16>,
    },
    /// Describe a statement (`S`) or a portal (`P`).
    Describe(char, String),
    /// Execute a portal, up to so many rows.
    Execute(String, i32),
    /// Close a statement or a portal.
    Close(char, String),
    /// Flush.
    Flush,
    /// CopyData and CopyDone, sent without waiting whether they are wanted.
    Copy(String),
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// One Query of these statements, and CopyData for it.
    Simple {
        /// Separated by semicolons when they are sent.
        statements: Vec<String>,
        /// Data, sent at once, and whether they end well.
        copy: Option<(String, CopyEnd)>,
        /// Of its rows.
        order: Order,
    },
    /// These messages and Sync.
    Extended {
        /// The messages.
        asks: Vec<Ask>,
        /// Of their rows.
        order: Order,
    },
}

/// How COPY data end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// CopyDone.
    Done,
    /// CopyFail.
    Fail,
}

/// Fails wherever it stands in a Query, but not before what is in front of it has run.
const FAILING: &str = "SELECT 1 / 0";
/// Fails in Parse.
const BROKEN: &str = "refused by the other server";

impl Exchange {
    /// A Query of one statement.
    #[must_use]
    pub fn query(sql: impl Into<String>, order: Order) -> Exchange {
        Exchange::Simple {
            statements: vec![sql.into()],
            copy: None,
            order,
        }
    }

    /// Of its rows.
    #[must_use]
    pub fn order(&self) -> Order {
        match self {
            Exchange::Simple { order, .. } | Exchange::Extended { order, .. } => *order,
        }
    }

    /// How many statements it gives to be run or prepared.
    #[must_use]
    pub fn statements(&self) -> usize {
        match self {
            Exchange::Simple { statements, .. } => statements.len(),
            Exchange::Extended { asks, .. } => {
                let runs = |ask: &&Ask| matches!(ask, Ask::Bind { .. });
                // Without any it is prepared for later.
                asks.iter().filter(runs).count().max(1)
            }
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self {
            Exchange::Simple { statements, copy, .. } => {
                simple(&statements.join("; "), &mut out);
                if let Some((data, end)) = copy {
                    copy_data(data, *end, &mut out);
                }
            }
            Exchange::Extended { asks, .. } => {
                for ask in asks {
                    ask.write(&mut out);
                }
                frontend::sync(&mut out);
            }
        }
        out
    }

    /// The same for another server, when this one answered so and refused a part of it: what it did before it refused, and
    /// then something that fails, so that both have done the same.
    #[must_use]
    pub fn up_to_refusal(&self, answered: &[Message]) -> BytesMut {
        let before = answered.iter().take_while(|message| message.tag != b'E');
        let mut out = BytesMut::new();
        match self {
            Exchange::Simple { statements, .. } => {
                // It has asked for COPY's rows before it refused them.
                let copies = before.clone().any(|message| message.tag == b'G');
                let done = before
                    .filter(|message| matches!(message.tag, b'C' | b'I'))
                    .count();
                let texts = statements.iter().map(String::as_str);
                if copies {
                    let kept: Vec<&str> = texts.take(done + 1).collect();
                    simple(&kept.join("; "), &mut out);
                    copy_data("", CopyEnd::Fail, &mut out);
                } else {
                    let kept: Vec<&str> = texts.take(done).chain([FAILING]).collect();
                    simple(&kept.join("; "), &mut out);
                }
            }
            Exchange::Extended { asks, .. } => {
                // Each message is answered by one of these; rows come in between.
                let ends = |message: &&Message| {
                    matches!(message.tag, b'1' | b'2' | b'3' | b'T' | b'n' | b'C' | b'I' | b's')
                };
                let done = before.filter(ends).count();
                let mut answers = 0;
                for ask in asks {
                    answers += usize::from(!matches!(ask, Ask::Flush | Ask::Copy(_)));
                    if answers > done {
                        break;
                    }
                    ask.write(&mut out);
                }
                let ask = Ask::Parse {
                    name: String::new(),
                    sql: BROKEN.to_owned(),
                    types: Vec::new(),
                };
                ask.write(&mut out);
                frontend::sync(&mut out);
            }
        }
        out
    }
}

impl Ask {
    fn write(&self, out: &mut BytesMut) {
        let written = match self {
            Ask::Parse { name, sql, types } => frontend::parse(name, sql, types.iter().copied(), out),
            Ask::Bind {
                portal,
                statement,
                values,
                results,
            } => {
                let formats = values.iter().map(|(format, _)| *format);
                let bytes = values.iter().map(|(_, bytes)| bytes);
                let write = |value: &Option<Vec<u8>>, out: &mut BytesMut| {
                    let Some(value) = value else {
                        return Ok(IsNull::Yes);
                    };
                    out.put_slice(value);
                    Ok(IsNull::No)
                };
                let bound = frontend::bind(
                    portal,
                    statement,
                    formats,
                    bytes,
                    write,
                    results.iter().copied(),
                    out,
                );
                bound.map_err(|_| std::io::Error::other("a value that cannot be bound"))
            }
            Ask::Describe(kind, name) => frontend::describe(letter(*kind), name, out),
            Ask::Execute(portal, rows) => frontend::execute(portal, *rows, out),
            Ask::Close(kind, name) => frontend::close(letter(*kind), name, out),
            Ask::Flush => {
                frontend::flush(out);
                Ok(())
            }
            Ask::Copy(data) => {
                copy_data(data, CopyEnd::Done, out);
                Ok(())
            }
        };
        written.expect("the generator makes no zero bytes and no giants");
    }
}

fn letter(kind: char) -> u8 {
    u8::try_from(kind).expect("S or P")
}

fn simple(sql: &str, out: &mut BytesMut) {
    frontend::query(sql, out).expect("the generator makes no zero bytes and no giants");
}

fn copy_data(data: &str, end: CopyEnd, out: &mut BytesMut) {
    // In two pieces that care for no line.
    let middle = (data.len() / 2..data.len()).find(|at| data.is_char_boundary(*at));
    let (one, two) = data.split_at(middle.unwrap_or(0));
    for piece in [one, two] {
        let message = CopyData::new(piece.as_bytes()).expect("a short piece");
        message.write(out);
    }
    match end {
        CopyEnd::Done => frontend::copy_done(out),
        CopyEnd::Fail => frontend::copy_fail("the client has changed its mind", out).expect("a short text"),
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exchange::Simple { statements, copy, .. } => {
                write!(f, "{}", statements.join("; "))?;
                match copy {
                    Some((data, end)) => write!(f, "  <- {data:?}, {end:?}"),
                    None => Ok(()),
                }
            }
            Exchange::Extended { asks, .. } => {
                let shown: Vec<String> = asks.iter().map(ToString::to_string).collect();
                write!(f, "{} | Sync", shown.join(" | "))
            }
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ask::Parse { name, sql, types } => write!(f, "Parse {name:?} {sql} {types:?}"),
            Ask::Bind {
                portal,
                statement,
                values,
                results,
            } => {
                let shown: Vec<String> = values
                    .iter()
                    .map(|(format, value)| match value {
                        None => "NULL".to_owned(),
                        Some(value) => format!("{format}:{}", value.escape_ascii()),
                    })
                    .collect();
                write!(
                    f,
                    "Bind {portal:?} of {statement:?} ({}) {results:?}",
                    shown.join(", ")
                )
            }
            Ask::Describe(kind, name) => write!(f, "Describe {kind} {name:?}"),
            Ask::Execute(portal, rows) => write!(f, "Execute {portal:?} {rows}"),
            Ask::Close(kind, name) => write!(f, "Close {kind} {name:?}"),
            Ask::Flush => write!(f, "Flush"),
            Ask::Copy(data) => write!(f, "CopyData {data:?}, CopyDone"),
        }
    }
}

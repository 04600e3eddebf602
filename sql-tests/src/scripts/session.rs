//! One session of a script, by the simple protocol: values as PostgreSQL writes them, errors with all that they say.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use sqllogictest::{AsyncDB, ColumnType, DBOutput};

use super::HOWDAH;
use crate::Result;
use crate::differential::exchange::{CopyEnd, Exchange, Order};
use crate::differential::wire::{Broken, Message, Wire};

/// Where a script makes its tables. The name is in some answers.
const SCHEMA: &str = "script";

/// Which of the two servers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Howdah(SocketAddr),
    Plain(SocketAddr),
}

impl Side {
    /// Makes the schema for the next script, without what the last one left in it.
    pub(super) async fn make_schema(self) -> Result<()> {
        self.define(&format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
            .await?;
        self.define(&format!("CREATE SCHEMA {SCHEMA}")).await
    }

    async fn define(self, sql: &str) -> Result<()> {
        let answered = self.connect().await?.exchange(&query(sql)).await?;
        match answered.iter().find(|message| message.tag == b'E') {
            Some(error) => Err(format!("{self}: {sql}: {}", Failed::of(error)).into()),
            None => Ok(()),
        }
    }

    async fn connect(self) -> Result<Wire> {
        let (Side::Howdah(address) | Side::Plain(address)) = self;
        Wire::connect(address).await
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Howdah(_) => "Howdah",
            Side::Plain(_) => "PostgreSQL",
        })
    }
}

/// What a server, or the way to it, says instead of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// An ErrorResponse: SQLSTATE, message, and where they are there DETAIL and HINT, a line each.
    #[error("{0}")]
    Told(String),
    /// No whole answer.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
}

impl Failed {
    fn of(error: &Message) -> Failed {
        let mut lines = vec![error.sqlstate().unwrap_or_default()];
        lines.extend(error.field(b'M'));
        lines.extend(error.field(b'D').map(|text| format!("DETAIL: {text}")));
        lines.extend(error.field(b'H').map(|text| format!("HINT: {text}")));
        Failed::Told(lines.join("\n"))
    }
}

/// A column's type, as sqllogictest writes it, and beyond its own three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `I`: `smallint`, `integer`, `bigint`.
    Integer,
    /// `R`: `numeric`, `real`, `double precision`.
    Real,
    /// `T`: texts.
    Text,
    /// `B`: `boolean`.
    Boolean,
    /// `D`: dates and times.
    Date,
    /// `?`: any other.
    Other,
}

impl Kind {
    /// By the OID of the type, which is the same everywhere for PostgreSQL's own (`pg_type.dat`).
    fn of(oid: u32) -> Kind {
        match oid {
            20 | 21 | 23 => Kind::Integer,
            700 | 701 | 1700 => Kind::Real,
            18 | 19 | 25 | 1042 | 1043 => Kind::Text,
            16 => Kind::Boolean,
            1082 | 1083 | 1114 | 1184 | 1266 => Kind::Date,
            _ => Kind::Other,
        }
    }
}

impl ColumnType for Kind {
    fn from_char(value: char) -> Option<Kind> {
        Some(match value {
            'I' => Kind::Integer,
            'R' => Kind::Real,
            'T' => Kind::Text,
            'B' => Kind::Boolean,
            'D' => Kind::Date,
            '?' => Kind::Other,
            _ => return None,
        })
    }

    fn to_char(&self) -> char {
        match self {
            Kind::Integer => 'I',
            Kind::Real => 'R',
            Kind::Text => 'T',
            Kind::Boolean => 'B',
            Kind::Date => 'D',
            Kind::Other => '?',
        }
    }
}

/// A connection, in the script's schema.
pub(super) struct Session {
    side: Side,
    wire: Wire,
}

impl Session {
    pub(super) async fn open(side: Side) -> std::result::Result<Session, Failed> {
        let connected = side.connect().await;
        let wire = connected.map_err(|error| Failed::Unreachable(error.to_string()))?;
        let mut session = Session { side, wire };
        session.run(&format!("SET search_path = {SCHEMA}")).await?;
        Ok(session)
    }
}

#[async_trait]
impl AsyncDB for Session {
    type Error = Failed;
    type ColumnType = Kind;

    /// The last of the statements' results. Rows for COPY FROM STDIN follow the statement's first line, up to a line `\.`
    async fn run(&mut self, sql: &str) -> std::result::Result<DBOutput<Kind>, Failed> {
        let bytes = match sql.split_once('\n') {
            Some((copy, rows)) if rows.ends_with("\\.") => Exchange::Simple {
                statements: vec![copy.to_owned()],
                copy: Some((rows.trim_end_matches("\\.").to_owned(), CopyEnd::Done)),
                order: Order::Any,
            }
            .bytes(),
            _ => query(sql),
        };
        let answered = self.wire.exchange(&bytes).await?;
        if let Some(error) = answered.iter().find(|message| message.tag == b'E') {
            return Err(Failed::of(error));
        }
        let mut output = DBOutput::StatementComplete(0);
        for message in &answered {
            match (message.tag, &mut output) {
                (b'T', _) => {
                    let (types, rows) = (described(&message.body), Vec::new());
                    output = DBOutput::Rows { types, rows };
                }
                // COPY ... TO STDOUT: its lines.
                (b'H', _) => {
                    let (types, rows) = (vec![Kind::Text], Vec::new());
                    output = DBOutput::Rows { types, rows };
                }
                (b'D', DBOutput::Rows { rows, .. }) => rows.push(values(&message.body)),
                (b'd', DBOutput::Rows { rows, .. }) => {
                    rows.push(vec![String::from_utf8_lossy(&message.body).trim_end().to_owned()]);
                }
                (b'C', DBOutput::StatementComplete(count)) => *count = rows_of(&message.body),
                _ => {}
            }
        }
        Ok(output)
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        match self.side {
            Side::Howdah(_) => HOWDAH,
            Side::Plain(_) => "postgres",
        }
    }
}

fn query(sql: &str) -> bytes::BytesMut {
    Exchange::query(sql, Order::Any).bytes()
}

/// RowDescription: after their number the columns, each a name that ends in a zero byte and 18 bytes, the type's OID from the seventh on.
fn described(body: &[u8]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let Some(column) = rest.get(end + 1..end + 19) else {
            break;
        };
        kinds.push(Kind::of(number(&column[6..10])));
        rest = &rest[end + 19..];
    }
    kinds
}

/// DataRow: after their number the values, each its length, or -1 for NULL, and its bytes.
fn values(body: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, after)) = rest.split_at_checked(4) {
        let length = number(length);
        if length == u32::MAX {
            values.push("NULL".to_owned());
            rest = after;
            continue;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (value, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        values.push(match value {
            [] => "(empty)".to_owned(),
            _ => String::from_utf8_lossy(value).into_owned(),
        });
        rest = after;
    }
    values
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// What a command tag ends in; 0 where it has no number.
fn rows_of(tag: &[u8]) -> u64 {
    let tag = String::from_utf8_lossy(tag);
    let number = tag.trim_end_matches('\0').rsplit(' ').next();
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
}

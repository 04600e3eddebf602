//! A shard key's type, and the slot of a value that a statement gives for it.

use super::parse::{self, Numeric};
use super::{HashSlot, pg};

/// A type that a shard key can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `text` (with a deterministic collation)
    Text,
    /// `character varying` (with a deterministic collation)
    Varchar,
    /// `character(n)`: trailing blanks do not count
    Bpchar,
    /// `uuid`
    Uuid,
    /// `boolean`
    Bool,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `numeric`
    Numeric,
    /// `bytea`
    Bytea,
}

impl KeyType {
    /// All of them.
    pub const ALL: [KeyType; 13] = [
        KeyType::Int2,
        KeyType::Int4,
        KeyType::Int8,
        KeyType::Text,
        KeyType::Varchar,
        KeyType::Bpchar,
        KeyType::Uuid,
        KeyType::Bool,
        KeyType::Date,
        KeyType::Timestamp,
        KeyType::Timestamptz,
        KeyType::Numeric,
        KeyType::Bytea,
    ];

    /// The type with this OID (built-in types have the same in every PostgreSQL); none if it cannot be a shard key.
    #[must_use]
    pub fn from_oid(oid: u32) -> Option<KeyType> {
        KeyType::ALL.into_iter().find(|key_type| key_type.oid() == oid)
    }

    /// The OID of the type (`pg_type.dat`).
    #[must_use]
    pub fn oid(self) -> u32 {
        match self {
            KeyType::Int2 => 21,
            KeyType::Int4 => 23,
            KeyType::Int8 => 20,
            KeyType::Text => 25,
            KeyType::Varchar => 1043,
            KeyType::Bpchar => 1042,
            KeyType::Uuid => 2950,
            KeyType::Bool => 16,
            KeyType::Date => 1082,
            KeyType::Timestamp => 1114,
            KeyType::Timestamptz => 1184,
            KeyType::Numeric => 1700,
            KeyType::Bytea => 17,
        }
    }

    /// A type that stands for all whose equal values hash alike (`howdah.hash_family` in schema.sql).
    #[must_use]
    pub fn family(self) -> KeyType {
        match self {
            KeyType::Int2 | KeyType::Int4 => KeyType::Int8,
            KeyType::Varchar => KeyType::Text,
            other => other,
        }
    }

    /// The type's name in SQL, safe against any `search_path`.
    #[must_use]
    pub fn sql_name(self) -> &'static str {
        match self {
            KeyType::Int2 => "pg_catalog.int2",
            KeyType::Int4 => "pg_catalog.int4",
            KeyType::Int8 => "pg_catalog.int8",
            KeyType::Text => "pg_catalog.text",
            KeyType::Varchar => "pg_catalog.varchar",
            KeyType::Bpchar => "pg_catalog.bpchar",
            KeyType::Uuid => "pg_catalog.uuid",
            KeyType::Bool => "pg_catalog.bool",
            KeyType::Date => "pg_catalog.date",
            KeyType::Timestamp => "pg_catalog.timestamp",
            KeyType::Timestamptz => "pg_catalog.timestamptz",
            KeyType::Numeric => "pg_catalog.numeric",
            KeyType::Bytea => "pg_catalog.bytea",
        }
    }

    fn is_integer(self) -> bool {
        matches!(self, KeyType::Int2 | KeyType::Int4 | KeyType::Int8)
    }

    fn is_string(self) -> bool {
        matches!(self, KeyType::Text | KeyType::Varchar | KeyType::Bpchar)
    }
}

/// What the statement does with the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// `key = value`: rows that hold an equal key are looked for. Where no row can hold one, any slot is right.
    ///
    /// Of `key IN (...)`, all values are compared in one common type: if one of them is [`KeyError::Unroutable`],
    /// all are.
    Comparison,
    /// `INSERT`, `COPY`: the value is stored, after PostgreSQL has fitted it to the column's type and modifier
    /// (`numeric(10,2)` rounds, `varchar(5)` takes blanks off). Where PostgreSQL refuses it, any slot is right.
    Assignment,
}

/// A value for the shard key as a statement gives it.
///
/// `type_oid` is the type that the client declared for a parameter, or that a cast or typed literal names;
/// 0 (nothing declared) and 705 (`unknown`, a plain quoted literal) take the column's type.
/// Text is in the server's encoding. A proxy whose client has another `client_encoding` must let PostgreSQL
/// compute the slot of any text that is not ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// NULL.
    Null,
    /// An unquoted numeric literal, with its sign: `42`, `-1.50`.
    Number(&'a str),
    /// `TRUE` or `FALSE`.
    Bool(bool),
    /// A quoted literal (without its quotes, escapes resolved) or a parameter in text format.
    Text {
        /// The declared type, see above.
        type_oid: u32,
        /// The type's input text.
        text: &'a [u8],
    },
    /// A parameter in binary format.
    Binary {
        /// The declared type, see above.
        type_oid: u32,
        /// The type's binary form, as its `recv` function takes it.
        bytes: &'a [u8],
    },
}

/// Why the slot of a value was not computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// PostgreSQL knows: its slot is what [`KeyColumn::slot_query`] (parameter) or
    /// [`KeyColumn::slot_query_of`] (literal) returns. If that query fails, its error is the statement's.
    #[error("only PostgreSQL can tell what value this is")]
    AskPostgres,
    /// The comparison is not an equality of the column's own type, so equal rows may be in any slot.
    #[error("the comparison is not one of the shard key's own type")]
    Unroutable,
}

/// The shard key's column, as far as hashing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyColumn {
    /// The type.
    pub key_type: KeyType,
    /// `pg_attribute.atttypmod`: -1 for none.
    pub type_modifier: i32,
}

/// `pg_type.oid` of `unknown`.
const UNKNOWN: u32 = 705;

impl KeyColumn {
    /// The slot of a parameter of a prepared statement: `bytes` is none for NULL.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn from_parameter(
        &self,
        used: KeyUse,
        type_oid: u32,
        format: i16,
        bytes: Option<&[u8]>,
    ) -> Result<HashSlot, KeyError> {
        match (bytes, format) {
            (None, _) => Ok(HashSlot::NULL),
            (Some(text), 0) => self.slot(used, KeySource::Text { type_oid, text }),
            (Some(bytes), 1) => self.slot(used, KeySource::Binary { type_oid, bytes }),
            // PostgreSQL refuses any other format code.
            (Some(_), _) => Err(KeyError::AskPostgres),
        }
    }

    /// The slot of a value: of the rows that equal it, or of the row that stores it.
    ///
    /// # Errors
    /// See [`KeyError`]. A comparison with NULL finds no row; its slot is still [`HashSlot::NULL`].
    pub fn slot(&self, used: KeyUse, source: KeySource<'_>) -> Result<HashSlot, KeyError> {
        match source {
            KeySource::Null => Ok(HashSlot::NULL),
            KeySource::Bool(value) => match self.key_type {
                KeyType::Bool => Ok(integer(i64::from(value))),
                _ => Err(foreign(used)),
            },
            KeySource::Number(text) => match self.key_type {
                KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Numeric => {
                    let odd = if self.key_type == KeyType::Numeric {
                        KeyError::AskPostgres
                    } else {
                        foreign(used)
                    };
                    self.number(used, parse::number(text.as_bytes()), odd)
                }
                _ => Err(foreign(used)),
            },
            KeySource::Text { type_oid, text } => match self.source_type(type_oid) {
                Some(source) => self.text(used, source, text),
                None => Err(foreign(used)),
            },
            KeySource::Binary { type_oid, bytes } => match self.source_type(type_oid) {
                Some(source) => self.binary(used, source, bytes),
                None => Err(foreign(used)),
            },
        }
    }

    /// The query that has PostgreSQL compute the slot of a parameter: one row, one `int8`.
    ///
    /// Parse it with the client's own parameter type for `$1` and bind the client's own bytes and format to it, in
    /// the client's own session, because its settings (`TimeZone`, `DateStyle`, `client_encoding`) decide what the
    /// text means.
    #[must_use]
    pub fn slot_query(&self, used: KeyUse) -> String {
        self.slot_query_of(used, "$1")
    }

    /// The same for a literal or another constant expression, given as SQL.
    #[must_use]
    pub fn slot_query_of(&self, used: KeyUse, expression: &str) -> String {
        let name = self.key_type.sql_name();
        let modifier = match used {
            // A comparison does not round its value to the column's modifier, and must not fail by it.
            KeyUse::Comparison => String::new(),
            KeyUse::Assignment => self.modifier_sql(),
        };
        // The cast also gives an undeclared parameter the column's type, as the statement itself does.
        format!(
            "SELECT pg_catalog.hash_record_extended(ROW(CAST({expression} AS {name}{modifier})), 0) & 4095"
        )
    }

    /// The modifier as SQL writes it behind the type's name, empty for none (`numerictypmodout` and its like).
    fn modifier_sql(&self) -> String {
        match (self.key_type, self.type_modifier) {
            (_, ..0) => String::new(),
            (KeyType::Varchar | KeyType::Bpchar, modifier) => format!("({})", modifier - 4),
            (KeyType::Numeric, _) => {
                let (precision, scale) = self.numeric_modifier();
                format!("({precision},{scale})")
            }
            (KeyType::Timestamp | KeyType::Timestamptz, modifier) => format!("({modifier})"),
            _ => String::new(),
        }
    }

    /// Precision and scale of a numeric column with a modifier (`make_numeric_typmod` in `numeric.c`).
    fn numeric_modifier(&self) -> (i32, i32) {
        let packed = self.type_modifier.wrapping_sub(4);
        ((packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024)
    }

    /// The type that the source's text or bytes are in, if this file knows how it meets the column's type.
    fn source_type(&self, type_oid: u32) -> Option<KeyType> {
        if type_oid == 0 || type_oid == UNKNOWN {
            return Some(self.key_type);
        }
        let source = KeyType::from_oid(type_oid)?;
        let column = self.key_type;
        let numbers = |t: KeyType| t.is_integer() || t == KeyType::Numeric;
        // A `character(n)` value loses its blanks on the way to text, and operators differ: leave it to PostgreSQL.
        let known = source == column
            || (numbers(source) && numbers(column))
            || (source.is_string() && source != KeyType::Bpchar && column.is_string());
        known.then_some(source)
    }

    fn text(&self, used: KeyUse, source: KeyType, text: &[u8]) -> Result<HashSlot, KeyError> {
        match source {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => self.number(
                used,
                parse::integer(text).map(Numeric::Integer),
                self.odd(used, source),
            ),
            KeyType::Numeric => self.number(used, parse::number(text), self.odd(used, source)),
            KeyType::Text | KeyType::Varchar | KeyType::Bpchar => Ok(self.string(used, text)),
            KeyType::Uuid => parse::uuid(text)
                .map(|uuid| hashed(&uuid))
                .ok_or(KeyError::AskPostgres),
            KeyType::Bool => match text {
                b"t" | b"true" => Ok(integer(1)),
                b"f" | b"false" => Ok(integer(0)),
                _ => Err(KeyError::AskPostgres),
            },
            KeyType::Date => parse::date(text)
                .map(|days| integer(i64::from(days)))
                .ok_or(KeyError::AskPostgres),
            KeyType::Timestamp => self.moment(used, parse::timestamp(text)),
            KeyType::Timestamptz => self.moment(used, parse::timestamptz(text)),
            KeyType::Bytea => parse::bytea(text)
                .map(|bytes| hashed(&bytes))
                .ok_or(KeyError::AskPostgres),
        }
    }

    fn binary(&self, used: KeyUse, source: KeyType, bytes: &[u8]) -> Result<HashSlot, KeyError> {
        match source {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => {
                let value = match source {
                    KeyType::Int2 => bytes.try_into().ok().map(i16::from_be_bytes).map(i64::from),
                    KeyType::Int4 => bytes.try_into().ok().map(i32::from_be_bytes).map(i64::from),
                    _ => bytes.try_into().ok().map(i64::from_be_bytes),
                };
                self.number(used, value.map(Numeric::Integer), self.odd(used, source))
            }
            KeyType::Numeric => self.number(used, parse::binary_numeric(bytes), self.odd(used, source)),
            KeyType::Text | KeyType::Varchar | KeyType::Bpchar => Ok(self.string(used, bytes)),
            KeyType::Uuid if bytes.len() == 16 => Ok(hashed(bytes)),
            KeyType::Bool if bytes.len() == 1 => Ok(integer(i64::from(bytes[0] != 0))),
            KeyType::Date => {
                let days = bytes.try_into().ok().map(i32::from_be_bytes);
                days.map(|days| integer(i64::from(days)))
                    .ok_or(KeyError::AskPostgres)
            }
            KeyType::Timestamp | KeyType::Timestamptz => {
                self.moment(used, bytes.try_into().ok().map(i64::from_be_bytes))
            }
            KeyType::Bytea => Ok(hashed(bytes)),
            KeyType::Uuid | KeyType::Bool => Err(KeyError::AskPostgres),
        }
    }

    /// What to say of a form that is not certain, of a value of this type.
    fn odd(&self, used: KeyUse, source: KeyType) -> KeyError {
        if source == self.key_type {
            KeyError::AskPostgres
        } else {
            foreign(used)
        }
    }

    /// The slot of a number, in a column of integers or of numeric; `odd` where none was read.
    fn number(&self, used: KeyUse, number: Option<Numeric>, odd: KeyError) -> Result<HashSlot, KeyError> {
        let number = number.ok_or(odd)?;
        if self.key_type == KeyType::Numeric {
            let rounds = self.type_modifier >= 0 && number.scale() > self.numeric_modifier().1;
            if used == KeyUse::Assignment && rounds {
                return Err(KeyError::AskPostgres);
            }
            return Ok(HashSlot::of_hash(number.hash()));
        }
        match (number.to_integer(), used) {
            (Some(value), _) => Ok(integer(value)),
            // No integer equals a fraction, or a value beyond int8: any slot.
            (None, KeyUse::Comparison) => Ok(HashSlot::NULL),
            (None, KeyUse::Assignment) => Err(KeyError::AskPostgres),
        }
    }

    /// The slot of a string, in a column of strings.
    fn string(&self, used: KeyUse, text: &[u8]) -> HashSlot {
        match self.key_type {
            KeyType::Bpchar => hashed(parse::without_trailing_blanks(text)),
            // Storing takes off blanks beyond the length; what else is too long, PostgreSQL refuses.
            KeyType::Varchar if used == KeyUse::Assignment && self.type_modifier >= 4 => {
                let length = usize::try_from(self.type_modifier - 4).unwrap_or(usize::MAX);
                hashed(parse::at_most_characters(text, length))
            }
            _ => hashed(text),
        }
    }

    /// The slot of a timestamp in microseconds.
    fn moment(&self, used: KeyUse, microseconds: Option<i64>) -> Result<HashSlot, KeyError> {
        let microseconds = microseconds.ok_or(KeyError::AskPostgres)?;
        let rounds = (0..6).contains(&self.type_modifier) && microseconds % 1_000_000 != 0;
        if used == KeyUse::Assignment && rounds {
            return Err(KeyError::AskPostgres);
        }
        Ok(integer(microseconds))
    }
}

/// A value of a type that this file does not bring together with the column's.
fn foreign(used: KeyUse) -> KeyError {
    match used {
        // The comparison may be made in a third type (float8, say), in which unequal keys are equal.
        KeyUse::Comparison => KeyError::Unroutable,
        KeyUse::Assignment => KeyError::AskPostgres,
    }
}

fn integer(value: i64) -> HashSlot {
    HashSlot::of_hash(pg::hash_integer(value))
}

fn hashed(bytes: &[u8]) -> HashSlot {
    HashSlot::of_hash(pg::hash_bytes(bytes))
}

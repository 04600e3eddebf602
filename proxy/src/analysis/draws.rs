//! The text of a statement with holes for values that the session gives, of sequences and of its time, and what belongs into each.

use chrono::DateTime;

use super::lexer::{Kind, Token};
use super::plan::RelationName;

/// A statement with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draws {
    pieces: Vec<Piece>,
    /// What the holes get, in the order in which PostgreSQL would evaluate it.
    pub draws: Vec<Draw>,
    /// The highest number of the client's parameters.
    pub given: usize,
    /// The text with a parameter in each hole, numbered from `given` on.
    pub text: String,
}

/// What one hole gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Which hole, in the order of the text.
    pub hole: usize,
    /// A value of what.
    pub of: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `nextval()`. An identity column's needs no privilege on the sequence.
    Next {
        /// The sequence.
        sequence: SequenceName,
        /// Whether it is that of an identity column.
        identity: bool,
    },
    /// `currval()`.
    Current(SequenceName),
    /// `lastval()`.
    Last,
    /// `now()`.
    Transaction,
    /// `statement_timestamp()`.
    Statement,
}

impl Source {
    /// Whether it is a time, in microseconds since 1970, rather than a number.
    #[must_use]
    pub fn is_time(&self) -> bool {
        matches!(self, Source::Transaction | Source::Statement)
    }
}

/// How a statement names a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceName {
    /// By this name.
    Known(RelationName),
    /// By the value of a parameter: its number, counted from 1, and the type that it gets where none is declared.
    Parameter(usize, u32),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Of the client's text, with how many of its characters come before.
    Kept(String, usize),
    Added(String),
    Hole(usize),
}

/// Where the parts of a text stand in another one: where each begins in either, and how long it is, in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<(usize, usize, usize)>);

impl Places {
    /// The place in the other text, both counted from 1; of what is not there, that of what comes before it.
    #[must_use]
    pub fn of(&self, position: usize) -> usize {
        let at = position.saturating_sub(1);
        let before = self.0.iter().rev().find(|(here, ..)| *here <= at);
        before.map_or(1, |(here, there, length)| there + (at - here).min(*length) + 1)
    }
}

impl Draws {
    /// The text with these values in its holes.
    #[must_use]
    pub fn with_constants(&self, values: &[i64]) -> String {
        self.filled(|hole| self.constant_of(values, hole))
    }

    /// Where the client's text stands in that.
    #[must_use]
    pub fn places(&self, values: &[i64]) -> Places {
        let (mut at, mut places) = (0, Vec::new());
        for piece in &self.pieces {
            let length = match piece {
                Piece::Kept(text, there) => {
                    let length = text.chars().count();
                    places.push((at, *there, length));
                    length
                }
                Piece::Added(text) => text.chars().count(),
                Piece::Hole(hole) => self.constant_of(values, *hole).len(),
            };
            at += length;
        }
        Places(places)
    }

    /// How many holes there are.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.draws.len()
    }

    /// The type of the parameter with this number, from 1, if it names a sequence.
    #[must_use]
    pub fn name_type(&self, number: usize) -> Option<u32> {
        self.draws.iter().find_map(|draw| match &draw.of {
            Source::Next { sequence, .. } | Source::Current(sequence) => match sequence {
                SequenceName::Parameter(at, of) if *at == number => Some(*of),
                _ => None,
            },
            Source::Last | Source::Transaction | Source::Statement => None,
        })
    }

    /// Whether the session gives nothing but the time.
    #[must_use]
    pub fn only_tells_time(&self) -> bool {
        self.draws.iter().all(|draw| draw.of.is_time())
    }

    /// Whether a hole is for a time.
    #[must_use]
    pub fn is_time(&self, hole: usize) -> bool {
        let of_hole = |draw: &&Draw| draw.hole == hole;
        self.draws
            .iter()
            .find(of_hole)
            .is_some_and(|draw| draw.of.is_time())
    }

    /// A value as text.
    #[must_use]
    pub fn shown(&self, hole: usize, value: i64) -> String {
        if self.is_time(hole) {
            shown_time(value)
        } else {
            value.to_string()
        }
    }

    fn constant_of(&self, values: &[i64], hole: usize) -> String {
        let value = values.get(hole).copied().unwrap_or_default();
        let of = if self.is_time(hole) {
            "timestamptz"
        } else {
            "bigint"
        };
        format!("'{}'::{of}", self.shown(hole, value))
    }

    fn filled(&self, value: impl Fn(usize) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Kept(text, _) | Piece::Added(text) => text.clone(),
            Piece::Hole(hole) => value(*hole),
        };
        self.pieces.iter().map(piece).collect()
    }
}

/// Microseconds since 1970, as PostgreSQL reads them whatever its settings are.
fn shown_time(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

/// Bytes of a text, and what comes there instead: text, and a value where it is one.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) bytes: std::ops::Range<usize>,
    pub(super) text: String,
    /// What fills the hole behind the text, and its rank in the order of evaluation.
    pub(super) hole: Option<(Rank, Source)>,
    /// What comes behind that.
    pub(super) after: String,
}

/// By row of VALUES, then by column, then by place in the text.
pub(super) type Rank = (usize, i16, usize);

impl Edit {
    pub(super) fn text(at: usize, text: String) -> Edit {
        Edit {
            bytes: at..at,
            text,
            hole: None,
            after: String::new(),
        }
    }

    pub(super) fn hole(bytes: std::ops::Range<usize>, rank: Rank, of: Source) -> Edit {
        Edit {
            bytes,
            text: String::new(),
            hole: Some((rank, of)),
            after: String::new(),
        }
    }
}

/// Puts the edits into a statement's text.
pub(super) fn fill(tokens: &[Token], sql: &str, mut edits: Vec<Edit>) -> Option<Draws> {
    let (start, end) = (tokens.first()?.range.start, tokens.last()?.range.end);
    // Those of one place stay in their order.
    edits.sort_by_key(|edit| (edit.bytes.start, edit.bytes.end));
    let (mut pieces, mut ranked, mut at) = (Vec::new(), Vec::new(), start);
    let mut characters = 0;
    for edit in edits {
        let before = sql.get(at..edit.bytes.start)?;
        pieces.push(Piece::Kept(before.to_owned(), characters));
        pieces.push(Piece::Added(edit.text));
        characters += before.chars().count() + sql.get(edit.bytes.clone())?.chars().count();
        if let Some((rank, of)) = edit.hole {
            // The same time is the same parameter: GROUP BY has to find what is selected.
            let same = |(_, _, known): &(Rank, usize, Source)| of.is_time() && *known == of;
            let hole = match ranked.iter().find(|known| same(known)) {
                Some((_, hole, _)) => *hole,
                None => {
                    ranked.push((rank, ranked.len(), of));
                    ranked.len() - 1
                }
            };
            pieces.push(Piece::Hole(hole));
        }
        pieces.push(Piece::Added(edit.after));
        at = edit.bytes.end;
    }
    pieces.push(Piece::Kept(sql.get(at..end)?.to_owned(), characters));
    ranked.sort_by_key(|(rank, hole, _)| (*rank, *hole));
    let draw = |(_, hole, of): (Rank, usize, Source)| Draw { hole, of };
    let given = tokens.iter().map(|token| match token.kind {
        Kind::Parameter(number) => number,
        _ => 0,
    });
    let mut draws = Draws {
        pieces,
        draws: ranked.into_iter().map(draw).collect(),
        given: given.max().unwrap_or(0),
        text: String::new(),
    };
    draws.text = draws.filled(|hole| format!("${}", draws.given + hole + 1));
    Some(draws)
}

//! Calls of functions of sequences, and what their arguments name.

use coordinator::catalogue::{Catalogue, Oid, RelationKind, Resolved, SequenceFacts};

use super::configure::TEXT;
use super::draws::{Edit, Rank, SequenceName, Source};
use super::lexer::{Kind, Token};
use super::plan::RelationName;
use super::relations::Names;
use super::temporary::{is_of_sequences, sequence_name};
use super::words::{Words, split_commas};
use super::{Facts, Refusal};

/// A call of a function of sequences, by the places of its tokens.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) tokens: std::ops::Range<usize>,
    pub(super) of: Source,
    pub(super) name: &'static str,
}

impl Call {
    pub(super) fn counts(&self) -> bool {
        matches!(self.of, Source::Next { .. })
    }
}

/// The calls that a session can answer. Temporary sequences are their home group's, and what cannot be told is left to
/// whoever refuses it.
pub(super) fn find_calls(tokens: &[Token], names: Names<'_>) -> Result<Vec<Call>, Refusal> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let before = at.checked_sub(1).map(|before| &tokens[before].kind);
        if before == Some(&Kind::Punctuation('.')) {
            continue;
        }
        let mut words = Words::new(&tokens[at..]);
        let Some(parts) = words.dotted_name() else {
            continue;
        };
        let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
        if !is_of_sequences(&borrowed) {
            continue;
        }
        let Some(arguments) = words.parenthesised() else {
            continue;
        };
        let name = borrowed.last().copied().unwrap_or_default();
        let (name, of) = match name {
            "lastval" if arguments.is_empty() && names.facts.temporaries.is_empty() => {
                ("lastval", Source::Last)
            }
            "nextval" | "currval" => match argument(arguments, names)? {
                Some(sequence) if name == "nextval" => (
                    "nextval",
                    Source::Next {
                        sequence,
                        identity: false,
                    },
                ),
                Some(sequence) => ("currval", Source::Current(sequence)),
                None => continue,
            },
            _ => continue,
        };
        let tokens = at..tokens.len() - words.rest().len();
        found.push(Call { tokens, of, name });
    }
    Ok(found)
}

/// The sequence that an argument names: a constant, a parameter, or what a column has.
pub(super) fn argument(tokens: &[Token], names: Names<'_>) -> Result<Option<SequenceName>, Refusal> {
    let mut words = Words::new(tokens);
    if words.take(&["cast"]) {
        let Some(inside) = words.parenthesised().filter(|_| words.is_empty()) else {
            return Ok(None);
        };
        let mut inside = Words::new(inside);
        let first = inside.rest().get(..1).unwrap_or_default();
        inside.next();
        if !inside.take(&["as"]) {
            return Ok(None);
        }
        let of = cast_type(inside.rest());
        if !is_type(&mut inside) || !inside.is_empty() {
            return Ok(None);
        }
        return Ok(match argument(first, names)? {
            Some(SequenceName::Parameter(number, _)) => Some(SequenceName::Parameter(number, of)),
            named => named,
        });
    }
    let named = match words.peek() {
        Some(Kind::Text(text)) => {
            let text = text.clone();
            words.next();
            by_name(&text, names)?
        }
        Some(Kind::Parameter(number)) => {
            let number = *number;
            words.next();
            let of = cast_type(words.rest());
            Some(SequenceName::Parameter(number, of))
        }
        _ => {
            let function = words.dotted_name().unwrap_or_default();
            let arguments = words.parenthesised().map(split_commas).unwrap_or_default();
            match (function.last().map(String::as_str), arguments.as_slice()) {
                (Some("pg_get_serial_sequence"), [table, column]) => of_column(table, column, names),
                _ => None,
            }
        }
    };
    while words.take_operator("::") {
        if !is_type(&mut words) {
            return Ok(None);
        }
    }
    Ok(named.filter(|_| words.is_empty()))
}

/// `regclass`, by its OID.
pub const REGCLASS: u32 = 2205;

/// The type of a parameter that names a sequence, as PostgreSQL infers it from the cast that follows.
fn cast_type(casts: &[Token]) -> u32 {
    let mut words = Words::new(casts);
    words.take_operator("::");
    if words.take(&["pg_catalog"]) {
        words.take_mark('.');
    }
    match words.take_any(&["text", "varchar"]) {
        Some("text") => TEXT,
        Some(_) => 1043,
        None => REGCLASS,
    }
}

/// Takes a type that names of sequences have.
fn is_type(words: &mut Words<'_>) -> bool {
    if words.take(&["pg_catalog"]) {
        words.take_mark('.');
    }
    words.take_any(&["regclass", "text", "varchar"]).is_some()
}

/// The sequence that a text names, as `regclass` reads it; none where it is none of ours.
///
/// # Errors
/// When it is a relation of another kind.
fn by_name(text: &str, names: Names<'_>) -> Result<Option<SequenceName>, Refusal> {
    let Some(parts) = sequence_name(text).filter(|parts| !names.facts.temporaries.has(parts)) else {
        return Ok(None);
    };
    find_sequence(&parts, names).map(|found| found.map(SequenceName::Known))
}

/// See [`by_name`].
pub(super) fn find_sequence(parts: &[String], names: Names<'_>) -> Result<Option<RelationName>, Refusal> {
    let resolved = match parts {
        [name] => names.catalogue.resolve(names.facts.search_path, None, name),
        [schema, name] => names
            .catalogue
            .resolve(names.facts.search_path, Some(schema), name),
        _ => return Ok(None),
    };
    match resolved {
        Resolved::Relation(relation) if relation.kind == RelationKind::Sequence => {
            Ok(relation.sequence.is_some().then(|| RelationName::of(relation)))
        }
        Resolved::Relation(relation) => Err(Refusal::new(
            "42809",
            format!("\"{}\" is not a sequence", relation.name),
        )),
        // None of PostgreSQL's own relations is one.
        Resolved::System => {
            let name = parts.last().map(String::as_str).unwrap_or_default();
            Err(Refusal::new("42809", format!("\"{name}\" is not a sequence")))
        }
        Resolved::Unknown => Ok(None),
    }
}

/// The sequence that a text names that a client gave as a parameter: a name, or an object id in this group.
///
/// # Errors
/// As PostgreSQL's, where there is none.
pub fn sequence_of(text: &str, facts: &Facts<'_>, catalogue: &Catalogue) -> Result<RelationName, Refusal> {
    let names = Names {
        text,
        facts: *facts,
        catalogue,
    };
    if let Ok(oid) = text.parse()
        && let Some(relation) = catalogue.sequence(Oid(oid))
    {
        return Ok(RelationName::of(relation));
    }
    let parts = sequence_name(text).unwrap_or_default();
    if names.facts.temporaries.has(&parts) {
        return Err(
            Refusal::unsupported("a temporary sequence cannot be named by a parameter")
                .hint("Write its name as a constant."),
        );
    }
    find_sequence(&parts, names)?
        .ok_or_else(|| Refusal::new("42P01", format!("relation \"{text}\" does not exist")))
}

/// `pg_get_serial_sequence('table', 'column')`. The column's name is taken as it is written.
fn of_column(table: &[Token], column: &[Token], names: Names<'_>) -> Option<SequenceName> {
    let text = |tokens: &[Token]| match tokens {
        [
            Token {
                kind: Kind::Text(text),
                ..
            },
        ] => Some(text.clone()),
        _ => None,
    };
    let parts = sequence_name(&text(table)?)?;
    let resolved = match parts.as_slice() {
        [name] => names.catalogue.resolve(names.facts.search_path, None, name),
        [schema, name] => names
            .catalogue
            .resolve(names.facts.search_path, Some(schema), name),
        _ => return None,
    };
    let Resolved::Relation(relation) = resolved else {
        return None;
    };
    let owner = (relation.oid, relation.column(&text(column)?)?.number);
    let owned = |facts: SequenceFacts| facts.owner == Some(owner);
    let mut sequences = names.catalogue.relations().iter();
    let found = sequences.find(|relation| relation.sequence.is_some_and(owned))?;
    Some(SequenceName::Known(RelationName::of(found)))
}

/// A hole in the place of a call.
pub(super) fn replace(tokens: &[Token], call: &Call, rank: Rank) -> Edit {
    let range = &tokens[call.tokens.clone()];
    let (first, last) = (range.first(), range.last());
    let start = first.map_or(0, |token| token.range.start);
    let end = last.map_or(start, |token| token.range.end);
    Edit::hole(start..end, rank, call.of.clone())
}

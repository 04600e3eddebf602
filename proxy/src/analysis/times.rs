//! Functions that tell the time of the transaction, or of the statement: of those one value must be seen by all statements of a
//! transaction, or by all groups that run a statement. So the session gives it, and a statement that calls them is one with holes
//! (`draws.rs`). `clock_timestamp()` and whatever else is of the moment of its call stays as it is.

use std::ops::{ControlFlow, Range};

use coordinator::catalogue::Column;
use sqlparser::ast::{Expr, Function, Visit, Visitor};

use super::draws::{Edit, Rank, Source};
use super::lexer::{self, Kind, Token};
use super::parse::{self, token_of};
use super::relations::parts;
use super::words::Words;

/// A call, by the places of its tokens.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) tokens: Range<usize>,
    /// What a result is called that is this call.
    pub(super) name: &'static str,
    of: Source,
    /// What brings the time to the type that the function has.
    cast: String,
}

/// Name, what it is of, the type that it has where it is not `timestamptz`, whether it is written with parentheses.
const FUNCTIONS: &[(&str, Source, &str, bool)] = &[
    ("now", Source::Transaction, "", true),
    ("transaction_timestamp", Source::Transaction, "", true),
    ("statement_timestamp", Source::Statement, "", true),
    ("current_timestamp", Source::Transaction, "timestamptz", false),
    ("current_date", Source::Transaction, "date", false),
    ("current_time", Source::Transaction, "timetz", false),
    ("localtimestamp", Source::Transaction, "timestamp", false),
    ("localtime", Source::Transaction, "time", false),
];

/// Whether a word may be such a call.
pub(super) fn is_time(token: &Token) -> bool {
    matches!(&token.kind, Kind::Word(name) | Kind::Quoted(name) if FUNCTIONS.iter().any(|(known, ..)| known == name))
}

/// The calls in a statement; none of one that the parser does not know. In FROM they stay: there a constant is no table.
pub(super) fn find(tokens: &[Token]) -> Vec<Call> {
    let mut finder = Finder {
        tokens,
        found: Vec::new(),
    };
    if !tokens.iter().any(is_time) {
        return finder.found;
    }
    if let Ok(statement) = parse::parse(tokens) {
        let _continues: ControlFlow<()> = statement.visit(&mut finder);
    }
    finder.found
}

struct Finder<'a> {
    tokens: &'a [Token],
    found: Vec<Call>,
}

impl Visitor for Finder<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let Some(call) = call(self.tokens, function)
        {
            self.found.push(call);
        }
        ControlFlow::Continue(())
    }
}

fn call(tokens: &[Token], function: &Function) -> Option<Call> {
    let name = parts(&function.name)?;
    let borrowed: Vec<&str> = name.iter().map(String::as_str).collect();
    let ([name] | ["pg_catalog", name]) = borrowed[..] else {
        return None;
    };
    let (name, of, data_type, called) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
    let idents = function.name.0.iter().filter_map(|part| part.as_ident());
    let places: Vec<usize> = idents.filter_map(token_of).collect();
    let (first, last) = (*places.first()?, *places.last()?);
    let mut words = Words::new(tokens.get(last + 1..)?);
    let arguments = words.parenthesised();
    let precision = match arguments {
        Some([]) if *called => None,
        Some(
            [
                Token {
                    kind: Kind::Number(digits),
                    ..
                },
            ],
        ) if !called && *data_type != "date" => Some(digits),
        None if !called => None,
        _ => return None,
    };
    let end = match arguments {
        Some(_) => tokens.len() - words.rest().len(),
        None => last + 1,
    };
    let cast = match (precision, *data_type) {
        (None, "" | "timestamptz") => String::new(),
        (None, data_type) => format!("::{data_type}"),
        (Some(digits), data_type) => format!("::{data_type}({digits})"),
    };
    Some(Call {
        tokens: first..end,
        name,
        of: of.clone(),
        cast,
    })
}

/// Holes in the places of calls.
pub(super) fn replace(tokens: &[Token], calls: &[Call]) -> Vec<Edit> {
    let edit = |call: &Call| {
        let range = tokens.get(call.tokens.clone()).unwrap_or_default();
        let start = range.first().map_or(0, |token| token.range.start);
        let end = range.last().map_or(start, |token| token.range.end);
        Edit {
            after: call.cast.clone(),
            ..Edit::hole(start..end, (0, 0, start), call.of.clone())
        }
    };
    calls.iter().map(edit).collect()
}

/// An expression with holes.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    /// What comes before each hole, and what is in it.
    holes: Vec<(String, Source)>,
    rest: String,
}

impl Filling {
    /// A value alone.
    pub(super) fn of(source: Source) -> Filling {
        Filling {
            holes: vec![(String::new(), source)],
            rest: String::new(),
        }
    }

    /// The DEFAULT of a column that tells the time, or is a shard key; none of another one.
    pub(super) fn of_default(column: &Column) -> Option<Filling> {
        const BEFORE: &str = "SELECT ";
        let Some(clock) = &column.clock else {
            // What it comes to must be known to find the row's group.
            return column.key_default.as_ref().map(|text| Filling {
                holes: Vec::new(),
                rest: text.clone(),
            });
        };
        let text = format!("{BEFORE}{clock}");
        let tokens = lexer::tokens(&text).ok()?;
        let mut edits = replace(&tokens, &find(&tokens));
        edits.sort_by_key(|edit| edit.bytes.start);
        let (mut at, mut cast, mut holes) = (BEFORE.len(), String::new(), Vec::new());
        for edit in edits {
            let before = format!("{cast}{}", text.get(at..edit.bytes.start)?);
            holes.push((before, edit.hole?.1));
            (at, cast) = (edit.bytes.end, edit.after);
        }
        let rest = format!("{cast}{}", text.get(at..)?);
        (!holes.is_empty()).then_some(Filling { holes, rest })
    }

    /// Puts it in the place of these bytes, behind `prefix`.
    pub(super) fn put(&self, bytes: Range<usize>, prefix: &str, rank: Rank, edits: &mut Vec<Edit>) {
        let last = self.holes.len().saturating_sub(1);
        if self.holes.is_empty() {
            edits.push(Edit {
                bytes: bytes.clone(),
                ..Edit::text(0, format!("{prefix}{}", self.rest))
            });
        }
        for (index, (before, source)) in self.holes.iter().enumerate() {
            let (place, prefix) = match index {
                0 => (bytes.clone(), prefix),
                _ => (bytes.end..bytes.end, ""),
            };
            let rest = if index == last { self.rest.as_str() } else { "" };
            edits.push(Edit {
                text: format!("{prefix}{before}"),
                after: rest.to_owned(),
                ..Edit::hole(place, rank, source.clone())
            });
        }
    }
}

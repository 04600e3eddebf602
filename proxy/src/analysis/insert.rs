//! INSERT of VALUES into a table with columns that are filled from sequences: what it does not give is written into it.

use coordinator::catalogue::{Column, FilledBy, Oid, Relation};

use super::Refusal;
use super::calls::{Call, replace};
use super::draws::{Edit, SequenceName, Source};
use super::lexer::quoted;
use super::lexer::{Kind, Token};
use super::plan::RelationName;
use super::relations::{Named, Names};
use super::times::Filling;
use super::words::{Words, split_commas};

/// The rows of an INSERT.
struct Rows {
    /// The token that opens and the one that closes each.
    places: Vec<(usize, usize)>,
    /// Where what follows them begins.
    end: usize,
}

/// Which columns a statement gives, and where the others can be named.
struct Columns<'a> {
    given: Vec<&'a Column>,
    /// The token that closes its list of columns, if it has one.
    list: Option<usize>,
    /// The token behind the table and its alias.
    behind: usize,
}

/// What has no value that a session could supply.
fn counting(relation: &Relation, column: &Column) -> Refusal {
    Refusal::unsupported(format!(
        "the default of column \"{}\" of table \"{}\" calls a function of sequences in an expression",
        column.name, relation.name
    ))
    .hint("Give the column a value.")
}

/// What PostgreSQL says (`rewriteTargetListIU` in rewriteHandler.c).
fn generated_always(column: &Column) -> Refusal {
    let name = &column.name;
    Refusal::new(
        "428C9",
        format!("cannot insert a non-DEFAULT value into column \"{name}\""),
    )
    .detail(format!(
        "Column \"{name}\" is an identity column defined as GENERATED ALWAYS."
    ))
    .hint("Use OVERRIDING SYSTEM VALUE to override.")
}

/// The sequence that fills a column, and whether as its identity; none where it is filled otherwise.
pub(super) fn source(column: &Column, names: Names<'_>) -> Option<Source> {
    let of = |oid: Oid, identity: bool| {
        let sequence = RelationName::of(names.catalogue.sequence(oid)?);
        Some(Source::Next {
            sequence: SequenceName::Known(sequence),
            identity,
        })
    };
    match column.filled_by {
        FilledBy::Sequence(sequence) => of(sequence, false),
        FilledBy::Identity { sequence, .. } => of(sequence, true),
        _ => None,
    }
}

/// What an INSERT says of the values that it gives identity columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overriding {
    Nothing,
    /// They hold.
    System,
    /// They are ignored, not even evaluated.
    User,
}

fn is_identity(column: &Column) -> bool {
    matches!(column.filled_by, FilledBy::Identity { .. })
}

/// A value that is ignored goes out of the text: with a parameter nobody would know the type of that any more.
fn check_ignored(element: &[Token], column: &Column) -> Result<(), Refusal> {
    let parameter = |token: &Token| matches!(token.kind, Kind::Parameter(_));
    if element.iter().any(parameter) {
        let words = format!(
            "a parameter for identity column \"{}\", which OVERRIDING USER VALUE ignores, is not supported",
            column.name
        );
        return Err(Refusal::unsupported(words).hint("Leave the column out."));
    }
    Ok(())
}

/// What the session gives a column that is given nothing; none where that is PostgreSQL's to do.
fn filling(column: &Column, names: Names<'_>) -> Option<Filling> {
    match source(column, names) {
        Some(source) => Some(Filling::of(source)),
        None => Filling::of_default(column),
    }
}

fn is_always(column: &Column) -> bool {
    matches!(column.filled_by, FilledBy::Identity { always: true, .. })
}

/// What an INSERT of VALUES, or of DEFAULT VALUES, gets; none where it is no such statement.
///
/// # Errors
/// When a value cannot be supplied, or as PostgreSQL, which is asked first.
pub(super) fn edits(
    tokens: &[Token],
    calls: &[Call],
    names: Names<'_>,
) -> Result<Option<Vec<Edit>>, Refusal> {
    let mut words = Words::new(tokens);
    let place = |words: &Words<'_>| tokens.len() - words.rest().len();
    if !words.take(&["insert", "into"]) {
        return Ok(None);
    }
    let Some(table) = words.dotted_name() else {
        return Ok(None);
    };
    let Ok(Named::Table(relation)) = names.find(&table) else {
        return Ok(None);
    };
    if words.take(&["as"]) {
        words.name();
    }
    let behind = place(&words);
    let mut listed = words;
    let list = listed.parenthesised();
    let is_list = ["values", "default", "overriding"];
    let list = list.filter(|_| is_list.iter().any(|word| listed.sees(&[word])));
    let mut columns = Columns {
        given: Vec::new(),
        list: None,
        behind,
    };
    if let Some(list) = list {
        words = listed;
        columns.list = Some(place(&words) - 1);
        for element in split_commas(list) {
            let name = Words::new(element).name().unwrap_or_default();
            let Some(column) = relation.column(&name) else {
                let words = format!(
                    "column \"{name}\" of relation \"{}\" does not exist",
                    relation.name
                );
                return Err(Refusal::new("42703", words));
            };
            columns.given.push(column);
        }
    }
    let overrides = words.take(&["overriding", "system", "value"]);
    let clause = place(&words);
    let by_user = !overrides && words.take(&["overriding", "user", "value"]);
    let values = place(&words);
    if words.take(&["default", "values"]) {
        return default_values(tokens, relation, values, names).map(Some);
    }
    if !words.take(&["values"]) {
        return Ok(None);
    }
    let Some(rows) = rows(tokens, words) else {
        return Ok(None);
    };
    let width = |(open, close): &(usize, usize)| split_commas(&tokens[open + 1..*close]).len();
    let widths: Vec<usize> = rows.places.iter().map(width).collect();
    let first = widths.first().copied().unwrap_or(0);
    if columns.list.is_none() {
        columns.given = relation.columns.iter().take(first).collect();
    }
    if widths.iter().any(|width| *width != columns.given.len()) {
        // PostgreSQL says what is wrong.
        return Ok(None);
    }
    let overriding = match (overrides, by_user) {
        (true, _) => Overriding::System,
        (_, true) => Overriding::User,
        _ => Overriding::Nothing,
    };
    let insert = Insert {
        tokens,
        calls,
        relation,
        columns: &columns,
        names,
    };
    let mut edits = insert.of_rows(&rows, overriding)?;
    if by_user {
        let bytes = tokens[clause].range.start..tokens[values].range.start;
        edits.push(Edit {
            bytes,
            ..Edit::text(0, String::new())
        });
    }
    if overriding != Overriding::System && !edits.is_empty() && relation.columns.iter().any(is_always) {
        // Whatever such a column is given now is ours: `of_row` has seen to it.
        let at = tokens[values].range.start;
        edits.push(Edit::text(at, "OVERRIDING SYSTEM VALUE ".to_owned()));
    }
    edits.extend(insert.behind(&rows));
    Ok(Some(edits))
}

struct Insert<'a> {
    tokens: &'a [Token],
    calls: &'a [Call],
    relation: &'a Relation,
    columns: &'a Columns<'a>,
    names: Names<'a>,
}

impl Insert<'_> {
    /// The holes of all rows, and the names of columns that the statement does not name.
    fn of_rows(&self, rows: &Rows, overriding: Overriding) -> Result<Vec<Edit>, Refusal> {
        let given = |column: &Column| self.columns.given.iter().any(|c| c.number == column.number);
        let mut added = Vec::new();
        for column in self.relation.columns.iter().filter(|column| !given(column)) {
            match filling(column, self.names) {
                Some(filling) => added.push((column, filling)),
                None if column.filled_by == FilledBy::Counting => {
                    return Err(counting(self.relation, column));
                }
                None => {}
            }
        }
        let mut edits = Vec::new();
        for (row, (open, close)) in rows.places.iter().enumerate() {
            self.of_row(row, *open, *close, overriding, &mut edits)?;
            for (column, filling) in &added {
                let at = self.tokens[*close].range.start;
                filling.put(at..at, ", ", (row, column.number.0, 0), &mut edits);
            }
        }
        if !added.is_empty() {
            let names: Vec<String> = added.iter().map(|(column, _)| quoted(&column.name)).collect();
            edits.push(match self.columns.list {
                Some(close) => {
                    let at = self.tokens[close].range.start;
                    Edit::text(at, format!(", {}", names.join(", ")))
                }
                None => {
                    let given = self.columns.given.iter().map(|column| quoted(&column.name));
                    let all: Vec<String> = given.chain(names).collect();
                    let behind = self.tokens.get(self.columns.behind.saturating_sub(1));
                    let at = behind.map_or(0, |token| token.range.end);
                    Edit::text(at, format!(" ({})", all.join(", ")))
                }
            });
        }
        Ok(edits)
    }

    /// DEFAULT for a column that a sequence fills, and calls of the functions.
    fn of_row(
        &self,
        row: usize,
        open: usize,
        close: usize,
        overriding: Overriding,
        edits: &mut Vec<Edit>,
    ) -> Result<(), Refusal> {
        let inside = &self.tokens[open + 1..close];
        let is_select = |token: &Token| matches!(&token.kind, Kind::Word(word) if word == "select");
        let subquery = inside.iter().any(is_select);
        let mut at = open + 1;
        for (element, column) in split_commas(inside).into_iter().zip(&self.columns.given) {
            let end = at + element.len();
            let ignored = overriding == Overriding::User && is_identity(column);
            let is_default = matches!(element, [Token { kind: Kind::Word(word), .. }] if word == "default");
            match (is_default || ignored, filling(column, self.names)) {
                (true, Some(filling)) => {
                    check_ignored(element, column)?;
                    let rank = (row, column.number.0, at);
                    let (first, last) = (element.first(), element.last());
                    let start = first.map_or(0, |token| token.range.start);
                    let end = last.map_or(start, |token| token.range.end);
                    filling.put(start..end, "", rank, edits);
                    at += element.len() + 1;
                    continue;
                }
                (true, None) if column.filled_by == FilledBy::Counting => {
                    return Err(counting(self.relation, column));
                }
                (false, _) if is_always(column) && overriding == Overriding::Nothing => {
                    return Err(generated_always(column));
                }
                _ => {}
            }
            for call in self
                .calls
                .iter()
                .filter(|call| (at..end).contains(&call.tokens.start))
            {
                if !subquery || !call.counts() {
                    edits.push(replace(
                        self.tokens,
                        call,
                        (row, column.number.0, call.tokens.start),
                    ));
                }
            }
            at = end + 1;
        }
        Ok(())
    }

    /// `currval()` and `lastval()` behind the rows: of one row it is clear what they are then.
    fn behind(&self, rows: &Rows) -> Vec<Edit> {
        if rows.places.len() != 1 {
            return Vec::new();
        }
        let behind = |call: &&Call| call.tokens.start >= rows.end && !call.counts();
        self.calls
            .iter()
            .filter(behind)
            .map(|call| replace(self.tokens, call, (1, 0, call.tokens.start)))
            .collect()
    }
}

/// The rows that begin here, up to the end of the statement, ON CONFLICT or RETURNING.
fn rows(tokens: &[Token], mut words: Words<'_>) -> Option<Rows> {
    let mut places = Vec::new();
    loop {
        let open = tokens.len() - words.rest().len();
        words.parenthesised()?;
        let end = tokens.len() - words.rest().len();
        places.push((open, end - 1));
        if !words.take_mark(',') {
            let ends = words.is_empty() || words.sees(&["on", "conflict"]) || words.sees(&["returning"]);
            return ends.then_some(Rows { places, end });
        }
    }
}

/// `INSERT INTO table DEFAULT VALUES`.
fn default_values(
    tokens: &[Token],
    relation: &Relation,
    at: usize,
    names: Names<'_>,
) -> Result<Vec<Edit>, Refusal> {
    let filled: Vec<(&Column, Filling)> = relation
        .columns
        .iter()
        .filter_map(|column| Some((column, filling(column, names)?)))
        .collect();
    if let Some(column) = relation
        .columns
        .iter()
        .find(|column| column.filled_by == FilledBy::Counting)
    {
        return Err(counting(relation, column));
    }
    let (Some(first), Some(last)) = (tokens.get(at), tokens.get(at + 1)) else {
        return Ok(Vec::new());
    };
    let columns: Vec<String> = filled.iter().map(|(column, _)| quoted(&column.name)).collect();
    let overriding = if filled.iter().any(|(column, _)| is_always(column)) {
        " OVERRIDING SYSTEM VALUE"
    } else {
        ""
    };
    let end = last.range.end;
    let mut edits = Vec::new();
    for (index, (column, filling)) in filled.iter().enumerate() {
        let (bytes, text) = match index {
            0 => (
                first.range.start..end,
                format!("({}){overriding} VALUES (", columns.join(", ")),
            ),
            _ => (end..end, ", ".to_owned()),
        };
        filling.put(bytes, &text, (0, column.number.0, 0), &mut edits);
    }
    if !edits.is_empty() {
        edits.push(Edit::text(end, ")".to_owned()));
    }
    Ok(edits)
}

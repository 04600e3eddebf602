//! COPY: from the client into a table, and from a table or a query to the client.

use std::sync::Arc;

use coordinator::catalogue::{Column, FilledBy, Placement, Relation};
use coordinator::hash::HashSlot;

use super::Refusal;
use super::copies;
use super::copy_plan::{CopyFormat, CopyIn, CopyLayout, CopyMade, CopyOut, CopySource, Goes, SuppliedField};
use super::draws::{SequenceName, Source};
use super::insert::source;
use super::lexer::quoted;
use super::lexer::{Kind, Token};
use super::moves::range_of;
use super::plan::{Access, Form, HomeUse, Key, Plan, Query, RelationName, Spread, Tag, Target};
use super::query;
use super::relations::{Named, Names};
use super::statement::syntax_for_postgres;
use super::temporary;
use super::words::{Words, split_commas};

/// What the options of a COPY say.
struct Options {
    layout: CopyLayout,
    /// Set when it is neither text nor CSV.
    binary: bool,
}

/// Plans COPY.
pub(super) fn plan(tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["copy"]);
    let query = words.parenthesised();
    let (table, columns) = match query {
        Some(_) => (Vec::new(), None),
        None => {
            let Some(table) = words.dotted_name() else {
                return Ok(syntax_for_postgres());
            };
            (table, words.parenthesised().map(column_names))
        }
    };
    // Where further columns could be named.
    let list_end = tokens.len() - words.rest().len();
    let list_end = list_end.checked_sub(1).and_then(|close| tokens.get(close));
    let text = Text {
        sql,
        start: tokens.first().map_or(0, |first| first.range.start),
        list_end: list_end.map_or(0, |close| close.range.start),
        end: tokens.last().map_or(0, |last| last.range.end),
    };
    let from = match words.take_any(&["from", "to"]) {
        Some(direction) => direction == "from",
        None => return Ok(syntax_for_postgres()),
    };
    if words.take_any(&["stdin", "stdout"]).is_none() {
        return Err(
            Refusal::unsupported("COPY from or to a file or program of a server is not supported")
                .hint("Use COPY ... FROM STDIN or TO STDOUT, or psql's \\copy."),
        );
    }
    let options = options(words)?;
    match (query, from) {
        (Some(query), false) => copy_query(query, &options, names),
        (Some(_), true) => Ok(syntax_for_postgres()),
        (None, true) => copy_in(&table, columns, options, &text, names),
        (None, false) => copy_table(&table, &options, names),
    }
}

/// The statement's text.
struct Text<'a> {
    sql: &'a str,
    start: usize,
    /// Where the token begins that closes the list of columns, if there is one.
    list_end: usize,
    end: usize,
}

fn column_names(tokens: &[Token]) -> Option<Vec<String>> {
    split_commas(tokens)
        .into_iter()
        .map(|column| match column {
            [
                Token {
                    kind: Kind::Word(name) | Kind::Quoted(name),
                    ..
                },
            ] => Some(name.clone()),
            _ => None,
        })
        .collect()
}

impl Options {
    fn format(&self) -> CopyFormat {
        match self.binary {
            true => CopyFormat::Binary,
            false => CopyFormat::Lines(self.layout.clone()),
        }
    }

    fn out(&self) -> CopyOut {
        match (self.binary, self.layout.header) {
            (true, _) => CopyOut::Binary,
            (false, true) => CopyOut::Header,
            (false, false) => CopyOut::Rows,
        }
    }
}

/// The answers of groups that write follow each other as they are; that is right only where nothing stands around the rows.
fn concatenable(options: &Options) -> Result<(), Refusal> {
    if options.out() != CopyOut::Rows {
        return Err(Refusal::unsupported(
            "COPY in binary format or with HEADER of what a statement writes on several groups is not supported",
        )
        .hint("Use text or CSV without HEADER."));
    }
    Ok(())
}

fn copy_query(query: &[Token], options: &Options, names: Names<'_>) -> Result<Plan, Refusal> {
    match query::plan(query, names)? {
        Plan::Query(planned) if let Some(source) = source_of(query, &planned) => {
            let made = CopyMade {
                source,
                format: options.format(),
                out: options.out(),
                query: range_of(query),
            };
            Ok(Plan::Query(Query {
                tag: Tag::Copy,
                form: Form::CopyMade(Arc::new(made)),
                ..planned
            }))
        }
        Plan::Query(query) => {
            let query = query.ungathered(|| {
                Refusal::unsupported("COPY of such a query of rows of several groups is not supported")
                    .hint("Use SELECT alone.")
            })?;
            let target = match query.target {
                other if query.access == Access::Read => other,
                Target::All => {
                    concatenable(options)?;
                    Target::All
                }
                Target::Keys(keys, super::Spread::Concatenate) => match concatenable(options) {
                    Ok(()) => Target::Keys(keys, super::Spread::Concatenate),
                    Err(refusal) => Target::Keys(keys, super::Spread::Refuse(refusal)),
                },
                other => other.on_one_group(|| {
                    Refusal::unsupported("COPY of an INSERT of rows of several groups is not supported")
                        .hint("Use INSERT ... RETURNING alone.")
                })?,
            };
            Ok(Plan::Query(Query {
                target,
                tag: Tag::Copy,
                form: Form::CopyOut(options.out()),
                ..query
            }))
        }
        Plan::Judge(refusal) => Ok(Plan::JudgeCopied(refusal, range_of(query))),
        other => Ok(other),
    }
}

/// How rows of several groups are had that the session writes itself; none where that is not how. COPY has no parameters.
fn source_of(query: &[Token], planned: &Query) -> Option<CopySource> {
    let parameter = |token: &Token| matches!(token.kind, Kind::Parameter(_));
    if planned.access != Access::Read || query.iter().any(parameter) {
        return None;
    }
    match &planned.form {
        Form::Gathered(gathering) => Some(CopySource::Gathered(Arc::clone(gathering))),
        Form::Count => Some(CopySource::Count),
        Form::Plain => Some(CopySource::Rows),
        _ => None,
    }
}

fn copy_table(table: &[String], options: &Options, names: Names<'_>) -> Result<Plan, Refusal> {
    let target = match names.find(table)? {
        Named::Table(relation) => match relation.placement {
            Some(Placement::Reference) => Target::Home(HomeUse::Reference),
            Some(Placement::Local) => Target::Keys(vec![Key::local()], Spread::Concatenate),
            _ => Target::All,
        },
        Named::Temporary => Target::Home(HomeUse::Temporary),
        // Of a view PostgreSQL says that it cannot be copied.
        Named::System | Named::View(..) => Target::Any,
        Named::Unknown => return Err(no_relation(table)),
    };
    Ok(Plan::Query(Query {
        access: Access::Read,
        target,
        tag: Tag::Copy,
        form: Form::CopyOut(options.out()),
        draws: None,
    }))
}

/// Parse does not look at COPY's table, so that PostgreSQL's words are said here.
fn no_relation(table: &[String]) -> Refusal {
    Refusal::new(
        "42P01",
        format!("relation \"{}\" does not exist", table.join(".")),
    )
}

fn copy_in(
    table: &[String],
    columns: Option<Option<Vec<String>>>,
    options: Options,
    text: &Text<'_>,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    let relation = match names.find(table)? {
        Named::Table(relation) => relation,
        Named::Temporary => return Ok(temporary::at_home(Access::Write, Form::CopyIn)),
        Named::View(view, _) => {
            return Err(Refusal::new(
                "42809",
                format!("cannot copy to view \"{}\"", view.name),
            ));
        }
        Named::System => {
            return Err(Refusal::unsupported(format!(
                "\"{}\" cannot be written to",
                table.join(".")
            )));
        }
        Named::Unknown => return Err(no_relation(table)),
    };
    let generated = |column: &&Column| column.filled_by != FilledBy::Generated;
    let columns: Vec<&str> = match &columns {
        // Without a list, COPY has all columns but generated ones.
        None => {
            let columns = relation.columns.iter().filter(generated);
            columns.map(|column| column.name.as_str()).collect()
        }
        Some(None) => return Ok(syntax_for_postgres()),
        Some(Some(columns)) => columns.iter().map(String::as_str).collect(),
    };
    let supplied = supplied(relation, &columns, &options, names)?;
    let field = |name: &str| {
        let given = columns.iter().position(|column| *column == name);
        let ours = || supplied.iter().position(|field| field.name == name);
        given.or_else(|| ours().map(|at| columns.len() + at))
    };
    let goes = match (&relation.placement, relation.key_column()) {
        (Some(Placement::Reference), _) => {
            let added = supplied.iter().map(|field| field.name.as_str());
            let all: Vec<&str> = columns.iter().copied().chain(added).collect();
            copies::check_columns(relation, &all)?;
            Goes::Everywhere
        }
        (Some(Placement::Hash(shard_key)), Some(key)) => {
            let key = key.name.as_str();
            let field = field(key).ok_or_else(|| {
                Refusal::unsupported(format!(
                    "COPY into table \"{}\" must have its shard key \"{key}\"",
                    relation.name
                ))
                .hint(format!("Add \"{key}\" to the list of columns."))
            })?;
            Goes::ByKey {
                field,
                column: shard_key.column,
                name: key.to_owned(),
            }
        }
        _ => Goes::To(HashSlot::LOCAL),
    };
    let with_supplied = || {
        let before = text.sql.get(text.start..text.list_end)?;
        let behind = text.sql.get(text.list_end..text.end)?;
        let more = supplied.iter().map(|field| format!(", {}", quoted(&field.name)));
        Some(format!("{before}{}{behind}", more.collect::<String>()))
    };
    let text = if supplied.is_empty() {
        None
    } else {
        with_supplied()
    };
    let table = RelationName {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
    };
    Ok(Plan::CopyIn(CopyIn {
        table,
        goes,
        columns: columns.len(),
        format: options.format(),
        supplied,
        text,
    }))
}

/// The fields that sequences fill and that are not in the list of columns.
fn supplied(
    relation: &Relation,
    columns: &[&str],
    options: &Options,
    names: Names<'_>,
) -> Result<Vec<SuppliedField>, Refusal> {
    /// `smallint`, `integer`, `bigint`: types whose binary form the session writes.
    const INTEGERS: [u32; 3] = [21, 23, 20];
    let mut supplied = Vec::new();
    let missing = |column: &&Column| !columns.contains(&column.name.as_str());
    for column in relation.columns.iter().filter(missing) {
        let writable = match options.binary {
            true => INTEGERS.contains(&column.type_oid),
            // Else a value could be read as NULL.
            false => options.layout.csv || options.layout.null.parse::<i64>().is_err(),
        };
        match source(column, names) {
            Some(Source::Next {
                sequence: SequenceName::Known(sequence),
                identity,
            }) if writable => supplied.push(SuppliedField {
                name: column.name.clone(),
                type_oid: column.type_oid,
                sequence,
                identity,
            }),
            None if column.filled_by != FilledBy::Counting => {}
            _ => {
                return Err(Refusal::unsupported(format!(
                    "COPY into table \"{}\" must have column \"{}\", which a sequence fills",
                    relation.name, column.name
                ))
                .hint("Add the column, with values of SELECT nextval(...), or use INSERT."));
            }
        }
    }
    Ok(supplied)
}

/// Options, in parentheses or in the older form: name and value pairs.
fn options(mut words: Words<'_>) -> Result<Options, Refusal> {
    words.take(&["with"]);
    let mut given = Given::default();
    if let Some(list) = words.parenthesised() {
        if !words.is_empty() {
            return Err(where_refused());
        }
        for option in split_commas(list) {
            let mut option = Words::new(option);
            let name = option.name().unwrap_or_default();
            given.set(&name, option)?;
        }
    } else {
        while !words.is_empty() {
            if words.sees(&["where"]) {
                return Err(where_refused());
            }
            let Some(name) = words.name() else {
                return Err(unreadable());
            };
            words.take(&["as"]);
            match name.as_str() {
                "csv" | "binary" => given.format = Some(name),
                "header" => given.header = true,
                "freeze" => {}
                "delimiter" | "delimiters" | "null" | "quote" | "escape" | "encoding" => {
                    given.set(&name, words)?;
                    words.next();
                }
                _ => return Err(unreadable()),
            }
        }
    }
    given.finish()
}

fn where_refused() -> Refusal {
    Refusal::unsupported("COPY ... WHERE is not supported").hint("Filter the rows before they are sent.")
}

fn unreadable() -> Refusal {
    Refusal::unsupported("Howdah does not know this option of COPY")
        .hint("Known are FORMAT text, csv and binary, DELIMITER, NULL, HEADER, QUOTE and ESCAPE.")
}

#[derive(Default)]
struct Given {
    format: Option<String>,
    delimiter: Option<u8>,
    null: Option<String>,
    header: bool,
    quote: Option<u8>,
    escape: Option<u8>,
}

impl Given {
    fn set(&mut self, name: &str, mut value: Words<'_>) -> Result<(), Refusal> {
        let value = match value.next() {
            Some(Kind::Text(text) | Kind::Word(text) | Kind::Number(text) | Kind::Quoted(text)) => {
                Some(text.clone())
            }
            None => None,
            Some(_) => return Err(unreadable()),
        };
        let byte = |value: &Option<String>| match value.as_deref().map(str::as_bytes) {
            Some([byte]) => Ok(Some(*byte)),
            _ => Err(Refusal::new(
                "22023",
                format!("COPY {name} must be a single one-byte character"),
            )),
        };
        match (name, value.as_deref()) {
            ("format", Some(_)) => self.format = value.map(|format| format.to_ascii_lowercase()),
            ("delimiter" | "delimiters", _) => self.delimiter = byte(&value)?,
            ("quote", _) => self.quote = byte(&value)?,
            ("escape", _) => self.escape = byte(&value)?,
            ("null", Some(_)) => self.null = value,
            ("header", None | Some("true" | "on" | "1" | "match")) => self.header = true,
            ("header", Some("false" | "off" | "0")) => self.header = false,
            // PostgreSQL itself says in each group whether it may be frozen.
            ("freeze", None | Some("true" | "on" | "1" | "false" | "off" | "0")) => {}
            ("encoding", Some(encoding))
                if ["utf8", "utf-8"].contains(&encoding.to_ascii_lowercase().as_str()) => {}
            _ => return Err(unreadable()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, Refusal> {
        let format = self.format.as_deref().unwrap_or("text");
        let csv = match format {
            "text" | "binary" => false,
            "csv" => true,
            _ => {
                return Err(Refusal::new(
                    "22023",
                    format!("COPY format \"{format}\" not recognized"),
                ));
            }
        };
        let quote = self.quote.unwrap_or(b'"');
        let layout = CopyLayout {
            csv,
            delimiter: self.delimiter.unwrap_or(if csv { b',' } else { b'\t' }),
            null: self
                .null
                .unwrap_or_else(|| if csv { String::new() } else { "\\N".to_owned() }),
            header: self.header,
            quote,
            escape: self.escape.unwrap_or(quote),
        };
        Ok(Options {
            layout,
            binary: format == "binary",
        })
    }
}

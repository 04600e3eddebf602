//! Temporary tables that get rows of distributed ones, wherever those are: CREATE TEMPORARY TABLE ... AS, SELECT ... INTO
//! TEMPORARY, and INSERT ... SELECT into a temporary table.

use super::Refusal;
use super::lexer::{Kind, Token, quoted};
use super::plan::{Access, Fill, Form, HomeUse, Plan, Query, Target};
use super::query;
use super::relations::Names;
use super::temporary::{keyword_at, only_at_home, together};
use super::words::{Words, split_commas};

/// Where an INSERT's rows are gathered before it runs.
const GATHERED: &str = "pg_temp.howdah_rows";

/// A table that is made from a query.
pub(super) struct Made<'a> {
    /// The statement's text up to its query, with AS.
    pub(super) head: String,
    /// The table.
    pub(super) name: &'a [String],
    /// The query's text.
    pub(super) text: String,
}

/// The text of tokens that follow each other.
pub(super) fn text_of<'s>(tokens: &[Token], sql: &'s str) -> &'s str {
    match tokens {
        [] => "",
        [first, .., last] => sql.get(first.range.start..last.range.end).unwrap_or_default(),
        [only] => sql.get(only.range.clone()).unwrap_or_default(),
    }
}

/// Plans a statement that makes a temporary table and fills it with what this query, of these tokens, gives.
pub(super) fn create(
    tokens: &[Token],
    planned: Query,
    made: Made<'_>,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    let name = made.name.last().cloned().unwrap_or_default();
    let is_there = names.facts.temporaries.has(std::slice::from_ref(&name));
    let anywhere = matches!(planned.target, Target::Keys(..) | Target::All);
    if is_there || !anywhere || !gathers(tokens, &planned) {
        // Where it is there PostgreSQL says so, and looks at no row.
        let target = if is_there {
            Target::Home(HomeUse::Temporary)
        } else {
            only_at_home(planned.target)?
        };
        return Ok(Plan::Query(Query {
            access: Access::Write,
            target,
            tag: super::Tag::AsIs,
            form: Form::Defines,
            draws: None,
        }));
    }
    Ok(Plan::Fill(Fill {
        create: format!("{} {}", made.head, made.text),
        table: format!("pg_temp.{}", quoted(&name)),
        query: Box::new(rows_alone(planned)?),
        text: made.text,
        insert: None,
    }))
}

/// Whether the query can run by itself: it has no parameters, which belong to the whole statement, and writes nothing.
fn gathers(tokens: &[Token], planned: &Query) -> bool {
    let parameter = |token: &Token| matches!(token.kind, Kind::Parameter(_));
    planned.access == Access::Read && !tokens.iter().any(parameter)
}

/// Rows of several groups follow each other; counts would have to be summed up.
fn rows_alone(planned: Query) -> Result<Query, Refusal> {
    Ok(match planned.form {
        Form::Gathered(_) => planned.ungathered(together)?,
        Form::Count => Query {
            target: planned.target.on_one_group(together)?,
            ..planned
        },
        _ => planned,
    })
}

/// Plans `INSERT INTO temporary [(columns)] SELECT ...` with rows of distributed tables alone; none if it is something else.
pub(super) fn insert(tokens: &[Token], sql: &str, names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let mut words = Words::new(tokens);
    if !words.take(&["insert", "into"]) {
        return None;
    }
    let name = words.dotted_name()?;
    if !names.facts.temporaries.has(&name) {
        return None;
    }
    if words.take(&["as"]) {
        words.name();
    }
    let mut after_columns = words;
    let mut columns = None;
    if let Some(list) = after_columns.parenthesised()
        && !after_columns.is_empty()
        && !after_columns.sees(&["on"])
    {
        columns = Some(split_commas(list).len());
        words = after_columns;
    }
    let _ = words.take(&["overriding", "system", "value"]) || words.take(&["overriding", "user", "value"]);
    let starts = matches!(words.peek(), Some(Kind::Punctuation('(')))
        || words.sees(&["select"])
        || words.sees(&["with"]);
    if !starts || keyword_at(words.rest(), "returning").is_some() {
        return None;
    }
    let rest = words.rest();
    let conflict = (0..rest.len()).find(|at| Words::new(&rest[*at..]).sees(&["on", "conflict"]));
    let (query, tail) = rest.split_at(conflict.unwrap_or(rest.len()));
    let Ok(Plan::Query(planned)) = query::plan(query, names) else {
        return None;
    };
    if !matches!(planned.target, Target::Keys(..) | Target::All)
        || !gathers(query, &planned)
        || uses_temporaries(&planned)
    {
        return None;
    }
    let head = &tokens[..tokens.len() - rest.len()];
    let text = text_of(query, sql).to_owned();
    let gathered = format!("{GATHERED}{}", numbered(columns.or_else(|| results(query))));
    Some(rows_alone(planned).map(|planned| {
        Plan::Fill(Fill {
            create: format!("CREATE TEMPORARY TABLE {gathered} ON COMMIT DROP AS {text}"),
            table: GATHERED.to_owned(),
            insert: Some(
                format!(
                    "{} SELECT * FROM {GATHERED} {}",
                    text_of(head, sql),
                    text_of(tail, sql)
                )
                .trim_end()
                .to_owned(),
            ),
            query: Box::new(planned),
            text,
        })
    }))
}

/// How many columns a SELECT gives, if its text says so.
fn results(query: &[Token]) -> Option<usize> {
    let mut words = Words::new(query);
    if !words.take(&["select"]) || words.sees(&["distinct"]) {
        return None;
    }
    let end = keyword_at(words.rest(), "from").unwrap_or(words.rest().len());
    let items = split_commas(&words.rest()[..end]);
    let star = |item: &&[Token]| matches!(item.last().map(|token| &token.kind), Some(Kind::Operator(all)) if all == "*");
    (!items.iter().any(star)).then_some(items.len())
}

/// Names for so many columns: those that a query gives need not differ.
fn numbered(columns: Option<usize>) -> String {
    let names: Vec<String> = (1..=columns.unwrap_or_default())
        .map(|number| format!("c{number}"))
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    }
}

/// Whether it is bound to the home group by temporary tables that it reads.
fn uses_temporaries(planned: &Query) -> bool {
    matches!(planned.target, Target::Keys(_, super::Spread::Home(_)))
}

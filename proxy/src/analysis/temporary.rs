//! Statements about temporary tables, which a session has on its home group alone. Those about nothing else go there as they are,
//! and PostgreSQL answers.

use super::Refusal;
use super::fill::{self, Made, text_of};
use super::functions;
use super::lexer::{Kind, Token, quoted};
use super::plan::{Access, Form, HomeUse, Plan, Query, Spread, Tag, Target};
use super::query;
use super::relations::{Names, is_reserved};
use super::statement::syntax_for_postgres;
use super::words::{Words, has_word, split_commas};

/// A statement that runs on the home group as it is.
pub(super) fn at_home(access: Access, form: Form) -> Plan {
    Plan::Query(Query {
        access,
        target: Target::Home(HomeUse::Temporary),
        tag: Tag::AsIs,
        form,
        draws: None,
    })
}

/// One after which the session may have other temporary relations.
fn defines() -> Plan {
    at_home(Access::Write, Form::Defines)
}

/// Temporary relations, and rows that may be elsewhere.
pub(super) fn together() -> Refusal {
    Refusal::unsupported("temporary tables together with rows of other groups are not supported yet")
        .detail(
            "A session's temporary tables are on its home group, and nothing proves that all other rows that the \
             statement touches are on that one, too.",
        )
        .hint("Read the rows first, then insert them into a temporary table with VALUES or COPY.")
}

/// The same for a target, where what it names must be at home.
///
/// # Errors
/// When it is all groups.
pub(super) fn only_at_home(target: Target) -> Result<Target, Refusal> {
    match target {
        Target::Any | Target::Home(HomeUse::Temporary | HomeUse::Reference) => {
            Ok(Target::Home(HomeUse::Temporary))
        }
        Target::Home(_) => Err(Refusal::unsupported(
            "functions of locks and notifications are not supported together with temporary tables",
        )
        .hint("Call the function in a SELECT of its own.")),
        Target::Keys(keys, _) => Ok(Target::Keys(keys, Spread::Home(together()))),
        Target::All | Target::Copies(_) => Err(together()),
    }
}

/// Whether a statement is about these relations as temporary ones; none of them, or all.
///
/// # Errors
/// When only some are temporary.
pub(super) fn all_are(relations: &[Vec<String>], names: Names<'_>) -> Result<bool, Refusal> {
    let concerned = relations
        .iter()
        .filter(|parts| names.facts.temporaries.concerns(parts))
        .count();
    match concerned {
        0 => Ok(false),
        all if all == relations.len() => Ok(true),
        _ => Err(Refusal::unsupported(
            "temporary tables together with others are not supported in this statement",
        )
        .hint("Write one statement for each.")),
    }
}

/// Takes GLOBAL, LOCAL, TEMP and TEMPORARY; whether any was there.
pub(super) fn take_keyword(words: &mut Words<'_>) -> bool {
    let _ = words.take_any(&["global", "local"]);
    words.take_any(&["temp", "temporary"]).is_some()
}

/// Plans CREATE TEMPORARY; the words after that are given.
pub(super) fn create(mut words: Words<'_>, sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    if words.take(&["table"]) {
        words.take(&["if", "not", "exists"]);
        let Some(name) = words.dotted_name() else {
            return Ok(syntax_for_postgres());
        };
        return create_table(words, &name, sql, names);
    }
    if words.take(&["sequence"]) {
        return Ok(defines());
    }
    if words.take(&["recursive", "view"]) {
        return Err(Refusal::unsupported(
            "CREATE TEMPORARY RECURSIVE VIEW is not supported",
        ));
    }
    if words.take(&["view"]) {
        let Some(at) = keyword_at(words.rest(), "as") else {
            return Ok(syntax_for_postgres());
        };
        let query = without_check_option(&words.rest()[at + 1..]);
        return match query::plan(query, names)? {
            Plan::Query(Query {
                target: Target::Any | Target::Home(HomeUse::Temporary),
                ..
            }) => Ok(defines()),
            Plan::Query(_) => Err(Refusal::unsupported(
                "a temporary view of distributed tables is not supported",
            )
            .detail("A view's rows may come from several groups.")
            .hint("Write the view's query in the statement.")),
            other => Ok(other),
        };
    }
    Ok(syntax_for_postgres())
}

/// The rest of CREATE TEMPORARY TABLE after its name.
pub(super) fn create_table(
    words: Words<'_>,
    name: &[String],
    sql: &str,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    if let Some(at) = keyword_at(words.rest(), "as") {
        let query = &words.rest()[at + 1..];
        let head = sql
            .get(..words.rest()[at].range.end)
            .unwrap_or_default()
            .to_owned();
        return create_as(
            query,
            |query| Made {
                head,
                name,
                text: text_of(query, sql).to_owned(),
            },
            names,
        );
    }
    let mut after = words;
    if let Some(elements) = after.parenthesised() {
        check_elements(elements, names)?;
    }
    if let Some(at) = keyword_at(after.rest(), "inherits") {
        let parents = Words::new(&after.rest()[at + 1..])
            .parenthesised()
            .unwrap_or_default();
        let parents = split_commas(parents).into_iter();
        let parents = parents.filter_map(|parent| Words::new(parent).dotted_name());
        let temporary = |parent: Vec<String>| names.facts.temporaries.has(&parent);
        if !parents.into_iter().all(temporary) {
            return Err(
                Refusal::unsupported("a temporary table cannot inherit from a distributed one")
                    .detail("Its rows would show in the other table, on one group only."),
            );
        }
    }
    Ok(defines())
}

/// Refuses a table of what EXECUTE gives.
pub(super) fn refuse_execute(query: &[Token]) -> Result<(), Refusal> {
    if Words::new(query).sees(&["execute"]) {
        return Err(
            Refusal::unsupported("CREATE TABLE AS EXECUTE is not supported").hint("Write the query itself.")
        );
    }
    Ok(())
}

/// The query of CREATE TABLE ... AS, without what says whether the table gets its rows; and whether it does.
pub(super) fn data_of(query: &[Token]) -> (&[Token], bool) {
    for (ending, rows) in [(&["with", "no", "data"][..], false), (&["with", "data"], true)] {
        if let Some(at) = query.len().checked_sub(ending.len())
            && Words::new(&query[at..]).sees(ending)
        {
            return (&query[..at], rows);
        }
    }
    (query, true)
}

/// `CREATE TEMPORARY TABLE ... AS`, from its query on.
fn create_as<'a>(
    query: &[Token],
    made: impl FnOnce(&[Token]) -> Made<'a>,
    names: Names<'_>,
) -> Result<Plan, Refusal> {
    let (query, rows) = data_of(query);
    refuse_execute(query)?;
    match query::plan(query, names)? {
        Plan::Query(_) if !rows => Ok(defines()),
        Plan::Query(planned) => fill::create(query, planned, made(query), names),
        other => Ok(other),
    }
}

/// `SELECT ... INTO TEMPORARY table ...`; none if it is not that.
pub(super) fn select_into(tokens: &[Token], sql: &str, names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let at = keyword_at(tokens, "into")?;
    let inserts =
        |token: &Token| matches!(&token.kind, Kind::Word(word) if word == "insert" || word == "merge");
    if tokens[..at].last().is_some_and(inserts) {
        return None;
    }
    let mut words = Words::new(&tokens[at + 1..]);
    let keyword = take_keyword(&mut words);
    words.take(&["table"]);
    if matches!(words.peek(), Some(Kind::Word(word)) if is_reserved(word)) {
        // A table of the name "temp".
        return None;
    }
    let name = words.dotted_name()?;
    let into_temporary = matches!(name.as_slice(), [schema, _] if names.facts.temporaries.is_schema(schema));
    if !keyword && !into_temporary {
        return None;
    }
    let query: Vec<Token> = tokens[..at].iter().chain(words.rest()).cloned().collect();
    let made = |_: &[Token]| {
        let (before, after) = (text_of(&tokens[..at], sql), text_of(words.rest(), sql));
        let table = name.last().map(|name| quoted(name)).unwrap_or_default();
        Made {
            head: format!("CREATE TEMPORARY TABLE {table} AS"),
            name: &name,
            text: format!("{before} {after}"),
        }
    };
    Some(create_as(&query, made, names))
}

/// Where a keyword stands outside any parentheses.
pub(super) fn keyword_at(tokens: &[Token], keyword: &str) -> Option<usize> {
    let mut depth = 0usize;
    tokens.iter().position(|token| {
        match &token.kind {
            Kind::Punctuation('(') => depth += 1,
            Kind::Punctuation(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && matches!(&token.kind, Kind::Word(word) if word == keyword)
    })
}

fn without_check_option(query: &[Token]) -> &[Token] {
    let options = [
        &["with", "check", "option"][..],
        &["with", "local", "check", "option"],
        &["with", "cascaded", "check", "option"],
    ];
    for option in options {
        if let Some(at) = query.len().checked_sub(option.len())
            && Words::new(&query[at..]).sees(option)
        {
            return &query[..at];
        }
    }
    query
}

/// The expressions in a temporary table's columns and constraints call functions only that may be called.
pub(super) fn check_elements(tokens: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    // What has a list behind it there, and is no function.
    let introduces =
        |token: &Token| matches!(&token.kind, Kind::Word(word) if word == "references" || word == "using");
    let mut rest = Vec::with_capacity(tokens.len());
    let mut words = Words::new(tokens);
    while let [token, ..] = words.rest() {
        words.next();
        let skipped = introduces(token);
        if skipped {
            words.dotted_name();
        }
        rest.push(
            if skipped || matches!(&token.kind, Kind::Word(word) if word == "identity") {
                Token {
                    kind: Kind::Punctuation(','),
                    range: token.range.clone(),
                }
            } else {
                token.clone()
            },
        );
    }
    super::ddl::check_functions(&rest, names)
}

/// Plans a definition other than CREATE, if it is about temporary relations; none if it is not.
pub(super) fn definition(tokens: &[Token], names: Names<'_>) -> Result<Option<Plan>, Refusal> {
    let mut words = Words::new(tokens);
    let first = words.take_any(&["alter", "drop", "comment", "grant", "revoke"]);
    let kinds = ["table", "index", "view", "sequence"];
    let relations = match first {
        Some("drop") if words.take_any(&kinds).is_some() => {
            words.take(&["concurrently"]);
            words.take(&["if", "exists"]);
            list(&mut words)
        }
        Some("alter") if words.take_any(&kinds).is_some() => {
            words.take(&["if", "exists"]);
            words.take(&["only"]);
            words.dotted_name().into_iter().collect()
        }
        Some("comment") if words.take(&["on"]) => commented(words).into_iter().collect(),
        Some("grant" | "revoke") => match keyword_at(words.rest(), "on") {
            Some(at) => {
                let mut words = Words::new(&words.rest()[at + 1..]);
                words.take_any(&["table", "sequence"]);
                list(&mut words)
            }
            None => Vec::new(),
        },
        _ => Vec::new(),
    };
    if !all_are(&relations, names)? {
        return Ok(None);
    }
    if first == Some("alter") {
        check_elements(words.rest(), names)?;
        if has_word(words.rest(), &["inherit"]) {
            return Err(Refusal::unsupported("ALTER TABLE ... INHERIT is not supported"));
        }
    }
    Ok(Some(defines()))
}

/// Names between commas.
fn list(words: &mut Words<'_>) -> Vec<Vec<String>> {
    let mut relations = Vec::new();
    while let Some(parts) = words.dotted_name() {
        relations.push(parts);
        if !words.take_mark(',') {
            break;
        }
    }
    relations
}

/// The relation that COMMENT ON is about.
fn commented(mut words: Words<'_>) -> Option<Vec<String>> {
    if words.take_any(&["table", "index", "view", "sequence"]).is_some() {
        return words.dotted_name();
    }
    if words.take(&["column"]) {
        let mut parts = words.dotted_name()?;
        parts.pop();
        return Some(parts);
    }
    if words.take(&["constraint"]) {
        words.name();
        return words.take(&["on"]).then(|| words.dotted_name())?;
    }
    None
}

/// Plans VACUUM, ANALYZE, REINDEX and CLUSTER, if it is about temporary tables; none if it is not.
pub(super) fn maintenance(tokens: &[Token], names: Names<'_>) -> Result<Option<Plan>, Refusal> {
    let mut words = Words::new(tokens);
    words.next();
    words.parenthesised();
    let keywords = [
        "full",
        "freeze",
        "verbose",
        "analyze",
        "analyse",
        "concurrently",
        "table",
        "index",
    ];
    while words.take_any(&keywords).is_some() {}
    let mut relations = Vec::new();
    while let Some(parts) = words.dotted_name() {
        relations.push(parts);
        words.parenthesised();
        if !words.take_mark(',') {
            break;
        }
    }
    Ok(all_are(&relations, names)?.then(|| at_home(Access::Write, Form::Plain)))
}

/// Refuses a definition for all groups that means something else on the home group than elsewhere.
pub(super) fn refuse_in(tokens: &[Token], what: &str, names: Names<'_>) -> Result<(), Refusal> {
    if names.facts.temporaries.may_be_in(tokens) {
        return Err(
            Refusal::unsupported(format!("{what} that names a temporary table is not supported"))
                .detail("The table is on one group only, and others may have a permanent one of that name."),
        );
    }
    Ok(())
}

/// Refuses what would be made in a temporary schema on every group.
pub(super) fn refuse_schema(tokens: &[Token]) -> Result<(), Refusal> {
    let named = |token: &Token| match &token.kind {
        Kind::Word(name) | Kind::Quoted(name) => name == "pg_temp" || name.starts_with("pg_temp_"),
        _ => false,
    };
    if tokens.iter().any(named) {
        return Err(
            Refusal::unsupported("this statement in a temporary schema is not supported")
                .detail("Temporary are tables, their indexes, sequences, and views of them."),
        );
    }
    Ok(())
}

/// What a sequence function is called with, as a name.
pub(super) fn sequence_name(text: &str) -> Option<Vec<String>> {
    let tokens = super::lexer::tokens(text).ok()?;
    let mut words = Words::new(&tokens);
    let parts = words.dotted_name()?;
    words.is_empty().then_some(parts)
}

/// Functions of sequences, which each group would count for itself.
pub(super) fn is_of_sequences(parts: &[&str]) -> bool {
    let name = match parts {
        [name] | ["pg_catalog", name] => *name,
        _ => return false,
    };
    functions::SEQUENCES.contains(&name)
}

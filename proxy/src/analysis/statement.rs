//! The doors: cutting a query string into statements, and planning one.

use std::collections::HashSet;
use std::ops::Range;

use coordinator::catalogue::Catalogue;

use super::lexer::{self, Kind, Token};
use super::plan::{Access, Ddl, DdlEffect, EachGroup, Form, HomeUse, Plan, Query, Tag, Target};
use super::relations::{Facts, Named, Names};
use super::words::{Words, split_commas};
use super::{
    Refusal, configure, copy, create_as, ddl, distribute, explain, fill, prepared, query, routines,
    sequences, session, temporary, transaction,
};

/// Cuts a query string at its semicolons, as PostgreSQL would: byte ranges of the statements, without the
/// semicolons and without statements that are empty. An empty result asks for EmptyQueryResponse.
///
/// # Errors
/// `42601` for text that is not made of tokens: an unterminated string or comment.
pub fn split(sql: &str) -> Result<Vec<Range<usize>>, Refusal> {
    let tokens = lexer::tokens(sql)?;
    let mut nesting = Nesting::default();
    let statements = tokens.split(|token| nesting.ends_with(token));
    Ok(statements
        .filter_map(|statement| Some(statement.first()?.range.start..statement.last()?.range.end))
        .collect())
}

/// What the next token of a statement is within. A semicolon ends the statement where that is nothing.
#[derive(Default)]
struct Nesting {
    head: Head,
    parentheses: usize,
    /// BEGIN ATOMIC of a function, and CASE in it, up to their END (as psqlscan.l finds them).
    blocks: usize,
    /// The token before was BEGIN.
    begin: bool,
}

/// What the first words of a statement are.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Head {
    #[default]
    Nothing,
    Create,
    CreateOr,
    CreateOrReplace,
    /// CREATE [OR REPLACE] FUNCTION or PROCEDURE.
    Routine,
    Other,
}

impl Head {
    fn then(self, word: &str) -> Head {
        match (self, word) {
            (Head::Nothing, "create") => Head::Create,
            (Head::Create, "or") => Head::CreateOr,
            (Head::CreateOr, "replace") => Head::CreateOrReplace,
            (Head::Create | Head::CreateOrReplace, "function" | "procedure") | (Head::Routine, _) => {
                Head::Routine
            }
            _ => Head::Other,
        }
    }
}

impl Nesting {
    /// Whether the statement ends with this token.
    fn ends_with(&mut self, token: &Token) -> bool {
        let word = match &token.kind {
            Kind::Word(word) => word.as_str(),
            Kind::Punctuation('(') => {
                self.parentheses += 1;
                ""
            }
            Kind::Punctuation(')') => {
                self.parentheses = self.parentheses.saturating_sub(1);
                ""
            }
            Kind::Punctuation(';') if self.parentheses == 0 && self.blocks == 0 => {
                *self = Nesting::default();
                return true;
            }
            _ => "",
        };
        self.head = self.head.then(word);
        if self.head == Head::Routine && self.parentheses == 0 {
            match word {
                "atomic" if self.begin => self.blocks += 1,
                "case" if self.blocks > 0 => self.blocks += 1,
                "end" => self.blocks = self.blocks.saturating_sub(1),
                _ => {}
            }
        }
        self.begin = word == "begin";
        false
    }
}

/// What PostgreSQL calls a statement that cannot run in a transaction block (`PreventInTransactionBlock`).
#[must_use]
pub fn command_of(sql: &str) -> String {
    let tokens = lexer::tokens(sql).unwrap_or_default();
    let mut words = Words::new(&tokens);
    let concurrently = if has_word_anywhere(&tokens, "concurrently") {
        " CONCURRENTLY"
    } else {
        ""
    };
    let verb = ["create", "drop", "alter", "reindex", "vacuum", "cluster"];
    let Some(verb) = words.take_any(&verb) else {
        return "this statement".to_owned();
    };
    words.take(&["unique"]);
    words.parenthesised();
    let kinds = ["index", "database", "table", "schema", "system"];
    let object = words.take_any(&kinds).unwrap_or_default();
    match (verb, object) {
        ("vacuum" | "cluster", _) => verb.to_uppercase(),
        ("alter", "table") => format!("ALTER TABLE ...{concurrently}"),
        ("reindex", _) if !concurrently.is_empty() => format!("REINDEX{concurrently}"),
        (_, "index") => format!("{} INDEX{concurrently}", verb.to_uppercase()),
        _ => format!("{} {}", verb.to_uppercase(), object.to_uppercase()),
    }
}

/// The highest number of a statement's parameters, 0 where it has none, or is no SQL.
#[must_use]
pub fn parameters(sql: &str) -> usize {
    let numbers = lexer::tokens(sql)
        .unwrap_or_default()
        .into_iter()
        .map(|token| match token.kind {
            Kind::Parameter(number) => number,
            _ => 0,
        });
    numbers.max().unwrap_or(0)
}

/// The numbers of a statement's parameters; none of what is no SQL.
#[must_use]
pub fn used_parameters(sql: &str) -> HashSet<usize> {
    let tokens = lexer::tokens(sql).unwrap_or_default().into_iter();
    let numbers = tokens.filter_map(|token| match token.kind {
        Kind::Parameter(number) => Some(number),
        _ => None,
    });
    numbers.collect()
}

/// Plans one statement: the text of one of [`split`]'s ranges, or of a Parse message.
///
/// # Errors
/// With the words for the client, when the statement must not run.
pub fn analyse(sql: &str, facts: &Facts<'_>, catalogue: &Catalogue) -> Result<Plan, Refusal> {
    let mut tokens = lexer::tokens(sql)?;
    while tokens
        .last()
        .is_some_and(|token| token.kind == Kind::Punctuation(';'))
    {
        tokens.pop();
    }
    if has_mark(&tokens, ';') && !may_have_statements(&tokens) {
        return Err(Refusal::new(
            "42601",
            "cannot insert multiple commands into a prepared statement",
        ));
    }
    plan(
        &tokens,
        sql,
        Names {
            text: sql,
            facts: *facts,
            catalogue,
        },
    )
}

fn has_mark(tokens: &[Token], mark: char) -> bool {
    tokens.iter().any(|token| token.kind == Kind::Punctuation(mark))
}

/// Whether semicolons may stand within it: in the body of a function, or the actions of a rule.
fn may_have_statements(tokens: &[Token]) -> bool {
    let mut words = Words::new(tokens);
    words.take(&["create"]) && {
        words.take(&["or", "replace"]);
        words.take_any(&["function", "procedure", "rule"]).is_some()
    }
}

/// A plan for text that PostgreSQL is expected to find wrong.
pub(super) fn syntax_for_postgres() -> Plan {
    Plan::Judge(Refusal::unsupported("Howdah cannot analyse this statement"))
}

/// A read that any group answers.
pub(super) fn any_group() -> Plan {
    Plan::Query(Query {
        access: Access::Read,
        target: Target::Any,
        tag: Tag::AsIs,
        form: Form::Plain,
        draws: None,
    })
}

/// A statement that has nothing to do but this; PostgreSQL reads the rest.
fn at_home(used: HomeUse) -> Plan {
    Plan::Query(Query {
        access: used.access(),
        target: Target::Home(used),
        tag: Tag::AsIs,
        form: Form::Plain,
        draws: None,
    })
}

/// Plans the statement that these tokens make.
pub(super) fn plan(tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    let words = Words::new(tokens);
    let first = match words.peek() {
        None => return Ok(Plan::Empty),
        Some(Kind::Word(word)) => word.as_str(),
        Some(Kind::Punctuation('(')) => "select",
        Some(_) => return Ok(syntax_for_postgres()),
    };
    match first {
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
            transaction::plan(tokens)
        }
        "prepare" | "set" if words.sees(&[first, "transaction"]) => transaction::plan(tokens),
        "set" => session::set(tokens),
        "reset" => Ok(session::reset(tokens)),
        "show" => Ok(session::show(tokens)),
        "discard" => Ok(session::discard(tokens)),
        "select" | "values" | "with" | "insert" | "update" | "delete" | "table" | "merge" => {
            rows(tokens, sql, names)
        }
        "explain" => explain(tokens, sql, names),
        "copy" => copy::plan(tokens, sql, names),
        "truncate" => truncate(tokens, names),
        "lock" => lock(tokens, names),
        "prepare" | "execute" | "deallocate" => prepared::plan(tokens, names),
        "declare" | "fetch" | "move" | "close" => prepared::cursor(tokens, names),
        "create" | "alter" | "drop" | "comment" | "grant" | "revoke" | "reassign" => {
            ddl::plan(tokens, sql, names)
        }
        "listen" => Ok(at_home(HomeUse::Listens)),
        "unlisten" => Ok(at_home(HomeUse::Unlistens)),
        "notify" => Ok(at_home(HomeUse::Notifies)),
        "vacuum" | "analyze" | "analyse" | "reindex" | "cluster" | "checkpoint" => {
            Ok(match temporary::maintenance(tokens, names)? {
                Some(plan) => plan,
                None => maintenance(first, tokens),
            })
        }
        "do" => routines::execute(tokens, names),
        "call" => routines::call(tokens, names),
        _ => unsupported(first),
    }
}

fn rows(tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    if let Some(configure) = configure::plan(tokens, names) {
        return configure;
    }
    if let Some(distribution) = distribution(tokens, names) {
        return distribution;
    }
    let fills = temporary::select_into(tokens, sql, names);
    if let Some(fills) = fills.or_else(|| fill::insert(tokens, sql, names)) {
        return fills;
    }
    if let Some(made) = create_as::select_into(tokens, sql, names) {
        return made;
    }
    if let Some(draws) = sequences::plan(tokens, sql, names) {
        return draws;
    }
    query::plan(tokens, names)
}

fn unsupported(first: &str) -> Result<Plan, Refusal> {
    let (message, detail, hint) = match first {
        "load" => (
            "LOAD is not supported",
            "It would load code into one server only.",
            "Leave it out.",
        ),
        "refresh" | "import" | "security" => (
            "this statement is not supported",
            "It works in one server only.",
            "Leave it out.",
        ),
        _ => return Ok(syntax_for_postgres()),
    };
    Err(Refusal::unsupported(message).detail(detail).hint(hint))
}

/// TRUNCATE empties the tables in every group.
fn truncate(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["truncate"]);
    words.take(&["table"]);
    let mut tables = Vec::new();
    loop {
        words.take(&["only"]);
        let Some(table) = words.dotted_name() else {
            return Ok(syntax_for_postgres());
        };
        tables.push(table.clone());
        match names.find(&table)? {
            Named::Table(_) | Named::Temporary => {}
            Named::View(view, _) => {
                return Err(Refusal::new("42809", format!("\"{}\" is not a table", view.name)));
            }
            Named::System => {
                let table = table.join(".");
                return Err(Refusal::unsupported(format!("\"{table}\" cannot be written to")));
            }
            // Parse does not look at TRUNCATE's tables, so that PostgreSQL's words are said here.
            Named::Unknown => {
                let table = table.join(".");
                return Err(Refusal::new(
                    "42P01",
                    format!("relation \"{table}\" does not exist"),
                ));
            }
        }
        words.take_operator("*");
        if !words.take_mark(',') {
            break;
        }
    }
    let restart = words.take(&["restart", "identity"]);
    if !restart {
        words.take(&["continue", "identity"]);
    }
    let _ = words.take_any(&["cascade", "restrict"]);
    if !words.is_empty() {
        return Ok(syntax_for_postgres());
    }
    let target = if temporary::all_are(&tables, names)? {
        Target::Home(HomeUse::Temporary)
    } else if restart {
        return Ok(Plan::Ddl(Ddl {
            effect: DdlEffect::RestartIdentity,
            outside_transaction: false,
            leaves: None,
        }));
    } else {
        Target::All
    };
    Ok(Plan::Query(Query {
        access: Access::Write,
        target,
        tag: Tag::AsIs,
        form: Form::Plain,
        draws: None,
    }))
}

/// LOCK TABLE locks the tables in every group; PostgreSQL reads the mode.
fn lock(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["lock"]);
    words.take(&["table"]);
    let mut tables = Vec::new();
    loop {
        words.take(&["only"]);
        let Some(table) = words.dotted_name() else {
            return Ok(syntax_for_postgres());
        };
        let shown = table.join(".");
        tables.push(table.clone());
        match names.find(&table)? {
            // What is not there PostgreSQL says, in a transaction only.
            Named::Table(_) | Named::View(..) | Named::Temporary | Named::Unknown => {}
            Named::System => {
                return Err(Refusal::unsupported(format!("\"{shown}\" cannot be locked"))
                    .detail("It is not a table of users."));
            }
        }
        words.take_operator("*");
        if !words.take_mark(',') {
            break;
        }
    }
    if temporary::all_are(&tables, names)? {
        return Ok(temporary::at_home(Access::Read, Form::Plain));
    }
    if words.is_empty() || words.sees(&["in"]) || words.sees(&["nowait"]) {
        Ok(Plan::Lock)
    } else {
        Ok(syntax_for_postgres())
    }
}

fn maintenance(first: &str, tokens: &[Token]) -> Plan {
    let alone = first == "vacuum" || first == "cluster" || has_word_anywhere(tokens, "concurrently");
    let whole =
        Words::new(tokens).sees(&["reindex", "database"]) || Words::new(tokens).sees(&["reindex", "system"]);
    Plan::EachGroup(EachGroup {
        outside_transaction: alone || whole,
        verbose: has_word_anywhere(tokens, "verbose"),
    })
}

fn has_word_anywhere(tokens: &[Token], word: &str) -> bool {
    tokens
        .iter()
        .any(|token| matches!(&token.kind, Kind::Word(found) if found == word))
}

/// EXPLAIN goes where its statement goes. Without ANALYZE nothing runs, so that one group can speak for all.
fn explain(tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["explain"]);
    let options = words.parenthesised();
    let ours = explain::is_asked_for(options.unwrap_or_default())?;
    let analyze = match options {
        Some(options) => split_commas(options).into_iter().any(|option| {
            let mut option = Words::new(option);
            let named = option.take_any(&["analyze", "analyse"]).is_some();
            let off = matches!(option.peek(), Some(Kind::Word(value)) if value == "false" || value == "off")
                || matches!(option.peek(), Some(Kind::Number(value)) if value == "0");
            named && !off
        }),
        None => {
            let analyze = words.take_any(&["analyze", "analyse"]).is_some();
            words.take(&["verbose"]);
            analyze
        }
    };
    let rowwise = [
        "select", "values", "with", "insert", "update", "delete", "table", "merge",
    ];
    let starts = matches!(words.peek(), Some(Kind::Punctuation('(')))
        || rowwise.iter().any(|keyword| words.sees(&[keyword]));
    if !starts {
        return Err(Refusal::unsupported("EXPLAIN of this statement is not supported"));
    }
    let planned = plan(words.rest(), sql, names)?;
    let draws = match &planned {
        Plan::Query(query) => query.draws.clone(),
        _ => None,
    };
    let planned = match &draws {
        // There is no need to agree on a time.
        Some(draws) if draws.only_tells_time() => query::plan(words.rest(), names)?,
        Some(_) if analyze => {
            return Err(Refusal::unsupported(
                "EXPLAIN ANALYZE of a statement that takes values of sequences is not supported",
            )
            .hint("Leave ANALYZE out."));
        }
        _ => planned,
    };
    match planned {
        Plan::Query(inner) if analyze && inner.form.needs_session() => Err(Refusal::unsupported(
            "EXPLAIN ANALYZE of a statement for which rows are brought from one group to another is not supported",
        )
        .hint("Leave ANALYZE out.")),
        Plan::Query(inner) if ours && explain::can_be(&inner) => {
            if analyze && inner.access != Access::Read {
                return Err(Refusal::unsupported(
                    "EXPLAIN (ANALYZE, HOWDAH) of a statement that writes is not supported",
                )
                .hint("Leave ANALYZE out."));
            }
            // What is read of the tables is found in the text that was planned.
            let (text, sql) = match &inner.draws {
                Some(draws) => (draws.text.as_str(), draws.text.as_str()),
                None => (fill::text_of(words.rest(), sql), sql),
            };
            let explained = explain::Explained::of(&inner, (text, sql), analyze, names.catalogue.slots());
            Ok(Plan::Explained(Box::new(explained)))
        }
        Plan::Query(inner) if !ours => {
            let target = match inner.target {
                _ if inner.draws.is_some() => Target::Any,
                Target::All | Target::Copies(_) if !analyze => Target::Any,
                Target::Home(used) if !analyze && used != HomeUse::Temporary => Target::Any,
                target => target.on_one_group(|| {
                    let what = if analyze { "EXPLAIN ANALYZE" } else { "EXPLAIN" };
                    Refusal::unsupported(format!("{what} on several groups is not supported"))
                        .hint("Leave ANALYZE out, or add WHERE on the shard key.")
                })?,
            };
            let access = if analyze { inner.access } else { Access::Read };
            Ok(Plan::Query(Query {
                access,
                target,
                tag: Tag::AsIs,
                form: Form::Plain,
                draws: None,
            }))
        }
        Plan::Judge(refusal) => Ok(Plan::Judge(refusal)),
        _ => Err(Refusal::unsupported("EXPLAIN of this statement is not supported")),
    }
}

/// `SELECT create_distributed_table('table', 'column')` or the like alone; none if it is not that.
fn distribution(tokens: &[Token], names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let mut words = Words::new(tokens);
    if !words.take(&["select"]) {
        return None;
    }
    let called = words.dotted_name()?.pop()?;
    let arguments = words.parenthesised()?;
    let only = words.is_empty();
    only.then(|| distribute::plan(&called, arguments, names))?
}

/// Whether the catalogue must be read again, for callers that only have the effect.
impl DdlEffect {
    /// Whether tables, columns or names may be others afterwards.
    #[must_use]
    pub fn changes_tables(&self) -> bool {
        !matches!(self, DdlEffect::None | DdlEffect::Database(_))
    }
}

/// The table with this name, if it is a distributed one.
pub(super) fn distributed<'a>(
    parts: &[String],
    names: Names<'a>,
) -> Result<Option<&'a coordinator::catalogue::Relation>, Refusal> {
    match names.find(parts)? {
        Named::Table(relation) => Ok(Some(relation)),
        Named::View(..) | Named::Temporary | Named::System | Named::Unknown => Ok(None),
    }
}

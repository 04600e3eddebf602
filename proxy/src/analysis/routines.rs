//! Functions and procedures of users: made on all groups, if their bodies touch no rows (`bodies.rs`).

use super::Refusal;
use super::bodies;
use super::functions;
use super::lexer::{Kind, Token};
use super::plan::Plan;
use super::relations::{Named, Names};
use super::statement::{any_group, syntax_for_postgres};
use super::words::{Words, has_word, split_commas};

/// What begins an option of CREATE FUNCTION, and so ends the one before.
const OPTIONS: &[&str] = &[
    "as",
    "begin",
    "called",
    "cost",
    "external",
    "immutable",
    "language",
    "leakproof",
    "not",
    "parallel",
    "reset",
    "restrict",
    "return",
    "returns",
    "rows",
    "security",
    "set",
    "stable",
    "strict",
    "support",
    "transform",
    "volatile",
    "window",
];

/// Settings that a function may have while it runs: they are PostgreSQL's again when it ends, and say how values are read and written.
const SETTINGS: &[&str] = &[
    "bytea_output",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "jit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "search_path",
    "time zone",
    "timezone",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// Types that a row of a table can be an argument of: `t.f` would be `f(t)`.
const OF_ROWS: &[&str] = &[
    "anycompatible",
    "anycompatiblenonarray",
    "anyelement",
    "anynonarray",
    "record",
];

/// Functions of Howdah's that statements are made of.
const VERBS: &[&str] = &[
    "alter_distributed_table",
    "create_distributed_table",
    "create_reference_table",
    "undistribute_table",
];

fn unsupported(what: &str) -> Refusal {
    Refusal::unsupported(format!("{what} is not supported"))
}

/// What a definition names of what is on all groups: of a function its name, as its search path may well have `pg_temp` in it.
pub(super) fn named_in(tokens: &[Token]) -> &[Token] {
    let mut words = Words::new(tokens);
    let _ = words.take_any(&["create", "alter"]);
    words.take(&["or", "replace"]);
    if words.take_any(&["function", "procedure", "routine"]).is_none() {
        return tokens;
    }
    let opens = |token: &Token| token.kind == Kind::Punctuation('(');
    let end = tokens.iter().position(opens).unwrap_or(tokens.len());
    &tokens[..end]
}

/// Checks CREATE FUNCTION and CREATE PROCEDURE; the words after that are given.
///
/// # Errors
/// When the body is not proved to touch no rows.
pub(super) fn create(mut words: Words<'_>, names: Names<'_>) -> Result<(), Refusal> {
    let Some(parts) = words.dotted_name() else {
        return Err(syntax());
    };
    check_name(&parts)?;
    let Some(arguments) = words.parenthesised() else {
        return Err(syntax());
    };
    for argument in split_commas(arguments) {
        check_argument(argument, &parts, names)?;
    }
    let mut routine = Options {
        own: &parts,
        names,
        language: None,
        body: None,
    };
    while !words.is_empty() {
        routine.take(&mut words)?;
    }
    match (routine.language.as_deref(), &routine.body) {
        (Some("sql" | "plpgsql"), Some(text)) => bodies::check_text(text, Some(&parts), names),
        (Some(language), _) if !["sql", "plpgsql"].contains(&language) => {
            Err(unsupported(&format!("a function in language {language}"))
                .detail("Code that runs inside one server could touch rows of other groups unseen.")
                .hint("Write it in language sql or plpgsql."))
        }
        (None, Some(_)) => Err(Refusal::new("42P13", "no language specified")),
        _ => Ok(()),
    }
}

fn syntax() -> Refusal {
    unsupported("this form of CREATE or ALTER FUNCTION")
}

/// A name that no function of PostgreSQL's or Howdah's has. Of PostgreSQL's others the groups know (`howdah.on_ddl`).
fn check_name(parts: &[String]) -> Result<(), Refusal> {
    if let [schema, _] = parts
        && ["pg_catalog", "information_schema"].contains(&schema.as_str())
    {
        return Err(unsupported(&format!("a function of yours in schema {schema}")));
    }
    let name = parts.last().map(String::as_str).unwrap_or_default();
    let taken = functions::find(&[name]).is_ok()
        || functions::at_home(&[name]).is_some()
        || functions::SEQUENCES.contains(&name)
        || VERBS.contains(&name);
    if !taken {
        return Ok(());
    }
    Err(unsupported(&format!(
        "a function of yours that is called \"{name}\""
    ))
    .detail("PostgreSQL or Howdah has functions of that name, and which one a statement calls depends on types.")
    .hint("Give it another name."))
}

/// `[mode] [name] type [DEFAULT expression]`.
fn check_argument(argument: &[Token], own: &[String], names: Names<'_>) -> Result<(), Refusal> {
    let is_default = |token: &Token| match &token.kind {
        Kind::Word(word) => word == "default",
        Kind::Operator(operator) => operator == "=" || operator == ":=",
        _ => false,
    };
    let end = argument.iter().position(is_default).unwrap_or(argument.len());
    if let Some(default) = argument.get(end + 1..) {
        bodies::check(default, Some(own), names)?;
    }
    let mut words = Words::new(&argument[..end]);
    let _ = words.take_any(&["in", "out", "inout", "variadic"]);
    let declared = words.rest();
    for at in 0..declared.len() {
        if matches!(&declared[at].kind, Kind::Word(word) if OF_ROWS.contains(&word.as_str())) {
            return Err(of_row());
        }
        let mut named = Words::new(&declared[at..]);
        let after_point = at
            .checked_sub(1)
            .is_some_and(|at| declared[at].kind == Kind::Punctuation('.'));
        // The first of several names is the argument's own.
        let Some(parts) = named.dotted_name().filter(|_| !after_point) else {
            continue;
        };
        let of_column = matches!(named.peek(), Some(Kind::Operator(mark)) if mark == "%");
        let is_type =
            (at > 0 || named.is_empty() || !matches!(named.peek(), Some(Kind::Word(_) | Kind::Quoted(_))))
                && !of_column;
        if is_type && !matches!(names.find(&parts), Ok(Named::Unknown | Named::System)) {
            return Err(of_row());
        }
    }
    Ok(())
}

fn of_row() -> Refusal {
    unsupported("a function that takes a row of a table, or a value of any type,")
        .detail("PostgreSQL reads t.f as f(t), and a statement's columns would not show what it reads.")
        .hint("Give it the columns that it needs.")
}

/// The options of a function.
struct Options<'t> {
    own: &'t [String],
    names: Names<'t>,
    language: Option<String>,
    body: Option<String>,
}

impl Options<'_> {
    /// Takes one option.
    fn take(&mut self, words: &mut Words<'_>) -> Result<(), Refusal> {
        if take_property(words)? {
            return Ok(());
        }
        if words.take(&["returns", "null", "on", "null", "input"]) {
            return Ok(());
        }
        if words.take(&["returns"]) {
            if words.take(&["table"]) {
                let columns = words.parenthesised().ok_or_else(syntax)?;
                return no_texts(columns);
            }
            return no_texts(until_option(words));
        }
        if words.take(&["language"]) {
            self.language = match words.next() {
                Some(Kind::Word(name) | Kind::Quoted(name) | Kind::Text(name)) => {
                    Some(name.to_ascii_lowercase())
                }
                _ => return Err(syntax()),
            };
            return Ok(());
        }
        if words.take(&["as"]) {
            let Some(Kind::Text(body)) = words.next() else {
                return Err(syntax());
            };
            if self.body.replace(body.clone()).is_some() || words.peek() == Some(&Kind::Punctuation(',')) {
                return Err(syntax());
            }
            return Ok(());
        }
        if words.sees(&["return"]) || words.sees(&["begin", "atomic"]) {
            self.language.get_or_insert_with(|| "sql".to_owned());
            bodies::check(words.rest(), Some(self.own), self.names)?;
            *words = Words::new(&[]);
            return Ok(());
        }
        if let Some(word) = words.take_any(&["window", "transform", "support"]) {
            return Err(unsupported(&format!("{} of a function", word.to_uppercase())));
        }
        Err(syntax())
    }
}

/// Takes a property that changes nothing of what a body may do.
fn take_property(words: &mut Words<'_>) -> Result<bool, Refusal> {
    let plain = [
        &["immutable"][..],
        &["stable"],
        &["volatile"],
        &["not", "leakproof"],
        &["leakproof"],
        &["called", "on", "null", "input"],
        &["strict"],
        &["external", "security", "definer"],
        &["external", "security", "invoker"],
        &["security", "definer"],
        &["security", "invoker"],
    ];
    if plain.iter().any(|keywords| words.take(keywords)) {
        return Ok(true);
    }
    if words.take_any(&["parallel", "cost", "rows"]).is_some() {
        words.next();
        return Ok(true);
    }
    if words.take(&["set"]) {
        let setting = if words.take(&["time", "zone"]) {
            "time zone".to_owned()
        } else {
            words
                .dotted_name()
                .unwrap_or_default()
                .join(".")
                .to_ascii_lowercase()
        };
        if !SETTINGS.contains(&setting.as_str()) {
            return Err(unsupported(&format!("SET {setting} of a function"))
                .detail("A function's settings hold while it runs, also those on which the commit of a transaction depends.")
                .hint("Set it in the session, or for a role: ALTER ROLE ... SET."));
        }
        until_option(words);
        return Ok(true);
    }
    Ok(false)
}

/// Takes what comes before the next option.
fn until_option<'t>(words: &mut Words<'t>) -> &'t [Token] {
    let rest = words.rest();
    let begins = |token: &Token| matches!(&token.kind, Kind::Word(word) if OPTIONS.contains(&word.as_str()));
    // The first word is a value, or a type.
    let end = rest
        .iter()
        .skip(1)
        .position(begins)
        .map_or(rest.len(), |at| at + 1);
    *words = Words::new(&rest[end..]);
    &rest[..end]
}

fn no_texts(tokens: &[Token]) -> Result<(), Refusal> {
    let text = |token: &Token| matches!(token.kind, Kind::Text(_));
    if tokens.iter().any(text) {
        return Err(syntax());
    }
    Ok(())
}

/// Checks ALTER FUNCTION, PROCEDURE and ROUTINE; the words after that are given.
///
/// # Errors
/// When the function would get a setting or a name that it must not have.
pub(super) fn alter(mut words: Words<'_>) -> Result<(), Refusal> {
    let Some(parts) = words.dotted_name() else {
        return Err(syntax());
    };
    if let [schema, _] = parts.as_slice()
        && schema == "pg_catalog"
    {
        return Err(unsupported("changing a function of PostgreSQL's own"));
    }
    words.parenthesised();
    if words.take(&["rename", "to"]) {
        return check_name(&[words.name().unwrap_or_default()]);
    }
    if words.take(&["owner", "to"]) || words.sees(&["depends"]) || words.sees(&["no", "depends"]) {
        return Ok(());
    }
    if words.take(&["set", "schema"]) {
        let schema = words.name().unwrap_or_default();
        return check_name(&[schema, "of_users".to_owned()]);
    }
    while !words.is_empty() {
        if words.take(&["reset"]) {
            words.next();
        } else if !words.take(&["restrict"])
            && !words.take(&["returns", "null", "on", "null", "input"])
            && !take_property(&mut words)?
        {
            return Err(syntax());
        }
    }
    Ok(())
}

/// Plans DO: its block can change nothing, so that any group runs it.
///
/// # Errors
/// When its block may do more than compute and RAISE.
pub(super) fn execute(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["do"]);
    let mut body = None;
    while let Some(kind) = words.next() {
        match kind {
            Kind::Text(text) if body.is_none() => body = Some(text),
            Kind::Word(word) if word == "language" => match words.next() {
                Some(Kind::Word(name) | Kind::Quoted(name) | Kind::Text(name))
                    if name.eq_ignore_ascii_case("plpgsql") => {}
                _ => {
                    return Err(unsupported("DO in this language").hint("Write it in language plpgsql."));
                }
            },
            _ => return Ok(syntax_for_postgres()),
        }
    }
    let Some(body) = body else {
        return Ok(syntax_for_postgres());
    };
    bodies::check_text(body, None, names)?;
    Ok(any_group())
}

/// Plans CALL: a procedure can change nothing, so that any group runs it.
///
/// # Errors
/// When there is no such procedure, or its arguments call what must not be called.
pub(super) fn call(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    words.take(&["call"]);
    let (Some(parts), Some(arguments)) = (words.dotted_name(), words.parenthesised()) else {
        return Ok(syntax_for_postgres());
    };
    if !words.is_empty() {
        return Ok(syntax_for_postgres());
    }
    let (schema, name) = match parts.as_slice() {
        [name] => (None, name),
        [schema, name] => (Some(schema.as_str()), name),
        _ => return Ok(syntax_for_postgres()),
    };
    if names.catalogue.functions(schema, name).next().is_none() {
        let shown = parts.join(".");
        return Err(Refusal::new(
            "42883",
            format!("procedure {shown}() does not exist"),
        ));
    }
    if has_word(arguments, &["select"]) {
        return Err(unsupported("a subquery in CALL"));
    }
    bodies::check(arguments, None, names)?;
    Ok(any_group())
}

//! What the body of a function may have in it.
//!
//! **Invariant.** A body that passes reads and writes no row of a table, sends no statement of which it makes the text itself, and
//! changes no setting of its session, whatever its arguments are.
//!
//! It is read as a row of words, by PostgreSQL's own lexical rules, which SQL and PL/pgSQL share. A relation is reached by a statement
//! or a clause that begins with one of the words of [`NEVER`], by FROM, or by a function that takes SQL or a relation as its argument. So none
//! of these words may be in it, unless as a field (`NEW.comment`); FROM only where no relation can follow; and of functions
//! only those that any statement may call, and that tell nothing of one server.

use super::Refusal;
use super::check::is_local;
use super::ddl;
use super::functions;
use super::lexer::{self, Kind, Token};
use super::relations::Names;
use super::words::Words;

/// Words with which something begins that reads or writes tables, runs SQL, or acts on the session. Some are names elsewhere: then
/// another name does.
const NEVER: &[&str] = &[
    "abort",
    "alter",
    "analyse",
    "analyze",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "cursor",
    "deallocate",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "into",
    "join",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "notify",
    "open",
    "prepare",
    "reassign",
    "refcursor",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "set",
    "show",
    "table",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Types whose values are objects of one server.
const OF_SERVER: &[&str] = &[
    "oid",
    "regclass",
    "regcollation",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
];

/// Words before `(` that call nothing, beside those of definitions.
const NO_FUNCTION: &[&str] = &[
    "assert",
    "begin",
    "constant",
    "continue",
    "declare",
    "elseif",
    "elsif",
    "end",
    "exists",
    "exit",
    "filter",
    "foreach",
    "group",
    "having",
    "if",
    "lateral",
    "limit",
    "loop",
    "next",
    "offset",
    "order",
    "over",
    "partition",
    "perform",
    "query",
    "raise",
    "return",
    "reverse",
    "select",
    "similar",
    "slice",
    "union",
    "except",
    "intersect",
    "while",
    "within",
];

/// Words whose `(` may have a FROM before an expression in it.
const FROM_INSIDE: [&str; 5] = ["extract", "overlay", "position", "substring", "trim"];

/// What may follow a function in FROM.
const AFTER_FROM: &[&str] = &[
    "except",
    "group",
    "having",
    "intersect",
    "limit",
    "loop",
    "offset",
    "order",
    "union",
    "where",
];

fn refused(what: &str) -> Refusal {
    Refusal::unsupported(format!("{what} in the body of a function is not supported"))
        .detail("Code that runs inside one server could touch rows of other groups unseen.")
        .hint(
            "A body may compute with its arguments and variables, IF, LOOP, RAISE and RETURN, call functions that touch no \
             table, and change NEW in a trigger; it may not read or write tables, run SQL from text, or change settings.",
        )
}

/// Checks a body that is given as a text. `own` is the name of the function itself, which it may call.
///
/// # Errors
/// When it may do something else.
pub(super) fn check_text(body: &str, own: Option<&[String]>, names: Names<'_>) -> Result<(), Refusal> {
    check(&lexer::tokens(body)?, own, names)
}

/// The same of a body that is part of a statement.
///
/// # Errors
/// When it may do something else.
pub(super) fn check(tokens: &[Token], own: Option<&[String]>, names: Names<'_>) -> Result<(), Refusal> {
    // Whether the parentheses that are open may have a FROM of a function's own grammar.
    let mut open: Vec<bool> = Vec::new();
    for at in 0..tokens.len() {
        let before = at.checked_sub(1).map(|before| &tokens[before].kind);
        match &tokens[at].kind {
            Kind::Punctuation('(') => {
                let opens = matches!(before, Some(Kind::Word(word)) if FROM_INSIDE.contains(&word.as_str()));
                open.push(opens && !is_field(tokens, at - 1));
            }
            Kind::Punctuation(')') => {
                open.pop();
            }
            // What is glued to a number may be a word to some versions.
            Kind::Number(number) if !is_plain(number) => return Err(refused(&format!("\"{number}\""))),
            Kind::Word(name) | Kind::Quoted(name) if name == "howdah" => {
                return Err(refused("\"howdah\""));
            }
            Kind::Word(word) if !is_field(tokens, at) => {
                let grammar = open.last() == Some(&true);
                if word == "from"
                    && !grammar
                    && !is_distinct_from(tokens, at)
                    && !calls_only(&tokens[at + 1..])
                {
                    return Err(refused("FROM a table"));
                }
                if NEVER.contains(&word.as_str()) {
                    return Err(refused(&word.to_uppercase()));
                }
            }
            _ => {}
        }
        if let Kind::Word(word) = &tokens[at].kind
            && OF_SERVER.contains(&word.as_str())
        {
            return Err(refused(&format!("type {word}")));
        }
        check_call(tokens, at, own, names)?;
    }
    Ok(())
}

/// Whether the word is the name of a field: `NEW.comment`. A name, and nothing else, can come behind a point.
fn is_field(tokens: &[Token], at: usize) -> bool {
    let kind = |back: usize| at.checked_sub(back).map(|at| &tokens[at].kind);
    kind(1) == Some(&Kind::Punctuation('.'))
        && matches!(
            kind(2),
            Some(Kind::Word(_) | Kind::Quoted(_) | Kind::Punctuation(')' | ']'))
        )
}

fn is_plain(number: &str) -> bool {
    let exponent = |number: &str| {
        let (mantissa, exponent) = number.split_once(['e', 'E'])?;
        let digits = exponent.trim_start_matches(['+', '-']);
        Some(is_decimal(mantissa) && !digits.is_empty() && is_decimal(digits))
    };
    is_decimal(number) || exponent(number) == Some(true)
}

fn is_decimal(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `IS [NOT] DISTINCT FROM`.
fn is_distinct_from(tokens: &[Token], at: usize) -> bool {
    let ends_with = |words: &[&str]| {
        let from = at.checked_sub(words.len());
        from.is_some_and(|from| Words::new(&tokens[from..at]).sees(words))
    };
    ends_with(&["is", "distinct"]) || ends_with(&["is", "not", "distinct"])
}

/// Whether the FROM whose list begins here has calls of functions in it alone: `FROM unnest(a) AS u, generate_series(1, n)`.
fn calls_only(list: &[Token]) -> bool {
    let mut words = Words::new(list);
    loop {
        words.take(&["lateral"]);
        let first = words.peek();
        let keyword =
            matches!(first, Some(Kind::Word(word)) if ["lateral", "only", "rows"].contains(&word.as_str()));
        if keyword || words.dotted_name().is_none() || words.parenthesised().is_none() {
            return false;
        }
        words.take(&["with", "ordinality"]);
        let named = words.take(&["as"]);
        let ends = matches!(words.peek(), Some(Kind::Word(word)) if AFTER_FROM.contains(&word.as_str()));
        if named || !ends && matches!(words.peek(), Some(Kind::Word(_) | Kind::Quoted(_))) {
            words.name();
            words.parenthesised();
        }
        if words.take_mark(',') {
            continue;
        }
        return match words.peek() {
            None | Some(Kind::Punctuation(')' | ';')) => true,
            Some(Kind::Word(word)) => AFTER_FROM.contains(&word.as_str()),
            _ => false,
        };
    }
}

/// Checks the call that begins at a token, if one does.
fn check_call(tokens: &[Token], at: usize, own: Option<&[String]>, names: Names<'_>) -> Result<(), Refusal> {
    // `a.b` is looked at from `a` on, `1..b` from `b` on.
    if is_field(tokens, at) {
        return Ok(());
    }
    let mut words = Words::new(&tokens[at..]);
    let Some(parts) = words.dotted_name() else {
        return Ok(());
    };
    if words.peek() != Some(&Kind::Punctuation('(')) || own == Some(parts.as_slice()) {
        return Ok(());
    }
    let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
    if let ([name], Kind::Word(_)) = (borrowed.as_slice(), &tokens[at].kind)
        && (NO_FUNCTION.contains(name) || ddl::NO_FUNCTION.contains(name))
    {
        return Ok(());
    }
    // `FROM f(1) AS u (x)`, `FROM f(1) u (x)`: no call can stand there.
    let before = at.checked_sub(1).map(|before| &tokens[before].kind);
    if before == Some(&Kind::Word("as".to_owned())) || before == Some(&Kind::Punctuation(')')) {
        return Ok(());
    }
    let called = functions::find_any(&borrowed, names.catalogue)?;
    let name = borrowed.last().copied().unwrap_or_default();
    if called.is_own && name != "current_setting" && is_local(name, called.function.volatility) {
        return Err(refused(&format!("{name}()")));
    }
    Ok(())
}

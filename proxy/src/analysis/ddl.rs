//! Statements that define things: the same on every group, if each group can keep them alone.

use coordinator::catalogue::{FilledBy, Relation, Resolved};

use coordinator::catalogue::Placement;

use super::Refusal;
use super::added;
use super::copies;
use super::create_table::{self, check_element, constraint_columns, without_key};
use super::databases;
use super::extensions;
use super::fill::text_of;
use super::functions;
use super::lexer::{Kind, Token};
use super::plan::{Access, AlteredTable, Ddl, DdlEffect, Form, Index, Plan, RelationName};
use super::relations::{Named, Names};
use super::routines;
use super::settings;
use super::statement::{distributed, syntax_for_postgres};
use super::temporary;
use super::triggers;
use super::words::{Words, has_word, split_commas};

fn everywhere(effect: DdlEffect) -> Result<Plan, Refusal> {
    Ok(Plan::Ddl(Ddl {
        effect,
        outside_transaction: false,
        leaves: None,
    }))
}

fn unsupported(what: &str) -> Refusal {
    Refusal::unsupported(format!("{what} is not supported"))
}

/// Plans CREATE, ALTER, DROP, COMMENT, GRANT, REVOKE and REASSIGN.
pub(super) fn plan(tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    let mut words = Words::new(tokens);
    if words.take(&["create", "database"]) && words.name().as_deref() == Some("howdah") {
        return Err(Refusal::new("42939", "database name \"howdah\" is reserved")
            .detail("Whoever connects to it is in Howdah's console.")
            .hint("Choose another name."));
    }
    refuse_howdahs(tokens)?;
    if let Some(plan) = temporary::definition(tokens, names)? {
        return Ok(plan);
    }
    let mut words = Words::new(tokens);
    let plan = match words.take_any(&["create", "alter", "drop"]) {
        Some("create") => create(words, sql, names)?,
        Some("alter") => alter(words, tokens, sql, names)?,
        Some(_) => drop(words)?,
        None => everywhere(DdlEffect::None)?,
    };
    if let Plan::Ddl(_) | Plan::CreateAs(_) = plan {
        temporary::refuse_schema(routines::named_in(tokens))?;
    }
    Ok(plan)
}

/// Refuses to define what is called as Howdah's own.
pub(super) fn refuse_howdahs(tokens: &[Token]) -> Result<(), Refusal> {
    let own =
        |token: &Token| matches!(&token.kind, Kind::Word(name) | Kind::Quoted(name) if name == "howdah");
    if tokens.iter().any(own) {
        return Err(unsupported("changing what belongs to Howdah").hint("The name \"howdah\" is taken."));
    }
    Ok(())
}

fn create(mut words: Words<'_>, sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    words.take(&["or", "replace"]);
    if temporary::take_keyword(&mut words) {
        return temporary::create(words, sql, names);
    }
    if words.take(&["unlogged"]) {
        return Err(unsupported("an unlogged table")
            .detail("It is not replicated, and would be lost with its server."));
    }
    if words.take(&["table"]) {
        return create_table::plan(words, sql, names);
    }
    if words.take(&["view"]) || words.take(&["recursive", "view"]) {
        temporary::refuse_in(words.rest(), "a view", names)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["unique", "index"]) {
        return create_index(words, names, true);
    }
    if words.take(&["index"]) {
        return create_index(words, names, false);
    }
    if words.take(&["schema"]) {
        if has_word(words.rest(), &["create"]) || has_word(words.rest(), &["grant"]) {
            return Err(unsupported("CREATE SCHEMA with objects in it").hint("Create them one by one."));
        }
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["type"]) {
        words.dotted_name();
        let plain = words.take(&["as"])
            && (words.take_any(&["enum", "range"]).is_some() || words.parenthesised().is_some());
        return if plain {
            everywhere(DdlEffect::None)
        } else {
            Err(unsupported("a base type"))
        };
    }
    if words.take(&["domain"]) {
        check_functions(words.rest(), names)?;
        return everywhere(DdlEffect::None);
    }
    if words.take_any(&["role", "user", "group"]).is_some() && !words.sees(&["mapping"]) {
        return everywhere(DdlEffect::None);
    }
    if words.take(&["statistics"]) {
        temporary::refuse_in(words.rest(), "CREATE STATISTICS", names)?;
        return everywhere(DdlEffect::None);
    }
    if words.take(&["sequence"]) {
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["database"]) {
        return databases::create(words);
    }
    if words.take_any(&["function", "procedure"]).is_some() {
        routines::create(words, names)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["extension"]) {
        extensions::create(words)?;
        return everywhere(DdlEffect::Reload);
    }
    let constraint = words.take(&["constraint", "trigger"]);
    if constraint || words.take(&["trigger"]) {
        triggers::create(words, names)?;
        return everywhere(DdlEffect::Reload);
    }
    Err(refused_object(words))
}

/// Words for what cannot be created.
fn refused_object(mut words: Words<'_>) -> Refusal {
    let code = "Code that runs inside one server could touch rows of other groups unseen.";
    if words.take(&["event", "trigger"]) {
        return unsupported("CREATE EVENT TRIGGER").detail(code);
    }
    let word = match words.name() {
        Some(word) => word,
        None => return Refusal::new("42601", "syntax error at end of input"),
    };
    match word.as_str() {
        "aggregate" | "rule" | "operator" | "cast" | "language" | "policy" => {
            unsupported(&format!("CREATE {}", word.to_uppercase())).detail(code)
        }
        "materialized" => unsupported("CREATE MATERIALIZED VIEW").detail("Its rows would be of one group."),
        _ => unsupported(&format!("CREATE {}", word.to_uppercase())),
    }
}

fn create_index(mut words: Words<'_>, names: Names<'_>, unique: bool) -> Result<Plan, Refusal> {
    let concurrently = words.take(&["concurrently"]);
    words.take(&["if", "not", "exists"]);
    let name = if words.sees(&["on"]) { None } else { words.name() };
    if !words.take(&["on"]) {
        return Ok(syntax_for_postgres());
    }
    words.take(&["only"]);
    let Some(table) = words.dotted_name() else {
        return Ok(syntax_for_postgres());
    };
    if words.take(&["using"]) {
        words.name();
    }
    let Some(columns) = words.parenthesised() else {
        return Ok(syntax_for_postgres());
    };
    check_functions(columns, names)?;
    check_functions(words.rest(), names)?;
    if names.facts.temporaries.concerns(&table) {
        return Ok(temporary::at_home(Access::Write, Form::Defines));
    }
    if unique {
        let Some(relation) = distributed(&table, names)? else {
            return Err(Refusal::new(
                "42P01",
                format!("relation \"{}\" does not exist", table.join(".")),
            ));
        };
        if let Some(key) = relation.key_column() {
            let columns = split_commas(columns);
            let plain = |column: &&[Token]| plain_column(column).is_some_and(|name| name == key.name);
            if !columns.iter().any(plain) {
                let shown = |column: &&[Token]| text_of(column, names.text).to_owned();
                let shown: Vec<String> = columns.iter().map(shown).collect();
                return Err(without_key(&shown.join(", "), &key.name));
            }
        }
    }
    let leaves = match (names.find(&table), name) {
        (Ok(Named::Table(relation)), Some(name)) if concurrently => Some(Index {
            table: RelationName::of(relation),
            name,
        }),
        _ => None,
    };
    Ok(Plan::Ddl(Ddl {
        effect: DdlEffect::Reload,
        outside_transaction: concurrently,
        leaves,
    }))
}

/// An index column that is a column, not a function of one.
fn plain_column(element: &[Token]) -> Option<String> {
    let mut words = Words::new(element);
    let name = words.name()?;
    (!matches!(words.peek(), Some(Kind::Punctuation(_)))).then_some(name)
}

fn drop(mut words: Words<'_>) -> Result<Plan, Refusal> {
    let tables = [
        "table",
        "index",
        "view",
        "schema",
        "owned",
        "materialized",
        "type",
        "domain",
        "sequence",
        "function",
        "procedure",
        "routine",
    ];
    if words.take_any(&tables).is_some() {
        let outside_transaction = words.sees(&["concurrently"]);
        return Ok(Plan::Ddl(Ddl {
            effect: DdlEffect::Reload,
            outside_transaction,
            leaves: None,
        }));
    }
    if words.take_any(&["role", "user", "group", "statistics"]).is_some() {
        return everywhere(DdlEffect::None);
    }
    if words.take(&["database"]) {
        return databases::drop(words);
    }
    if words.take(&["extension"]) {
        extensions::check_dropped(words)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["trigger"]) {
        words.take(&["if", "exists"]);
        triggers::check_name(words)?;
        return everywhere(DdlEffect::Reload);
    }
    match words.name() {
        Some(word) => Err(unsupported(&format!("DROP {}", word.to_uppercase()))),
        None => Ok(syntax_for_postgres()),
    }
}

fn alter(mut words: Words<'_>, tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    if words.take(&["table"]) {
        return alter_table(words, tokens, sql, names);
    }
    if words.take(&["system"]) {
        return Err(unsupported("ALTER SYSTEM")
            .detail("It would change one server, and be lost when that is made anew.")
            .hint(
                "Give the setting in [postgres.settings] of every node's configuration file, the same everywhere, and start \
                 the nodes again one after the other. ALTER ROLE and ALTER DATABASE ... SET work.",
            ));
    }
    if words.sees(&["database"]) || words.sees(&["role"]) || words.sees(&["user"]) || words.sees(&["group"]) {
        return alter_settings(words);
    }
    if words.take(&["sequence"]) {
        return Ok(alter_sequence(words, names));
    }
    if words.take_any(&["index", "view", "schema"]).is_some() {
        return everywhere(DdlEffect::Reload);
    }
    if words.take_any(&["type", "domain", "statistics"]).is_some() || words.take(&["default", "privileges"]) {
        check_functions(words.rest(), names)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take_any(&["function", "procedure", "routine"]).is_some() {
        routines::alter(words)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["extension"]) {
        extensions::alter(words)?;
        return everywhere(DdlEffect::Reload);
    }
    if words.take(&["trigger"]) {
        triggers::alter(words)?;
        return everywhere(DdlEffect::Reload);
    }
    match words.name() {
        Some(word) => Err(unsupported(&format!("ALTER {}", word.to_uppercase()))),
        None => Ok(syntax_for_postgres()),
    }
}

/// ALTER ROLE and ALTER DATABASE: their SET gives settings to later sessions.
fn alter_settings(words: Words<'_>) -> Result<Plan, Refusal> {
    let database = words.sees(&["database"]);
    let rest = words.rest();
    let set = (0..rest.len()).find(|at| *at > 0 && Words::new(&rest[*at..]).sees(&["set"]));
    if let Some(at) = set {
        let mut setting = Words::new(&rest[at + 1..]);
        let name = setting.dotted_name().unwrap_or_default().join(".");
        if !setting.take_operator("=") && !setting.take(&["to"]) {
            return Err(unsupported("this form of SET"));
        }
        let value = setting.rest().iter().filter_map(|token| match &token.kind {
            Kind::Word(text) | Kind::Quoted(text) | Kind::Text(text) | Kind::Number(text) => {
                Some(text.clone())
            }
            _ => None,
        });
        let value: Vec<String> = value.collect();
        let value = if value == ["default"] { Vec::new() } else { value };
        settings::check(&name, &value)?;
        // What sessions start with must be known to the analysis.
        if matches!(
            name.to_ascii_lowercase().as_str(),
            "search_path" | "client_encoding"
        ) {
            return Err(unsupported(&format!("{name} of a role or database")).hint("Set it in each session."));
        }
        // Sessions keep these themselves, and do not look what their role begins with.
        if super::Timeout::named(&name).is_some() {
            return Err(unsupported(&format!("{name} of a role or database")).hint(
                "Set it in each session, for example with options='-c ...' in the connection string.",
            ));
        }
    } else if database && !has_word(rest, &["reset"]) {
        return Err(unsupported("this form of ALTER DATABASE"));
    }
    everywhere(DdlEffect::None)
}

fn alter_sequence(mut words: Words<'_>, names: Names<'_>) -> Plan {
    words.take(&["if", "exists"]);
    let effect = match words.dotted_name().map(|parts| sequence(&parts, names)) {
        Some(Some(name)) => DdlEffect::AlterSequence(name),
        // PostgreSQL says what is wrong.
        _ => DdlEffect::Reload,
    };
    Plan::Ddl(Ddl {
        effect,
        outside_transaction: false,
        leaves: None,
    })
}

fn sequence(parts: &[String], names: Names<'_>) -> Option<RelationName> {
    let path = names.facts.search_path;
    let resolved = match parts {
        [name] => names.catalogue.resolve(path, None, name),
        [schema, name] => names.catalogue.resolve(path, Some(schema), name),
        _ => return None,
    };
    match resolved {
        Resolved::Relation(relation) => relation.sequence.map(|_| RelationName::of(relation)),
        _ => None,
    }
}

fn alter_table(mut words: Words<'_>, tokens: &[Token], sql: &str, names: Names<'_>) -> Result<Plan, Refusal> {
    words.take(&["if", "exists"]);
    words.take(&["only"]);
    if words.sees(&["all", "in"]) {
        return Err(unsupported("ALTER TABLE ALL IN TABLESPACE"));
    }
    let Some(table) = words.dotted_name() else {
        return Ok(syntax_for_postgres());
    };
    words.take_operator("*");
    if words.sees(&["owner", "to"]) && words.rest().len() == 3 {
        // Of a view or a sequence, too, as dumps have it.
        return everywhere(DdlEffect::Reload);
    }
    let relation = distributed(&table, names)?;
    let key = relation
        .and_then(|relation| relation.key_column())
        .map(|column| column.name.as_str());
    let (mut new_key, mut counted) = (None, false);
    for action in split_commas(words.rest()) {
        if let Some(Placement::Reference) = relation.and_then(|relation| relation.placement.as_ref()) {
            copies::check_action(&table, action, names)?;
        }
        alter_action(Words::new(action), key, names)?;
        new_key = new_key.or(primary_key(action));
        counted |= relation.is_some_and(|relation| alters_counted(action, relation));
    }
    everywhere(relation.map_or(DdlEffect::Reload, |relation| {
        DdlEffect::AlterTable(AlteredTable {
            table: RelationName::of(relation),
            new_key: new_key.filter(|column| Some(column.as_str()) != key),
            counted,
            one_time: added::with_one_time(tokens, sql, words.rest(), relation).map(Box::new),
        })
    }))
}

/// Whether an action alters a column that an identity sequence fills, which may alter that, too.
fn alters_counted(action: &[Token], relation: &Relation) -> bool {
    let mut words = Words::new(action);
    if !words.take(&["alter"]) {
        return false;
    }
    words.take(&["column"]);
    let column = words.name().and_then(|name| relation.column(&name));
    column.is_some_and(|column| matches!(column.filled_by, FilledBy::Identity { .. }))
}

/// The first column of `ADD [CONSTRAINT name] PRIMARY KEY (columns)`.
fn primary_key(action: &[Token]) -> Option<String> {
    let mut words = Words::new(action);
    if !words.take(&["add"]) {
        return None;
    }
    if words.take(&["constraint"]) {
        words.name();
    }
    if !words.take(&["primary", "key"]) {
        return None;
    }
    Words::new(words.parenthesised()?).name()
}

fn alter_action(mut words: Words<'_>, key: Option<&str>, names: Names<'_>) -> Result<(), Refusal> {
    let of_key = |name: &Option<String>| name.is_some() && name.as_deref() == key;
    if words.take(&["add"]) {
        return add(words, key, names);
    }
    if words.take(&["drop"]) {
        if words.take(&["constraint"]) {
            return Ok(());
        }
        words.take(&["column"]);
        words.take(&["if", "exists"]);
        return if of_key(&words.name()) {
            Err(key_stays("dropped"))
        } else {
            Ok(())
        };
    }
    if words.take(&["alter"]) {
        if words.take(&["constraint"]) {
            return Ok(());
        }
        words.take(&["column"]);
        let column = words.name();
        if (words.sees(&["type"]) || words.sees(&["set", "data"])) && of_key(&column) {
            return Err(key_stays("given another type"));
        }
        return check_functions(&without_nextval(words.rest()), names);
    }
    let fine = [
        &["attach", "partition"][..],
        &["detach", "partition"],
        &["rename"],
        &["owner"],
        &["set", "schema"],
        &["set", "logged"],
        &["set", "tablespace"],
        &["set", "without"],
        &["cluster"],
        &["validate"],
        &["replica", "identity"],
        &["reset"],
    ];
    if triggers::switches(words)? {
        return Ok(());
    }
    let with_storage = words.sees(&["set"])
        && matches!(
            words.rest().get(1).map(|token| &token.kind),
            Some(Kind::Punctuation('('))
        );
    if with_storage || fine.iter().any(|keywords| words.sees(keywords)) {
        return Ok(());
    }
    let shown: Vec<String> = words
        .rest()
        .iter()
        .take(3)
        .filter_map(|token| match &token.kind {
            Kind::Word(word) => Some(word.to_uppercase()),
            _ => None,
        })
        .collect();
    Err(unsupported(&format!("ALTER TABLE ... {}", shown.join(" "))))
}

fn key_stays(what: &str) -> Refusal {
    Refusal::unsupported(format!("the shard key cannot be {what}"))
        .detail("Its hash decides in which group a row is.")
        .hint("Create a new table and copy the rows.")
}

fn add(mut words: Words<'_>, key: Option<&str>, names: Names<'_>) -> Result<(), Refusal> {
    let column_word = words.take(&["column"]);
    words.take(&["if", "not", "exists"]);
    check_element(words.rest(), names)?;
    let mut constraint = words;
    if constraint.take(&["constraint"]) {
        constraint.name();
    }
    if !column_word && constraint.sees(&["primary", "key"]) {
        // Its first column becomes the shard key, as dumps add it after the rows. Where that cannot be the groups refuse it.
        return Ok(());
    }
    let table_level = !column_word && constraint.sees(&["unique"]);
    let rest = if table_level {
        constraint.rest()
    } else {
        words.rest().get(1..).unwrap_or_default()
    };
    let unique = has_word(rest, &["primary", "key"]) || has_word(rest, &["unique"]);
    if !unique || has_word(rest, &["using", "index"]) && table_level {
        return Ok(());
    }
    let columns = if table_level {
        constraint_columns(rest).unwrap_or_default()
    } else {
        words.name().into_iter().collect()
    };
    match key {
        Some(key) if !columns.iter().any(|column| column == key) => {
            Err(without_key(&columns.join(", "), key))
        }
        _ => Ok(()),
    }
}

/// Words before `(` in definitions that are no functions: types, and the grammar's own.
pub(super) const NO_FUNCTION: &[&str] = &[
    "numeric",
    "decimal",
    "dec",
    "varchar",
    "char",
    "character",
    "varying",
    "nchar",
    "bpchar",
    "bit",
    "timestamp",
    "timestamptz",
    "time",
    "timetz",
    "interval",
    "float",
    "check",
    "key",
    "unique",
    "in",
    "and",
    "or",
    "not",
    "any",
    "all",
    "some",
    "using",
    "values",
    "with",
    "include",
    "default",
    "as",
    "on",
    "when",
    "then",
    "else",
    "case",
    "array",
    "row",
    "cast",
    "where",
    "is",
    "between",
    "like",
    "ilike",
    "distinct",
    "add",
    "set",
    "by",
    "to",
    "exclude",
    "cost",
    "options",
    "extract",
    "position",
    "substring",
    "overlay",
    "trim",
    "null",
    "from",
    "range",
    "list",
    "hash",
    "identity",
];

/// The tokens without the calls of `nextval()` that are a column's whole DEFAULT: sessions supply their values.
pub(super) fn without_nextval(tokens: &[Token]) -> Vec<Token> {
    let mut rest = Vec::with_capacity(tokens.len());
    let mut words = Words::new(tokens);
    while let [token, ..] = words.rest() {
        let mut call = words;
        let counts = call.take(&["default"])
            && call.dotted_name().is_some_and(|parts| {
                matches!(
                    parts.iter().map(String::as_str).collect::<Vec<_>>()[..],
                    ["nextval"] | ["pg_catalog", "nextval"]
                )
            })
            && call.parenthesised().is_some()
            && matches!(call.peek(), None | Some(Kind::Word(_)));
        if counts {
            words = call;
        } else {
            rest.push(token.clone());
            words.next();
        }
    }
    rest
}

/// Checks that the expressions in a definition call functions only that may be called.
pub(super) fn check_functions(tokens: &[Token], names: Names<'_>) -> Result<(), Refusal> {
    for at in 0..tokens.len() {
        let before = at.checked_sub(1).map(|before| &tokens[before].kind);
        let refers = matches!(before, Some(Kind::Word(word)) if word == "references");
        if refers || before == Some(&Kind::Punctuation('.')) {
            continue;
        }
        let mut words = Words::new(&tokens[at..]);
        let Some(parts) = words.dotted_name() else {
            continue;
        };
        if words.peek() != Some(&Kind::Punctuation('(')) {
            continue;
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let keyword = parts.len() == 1 && NO_FUNCTION.contains(&parts[0]);
        if !keyword {
            functions::find_any(&parts, names.catalogue)?;
        }
    }
    Ok(())
}

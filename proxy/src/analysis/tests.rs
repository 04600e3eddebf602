//! The golden files: each claims something by its name, and holds statements with their plans.
//!
//! A line `# temporary: a, b` names the session's temporary relations. A statement stands as it is, then a line that starts with `=> `. `UPDATE_GOLDEN=1 cargo test -p proxy golden`
//! writes what comes out; read the difference before it is committed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use coordinator::catalogue::Catalogue;
use coordinator::hash::{KeyColumn, KeyType, KeyUse};
use shard::id::GroupId;

use super::example::catalogue;
use super::*;

const PATH: &[&str] = &["public"];

fn analyse_here(sql: &str, catalogue: &Catalogue) -> Result<Plan, Refusal> {
    analyse_with(sql, &Temporaries::default(), catalogue)
}

fn analyse_with(sql: &str, temporaries: &Temporaries, catalogue: &Catalogue) -> Result<Plan, Refusal> {
    let facts = Facts {
        search_path: PATH,
        temporaries,
    };
    analyse(sql, &facts, catalogue)
}

fn show_key(key: &Key) -> String {
    let value = match &key.value {
        KeyValue::Null => "NULL".to_owned(),
        KeyValue::Slot(slot) => format!("slot {slot}"),
        KeyValue::Number(number) => number.clone(),
        KeyValue::Bool(value) => value.to_string(),
        KeyValue::Text { type_oid: 0, text } => format!("'{}'", text.escape_debug()),
        KeyValue::Text { type_oid, text } => format!("'{}':{type_oid}", text.escape_debug()),
        KeyValue::Parameter {
            index,
            type_oid,
            type_open,
        } => {
            let cast = if *type_oid == 0 {
                String::new()
            } else {
                format!(":{type_oid}")
            };
            let open = if *type_open { " (type open)" } else { "" };
            format!("${}{cast}{open}", index + 1)
        }
    };
    if key.used == KeyUse::Assignment {
        format!("stored {value}")
    } else {
        value
    }
}

fn show_refusal(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.sqlstate, refusal.message)
}

fn show_query(query: &Query) -> String {
    let mut text = match query.access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Take => "take",
        Access::Announce => "announce",
    }
    .to_owned();
    match &query.target {
        Target::Any => text.push_str(" on any group"),
        Target::Home(HomeUse::Temporary) => text.push_str(" on the home group"),
        Target::All => text.push_str(" on all groups"),
        Target::Copies(table) => {
            let _ = write!(text, " on all copies of {}.{}", table.schema, table.name);
        }
        Target::Home(used) => {
            let _ = write!(text, " at home ({used:?})");
        }
        Target::Keys(keys, spread) => {
            let keys: Vec<String> = keys.iter().map(show_key).collect();
            let spread = match spread {
                Spread::Concatenate => "several groups concatenated",
                Spread::Rows(_) => "each row to its group",
                Spread::Refuse(_) => "one group",
                Spread::Home(_) => "the home group",
            };
            let _ = write!(text, " by key {}; {spread}", keys.join(", "));
        }
    }
    if let Some(draws) = &query.draws {
        let draws_of: Vec<String> = draws.draws.iter().map(show_draw).collect();
        let _ = write!(text, "; {} <- {}", draws.text, draws_of.join(", "));
    }
    if query.form == Form::Count {
        text.push_str("; counted");
    } else if let Form::Gathered(gathering) = &query.form {
        text.push_str(&show_gathering(gathering));
    } else if let Form::Locks(gathering) = &query.form {
        text.push_str(&show_gathering(gathering).replace("; or gathers ", "; locked in turn"));
    } else if let Form::CopyMade(made) = &query.form {
        match &made.source {
            CopySource::Gathered(gathering) => text.push_str(&show_gathering(gathering)),
            CopySource::Count => text.push_str("; counted"),
            CopySource::Rows => {}
        }
        let _ = match made.by_groups(query).form {
            form if made.source == CopySource::Rows => write!(text, "; {form:?}"),
            _ => write!(text, "; written as {:?}", made.format),
        };
    } else if let Form::Declare {
        name,
        hold,
        query_at,
        gathering,
    } = &query.form
    {
        let _ = write!(text, "; declares {name}, its query at {query_at}");
        text.push_str(if *hold { ", to be held" } else { "" });
        text.push_str(&gathering.as_deref().map(show_gathering).unwrap_or_default());
    } else if let Form::Brings(bring) = &query.form {
        match bring.gathering.parts.is_empty() {
            true => text.push_str("; inserts in each what is its own"),
            false => text.push_str(&show_gathering(&bring.gathering).replace("gathers", "brings")),
        }
        text.push_str(if bring.alone { "" } else { ", also to one group" });
    } else if let Form::Feeds(feed) = &query.form {
        let key = feed.key.as_ref().map(show_key);
        let key = key.unwrap_or_else(|| format!("its column {}", feed.key_at + 1));
        let within = if feed.within_groups {
            " of its own rows, or"
        } else {
            ""
        };
        let _ = write!(
            text,
            ";{within} by {key} gets what is {}",
            show_query(&feed.cut.source)
        );
    } else if let Form::Computes(computed) = &query.form {
        let _ = write!(text, "; once {} of its keys are computed", computed.count());
    } else if let Form::Moves(moves) = &query.form {
        let key = moves.key.as_ref().map(show_key);
        let _ = write!(
            text,
            "; moves rows to {}",
            key.as_deref().unwrap_or("wherever they belong")
        );
    } else if query.form != Form::Plain {
        let _ = write!(text, "; {:?}", query.form);
    }
    text
}

fn show_draw(draw: &Draw) -> String {
    let of = |sequence: &SequenceName| match sequence {
        SequenceName::Known(name) => format!("{}.{}", name.schema, name.name),
        SequenceName::Parameter(number, _) => format!("${number}"),
    };
    match &draw.of {
        Source::Next { sequence, identity } => {
            let identity = if *identity { "identity " } else { "" };
            format!("{} {identity}next {}", draw.hole, of(sequence))
        }
        Source::Current(sequence) => format!("{} current {}", draw.hole, of(sequence)),
        Source::Last => format!("{} last", draw.hole),
        Source::Transaction => format!("{} time", draw.hole),
        Source::Statement => format!("{} statement's time", draw.hole),
    }
}

fn show_gathering(gathering: &Gathering) -> String {
    let parts: Vec<String> = gathering.parts.iter().map(ToString::to_string).collect();
    if let Some(merge) = &gathering.merge {
        let (by, skipped) = (merge.order.len(), merge.offset);
        let given = merge.limit.map_or("all".to_owned(), |limit| limit.to_string());
        return format!(
            "; put together by {by} values, {skipped} skipped, {given} given; or gathers {}",
            parts.join(", ")
        );
    }
    match &gathering.partial {
        Some(partial) => {
            let values: Vec<String> = partial.shown().collect();
            let values = values.join(", ");
            format!(
                "; aggregates {partial}: {values}; or gathers {}",
                parts.join(", ")
            )
        }
        None => format!("; gathers {}", parts.join(", ")),
    }
}

fn show(plan: &Result<Plan, Refusal>) -> String {
    match plan {
        Err(refusal) => format!("refused {}", show_refusal(refusal)),
        Ok(Plan::Judge(refusal) | Plan::JudgeCopied(refusal, _)) => {
            format!("PostgreSQL judges, else {}", show_refusal(refusal))
        }
        Ok(Plan::Query(query)) => show_query(query),
        Ok(Plan::Ddl(ddl)) => {
            let alone = if ddl.outside_transaction {
                "; no transaction"
            } else {
                ""
            };
            match &ddl.effect {
                DdlEffect::CreateTable {
                    table,
                    if_not_exists,
                    key_column,
                } => {
                    let maybe = if *if_not_exists { " if not exists" } else { "" };
                    let by = key_column.as_deref().unwrap_or("nothing");
                    format!("DDL creates {}.{}{maybe} by {by}", table.schema, table.name)
                }
                DdlEffect::AlterSequence(name) => format!("DDL, alters {}.{}", name.schema, name.name),
                DdlEffect::RestartIdentity => "DDL, sequences restart".to_owned(),
                DdlEffect::AlterTable(altered) if altered.counted => "DDL, alters an identity".to_owned(),
                DdlEffect::AlterTable(_) | DdlEffect::Reload => format!("DDL, catalogue changes{alone}"),
                DdlEffect::Database(change) => format!("{:?} of {}{alone}", change.action, change.name),
                DdlEffect::None => format!("DDL{alone}"),
            }
        }
        Ok(Plan::Prepared(PreparedCommand::Prepare { name, query, types })) => {
            format!("prepare {name} {types:?}: {}", show_query(query))
        }
        Ok(Plan::Explained(explained)) => explained.lines().join(" / "),
        Ok(Plan::CreateAs(made)) => {
            let named = if made.names_it {
                ", if its name is free"
            } else {
                ""
            };
            let maybe = if made.if_not_exists {
                ", unless it is there"
            } else {
                ""
            };
            format!("{}; {}{named}{maybe}", made.create, made.insert)
        }
        Ok(Plan::Fill(fill)) => {
            let insert = fill.insert.iter().map(|insert| format!("; {insert}"));
            let insert = insert.collect::<String>();
            format!("{} <- {}{insert}", fill.create, show_query(&fill.query))
        }
        Ok(other) => format!("{other:?}"),
    }
}

fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/analysis/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

#[test]
fn golden() {
    let catalogue = catalogue();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differences = String::new();
    for path in golden_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut written = String::new();
        let mut sql = String::new();
        let mut temporaries = Temporaries::default();
        for line in text.lines() {
            if let Some(names) = line.strip_prefix("# temporary: ") {
                temporaries = Temporaries::new("pg_temp_3", names.split(", ").map(str::to_owned));
            }
            if line.starts_with("# ") || (line.is_empty() && sql.is_empty()) {
                let _ = writeln!(written, "{line}");
            } else if let Some(expected) = line.strip_prefix("=>") {
                let found = show(&analyse_with(sql.trim_end(), &temporaries, &catalogue));
                if found != expected.trim() {
                    let _ = writeln!(
                        differences,
                        "{}\n{sql}expected {expected}\nfound    {found}\n",
                        path.display()
                    );
                }
                let _ = writeln!(written, "{sql}=> {found}");
                sql.clear();
            } else {
                let _ = writeln!(sql, "{line}");
            }
        }
        assert!(
            sql.trim().is_empty(),
            "{}: the last statement has no plan",
            path.display()
        );
        if update {
            std::fs::write(&path, written).unwrap();
        }
    }
    assert!(update || differences.is_empty(), "{differences}");
}

/// A plan says where; this follows it to groups.
fn route_of(sql: &str, parameters: &[Parameter<'_>], answers: &Answers) -> Result<Route, Refusal> {
    let catalogue = catalogue();
    match analyse_here(sql, &catalogue).unwrap() {
        Plan::Query(query) => query.route(parameters, catalogue.slots(), answers),
        other => panic!("{sql} is no query: {other:?}"),
    }
}

fn text(value: &str) -> Parameter<'_> {
    Parameter {
        value: Some(value.as_bytes()),
        format: Format::Text,
        type_oid: None,
    }
}

fn group_of(key: i64) -> Route {
    let catalogue = catalogue();
    let column = KeyColumn {
        key_type: KeyType::Int8,
        type_modifier: -1,
    };
    let digits = key.to_string();
    let source = coordinator::hash::KeySource::Number(&digits);
    Route::One(
        catalogue
            .slots()
            .group(column.slot(KeyUse::Comparison, source).unwrap()),
    )
}

/// Two keys of different groups.
fn apart() -> (i64, i64) {
    let other = (2..).find(|key| group_of(*key) != group_of(1)).unwrap();
    (1, other)
}

#[test]
fn a_key_leads_to_its_group_as_literal_and_as_parameter_in_both_formats() {
    let (here, there) = apart();
    for key in [here, there] {
        let none = Answers::new();
        let digits = key.to_string();
        let binary = key.to_be_bytes();
        let binary = Parameter {
            value: Some(&binary),
            format: Format::Binary,
            type_oid: None,
        };
        assert_eq!(
            route_of(&format!("SELECT * FROM t WHERE id = {key}"), &[], &none),
            Ok(group_of(key))
        );
        assert_eq!(
            route_of(&format!("SELECT * FROM t WHERE id = '{key}'"), &[], &none),
            Ok(group_of(key))
        );
        assert_eq!(
            route_of("SELECT * FROM t WHERE id = $1", &[text(&digits)], &none),
            Ok(group_of(key))
        );
        assert_eq!(
            route_of("UPDATE t SET n = 1 WHERE id = $1", &[binary], &none),
            Ok(group_of(key))
        );
        assert_eq!(
            route_of("INSERT INTO t VALUES ($1, 'a')", &[binary], &none),
            Ok(group_of(key))
        );
    }
}

#[test]
fn keys_of_two_groups_are_concatenated_or_refused() {
    let (here, there) = apart();
    let none = Answers::new();
    let both = Route::Several(vec![GroupId(1), GroupId(2)]);
    assert_eq!(
        route_of(
            &format!("SELECT * FROM t WHERE id IN ({here}, {there})"),
            &[],
            &none
        ),
        Ok(both.clone())
    );
    assert_eq!(
        route_of(
            &format!("UPDATE t SET n = 1 WHERE id IN ({here}, {there})"),
            &[],
            &none
        ),
        Ok(both)
    );
    assert_eq!(
        route_of(
            &format!("SELECT * FROM t WHERE id IN ({here}, {here})"),
            &[],
            &none
        ),
        Ok(group_of(here))
    );
    let sql = format!("INSERT INTO t VALUES ({here}, 'a'), ({there}, 'b'), ({here}, 'c')");
    let (first, other) = (vec![0, 2], vec![1]);
    let rows = match group_of(here) {
        Route::One(GroupId(1)) => vec![(GroupId(1), first), (GroupId(2), other)],
        _ => vec![(GroupId(1), other), (GroupId(2), first)],
    };
    assert_eq!(route_of(&sql, &[], &none), Ok(Route::Rows(rows)));
    let sql = format!("INSERT INTO t VALUES ({here}, 'a'), ({there}, (SELECT 'b'))");
    assert_eq!(route_of(&sql, &[], &none).unwrap_err().sqlstate, "0A000", "{sql}");
}

#[test]
fn null_matches_nothing_in_a_comparison_and_has_a_place_when_stored() {
    let none = Answers::new();
    let null = Parameter {
        value: None,
        format: Format::Text,
        type_oid: None,
    };
    assert_eq!(
        route_of("SELECT * FROM t WHERE id = $1", &[null], &none),
        Ok(Route::Any)
    );
    assert_eq!(
        route_of("DELETE FROM t WHERE id = NULL", &[], &none),
        Ok(Route::Any)
    );
    let stored = route_of("INSERT INTO t VALUES ($1)", &[null], &none).unwrap();
    assert_eq!(
        route_of("SELECT * FROM t WHERE id IS NULL", &[], &none),
        Ok(stored)
    );
}

#[test]
fn a_parameter_of_another_type_does_not_lead_anywhere() {
    let none = Answers::new();
    let float = Parameter {
        type_oid: Some(701),
        ..text("1")
    };
    assert_eq!(
        route_of("SELECT * FROM t WHERE id = $1", &[float], &none),
        Ok(Route::All)
    );
    assert_eq!(
        route_of("UPDATE t SET n = 2 WHERE id = $1", &[float], &none),
        Ok(Route::All)
    );
    // The first use decides the type, and it is not the key's.
    assert_eq!(
        route_of("UPDATE t SET n = $1 WHERE id = $1", &[text("1")], &none),
        Ok(Route::All)
    );
    assert!(route_of("INSERT INTO t VALUES ($1, 'a', $1)", &[text("1")], &none).is_err());
    assert!(route_of("SELECT * FROM t WHERE id = $1", &[], &none).is_err());
}

#[test]
fn postgresql_is_asked_for_values_that_only_it_can_read() {
    let none = Answers::new();
    let asked = route_of("SELECT * FROM t WHERE id = 'one'", &[], &none).unwrap();
    let Route::Ask(questions) = asked else {
        panic!("{asked:?}")
    };
    assert!(questions[0].sql.contains("E'one'"), "{questions:?}");
    assert_eq!(questions[0].parameter, None);
    let answers = Answers::from([(questions[0].key, coordinator::hash::HashSlot::NULL)]);
    assert!(matches!(
        route_of("SELECT * FROM t WHERE id = 'one'", &[], &answers),
        Ok(Route::One(_))
    ));
}

#[test]
fn a_query_string_is_cut_where_postgresql_cuts_it() {
    let cut = |sql: &str| -> Vec<String> {
        split(sql)
            .unwrap()
            .into_iter()
            .map(|range| sql[range].to_owned())
            .collect()
    };
    assert_eq!(cut(""), Vec::<String>::new());
    assert_eq!(cut(" ; -- a;b\n /* c; /* ; */ ; */ ;"), Vec::<String>::new());
    assert_eq!(cut("SELECT 1; SELECT ';' ;"), ["SELECT 1", "SELECT ';'"]);
    assert_eq!(
        cut("SELECT $a$;$a$; SELECT E'\\';'"),
        ["SELECT $a$;$a$", "SELECT E'\\';'"]
    );
    assert_eq!(cut("SELECT 'a\\'; SELECT 2"), ["SELECT 'a\\'", "SELECT 2"]);
    assert_eq!(
        cut("SELECT \";\" FROM t--;\r;SELECT 2"),
        ["SELECT \";\" FROM t", "SELECT 2"]
    );
    let routine = "CREATE OR REPLACE FUNCTION f(a int DEFAULT (CASE WHEN true THEN 1 END)) RETURNS int \
                   BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 END; SELECT 3; END";
    assert_eq!(
        cut(&format!("{routine}; END; BEGIN; SELECT 1")),
        [routine, "END", "BEGIN", "SELECT 1"]
    );
    assert_eq!(
        cut("CREATE FUNCTION f() AS 'begin atomic'; SELECT atomic; BEGIN; END"),
        [
            "CREATE FUNCTION f() AS 'begin atomic'",
            "SELECT atomic",
            "BEGIN",
            "END"
        ]
    );
    assert_eq!(
        cut("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); SELECT 3"),
        [
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
            "SELECT 3"
        ]
    );
    assert_eq!(split("SELECT 'a").unwrap_err().sqlstate, "42601");
    assert_eq!(split("/* a").unwrap_err().sqlstate, "42601");
}

/// Words and marks in any order, and deep or long texts: an answer, never a panic.
#[test]
fn token_soup_never_panics() {
    let words = [
        "select",
        "from",
        "t",
        "u",
        "where",
        "id",
        "=",
        "1",
        "$1",
        "(",
        ")",
        ",",
        "and",
        "or",
        "not",
        "in",
        "insert",
        "into",
        "values",
        "update",
        "set",
        "delete",
        "with",
        "as",
        "join",
        "on",
        "left",
        "using",
        "union",
        "'a'",
        "::",
        "int8",
        ".",
        "\"T\"",
        "create",
        "table",
        "primary",
        "key",
        "unique",
        "index",
        "alter",
        "add",
        "copy",
        "stdin",
        "explain",
        "analyze",
        "declare",
        "cursor",
        "for",
        "prepare",
        "execute",
        "null",
        "is",
        "case",
        "when",
        "end",
        "*",
        "-",
        "[",
        "]",
        ";",
        "e'\\u00e9'",
        "$$",
        "$a$",
        "\u{e9}",
        "drop",
        "begin",
        "isolation",
        "level",
        "default",
        "lateral",
        "exists",
        "any",
        "array",
        "returning",
        "conflict",
        "do",
        "fetch",
        "limit",
        "order",
        "by",
        "group",
        "--",
        "/*",
        "*/",
        "'",
        "\"",
        "0x1f",
        "1e",
        "count",
        "now",
        "set_config",
        "create_distributed_table",
        "grant",
    ];
    let catalogue = catalogue();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % bound
    };
    for _ in 0..30_000 {
        let length = 1 + random(24);
        let soup: Vec<&str> = (0..length).map(|_| words[random(words.len())]).collect();
        let soup = soup.join(" ");
        let _ = split(&soup);
        if let Ok(Plan::Query(query)) = analyse_here(&soup, &catalogue) {
            let _ = query.route(&[text("1")], catalogue.slots(), &Answers::new());
        }
    }
}

#[test]
fn deep_and_long_statements_are_answered_on_a_small_stack() {
    let deep = |open: &str, close: &str, times: usize| {
        format!("SELECT {}1{}", open.repeat(times), close.repeat(times))
    };
    let statements = vec![
        deep("(", ")", 100_000),
        deep("- ", "", 100_000),
        deep("NOT ", "", 100_000),
        deep("1 + ", "", 100_000),
        deep("1 + ", "", 1400),
        deep("1 + ", "", 2900),
        deep("(SELECT ", ")", 1000),
        format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(50_000)),
        format!("SELECT * FROM t WHERE id = 1 {}", "OR id = 1 ".repeat(50_000)),
        format!("SELECT * FROM t WHERE id = 1 {}", "AND n = 1 ".repeat(300)),
        format!("SELECT * FROM t WHERE id IN (1 {})", ", 1".repeat(50_000)),
        format!("INSERT INTO t VALUES (1, 'a') {}", ", (1, 'a')".repeat(50_000)),
        format!("SELECT CASE WHEN {}", "CASE WHEN ".repeat(10_000)),
        format!("SELECT a{}", "[1]".repeat(100_000)),
        format!("SELECT 1{}", "::int".repeat(100_000)),
    ];
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let run = move || {
        let catalogue = catalogue();
        for sql in statements {
            let _ = analyse_here(&sql, &catalogue);
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

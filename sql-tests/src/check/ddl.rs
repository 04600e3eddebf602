//! Schema changes under inserts: in the end every group has the same schema, it holds what was acknowledged, and
//! every acknowledged row is in one group, with the columns that it was given and that are still there.
//!
//! Each object is made once and dropped at most once. So a drop that was acknowledged came after the making, and
//! whatever else is not known: it is gone for good.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::pairs::{self, Operation, Outcome};
use super::{Anomaly, Name, Verdict, words};
use crate::Result;
use crate::history::{Edn, History, Op};

/// The `:f` of a look into a server, done by whoever runs the test when all is whole.
pub const LOOK: &str = "look";

/// What one server holds.
struct Server<'a> {
    index: u64,
    group: &'a Edn,
    schema: Vec<&'a str>,
    /// By table and key; a table's rows are there although it has none.
    rows: BTreeMap<&'a str, BTreeMap<i64, Value>>,
}

/// What was asked for of one object.
#[derive(Default)]
struct Asked<'a> {
    made: Option<&'a Operation<'a>>,
    dropped: Option<&'a Operation<'a>>,
}

pub(super) fn check(history: &History) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let servers = history.ops.iter().filter(|op| op.f == LOOK).map(server);
    let servers: Vec<Server<'_>> = servers.collect::<Result<_>>()?;
    let mut unknown = Vec::new();
    if servers.is_empty() {
        unknown.push("Nobody looked into the groups.".to_owned());
    }
    let mut anomalies = differences(&servers);
    definitions(&operations, &servers, &mut anomalies)?;
    let inserts: Vec<_> = operations.iter().filter(|o| o.f() == "insert").collect();
    let reads = operations.iter().filter(|o| o.f() == "read" && o.is_ok());
    rows(&inserts, &servers, &mut anomalies)?;
    read_back(&inserts, reads, &mut anomalies)?;
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    let changes = operations
        .iter()
        .filter(|o| matches!(o.f(), "make" | "drop") && o.is_ok());
    verdict.counts.insert("changes of the schema", changes.count());
    verdict.counts.insert("servers looked into", servers.len());
    Ok(verdict)
}

fn server(op: &Op) -> Result<Server<'_>> {
    let malformed = || format!("not a look into a server: {op}");
    let field = |name| op.value.get(name).ok_or_else(malformed);
    let texts = |value: &'_ Edn| -> Result<Vec<String>> {
        value
            .vector()
            .ok_or_else(malformed)?
            .iter()
            .map(|line| text(line).map(str::to_owned))
            .collect()
    };
    let schema = field("schema")?.vector().ok_or_else(malformed)?;
    let mut rows = BTreeMap::new();
    for table in field("rows")?.vector().ok_or_else(malformed)? {
        let Some([name, found]) = table.vector() else {
            return Err(malformed().into());
        };
        let mut by_key = BTreeMap::new();
        for line in texts(found)? {
            let row: Value = serde_json::from_str(&line)?;
            let key = row.get("k").and_then(Value::as_i64).ok_or_else(malformed)?;
            by_key.insert(key, row);
        }
        rows.insert(text(name)?, by_key);
    }
    Ok(Server {
        index: op.index,
        group: field("group")?,
        schema: schema.iter().map(text).collect::<Result<_>>()?,
        rows,
    })
}

fn text(value: &Edn) -> Result<&str> {
    match value {
        Edn::Text(text) => Ok(text),
        other => Err(format!("{other} where a text should be").into()),
    }
}

/// Servers whose schema is not that of the first.
fn differences(servers: &[Server<'_>]) -> Vec<Anomaly> {
    let Some((first, others)) = servers.split_first() else {
        return Vec::new();
    };
    let mut anomalies = Vec::new();
    let of = |server: &Server<'_>| {
        server
            .schema
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let schema = of(first);
    for other in others {
        let its = of(other);
        for line in schema.symmetric_difference(&its) {
            let (with, without) = if schema.contains(line) {
                (first, other)
            } else {
                (other, first)
            };
            let words = format!(
                "a server of group {} has \"{line}\", one of group {} has not (index {} and {}).",
                with.group, without.group, with.index, without.index
            );
            anomalies.push(Anomaly::new(
                Name::SchemasDiffer,
                vec![with.index, without.index],
                words,
            ));
        }
    }
    anomalies
}

/// What is not there although it was made, or is there although it was dropped or its making failed.
fn definitions(
    operations: &[Operation<'_>],
    servers: &[Server<'_>],
    anomalies: &mut Vec<Anomaly>,
) -> Result<()> {
    let mut objects: BTreeMap<&str, Asked<'_>> = BTreeMap::new();
    for operation in operations {
        let slot = match operation.f() {
            "make" => {
                &mut objects
                    .entry(text(&operation.invocation.value)?)
                    .or_default()
                    .made
            }
            "drop" => {
                &mut objects
                    .entry(text(&operation.invocation.value)?)
                    .or_default()
                    .dropped
            }
            "insert" | "read" => continue,
            _ => return Err(format!("not an operation on a schema: {}", operation.invocation).into()),
        };
        if slot.replace(operation).is_some() {
            return Err(format!(
                "{} a second time: a fault of the test",
                words::operation(operation)
            )
            .into());
        }
    }
    for (name, asked) in &objects {
        let failed = |operation: Option<&Operation<'_>>| operation.is_none_or(|o| o.outcome == Outcome::Fail);
        let must_be = asked.made.is_some_and(Operation::is_ok) && failed(asked.dropped);
        let must_not_be = failed(asked.made) || asked.dropped.is_some_and(Operation::is_ok);
        for server in servers {
            let there = server.schema.iter().any(|line| defines(line, name));
            let (anomaly, what) = match there {
                false if must_be => (Name::LostDefinition, "is not there"),
                true if must_not_be => (Name::UnexpectedDefinition, "is there"),
                _ => continue,
            };
            let asked = [asked.made, asked.dropped];
            let told: Vec<String> = asked.iter().flatten().map(|o| words::operation(o)).collect();
            let words = format!(
                "{name} {what} in a server of group {} (index {}), after {}.",
                server.group,
                server.index,
                told.join(" and ")
            );
            let ops = asked.iter().flatten().map(|o| o.index()).chain([server.index]);
            anomalies.push(Anomaly::new(anomaly, ops.collect(), words));
        }
    }
    Ok(())
}

/// Whether a line of a schema is about this object.
fn defines(line: &str, name: &str) -> bool {
    line.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The table, the key and the extra column of an insert.
fn inserted<'a>(operation: &Operation<'a>) -> Result<(&'a str, i64, Option<&'a str>)> {
    match operation.invocation.value.vector() {
        Some([table, Edn::Int(k), column]) => {
            let column = if *column == Edn::Nil {
                None
            } else {
                Some(text(column)?)
            };
            Ok((text(table)?, *k, column))
        }
        _ => Err(format!("not an insert: {}", operation.invocation).into()),
    }
}

/// Rows that are lost, that are in two groups, that lost a value, or that nobody wrote.
fn rows(inserts: &[&Operation<'_>], servers: &[Server<'_>], anomalies: &mut Vec<Anomaly>) -> Result<()> {
    let mut known = BTreeMap::new();
    for insert in inserts {
        let (table, k, column) = inserted(insert)?;
        known.insert((table, k), *insert);
        let holders: Vec<(&Server<'_>, &Value)> = servers
            .iter()
            .filter_map(|server| Some((server, server.rows.get(table)?.get(&k)?)))
            .collect();
        let groups: BTreeSet<&Edn> = holders.iter().map(|(server, _)| server.group).collect();
        let mut say = |name, what: &str| {
            let words = format!("{} {what}.", words::operation(insert));
            anomalies.push(Anomaly::new(name, vec![insert.index()], words));
        };
        // A table that was dropped took its rows along.
        let table_is_there = servers.iter().any(|server| server.rows.contains_key(table));
        match insert.outcome {
            Outcome::Ok if table_is_there && holders.is_empty() => {
                say(Name::Lost, "was acknowledged, but its row is in no group");
            }
            Outcome::Fail if !holders.is_empty() => say(Name::Unexpected, "failed, but its row is there"),
            _ => {}
        }
        if groups.len() > 1 {
            say(Name::Duplicated, "made a row in more than one group");
        }
        for (server, row) in holders {
            let columns = [Some("v"), column].into_iter().flatten();
            // What the server has no such column for was dropped; that it may be is checked above.
            let wrong =
                columns.filter(|column| row.get(column).is_some_and(|value| value.as_i64() != Some(k)));
            for column in wrong {
                say(
                    Name::LostValue,
                    &format!(
                        "gave {column} a value that a server of group {} has not",
                        server.group
                    ),
                );
            }
        }
    }
    for server in servers {
        for (table, k) in server
            .rows
            .iter()
            .flat_map(|(t, rows)| rows.keys().map(move |k| (*t, *k)))
        {
            if !known.contains_key(&(table, k)) {
                let words = format!(
                    "row {k} of {table} in group {} was written by nobody.",
                    server.group
                );
                anomalies.push(Anomaly::new(Name::Unexpected, vec![server.index], words));
            }
        }
    }
    Ok(())
}

/// Acknowledged rows that a client does not see when all is whole.
fn read_back<'a>(
    inserts: &[&Operation<'_>],
    reads: impl Iterator<Item = &'a Operation<'a>>,
    anomalies: &mut Vec<Anomaly>,
) -> Result<()> {
    for read in reads {
        let Some([table, keys]) = read.value().vector() else {
            return Err(format!("not the keys of a table: {}", read.invocation).into());
        };
        let keys: BTreeSet<i64> = keys
            .vector()
            .unwrap_or_default()
            .iter()
            .filter_map(Edn::int)
            .collect();
        for insert in inserts {
            let (its, k, _) = inserted(insert)?;
            let in_time = insert.is_ok() && insert.ended.is_some_and(|ended| ended < read.began);
            if in_time && its == text(table)? && !keys.contains(&k) {
                let words = format!(
                    "{} was acknowledged, but a read of the table (index {}) has it not.",
                    words::operation(insert),
                    read.index()
                );
                anomalies.push(Anomaly::new(
                    Name::Lost,
                    vec![insert.index(), read.index()],
                    words,
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Options, check};

    /// What two servers hold, after these operations of one client each.
    fn found(operations: &[(&str, &str, &str)], looks: [&str; 2]) -> Vec<Name> {
        let mut lines = Vec::new();
        let mut line = |process: &str, kind: &str, f: &str, value: &str| {
            let index = lines.len();
            lines.push(format!(
                "{{:index {index}, :type :{kind}, :process {process}, :f :{f}, :value {value}, :time {index}}}"
            ));
        };
        for (process, (kind, f, value)) in operations.iter().enumerate() {
            line(&process.to_string(), "invoke", f, value);
            line(&process.to_string(), kind, f, value);
        }
        for (group, look) in (1..).zip(looks) {
            let value = format!("{{:group {group} :node 1 {look}}}");
            line(":nemesis", "info", LOOK, &value);
        }
        let history = History::read(lines.join("\n").as_bytes()).unwrap();
        let verdict = check("ddl", &history, &Options::default()).unwrap();
        assert_eq!(verdict.valid, verdict.anomalies.is_empty());
        verdict.names().into_keys().collect()
    }

    const EMPTY: &str = r#":schema ["table t" "column t.c bigint 3"] :rows [["t" []]]"#;
    const WITHOUT: &str = r#":schema ["table t"] :rows [["t" []]]"#;
    const ROW: &str =
        r#":schema ["table t" "column t.c bigint 3"] :rows [["t" ["{\"k\": 5, \"v\": 5, \"c\": 5}"]]]"#;
    const POOR: &str =
        r#":schema ["table t" "column t.c bigint 3"] :rows [["t" ["{\"k\": 5, \"v\": 5, \"c\": null}"]]]"#;
    const C: &str = r#""column t.c""#;

    #[test]
    fn what_was_made_is_in_every_group_and_what_was_dropped_in_none() {
        let (make, drop) = (("ok", "make", C), ("ok", "drop", C));
        assert_eq!(found(&[make], [EMPTY, EMPTY]), []);
        assert_eq!(found(&[make], [WITHOUT, WITHOUT]), [Name::LostDefinition]);
        assert_eq!(
            found(&[make], [EMPTY, WITHOUT]),
            [Name::SchemasDiffer, Name::LostDefinition]
        );
        assert_eq!(found(&[make, drop], [WITHOUT, WITHOUT]), []);
        assert_eq!(found(&[make, drop], [EMPTY, EMPTY]), [Name::UnexpectedDefinition]);
        assert_eq!(
            found(&[("fail", "make", C)], [EMPTY, EMPTY]),
            [Name::UnexpectedDefinition]
        );
        assert_eq!(
            found(&[make, ("fail", "drop", C)], [WITHOUT, WITHOUT]),
            [Name::LostDefinition]
        );
    }

    #[test]
    fn what_is_not_known_is_all_or_none() {
        for operations in [
            vec![("info", "make", C)],
            vec![("ok", "make", C), ("info", "drop", C)],
            vec![("info", "make", C), ("info", "drop", C)],
        ] {
            assert_eq!(found(&operations, [EMPTY, EMPTY]), []);
            assert_eq!(found(&operations, [WITHOUT, WITHOUT]), []);
            assert_eq!(found(&operations, [EMPTY, WITHOUT]), [Name::SchemasDiffer]);
        }
    }

    #[test]
    fn rows_are_in_one_group_with_their_columns() {
        let made = ("ok", "make", C);
        let row = ("ok", "insert", r#"["t" 5 "c"]"#);
        assert_eq!(found(&[made, row], [EMPTY, ROW]), []);
        assert_eq!(found(&[made, row], [EMPTY, EMPTY]), [Name::Lost]);
        assert_eq!(found(&[made, row], [ROW, ROW]), [Name::Duplicated]);
        assert_eq!(found(&[made, row], [EMPTY, POOR]), [Name::LostValue]);
        assert_eq!(found(&[made], [EMPTY, ROW]), [Name::Unexpected]);
        assert_eq!(
            found(&[made, ("fail", "insert", r#"["t" 5 "c"]"#)], [EMPTY, ROW]),
            [Name::Unexpected]
        );
        assert_eq!(
            found(&[made, ("info", "insert", r#"["t" 5 "c"]"#)], [EMPTY, ROW]),
            []
        );
        // A column that was dropped took its values along.
        let dropped = ("ok", "drop", C);
        let rest = r#":schema ["table t"] :rows [["t" ["{\"k\": 5, \"v\": 5}"]]]"#;
        assert_eq!(found(&[made, row, dropped], [rest, WITHOUT]), []);
        let read = ("ok", "read", r#"["t" []]"#);
        assert_eq!(found(&[made, row, read], [EMPTY, ROW]), [Name::Lost]);
    }
}

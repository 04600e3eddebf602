//! The claims of `ops/docs/limits.md` and `ops/docs/tables.md`, each a script of `sql-tests/scripts` in sqllogictest's format.
//!
//! A script runs in a new schema, on Howdah and on one plain PostgreSQL. What it expects is what PostgreSQL answers; what
//! follows `onlyif howdah` is not asked of PostgreSQL: what is refused, and functions that only Howdah has.

mod session;

use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use sqllogictest::{
    Condition, ExpectedError, QueryExpect, Record, Runner, StatementExpect, default_normalizer,
    default_validator, parse_with_name, strict_column_validator,
};

use self::session::{Kind, Session, Side};
use crate::Result;
use crate::differential::Servers;
use crate::report::seconds;

/// The label of what is asked of Howdah alone.
const HOWDAH: &str = "howdah";
/// What is Howdah's own, so that PostgreSQL cannot be asked, and need not be refused.
const OWN: [&str; 6] = [
    "EXPLAIN (HOWDAH",
    "create_distributed_table(",
    "create_reference_table(",
    "undistribute_table(",
    "alter_distributed_table(",
    "howdah.distributed_tables",
];

/// How many of those that take longest are told.
const SLOWEST: usize = 5;

/// What came of the scripts.
#[derive(Debug, Default)]
pub struct ScriptsReport {
    /// Scripts that ran, on both servers at the same time, and how long it took.
    pub took: Vec<(String, Duration)>,
    /// What came out otherwise than it is written, with file and line.
    pub failures: Vec<String>,
}

impl ScriptsReport {
    /// Whether all came out as it is written.
    ///
    /// # Errors
    /// All that did not.
    pub fn verdict(&self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        Err(format!("{}\n{} failures", self.failures.join("\n"), self.failures.len()).into())
    }
}

impl fmt::Display for ScriptsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scripts, failures) = (self.took.len(), self.failures.len());
        let all: Duration = self.took.iter().map(|(_, took)| *took).sum();
        write!(
            f,
            "{scripts} scripts on two servers in {}, {failures} failures",
            seconds(Some(all))
        )?;
        let mut slowest: Vec<_> = self.took.iter().collect();
        slowest.sort_by_key(|(_, took)| Reverse(*took));
        for (script, took) in slowest.into_iter().take(SLOWEST) {
            write!(f, "\n  {} {script}", seconds(Some(*took)))?;
        }
        Ok(())
    }
}

/// Runs the scripts in whose names this occurs.
///
/// # Errors
/// Where a server cannot be reached or a script cannot be read. What comes out otherwise than it is written is in the report.
pub async fn scripts(servers: Servers, named: &str) -> Result<ScriptsReport> {
    let mut report = ScriptsReport::default();
    for script in all(named)? {
        let records = read(&script)?;
        report.failures.extend(records.iter().filter_map(objection));
        let began = Instant::now();
        let sides = [Side::Howdah(servers.howdah), Side::Plain(servers.plain)];
        for failures in try_join_all(sides.map(|side| run(&records, side))).await? {
            report.failures.extend(failures);
        }
        report.took.push((name_of(&script), began.elapsed()));
    }
    Ok(report)
}

/// Writes anew what the scripts expect in whose names this occurs: what PostgreSQL answers, and what Howdah alone is asked.
///
/// # Errors
/// Where a server cannot be reached, or a script cannot be read or written.
pub async fn record(servers: Servers, named: &str) -> Result<()> {
    for script in all(named)? {
        // PostgreSQL last: it leaves alone what it is not asked, and writes over the rest.
        for side in [Side::Howdah(servers.howdah), Side::Plain(servers.plain)] {
            side.make_schema().await?;
            let mut runner = Runner::new(|| Session::open(side));
            let updated = runner.update_test_file(
                &script,
                " ",
                default_validator,
                default_normalizer,
                strict_column_validator,
            );
            updated.await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// A script's records on one server, in a new schema: what came out otherwise.
async fn run(records: &[Record<Kind>], side: Side) -> Result<Vec<String>> {
    side.make_schema().await?;
    let mut runner = Runner::new(|| Session::open(side));
    runner.with_column_validator(strict_column_validator);
    let mut failures = Vec::new();
    for record in records {
        if let Err(error) = runner.run_async(record.clone()).await {
            failures.push(format!("{side}: {error}"));
        }
    }
    Ok(failures)
}

/// The scripts in whose names this occurs, in the order of their names.
fn all(named: &str) -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "slt") && name_of(&path).contains(named) {
            found.push(path);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(format!("no script of {} is named so: {named}", folder.display()).into());
    }
    Ok(found)
}

fn name_of(script: &Path) -> String {
    let stem = script.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn read(script: &Path) -> Result<Vec<Record<Kind>>> {
    let shown = format!("sql-tests/scripts/{}.slt", name_of(script));
    Ok(parse_with_name(&fs::read_to_string(script)?, shown)?)
}

/// What no script may say: that something fails, but not how; that only one server is asked what both could answer.
fn objection(record: &Record<Kind>) -> Option<String> {
    let (loc, conditions, sql, error) = match record {
        Record::Statement {
            loc,
            conditions,
            sql,
            expected,
            ..
        } => match expected {
            StatementExpect::Error(error) => (loc, conditions, sql, Some(error)),
            _ => (loc, conditions, sql, None),
        },
        Record::Query {
            loc,
            conditions,
            sql,
            expected,
            ..
        } => match expected {
            QueryExpect::Error(error) => (loc, conditions, sql, Some(error)),
            QueryExpect::Results { .. } => (loc, conditions, sql, None),
        },
        Record::Comment(_) | Record::Newline | Record::Connection(_) | Record::Condition(_) => return None,
        other => return Some(format!("not for these scripts: {other:?}")),
    };
    let own = OWN.iter().any(|own| sql.contains(own));
    let what = match (conditions.as_slice(), error) {
        (_, Some(error)) if !matches!(error, ExpectedError::Multiline(_)) => {
            "it must be said under ---- which error it is"
        }
        ([], _) => return None,
        ([Condition::OnlyIf { label }], _) if label != HOWDAH => "onlyif howdah, or both servers",
        ([Condition::OnlyIf { .. }], Some(_)) => return None,
        ([Condition::OnlyIf { .. }], None) if own => return None,
        ([Condition::OnlyIf { .. }], None) => "PostgreSQL can be asked this, too",
        _ => "onlyif howdah, or both servers",
    };
    Some(format!("{what}\n[SQL] {sql}\nat {loc}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objections(script: &str) -> usize {
        let records = parse_with_name::<Kind>(script, "script").expect("a script");
        records.iter().filter_map(objection).count()
    }

    #[test]
    fn a_script_says_which_error_and_asks_both_where_both_can_answer() {
        let refused = "onlyif howdah\nstatement error\nSELECT 1\n----\n0A000\nno\n\n\n";
        assert_eq!(objections(refused), 0);
        assert_eq!(objections("onlyif howdah\nstatement error\nSELECT 1\n"), 1);
        assert_eq!(objections("onlyif howdah\nstatement error no\nSELECT 1\n"), 1);
        assert_eq!(objections("onlyif howdah\nstatement ok\nSELECT 1\n"), 1);
        assert_eq!(objections("skipif howdah\nstatement ok\nSELECT 1\n"), 1);
        assert_eq!(objections("onlyif postgres\nstatement ok\nSELECT 1\n"), 1);
        let own = "onlyif howdah\nquery T\nSELECT create_reference_table('t')\n----\n(empty)\n";
        assert_eq!(objections(own), 0);
        assert_eq!(objections("statement ok\nSELECT 1\n"), 0);
        assert_eq!(objections("halt\n"), 1);
    }
}

//! The programs and libraries that people have: each with a scenario of its own, on a cluster of two groups and on one PostgreSQL.
//!
//! A scenario is a list of checks. It prints each one's name, a tab, and `ok` or what went wrong; so does tokio-postgres', which
//! is run here. What they come to is data ([`outcomes`]): `sql-tests/drivers/outcomes.tsv`.

pub mod outcomes;
mod tokio_postgres;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{BoxFuture, join};
use tokio::process::Command;
use tokio::time::timeout;

use self::outcomes::{OK, Outcome, Outcomes};
use crate::{Failure, Result};

/// A scenario that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same of one check of those in Rust.
const CHECK_PATIENCE: Duration = Duration::from_secs(30);

/// A check's name and what is to be done.
type Check<'a> = (&'static str, BoxFuture<'a, Result<()>>);

/// How a scenario is run: `{drivers}` stands for the folder of the sources, `{installed}` for that of what was installed.
const PROGRAMS: [(&str, &[&str]); 9] = [
    ("psql", &["{drivers}/psql/scenario.sh"]),
    ("libpq (C)", &["{installed}/libpq"]),
    (
        "psycopg 3",
        &["{installed}/python/bin/python", "{drivers}/python/psycopg3.py"],
    ),
    (
        "asyncpg",
        &["{installed}/python/bin/python", "{drivers}/python/asyncpg_.py"],
    ),
    (
        "SQLAlchemy",
        &["{installed}/python/bin/python", "{drivers}/python/sqlalchemy_.py"],
    ),
    (
        "Django",
        &["{installed}/python/bin/python", "{drivers}/python/django_.py"],
    ),
    ("node-postgres", &["node", "{drivers}/node-postgres/scenario.js"]),
    (
        "pgjdbc",
        &[
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            "/usr/share/java/postgresql.jar:{installed}/pgjdbc",
            "Scenario",
        ],
    ),
    ("sqlx", &["{installed}/sqlx"]),
];

/// Where the scenarios are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers")
}

/// Where `prepare.sh` installs what they need.
fn installed() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "../target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("drivers")
}

/// Runs every scenario on both servers.
///
/// # Errors
/// Where something cannot be installed or started, or a scenario hangs or dies.
pub async fn drivers(howdah: SocketAddr, plain: SocketAddr) -> Result<Outcomes> {
    let prepared = Command::new("bash")
        .arg(folder().join("prepare.sh"))
        .status()
        .await?;
    if !prepared.success() {
        return Err("the drivers could not be installed: see above".into());
    }
    let mut all = Outcomes::default();
    for (driver, words) in PROGRAMS {
        let (ours, theirs) = join(program(words, howdah), program(words, plain)).await;
        let named = |error: Failure| format!("{driver}: {error}");
        add(&mut all, driver, ours.map_err(named)?, theirs.map_err(named)?)?;
    }
    let (ours, theirs) = join(
        run(tokio_postgres::checks(howdah)),
        run(tokio_postgres::checks(plain)),
    )
    .await;
    add(&mut all, "tokio-postgres", ours, theirs)?;
    Ok(all)
}

fn add(
    all: &mut Outcomes,
    driver: &str,
    howdah: Vec<(String, String)>,
    plain: Vec<(String, String)>,
) -> Result<()> {
    if howdah.is_empty() || howdah.len() != plain.len() {
        return Err(format!(
            "{driver}: {} checks on Howdah, {} on PostgreSQL",
            howdah.len(),
            plain.len()
        )
        .into());
    }
    for ((check, howdah), (_, plain)) in howdah.into_iter().zip(plain) {
        all.0.push(Outcome {
            driver: driver.to_owned(),
            check,
            plain,
            howdah,
            difference: String::new(),
        });
    }
    Ok(())
}

async fn program(words: &[&str], server: SocketAddr) -> Result<Vec<(String, String)>> {
    let (drivers, installed) = (folder(), installed());
    let word = |word: &&str| {
        let word = word.replace("{drivers}", &drivers.to_string_lossy());
        word.replace("{installed}", &installed.to_string_lossy())
    };
    let words: Vec<String> = words.iter().map(word).collect();
    let (name, arguments) = words.split_first().ok_or("no program")?;
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .env("PGHOST", server.ip().to_string())
        .env("PGPORT", server.port().to_string());
    command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
    command.env("NODE_PATH", installed.join("node-postgres/node_modules"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.map_err(|_| format!("not done within {PATIENCE:?}"))??;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {errors}\n{said}", output.status).into());
    }
    let pairs = said.lines().map(|line| -> Result<_> {
        let (check, outcome) = line.split_once('\t').ok_or_else(|| format!("it said {line}"))?;
        Ok((check.to_owned(), outcome.replace('\t', " ").trim_end().to_owned()))
    });
    pairs.collect()
}

async fn run(checks: Vec<Check<'_>>) -> Vec<(String, String)> {
    let mut outcomes = Vec::new();
    for (name, check) in checks {
        let outcome = match timeout(CHECK_PATIENCE, check).await {
            Ok(Ok(())) => OK.to_owned(),
            Ok(Err(error)) => words(&error),
            Err(_) => format!("wrong: not done within {CHECK_PATIENCE:?}"),
        };
        outcomes.push((name.to_owned(), outcome));
    }
    outcomes
}

/// An SQLSTATE and its words, or what a check found wrong.
fn words(error: &Failure) -> String {
    let from_server = state(error);
    let text = from_server.map_or_else(
        || format!("wrong: {error}"),
        |(state, words)| format!("{state} {words}"),
    );
    text.lines().next().unwrap_or_default().replace('\t', " ")
}

/// The SQLSTATE and the message of a server's error.
fn state(error: &Failure) -> Option<(String, String)> {
    let told = error.downcast_ref::<::tokio_postgres::Error>()?.as_db_error()?;
    Some((told.code().code().to_owned(), told.message().to_owned()))
}

/// Fails where two things are not the same.
fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} instead of {wanted:?}").into())
}

/// Fails where something does not fail with this SQLSTATE.
fn fails<T, E: Into<Failure>>(wanted: &str, done: std::result::Result<T, E>) -> Result<()> {
    let Err(error) = done else {
        return Err(format!("it did not fail with {wanted}").into());
    };
    let error = error.into();
    match state(&error) {
        Some((found, _)) if found == wanted => Ok(()),
        _ => Err(error),
    }
}

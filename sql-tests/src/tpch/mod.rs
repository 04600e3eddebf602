//! The 22 queries of TPC-H on a cluster and on one plain PostgreSQL: the same answers, by which path, and how fast.
//!
//! The data are `tpchgen`'s, which are the same at each run. `lineitem` and `orders` are spread by the order's key, so an order is with its
//! lines; `customer`, `part`, `partsupp` and `supplier` by their own; `nation` and `region` are in every group.

mod answer;
mod data;
mod queries;

use std::fmt;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

pub use self::answer::Path;
use self::answer::{Answer, answer, path};
use self::queries::{Query, queries};
use crate::Result;
use crate::report::median;

const SCHEMA: &str = include_str!("../../tpch/schema.sql");
/// Tables that are in every group.
const REFERENCE: [&str; 2] = ["nation", "region"];

/// A query that takes longer is not asked again.
const LONG: Duration = Duration::from_secs(10);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct TpchPlan {
    /// The specification's scale factor: 1 is 6,000,000 lines of orders.
    pub scale: f64,
    /// How often each query runs on each server, one after the other; once, where that takes long.
    pub rounds: usize,
}

/// One query's outcome.
#[derive(Debug)]
pub struct TpchLine {
    /// Q1 to Q22, with the specification's name.
    pub name: String,
    /// Where Howdah says that it computes it.
    pub path: Path,
    /// Rows of the answer.
    pub rows: usize,
    /// Howdah's time: the median of the rounds.
    pub howdah: Duration,
    /// PostgreSQL's.
    pub plain: Duration,
    /// In what the answers differ; none where they are equal.
    pub difference: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub struct TpchReport {
    /// In the specification's order.
    pub lines: Vec<TpchLine>,
}

impl TpchReport {
    /// Whether all answers are equal.
    ///
    /// # Errors
    /// Those that are not.
    pub fn verdict(&self) -> Result<()> {
        let differ = |line: &TpchLine| {
            let what = line.difference.as_ref()?;
            Some(format!("{}: {what}", line.name))
        };
        let differences: Vec<String> = self.lines.iter().filter_map(differ).collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(differences.join("\n").into())
    }
}

impl fmt::Display for TpchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| | path | rows | Howdah | PostgreSQL | ratio |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for line in &self.lines {
            let [howdah, plain] = [line.howdah, line.plain].map(|time| time.as_secs_f64() * 1e3);
            writeln!(
                f,
                "| {} | {} | {} | {howdah:.1} ms | {plain:.1} ms | {:.1} |{}",
                line.name,
                line.path,
                line.rows,
                howdah / plain,
                if line.difference.is_some() { " DIFFERS" } else { "" },
            )?;
        }
        Ok(())
    }
}

/// Makes the tables on both servers, loads them by COPY, and asks all queries.
///
/// # Errors
/// Where one of them fails. Answers that differ are in the report.
pub async fn tpch(howdah: &Client, plain: &Client, plan: TpchPlan) -> Result<TpchReport> {
    for client in [howdah, plain] {
        client.batch_execute(SCHEMA).await?;
    }
    for table in REFERENCE {
        let sql = format!("SELECT create_reference_table('{table}')");
        howdah.batch_execute(&sql).await?;
    }
    for client in [howdah, plain] {
        data::load(client, plan.scale).await?;
        client.batch_execute("ANALYZE").await?;
    }
    let mut lines = Vec::new();
    for query in queries(plan.scale)? {
        let asked = compare(howdah, plain, &query, plan.rounds).await;
        lines.push(asked.map_err(|error| format!("{}: {error}", query.name))?);
    }
    Ok(TpchReport { lines })
}

async fn compare(howdah: &Client, plain: &Client, query: &Query, rounds: usize) -> Result<TpchLine> {
    let path = path(howdah, &query.sql).await?;
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut answers: [Answer; 2] = Default::default();
    let mut difference = None;
    for _ in 0..rounds.max(1) {
        for (place, client) in [howdah, plain].into_iter().enumerate() {
            let began = Instant::now();
            answers[place] = answer(client, &query.sql).await?;
            times[place].push(began.elapsed());
        }
        let [here, there] = &answers;
        difference = difference.or_else(|| here.difference(there, &query.order));
        if times.iter().flatten().any(|time| *time > LONG) {
            break;
        }
    }
    let [here, there] = times.map(|times| median(&times).unwrap_or_default());
    Ok(TpchLine {
        name: query.name.clone(),
        path,
        rows: answers[1].len(),
        howdah: here,
        plain: there,
        difference,
    })
}

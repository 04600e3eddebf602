//! EXPLAIN (HOWDAH): how a statement is answered, and with ANALYZE what came of doing so. Its rows are counted, and nobody gets them.

use std::time::{Duration, Instant};

use super::Session;
use super::commands::Rows;
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::gather::{Asked, BARE_BIND};
use super::parts::{Bound, Came, Sink, end_batch, keep_rows};
use super::simple::Placed;
use crate::analysis::{Explained, Form, Gathering, Plan, Query, Reading, Refusal, parameters};
use crate::failure::Halt;
use crate::protocol::encode::{self, TEXT};
use crate::protocol::frontend::Bind;

/// The column of what EXPLAIN gives.
pub(super) const QUERY_PLAN: &str = "QUERY PLAN";

/// A formats list of none: all results as text.
const TEXTS: [u8; 2] = [0; 2];

impl Session {
    /// Of a statement that PostgreSQL takes.
    pub(super) async fn explain(&mut self, explained: &Explained, rows: Rows) -> Result<(), Halt> {
        self.parse_only(explained.text.as_bytes()).await?;
        let mut lines = explained.lines();
        if explained.analyze {
            let style = match rows {
                Rows::Described => Style::Simple,
                Rows::Alone => Style::Extended,
            };
            lines.extend(self.measured(&explained.text, style).await?);
        }
        if rows == Rows::Described {
            encode::columns(self.out(), &[(QUERY_PLAN, TEXT)], 0);
        }
        for line in lines {
            encode::row(self.out(), &[Some(line.as_bytes())]);
        }
        encode::command_complete(self.out(), "EXPLAIN");
        Ok(())
    }

    /// Runs a query that reads, as a transaction by itself where it is in none, and says what came of it.
    async fn measured(&mut self, text: &str, style: Style) -> Result<Vec<String>, Halt> {
        if parameters(text) > 0 {
            let refusal = Refusal::unsupported("EXPLAIN (ANALYZE, HOWDAH) with parameters is not supported");
            return Err(refusal.hint("Write their values.").into());
        }
        let began = Instant::now();
        let (planned, drawn) = self.plan_drawn(text).await?;
        let text = drawn.as_deref().unwrap_or(text);
        let not_so = || Refusal::unsupported("EXPLAIN (ANALYZE, HOWDAH) of this statement is not supported");
        let Ok(Plan::Query(query)) = planned.only()? else {
            return Err(not_so().into());
        };
        let places = match self.route(query, &[], Some(text), &planned).await? {
            Placed::One(place) => vec![place],
            Placed::Many(places) => places,
            Placed::Rows(_) => return Err(not_so().into()),
        };
        let own = places.len() > 1 && self.begin_read_of_several(false).await? && style == Style::Simple;
        let measured = self.measured_on(&places, query, text, style).await;
        let mut lines = self.close_transaction(own, measured).await?;
        lines.push(format!("Time: {}", shown(began.elapsed())));
        Ok(lines)
    }

    async fn measured_on(
        &mut self,
        places: &[usize],
        query: &Query,
        text: &str,
        style: Style,
    ) -> Result<Vec<String>, Halt> {
        self.enter_all(places, style).await?;
        match &query.form {
            Form::Gathered(gathering) if places.len() > 1 => {
                self.measured_gathering(places, gathering, text, style).await
            }
            // Nothing keeps a portal from one message to the next.
            _ if style == Style::Simple && self.transaction.is_none() => {
                for place in places {
                    if let Some(conn) = &mut self.slots[*place] {
                        keep_rows(conn);
                        conn.query(text, Audience::MergeNext, Stake::Nothing);
                    }
                }
                let came = self.take_parts(places, &mut Sink::Nowhere).await?;
                Ok(self.of_groups(places, &came, ""))
            }
            _ => {
                let (text, parameters) = (text.to_owned(), Vec::new());
                let reading = Reading { text, parameters };
                let bare = Bind::read(&BARE_BIND)?;
                let bound = Bound::of(0, reading, (&bare, &[]), &TEXTS);
                self.measured_reading(places, bound, style).await
            }
        }
    }

    async fn measured_gathering(
        &mut self,
        places: &[usize],
        gathering: &Gathering,
        text: &str,
        style: Style,
    ) -> Result<Vec<String>, Halt> {
        let asked = Asked::bare(gathering, text, style)?;
        if let Some(merged) = self.describe_merged(places, &asked).await? {
            return self.measured_reading(places, merged.reading, style).await;
        }
        let ready = self.bind_gathered(places, &asked).await?;
        let mut lines = Vec::new();
        for (index, came) in ready.came.iter().enumerate() {
            let what = match gathering.parts.get(index) {
                Some(part) if ready.came.len() > 1 => format!(", {}", part.table.name),
                _ => String::new(),
            };
            lines.extend(self.of_groups(places, came, &what));
        }
        let began = Instant::now();
        self.enter_bare(ready.place).await?;
        if let Some(conn) = &mut self.slots[ready.place] {
            keep_rows(conn);
            encode::execute(&mut conn.output, b"", 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            encode::close_portal(&mut conn.output, b"");
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            end_batch(conn, style);
        }
        let result = self.take_parts(&[ready.place], &mut Sink::Nowhere).await?;
        let result = result.first().copied().unwrap_or_default();
        let took = shown(began.elapsed());
        lines.push(format!(
            "Result, in group {}: {} rows, {took}",
            self.group(ready.place),
            result.rows
        ));
        Ok(lines)
    }

    async fn measured_reading(
        &mut self,
        places: &[usize],
        reading: Bound,
        style: Style,
    ) -> Result<Vec<String>, Halt> {
        self.bind_parts(places, std::slice::from_ref(&reading), style)
            .await?;
        self.execute_part(places, &reading, style);
        let came = self.take_parts(places, &mut Sink::Nowhere).await?;
        Ok(self.of_groups(places, &came, ""))
    }

    fn of_groups(&self, places: &[usize], came: &[Came], what: &str) -> Vec<String> {
        let each = places.iter().zip(came).map(|(place, came)| {
            let (group, took) = (self.group(*place), shown(came.took));
            format!(
                "Group {group}{what}: {} rows, {} bytes, {took}",
                came.rows, came.bytes
            )
        });
        each.collect()
    }
}

/// As EXPLAIN ANALYZE shows times.
fn shown(took: Duration) -> String {
    format!("{:.3} ms", took.as_secs_f64() * 1000.0)
}

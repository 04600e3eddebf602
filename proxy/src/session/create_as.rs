//! CREATE TABLE ... AS and SELECT ... INTO of tables of all groups (`analysis/create_as.rs`).
//!
//! 1. A backend reads the client's statement, which so fails as on one server.
//! 2. Every group makes the table, without rows, as a definition ([`super::ddl`]).
//! 3. The rows are inserted as by the client's own INSERT ... SELECT, planned by the tables as the transaction sees them now, by way of the session: of
//!    one snapshot of all groups.
//!
//! All of it is one transaction, the client's block or one of its own: nobody sees the table before its rows, and a failure anywhere leaves neither.

use postgres_protocol::escape::escape_literal;

use super::Session;
use super::commands::Rows;
use super::conn::{Audience, Stake};
use super::ddl::Definition;
use super::enter::Style;
use super::moves::Given;
use super::simple::Placed;
use crate::analysis::lexer::quoted;
use crate::analysis::{Access, CreateAs, DdlEffect, Form, Plan, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;

impl Session {
    /// Runs such a statement, and answers all but ReadyForQuery. Nothing is owed before.
    pub(super) async fn create_as(&mut self, made: &CreateAs, text: &str, rows: Rows) -> Result<(), Halt> {
        self.parse_only(text.as_bytes()).await?;
        self.all_prepared().await?;
        let own = self.open_definition(rows).await?;
        let filled = self.make_and_fill(made).await;
        match self.close_transaction(own, filled).await? {
            Some(counted) => encode::command_complete(self.out(), &format!("SELECT {counted}")),
            None => {
                let words = format!("relation \"{}\" already exists, skipping", made.table.name);
                encode::notice_of(self.out(), "42P07", &words);
                encode::command_complete(self.out(), "CREATE TABLE AS");
            }
        }
        Ok(())
    }

    /// Gives how many rows the table has got; none where there is one, and that is enough.
    async fn make_and_fill(&mut self, made: &CreateAs) -> Result<Option<u64>, Halt> {
        self.begin_definition().await?;
        let place = self.any_place().await?;
        self.enter(place, Access::Read, Style::Simple).await?;
        if made.selects_into && self.is_read_only(place).await? {
            // Of the groups' own statement they would say CREATE TABLE AS.
            let words = "cannot execute SELECT INTO in a read-only transaction";
            return Err(Refusal::new("25006", words).into());
        }
        let answer = self.ask(place, &before(made), None).await?;
        match answer.as_deref() {
            // Who makes it between this question and the next step makes that fail, so no row goes into another table.
            Some(b"there") if made.if_not_exists => return Ok(None),
            Some(b"hidden") => return Err(hidden(made).into()),
            _ => {}
        }
        let (text, effect) = (made.create.as_str(), &DdlEffect::Reload);
        self.define(Definition::Says { text, effect }).await?;
        self.insert_made(&made.insert).await.map(Some)
    }

    /// Gives how many rows there were.
    async fn insert_made(&mut self, insert: &str) -> Result<u64, Halt> {
        let (planned, drawn) = self.plan_drawn(insert).await?;
        let text = drawn.as_deref().unwrap_or(insert);
        let query = match planned.only()? {
            Ok(Plan::Query(query)) => query,
            Ok(Plan::Judge(refusal)) | Err(refusal) => return Err(refusal.clone().into()),
            Ok(_) => return Err(not_so().into()),
        };
        let place = match self.route(query, &[], Some(text), &planned).await? {
            Placed::One(place) => place,
            Placed::Many(_) if let Form::Feeds(feed) = &query.form => {
                let given = Given::bare(text)?;
                return Ok(self.feed_all(&given, feed, &planned, None).await?.0);
            }
            Placed::Many(_) | Placed::Rows(_) => return Err(not_so().into()),
        };
        self.enter(place, Access::Write, Style::Simple).await?;
        self.settle().await?;
        let done = self.exec(place, text, Audience::Session, Stake::Nothing).await?;
        Ok(done.counted)
    }
}

/// Asks whether a relation of the table's name is there, and whether a name in the query that could be the table's is something else now.
fn before(made: &CreateAs) -> String {
    let (whole, bare) = (
        escape_literal(&made.table.quoted()),
        escape_literal(&quoted(&made.table.name)),
    );
    let hidden = match made.names_it {
        true => {
            format!("pg_catalog.to_regclass({bare}) IS NOT NULL OR pg_catalog.to_regtype({bare}) IS NOT NULL")
        }
        false => "false".to_owned(),
    };
    format!(
        "SELECT CASE WHEN pg_catalog.to_regclass({whole}) IS NOT NULL THEN 'there' WHEN {hidden} THEN 'hidden' ELSE '' END"
    )
}

/// The query reads what the new table would stand before in the search path.
fn hidden(made: &CreateAs) -> Refusal {
    let name = &made.table.name;
    Refusal::unsupported(format!(
        "CREATE TABLE AS or SELECT INTO of a table \"{name}\" whose query names another \"{name}\" is not supported"
    ))
    .detail("The rows are read when the new table is there, which would be found in the other's place.")
    .hint("Write the other's schema before its name, or give the new table another name.")
}

fn not_so() -> Refusal {
    Refusal::unsupported("CREATE TABLE AS or SELECT INTO of this query is not supported")
        .hint("Create the table first, and fill it with INSERT ... SELECT.")
}

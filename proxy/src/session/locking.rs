//! SELECT ... ORDER BY ... FOR UPDATE of rows of several groups (`analysis/distributed/locking.rs`).
//!
//! The groups lock their rows one after the other, in ascending order, so that two such statements never wait for each other in a circle
//! ([`super::split`]). When all have, their rows are put together in order.
//!
//! Memory: the rows, at most [`Limits::max_gathered`](crate::Limits).

use super::Session;
use super::commands::Rows;
use super::enter::Style;
use super::gather::Asked;
use super::holes::draws_of;
use super::merge::{Giving, Head, Merged};
use super::parts::too_much;
use super::relay::columns_of;
use crate::analysis::{Access, Gathering, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;
use crate::protocol::frontend::{Bind, Execute};

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn locking_query(
        &mut self,
        places: &[usize],
        text: &str,
        gathering: &Gathering,
    ) -> Result<(), Halt> {
        let own = self.open_transaction(Style::Simple).await?;
        let asked = Asked::bare(gathering, text, Style::Simple)?;
        let locked = self.lock_in_order(places, &asked, None).await;
        let (merged, mut heads) = self.close_transaction(own, locked).await?;
        let mut giving = Giving::Rows(Rows::Described);
        giving.begin(&merged.columns, self.out());
        let counted = self
            .give_in_order(&[], &merged, &asked, (&mut heads, &mut giving))
            .await?;
        encode::command_complete(self.out(), &format!("SELECT {counted}"));
        Ok(())
    }

    /// Executes a portal for the first time.
    pub(super) async fn locking_portal(
        &mut self,
        places: &[usize],
        gathering: &Gathering,
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        let (bind, statement, planned) = self.portal_alone(execute.portal)?;
        self.open_transaction(Style::Extended).await?;
        let asked = Asked {
            gathering,
            text: draws_of(planned.only()?).map_or(&statement.text, |draws| &draws.text),
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        let known = statement.columns.get().map(Vec::as_slice);
        let (merged, mut heads) = self.lock_in_order(places, &asked, known).await?;
        let mut kept = Vec::new();
        let mut giving = match execute.limit > 0 {
            true => Giving::Kept(&mut kept),
            false => Giving::Rows(Rows::Alone),
        };
        let counted = self
            .give_in_order(&[], &merged, &asked, (&mut heads, &mut giving))
            .await?;
        self.written_portal(execute, places[0], format!("SELECT {counted}"), kept);
        Ok(())
    }

    /// Has each group lock its rows, and gives them. `known`: the columns that the client knows of.
    async fn lock_in_order(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
        known: Option<&[u8]>,
    ) -> Result<(Merged, Vec<Head>), Halt> {
        let place = self.one_of(places);
        self.enter(place, Access::Write, asked.style).await?;
        self.settle().await?;
        let Some(merged) = self.describe_merged(places, asked).await? else {
            return Err(unordered().into());
        };
        if let Some(known) = known
            && known != columns_of(&merged.columns)?
        {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        let limit = self.shared.limits.max_gathered;
        let (mut room, mut heads) = (limit, Vec::new());
        for place in places {
            self.enter(*place, Access::Write, asked.style).await?;
            self.settle().await?;
            let readings = std::slice::from_ref(&merged.reading);
            self.send_parts(&[*place], readings, asked.style);
            self.execute_part(&[*place], &merged.reading, asked.style);
            let mut head = Head::over();
            while let Some(rows) = self.rows_from(*place).await? {
                for row in rows {
                    let Some(left) = room.checked_sub(row.len()) else {
                        self.abandon(&[*place]).await?;
                        return Err(too_much(limit).into());
                    };
                    room = left;
                    head.add(&merged, row)?;
                }
            }
            heads.push(head);
        }
        Ok((merged, heads))
    }
}

/// The node cannot put the rows together.
fn unordered() -> Refusal {
    Refusal::unsupported("FOR UPDATE or FOR SHARE with this ORDER BY or LIMIT on rows of several groups is not supported")
        .detail(
            "Rows that are locked are not gathered, and the node does not know the order of this type or collation, or LIMIT is \
             no integer.",
        )
        .hint("Order by numbers, times, or texts in a database whose collation is C, or leave ORDER BY out.")
}

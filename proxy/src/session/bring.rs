//! An UPDATE or DELETE that needs rows of other tables than its own (`analysis/bring.rs`): they are gathered as those of a query are
//! ([`super::gather`]), and brought to each group that has rows to change, which finds and changes these by the client's own statement.
//!
//! All is read before the first row is changed. It is one transaction, as in [`super::split`].
//!
//! Memory: what is gathered, at most [`Limits::max_gathered`](crate::Limits), and twice more while it is sent.

use bytes::{Bytes, BytesMut};

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Kind, Stake};
use super::enter::Style;
use super::gather::{Asked, not_the_same, readings};
use super::holes::draws_of;
use super::moves::{close, parse};
use super::parts::{Sink, end_batch};
use super::relay::{columns_of, parameter_types};
use super::row_type::{Gathered, RowType};
use crate::analysis::{Access, Bring, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;
use crate::protocol::frontend::{Bind, Execute};

/// The name of the statements and portals.
const NAME: &[u8] = b"_howdah_bring";

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn bringing_query(
        &mut self,
        places: &[usize],
        text: &str,
        bring: &Bring,
    ) -> Result<(), Halt> {
        let own = self.open_transaction(Style::Simple).await?;
        let asked = Asked::bare(&bring.gathering, text, Style::Simple)?;
        let brought = self.bring_all(places, &asked, bring.verb, None).await;
        let (tag, _) = self.close_transaction(own, brought).await?;
        encode::command_complete(self.out(), &tag);
        Ok(())
    }

    /// Executes a portal for the first time.
    pub(super) async fn bringing_portal(
        &mut self,
        places: &[usize],
        bring: &Bring,
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        let (bind, statement, planned) = self.portal_alone(execute.portal)?;
        self.open_transaction(Style::Extended).await?;
        let asked = Asked {
            gathering: &bring.gathering,
            text: draws_of(planned.only()?).map_or(&statement.text, |draws| &draws.text),
            types: &statement.types,
            bind: Bind::read(Self::body(&bind))?,
            style: Style::Extended,
        };
        let check = (execute.limit > 0, statement.columns.get().map(Vec::as_slice));
        let (tag, rows) = self.bring_all(places, &asked, bring.verb, Some(check)).await?;
        self.written_portal(execute, places[0], tag, rows);
        Ok(())
    }

    /// Gives the tag, and what was returned where that is kept. `check`: for a portal, whether it is, and what the client knows of the columns.
    async fn bring_all(
        &mut self,
        places: &[usize],
        asked: &Asked<'_>,
        verb: &str,
        check: Option<(bool, Option<&[u8]>)>,
    ) -> Result<(String, Vec<Bytes>), Halt> {
        let all: Vec<usize> = (0..self.slots.len()).collect();
        self.enter_all(&all, asked.style).await?;
        let described = self.describe_gathered(places[0], asked).await?;
        if let Some((_, Some(columns))) = check
            && columns != columns_of(&described.columns)?
        {
            return Err(Refusal::new("0A000", "cached plan must not change result type").into());
        }
        self.enter(places[0], Access::Write, asked.style).await?;
        if self.is_read_only(places[0]).await? {
            let words = format!("cannot execute {verb} in a read-only transaction");
            return Err(Refusal::new("25006", words).into());
        }
        let readings = readings(asked, &described);
        let mut gathered: Vec<Gathered> = described.rows.iter().map(|_| Gathered::default()).collect();
        self.bind_parts(&all, &readings, asked.style).await?;
        let mut room = self.shared.limits.max_gathered;
        for ((reading, rows), into) in readings.iter().zip(&described.rows).zip(&mut gathered) {
            self.execute_part(&all, reading, asked.style);
            let room = &mut room;
            self.take_parts(&all, &mut Sink::Gathered { rows, into, room })
                .await?;
        }
        if asked.style == Style::Simple && described.columns.first() == Some(&b'T') {
            self.out().extend_from_slice(&described.columns);
        }
        let (mut command, mut counted, mut returned) = (String::new(), 0, Vec::new());
        let keeps = check.is_some_and(|(keeps, _)| keeps);
        for place in places {
            let captured = self.write_brought(*place, asked, &gathered, keeps).await?;
            counted += captured.counted;
            returned.extend(captured.kept.into_iter().flat_map(|kept| kept.rows));
            let tag = captured.tag.unwrap_or_default();
            command = tag.split(' ').next().unwrap_or_default().to_owned();
        }
        Ok((format!("{command} {counted}"), returned))
    }

    /// Has a group run the statement over the rows that were gathered.
    async fn write_brought(
        &mut self,
        place: usize,
        asked: &Asked<'_>,
        gathered: &[Gathered],
        keeps: bool,
    ) -> Result<Captured, Halt> {
        self.enter(place, Access::Write, asked.style).await?;
        self.settle().await?;
        let tables = &asked.gathering.parts;
        let (described, captured) = self
            .describe_on(
                place,
                asked.style,
                Some(&RowType::query(tables)),
                &[(asked.text, asked.types)],
            )
            .await?;
        let captured = captured?;
        let [types, _] = described.as_slice() else {
            return Err(not_the_same(None).into());
        };
        // A user's type has another object id in each group.
        let types = parameter_types(types)?;
        let rows = RowType::read(captured.value.as_deref().unwrap_or_default(), tables)?;
        let mut arrays: Vec<BytesMut> = Vec::new();
        for (gathered, rows) in gathered.iter().zip(&rows) {
            let mut here = gathered.clone();
            here.adopt(rows)?;
            arrays.extend(here.into_arrays(rows));
        }
        let values: Vec<_> = asked
            .bind
            .each()
            .chain(arrays.iter().map(|array| (true, Some(&array[..]))))
            .collect();
        let made = asked.gathering.final_text(asked.text, asked.parameters());
        let kept = keeps.then(|| self.room_for_rows());
        let (group, number) = (self.group(place), self.guest.number());
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                kept,
                ..Captured::default()
            };
            parse(conn, NAME, &made, &types, number);
            let results = asked.bind.results;
            encode::bind(&mut conn.output, (NAME, NAME), values.iter().copied(), results);
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            encode::execute(&mut conn.output, NAME, 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            encode::close_portal(&mut conn.output, NAME);
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            close(conn, NAME);
            end_batch(conn, asked.style);
        }
        self.drain(place).await?;
        self.take_captured(place, group, Stake::Nothing)
    }
}

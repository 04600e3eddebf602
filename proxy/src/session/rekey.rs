//! Rows move to where another distribution of their table wants them: when someone chooses it, and when a table gets a primary
//! key after its rows, as dumps have it, whose first column becomes the shard key.
//!
//! All of it is a part of the transaction that changes the table, on all groups or on none. The table is locked in every
//! group first, in ascending order. Then each group in turn reads the rows that are not its own any more, each goes to its group
//! by COPY, and the group deletes them; what has come to a group meanwhile is its own, and stays. PostgreSQL computes the slots.
//! Memory stays bounded as in [`super::copy`].

use std::sync::Arc;

use coordinator::catalogue::bootstrap::{Moving, distribute_table_sql};
use coordinator::hash::HashSlot;
use coordinator::slots::SlotMap;

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Stake};
use super::copy::CopyState;
use super::ddl::another_key;
use super::enter::Style;
use super::statements::Copying;
use crate::analysis::{
    Access, CopyFormat, CopyIn, CopyLayout, Distribute, Distribution, Goes, Refusal, RelationName,
};
use crate::failure::{Failure, Halt};
use crate::protocol::frame::HEADER;

/// Rows on their way from one group to others.
pub(super) struct Carry {
    /// Gives them, as COPY does in its text format.
    pub(super) read: String,
    /// Takes them: COPY from the client.
    pub(super) write: String,
    /// Where they go; where none is named each has its slot in front.
    pub(super) to: Option<usize>,
}

impl Session {
    /// Makes this column the shard key of a table, and moves its rows; does nothing where the user has chosen another.
    pub(super) async fn rekey(&mut self, table: &RelationName, key: &str) -> Result<(), Halt> {
        let moving = Moving::new(&table.schema, &table.name, Some(key));
        let places = 0..self.slots.len();
        let mut begun = 0;
        for place in places.clone() {
            self.enter(place, Access::Write, Style::Simple).await?;
            self.settle().await?;
            if self.is_read_only(place).await? {
                let words = "cannot execute ALTER TABLE in a read-only transaction";
                return Err(Refusal::new("25006", words).into());
            }
            let begin = moving.begin(key);
            let answer = self.exec(place, &begin, Audience::Quiet, Stake::Nothing).await?;
            begun += usize::from(answer.value.as_deref() == Some(b"t"));
        }
        if begun == 0 {
            return Ok(());
        }
        if begun < places.len() {
            return Err(another_key(table).into());
        }
        self.sort_out(&moving).await
    }

    /// Has every group say where the rows of a table shall be, and moves them there.
    pub(super) async fn redistribute(&mut self, distribute: &Distribute) -> Result<(), Halt> {
        let table = &distribute.table;
        let (kind, key) = match &distribute.to {
            Distribution::Hash(column) => ("hash", Some(column.as_str())),
            Distribution::Reference => ("reference", None),
            Distribution::Local => ("local", None),
        };
        let sql = distribute_table_sql(&table.schema, &table.name, kind, key);
        let mut former = None;
        for place in 0..self.slots.len() {
            self.enter(place, Access::Write, Style::Simple).await?;
            self.settle().await?;
            let audience = if place == 0 {
                Audience::Session
            } else {
                Audience::Quiet
            };
            former = self.exec(place, &sql, audience, Stake::Nothing).await?.value;
        }
        let moving = Moving::new(&table.schema, &table.name, key);
        match (former.as_deref() == Some(b"reference"), &distribute.to) {
            (true, Distribution::Reference) => Ok(()),
            (true, _) => {
                for place in 0..self.slots.len() {
                    self.run_on(place, &moving.delete()).await?;
                }
                Ok(())
            }
            (false, Distribution::Reference) => self.copy_everywhere(&moving).await,
            (false, _) => self.sort_out(&moving).await,
        }
    }

    /// Moves the rows that are not where they belong.
    async fn sort_out(&mut self, moving: &Moving) -> Result<(), Halt> {
        let columns = self.stored_columns(moving).await?;
        let (_, catalogue) = self.catalogue().await?;
        let carry = Carry {
            read: moving.read(&columns),
            write: moving.write(&columns),
            to: None,
        };
        for source in 0..self.slots.len() {
            self.carry(source, &carry, catalogue.slots()).await?;
            self.run_on(source, &moving.delete()).await?;
        }
        Ok(())
    }

    /// Gives every group the rows of all others: they are brought together on the first, and copied from there.
    async fn copy_everywhere(&mut self, moving: &Moving) -> Result<(), Halt> {
        let columns = self.stored_columns(moving).await?;
        let (_, catalogue) = self.catalogue().await?;
        let to = |place| Carry {
            read: moving.read_all(&columns),
            write: moving.write(&columns),
            to: Some(place),
        };
        for source in 1..self.slots.len() {
            self.carry(source, &to(0), catalogue.slots()).await?;
            self.run_on(source, &moving.delete_all()).await?;
        }
        for place in 1..self.slots.len() {
            self.carry(0, &to(place), catalogue.slots()).await?;
        }
        Ok(())
    }

    async fn stored_columns(&mut self, moving: &Moving) -> Result<String, Halt> {
        let place = self.current.unwrap_or(0);
        let sql = moving.columns();
        let answer = self.exec(place, &sql, Audience::Quiet, Stake::Nothing).await?;
        Ok(String::from_utf8_lossy(&answer.value.unwrap_or_default()).into_owned())
    }

    async fn run_on(&mut self, place: usize, sql: &str) -> Result<(), Halt> {
        self.current = None;
        self.enter(place, Access::Write, Style::Simple).await?;
        self.settle().await?;
        self.exec(place, sql, Audience::Quiet, Stake::Nothing)
            .await
            .map(drop)
    }

    /// Takes rows from one group to others. Gives their number.
    pub(super) async fn carry(
        &mut self,
        source: usize,
        carry: &Carry,
        slots: &Arc<SlotMap>,
    ) -> Result<u64, Halt> {
        let copying = Copying {
            text: carry.write.clone(),
            plan: plain_copy(),
        };
        let mut copy = CopyState::moving(copying, slots);
        let moved = self.move_rows(source, carry, &mut copy).await;
        if moved.is_err() {
            self.hush(source);
            self.abandon_copy(&mut copy).await?;
            self.current = Some(source).filter(|place| self.slots[*place].is_some());
            self.drain(source).await?;
        }
        moved
    }

    async fn move_rows(&mut self, source: usize, carry: &Carry, copy: &mut CopyState) -> Result<u64, Halt> {
        self.current = None;
        self.enter(source, Access::Read, Style::Simple).await?;
        self.settle().await?;
        let group = self.group(source);
        if let Some(conn) = &mut self.slots[source] {
            conn.captured = Captured {
                // They are taken out after each turn, which reads no more than a buffer, or one row.
                kept: Some(Kept::new(usize::MAX)),
                ..Captured::default()
            };
            conn.query(&carry.read, Audience::MergeNext, Stake::Nothing);
        }
        loop {
            let (mut rows, mut over) = (Vec::new(), true);
            if let Some(conn) = &mut self.slots[source] {
                over = conn.expect.is_empty();
                if let Some(kept) = &mut conn.captured.kept {
                    rows = std::mem::take(&mut kept.rows);
                    kept.room = usize::MAX;
                }
            }
            for row in rows {
                let row = row.get(HEADER..).unwrap_or_default();
                let (place, line) = match carry.to {
                    Some(place) => (place, row),
                    None => {
                        let (slot, line) = split_slot(row)?;
                        let group = copy.group(slot);
                        let place = self
                            .place(group)
                            .ok_or_else(|| Failure::from(shard::client::ConnectError::UnknownGroup(group)))?;
                        (place, line)
                    }
                };
                self.send_row(copy, place, line).await?;
            }
            if over {
                break;
            }
            self.answers(source).await?;
        }
        self.take_captured(source, group, Stake::Nothing)?;
        if copy.is_empty() {
            return Ok(0);
        }
        self.finish_copy(copy).await
    }

    /// What a backend still has to say is for nobody.
    fn hush(&mut self, place: usize) {
        if let Some(conn) = &mut self.slots[place] {
            conn.captured.kept = None;
            for due in &mut conn.expect {
                due.audience = Audience::Quiet;
            }
        }
    }
}

/// The slot in front of a line of COPY, and the line.
fn split_slot(row: &[u8]) -> Result<(HashSlot, &[u8]), Failure> {
    let tab = row.iter().position(|byte| *byte == b'\t');
    let parts = tab.map(|tab| (&row[..tab], &row[tab + 1..]));
    parts
        .and_then(|(slot, line)| {
            let number = std::str::from_utf8(slot).ok()?.parse().ok()?;
            Some((HashSlot::new(number)?, line))
        })
        .ok_or_else(|| Failure::Catalogue("PostgreSQL did not compute a row's slot".to_owned()))
}

/// COPY's own text format, of what [`Carry::write`] names.
fn plain_copy() -> CopyIn {
    CopyIn {
        table: RelationName {
            schema: String::new(),
            name: String::new(),
        },
        // Each row comes with its place, and nobody counts the columns.
        goes: Goes::To(HashSlot::LOCAL),
        columns: 0,
        format: CopyFormat::Lines(CopyLayout {
            csv: false,
            delimiter: b'\t',
            null: "\\N".to_owned(),
            header: false,
            quote: b'"',
            escape: b'"',
        }),
        supplied: Vec::new(),
        text: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_follows_its_slot() {
        let (slot, line) = split_slot(b"4095\ta\\tb\t\\N\n").expect("as PostgreSQL writes it");
        assert_eq!((u16::from(slot), line), (4095, &b"a\\tb\t\\N\n"[..]));
        for wrong in [&b"4096\ta\n"[..], b"a\n", b"\\N\ta\n"] {
            assert!(split_slot(wrong).is_err());
        }
    }
}

//! What is read of several groups at the same time, in one snapshot: statements that the session has made, their rows in binary.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Conn, Kind, Stake};
use super::enter::Style;
use super::row_type::{Gathered, RowType};
use super::together::Binding;
use crate::analysis::{Reading, Refusal};
use crate::failure::Halt;
use crate::protocol::encode;
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::Bind;

/// A formats list of one: binary.
pub(super) const BINARY: [u8; 4] = [0, 1, 0, 1];

/// A statement as the groups are asked for it.
pub(super) struct Bound {
    /// Its statement, and its portal.
    name: String,
    text: String,
    types: Vec<u32>,
    bind: BytesMut,
}

impl Bound {
    /// One with values of the client's parameters, of these types, and results in these formats ([`Bind::results`]).
    pub(super) fn of(
        index: usize,
        reading: Reading,
        (bind, types): (&Bind<'_>, &[u32]),
        results: &[u8],
    ) -> Bound {
        let values: Vec<_> = bind.each().collect();
        let name = format!("_howdah_{index}");
        let used = &reading.parameters;
        let bound = used
            .iter()
            .map(|at| values.get(*at).copied().unwrap_or((false, None)));
        let mut message = BytesMut::new();
        encode::bind(&mut message, (name.as_bytes(), name.as_bytes()), bound, results);
        Bound {
            types: used
                .iter()
                .map(|at| types.get(*at).copied().unwrap_or(0))
                .collect(),
            text: reading.text,
            name,
            bind: message,
        }
    }

    fn binding(&self, style: Style) -> Binding<'_> {
        Binding {
            portal: self.name.as_bytes(),
            message: &self.bind,
            style,
        }
    }
}

/// Where rows go.
pub(super) enum Sink<'a> {
    /// Into arrays, as long as there is room.
    Gathered {
        rows: &'a RowType,
        into: &'a mut Gathered,
        /// Bytes.
        room: &'a mut usize,
    },
    /// They are counted.
    Nowhere,
}

/// What came of a statement in one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    pub(super) rows: u64,
    /// As they came over the connection.
    pub(super) bytes: u64,
    /// Until the last of them was there.
    pub(super) took: Duration,
}

impl Session {
    /// Binds statements on these groups, which were entered: all of them in one cut where the statement needs its own.
    pub(super) async fn bind_parts(
        &mut self,
        places: &[usize],
        readings: &[Bound],
        style: Style,
    ) -> Result<(), Halt> {
        self.send_parts(places, readings, style);
        if self.has_a_view_of_each_statement() {
            let bindings: Vec<Binding<'_>> = readings.iter().map(|reading| reading.binding(style)).collect();
            self.hear_all(places).await?;
            self.bind_together(places, &bindings).await?;
        }
        Ok(())
    }

    /// Binds statements on these groups, each by itself.
    pub(super) fn send_parts(&mut self, places: &[usize], readings: &[Bound], style: Style) {
        let number = self.guest.number();
        let mut parse = BytesMut::new();
        for place in places {
            let Some(conn) = &mut self.slots[*place] else {
                continue;
            };
            conn.captured = Captured::default();
            for reading in readings {
                let (name, binding) = (reading.name.as_bytes(), reading.binding(style));
                // One that failed was skipped before its end and is still there.
                encode::close_statement(&mut conn.output, name);
                conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
                parse.clear();
                encode::parse(&mut parse, name, reading.text.as_bytes(), &reading.types);
                conn.output.extend_from_slice(&parse);
                conn.parsing.push_back((name.to_vec(), number));
                conn.owes(Kind::Parse, Audience::Session, Stake::Nothing);
                binding.close(conn);
                binding.send(conn);
            }
        }
    }

    /// Starts one of them on all of these groups.
    pub(super) fn execute_part(&mut self, places: &[usize], reading: &Bound, style: Style) {
        let binding = reading.binding(style);
        for place in places {
            let Some(conn) = &mut self.slots[*place] else {
                continue;
            };
            keep_rows(conn);
            encode::execute(&mut conn.output, binding.portal, 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            binding.close(conn);
            encode::close_statement(&mut conn.output, binding.portal);
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            end_batch(conn, style);
        }
    }

    /// Takes all rows of what was started on these groups. Gives what came of each.
    pub(super) async fn take_parts(
        &mut self,
        places: &[usize],
        sink: &mut Sink<'_>,
    ) -> Result<Vec<Came>, Halt> {
        let began = Instant::now();
        let mut came = Vec::with_capacity(places.len());
        self.aim_at(places);
        for (index, place) in places.iter().enumerate() {
            match self.drain_rows(*place, sink).await {
                Ok(rows) => came.push(Came {
                    took: began.elapsed(),
                    ..rows
                }),
                Err(halt) => {
                    self.abandon(&places[index..]).await?;
                    self.aim();
                    return Err(halt);
                }
            }
        }
        self.aim();
        Ok(came)
    }

    async fn drain_rows(&mut self, place: usize, sink: &mut Sink<'_>) -> Result<Came, Halt> {
        let mut came = Came::default();
        while let Some(rows) = self.rows_from(place).await? {
            for row in rows {
                came.rows += 1;
                came.bytes += u64::try_from(row.len()).unwrap_or(0);
                if let Sink::Gathered { rows, into, room } = sink {
                    let size = into.add(rows, row.get(HEADER..).unwrap_or_default())?;
                    **room = room
                        .checked_sub(size)
                        .ok_or_else(|| too_much(self.shared.limits.max_gathered))?;
                }
            }
        }
        Ok(came)
    }

    /// The rows, as messages, that have come from a group since the last time; none where there are no more.
    pub(super) async fn rows_from(&mut self, place: usize) -> Result<Option<Vec<Bytes>>, Halt> {
        self.current = Some(place);
        loop {
            let (mut rows, mut over) = (Vec::new(), true);
            if let Some(conn) = &mut self.slots[place] {
                over = conn.expect.is_empty();
                if let Some(kept) = &mut conn.captured.kept {
                    rows = std::mem::take(&mut kept.rows);
                    kept.room = usize::MAX;
                }
            }
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
            if over {
                let group = self.group(place);
                self.take_captured(place, group, Stake::Nothing)?;
                return Ok(None);
            }
            self.answers(place).await?;
        }
    }
}

/// Rows of what comes next are kept. They are taken out after each turn, which reads no more than a buffer, or one row.
pub(super) fn keep_rows(conn: &mut Conn) {
    conn.captured = Captured {
        kept: Some(Kept::new(usize::MAX)),
        ..Captured::default()
    };
}

/// What follows is answered together with what came before.
pub(super) fn end_batch(conn: &mut Conn, style: Style) {
    match style {
        Style::Simple => conn.sync(Audience::Quiet, Stake::Nothing),
        Style::Extended => encode::empty(&mut conn.output, b'H'),
    }
}

pub(super) fn too_much(limit: usize) -> Refusal {
    let limit = limit >> 10;
    Refusal::new(
        "53400",
        format!("the rows that this query needs from several groups exceed sql.max_gathered ({limit} kB)"),
    )
    .detail("No group can answer it alone, so that rows are gathered in memory.")
    .hint("Narrow them down by WHERE, name fewer columns, or have sql.max_gathered raised.")
}

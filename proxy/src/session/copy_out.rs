//! COPY (query) TO STDOUT of a query that no group answers alone: it is run as the query by itself, and its rows are written as COPY writes them.
//!
//! PostgreSQL cannot do that, as COPY takes no parameters, in which gathered rows come. What a field is has already been made by the type's output
//! function, or send function; what stands around it is written here, as in `CopyAttributeOutText`, `CopyAttributeOutCSV` and `CopyOneRowTo` in copyto.c.
//! In a READ COMMITTED block a query that the groups answer alone is run so, too, as only a query's portals can be bound in one cut
//! ([`super::together`]). Whether the options go together PostgreSQL says, of the same COPY of no rows.

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::captured::Captured;
use super::conn::{Audience, Kind, Stake};
use super::copy::AMBIGUOUS;
use super::enter::Style;
use super::gather::Asked;
use super::merge::Giving;
use super::parts::{Bound, end_batch};
use super::statements::Portal;
use super::together::Statement;
use super::tuples::{HEADER, TRAILER};
use crate::analysis::{CopyFormat, CopyLayout, CopyMade, CopySource, Gathering, Query, Reading, Refusal};
use crate::failure::Halt;
use crate::protocol::frame::HEADER as HEADER_OF_MESSAGE;
use crate::protocol::frontend::{Bind, Execute};
use crate::protocol::{Body, Malformed, encode};

/// The portal of the query.
const PORTAL: &[u8] = b"_howdah_copy";

/// What follows a column's name in a RowDescription: table, number, type, size, modifier, format.
const AFTER_NAME: usize = 18;

/// Writes rows as COPY does.
#[derive(Debug)]
pub(crate) struct Writer {
    format: CopyFormat,
    /// The binary format's header, which goes with the first row, or the trailer.
    header: &'static [u8],
    /// What the columns are called, in the client's encoding.
    names: Vec<Vec<u8>>,
}

impl Writer {
    /// One of what this RowDescription describes.
    fn of(format: &CopyFormat, description: &[u8]) -> Result<Writer, Malformed> {
        let mut body = Body::new(description.get(HEADER_OF_MESSAGE..).unwrap_or_default());
        let count = body.i16()?;
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(body.cstr()?.to_vec());
            body.bytes(AFTER_NAME)?;
        }
        Ok(Writer {
            format: format.clone(),
            header: match format {
                CopyFormat::Binary => HEADER,
                CopyFormat::Lines(_) => b"",
            },
            names,
        })
    }

    /// CopyOutResponse, and a line of names where that is asked for.
    pub(super) fn begin(&self, out: &mut BytesMut) {
        let binary = self.format == CopyFormat::Binary;
        let columns = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        encode::copy_out_response(out, u8::from(binary), columns);
        if let CopyFormat::Lines(layout) = &self.format
            && layout.header
        {
            let names = self.names.iter().map(|name| Some(name.as_slice()));
            let line = line(layout, names, self.names.len());
            encode::message(out, b'd', |out| out.extend_from_slice(&line));
        }
    }

    /// What a row of these values is in COPY's data. `row`: the body of a DataRow message.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn row(&mut self, row: &[u8]) -> Result<Bytes, Malformed> {
        let mut body = Body::new(row);
        let count = body.i16()?;
        let mut values = Vec::with_capacity(self.names.len());
        for _ in 0..count {
            values.push(match usize::try_from(body.i32()?) {
                Ok(len) => Some(body.bytes(len)?),
                Err(_) => None,
            });
        }
        Ok(match &self.format {
            CopyFormat::Lines(layout) => line(layout, values.into_iter(), self.names.len()),
            CopyFormat::Binary => {
                // A row is there what it is in a DataRow.
                [std::mem::take(&mut self.header), row].concat().into()
            }
        })
    }

    fn end(mut self, out: &mut BytesMut) {
        if self.format == CopyFormat::Binary {
            let header = std::mem::take(&mut self.header);
            encode::message(out, b'd', |out| {
                out.extend_from_slice(header);
                out.extend_from_slice(TRAILER);
            });
        }
        encode::empty(out, b'c');
    }
}

/// A line of these fields.
fn line<'v>(layout: &CopyLayout, fields: impl Iterator<Item = Option<&'v [u8]>>, count: usize) -> Bytes {
    let mut line = BytesMut::new();
    for (at, field) in fields.enumerate() {
        if at > 0 {
            line.put_u8(layout.delimiter);
        }
        match field {
            None => line.put_slice(layout.null.as_bytes()),
            Some(field) if layout.csv => csv_field(layout, field, count == 1, &mut line),
            Some(field) => text_field(layout.delimiter, field, &mut line),
        }
    }
    line.put_u8(b'\n');
    line.freeze()
}

/// `CopyAttributeOutText`.
fn text_field(delimiter: u8, field: &[u8], line: &mut BytesMut) {
    for byte in field {
        let letter = match byte {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            b'\\' => b'\\',
            byte if *byte == delimiter => delimiter,
            byte => {
                line.put_u8(*byte);
                continue;
            }
        };
        line.put_slice(&[b'\\', letter]);
    }
}

/// `CopyAttributeOutCSV`.
fn csv_field(layout: &CopyLayout, field: &[u8], alone: bool, line: &mut BytesMut) {
    let special = |byte: &u8| [layout.delimiter, layout.quote, b'\n', b'\r'].contains(byte);
    // What reads as NULL, or as the end of the data, is quoted.
    let quoted = field == layout.null.as_bytes() || (alone && field == b"\\.") || field.iter().any(special);
    if !quoted {
        line.put_slice(field);
        return;
    }
    line.put_u8(layout.quote);
    for byte in field {
        if *byte == layout.quote || *byte == layout.escape {
            line.put_u8(layout.escape);
        }
        line.put_u8(*byte);
    }
    line.put_u8(layout.quote);
}

impl Session {
    /// Answers all but ReadyForQuery of a Query, as a transaction by itself where it is in none.
    pub(super) async fn copying_query(
        &mut self,
        places: &[usize],
        text: &str,
        query: &Query,
        made: &CopyMade,
    ) -> Result<(), Halt> {
        let begun = self.begin_read_of_several(true).await?;
        let copied = match self.enter_all(places, Style::Simple).await {
            Ok(()) if self.groups_copy(made) => {
                self.scatter_query(places, text, Statement::Itself, &made.by_groups(query))
                    .await
            }
            Ok(()) => self.copy_made(places, text, made, Style::Simple).await,
            Err(halt) => Err(halt),
        };
        self.close_transaction(begun, copied).await
    }

    /// Whether each group writes its own rows. They were entered, and see the same state of the database if they do.
    pub(super) fn groups_copy(&self, made: &CopyMade) -> bool {
        made.source == CopySource::Rows && !self.has_a_view_of_each_statement()
    }

    /// Executes a portal, at once, whatever its limit of rows.
    pub(super) async fn copying_portal(
        &mut self,
        places: &[usize],
        made: &CopyMade,
        execute: &Execute<'_>,
    ) -> Result<(), Halt> {
        let (_, statement, _) = self.portal_alone(execute.portal)?;
        self.copy_made(places, &statement.text, made, Style::Extended)
            .await?;
        self.statements.replace_portal(execute.portal, Portal::Done);
        Ok(())
    }

    async fn copy_made(
        &mut self,
        places: &[usize],
        text: &str,
        made: &CopyMade,
        style: Style,
    ) -> Result<(), Halt> {
        self.refuse_ambiguous(made)?;
        let place = self.one_of(places);
        self.enter_bare(place).await?;
        self.ask(place, &made.of_no_rows(text), None).await?;
        // Where something is in the query, backends count from its beginning.
        let before = self.told.offset;
        self.told.offset += made.query_offset(text);
        let copied = match &made.source {
            CopySource::Gathered(gathering) => {
                self.copy_gathered(places, text, (made, gathering), style).await
            }
            CopySource::Count | CopySource::Rows => self.copy_each(places, text, made, style).await,
        };
        self.told.offset = before;
        let (writer, counted) = copied?;
        writer.end(self.out());
        encode::command_complete(self.out(), &format!("COPY {counted}"));
        Ok(())
    }

    /// In such an encoding a byte of another character can look like one that is escaped.
    fn refuse_ambiguous(&self, made: &CopyMade) -> Result<(), Refusal> {
        let encoding = self.told.parameters.get(&b"client_encoding"[..]);
        let ambiguous = encoding.is_some_and(|encoding| AMBIGUOUS.contains(&encoding.as_slice()));
        if ambiguous && made.format != CopyFormat::Binary {
            return Err(Refusal::unsupported(
                "COPY of such a query of rows of several groups in this client encoding is not supported",
            )
            .hint("SET client_encoding = 'UTF8'."));
        }
        Ok(())
    }

    async fn copy_gathered(
        &mut self,
        places: &[usize],
        text: &str,
        (made, gathering): (&CopyMade, &Gathering),
        style: Style,
    ) -> Result<(Writer, u64), Halt> {
        let body = bind_body(&made.format);
        let asked = Asked {
            gathering,
            text,
            types: &[],
            bind: Bind::read(&body)?,
            style,
        };
        if let Some(merged) = self.describe_merged(places, &asked).await? {
            let mut writer = Writer::of(&made.format, &merged.columns)?;
            let giving = Giving::Copy(&mut writer);
            let counted = self.merge(places, merged, &asked, giving).await?;
            return Ok((writer, counted));
        }
        let ready = self.bind_gathered(places, &asked).await?;
        let (place, group) = (ready.place, self.group(ready.place));
        let writer = Writer::of(&made.format, &ready.columns)?;
        writer.begin(self.out());
        self.enter_bare(place).await?;
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                writes: Some(writer),
                ..Captured::default()
            };
            encode::execute(&mut conn.output, PORTAL, 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            encode::close_portal(&mut conn.output, PORTAL);
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            end_batch(conn, style);
        }
        self.drain(place).await?;
        let captured = self.take_captured(place, group, Stake::Nothing)?;
        let writer = captured.writes.ok_or(Malformed("a COPY has not begun"))?;
        Ok((writer, captured.counted))
    }

    /// What each group gives, or the sum of what they count.
    async fn copy_each(
        &mut self,
        places: &[usize],
        text: &str,
        made: &CopyMade,
        style: Style,
    ) -> Result<(Writer, u64), Halt> {
        let (query, place) = (made.query(text), self.one_of(places));
        let (described, captured) = self.describe_on(place, style, None, &[(query, &[])]).await?;
        captured?;
        let [_, columns] = described.as_slice() else {
            return Err(Malformed("a query has no columns").into());
        };
        let mut writer = Writer::of(&made.format, columns)?;
        let body = bind_body(&made.format);
        let bind = Bind::read(&body)?;
        let reading = Reading {
            text: query.to_owned(),
            parameters: Vec::new(),
        };
        let bound = Bound::of(0, reading, (&bind, &[]), bind.results);
        self.bind_parts(places, std::slice::from_ref(&bound), style)
            .await?;
        self.execute_part(places, &bound, style);
        writer.begin(self.out());
        self.aim_at(places);
        let (mut counts, mut counted) = (Vec::new(), 0);
        for (index, place) in places.iter().enumerate() {
            loop {
                match self.rows_from(*place).await {
                    Ok(Some(rows)) if made.source == CopySource::Count => counts.extend(rows),
                    Ok(Some(rows)) => {
                        for row in rows {
                            self.write_row(&mut writer, &row)?;
                            counted += 1;
                        }
                    }
                    Ok(None) => break,
                    Err(halt) => {
                        self.abandon(&places[index + 1..]).await?;
                        self.aim();
                        return Err(halt);
                    }
                }
            }
        }
        self.aim();
        if made.source == CopySource::Count {
            let mut sum = BytesMut::new();
            encode::sum_of_counts(&mut sum, &counts)?;
            self.write_row(&mut writer, &sum)?;
            counted = 1;
        }
        Ok((writer, counted))
    }

    /// Gives the client a DataRow message as COPY writes it.
    fn write_row(&mut self, writer: &mut Writer, row: &[u8]) -> Result<(), Malformed> {
        let row = writer.row(row.get(HEADER_OF_MESSAGE..).unwrap_or_default())?;
        encode::message(self.out(), b'd', |out| out.extend_from_slice(&row));
        Ok(())
    }
}

/// A Bind of our portal without parameters, for results as COPY writes them.
fn bind_body(format: &CopyFormat) -> BytesMut {
    let mut body = BytesMut::new();
    encode::cstr(&mut body, PORTAL);
    // No statement's name, no formats and values of parameters.
    body.put_slice(&[0; 5]);
    match format {
        CopyFormat::Lines(_) => body.put_slice(&[0; 2]),
        CopyFormat::Binary => body.put_slice(&[0, 1, 0, 1]),
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(csv: bool, delimiter: u8, null: &str) -> CopyLayout {
        CopyLayout {
            csv,
            delimiter,
            null: null.to_owned(),
            header: false,
            quote: b'"',
            escape: b'\\',
        }
    }

    fn written(layout: &CopyLayout, fields: &[Option<&str>]) -> String {
        let line = line(
            layout,
            fields.iter().map(|field| field.map(str::as_bytes)),
            fields.len(),
        );
        String::from_utf8(line.to_vec()).unwrap()
    }

    #[test]
    fn fields_are_escaped_as_postgresql_does() {
        let text = layout(false, b'|', "\\N");
        let fields = [
            Some("a|b\\c\td\u{1}"),
            None,
            Some(""),
            Some("\n\r\u{8}\u{b}\u{c}"),
        ];
        assert_eq!(
            written(&text, &fields),
            "a\\|b\\\\c\\td\u{1}|\\N||\\n\\r\\b\\v\\f\n"
        );
        let csv = layout(true, b',', "");
        assert_eq!(
            written(&csv, &[Some(""), None, Some("a,b"), Some("c\\d")]),
            "\"\",,\"a,b\",c\\d\n"
        );
        assert_eq!(written(&csv, &[Some("say \"\\\"")]), "\"say \\\"\\\\\\\"\"\n");
        assert_eq!(written(&csv, &[Some("\\.")]), "\"\\\\.\"\n");
        assert_eq!(written(&csv, &[Some("\\."), Some("x")]), "\\.,x\n");
    }
}

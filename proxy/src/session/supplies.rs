//! Values of sequences for COPY ... FROM STDIN: fields that the session adds to each row, behind those of the client.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use coordinator::catalogue::Catalogue;

use super::Session;
use super::rows::{Ending, Key};
use super::sequences::find;
use crate::analysis::{CopyFormat, CopyIn, CopyLayout, Goes, Refusal, SuppliedField};
use crate::failure::Halt;

/// After so many rows so many values are taken at a time. Those that are left over are lost.
const MANY: usize = 1000;

/// What a COPY adds to each row.
#[derive(Debug)]
pub(super) struct Supplies {
    /// By whose catalogue the sequences are known.
    place: usize,
    catalogue: Arc<Catalogue>,
    fields: Vec<(SuppliedField, VecDeque<i64>)>,
    /// How many rows have got theirs.
    rows: usize,
}

/// The values of one row.
pub(super) type Added = Vec<i64>;

impl Session {
    /// What a COPY adds to each row; none where the client gives all fields.
    ///
    /// # Errors
    /// When the session's role may not use a sequence.
    pub(super) async fn supplies(&mut self, plan: &CopyIn) -> Result<Option<Supplies>, Halt> {
        if plan.supplied.is_empty() {
            return Ok(None);
        }
        if self.transaction.as_ref().is_some_and(|t| t.defines) {
            let words = "COPY without a column that a sequence fills, in a transaction that has defined something, is not supported";
            return Err(Refusal::unsupported(words)
                .hint("Commit before, or give the column in the rows.")
                .into());
        }
        let (place, catalogue) = self.tables().await?;
        for field in plan.supplied.iter().filter(|field| !field.identity) {
            let sequence = find(&catalogue, &field.sequence)?;
            self.may_use(sequence, "USAGE, UPDATE", &catalogue).await?;
        }
        let fields = plan.supplied.iter().map(|field| (field.clone(), VecDeque::new()));
        Ok(Some(Supplies {
            place,
            catalogue,
            fields: fields.collect(),
            rows: 0,
        }))
    }

    /// The values of the next row.
    pub(super) async fn next_added(&mut self, supplies: &mut Supplies) -> Result<Added, Halt> {
        if supplies.fields.iter().any(|(_, values)| values.is_empty()) {
            let place = supplies.place;
            let size = if supplies.rows < MANY { 1 } else { MANY };
            for (field, values) in &mut supplies.fields {
                let sequence = find(&supplies.catalogue, &field.sequence)?;
                values.extend(self.values_of(place, sequence, size).await?);
            }
        }
        supplies.rows += 1;
        let mut added = Added::with_capacity(supplies.fields.len());
        for (field, values) in &mut supplies.fields {
            let value = values.pop_front().unwrap_or_default();
            self.note_drawn(supplies.place, find(&supplies.catalogue, &field.sequence)?, value);
            added.push(value);
        }
        Ok(added)
    }
}

/// The shard key of a row that was given these values, where it is one of them.
pub(super) fn key_of<'a>(plan: &CopyIn, added: &Added) -> Option<Key<'a>> {
    let Goes::ByKey { field, .. } = &plan.goes else {
        return None;
    };
    let at = field.checked_sub(plan.columns)?;
    let (field, value) = plan.supplied.get(at).zip(added.get(at))?;
    Some(Key::Value(
        match plan.format {
            CopyFormat::Lines(_) => value.to_string().into_bytes(),
            CopyFormat::Binary => in_binary(field, *value).ok()?,
        }
        .into(),
    ))
}

/// A line with these values behind its fields.
pub(super) fn with_values(line: &[u8], ending: Ending, layout: &CopyLayout, added: &Added) -> Vec<u8> {
    with_texts(line, ending, layout, added.iter().map(i64::to_string))
}

/// The header line with the names of the fields that are added.
pub(super) fn with_names(line: &[u8], ending: Ending, layout: &CopyLayout, plan: &CopyIn) -> Vec<u8> {
    with_texts(
        line,
        ending,
        layout,
        plan.supplied.iter().map(|field| field.name.clone()),
    )
}

fn with_texts(
    line: &[u8],
    ending: Ending,
    layout: &CopyLayout,
    texts: impl Iterator<Item = String>,
) -> Vec<u8> {
    let end = line.len()
        - match ending {
            Ending::Newline | Ending::Return => 1,
            Ending::ReturnNewline => 2,
            Ending::Data => 0,
        };
    let mut whole = line[..end].to_vec();
    for text in texts {
        whole.push(layout.delimiter);
        if layout.csv {
            // In quotes it is not NULL, however that is written.
            whole.push(layout.quote);
            whole.extend_from_slice(text.as_bytes());
            whole.push(layout.quote);
        } else {
            whole.extend_from_slice(text.as_bytes());
        }
    }
    whole.extend_from_slice(&line[end..]);
    whole
}

/// A row of the binary format with these values behind its fields.
///
/// # Errors
/// When a value does not fit its column.
pub(super) fn with_fields(row: &[u8], plan: &CopyIn, added: &Added) -> Result<BytesMut, Refusal> {
    let mut whole = BytesMut::from(row);
    let count = row.first_chunk::<2>().map_or(0, |two| i16::from_be_bytes(*two));
    let more = i16::try_from(added.len()).unwrap_or(i16::MAX);
    if let Some(place) = whole.first_chunk_mut::<2>() {
        *place = count.saturating_add(more).to_be_bytes();
    }
    for (field, value) in plan.supplied.iter().zip(added) {
        let bytes = in_binary(field, *value)?;
        whole.put_u32(u32::try_from(bytes.len()).unwrap_or(0));
        whole.put_slice(&bytes);
    }
    Ok(whole)
}

/// A value in the binary form of its column's type, an integer.
fn in_binary(field: &SuppliedField, value: i64) -> Result<Vec<u8>, Refusal> {
    let too_large = |name: &str| Refusal::new("22003", format!("{name} out of range"));
    match field.type_oid {
        21 => i16::try_from(value)
            .map(|value| value.to_be_bytes().to_vec())
            .map_err(|_| too_large("smallint")),
        23 => i32::try_from(value)
            .map(|value| value.to_be_bytes().to_vec())
            .map_err(|_| too_large("integer")),
        _ => Ok(value.to_be_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_behind_those_of_a_line_and_before_its_end() {
        let mut layout = CopyLayout {
            csv: false,
            delimiter: b'\t',
            null: "\\N".to_owned(),
            header: false,
            quote: b'"',
            escape: b'"',
        };
        assert_eq!(
            with_values(b"a\tb\r\n", Ending::ReturnNewline, &layout, &vec![7, -1]),
            b"a\tb\t7\t-1\r\n"
        );
        assert_eq!(with_values(b"", Ending::Data, &layout, &vec![7]), b"\t7");
        layout = CopyLayout {
            csv: true,
            delimiter: b';',
            ..layout
        };
        assert_eq!(
            with_values(b"\"a;\n\"\n", Ending::Newline, &layout, &vec![7]),
            b"\"a;\n\";\"7\"\n"
        );
    }
}

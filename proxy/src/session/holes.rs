//! Statements with holes for values of sequences and times: a text gets constants, a prepared statement further parameters behind the
//! client's, of which the client never hears.

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::plans::Planned;
use super::simple::{Placed, Ready};
use super::statements::Statement;
use super::together;
use crate::analysis::{Draws, Form, Format, Parameter, Plan, Query, REGCLASS, Refusal};
use crate::failure::{Failure, Halt};
use crate::protocol::encode;
use crate::protocol::frontend::{Bind, Parse};

/// `bigint`, by its OID.
const BIGINT: u32 = 20;
/// `timestamptz`.
const TIMESTAMPTZ: u32 = 1184;

/// As many parameters as the protocol counts.
const MOST_PARAMETERS: usize = 65_535;

impl Session {
    /// Runs a statement with holes that has come as a text.
    pub(super) async fn run_drawing(
        &mut self,
        query: &Query,
        draws: &Draws,
        planned: &Planned,
    ) -> Result<Ready, Halt> {
        self.settle().await?;
        let values = self.draw(draws, &[]).await?;
        self.pipeline.began = None;
        self.told.places = Some(draws.places(&values));
        let ran = self.run_drawn(query, draws, &values, planned).await;
        self.told.places = None;
        ran
    }

    async fn run_drawn(
        &mut self,
        query: &Query,
        draws: &Draws,
        values: &[i64],
        planned: &Planned,
    ) -> Result<Ready, Halt> {
        let text = draws.with_constants(values);
        if query.form != Form::Plain {
            // The plan is of the text with parameters.
            let planned = self.plan(&text).await?;
            return Box::pin(self.run(planned.only()?, &text, &planned, None)).await;
        }
        let shown = shown(draws, values);
        let client = (0..draws.given).map(|_| Parameter {
            value: None,
            format: Format::Text,
            type_oid: None,
        });
        let ours = shown.iter().enumerate().map(|(hole, value)| Parameter {
            value: Some(value.as_bytes()),
            format: Format::Text,
            type_oid: Some(type_of(draws, hole)),
        });
        let parameters: Vec<Parameter<'_>> = client.chain(ours).collect();
        let routed = self.route(query, &parameters, Some(&text), planned).await;
        if let Err(Halt::Fail(Failure::Postgres(_))) = &routed
            && self.transaction.is_none()
        {
            // What is wrong with a value PostgreSQL says of the whole statement.
            self.parse_only(text.as_bytes()).await?;
        }
        match routed? {
            Placed::One(place) => return self.forward(place, query, &text, None).await,
            Placed::Many(places) => {
                self.query_on_several(&places, &text, together::Statement::Itself, query)
                    .await?;
            }
            Placed::Rows(rows) => {
                let query = query.clone().with_rows_of(&text);
                self.insert_query(&text, &query, rows).await?;
            }
        }
        Ok(Ready::Now)
    }

    /// The Bind of a statement with holes, with their values behind the client's; none for another statement.
    pub(super) async fn bind_drawing(
        &mut self,
        message: &[u8],
        statement: &Statement,
        plan: &Result<Plan, Refusal>,
    ) -> Result<Option<BytesMut>, Halt> {
        let Some(draws) = draws_of(plan) else {
            return Ok(None);
        };
        let bind = Bind::read(Self::body(message))?;
        let mut given = Vec::new();
        for (index, (binary, value)) in bind.each().enumerate() {
            self.readable_value(value)?;
            given.push(match value.filter(|_| draws.name_type(index + 1).is_some()) {
                Some(value) => {
                    let of = statement.types.get(index).copied().unwrap_or(REGCLASS);
                    Some(text_of(value, binary && of == REGCLASS)?)
                }
                None => None,
            });
        }
        let values = self.draw(draws, &given).await?;
        let mut filled = BytesMut::new();
        encode::message(&mut filled, b'B', |out| {
            encode::cstr(out, bind.portal);
            encode::cstr(out, bind.statement);
            let count = u16::try_from(given.len() + values.len()).unwrap_or(u16::MAX);
            out.put_u16(count);
            bind.each().for_each(|(binary, _)| out.put_u16(u16::from(binary)));
            values.iter().for_each(|_| out.put_u16(0));
            out.put_u16(count);
            for (_, value) in bind.each() {
                put_value(out, value);
            }
            for value in shown(draws, &values) {
                put_value(out, Some(value.as_bytes()));
            }
            out.put_slice(bind.results);
        });
        Ok(Some(filled))
    }
}

/// What is in the holes, as text.
fn shown(draws: &Draws, values: &[i64]) -> Vec<String> {
    let shown = |(hole, value): (usize, &i64)| draws.shown(hole, *value);
    values.iter().enumerate().map(shown).collect()
}

/// Its type.
fn type_of(draws: &Draws, hole: usize) -> u32 {
    if draws.is_time(hole) { TIMESTAMPTZ } else { BIGINT }
}

/// The holes of a plan, if it has any.
pub(super) fn draws_of(plan: &Result<Plan, Refusal>) -> Option<&Draws> {
    match plan {
        Ok(Plan::Query(query)) => query.draws.as_deref(),
        _ => None,
    }
}

/// What backends are given for a client's Parse of a statement with holes.
pub(super) struct Supplied {
    pub(super) message: Bytes,
    /// The types of all parameters.
    pub(super) types: Vec<u32>,
    /// How many of the parameters are the holes'.
    pub(super) holes: usize,
}

impl Supplied {
    /// For this statement, of these declared types; none where it has no holes.
    ///
    /// # Errors
    /// When there are more parameters than the protocol counts.
    pub(super) fn of(
        name: &[u8],
        declared: &[u32],
        plan: &Result<Plan, Refusal>,
    ) -> Result<Option<Supplied>, Refusal> {
        let Some(draws) = draws_of(plan) else {
            return Ok(None);
        };
        let holes = draws.holes();
        if declared.len() > draws.given {
            let words = "types are declared for more parameters than the statement has";
            return Err(Refusal::unsupported(words).hint("Declare as many as it has."));
        }
        if draws.given + holes > MOST_PARAMETERS {
            return Err(Refusal::new(
                "54000",
                "the statement has too many rows for the values that sequences give",
            )
            .hint("Insert fewer rows at a time, or use COPY."));
        }
        let mut types = declared.to_vec();
        types.resize(draws.given, 0);
        for (index, of) in types.iter_mut().enumerate() {
            if *of == 0 {
                // As PostgreSQL infers it; nothing else says so any more.
                *of = draws.name_type(index + 1).unwrap_or(0);
            }
        }
        types.extend((0..holes).map(|hole| type_of(draws, hole)));
        let mut message = BytesMut::new();
        encode::parse(&mut message, name, draws.text.as_bytes(), &types);
        Ok(Some(Supplied {
            message: message.freeze(),
            types,
            holes,
        }))
    }

    /// For a client's Parse.
    ///
    /// # Errors
    /// See [`Supplied::of`].
    pub(super) fn of_parse(
        parse: &Parse<'_>,
        plan: &Result<Plan, Refusal>,
    ) -> Result<Option<Supplied>, Refusal> {
        Supplied::of(parse.name, &parse.types, plan)
    }
}

/// A number, or a name, of a parameter as text.
pub(super) fn text_of(value: &[u8], binary: bool) -> Result<String, Failure> {
    if binary {
        let number = match value.len() {
            2 => value
                .try_into()
                .ok()
                .map(|two| i64::from(i16::from_be_bytes(two))),
            4 => value
                .try_into()
                .ok()
                .map(|four| i64::from(i32::from_be_bytes(four))),
            _ => value.try_into().ok().map(i64::from_be_bytes),
        };
        let number = number.map(|number| number.to_string());
        return number
            .ok_or_else(|| Refusal::new("22P03", "incorrect binary data format in bind parameter").into());
    }
    match std::str::from_utf8(value) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Refusal::new("22021", "invalid byte sequence for encoding \"UTF8\"").into()),
    }
}

fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(value) => {
            out.put_u32(u32::try_from(value.len()).unwrap_or(0));
            out.put_slice(value);
        }
        None => out.put_i32(-1),
    }
}

impl Query {
    /// The same for this text, whose rows of VALUES stand elsewhere.
    fn with_rows_of(mut self, text: &str) -> Query {
        self.find_rows(text);
        self
    }
}

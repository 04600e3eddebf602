//! An INSERT of VALUES whose shard keys are expressions (`analysis/compute.rs`): a backend computes them when the statement is bound, and
//! what runs is a statement that has their values.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use super::Session;
use super::captured::{Captured, Kept};
use super::conn::{Audience, Columns, Kind, Stake};
use super::enter::Style;
use super::gather::not_the_same;
use super::holes::draws_of;
use super::moves::{close, parse};
use super::parts::end_batch;
use super::plans::Planned;
use super::statements::Statement;
use crate::analysis::{Access, Computed, Form, Plan, Refusal, parameters};
use crate::failure::{Failure, Halt};
use crate::protocol::frame::HEADER;
use crate::protocol::frontend::Bind;
use crate::protocol::{Body, encode};

/// The name of the statement and portal.
const NAME: &[u8] = b"_howdah_compute";

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId): such types have another one in each group.
const FIRST_OF_USERS: u32 = 16_384;

/// `text` (pg_type.dat).
const TEXT: u32 = 25;

/// As many parameters as the protocol counts.
const MOST_PARAMETERS: usize = 65_535;

/// A statement in the place of the client's own, its plan, and its Bind message.
pub(super) type Instead = (Arc<Statement>, Arc<Planned>, Bytes);

/// Types, and values of which each is binary or text.
type Parameters<'a> = (Vec<u32>, Vec<(bool, Option<&'a [u8]>)>);

impl Session {
    /// Computes the keys of a Query's statement. Gives it with their values, and the plan of that.
    pub(super) async fn compute_query(
        &mut self,
        text: &str,
        computed: &Computed,
    ) -> Result<(String, Arc<Planned>), Halt> {
        // What is wrong with the whole comes first.
        self.parse_only(text.as_bytes()).await?;
        let none = (Vec::new(), Vec::new());
        let values = self.compute(text, computed, &none, Style::Simple).await?;
        let made = computed.with_constants(text, &values);
        let planned = self.plan(&made).await?;
        is_computed(&planned)?;
        Ok((made, planned))
    }

    /// The same for a Bind of a client's statement, which goes on with what is given; none where there is nothing to be computed.
    pub(super) async fn compute_bound(
        &mut self,
        message: &[u8],
        statement: &Arc<Statement>,
        planned: &Planned,
    ) -> Result<Option<Instead>, Halt> {
        let plan = planned.only()?;
        let computed = match plan {
            Ok(Plan::Query(query)) => match &query.form {
                Form::Computes(computed) if self.slots.len() > 1 => computed,
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let text = draws_of(plan).map_or(&statement.text, |draws| &draws.text);
        self.release_held().await?;
        let bind = Bind::read(Self::body(message))?;
        let given: Vec<_> = bind.each().collect();
        let types = self.parameter_types(statement, planned, given.len()).await?;
        let first = parameters(text).max(given.len()) + 1;
        if first + computed.count() > MOST_PARAMETERS {
            return Err(Refusal::new(
                "54000",
                "the statement has too many rows whose shard keys are expressions",
            )
            .hint("Insert fewer rows at a time.")
            .into());
        }
        let asked = using(&computed.question(text), &types, &given);
        let values = self.compute(text, computed, &asked, Style::Extended).await;
        // As `bind_param_error_callback` in postgres.c has it.
        let portal = match bind.portal {
            b"" => "unnamed portal".to_owned(),
            name => format!("portal \"{}\"", String::from_utf8_lossy(name)),
        };
        let ours = format!("portal \"{}\"", String::from_utf8_lossy(NAME));
        let values = values.map_err(|halt| halt.with_context(|context| context.replace(&ours, &portal)))?;
        let made = computed.with_parameters(text, first);
        let (mut types, given) = using(&made, &types, &given);
        types.resize(first - 1, TEXT);
        types.extend(std::iter::repeat_n(computed.type_oid(), computed.count()));
        let mut all = given;
        all.resize(first - 1, (false, None));
        all.extend(
            values
                .iter()
                .map(|value| (false, value.as_ref().map(String::as_bytes))),
        );
        let planned = self.plan(&made).await?;
        is_computed(&planned)?;
        let mut parse = BytesMut::new();
        encode::parse(&mut parse, b"", made.as_bytes(), &types);
        let mut message = BytesMut::new();
        encode::bind(
            &mut message,
            (bind.portal, b""),
            all.iter().copied(),
            bind.results,
        );
        let statement = Statement {
            number: self.guest.number(),
            own: self.guest.number(),
            name: Vec::new(),
            message: parse.freeze(),
            text: made,
            types,
            holes: 0,
            tables: planned.tables(),
            columns: Columns::default(),
            late: Mutex::default(),
            inferred: OnceLock::new(),
        };
        Ok(Some((Arc::new(statement), planned, message.freeze())))
    }

    /// Has a backend compute the keys.
    async fn compute(
        &mut self,
        text: &str,
        computed: &Computed,
        (types, values): &Parameters<'_>,
        style: Style,
    ) -> Result<Vec<Option<String>>, Halt> {
        let place = self.any_place().await?;
        self.enter(place, Access::Read, style).await?;
        self.settle().await?;
        let (group, number) = (self.group(place), self.guest.number());
        if let Some(conn) = &mut self.slots[place] {
            conn.captured = Captured {
                kept: Some(Kept::new(self.shared.limits.max_message)),
                ..Captured::default()
            };
            parse(conn, NAME, &computed.question(text), types, number);
            let mut texts = BytesMut::new();
            texts.put_u16(0);
            encode::bind(&mut conn.output, (NAME, NAME), values.iter().copied(), &texts);
            conn.owes(Kind::Bind, Audience::Session, Stake::Nothing);
            encode::execute(&mut conn.output, NAME, 0);
            conn.owes(Kind::Execute, Audience::MergeNext, Stake::Nothing);
            encode::close_portal(&mut conn.output, NAME);
            conn.owes(Kind::Close, Audience::Session, Stake::Nothing);
            close(conn, NAME);
            end_batch(conn, style);
        }
        self.drain(place).await?;
        let kept = self.take_captured(place, group, Stake::Nothing)?.kept;
        let rows = kept.map(|kept| kept.rows).unwrap_or_default();
        let mut row = Body::new(rows.first().and_then(|row| row.get(HEADER..)).unwrap_or_default());
        let (_columns, len) = (row.i16()?, row.i32()?);
        let answer = row.bytes(usize::try_from(len).unwrap_or_default())?;
        computed
            .read(answer)
            .ok_or_else(|| Failure::Catalogue("PostgreSQL did not compute the shard keys".to_owned()).into())
    }
}

/// What a text that has some of a statement's parameters gets of them. Types of users are inferred in each
/// group; what is not used is NULL.
fn using<'v>(text: &str, types: &[u32], values: &[(bool, Option<&'v [u8]>)]) -> Parameters<'v> {
    let used = crate::analysis::used_parameters(text);
    let mut known = (Vec::new(), Vec::new());
    for (index, value) in values.iter().enumerate() {
        let is_used = used.contains(&(index + 1));
        known.0.push(match types.get(index).copied().unwrap_or(0) {
            _ if !is_used => TEXT,
            FIRST_OF_USERS.. => 0,
            oid => oid,
        });
        known.1.push(if is_used { *value } else { (false, None) });
    }
    known
}

/// What was made of constants alone is not computed again.
fn is_computed(planned: &Planned) -> Result<(), Failure> {
    match planned.only()? {
        Ok(Plan::Query(query)) if !matches!(query.form, Form::Computes(_)) => Ok(()),
        Ok(Plan::Judge(refusal)) | Err(refusal) => Err(refusal.clone().into()),
        _ => Err(not_the_same(None).into()),
    }
}

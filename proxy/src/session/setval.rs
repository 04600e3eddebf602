//! `setval()`: a definition on all groups, which takes effect on the home group.

use coordinator::catalogue::bootstrap::sequence_set_sql;
use postgres_protocol::escape::escape_literal;

use super::Session;
use super::commands::Rows;
use super::conn::{Audience, Stake};
use super::enter::Style;
use super::holes::text_of;
use super::home::HOME;
use super::sequences::find;
use crate::analysis::lexer::quoted;
use crate::analysis::{self, Access, Given, Refusal, RelationName, SequenceName, SetSequence};
use crate::failure::Halt;
use crate::protocol::encode::{self, INT8};
use crate::protocol::frontend::Bind;

impl Session {
    /// `SELECT setval(...)`: on the home group, and all groups note it in the same transaction, so that no node uses values
    /// that it has drawn before.
    pub(super) async fn set_sequence(
        &mut self,
        set: &SetSequence,
        text: &str,
        rows: Rows,
    ) -> Result<(), Halt> {
        let (SequenceName::Known(name), Given::Constant(Some(value)), Given::Constant(Some(called))) =
            (&set.sequence, &set.value, &set.is_called)
        else {
            // PostgreSQL says it with the place in the text.
            let refusal = Refusal::new("42P02", "there is no such parameter");
            return self.judge(text.as_bytes(), &refusal).await;
        };
        if value.trim().parse::<i64>().is_err() {
            let words = format!("invalid input syntax for type bigint: \"{value}\"");
            return self.judge(text.as_bytes(), &Refusal::new("22P02", words)).await;
        }
        let place = self.tables().await?.0;
        self.all_prepared().await?;
        let own = self.open_definition(rows).await?;
        let set_to = self.set_everywhere(name, value, called).await;
        let set_to = self.close_transaction(own, set_to).await?;
        let (_, catalogue) = self.tables().await?;
        if let (Ok(relation), Some((value, true))) = (find(&catalogue, name), set_to) {
            self.remember(place, relation, value);
        }
        if rows == Rows::Described {
            encode::columns(self.out(), &[(set.column.as_str(), INT8)], 0);
        }
        let value = set_to.map(|(value, _)| match set.binary {
            true => value.to_be_bytes().to_vec(),
            false => value.to_string().into_bytes(),
        });
        encode::row(self.out(), &[value.as_deref()]);
        encode::command_complete(self.out(), "SELECT 1");
        Ok(())
    }

    /// Gives what `setval()` has given, and whether the next value comes after it; none where it has given NULL.
    async fn set_everywhere(
        &mut self,
        name: &RelationName,
        value: &str,
        called: &str,
    ) -> Result<Option<(i64, bool)>, Halt> {
        self.begin_definition().await?;
        let full = format!("{}.{}", quoted(&name.schema), quoted(&name.name));
        let set = format!(
            "SELECT pg_catalog.concat_ws(' ', pg_catalog.setval({}, {}::bigint, {called}::boolean), {called}::boolean)",
            escape_literal(&full),
            escape_literal(value),
            called = escape_literal(called),
        );
        let note = sequence_set_sql(&name.schema, &name.name);
        let mut said = None;
        for place in 0..self.slots.len() {
            self.enter(place, Access::Write, Style::Simple).await?;
            self.settle().await?;
            if place == HOME {
                said = self
                    .exec(place, &set, Audience::Session, Stake::Nothing)
                    .await?
                    .value;
            }
            self.exec(place, &note, Audience::Quiet, Stake::Nothing).await?;
        }
        let said = said.map(|said| String::from_utf8_lossy(&said).into_owned());
        let said = said.as_deref().and_then(|said| said.split_once(' '));
        Ok(said.and_then(|(value, called)| Some((value.parse().ok()?, called == "t"))))
    }

    /// Puts the values of parameters into `setval()`.
    pub(super) async fn bind_set(&mut self, set: &SetSequence, bind: &Bind<'_>) -> Result<SetSequence, Halt> {
        let types = set.parameter_types();
        let mut values = Vec::with_capacity(types.len());
        for ((binary, value), of) in bind.each().zip(types) {
            let value = match value {
                None => return Err(Refusal::unsupported("setval() of NULL is not supported").into()),
                Some([truth]) if binary && of == analysis::BOOLEAN => (*truth != 0).to_string(),
                Some(value) => text_of(value, binary)?,
            };
            values.push(Some(value));
        }
        let mut bound = set.clone();
        if let SequenceName::Parameter(number, _) = &set.sequence {
            let (_, catalogue) = self.tables().await?;
            let text = number
                .checked_sub(1)
                .and_then(|at| values.get(at).cloned().flatten());
            let name = self.sequence_of(&text.unwrap_or_default(), &catalogue).await?;
            bound.sequence = SequenceName::Known(name);
        }
        bound.value.bind(&values);
        bound.is_called.bind(&values);
        bound.binary = bind.result_format == 1;
        Ok(bound)
    }
}

//! SELECT of `set_config()` and `current_setting()`: as SET and SHOW, in one row.

use std::sync::Arc;

use postgres_protocol::escape::escape_literal;

use super::Session;
use super::bind::check_given;
use super::commands::Rows;
use super::enter::Style;
use super::plans::Planned;
use super::statements::{Portal, Statement};
use crate::analysis::{
    self, BOOLEAN, Given, Plan, Refusal, SessionCommand, SettingCall, SettingColumn, Timeout, parameter_types,
};
use crate::failure::{Failure, Halt};
use crate::protocol::encode::{self, TEXT};
use crate::protocol::frontend::Bind;

/// One of the calls, its arguments being known.
enum Call<'a> {
    Current {
        name: &'a str,
        missing_ok: bool,
    },
    Set {
        name: &'a str,
        value: Option<&'a str>,
        local: bool,
        if_there: bool,
    },
}

/// The parameters' types of a statement that Howdah answers itself.
pub(super) fn own_parameters(plan: &Result<Plan, Refusal>) -> Vec<u32> {
    match plan {
        Ok(Plan::Session(SessionCommand::Configure(columns))) => parameter_types(columns),
        Ok(Plan::SetSequence(set)) => set.parameter_types(),
        _ => Vec::new(),
    }
}

/// Refuses declared types that these functions do not take, in PostgreSQL's way.
pub(super) fn check_declared(plan: &Result<Plan, Refusal>, declared: &[u32]) -> Result<(), Failure> {
    /// `unknown` and `varchar` become `text` by themselves.
    const ALSO_TEXT: [u32; 2] = [705, 1043];
    if matches!(plan, Ok(Plan::SetSequence(_))) {
        // Its arguments are cast where they are called.
        return Ok(());
    }
    for (at, (wanted, declared)) in own_parameters(plan).into_iter().zip(declared).enumerate() {
        let fits =
            wanted == *declared || *declared == 0 || wanted == analysis::TEXT && ALSO_TEXT.contains(declared);
        if !fits {
            let words = format!(
                "set_config() does not take parameter ${} of the declared type",
                at + 1
            );
            return Err(Refusal::new("42883", words).into());
        }
    }
    Ok(())
}

impl Session {
    /// Binds a statement that Howdah answers itself.
    pub(super) async fn bind_own(
        &mut self,
        bind: &Bind<'_>,
        statement: Arc<Statement>,
        planned: Arc<Planned>,
    ) -> Result<(), Halt> {
        self.settle().await?;
        let types = own_parameters(planned.only()?);
        check_given(bind, types.len())?;
        let mut bound = None;
        if let Ok(Plan::SetSequence(set)) = planned.only()? {
            bound = Some(Plan::SetSequence(self.bind_set(set, bind).await?));
        }
        if let Ok(Plan::Session(SessionCommand::Configure(columns))) = planned.only()? {
            let values = bind.each().zip(types);
            let values = values.map(|((binary, value), of)| self.argument(value, binary && of == BOOLEAN));
            let values: Vec<Option<String>> = values.collect::<Result<_, _>>()?;
            let mut columns = columns.clone();
            for column in &mut columns {
                column.bind(&values);
                column.check().map_err(Failure::from)?;
            }
            bound = Some(Plan::Session(SessionCommand::Configure(columns)));
        }
        encode::empty(self.out(), b'2');
        let portal = Portal::Own {
            statement,
            planned,
            bound,
            format: bind.result_format,
        };
        self.put_portal(bind.portal, portal);
        Ok(())
    }

    /// A parameter as text, which `text` is in both formats.
    fn argument(&self, value: Option<&[u8]>, truth: bool) -> Result<Option<String>, Failure> {
        let Some(value) = value else { return Ok(None) };
        if truth {
            return match value {
                [truth] => Ok(Some((*truth != 0).to_string())),
                _ => Err(Refusal::new("22P03", "incorrect binary data format in bind parameter").into()),
            };
        }
        self.readable(value).map(|text| Some(text.to_owned()))
    }

    /// Runs the calls from left to right, and answers their row. All of them take effect, or none.
    pub(super) async fn configure(
        &mut self,
        columns: &[SettingColumn],
        text: &str,
        rows: Rows,
    ) -> Result<(), Halt> {
        let calls: Option<Vec<Call<'_>>> = columns.iter().map(call).collect();
        let Some(calls) = calls else {
            // PostgreSQL says it with the place in the text.
            let refusal = Refusal::new("42P02", "there is no such parameter");
            return self.judge(text.as_bytes(), &refusal).await;
        };
        let sets = calls
            .iter()
            .filter(|call| matches!(call, Call::Set { .. }))
            .count();
        let stays = calls
            .iter()
            .any(|call| matches!(call, Call::Set { local: false, .. }));
        let alone = self.pipeline.touched.is_empty();
        let own = match rows {
            // What a pipeline sets is part of its transaction.
            Rows::Alone if sets > 0 && (stays || !alone) => self.open_transaction(Style::Extended).await?,
            Rows::Described if sets > 1 => self.open_transaction(Style::Simple).await?,
            _ => false,
        };
        let answered = self.call_all(&calls).await;
        let values = self.close_transaction(own, answered).await?;
        if rows == Rows::Described {
            let columns: Vec<_> = columns
                .iter()
                .map(|column| (column.name.as_str(), TEXT))
                .collect();
            encode::columns(self.out(), &columns, 0);
        }
        if let Some(values) = &values {
            let values: Vec<_> = values
                .iter()
                .map(|value| value.as_deref().map(str::as_bytes))
                .collect();
            encode::row(self.out(), &values);
        }
        encode::command_complete(self.out(), &format!("SELECT {}", u8::from(values.is_some())));
        Ok(())
    }

    /// The results; none where there is no row to call it for.
    async fn call_all(&mut self, calls: &[Call<'_>]) -> Result<Option<Vec<Option<String>>>, Halt> {
        let mut values = Vec::with_capacity(calls.len());
        for call in calls {
            let value = match *call {
                Call::Current { name, missing_ok } => self.current_setting(name, missing_ok).await?,
                Call::Set {
                    name,
                    value,
                    local,
                    if_there,
                } => {
                    let value = self.set_config(name, value, local, if_there).await?;
                    if value.is_none() && if_there {
                        return Ok(None);
                    }
                    value
                }
            };
            values.push(value);
        }
        Ok(Some(values))
    }

    async fn current_setting(&mut self, name: &str, missing_ok: bool) -> Result<Option<String>, Halt> {
        if let Some(timeout) = Timeout::named(name) {
            return Ok(Some(self.shown_timeout(timeout)));
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        let sql = format!(
            "SELECT pg_catalog.current_setting({}, {missing_ok})",
            escape_literal(name)
        );
        let value = self.ask(place, &sql, None).await?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// What the setting is then; none where it is set if it is there, and is not.
    async fn set_config(
        &mut self,
        name: &str,
        value: Option<&str>,
        local: bool,
        if_there: bool,
    ) -> Result<Option<String>, Halt> {
        if let Some(timeout) = Timeout::named(name) {
            let value: Vec<String> = value.into_iter().map(str::to_owned).collect();
            let value = timeout.read(&value)?;
            // Unlike SET LOCAL it says nothing where it has no effect.
            if !local || self.transaction.is_some() {
                self.set_timeout(timeout, value, local);
            }
            let start = || self.shown_timeout(timeout);
            return Ok(Some(value.map_or_else(start, analysis::shown_timeout)));
        }
        let value = value.map_or_else(|| "NULL".to_owned(), escape_literal);
        let mut sql = format!(
            "SELECT pg_catalog.set_config({}, {value}, {local})",
            escape_literal(name)
        );
        if if_there {
            sql.push_str(&format!(
                " FROM pg_catalog.pg_settings WHERE name = {}",
                escape_literal(name)
            ));
        }
        let name = name.to_ascii_lowercase();
        let value = self.set(Some(&name), &sql, local).await?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }
}

/// A call with its arguments, where they are known.
fn call(column: &SettingColumn) -> Option<Call<'_>> {
    match &column.call {
        SettingCall::Current { name, missing_ok } => Some(Call::Current {
            name,
            missing_ok: *missing_ok,
        }),
        SettingCall::Set {
            name: Given::Constant(name),
            value: Given::Constant(value),
            local,
            if_there,
        } => Some(Call::Set {
            name: name.as_deref()?,
            value: value.as_deref(),
            local: local.truth()?,
            if_there: *if_there,
        }),
        SettingCall::Set { .. } => None,
    }
}

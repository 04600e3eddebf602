//! SELECT of nothing but `set_config()` and `current_setting()`: what sets the session's own state, or reads what Howdah keeps of it.

use super::Refusal;
use super::lexer::{Kind, Token};
use super::plan::{Given, Plan, SessionCommand, SettingCall, SettingColumn};
use super::relations::{Named, Names};
use super::settings;
use super::timeouts::Timeout;
use super::words::{Words, split_commas};

/// Plans it; none where it is something else, or no more than any backend can answer.
///
/// Drivers send it (asyncpg turns off `jit` for its own questions), row security lives on it (`set_config('app.tenant', $1,
/// true)`), and so does pg_dump, which leaves alone what its server does not have: `set_config(name, ...) FROM pg_settings
/// WHERE name = 'name'`.
pub(super) fn plan(tokens: &[Token], names: Names<'_>) -> Option<Result<Plan, Refusal>> {
    let mut words = Words::new(tokens);
    if !words.take(&["select"]) {
        return None;
    }
    let mut columns = Vec::new();
    let mut by_row = None;
    loop {
        let column = column(&mut words, &mut by_row)?;
        columns.push(column);
        if !words.take_mark(',') {
            break;
        }
    }
    if by_row.is_some() {
        let there = setting_there(&mut words, names)?;
        let [
            SettingColumn {
                call: SettingCall::Set { name, .. },
                ..
            },
        ] = &mut columns[..]
        else {
            return None;
        };
        *name = Given::Constant(Some(there.clone()));
    }
    let ours = columns.iter().any(|column| match &column.call {
        SettingCall::Set { .. } => true,
        SettingCall::Current { name, .. } => Timeout::named(name).is_some(),
    });
    if !words.is_empty() || !ours {
        return None;
    }
    let checked = columns.iter().try_for_each(|column| column.check());
    Some(checked.map(|()| Plan::Session(SessionCommand::Configure(columns))))
}

/// `function(arguments) [[AS] name]`. `by_row` is set where the setting's name is a column's, `name`.
fn column(words: &mut Words<'_>, by_row: &mut Option<()>) -> Option<SettingColumn> {
    let called = words.dotted_name()?;
    let called: Vec<&str> = called.iter().map(String::as_str).collect();
    let function = match called.as_slice() {
        [function] | ["pg_catalog", function] => *function,
        _ => return None,
    };
    let arguments = split_commas(words.parenthesised()?);
    let (call, named) = match (function, &arguments[..]) {
        ("current_setting", [name, missing @ ..]) => {
            let Given::Constant(Some(name)) = given(name)? else {
                return None;
            };
            let missing_ok = match missing {
                [] => false,
                [missing] => given(missing)?.truth()?,
                _ => return None,
            };
            (SettingCall::Current { name, missing_ok }, "current_setting")
        }
        ("set_config", [name, value, local]) => {
            let of_row = matches!(name, [Token { kind: Kind::Word(word), .. }] if word == "name");
            let name = if of_row {
                *by_row = Some(());
                Given::Constant(None)
            } else {
                given(name)?
            };
            let (value, local) = (given(value)?, given(local)?);
            if matches!(local, Given::Constant(_)) {
                local.truth()?;
            }
            (
                SettingCall::Set {
                    name,
                    value,
                    local,
                    if_there: of_row,
                },
                "set_config",
            )
        }
        _ => return None,
    };
    let alias = if words.take(&["as"]) {
        Some(words.name()?)
    } else if words.sees(&["from"]) {
        None
    } else {
        words.name()
    };
    Some(SettingColumn {
        name: alias.unwrap_or_else(|| named.to_owned()),
        call,
    })
}

/// A constant or a parameter, which may be cast to the type that it has anyway.
fn given(tokens: &[Token]) -> Option<Given> {
    let mut words = Words::new(tokens);
    let given = match words.next()? {
        Kind::Text(text) => Given::Constant(Some(text.clone())),
        Kind::Word(word) if word == "null" => Given::Constant(None),
        Kind::Word(word) if word == "true" || word == "false" => Given::Constant(Some(word.clone())),
        Kind::Parameter(number) => Given::Parameter(*number),
        _ => return None,
    };
    let cast = words.take_operator("::");
    if cast {
        words.take_any(&["text", "varchar", "boolean", "bool"])?;
    }
    words.is_empty().then_some(given)
}

/// `FROM pg_settings WHERE name = 'name'`.
fn setting_there<'a>(words: &mut Words<'a>, names: Names<'_>) -> Option<&'a String> {
    if !words.take(&["from"]) {
        return None;
    }
    let table = words.dotted_name()?;
    let theirs = table.last().is_some_and(|name| name == "pg_settings");
    if !theirs || !matches!(names.find(&table), Ok(Named::System)) {
        return None;
    }
    if !words.take(&["where", "name"]) || !words.take_operator("=") {
        return None;
    }
    match words.next() {
        Some(Kind::Text(name)) => Some(name),
        _ => None,
    }
}

/// A type that a parameter of these functions has, by its OID: `text` or `boolean`.
pub const TEXT: u32 = 25;
/// See there.
pub const BOOLEAN: u32 = 16;

impl Given {
    /// The truth of a constant, as PostgreSQL reads it (`parse_bool`, the forms that people write); `NULL` is false here, as
    /// `set_config()` takes it.
    #[must_use]
    pub fn truth(&self) -> Option<bool> {
        match self {
            Given::Constant(None) => Some(false),
            Given::Constant(Some(text)) => match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "y" | "1" => Some(true),
                "f" | "false" | "off" | "no" | "n" | "0" => Some(false),
                _ => None,
            },
            Given::Parameter(_) => None,
        }
    }

    /// Puts a value in the place of a parameter.
    pub fn bind(&mut self, values: &[Option<String>]) {
        if let Given::Parameter(number) = self
            && let Some(value) = number.checked_sub(1).and_then(|at| values.get(at))
        {
            *self = Given::Constant(value.clone());
        }
    }
}

impl SettingColumn {
    /// Whether the setting may be given this value, as far as both are known.
    ///
    /// # Errors
    /// See [`settings::check`]; and for arguments that PostgreSQL would not take.
    pub fn check(&self) -> Result<(), Refusal> {
        let SettingCall::Set {
            name, value, local, ..
        } = &self.call
        else {
            return Ok(());
        };
        if let (Given::Constant(Some(text)), None) = (local, local.truth()) {
            let words = format!("invalid input syntax for type boolean: \"{text}\"");
            return Err(Refusal::new("22P02", words));
        }
        match (name, value) {
            (Given::Constant(None), _) => Err(Refusal::new("22004", "SET requires parameter name")),
            (Given::Constant(Some(name)), Given::Constant(value)) => {
                let value: Vec<String> = value.iter().cloned().collect();
                settings::check(&name.to_ascii_lowercase(), &value)
            }
            _ => Ok(()),
        }
    }

    /// Puts values in the place of parameters.
    pub fn bind(&mut self, values: &[Option<String>]) {
        if let SettingCall::Set {
            name, value, local, ..
        } = &mut self.call
        {
            for given in [name, value, local] {
                given.bind(values);
            }
        }
    }
}

/// The types of the parameters, by their OIDs, in the order of their numbers; 0 for one that is not there.
#[must_use]
pub fn parameter_types(columns: &[SettingColumn]) -> Vec<u32> {
    let mut types = Vec::new();
    for column in columns {
        let SettingCall::Set {
            name, value, local, ..
        } = &column.call
        else {
            continue;
        };
        for (given, of) in [(name, TEXT), (value, TEXT), (local, BOOLEAN)] {
            if let Given::Parameter(number) = given {
                types.resize(types.len().max(*number), 0);
                if let Some(place) = number.checked_sub(1).and_then(|at| types.get_mut(at)) {
                    *place = of;
                }
            }
        }
    }
    types
}

//! From a plan's keys to groups, once the parameters are known.

use std::collections::BTreeMap;

use coordinator::hash::{HashSlot, KeyError, KeySource, KeyType, KeyUse};
use coordinator::slots::SlotMap;

use super::plan::{
    Answers, Format, HomeUse, Key, KeyValue, Parameter, Query, Question, Route, Spread, Target,
};
use super::refusal::Refusal;

/// What one key says about where its rows are.
enum Place {
    /// No row can match.
    Nowhere,
    /// In this slot.
    Slot(HashSlot),
    /// PostgreSQL must say.
    Ask(Question),
    /// In any slot.
    Anywhere,
}

impl Query {
    /// Finds the groups that this statement must run on.
    ///
    /// `answers` has the slots that an earlier [`Route::Ask`] asked for; empty at first.
    ///
    /// # Errors
    /// When several groups would be needed and the statement cannot run on several.
    pub fn route(
        &self,
        parameters: &[Parameter<'_>],
        slots: &SlotMap,
        answers: &Answers,
    ) -> Result<Route, Refusal> {
        let (keys, spread) = match &self.target {
            Target::Any => return Ok(Route::Any),
            Target::Home(used) => return Ok(Route::Home(*used)),
            Target::All => return Ok(Route::All),
            Target::Copies(_) => return Ok(Route::Copies),
            Target::Keys(keys, spread) => (keys, spread),
        };
        let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        let mut questions = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            match place(key, number, parameters, answers)? {
                Place::Nowhere => {}
                Place::Slot(slot) => {
                    groups.entry(slots.group(slot)).or_default().push(number);
                }
                Place::Ask(question) => questions.push(question),
                Place::Anywhere => {
                    return match spread {
                        Spread::Concatenate => Ok(Route::All),
                        Spread::Rows(_) | Spread::Refuse(_) | Spread::Home(_) => Err(unroutable(key)),
                    };
                }
            }
        }
        if !questions.is_empty() {
            return Ok(Route::Ask(questions));
        }
        let rows: Vec<_> = groups.into_iter().collect();
        let groups: Vec<_> = rows.iter().map(|(group, _)| *group).collect();
        match (groups.as_slice(), spread) {
            ([], Spread::Home(_)) => Ok(Route::Home(HomeUse::Temporary)),
            ([group], Spread::Home(refusal)) => Ok(Route::AtHome(*group, refusal.clone())),
            // Every comparison is with NULL: no row anywhere, which any group can say.
            ([], _) => Ok(Route::Any),
            ([group], _) => Ok(Route::One(*group)),
            (_, Spread::Concatenate) => Ok(Route::Several(groups)),
            (_, Spread::Rows(_)) => Ok(Route::Rows(rows)),
            (_, Spread::Refuse(refusal) | Spread::Home(refusal)) => Err(refusal.clone()),
        }
    }
}

fn place(
    key: &Key,
    number: usize,
    parameters: &[Parameter<'_>],
    answers: &Answers,
) -> Result<Place, Refusal> {
    if let Some(slot) = answers.get(&number) {
        return Ok(Place::Slot(*slot));
    }
    let mut parameter = None;
    let source = match &key.value {
        KeyValue::Null => KeySource::Null,
        KeyValue::Slot(slot) => return Ok(Place::Slot(*slot)),
        KeyValue::Number(text) => KeySource::Number(text),
        KeyValue::Bool(value) => KeySource::Bool(*value),
        KeyValue::Text { type_oid, text } => KeySource::Text {
            type_oid: *type_oid,
            text: text.as_bytes(),
        },
        KeyValue::Parameter {
            index,
            type_oid,
            type_open,
        } => {
            parameter = Some(*index);
            let given = parameters.get(*index).ok_or_else(|| {
                Refusal::new("08P01", format!("the statement needs parameter ${}", index + 1))
            })?;
            let declared = given.type_oid.unwrap_or(0);
            if declared == 0 && *type_open {
                return Ok(Place::Anywhere);
            }
            let type_oid = if declared == 0 { *type_oid } else { declared };
            match (given.value, given.format) {
                (None, _) => KeySource::Null,
                (Some(text), Format::Text) => KeySource::Text { type_oid, text },
                (Some(bytes), Format::Binary) => KeySource::Binary { type_oid, bytes },
            }
        }
    };
    if source == KeySource::Null && key.used == KeyUse::Comparison {
        return Ok(Place::Nowhere);
    }
    Ok(match key.column.slot(key.used, source) {
        Ok(slot) => Place::Slot(slot),
        Err(KeyError::Unroutable) => Place::Anywhere,
        Err(KeyError::AskPostgres) => {
            let sql = match (&key.value, parameter) {
                (_, Some(_)) => key.column.slot_query(key.used),
                (value, None) => key.column.slot_query_of(key.used, &constant(value)),
            };
            Place::Ask(Question {
                key: number,
                sql,
                parameter,
            })
        }
    })
}

/// A constant as SQL, for PostgreSQL to read.
fn constant(value: &KeyValue) -> String {
    match value {
        KeyValue::Number(number) => number.clone(),
        KeyValue::Bool(value) => value.to_string(),
        KeyValue::Text { text, type_oid } => {
            let escaped = text.replace('\\', "\\\\").replace('\'', "''");
            match KeyType::from_oid(*type_oid) {
                Some(named) => format!("CAST(E'{escaped}' AS {})", named.sql_name()),
                None => format!("E'{escaped}'"),
            }
        }
        KeyValue::Null | KeyValue::Slot(_) | KeyValue::Parameter { .. } => "NULL".to_owned(),
    }
}

fn unroutable(key: &Key) -> Refusal {
    let type_name = key.column.key_type.sql_name();
    Refusal::unsupported("the shard key's value is of another type than the shard key")
        .detail(format!(
            "The key is of type {type_name}; equal values of another type hash differently, so the group is \
             not known."
        ))
        .hint(format!(
            "Cast the value, and a parameter wherever it stands: CAST(... AS {type_name})."
        ))
}

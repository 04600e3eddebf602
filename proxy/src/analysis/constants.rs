//! Which expressions are constants that can be a shard key.

use coordinator::hash::{KeyColumn, KeyType, KeyUse};
use sqlparser::ast::{CastKind, DataType, ExactNumberInfo, Expr, TimezoneInfo, UnaryOperator, Value};

use super::plan::{Key, KeyValue};

/// The key that an expression gives, if it is a constant or a parameter, possibly cast.
pub(super) fn key(expr: &Expr, column: KeyColumn, used: KeyUse) -> Option<Key> {
    Some(Key {
        column,
        used,
        value: constant(expr)?,
    })
}

fn constant(expr: &Expr) -> Option<KeyValue> {
    match expr {
        Expr::Nested(inner) => constant(inner),
        Expr::Value(value) => plain(&value.value),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match &**expr {
            Expr::Value(value) => match &value.value {
                Value::Number(number, _) => Some(KeyValue::Number(format!("-{number}"))),
                _ => None,
            },
            _ => None,
        },
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            format: None,
        } => cast(constant(expr)?, type_oid(data_type)?),
        Expr::TypedString(typed) => cast(plain(&typed.value.value)?, type_oid(&typed.data_type)?),
        _ => None,
    }
}

fn plain(value: &Value) -> Option<KeyValue> {
    match value {
        Value::Number(number, _) => Some(KeyValue::Number(number.clone())),
        Value::SingleQuotedString(text) => Some(KeyValue::Text {
            type_oid: 0,
            text: text.clone(),
        }),
        Value::Boolean(value) => Some(KeyValue::Bool(*value)),
        Value::Null => Some(KeyValue::Null),
        Value::Placeholder(name) => {
            let number: usize = name.strip_prefix('$')?.parse().ok()?;
            Some(KeyValue::Parameter {
                index: number.checked_sub(1)?,
                type_oid: 0,
                type_open: false,
            })
        }
        _ => None,
    }
}

/// A cast around a constant. A second cast, and casts that could change the value, are left alone.
fn cast(value: KeyValue, type_oid: u32) -> Option<KeyValue> {
    match value {
        KeyValue::Null => Some(KeyValue::Null),
        KeyValue::Text { type_oid: 0, text } => Some(KeyValue::Text { type_oid, text }),
        KeyValue::Parameter {
            index, type_oid: 0, ..
        } => Some(KeyValue::Parameter {
            index,
            type_oid,
            type_open: false,
        }),
        KeyValue::Number(text) if is_whole_number_type(type_oid) => {
            let digits = text.strip_prefix('-').unwrap_or(&text);
            let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            whole.then_some(KeyValue::Text { type_oid, text })
        }
        _ => None,
    }
}

fn is_whole_number_type(type_oid: u32) -> bool {
    [KeyType::Int2, KeyType::Int4, KeyType::Int8, KeyType::Numeric]
        .iter()
        .any(|key| key.oid() == type_oid)
}

/// The OID of a type that can be a shard key, without a length or precision; none for any other.
pub(super) fn type_oid(data_type: &DataType) -> Option<u32> {
    let key_type = match data_type {
        DataType::SmallInt(None) | DataType::Int2(None) => KeyType::Int2,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => KeyType::Int4,
        DataType::BigInt(None) | DataType::Int8(None) => KeyType::Int8,
        DataType::Text => KeyType::Text,
        DataType::Varchar(None) | DataType::CharacterVarying(None) => KeyType::Varchar,
        DataType::Uuid => KeyType::Uuid,
        DataType::Bool | DataType::Boolean => KeyType::Bool,
        DataType::Date => KeyType::Date,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => KeyType::Timestamp,
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => KeyType::Timestamptz,
        DataType::Numeric(ExactNumberInfo::None) | DataType::Decimal(ExactNumberInfo::None) => {
            KeyType::Numeric
        }
        DataType::Bytea => KeyType::Bytea,
        _ => return None,
    };
    Some(key_type.oid())
}

/// The keys of an IN list, whose items PostgreSQL brings to one common type before it compares.
///
/// An open parameter takes that type: the key's own only if nothing else in the list asks for another.
pub(super) fn with_common_type(mut keys: Vec<Key>) -> Vec<Key> {
    let plain = |key: &Key| match &key.value {
        KeyValue::Null | KeyValue::Slot(_) | KeyValue::Bool(_) | KeyValue::Text { type_oid: 0, .. } => true,
        KeyValue::Number(number) => number.parse::<i32>().is_ok(),
        KeyValue::Parameter { type_oid: 0, .. } => true,
        KeyValue::Text { .. } | KeyValue::Parameter { .. } => false,
    };
    if !keys.iter().all(plain) {
        for key in &mut keys {
            if let KeyValue::Parameter {
                type_oid: 0,
                type_open,
                ..
            } = &mut key.value
            {
                *type_open = true;
            }
        }
    }
    keys
}

//! What is checked of every expression of a statement, wherever it stands.

use std::collections::HashMap;
use std::ops::ControlFlow;

use coordinator::catalogue::Catalogue;
use sqlparser::ast::{
    DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query,
    TableFactor, Value, ValueWithSpan, Visit, Visitor,
};

use super::Refusal;
use super::constants;
use super::functions::{self, FunctionKind, Volatility};
use super::plan::{HomeUse, Key, KeyValue};
use super::proof::not_understood;
use super::relations::{Names, misread_column, parts};
use super::temporary;

/// What a look at a whole tree finds.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// How many relations and queries the tree names.
    pub(super) relations: usize,
    pub(super) queries: usize,
    /// How often each parameter stands in the text, by its number minus one.
    pub(super) parameters: HashMap<usize, usize>,
    /// The types (OIDs, 0 for one that is no key's) that each parameter is cast to right where it stands.
    pub(super) casts: HashMap<usize, Vec<u32>>,
    /// The first aggregate or window function.
    pub(super) aggregate: Option<String>,
    /// The first thing whose value differs from group to group.
    pub(super) local: Option<String>,
    /// The first function whose value may differ between two groups that run the statement in the same moment.
    pub(super) unsteady: Option<String>,
    /// The first system column.
    pub(super) system_column: Option<String>,
    /// The first function that tells of what is on its server, as the size of a table.
    pub(super) of_server: Option<String>,
    /// The first function that can give several rows for one.
    pub(super) multiplies: Option<String>,
    /// Calls of the functions of sequences.
    pub(super) sequences: Vec<SequenceCall>,
    /// What its functions have to do with the session's home group, and the name of the first that has.
    pub(super) home: Option<(HomeUse, String)>,
}

/// A call of `nextval()` or the like.
#[derive(Debug)]
pub(super) struct SequenceCall {
    /// The sequence; none where no constant says which. `lastval()` has that of the last call.
    sequence: Option<Vec<String>>,
    /// The words for all sequences but temporary ones.
    pub(super) refusal: Refusal,
}

impl SequenceCall {
    fn of(function: &Function) -> Option<SequenceCall> {
        let parts = parts(&function.name)?;
        let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
        let refusal = match temporary::is_of_sequences(&borrowed) {
            true => functions::find(&borrowed).err()?,
            false => return None,
        };
        let sequence = match &function.args {
            FunctionArguments::List(list) => list
                .args
                .first()
                .and_then(constant)
                .and_then(temporary::sequence_name),
            _ => None,
        };
        Some(SequenceCall { sequence, refusal })
    }

    /// Whether it is certain that the sequence is a temporary one of the session.
    pub(super) fn is_temporary(&self, names: Names<'_>) -> bool {
        let temporary = |parts: &Vec<String>| names.facts.temporaries.has(parts);
        self.sequence.as_ref().is_some_and(temporary)
    }
}

/// A constant in an argument, with a cast or without.
fn constant(argument: &FunctionArg) -> Option<&str> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else {
        return None;
    };
    let value = match expr {
        Expr::Cast { expr, .. } => match &**expr {
            Expr::Value(value) => value,
            _ => return None,
        },
        Expr::Value(value) => value,
        _ => return None,
    };
    match &value.value {
        Value::SingleQuotedString(text) => Some(text),
        _ => None,
    }
}

/// Looks at every node of a tree.
///
/// # Errors
/// When it calls a function that must not be called.
pub(super) fn look<V: Visit>(node: &V, catalogue: &Catalogue) -> Result<Findings, Refusal> {
    let mut look = Look {
        findings: Findings::default(),
        catalogue,
    };
    match node.visit(&mut look) {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) => Ok(look.findings),
    }
}

/// Looks with a catalogue in hand.
struct Look<'c> {
    findings: Findings,
    catalogue: &'c Catalogue,
}

/// Columns that every table has, whose values mean something inside one server only.
const SYSTEM_COLUMNS: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

impl Findings {
    fn function(&mut self, name: &ObjectName, catalogue: &Catalogue) -> ControlFlow<Refusal> {
        let Some(parts) = parts(name) else {
            return ControlFlow::Break(not_understood("a function call"));
        };
        let borrowed: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Some(used) = functions::at_home(&borrowed) {
            let name = parts.last().map(String::as_str).unwrap_or_default();
            let (most, _) = self.home.get_or_insert_with(|| (used, format!("{name}()")));
            *most = used.max(*most);
            return ControlFlow::Continue(());
        }
        match functions::find_any(&borrowed, catalogue) {
            Err(refusal) => ControlFlow::Break(refusal),
            Ok(called) => {
                let function = called.function;
                let name = parts.last().map(String::as_str).unwrap_or_default();
                let shown = format!("{name}()");
                let local = called.is_own && is_local(name, function.volatility);
                // What users call stable may tell the time, which each group has another of.
                let unsteady = match called.is_users {
                    true => function.volatility != Volatility::Immutable,
                    false => function.volatility == Volatility::Volatile,
                };
                if unsteady || called.is_own && is_moment(name) || local {
                    self.unsteady.get_or_insert_with(|| shown.clone());
                }
                if called.is_own && multiplies(name) || called.returns_set {
                    self.multiplies.get_or_insert_with(|| shown.clone());
                }
                if function.kind != FunctionKind::Normal {
                    self.aggregate.get_or_insert(shown);
                } else if local {
                    if is_of_server(name) {
                        self.of_server.get_or_insert(shown.clone());
                    }
                    self.local.get_or_insert(shown);
                }
                ControlFlow::Continue(())
            }
        }
    }

    fn system_column(&mut self, name: &Ident) {
        self.local.get_or_insert(name.value.clone());
        self.system_column.get_or_insert(name.value.clone());
    }

    fn data_type(&mut self, data_type: &DataType) {
        let name = data_type.to_string().to_ascii_lowercase();
        if name.trim_start_matches("pg_catalog.").starts_with("reg") || name == "oid" {
            self.local.get_or_insert(name);
        }
    }
}

/// Whether a function tells of the server that it runs on rather than of its arguments and the row.
pub(super) fn is_local(name: &str, volatility: Volatility) -> bool {
    let prefixes = [
        "pg_",
        "txid_",
        "inet_",
        "has_",
        "to_reg",
        "obj_",
        "col_",
        "shobj_",
        "current_setting",
    ];
    let harmless = ["pg_typeof", "pg_column_size", "pg_sleep", "pg_client_encoding"];
    volatility != Volatility::Immutable
        && prefixes.iter().any(|prefix| name.starts_with(prefix))
        && !harmless.contains(&name)
}

/// Whether it tells when its transaction or statement began, which each group has begun at another moment.
fn is_moment(name: &str) -> bool {
    const MOMENTS: [&str; 10] = [
        "age",
        "current_date",
        "current_time",
        "current_timestamp",
        "localtime",
        "localtimestamp",
        "now",
        "statement_timestamp",
        "transaction_timestamp",
        "current_setting",
    ];
    MOMENTS.contains(&name)
}

/// `pg_proc.proretset`, of those that may be called.
fn multiplies(name: &str) -> bool {
    const SETS: [&str; 24] = [
        "_pg_expandarray",
        "aclexplode",
        "generate_series",
        "generate_subscripts",
        "json_array_elements",
        "json_array_elements_text",
        "json_each",
        "json_each_text",
        "json_object_keys",
        "json_populate_recordset",
        "json_to_recordset",
        "jsonb_array_elements",
        "jsonb_array_elements_text",
        "jsonb_each",
        "jsonb_each_text",
        "jsonb_object_keys",
        "jsonb_path_query",
        "jsonb_path_query_tz",
        "jsonb_populate_recordset",
        "jsonb_to_recordset",
        "regexp_matches",
        "regexp_split_to_table",
        "string_to_table",
        "unnest",
    ];
    SETS.contains(&name) || name.starts_with("ts_") || name.starts_with("pg_") || name.starts_with("txid_")
}

/// Whether it counts or measures what is on its server, of which others have more.
fn is_of_server(name: &str) -> bool {
    let measures = name.ends_with("_size") || name.ends_with("_size_pretty");
    measures && name != "pg_column_size" || name.starts_with("pg_stat_") || name.starts_with("pg_snapshot")
}

impl Visitor for Look<'_> {
    type Break = Refusal;

    fn pre_visit_relation(&mut self, _: &ObjectName) -> ControlFlow<Refusal> {
        self.findings.relations += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Refusal> {
        self.findings.queries += 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Refusal> {
        match factor {
            TableFactor::Table {
                name, args: Some(_), ..
            }
            | TableFactor::Function { name, .. } => self.findings.function(name, self.catalogue),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Refusal> {
        if let Value::Placeholder(name) = &value.value {
            let number = name
                .strip_prefix('$')
                .and_then(|digits| digits.parse::<usize>().ok());
            if let Some(index) = number.and_then(|number| number.checked_sub(1)) {
                *self.findings.parameters.entry(index).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Refusal> {
        match expr {
            Expr::Function(function) => {
                if function.uses_odbc_syntax || function.parameters != FunctionArguments::None {
                    return ControlFlow::Break(not_understood("a function call"));
                }
                if function.over.is_some() {
                    self.findings.aggregate.get_or_insert(function.name.to_string());
                }
                if let Some(call) = SequenceCall::of(function) {
                    self.findings.sequences.push(call);
                    return ControlFlow::Continue(());
                }
                return self.findings.function(&function.name, self.catalogue);
            }
            Expr::Identifier(name) | Expr::Prefixed { prefix: name, .. } => {
                if misread_column(name) && name.value != "default" {
                    return ControlFlow::Break(not_understood("an expression"));
                }
                if SYSTEM_COLUMNS.contains(&name.value.as_str()) {
                    self.findings.system_column(name);
                }
            }
            Expr::CompoundIdentifier(names) => {
                if names.first().is_some_and(misread_column) {
                    return ControlFlow::Break(not_understood("an expression"));
                }
                if let Some(name) = names
                    .last()
                    .filter(|name| SYSTEM_COLUMNS.contains(&name.value.as_str()))
                {
                    self.findings.system_column(name);
                }
            }
            Expr::Cast { data_type, expr, .. } => {
                self.findings.data_type(data_type);
                if let Some(index) = parameter(expr) {
                    self.findings
                        .casts
                        .entry(index)
                        .or_default()
                        .push(constants::type_oid(data_type).unwrap_or(0));
                }
            }
            Expr::TypedString(typed) => self.findings.data_type(&typed.data_type),
            Expr::MatchAgainst { .. }
            | Expr::OuterJoin(_)
            | Expr::Prior(_)
            | Expr::Lambda(_)
            | Expr::MemberOf(_)
            | Expr::Dictionary(_)
            | Expr::Map(_)
            | Expr::Convert { .. }
            | Expr::RLike { .. }
            | Expr::InUnnest { .. }
            | Expr::Struct { .. } => return ControlFlow::Break(not_understood("an expression")),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn parameter(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => parameter_value(&value.value),
        Expr::Nested(inner) => parameter(inner),
        _ => None,
    }
}

/// The number of a parameter minus one.
fn parameter_value(value: &Value) -> Option<usize> {
    let Value::Placeholder(name) = value else {
        return None;
    };
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// Marks the parameters whose type another use in the statement may decide: PostgreSQL infers a parameter's type
/// at its first use (`variable_paramref_hook` in `parse_param.c`), which need not be the shard key's.
pub(super) fn mark_open_parameters(keys: &mut [Key], findings: &Findings) {
    let mut uses: HashMap<usize, Vec<(u32, u32)>> = HashMap::new();
    for key in keys.iter() {
        if let KeyValue::Parameter { index, type_oid, .. } = key.value {
            uses.entry(index)
                .or_default()
                .push((type_oid, key.column.key_type.oid()));
        }
    }
    for key in keys {
        if let KeyValue::Parameter {
            index,
            type_open,
            type_oid,
        } = &mut key.value
        {
            let known = uses.get(index).map(Vec::as_slice).unwrap_or_default();
            let alike = known.windows(2).all(|pair| pair[0] == pair[1]);
            let all = findings.parameters.get(index).copied().unwrap_or(0) <= known.len();
            let uses = findings.parameters.get(index).copied().unwrap_or(0);
            let casts = findings.casts.get(index).map(Vec::as_slice).unwrap_or_default();
            // The same cast at every use decides the type as well.
            let cast = *type_oid != 0 && casts.len() == uses && casts.iter().all(|oid| oid == type_oid);
            *type_open |= !((alike && all) || cast);
            if *type_open {
                *type_oid = 0;
            }
        }
    }
}

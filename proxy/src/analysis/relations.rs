//! What the names of relations in a statement stand for.

use coordinator::catalogue::{Catalogue, Relation, RelationKind, Resolved};
use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use super::{Refusal, Temporaries};

/// What the analysis must know of the session that sends the statement.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The session's `search_path`, `"$user"` replaced, schemas that do not exist left out.
    pub search_path: &'a [&'a str],
    /// The session's temporary relations.
    pub temporaries: &'a Temporaries,
}

/// A relation that a statement names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named<'a> {
    /// A table, wherever its rows are.
    Table(&'a Relation),
    /// A view, and the query that it stands for.
    View(&'a Relation, &'a str),
    /// A temporary relation of the session.
    Temporary,
    /// PostgreSQL's or Howdah's own.
    System,
    /// Neither.
    Unknown,
}

/// Looks names up.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// The text whose tokens are looked at.
    pub(super) text: &'a str,
    pub(super) facts: Facts<'a>,
    pub(super) catalogue: &'a Catalogue,
}

impl<'a> Names<'a> {
    /// Finds the relation with this name.
    ///
    /// # Errors
    /// When it is known and cannot be used in a statement.
    pub(super) fn find(&self, parts: &[String]) -> Result<Named<'a>, Refusal> {
        if self.facts.temporaries.has(parts) {
            return Ok(Named::Temporary);
        }
        let found = match parts {
            [name] => self.catalogue.resolve(self.facts.search_path, None, name),
            [schema, name] => self.catalogue.resolve(self.facts.search_path, Some(schema), name),
            _ => return Ok(Named::Unknown),
        };
        match found {
            Resolved::Unknown => Ok(Named::Unknown),
            Resolved::System => Ok(Named::System),
            Resolved::Relation(relation) if relation.placement.is_some() => Ok(Named::Table(relation)),
            Resolved::Relation(relation) => match &relation.definition {
                Some(definition) => Ok(Named::View(relation, definition)),
                None => Err(unusable(relation)),
            },
        }
    }
}

fn unusable(relation: &Relation) -> Refusal {
    let name = &relation.name;
    match relation.kind {
        RelationKind::View | RelationKind::MaterializedView => Refusal::unsupported(format!(
            "\"{name}\" is a materialized view, and those cannot be read"
        ))
        .detail("Its rows would be those of one group.")
        .hint("Create a view, or a table that you fill."),
        RelationKind::Sequence => Refusal::unsupported(format!("\"{name}\" is a sequence"))
            .detail("What a sequence has is in the first group.")
            .hint(format!(
                "Read it in a SELECT of its own: SELECT last_value, is_called FROM {name}."
            )),
        RelationKind::Table | RelationKind::PartitionedTable | RelationKind::ForeignTable => {
            Refusal::unsupported(format!("table \"{name}\" is not distributed"))
                .detail("No group owns its rows.")
                .hint(format!(
                    "Say where they are: SELECT create_distributed_table('{name}', 'column')."
                ))
        }
    }
}

/// Keywords that PostgreSQL never takes as the name of a table, an alias or a column without quotes
/// (`src/include/parser/kwlist.h`, RESERVED_KEYWORD). Where the tree has one as a name, the parser has read the
/// statement otherwise than PostgreSQL will.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "not",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "union",
    "unique",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Keywords that may name a function or a type only.
const RESERVED_FOR_TABLES: &[&str] = &[
    "authorization",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "freeze",
    "full",
    "ilike",
    "inner",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "similar",
    "tablesample",
    "verbose",
];

/// Whether this word without quotes is never a table's name.
pub(super) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word) || RESERVED_FOR_TABLES.contains(&word)
}

/// Whether the parser took a reserved keyword for a column.
pub(super) fn misread_column(ident: &Ident) -> bool {
    ident.quote_style.is_none() && RESERVED.contains(&ident.value.as_str())
}

/// Whether the parser took a reserved keyword for a table or an alias.
pub(super) fn misread_table(ident: &Ident) -> bool {
    ident.quote_style.is_none() && RESERVED_FOR_TABLES.contains(&ident.value.as_str())
        || misread_column(ident)
}

/// The parts of a name; none if it is not made of identifiers only.
pub(super) fn parts(name: &ObjectName) -> Option<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(ident.value.clone()),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

/// The parts of a relation's name, if PostgreSQL will take it as one.
pub(super) fn relation_parts(name: &ObjectName) -> Option<Vec<String>> {
    match name.0.first()? {
        ObjectNamePart::Identifier(first) if !misread_table(first) => parts(name),
        _ => None,
    }
}

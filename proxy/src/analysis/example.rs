//! A database to analyse statements for: that of the golden files and of the fuzz target.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coordinator::catalogue::{
    AttributeNumber, Catalogue, CatalogueVersion, Column, FilledBy, Oid, Placement, Relation, RelationKind,
    SequenceFacts, ShardKey, Steadiness, UserFunction,
};
use coordinator::hash::{KeyColumn, KeyType};
use coordinator::slots::{MapEpoch, SlotMap};
use shard::id::GroupId;

fn relation(
    schema: &str,
    name: &str,
    kind: RelationKind,
    columns: &[(&str, u32, i32)],
    key: Option<i16>,
) -> Relation {
    let columns: Vec<Column> = columns
        .iter()
        .zip(1..)
        .map(|((name, type_oid, type_modifier), number)| Column {
            number: AttributeNumber(number),
            name: (*name).to_owned(),
            type_oid: *type_oid,
            type_modifier: *type_modifier,
            filled_by: FilledBy::Null,
            not_null: false,
            filled_alike: *name != "stamped",
            key_default: None,
            clock: (*name == "stamped").then(|| "now()".to_owned()),
        })
        .collect();
    let placement = key.map(|number| {
        let column = &columns[usize::try_from(number).expect("columns are counted from 1") - 1];
        let key_type = KeyType::from_oid(column.type_oid).expect("the key is of a type that can be one");
        Placement::Hash(ShardKey {
            number: AttributeNumber(number),
            column: KeyColumn {
                key_type,
                type_modifier: column.type_modifier,
            },
        })
    });
    Relation {
        oid: Oid(16384),
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind,
        columns,
        primary_key: Vec::new(),
        unique: Vec::new(),
        placement,
        definition: None,
        sequence: None,
    }
}

/// A table that is not spread by a key.
fn whole(name: &str, columns: &[(&str, u32, i32)], placement: Placement) -> Relation {
    Relation {
        placement: Some(placement),
        ..relation("public", name, RelationKind::Table, columns, None)
    }
}

const COUNTER: Oid = Oid(16_400);
const IDENT: Oid = Oid(16_401);

fn sequence(name: &str, oid: Oid) -> Relation {
    Relation {
        oid,
        sequence: Some(SequenceFacts {
            generation: 1,
            owner: None,
        }),
        ..relation("public", name, RelationKind::Sequence, &[], None)
    }
}

/// The same where this column, counted from 0, is filled so.
fn filled(mut relation: Relation, column: usize, by: FilledBy) -> Relation {
    relation.columns[column].filled_by = by;
    relation
}

/// Sequences, and tables with columns that they fill.
fn counted() -> Vec<Relation> {
    use RelationKind::Table;
    let (int4, int8, text) = (23, 20, 25);
    vec![
        sequence("counter", COUNTER),
        sequence("ident_id_seq", IDENT),
        filled(
            relation(
                "public",
                "numbered",
                Table,
                &[("id", int8, -1), ("v", text, -1)],
                Some(1),
            ),
            0,
            FilledBy::Sequence(COUNTER),
        ),
        filled(
            filled(
                relation(
                    "public",
                    "ident",
                    Table,
                    &[("id", int8, -1), ("v", text, -1), ("n", int4, -1)],
                    Some(2),
                ),
                0,
                FilledBy::Identity {
                    sequence: IDENT,
                    always: true,
                },
            ),
            2,
            FilledBy::Sequence(COUNTER),
        ),
        filled(
            relation(
                "public",
                "lettered",
                Table,
                &[("id", text, -1), ("v", text, -1)],
                Some(1),
            ),
            0,
            FilledBy::Counting,
        ),
    ]
}

/// Functions of users.
fn functions() -> Vec<UserFunction> {
    let function = |name: &str, kinds: &str, volatility| UserFunction {
        schema: "public".to_owned(),
        name: name.to_owned(),
        kinds: kinds.to_owned(),
        volatility,
        returns_set: name == "several",
        is_trigger: name == "touch",
        is_shared: name == "query_to_xml",
    };
    vec![
        function("twice", "f", Steadiness::Immutable),
        function("recent", "f", Steadiness::Stable),
        function("dice", "f", Steadiness::Volatile),
        function("several", "f", Steadiness::Immutable),
        function("touch", "f", Steadiness::Volatile),
        function("greet", "p", Steadiness::Volatile),
        function("query_to_xml", "f", Steadiness::Immutable),
        function("max", "a", Steadiness::Immutable),
        function("regr_slope", "f", Steadiness::Immutable),
    ]
}

/// Two groups, and the tables that the golden files speak of; `golden/README` has them as SQL.
pub(super) fn catalogue() -> Catalogue {
    use RelationKind::{Table, View};
    let (int4, int8, text, varchar, numeric, stamp) = (23, 20, 25, 1043, 1700, 1114);
    let mut relations = vec![
        relation(
            "public",
            "t",
            Table,
            &[("id", int8, -1), ("name", text, -1), ("n", int4, -1)],
            Some(1),
        ),
        relation(
            "public",
            "u",
            Table,
            &[("id", int8, -1), ("t_id", int8, -1), ("v", text, -1)],
            Some(1),
        ),
        relation(
            "public",
            "names",
            Table,
            &[("v", int4, -1), ("name", text, -1)],
            Some(2),
        ),
        relation(
            "public",
            "codes",
            Table,
            &[("code", varchar, 7), ("amount", numeric, -1)],
            Some(1),
        ),
        relation(
            "public",
            "prices",
            Table,
            &[("price", numeric, -1), ("v", int4, -1)],
            Some(1),
        ),
        relation(
            "public",
            "Mixed",
            Table,
            &[("Key", int8, -1), ("v", int4, -1)],
            Some(1),
        ),
        relation("other", "t", Table, &[("k", text, -1), ("id", int8, -1)], Some(1)),
        relation(
            "public",
            "pgbench_accounts",
            Table,
            &[
                ("aid", int4, -1),
                ("bid", int4, -1),
                ("abalance", int4, -1),
                ("filler", 1042, 88),
            ],
            Some(1),
        ),
        relation(
            "public",
            "pgbench_branches",
            Table,
            &[("bid", int4, -1), ("bbalance", int4, -1)],
            Some(1),
        ),
        relation(
            "public",
            "pgbench_tellers",
            Table,
            &[("tid", int4, -1), ("tbalance", int4, -1)],
            Some(1),
        ),
        relation(
            "public",
            "pgbench_history",
            Table,
            &[
                ("tid", int4, -1),
                ("bid", int4, -1),
                ("aid", int4, -1),
                ("delta", int4, -1),
                ("mtime", stamp, -1),
            ],
            Some(1),
        ),
        Relation {
            definition: Some(
                " SELECT t.id,\n    t.name AS called\n   FROM public.t\n  WHERE t.n > 0;".to_owned(),
            ),
            ..relation(
                "public",
                "view_of_t",
                View,
                &[("id", int8, -1), ("called", text, -1)],
                None,
            )
        },
        relation("public", "floats", Table, &[("x", 701, -1)], None),
    ];
    let countries = [("code", text, -1), ("name", text, -1), ("stamped", stamp, -1)];
    relations.push(whole("countries", &countries, Placement::Reference));
    let settings = [("name", text, -1), ("value", text, -1)];
    relations.push(whole("settings", &settings, Placement::Local));
    relations.extend(counted());
    let mut system: HashMap<String, HashSet<String>> = HashMap::new();
    for line in include_str!("golden/system_relations").lines() {
        let (schema, name) = line.split_once(' ').expect("a schema and a name");
        system
            .entry(schema.to_owned())
            .or_default()
            .insert(name.to_owned());
    }
    system.insert("howdah".to_owned(), HashSet::from(["slot_map".to_owned()]));
    let slots = SlotMap::place(MapEpoch(1), &[GroupId(1), GroupId(2)]).expect("there are groups");
    Catalogue::new(CatalogueVersion(1), Arc::new(slots), relations, system).with_functions(functions())
}

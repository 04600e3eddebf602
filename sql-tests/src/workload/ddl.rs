//! Schema changes while others write: columns, indexes and tables come and go under inserts.
//!
//! Each object has a name of its own, is made once and dropped at most once. So what must be there in the end, in
//! every group, follows from the answers alone.

use futures::future::BoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Look, Operation, Workload, each};
use crate::Result;
use crate::client::{Effect, Isolation, Session, Stop};
use crate::history::Edn;

/// Tables that are there from the start.
const TABLES: i64 = 4;
/// A table takes so many columns in its life, dropped ones included (PostgreSQL allows 1600).
const MOST_COLUMNS: usize = 1000;
/// One operation of so many changes the schema: a change locks its table in every group.
const CHANGE_ONE_IN: u32 = 40;

/// The objects in a server's tables, one a line: `kind name definition`. Columns stand in their order.
const SCHEMA: &str = "\
    SELECT 'table ' || c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relname ~ '^ddl_' \
    UNION ALL SELECT format('column %s.%s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), \
            row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum)) \
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r' AND c.relname ~ '^ddl_' \
    UNION ALL SELECT format('index %s %s %s', i.relname, x.indisvalid, pg_get_indexdef(x.indexrelid)) \
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class c ON c.oid = x.indrelid \
        WHERE c.relname ~ '^ddl_' \
    ORDER BY 1";

/// The generator.
#[derive(Debug, Default)]
pub(super) struct Ddl {
    last: i64,
    /// What was handed out to be made and not yet to be dropped.
    objects: Vec<Object>,
    columns_made: [usize; 4],
}

/// Something that is made and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Column { table: String, name: String },
    Index { table: String, name: String },
    Table { name: String },
}

#[derive(Clone, Debug)]
enum Change {
    Make(Object),
    Drop(Object),
}

/// A row, with a value in one of the columns that come and go, where one is named.
#[derive(Clone, Debug)]
struct Insert {
    table: String,
    k: i64,
    column: Option<String>,
}

/// The keys of a table, from all groups.
#[derive(Clone, Debug)]
struct Read(String);

fn table(number: i64) -> String {
    format!("ddl_{number}")
}

impl Object {
    /// As a server's schema names it.
    fn name(&self) -> String {
        match self {
            Object::Column { table, name } => format!("column {table}.{name}"),
            Object::Index { name, .. } => format!("index {name}"),
            Object::Table { name } => format!("table {name}"),
        }
    }
}

impl Ddl {
    fn change(&mut self, rng: &mut StdRng) -> Change {
        // Half of the time something goes, so that about as much comes.
        if !self.objects.is_empty() && rng.random() {
            let place = rng.random_range(0..self.objects.len());
            return Change::Drop(self.objects.swap_remove(place));
        }
        self.last += 1;
        let number = self.last;
        let place = rng.random_range(0..TABLES);
        let made = usize::try_from(place)
            .ok()
            .and_then(|at| self.columns_made.get_mut(at));
        let object = match (rng.random_range(0..10), made) {
            (0..6, Some(made)) if *made < MOST_COLUMNS => {
                *made += 1;
                Object::Column {
                    table: table(place + 1),
                    name: format!("c{number}"),
                }
            }
            (0..8, _) => Object::Index {
                table: table(place + 1),
                name: format!("ddl_i{number}"),
            },
            _ => Object::Table {
                name: format!("ddl_t{number}"),
            },
        };
        self.objects.push(object.clone());
        Change::Make(object)
    }

    fn insert(&mut self, rng: &mut StdRng) -> Insert {
        self.last += 1;
        let k = self.last;
        let mut insert = Insert {
            table: table(rng.random_range(1..=TABLES)),
            k,
            column: None,
        };
        // The newest ones: also those that are just being made.
        let from = self.objects.len().saturating_sub(12);
        let recent = self.objects.get(from..).unwrap_or_default();
        if !recent.is_empty() && rng.random() {
            match &recent[rng.random_range(0..recent.len())] {
                Object::Column { table, name } => {
                    insert.table.clone_from(table);
                    insert.column = Some(name.clone());
                }
                Object::Table { name } => insert.table.clone_from(name),
                Object::Index { table, .. } => insert.table.clone_from(table),
            }
        }
        insert
    }
}

impl Workload for Ddl {
    fn prepare<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<()>> {
        let make = |name| format!("CREATE TABLE {name} (k bigint PRIMARY KEY, v bigint)");
        Box::pin(each(client, self.tables().into_iter().map(make)))
    }

    fn tables(&self) -> Vec<String> {
        (1..=TABLES).map(table).collect()
    }

    fn sessions(&self) -> Isolation {
        // The final reads are of all groups.
        Isolation::ReadCommitted
    }

    fn next(&mut self, rng: &mut StdRng) -> Box<dyn Operation> {
        if rng.random_ratio(1, CHANGE_ONE_IN) {
            Box::new(self.change(rng))
        } else {
            Box::new(self.insert(rng))
        }
    }

    fn final_reads(&self) -> Vec<Box<dyn Operation>> {
        let read = |table| Box::new(Read(table)) as Box<dyn Operation>;
        self.tables().into_iter().map(read).collect()
    }

    fn look(&self) -> Option<Look> {
        Some(|server| Box::pin(look(server)))
    }
}

/// A server's own schema and rows: `{:schema [line ...] :rows {table [json ...]}}`.
async fn look(server: &Client) -> Result<Edn> {
    let schema = lines(server, SCHEMA).await?;
    let mut rows = Vec::new();
    for table in schema.iter().filter_map(|line| line.strip_prefix("table ")) {
        let found = lines(
            server,
            &format!("SELECT to_jsonb(t)::text FROM {table} t ORDER BY k"),
        )
        .await?;
        rows.push(Edn::Vector(vec![Edn::Text(table.to_owned()), texts(found)]));
    }
    Ok(Edn::map([("schema", texts(schema)), ("rows", Edn::Vector(rows))]))
}

fn texts(lines: Vec<String>) -> Edn {
    Edn::Vector(lines.into_iter().map(Edn::Text).collect())
}

async fn lines(server: &Client, sql: &str) -> Result<Vec<String>> {
    let messages = server.simple_query(sql).await?;
    let text = |message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(text).collect())
}

impl Operation for Change {
    fn f(&self) -> &'static str {
        match self {
            Change::Make(_) => "make",
            Change::Drop(_) => "drop",
        }
    }

    fn value(&self) -> Edn {
        let (Change::Make(object) | Change::Drop(object)) = self;
        Edn::Text(object.name())
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        let sql = match self {
            Change::Make(Object::Column { table, name }) => {
                format!("ALTER TABLE {table} ADD COLUMN {name} bigint")
            }
            Change::Make(Object::Index { table, name }) => format!("CREATE INDEX {name} ON {table} (v)"),
            Change::Make(Object::Table { name }) => {
                format!("CREATE TABLE {name} (k bigint PRIMARY KEY, v bigint)")
            }
            Change::Drop(Object::Column { table, name }) => format!("ALTER TABLE {table} DROP COLUMN {name}"),
            Change::Drop(Object::Index { name, .. }) => format!("DROP INDEX {name}"),
            Change::Drop(Object::Table { name }) => format!("DROP TABLE {name}"),
        };
        Box::pin(async move {
            session.ask(&sql).await?;
            Ok(self.value())
        })
    }
}

impl Operation for Insert {
    fn f(&self) -> &'static str {
        "insert"
    }

    fn value(&self) -> Edn {
        let column = self.column.clone().map_or(Edn::Nil, Edn::Text);
        Edn::Vector(vec![Edn::Text(self.table.clone()), Edn::Int(self.k), column])
    }

    fn effect(&self) -> Effect {
        Effect::Writes
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        let (table, k) = (&self.table, self.k);
        let sql = match &self.column {
            Some(column) => format!("INSERT INTO {table} (k, v, {column}) VALUES ({k}, {k}, {k})"),
            None => format!("INSERT INTO {table} (k, v) VALUES ({k}, {k})"),
        };
        Box::pin(async move {
            match session.ask(&sql).await?.count {
                1 => Ok(self.value()),
                rows => Err(Stop::Wrong(format!("{rows} rows inserted"))),
            }
        })
    }
}

impl Operation for Read {
    fn f(&self) -> &'static str {
        "read"
    }

    fn value(&self) -> Edn {
        Edn::Vector(vec![Edn::Text(self.0.clone()), Edn::Nil])
    }

    fn effect(&self) -> Effect {
        Effect::Reads
    }

    fn perform<'a>(&'a self, session: &'a mut Session) -> BoxFuture<'a, std::result::Result<Edn, Stop>> {
        Box::pin(async move {
            let found = session.numbers(&format!("SELECT k FROM {}", self.0), &[]).await?;
            let mut found: Vec<i64> = found.into_iter().flatten().collect();
            found.sort_unstable();
            let keys = Edn::Vector(found.into_iter().map(Edn::Int).collect());
            Ok(Edn::Vector(vec![Edn::Text(self.0.clone()), keys]))
        })
    }
}

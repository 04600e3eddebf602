//! Conversations: what a client might send, drawn from a seed alone.
//!
//! `values` and `types` have the constants, `rows` statements on tables, `queries`, `keyed` and `grammar` those over all of them, `words` everything else in SQL, `messages` turns
//! statements into exchanges. Nothing here knows what a server answers: so any part of a conversation can be played again alone.

mod grammar;
mod keyed;
mod messages;
mod queries;
mod rows;
mod types;
mod words;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use self::types::{KEYS, TYPES, Type};
use super::exchange::{Exchange, Order};

/// Exchanges of a conversation, between those that make its tables and those that read them back.
const LENGTH: usize = 45;

/// What one client does on one connection, on tables of its own.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Makes the tables; not compared.
    pub setup: Vec<String>,
    /// The rest.
    pub exchanges: Vec<Exchange>,
}

/// A statement with `{}` for each of its values.
#[derive(Clone, Debug)]
struct Statement {
    text: String,
    values: Vec<Value>,
    order: Order,
}

#[derive(Clone, Debug)]
struct Value {
    of: &'static Type,
    text: Option<&'static str>,
}

impl Statement {
    fn new(text: impl Into<String>, values: Vec<Value>, order: Order) -> Statement {
        Statement {
            text: text.into(),
            values,
            order,
        }
    }

    /// Without values.
    fn plain(text: impl Into<String>) -> Statement {
        Statement::new(text, Vec::new(), Order::Given)
    }

    /// With what is given for each value in its place.
    fn with(&self, mut shown: impl FnMut(usize, &Value) -> String) -> String {
        let mut parts = self.text.split("{}");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (place, (part, value)) in parts.zip(&self.values).enumerate() {
            text.push_str(&shown(place, value));
            text.push_str(part);
        }
        text
    }

    /// With its values as constants.
    fn inline(&self) -> String {
        self.with(|_, value| value.literal())
    }
}

impl Value {
    fn literal(&self) -> String {
        match self.text {
            None => "NULL".to_owned(),
            Some(text) => {
                let number = matches!(self.of.name, "int8" | "int4" | "int2" | "numeric");
                let bare = number && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                if bare {
                    text.to_owned()
                } else {
                    format!("'{}'", text.replace('\'', "''"))
                }
            }
        }
    }
}

/// Draws a conversation.
struct Maker {
    rng: StdRng,
    /// The type of the key of table `keyed`.
    key: &'static Type,
    /// The other columns of table `wide`.
    columns: Vec<&'static Type>,
    /// Whether the client has opened a block, and not ended it.
    in_block: bool,
    /// Prepared statements by name; none where it was closed.
    prepared: [Option<Statement>; 3],
}

/// The conversation of this seed.
#[must_use]
pub fn conversation(seed: u64) -> Conversation {
    let mut rng = StdRng::seed_from_u64(seed);
    let key = TYPES[..KEYS].choose(&mut rng).expect("there are types");
    let columns: Vec<_> = TYPES.choose_multiple(&mut rng, 5).collect();
    let mut maker = Maker {
        rng,
        key,
        columns,
        in_block: false,
        prepared: [None, None, None],
    };
    let setup = maker.tables();
    let mut exchanges = Vec::new();
    while exchanges.len() < LENGTH {
        maker.more(&mut exchanges);
    }
    exchanges.push(Exchange::query("COMMIT", Order::Given));
    exchanges.push(Exchange::query("RESET ALL", Order::Given));
    for table in ["kv", "keyed", "pair", "wide", "lands", "alone", "parted"] {
        exchanges.push(Exchange::query(format!("SELECT * FROM {table}"), Order::Any));
    }
    Conversation { setup, exchanges }
}

impl Maker {
    fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        *all.choose(&mut self.rng).expect("something to choose from")
    }

    /// A value of a type; now and then NULL, or a text that is none.
    fn value(&mut self, of: &'static Type) -> Value {
        let text = match self.below(40) {
            0 => None,
            1 if !of.wrong.is_empty() && !self.in_block => Some(self.pick(of.wrong)),
            _ => Some(self.pick(of.values)),
        };
        Value { of, text }
    }

    fn tables(&self) -> Vec<String> {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, of)| format!("c{at} {}", of.name))
            .collect();
        vec![
            "DROP TABLE IF EXISTS kv, keyed, pair, wide, extra, other, lands, alone, parted CASCADE".to_owned(),
            format!(
                "CREATE TABLE kv (k int8 PRIMARY KEY, n int4 CHECK (n <> 100), t text NOT NULL DEFAULT 'none', v numeric); \
                 CREATE TABLE keyed (k {} PRIMARY KEY, n int4, t text); \
                 CREATE TABLE pair (a int8, b int4, t text, PRIMARY KEY (a, b)); \
                 CREATE TABLE wide (k int8 PRIMARY KEY, {})",
                self.key.name,
                columns.join(", ")
            ),
            "CREATE TABLE lands (k int4 PRIMARY KEY, n int4, t text); CREATE TABLE alone (k int8 PRIMARY KEY, n int4, t text); \
             CREATE TABLE parted (k int8, n int4, t text, PRIMARY KEY (k, n)) PARTITION BY RANGE (n); \
             CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (3); \
             CREATE TABLE parted_others PARTITION OF parted DEFAULT; \
             CREATE VIEW seen AS SELECT k, n, t FROM kv WHERE n IS NOT NULL; \
             CREATE VIEW summed AS SELECT a, count(*) AS n, min(t) AS t FROM pair GROUP BY a"
                .to_owned(),
            "SELECT create_reference_table('lands')".to_owned(),
            "SELECT undistribute_table('alone')".to_owned(),
            "INSERT INTO kv SELECT g, nullif(g % 4, 0), chr(97 + g::int % 3), g / 4.0 FROM generate_series(1, 9) g; \
             INSERT INTO pair SELECT g % 5, g, nullif(chr(97 + g % 4), 'c') FROM generate_series(0, 11) g; \
             INSERT INTO lands SELECT g, 7 - g, chr(97 + g % 3) FROM generate_series(0, 5) g; \
             INSERT INTO alone SELECT g, nullif(g % 3, 1), 'a' || g FROM generate_series(1, 5) g; \
             INSERT INTO parted SELECT g / 2, g, nullif(chr(97 + g % 3), 'a') FROM generate_series(0, 7) g"
                .to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_conversation_every_time() {
        let made = |seed| format!("{:?}", conversation(seed));
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
    }

    #[test]
    fn values_are_written_into_their_places() {
        let value = Value {
            of: types::TEXT,
            text: Some("it's"),
        };
        let null = Value {
            of: types::INT4,
            text: None,
        };
        let statement = Statement::new("SELECT {} + {}", vec![null, value], Order::Given);
        assert_eq!(statement.inline(), "SELECT NULL + 'it''s'");
        assert_eq!(
            statement.with(|place, _| format!("${}", place + 1)),
            "SELECT $1 + $2"
        );
    }
}

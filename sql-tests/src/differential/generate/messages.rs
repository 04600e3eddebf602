//! From statements to exchanges: simple or extended, alone, in pipelines, by portals with limits, with COPY data.

use super::{Maker, Statement, Value};
use crate::differential::exchange::{Ask, CopyEnd, Exchange, Order};

impl Maker {
    /// Adds an exchange, or a few.
    pub(super) fn more(&mut self, exchanges: &mut Vec<Exchange>) {
        // A block is left soon: what fails in it takes the rest with it.
        if self.in_block && self.chance(15) {
            let statement = self.control();
            exchanges.push(self.sent(&statement));
            return;
        }
        let exchange = match self.below(100) {
            0..8 => {
                let statement = self.control();
                self.sent(&statement)
            }
            8..14 => {
                let statement = self.expression();
                self.sent(&statement)
            }
            14..19 => {
                let statement = self.setting();
                self.sent(&statement)
            }
            19..23 => {
                let statement = self.sql_prepared();
                self.sent(&statement)
            }
            23..28 => {
                let statement = self.cursor();
                self.sent(&statement)
            }
            28..32 if !self.in_block => {
                let statement = self.mistake();
                self.sent(&statement)
            }
            32..35 => {
                let statement = self.definition();
                self.sent(&statement)
            }
            35..40 => self.copy_in(),
            40..44 => self.several(),
            44..50 => self.prepared_statement(),
            50..56 => self.pipeline(),
            56..60 => self.portal(),
            60..62 if !self.in_block => self.misuse(),
            _ => {
                let statement = self.on_rows();
                self.sent(&statement)
            }
        };
        exchanges.push(exchange);
    }

    /// A statement by itself, by one protocol or the other.
    fn sent(&mut self, statement: &Statement) -> Exchange {
        if self.chance(50) {
            return Exchange::query(statement.inline(), statement.order);
        }
        let asks = self.unit("", "", statement);
        Exchange::Extended {
            asks,
            order: statement.order,
        }
    }

    /// Parse, Bind, Execute, and what is usual around them.
    fn unit(&mut self, name: &str, portal: &str, statement: &Statement) -> Vec<Ask> {
        let mut asks = vec![self.parse(name, statement)];
        if self.chance(20) {
            asks.push(Ask::Describe('S', name.to_owned()));
        }
        asks.push(self.bind(portal, name, &statement.values));
        if self.chance(60) {
            asks.push(Ask::Describe('P', portal.to_owned()));
        }
        asks.push(Ask::Execute(portal.to_owned(), 0));
        asks
    }

    fn parse(&mut self, name: &str, statement: &Statement) -> Ask {
        let told = self.chance(40);
        let oid = |value: &Value| if told { value.of.oid } else { 0 };
        Ask::Parse {
            name: name.to_owned(),
            sql: statement.with(|place, _| format!("${}", place + 1)),
            types: statement.values.iter().map(oid).collect(),
        }
    }

    fn bind(&mut self, portal: &str, statement: &str, values: &[Value]) -> Ask {
        let bound = values.iter().map(|value| {
            let binary = value
                .text
                .filter(|_| self.chance(30))
                .and_then(|text| value.of.binary(text));
            match binary {
                Some(bytes) => (1, Some(bytes)),
                None => (0, value.text.map(|text| text.as_bytes().to_vec())),
            }
        });
        let values = bound.collect();
        let results = match self.below(4) {
            0 => vec![1],
            1 => vec![0],
            _ => Vec::new(),
        };
        Ask::Bind {
            portal: portal.to_owned(),
            statement: statement.to_owned(),
            values,
            results,
        }
    }

    /// Prepares a named statement, or uses one with other values.
    fn prepared_statement(&mut self) -> Exchange {
        let place = self.below(3);
        let name = format!("s{place}");
        let known = self.prepared[place].clone();
        let (asks, order) = match known {
            Some(statement) if self.chance(75) => {
                let mut asks = Vec::new();
                for _ in 0..=self.below(2) {
                    let values: Vec<Value> = statement
                        .values
                        .iter()
                        .map(|value| self.value(value.of))
                        .collect();
                    asks.push(self.bind("", &name, &values));
                    asks.push(Ask::Describe('P', String::new()));
                    asks.push(Ask::Execute(String::new(), 0));
                }
                (asks, statement.order)
            }
            _ => {
                let statement = self.on_rows();
                let mut asks = Vec::new();
                if self.chance(90) {
                    asks.push(Ask::Close('S', name.clone()));
                }
                asks.push(self.parse(&name, &statement));
                asks.push(Ask::Describe('S', name));
                let order = statement.order;
                self.prepared[place] = Some(statement);
                (asks, order)
            }
        };
        Exchange::Extended { asks, order }
    }

    /// Several statements before one Sync: one transaction, unless they say otherwise.
    fn pipeline(&mut self) -> Exchange {
        let mut all = Vec::new();
        let mut order = Order::Given;
        for _ in 0..2 + self.below(3) {
            let statement = match self.below(10) {
                0 => self.expression(),
                1 => self.setting(),
                _ => self.on_rows(),
            };
            if statement.order == Order::Any {
                order = Order::Any;
            }
            all.extend(self.unit("", "", &statement));
            if self.chance(10) {
                all.push(Ask::Flush);
            }
        }
        Exchange::Extended { asks: all, order }
    }

    /// A portal that is executed in pieces. Where the order of its rows is not given it is executed to its end.
    fn portal(&mut self) -> Exchange {
        let statement = match self.below(3) {
            0 => Statement::plain("SELECT g, 'row ' || g FROM generate_series(1, 9) AS g"),
            1 => Statement::new("SELECT k, t FROM kv", Vec::new(), Order::Any),
            _ => {
                let key = self.value(super::types::INT8);
                Statement::new(
                    "SELECT b, t FROM pair WHERE a = {} ORDER BY b",
                    vec![key],
                    Order::Given,
                )
            }
        };
        let name = self.pick(&["", "p1"]);
        let mut asks = vec![self.parse("", &statement), self.bind(name, "", &statement.values)];
        asks.push(Ask::Describe('P', name.to_owned()));
        for _ in 0..1 + self.below(3) {
            asks.push(Ask::Execute(name.to_owned(), self.pick(&[1, 2, 3])));
        }
        if statement.order == Order::Any || self.chance(50) {
            asks.push(Ask::Execute(name.to_owned(), 0));
        }
        if self.chance(50) {
            asks.push(Ask::Close('P', name.to_owned()));
        }
        Exchange::Extended {
            asks,
            order: statement.order,
        }
    }

    /// Messages that cannot be, with others after them that are to be skipped.
    fn misuse(&mut self) -> Exchange {
        let number = Statement::new(
            "SELECT {}::int8 AS number",
            vec![self.value(super::types::INT8)],
            Order::Given,
        );
        let mut asks = match self.below(7) {
            0 => vec![self.bind("", "nosuch", &[])],
            1 => vec![Ask::Execute("nosuch".to_owned(), 0)],
            2 => vec![Ask::Describe('S', "nosuch".to_owned())],
            3 => vec![Ask::Describe('P', "nosuch".to_owned())],
            4 => vec![self.parse("", &number), self.bind("", "", &[])],
            5 => vec![self.parse("twice", &number), self.parse("twice", &number)],
            _ => vec![
                Ask::Close('S', "nosuch".to_owned()),
                Ask::Close('P', "nosuch".to_owned()),
            ],
        };
        let after = self.on_rows();
        asks.extend(self.unit("", "", &after));
        Exchange::Extended {
            asks,
            order: after.order,
        }
    }

    /// Several statements in one Query.
    fn several(&mut self) -> Exchange {
        let mut statements = Vec::new();
        for _ in 0..2 + self.below(2) {
            let statement = match self.below(12) {
                0 => self.expression(),
                1 => self.setting(),
                2 => Statement::plain("BEGIN"),
                3 => Statement::plain("COMMIT"),
                _ => self.on_rows(),
            };
            statements.push(statement.inline());
        }
        if self.chance(4) {
            statements = vec![String::new()];
        } else if self.chance(if self.in_block { 5 } else { 20 }) {
            let place = 1 + self.below(statements.len() - 1);
            statements[place] = self.broken(&statements[place]);
            if self.chance(10) {
                let asks = vec![self.parse("", &Statement::plain(statements.join("; ")))];
                let order = Order::Given;
                return Exchange::Extended { asks, order };
            }
        }
        Exchange::Simple {
            statements,
            copy: None,
            order: Order::Any,
        }
    }

    /// A statement as a mistake leaves it: most often no SQL any more, and not empty.
    fn broken(&mut self, statement: &str) -> String {
        let mut words: Vec<&str> = statement.split(' ').collect();
        match self.below(5) {
            0 => return self.no_sql().to_owned(),
            1 => words.truncate(1 + self.below(words.len())),
            2 if words.len() > 1 => {
                let place = self.below(words.len());
                words.remove(place);
            }
            3 => {
                let place = self.below(words.len());
                words.insert(place, words[place]);
            }
            _ => {
                let mark = self.pick(&[
                    "'", "\"", "$$", "/*", "(", ")", ",", "=", "E'\\'", "end", "atomic", "select",
                ]);
                let place = 1 + self.below(words.len());
                words.insert(place, mark);
            }
        }
        words.join(" ")
    }

    /// COPY FROM STDIN, now and then with a line that cannot be.
    fn copy_in(&mut self) -> Exchange {
        let csv = self.chance(40);
        let mut data = String::new();
        for _ in 0..self.below(6) {
            let key = 100 + self.below(60);
            let line = match (self.below(14), csv) {
                (0, false) => format!("{key}\t\\N\tnull number\n"),
                (0, true) => format!("{key},,null number\n"),
                (1, false) => format!("{key}\t7\ttab \\t and back\\\\slash\n"),
                (1, true) => format!("{key},7,\"quoted \"\"text\"\", with\na line\"\n"),
                (2, false) if !self.in_block => self.pick(&["x\t1\ta\n", "1\n", "1\t2\t3\t4\n"]).to_owned(),
                (2, true) if !self.in_block => self.pick(&["x,1,a\n", "1\n", "1,2,3,4\n"]).to_owned(),
                (_, false) => format!("{key}\t{}\tcopied\n", self.below(90)),
                (_, true) => format!("{key},{},copied\n", self.below(90)),
            };
            data.push_str(&line);
        }
        if !csv && self.chance(20) {
            data.push_str("\\.\n");
        }
        let options = if csv {
            self.pick(&[" WITH (FORMAT csv)", " CSV"])
        } else {
            ""
        };
        let sql = format!("COPY kv (k, n, t) FROM STDIN{options}");
        if self.chance(25) {
            let copy = Statement::plain(sql);
            let mut asks = vec![self.parse("", &copy), self.bind("", "", &[])];
            asks.extend([Ask::Execute(String::new(), 0), Ask::Copy(data)]);
            return Exchange::Extended {
                asks,
                order: Order::Given,
            };
        }
        let end = if self.chance(8) {
            CopyEnd::Fail
        } else {
            CopyEnd::Done
        };
        Exchange::Simple {
            statements: vec![sql],
            copy: Some((data, end)),
            order: Order::Given,
        }
    }
}

//! Slots computed here against PostgreSQL's own, over thousands of values of each type.

use std::error::Error;

use coordinator::hash::{HashSlot, KeyColumn, KeyError, KeySource, KeyType, KeyUse};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, private::BytesMut};

use crate::server::Server;

const NO_MODIFIER: i32 = -1;

fn column(key_type: KeyType) -> KeyColumn {
    KeyColumn {
        key_type,
        type_modifier: NO_MODIFIER,
    }
}

/// How PostgreSQL writes a value of the type in binary.
fn send_function(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Int2 => "int2send",
        KeyType::Int4 => "int4send",
        KeyType::Int8 => "int8send",
        KeyType::Text => "textsend",
        KeyType::Varchar => "varcharsend",
        KeyType::Bpchar => "bpcharsend",
        KeyType::Uuid => "uuid_send",
        KeyType::Bool => "boolsend",
        KeyType::Date => "date_send",
        KeyType::Timestamp => "timestamp_send",
        KeyType::Timestamptz => "timestamptz_send",
        KeyType::Numeric => "numeric_send",
        KeyType::Bytea => "byteasend",
    }
}

/// Values in PostgreSQL's input syntax: the odd and extreme ones, and two thousand others.
fn values(key_type: KeyType, random: &mut StdRng) -> Vec<String> {
    let mut values: Vec<String> = odd_values(key_type)
        .iter()
        .map(|value| (*value).to_owned())
        .collect();
    values.extend((0..2000).map(|_| random_value(key_type, random)));
    values
}

#[rustfmt::skip] // one line for each type
fn odd_values(key_type: KeyType) -> &'static [&'static str] {
    match key_type {
        KeyType::Int2 => &["0", "-0", "+7", "007", " 42 ", "-32768", "32767"],
        KeyType::Int4 => &["0", "-1", "+7", " 42", "-2147483648", "2147483647"],
        KeyType::Int8 => &[
            "0", "-1", "2147483648", "-2147483649", "-9223372036854775808", "9223372036854775807",
        ],
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => &[
            "", " ", "   ", "a", "a ", " a", "é", "日本語テキスト", "🦀", "a\tb", "a\u{a0}", "abcdefghijk",
            "abcdefghijkl",
        ],
        KeyType::Uuid => &[
            "00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ],
        KeyType::Bool => &["t", "f", "true", "false", "TRUE", "yes", "no", "on", "off", "1", "0", " t "],
        KeyType::Date => &[
            "2000-01-01", "1999-12-31", "2000-02-29", "0001-01-01", "9999-12-31", "4713-01-01 BC",
            "5874897-12-31", "infinity", "-infinity", "Jan 5 2020", "20200105", "2020-1-5", "1900-02-28",
            "1582-10-15",
        ],
        KeyType::Timestamp => &[
            "2000-01-01", "2000-01-01 00:00:00", "1999-12-31 23:59:59.999999", "2020-06-01T12:34:56",
            "infinity", "-infinity", "2020-06-01 12:34:56.7", "2020-06-01 24:00:00",
            "0044-03-15 12:00:00 BC", "2020-06-01 12:34:56+05", "2020-06-01 12:34:56.1234567",
            "2020-06-01 12:34", "epoch",
        ],
        KeyType::Timestamptz => &[
            "2000-01-01", "2000-01-01 00:00:00+00", "2020-06-01T12:34:56Z", "2020-06-01 12:34:56.5-07:30",
            "infinity", "-infinity", "2020-06-01 12:34:56", "2020-06-01 12:34:56 America/New_York",
            "2020-06-01 12:34:56+15:59", "0001-01-01 00:00:00+14", "2020-06-01 12:34:56+0530",
            "2020-06-01 12:34:56 -03",
        ],
        KeyType::Numeric => &[
            "0", "-0", "0.0000", "NaN", "Infinity", "-Infinity", "1e3", "1E-20", ".5", "5.", "+1.50", "1",
            "-1", "10000", "9999", "0.0001", "0.00001", "100000000",
            "99999999999999999999999999999.99999999999999999999", "-0.00000000000000000000000001",
            "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1200000000000", " 12.5 ",
            "00012.50000",
        ],
        KeyType::Bytea => &[
            "", "\\x", "\\x00", "\\xDEADbeef", "plain", "\\001\\002", "a\\\\b", "\\x00 ff", "é",
        ],
    }
}

fn random_value(key_type: KeyType, random: &mut StdRng) -> String {
    // Magnitudes are drawn, not only values: small ones matter too.
    let int8 = random.random::<i64>() >> random.random_range(0..64);
    match key_type {
        KeyType::Int2 => random.random::<i16>().to_string(),
        KeyType::Int4 => (random.random::<i32>() >> random.random_range(0..32)).to_string(),
        KeyType::Int8 => int8.to_string(),
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => {
            let alphabet: Vec<char> = "abcXYZ 019'\\\"éß語🦀".chars().collect();
            let length = random.random_range(0..40);
            (0..length)
                .map(|_| alphabet[random.random_range(0..alphabet.len())])
                .collect()
        }
        KeyType::Uuid => {
            let hex = format!("{:032x}", random.random::<u128>());
            format!(
                "{}-{}-{}-{}-{}",
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..]
            )
        }
        KeyType::Bool => random.random::<bool>().to_string(),
        KeyType::Date => date(random),
        KeyType::Timestamp => timestamp(random),
        KeyType::Timestamptz => {
            let zone = ["+00", "Z", "-08", "+05:30", "-12:45", "+14"][random.random_range(0..6)];
            format!("{}{zone}", timestamp(random))
        }
        KeyType::Numeric => {
            let zeros = "0".repeat(random.random_range(0..12));
            match random.random_range(0..4) {
                0 => int8.to_string(),
                1 => format!("{int8}.{}", random.random::<u64>() >> random.random_range(0..64)),
                2 => format!("{int8}{zeros}"),
                _ => format!("{int8}.{zeros}{}{zeros}", random.random::<u32>()),
            }
        }
        KeyType::Bytea => {
            let length = random.random_range(0..40);
            (0..length).fold("\\x".to_owned(), |text, _| {
                format!("{text}{:02x}", random.random::<u8>())
            })
        }
    }
}

fn date(random: &mut StdRng) -> String {
    let (year, month) = (random.random_range(1..=9999), random.random_range(1..=12));
    format!("{year:04}-{month:02}-{:02}", random.random_range(1..=28))
}

fn timestamp(random: &mut StdRng) -> String {
    let (hour, minute, second) = (
        random.random_range(0..24),
        random.random_range(0..60),
        random.random_range(0..60),
    );
    let fraction = ["", ".5", ".123", ".000001", ".999999"][random.random_range(0..5)];
    format!("{} {hour:02}:{minute:02}:{second:02}{fraction}", date(random))
}

#[tokio::test]
async fn every_type_has_postgresqls_slots() {
    let server = Server::start();
    let client = server.connect("postgres").await;
    let mut random = StdRng::seed_from_u64(15);
    for key_type in KeyType::ALL {
        let oid = key_type.oid();
        let (name, send) = (key_type.sql_name(), send_function(key_type));
        let values = values(key_type, &mut random);
        let sql = format!(
            "SELECT hash_record_extended(ROW(CAST(v AS {name})), 0) & 4095, {send}(CAST(v AS {name})), \
                    CAST(CAST(v AS {name}) AS text), \
                    ((hash_record_extended(ROW(CAST(v AS {name})), 0) % 4096) + 4096) % 4096 \
             FROM unnest($1::text[]) WITH ORDINALITY AS given (v, place) ORDER BY place"
        );
        let rows = client.query(&sql, &[&values]).await.unwrap();
        assert_eq!(rows.len(), values.len());
        let mut asked = 0;
        for (value, row) in values.iter().zip(&rows) {
            let expected = slot(row.get(0));
            assert_eq!(
                expected,
                slot(row.get(3)),
                "the two ways to write the slot in SQL differ"
            );
            let (binary, text): (Vec<u8>, String) = (row.get(1), row.get(2));
            for used in [KeyUse::Comparison, KeyUse::Assignment] {
                for declared in [0, oid, 705] {
                    let given = column(key_type).from_parameter(used, declared, 0, Some(value.as_bytes()));
                    match given {
                        Ok(slot) => assert_eq!(slot, expected, "{key_type:?} {value:?}"),
                        Err(error) => {
                            assert_eq!(error, KeyError::AskPostgres, "{key_type:?} {value:?}");
                            asked += 1;
                        }
                    }
                    // What PostgreSQL itself writes is read, except in forms that depend on settings.
                    let written = column(key_type).from_parameter(used, declared, 0, Some(text.as_bytes()));
                    assert!(
                        written.is_err() || written == Ok(expected),
                        "{key_type:?} {text:?}"
                    );
                }
                let given = column(key_type).from_parameter(used, oid, 1, Some(&binary));
                let special =
                    key_type == KeyType::Numeric && ["NaN", "Infinity", "-Infinity"].contains(&&*text);
                assert!(
                    given == Ok(expected) || special,
                    "{key_type:?} {value:?} in binary: {given:?}"
                );
            }
            if column(key_type)
                .slot(
                    KeyUse::Comparison,
                    KeySource::Text {
                        type_oid: 0,
                        text: value.as_bytes(),
                    },
                )
                .is_err()
            {
                let given = ask(
                    &client,
                    &column(key_type),
                    Type::from_oid(oid).unwrap(),
                    0,
                    value.as_bytes(),
                )
                .await;
                assert_eq!(given, expected, "{key_type:?} {value:?} by the slot query");
            }
        }
        assert!(
            asked <= 6 * 14,
            "{key_type:?}: {asked} of {} forms had to be asked for",
            values.len()
        );
        let null: i64 = client
            .query_one(
                &format!("SELECT hash_record_extended(ROW(CAST(NULL AS {name})), 0) & 4095"),
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(slot(null), HashSlot::NULL);
        assert_eq!(
            column(key_type).from_parameter(KeyUse::Assignment, 0, 0, None),
            Ok(HashSlot::NULL)
        );
    }
}

#[tokio::test]
async fn what_a_column_stores_is_in_the_slot_that_was_computed() {
    let server = Server::start();
    let client = server.connect("postgres").await;
    let columns = [
        "varchar(3)",
        "char(3)",
        "text",
        "numeric(10,2)",
        "numeric(6,0)",
        "numeric(5,-2)",
        "timestamp(3)",
        "timestamptz(0)",
        "int2",
        "int4",
        "int8",
        "numeric",
    ];
    let literals = [
        "42",
        "-42",
        "42.0",
        "42.5",
        "1e2",
        "1234.567",
        "1234.5",
        "0.005",
        "99999",
        "3000000000",
        "'42'",
        "'42.50'",
        "'ab'",
        "'ab '",
        "'ab   '",
        "'abc'",
        "'abc   '",
        "'abcd'",
        "'日本語'",
        "'日本語 '",
        "'日本語 x'",
        "''",
        "'2020-01-01 10:00:00.123456+01'",
        "'2020-01-01 10:00:00.123456'",
        "'2020-01-01 10:00:00.5'",
        "'2020-01-01 10:00:00'",
        "'2020-01-01 10:00:00Z'",
        "'1200'",
        "1250",
        "true",
        "9223372036854775808",
    ];
    let (mut computed, mut asked) = (0, 0);
    for (number, name) in columns.iter().enumerate() {
        client
            .batch_execute(&format!("CREATE TABLE stored{number} (k {name})"))
            .await
            .unwrap();
        let key = column_of(&client, &format!("stored{number}")).await;
        for literal in literals {
            let sql = format!(
                "INSERT INTO stored{number} VALUES ({literal}) RETURNING hash_record_extended(ROW(k), 0) & 4095"
            );
            // Where PostgreSQL refuses the value, any slot is right.
            let Ok(stored) = client.query_one(&sql, &[]).await else {
                continue;
            };
            let given = match key.slot(KeyUse::Assignment, source(literal)) {
                Ok(slot) => {
                    computed += 1;
                    slot
                }
                Err(_) => {
                    asked += 1;
                    let sql = key.slot_query_of(KeyUse::Assignment, literal);
                    slot(client.query_one(&sql, &[]).await.unwrap().get(0))
                }
            };
            assert_eq!(given, slot(stored.get(0)), "{literal} in a column of type {name}");
        }
    }
    assert!(computed > 80 && asked > 20, "{computed} computed, {asked} asked");
}

#[tokio::test]
async fn a_comparison_finds_rows_of_the_computed_slot_only() {
    let server = Server::start();
    let client = server.connect("postgres").await;
    let columns = [
        "int2",
        "int4",
        "int8",
        "numeric",
        "numeric(10,2)",
        "varchar(5)",
        "char(5)",
        "text",
        "date",
        "timestamp",
        "timestamptz",
        "bool",
    ];
    let stored = [
        "'42'",
        "'-42'",
        "'0'",
        "'1'",
        "'ab'",
        "'ab '",
        "'abc  '",
        "''",
        "'3000000000'",
        "'42.50'",
        "'0.01'",
        "'1200'",
        "'2020-01-01'",
        "'2020-01-01 10:00:00'",
        "'2020-03-29 02:30:00'",
        "'2020-03-29 03:30:00'",
        "'t'",
        "NULL",
    ];
    let sought = [
        "42",
        "-42",
        "42.0",
        "42.5",
        "0.0",
        "-0",
        "1200",
        "1.2e3",
        "3000000000",
        "0.010",
        "'42'",
        "'42.5'",
        "'ab'",
        "'ab '",
        "'abc'",
        "true",
        "''",
        "42::int2",
        "42::int8",
        "42::numeric",
        "42.50::numeric",
        "42::float8",
        "42::float4",
        "'ab'::text",
        "'ab '::text",
        "'ab '::varchar",
        "'ab'::bpchar",
        "'ab '::bpchar(4)",
        "'2020-01-01'::date",
        "'2020-01-01'::timestamp",
        "'2020-01-01 00:00:00+01'::timestamptz",
        "'2020-03-29 01:30:00Z'::timestamptz",
        "'2020-01-01'",
        "'2020-01-01 10:00:00'",
    ];
    let (mut found, mut routed) = (0, 0);
    for (number, name) in columns.iter().enumerate() {
        client
            .batch_execute(&format!("CREATE TABLE sought{number} (k {name})"))
            .await
            .unwrap();
        for value in stored {
            let _refused = client
                .batch_execute(&format!("INSERT INTO sought{number} VALUES ({value})"))
                .await;
        }
        let key = column_of(&client, &format!("sought{number}")).await;
        for value in sought {
            let sql = format!(
                "SELECT hash_record_extended(ROW(k), 0) & 4095 FROM sought{number} WHERE k = {value}"
            );
            let Ok(rows) = client.query(&sql, &[]).await else {
                continue;
            };
            let given = match key.slot(KeyUse::Comparison, source(value)) {
                Ok(slot) => slot,
                Err(KeyError::Unroutable) => continue,
                Err(KeyError::AskPostgres) => {
                    let sql = key.slot_query_of(KeyUse::Comparison, value);
                    slot(client.query_one(&sql, &[]).await.unwrap().get(0))
                }
            };
            routed += 1;
            found += rows.len();
            for row in rows {
                assert_eq!(given, slot(row.get(0)), "{name} = {value}");
            }
        }
    }
    assert!(
        routed > 80 && found > 60,
        "{routed} comparisons routed, {found} rows found"
    );
}

#[test]
fn garbage_never_panics() {
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..20_000 {
        let length = random.random_range(0..40);
        let alphabet = b"0123456789-+:. TZ\\xeE'\xff\x00ab";
        let bytes: Vec<u8> = (0..length)
            .map(|_| alphabet[random.random_range(0..alphabet.len())])
            .collect();
        for key_type in KeyType::ALL {
            for declared in KeyType::ALL {
                let key = KeyColumn {
                    key_type,
                    type_modifier: random.random_range(-1..70_000),
                };
                for format in 0..=2 {
                    let _slot = key.from_parameter(KeyUse::Assignment, declared.oid(), format, Some(&bytes));
                }
                let _query = key.slot_query(KeyUse::Assignment);
            }
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let _slot = column(key_type).slot(KeyUse::Comparison, KeySource::Number(text));
            }
        }
    }
}

fn slot(number: i64) -> HashSlot {
    HashSlot::new(u16::try_from(number).unwrap()).unwrap()
}

/// A literal as the analyser would describe it.
fn source(literal: &str) -> KeySource<'_> {
    let (value, type_oid) = match literal.split_once("::") {
        None => (literal, 0),
        Some((value, name)) => {
            let names = [
                ("int2", 21),
                ("int8", 20),
                ("numeric", 1700),
                ("float8", 701),
                ("float4", 700),
                ("text", 25),
                ("varchar", 1043),
                ("bpchar", 1042),
                ("bpchar(4)", 1042),
                ("date", 1082),
                ("timestamp", 1114),
                ("timestamptz", 1184),
            ];
            (value, names.iter().find(|(known, _)| *known == name).unwrap().1)
        }
    };
    if let Some(quoted) = value.strip_prefix('\'') {
        let text = quoted.strip_suffix('\'').unwrap().as_bytes();
        return KeySource::Text { type_oid, text };
    }
    match value {
        "true" => KeySource::Bool(true),
        _ if type_oid != 0 => KeySource::Text {
            type_oid,
            text: value.as_bytes(),
        },
        _ => KeySource::Number(value),
    }
}

async fn column_of(client: &Client, table: &str) -> KeyColumn {
    let sql =
        "SELECT atttypid, atttypmod FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1";
    let row = client.query_one(sql, &[&table]).await.unwrap();
    KeyColumn {
        key_type: KeyType::from_oid(row.get(0)).unwrap(),
        type_modifier: row.get(1),
    }
}

/// The slot query, with the parameter as a client would send it.
async fn ask(client: &Client, key: &KeyColumn, declared: Type, format: i16, bytes: &[u8]) -> HashSlot {
    let statement = client
        .prepare_typed(&key.slot_query(KeyUse::Comparison), &[declared])
        .await
        .unwrap();
    let row = client
        .query_one(
            &statement,
            &[&Sent {
                format,
                bytes: bytes.to_vec(),
            }],
        )
        .await
        .unwrap();
    slot(row.get(0))
}

/// Bytes that are sent as they are.
#[derive(Debug)]
struct Sent {
    format: i16,
    bytes: Vec<u8>,
}

impl ToSql for Sent {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.format == 0 {
            Format::Text
        } else {
            Format::Binary
        }
    }

    tokio_postgres::types::to_sql_checked!();
}

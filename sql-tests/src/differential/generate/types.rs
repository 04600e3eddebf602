//! Types and values of them: few, so that keys meet again, and among them the extremes.

/// A type of a column or a parameter.
#[derive(Debug)]
pub(super) struct Type {
    /// In SQL.
    pub(super) name: &'static str,
    /// `pg_type.oid`.
    pub(super) oid: u32,
    /// Values in PostgreSQL's text form.
    pub(super) values: &'static [&'static str],
    /// Texts that are none.
    pub(super) wrong: &'static [&'static str],
}

/// How many of [`TYPES`] can be shard keys; they come first.
pub(super) const KEYS: usize = 13;

/// `int8`, that of most keys.
pub(super) const INT8: &Type = &TYPES[0];
/// `int4`.
pub(super) const INT4: &Type = &TYPES[1];
/// `text`.
pub(super) const TEXT: &Type = &TYPES[3];

const LONG: &str = "a rather long text that goes on for a while, so that it is not kept in one word: \
    0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// All of them, those of shard keys first.
pub(super) const TYPES: &[Type] = &[
    Type {
        name: "int8",
        oid: 20,
        values: &[
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
            "-1",
            "42",
            "9223372036854775807",
            "-9223372036854775808",
        ],
        wrong: &["9223372036854775808", "one", "1.5", ""],
    },
    Type {
        name: "int4",
        oid: 23,
        values: &["0", "1", "2", "3", "-7", "100", "2147483647", "-2147483648"],
        wrong: &["2147483648", "x", " "],
    },
    Type {
        name: "int2",
        oid: 21,
        values: &["0", "1", "2", "-1", "32767", "-32768"],
        wrong: &["32768", "y"],
    },
    Type {
        name: "text",
        oid: 25,
        values: &[
            "",
            "a",
            "b",
            "Ärger",
            "it's",
            "back\\slash",
            "NULL",
            "tab\there",
            "日本",
            LONG,
        ],
        wrong: &[],
    },
    Type {
        name: "varchar(12)",
        oid: 1043,
        values: &["", "a", "ab ", "twelve chars"],
        wrong: &["thirteen chars"],
    },
    Type {
        name: "char(5)",
        oid: 1042,
        values: &["", "a", "ab ", "abcde"],
        wrong: &["abcdef"],
    },
    Type {
        name: "uuid",
        oid: 2950,
        values: &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        ],
        wrong: &["a0eebc99", "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    },
    Type {
        name: "bool",
        oid: 16,
        values: &["t", "f", "true", "off", "1"],
        wrong: &["maybe"],
    },
    Type {
        name: "date",
        oid: 1082,
        values: &[
            "2000-01-01",
            "1999-12-31",
            "infinity",
            "-infinity",
            "4713-11-24 BC",
            "5874897-12-31",
            "2024-02-29",
        ],
        wrong: &["2023-02-29", "5874898-01-01", "someday"],
    },
    Type {
        name: "timestamp",
        oid: 1114,
        values: &[
            "2000-01-01 00:00:00",
            "infinity",
            "1970-01-01 12:34:56.789012",
            "294276-12-31 23:59:59.999999",
            "4713-11-24 00:00:00 BC",
        ],
        wrong: &["294277-01-01", "2000-01-01 25:00"],
    },
    Type {
        name: "timestamptz",
        oid: 1184,
        values: &[
            "2000-01-01 00:00:00+00",
            "2000-01-01 05:30:00+05:30",
            "-infinity",
            "1970-01-01 12:34:56.789012-08",
        ],
        wrong: &["2000-01-01 00:00:00 Mars/Olympus"],
    },
    Type {
        name: "numeric",
        oid: 1700,
        values: &[
            "0",
            "1",
            "1.0",
            "1.00",
            "-1.5",
            "NaN",
            "Infinity",
            "123456789012345678901234567890.123456789",
            "1e100",
            "0.00000000001",
        ],
        wrong: &["1e", "--1"],
    },
    Type {
        name: "bytea",
        oid: 17,
        values: &["\\x", "\\x00ff", "\\xdeadbeef", "\\x5c27"],
        wrong: &["\\x0", "\\xzz"],
    },
    Type {
        name: "float8",
        oid: 701,
        values: &["0", "-0", "1.5", "NaN", "-Infinity", "1e308", "5e-324", "0.1"],
        wrong: &["1e400", "f"],
    },
    Type {
        name: "float4",
        oid: 700,
        values: &["0", "3.4e38", "1e-45", "0.1"],
        wrong: &["1e39"],
    },
    Type {
        name: "numeric(10,3)",
        oid: 1700,
        values: &["0", "1.2345", "-9999999.999"],
        wrong: &["10000000"],
    },
    Type {
        name: "json",
        oid: 114,
        values: &[
            "{}",
            "[1, 2,  3]",
            "{\"a\": {\"b\": [null, true, 1.50]}}",
            "\"text\"",
            "null",
        ],
        wrong: &["{", "{\"a\": }"],
    },
    Type {
        name: "jsonb",
        oid: 3802,
        values: &[
            "{}",
            "[1, 2,  3]",
            "{\"b\": 1, \"a\": {\"b\": [null, true, 1.50]}}",
            "1e3",
        ],
        wrong: &["{'a': 1}", ""],
    },
    Type {
        name: "int4[]",
        oid: 1007,
        values: &["{}", "{1,2,3}", "{NULL,-1}", "{{1,2},{3,4}}", "[2:3]={5,6}"],
        wrong: &["{1,", "{a}", "{{1},{2,3}}"],
    },
    Type {
        name: "text[]",
        oid: 1009,
        values: &["{}", "{a,\"b c\",NULL,\"NULL\"}", "{\"quote \\\" and \\\\\"}"],
        wrong: &["{\"a}", "a"],
    },
    Type {
        name: "interval",
        oid: 1186,
        values: &[
            "0",
            "1 year 2 mons -3 days 04:05:06.789",
            "-178000000 years",
            "PT36H",
        ],
        wrong: &["1 fortnight and a bit"],
    },
    Type {
        name: "time",
        oid: 1083,
        values: &["00:00:00", "24:00:00", "12:34:56.789"],
        wrong: &["24:00:01"],
    },
    Type {
        name: "inet",
        oid: 869,
        values: &["127.0.0.1", "10.1.2.3/8", "::1", "2001:db8::/32"],
        wrong: &["256.0.0.1"],
    },
    Type {
        name: "int4range",
        oid: 3904,
        values: &["empty", "[1,5)", "(,3]", "(,)"],
        wrong: &["[5,1)"],
    },
    Type {
        name: "bit(4)",
        oid: 1560,
        values: &["0000", "1010"],
        wrong: &["10", "10102"],
    },
    Type {
        name: "tsvector",
        oid: 3614,
        values: &["a fat cat", "", "a:1A b:2"],
        wrong: &["'"],
    },
];

impl Type {
    /// A text value as this type's binary form, where that is simple (`typsend` of PostgreSQL's type).
    pub(super) fn binary(&self, text: &str) -> Option<Vec<u8>> {
        match self.name {
            "int8" => text
                .parse::<i64>()
                .ok()
                .map(|number| number.to_be_bytes().to_vec()),
            "int4" => text
                .parse::<i32>()
                .ok()
                .map(|number| number.to_be_bytes().to_vec()),
            "int2" => text
                .parse::<i16>()
                .ok()
                .map(|number| number.to_be_bytes().to_vec()),
            "float8" => text
                .parse::<f64>()
                .ok()
                .map(|number| number.to_be_bytes().to_vec()),
            "text" | "varchar(12)" | "json" => Some(text.as_bytes().to_vec()),
            "bool" => Some(vec![u8::from(matches!(text, "t" | "true" | "1"))]),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_types_are_what_they_are_called() {
        assert_eq!([INT8.name, INT4.name, TEXT.name], ["int8", "int4", "text"]);
        assert_eq!(TYPES[KEYS - 1].name, "bytea");
    }
}

//! The client's messages that decide where something runs: Parse, Bind, Describe, Execute, Close.

use super::{Body, Malformed};

/// Parse: a statement and, where given, the types of its parameters.
#[derive(Debug)]
pub(crate) struct Parse<'a> {
    /// The prepared statement's name; empty for the unnamed one.
    pub(crate) name: &'a [u8],
    /// Its text.
    pub(crate) query: &'a [u8],
    /// The declared parameter types; 0 leaves one to PostgreSQL.
    pub(crate) types: Vec<u32>,
}

impl<'a> Parse<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new(body);
        let name = body.cstr()?;
        let query = body.cstr()?;
        let count = u16::from_be_bytes(body.i16()?.to_be_bytes());
        let mut types = Vec::with_capacity(usize::from(count.min(64)));
        for _ in 0..count {
            types.push(u32::from_be_bytes(body.i32()?.to_be_bytes()));
        }
        at_end(&body)?;
        Ok(Parse { name, query, types })
    }
}

/// Bind: a portal made of a prepared statement and its parameters.
#[derive(Debug)]
pub(crate) struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub(crate) portal: &'a [u8],
    /// The prepared statement's name.
    pub(crate) statement: &'a [u8],
    /// What follows the names: formats, values, and the formats of the result.
    pub(crate) rest: &'a [u8],
    /// The format of the result's first column: 0 for text, 1 for binary.
    pub(crate) result_format: i16,
    /// The formats of the result, as they stand in the message.
    pub(crate) results: &'a [u8],
    formats: Body<'a>,
    format_count: usize,
    values: Body<'a>,
    value_count: usize,
}

impl<'a> Bind<'a> {
    /// Reads and checks the whole message, so that [`Bind::each`] cannot fail.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new(body);
        let portal = body.cstr()?;
        let statement = body.cstr()?;
        let rest = body.rest();
        let format_count = count(body.i16()?);
        let formats = Body::new(body.bytes(format_count * 2)?);
        let value_count = count(body.i16()?);
        if format_count > 1 && format_count != value_count {
            return Err(Malformed(
                "bind message has unequal numbers of formats and parameters",
            ));
        }
        let values = body;
        for _ in 0..value_count {
            value(&mut body)?;
        }
        let results = body.rest();
        let result_format = match count(body.i16()?) {
            0 => 0,
            _ => body.i16()?,
        };
        Ok(Bind {
            portal,
            statement,
            rest,
            result_format,
            results,
            formats,
            format_count,
            values,
            value_count,
        })
    }

    /// The parameters in order: whether binary, and the value or `None` for NULL.
    pub(crate) fn each(&self) -> impl Iterator<Item = (bool, Option<&'a [u8]>)> + '_ {
        let mut values = self.values;
        let mut formats = self.formats;
        let common = match self.format_count {
            0 => Some(0),
            1 => Some(formats.i16().unwrap_or(0)),
            _ => None,
        };
        (0..self.value_count).map(move |_| {
            let format = common.unwrap_or_else(|| formats.i16().unwrap_or(0));
            (format == 1, value(&mut values).unwrap_or(None))
        })
    }
}

fn count(raw: i16) -> usize {
    usize::from(u16::from_be_bytes(raw.to_be_bytes()))
}

fn value<'a>(body: &mut Body<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    match body.i32()? {
        -1 => Ok(None),
        len => {
            let len = usize::try_from(len).map_err(|_| Malformed("a parameter's length is negative"))?;
            body.bytes(len).map(Some)
        }
    }
}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new(body);
        let kind = body.u8()?;
        let name = body.cstr()?;
        at_end(&body)?;
        match kind {
            b'S' => Ok(Named::Statement(name)),
            b'P' => Ok(Named::Portal(name)),
            _ => Err(Malformed("neither a prepared statement nor a portal is named")),
        }
    }
}

/// Execute: a portal's name and how many rows it may give (0: all).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Execute<'a> {
    /// The portal.
    pub(crate) portal: &'a [u8],
    /// The limit of rows.
    pub(crate) limit: i32,
}

impl<'a> Execute<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut body = Body::new(body);
        let portal = body.cstr()?;
        let limit = body.i32()?;
        at_end(&body)?;
        Ok(Execute { portal, limit })
    }
}

/// The text of a Query.
pub(crate) fn query_text(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body::new(body);
    let text = body.cstr()?;
    at_end(&body)?;
    Ok(text)
}

fn at_end(body: &Body<'_>) -> Result<(), Malformed> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(Malformed("a message is longer than its fields"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_gives_its_parameters_in_order() {
        let bytes = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\0";
        let bind = Bind::read(bytes).expect("well formed");
        assert_eq!(bind.portal, b"p");
        assert_eq!(bind.statement, b"s");
        let all: Vec<_> = bind.each().collect();
        assert_eq!(all, vec![(true, Some(&b"x"[..])), (true, None)]);
    }

    #[test]
    fn every_cut_of_a_message_is_malformed_and_nothing_panics() {
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff";
        for end in 0..bind.len() {
            assert!(Bind::read(&bind[..end]).is_err(), "{end}");
        }
        let parse = b"s\0select 1\0\0\x01\0\0\0\x17";
        for end in 0..parse.len() {
            assert!(Parse::read(&parse[..end]).is_err(), "{end}");
        }
    }
}

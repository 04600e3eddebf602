//! PostgreSQL's frontend/backend protocol, version 3: framing, the few messages that we read, and
//! the few that we write. Everything else passes through as bytes.
//!
//! Source of the formats: PostgreSQL's documentation, chapter "Frontend/Backend Protocol".

pub(crate) mod encode;
pub(crate) mod fields;
pub(crate) mod frame;
pub(crate) mod frontend;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;

/// A reader over one message's body. Everything in it comes from a peer: nothing is trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a>(&'a [u8]);

/// A message that ends before its fields do, or holds what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

impl<'a> Body<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Body(bytes)
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("a byte is missing"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        let (head, rest) = self
            .0
            .split_first_chunk::<2>()
            .ok_or(Malformed("an int16 is missing"))?;
        self.0 = rest;
        Ok(i16::from_be_bytes(*head))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        let (head, rest) = self
            .0
            .split_first_chunk::<4>()
            .ok_or(Malformed("an int32 is missing"))?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*head))
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.0.len() {
            return Err(Malformed("a field reaches past the end"));
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    /// A zero-terminated string, without its zero.
    pub(crate) fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self
            .0
            .iter()
            .position(|b| *b == 0)
            .ok_or(Malformed("a string has no end"))?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }
}

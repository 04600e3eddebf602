//! What is wrong with a configuration, and where: always one line.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or the secret's file, cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something at a place in the file.
    #[error("{}:{line}:{column}: {what}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// Something that no place in the file is to blame for.
    #[error("{}: {what}", path.display())]
    Whole {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A file's text, to turn byte positions into lines and columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// Where it came from.
    pub(super) path: &'a Path,
    /// All of it.
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error about these bytes of the file.
    pub(super) fn at(&self, span: Range<usize>, what: impl Into<String>) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::At {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
        }
    }

    /// An error about the file as a whole.
    pub(super) fn whole(&self, what: impl Into<String>) -> ConfigError {
        ConfigError::Whole {
            path: self.path.to_owned(),
            what: what.into(),
        }
    }

    /// What the TOML parser refused.
    pub(super) fn refused(&self, error: &toml::de::Error) -> ConfigError {
        let what = error.message().replace('\n', "; ");
        match error.span() {
            Some(span) => self.at(span, what),
            None => self.whole(what),
        }
    }
}

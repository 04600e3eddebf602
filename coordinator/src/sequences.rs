//! Values of sequences: drawn from the home group in blocks, which the sessions of a node share.
//!
//! PostgreSQL's sequence in the cluster's first group is the authority; in the other groups it stands at its end
//! (`catalogue/schema.sql`). A block is a run of values that this node alone has, so whatever it hands out is handed out once in
//! the cluster. As with `CACHE` of PostgreSQL values are in order within a node, not among nodes, and those of a
//! node that stops are never used.
//!
//! A block is of one generation of the sequence, as a group's catalogue has it. What sets the sequence (ALTER SEQUENCE, setval,
//! TRUNCATE ... RESTART IDENTITY) makes another generation in the same transaction. Whoever plans by a catalogue with that
//! one was given it after that was committed, so what he draws anew is drawn from what was set; and once the statement was
//! answered nobody plans by an older catalogue (`catalogue/cache.rs`), so nobody uses what was drawn before. Generations
//! of different groups are not compared: a block belongs to the group whose catalogue it was asked by.
//!
//! **Committed before it is used.** A crash of the home group's leader before the drawing transaction has committed in Raft may give
//! the same values again, but nobody has seen them: the connection ends with an error, and the values are dropped. A
//! crash after it finds the sequence behind them, for its record comes before that commit in the WAL.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use shard::client::{ConnectError, Groups};
use shard::id::GroupId;
use tokio_postgres::error::DbError;

use crate::catalogue::bootstrap::qualified;
use crate::catalogue::{Oid, Relation};
use crate::connection::{Connection, OpenError};

/// How large a block gets: a busy node then draws a few times a second, and 4,096 sequences with full blocks take 8 MiB.
const LARGEST: usize = 256;

/// How many sequences a node has blocks of. One more, and the values of the one that was used least are lost.
const SEQUENCES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A block that lasted for less was too small for its demand, one that lasted for longer too large.
const LASTS: Duration = Duration::from_secs(1);

/// The most that one statement draws at once. More are drawn in several.
const MOST: usize = 10_000;

/// Between two attempts while the home group has no leader that answers.
const PAUSE: Duration = Duration::from_millis(50);

/// The blocks of a node.
#[derive(Debug)]
pub struct Sequences {
    groups: Arc<dyn Groups>,
    blocks: Mutex<LruCache<Key, Arc<tokio::sync::Mutex<Block>>>>,
}

/// Which sequence, by whose catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    database: String,
    group: GroupId,
    oid: Oid,
}

/// Values that nobody has had yet.
#[derive(Debug, Default)]
struct Block {
    generation: i64,
    values: VecDeque<i64>,
    /// How many are drawn next, and when some were drawn last.
    size: usize,
    drawn: Option<Instant>,
}

impl Block {
    fn of(generation: i64) -> Block {
        Block {
            generation,
            ..Block::default()
        }
    }

    /// How many to draw now.
    fn next_size(&mut self) -> usize {
        let soon = self.drawn.is_some_and(|drawn| drawn.elapsed() < LASTS);
        self.size = match soon {
            true => (self.size * 2).min(LARGEST),
            false => (self.size / 2).max(1),
        };
        self.size
    }
}

/// A sequence that values are wanted of.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The database.
    pub database: &'a str,
    /// By whose catalogue it is known.
    pub group: GroupId,
    /// As that has it. It is a sequence.
    pub relation: &'a Relation,
}

impl Sequences {
    /// Without blocks.
    #[must_use]
    pub fn new(groups: Arc<dyn Groups>) -> Sequences {
        Sequences {
            groups,
            blocks: Mutex::new(LruCache::new(SEQUENCES)),
        }
    }

    /// Takes so many values, in order. Waits for a leader of the home group, if it has to be asked, for `patience`.
    ///
    /// # Errors
    /// When the home group does not answer, or as `nextval()`: 2200H where the sequence has ended. Values that were taken by then are
    /// lost.
    pub async fn draw(
        &self,
        wanted: Wanted<'_>,
        count: usize,
        patience: Duration,
    ) -> Result<Vec<i64>, DrawError> {
        let generation = wanted.relation.sequence.map_or(0, |facts| facts.generation);
        let key = Key {
            database: wanted.database.to_owned(),
            group: wanted.group,
            oid: wanted.relation.oid,
        };
        let block = {
            let mut blocks = self.blocks.lock();
            Arc::clone(blocks.get_or_insert(key, || Arc::new(tokio::sync::Mutex::new(Block::of(generation)))))
        };
        let deadline = Instant::now() + patience;
        // Whoever waits here finds values when those before it have drawn.
        let locked = tokio::time::timeout_at(deadline.into(), block.lock()).await;
        let mut block = locked.map_err(|_| DrawError::Silent)?;
        if block.generation < generation {
            *block = Block::of(generation);
        } else if block.generation > generation {
            // The statement was planned before the sequence was set, and runs beside that.
            return self.fetch(wanted, count, deadline).await;
        }
        let mut taken = Vec::with_capacity(count.min(MOST));
        loop {
            let missing = count - taken.len();
            let here = missing.min(block.values.len());
            taken.extend(block.values.drain(..here));
            if taken.len() == count {
                return Ok(taken);
            }
            let size = block.next_size().max(missing - here).min(MOST);
            let values = self.fetch(wanted, size, deadline).await?;
            block.drawn = Some(Instant::now());
            block.values.extend(values);
        }
    }

    /// Draws from the authority: at least one, or an error.
    async fn fetch(
        &self,
        wanted: Wanted<'_>,
        count: usize,
        deadline: Instant,
    ) -> Result<Vec<i64>, DrawError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let drawn = tokio::time::timeout(left, self.fetch_once(wanted, count, left)).await;
            let error = match drawn.unwrap_or(Err(DrawError::Silent)) {
                Ok(values) if values.is_empty() => DrawError::Silent,
                Ok(values) => return Ok(values),
                Err(error) => error,
            };
            // Values of an attempt that has failed are nobody's.
            let again = match &error {
                DrawError::Postgres(said) => said.as_db_error().is_none_or(is_passing),
                DrawError::Connect(_) | DrawError::Silent => true,
            };
            if !again || Instant::now() + PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "values of a sequence are drawn again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn fetch_once(
        &self,
        wanted: Wanted<'_>,
        count: usize,
        patience: Duration,
    ) -> Result<Vec<i64>, DrawError> {
        let home = self.groups.groups().first().copied().unwrap_or(wanted.group);
        let connection = Connection::open(&*self.groups, home, wanted.database, patience).await?;
        let name = qualified(&wanted.relation.schema, &wanted.relation.name);
        let count = i64::try_from(count).unwrap_or(1);
        // One transaction, which is answered when it has committed: see above.
        let row = connection
            .client
            .query_one("SELECT howdah.draw($1, $2)", &[&name, &count])
            .await?;
        let values = row.try_get(0)?;
        connection.close().await;
        Ok(values)
    }
}

/// Whether a server that goes down or comes up says so.
fn is_passing(said: &DbError) -> bool {
    matches!(said.code().code(), "57P01" | "57P02" | "57P03" | "53300")
}

/// Why no values can be had.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// The home group has no leader that can be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Its PostgreSQL refused, or the connection ended.
    #[error("the home group did not give values of the sequence")]
    Postgres(#[from] tokio_postgres::Error),
    /// It did not answer in time.
    #[error("it gives no values of a sequence, or others alter that")]
    Silent,
}

impl DrawError {
    /// What PostgreSQL has said, if it has: SQLSTATE, message, detail and hint.
    #[must_use]
    pub fn said(&self) -> Option<[Option<&str>; 4]> {
        match self {
            DrawError::Postgres(error) => error.as_db_error().map(|said| {
                [
                    Some(said.code().code()),
                    Some(said.message()),
                    said.detail(),
                    said.hint(),
                ]
            }),
            _ => None,
        }
    }
}

impl From<OpenError> for DrawError {
    fn from(error: OpenError) -> DrawError {
        match error {
            OpenError::Connect(error) => DrawError::Connect(error),
            OpenError::Postgres(error) => DrawError::Postgres(error),
        }
    }
}

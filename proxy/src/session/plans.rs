//! From a statement's text to its plan, by the catalogue and the search path of the moment.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};
use std::time::Instant;

use coordinator::catalogue::{Catalogue, CatalogueVersion};
use coordinator::slots::SlotMap;
use lru::LruCache;
use parking_lot::Mutex;

use super::Session;
use super::databases::unreadable;
use super::holes::draws_of;
use super::transaction::OwnTables;
use crate::analysis::{self, Plan, Refusal, Temporaries};
use crate::failure::{Failure, Halt};

/// Longer texts are not remembered.
const LONGEST_REMEMBERED: usize = 32 << 10;

/// By which tables a text was analysed: by which group's catalogue, that one's version, and [`Temporary::generation`].
///
/// [`Temporary::generation`]: super::temporary::Temporary::generation
pub(super) type Tables = (usize, CatalogueVersion, u64);

/// A text and what it means, as long as the catalogue, the search path and the session's temporary tables stay as they are.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(super) text: String,
    database: String,
    search_path: Arc<[String]>,
    /// With which temporary tables: those with any are their session's own.
    generation: u64,
    /// By which group's catalogue.
    place: usize,
    version: CatalogueVersion,
    /// That catalogue itself, which it does not keep: texts are remembered long after a large schema has changed.
    catalogue: Weak<Catalogue>,
    pub(super) slots: Arc<SlotMap>,
    pub(super) statements: Vec<PlannedStatement>,
    /// What stands for a text without a statement.
    empty: Result<Plan, Refusal>,
}

/// One statement of a text.
#[derive(Debug)]
pub(super) struct PlannedStatement {
    pub(super) plan: Result<Plan, Refusal>,
    pub(super) text: String,
    /// How many characters of the whole text come before it.
    pub(super) offset: usize,
    /// The highest number of its parameters.
    pub(super) parameters: usize,
}

impl Planned {
    /// The plan of a text that may have one statement only.
    pub(super) fn only(&self) -> Result<&Result<Plan, Refusal>, Failure> {
        match self.statements.as_slice() {
            [] => Ok(&self.empty),
            [one] => Ok(&one.plan),
            _ => {
                let words = "cannot insert multiple commands into a prepared statement";
                Err(Refusal::new("42601", words).into())
            }
        }
    }

    /// By which tables it was made; none where the catalogue is of a transaction only.
    pub(super) fn tables(&self) -> Option<Tables> {
        (self.version != CatalogueVersion::UNCOMMITTED).then_some((self.place, self.version, self.generation))
    }

    fn is_of(
        &self,
        place: usize,
        catalogue: &Arc<Catalogue>,
        search_path: &Arc<[String]>,
        generation: u64,
    ) -> bool {
        let committed = self.version != CatalogueVersion::UNCOMMITTED;
        let same = Weak::as_ptr(&self.catalogue) == Arc::as_ptr(catalogue)
            || committed && self.version == catalogue.version();
        self.place == place
            && self.generation == generation
            && same
            && (Arc::ptr_eq(&self.search_path, search_path) || self.search_path == *search_path)
    }

    /// Whether it is the same whatever tables there are. A transaction ends also while the catalogue
    /// cannot be read.
    pub(super) fn needs_no_tables(&self) -> bool {
        self.statements
            .iter()
            .all(|s| matches!(s.plan, Ok(Plan::Transaction(_))))
    }

    fn is_about_settings(&self) -> bool {
        self.statements
            .iter()
            .all(|s| matches!(s.plan, Ok(Plan::Session(_))))
    }

    fn has_unknown(&self) -> bool {
        self.statements
            .iter()
            .any(|s| matches!(s.plan, Ok(Plan::Judge(_) | Plan::JudgeCopied(..))))
    }
}

/// The plans of prepared statements, for all sessions of the node.
#[derive(Debug)]
pub(crate) struct PlanCache {
    hasher: RandomState,
    plans: Mutex<LruCache<u64, Arc<Planned>>>,
}

impl PlanCache {
    pub(crate) fn new(texts: usize) -> Self {
        let size = NonZeroUsize::new(texts).unwrap_or(NonZeroUsize::MIN);
        PlanCache {
            hasher: RandomState::new(),
            plans: Mutex::new(LruCache::new(size)),
        }
    }

    fn get(&self, database: &str, text: &str) -> Option<Arc<Planned>> {
        let found = self
            .plans
            .lock()
            .get(&self.hasher.hash_one((database, text)))
            .cloned();
        found.filter(|planned| planned.text == text && planned.database == database)
    }

    fn put(&self, planned: &Arc<Planned>) {
        let own = planned.version == CatalogueVersion::UNCOMMITTED || planned.generation != 0;
        if planned.text.len() <= LONGEST_REMEMBERED && !planned.has_unknown() && !own {
            let hash = self
                .hasher
                .hash_one((planned.database.as_str(), planned.text.as_str()));
            self.plans.lock().put(hash, Arc::clone(planned));
        }
    }
}

impl Session {
    /// Plans a text without parameters of the client. Where values have to be drawn for it, they are, and the text that has them is planned, and given, too.
    pub(super) async fn plan_drawn(&mut self, text: &str) -> Result<(Arc<Planned>, Option<String>), Halt> {
        let planned = self.plan(text).await?;
        let Some(draws) = draws_of(planned.only()?) else {
            return Ok((planned, None));
        };
        let values = self.draw(draws, &[]).await?;
        let drawn = draws.with_constants(&values);
        Ok((self.plan(&drawn).await?, Some(drawn)))
    }

    /// Plans a text.
    pub(super) async fn plan(&mut self, text: &str) -> Result<Arc<Planned>, Halt> {
        let database = self.database_name();
        let known = self.shared.plans.get(&database, text);
        if let Some(planned) = known.as_ref().filter(|planned| planned.needs_no_tables()) {
            return Ok(Arc::clone(planned));
        }
        self.see_temporaries().await?;
        let (temporaries, generation) = (self.temporary.names(), self.temporary.generation());
        let searched = self.search_path().await;
        let (place, catalogue) = self.tables().await?;
        let search_path = match searched {
            Ok(path) => path,
            Err(Halt::Fail(failure)) => {
                // A setting cannot be replayed, as that of a role that was dropped: RESET and DISCARD must not need it.
                let planned = analyse(
                    text,
                    &database,
                    (place, catalogue),
                    &Arc::from([]),
                    (&temporaries, generation),
                );
                return if planned.is_about_settings() {
                    Ok(Arc::new(planned))
                } else {
                    Err(Halt::Fail(failure))
                };
            }
            Err(halt) => return Err(halt),
        };
        if let Some(planned) =
            known.filter(|planned| generation == 0 && planned.is_of(place, &catalogue, &search_path, 0))
        {
            return Ok(planned);
        }
        let mut planned = analyse(
            text,
            &database,
            (place, catalogue),
            &search_path,
            (&temporaries, generation),
        );
        if planned.has_unknown() {
            // A relation may be newer than what is known.
            let deadline = Instant::now() + self.shared.limits.leader_wait;
            let refreshed = self.database.refresh(self.group(place), deadline).await;
            if refreshed.is_ok() {
                let (place, newer) = self.tables().await?;
                if !planned.is_of(place, &newer, &search_path, generation) {
                    planned = analyse(
                        text,
                        &database,
                        (place, newer),
                        &search_path,
                        (&temporaries, generation),
                    );
                }
            }
        }
        let planned = Arc::new(planned);
        self.shared.plans.put(&planned);
        Ok(planned)
    }

    /// Plans a text again that was planned before a change.
    pub(super) async fn plan_again(&mut self, planned: &Planned) -> Result<Arc<Planned>, Halt> {
        self.plan(&planned.text).await
    }

    /// Whether a plan is as the catalogue and the search path of this moment make it.
    pub(super) async fn is_current(&mut self, planned: &Planned) -> Result<bool, Halt> {
        if planned.needs_no_tables() {
            return Ok(true);
        }
        self.see_temporaries().await?;
        let search_path = self.search_path().await?;
        let (place, catalogue) = self.tables().await?;
        Ok(planned.is_of(place, &catalogue, &search_path, self.temporary.generation()))
    }

    /// The catalogue to plan by: the committed one, or as the transaction sees it that has changed it.
    ///
    /// What others commit meanwhile shows in the committed one, by its version, as soon as they are answered; then the
    /// transaction's own, which sees at READ COMMITTED what is committed, is read again.
    pub(super) async fn tables(&mut self) -> Result<(usize, Arc<Catalogue>), Halt> {
        let (place, committed) = self.catalogue().await?;
        let beside = (place, committed.version());
        let Some(transaction) = self.transaction.as_ref().filter(|t| t.defines && !t.failed) else {
            return Ok((place, committed));
        };
        if let Some(own) = transaction.tables.as_ref().filter(|own| own.beside == beside) {
            return Ok((place, Arc::clone(&own.catalogue)));
        }
        let at = self.any_place().await?;
        self.enter_bare(at).await?;
        let answer = self.ask(at, &Catalogue::query(), None).await?.unwrap_or_default();
        let damaged = |why: String| Halt::from(Failure::Catalogue(why));
        let answer = std::str::from_utf8(&answer).map_err(|error| damaged(error.to_string()))?;
        let own = Catalogue::uncommitted(answer).map_err(|error| damaged(error.to_string()))?;
        let catalogue = Arc::new(own);
        if let Some(transaction) = &mut self.transaction {
            transaction.tables = Some(OwnTables {
                catalogue: Arc::clone(&catalogue),
                beside,
            });
        }
        Ok((place, catalogue))
    }

    /// A committed catalogue: the nearest group's, another's if that has no leader.
    pub(super) async fn catalogue(&mut self) -> Result<(usize, Arc<Catalogue>), Halt> {
        if let Ok(catalogue) = self.database.current(self.group(self.nearest)) {
            return Ok((self.nearest, catalogue));
        }
        let patience = self.shared.limits.leader_wait;
        let mut why = None;
        for step in 0..self.slots.len() {
            let place = (self.nearest + step) % self.slots.len();
            let deadline = Instant::now() + if step == 0 { patience / 2 } else { patience / 4 };
            match self.database.refresh(self.group(place), deadline).await {
                Ok(catalogue) => {
                    if self.slots[self.nearest].is_none() || self.transaction.is_none() {
                        self.nearest = place;
                    }
                    return Ok((place, catalogue));
                }
                Err(stale) => why = why.or(Some(stale)),
            }
        }
        Err(match why {
            Some(stale) => unreadable(&self.database_name(), &stale).into(),
            None => Failure::Catalogue("there are no groups".to_owned()).into(),
        })
    }

    /// The schemas that are searched for names without one.
    pub(super) async fn search_path(&mut self) -> Result<Arc<[String]>, Halt> {
        /// Between names; no sane schema has it in its own.
        const BETWEEN: char = '\u{1}';
        if let Some(path) = &self.search_path {
            return Ok(Arc::clone(path));
        }
        if self.transaction.as_ref().is_some_and(|t| t.failed) {
            // Nothing but the end of the transaction can be run, and that needs no names.
            return Ok(Arc::from([]));
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        let sql =
            format!("SELECT pg_catalog.array_to_string(pg_catalog.current_schemas(false), '{BETWEEN}')");
        let value = self.ask(place, &sql, None).await?;
        let joined = value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let names = joined
            .split(BETWEEN)
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        let path: Arc<[String]> = names.collect();
        self.search_path = Some(Arc::clone(&path));
        Ok(path)
    }

    /// The text, if it can be read as it is: keys in it are hashed as the server's encoding, UTF-8,
    /// has them.
    pub(super) fn readable<'a>(&self, text: &'a [u8]) -> Result<&'a str, Failure> {
        self.readable_value(Some(text))?;
        std::str::from_utf8(text)
            .map_err(|_| Refusal::new("22021", "invalid byte sequence for encoding \"UTF8\"").into())
    }

    /// Refuses what a client's encoding makes other bytes of than the server has.
    pub(super) fn readable_value(&self, value: Option<&[u8]>) -> Result<(), Failure> {
        let Some(encoding) = self.told.parameters.get(&b"client_encoding"[..]) else {
            return Ok(());
        };
        if matches!(&encoding[..], b"UTF8" | b"SQL_ASCII") || value.is_none_or(<[u8]>::is_ascii) {
            return Ok(());
        }
        let encoding = String::from_utf8_lossy(encoding);
        Err(
            Refusal::unsupported(format!("text that is not ASCII in client encoding {encoding}"))
                .hint("SET client_encoding = 'UTF8'.")
                .into(),
        )
    }
}

fn analyse(
    text: &str,
    database: &str,
    (place, catalogue): (usize, Arc<Catalogue>),
    search_path: &Arc<[String]>,
    (temporaries, generation): (&Temporaries, u64),
) -> Planned {
    let path: Vec<&str> = search_path.iter().map(String::as_str).collect();
    let facts = analysis::Facts {
        search_path: &path,
        temporaries,
    };
    let (mut counted, mut offset) = (0, 0);
    let statements = match analysis::split(text) {
        Ok(ranges) => ranges
            .into_iter()
            .map(|range| {
                offset += text[counted..range.start].chars().count();
                counted = range.start;
                let text = &text[range];
                PlannedStatement {
                    plan: analysis::analyse(text, &facts, &catalogue),
                    text: text.to_owned(),
                    offset,
                    parameters: analysis::parameters(text),
                }
            })
            .collect(),
        Err(refusal) => vec![PlannedStatement {
            plan: Err(refusal),
            text: text.to_owned(),
            offset: 0,
            parameters: 0,
        }],
    };
    Planned {
        text: text.to_owned(),
        database: database.to_owned(),
        search_path: Arc::clone(search_path),
        generation,
        place,
        version: catalogue.version(),
        catalogue: Arc::downgrade(&catalogue),
        slots: Arc::clone(catalogue.slots()),
        statements,
        empty: Ok(Plan::Empty),
    }
}

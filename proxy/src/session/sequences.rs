//! Values of sequences in a session's statements: drawn, put where the analysis has left holes, and remembered for `currval()`.
//!
//! The session supplies them itself, from the blocks of its node ([`coordinator::sequences`]), so that a value can decide where
//! its statement runs. Only a transaction that has defined something asks the home group within itself, for others do not
//! see its sequences yet; it commits there whatever it does.
//!
//! What `currval()` and `lastval()` say is the session's and not a backend's, which changes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use coordinator::catalogue::cache::LEASE;
use coordinator::catalogue::{Catalogue, CatalogueVersion, Oid, Relation, RelationKind, Resolved};
use coordinator::sequences::{DrawError, Wanted};
use postgres_protocol::escape::escape_literal;

use super::Session;
use super::enter::Style;
use super::home::HOME;
use crate::analysis::lexer::quoted;
use crate::analysis::{self, Access, Draws, Refusal, RelationName, SequenceName, Source};
use crate::cancel::now;
use crate::failure::{Failure, Halt};

/// What a session has drawn.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    /// The last value of each sequence, with the group's place and the object id there by which it was known.
    values: HashMap<RelationName, (usize, Oid, i64)>,
    /// The sequence that was drawn from last.
    last: Option<RelationName>,
    /// That the role may use a sequence so; since when, and under which settings.
    allowed: HashMap<(RelationName, &'static str), (Instant, Under)>,
}

/// What decides as which role a session acts, and what was granted: its settings, and those of its transaction; and definitions.
type Under = (u64, usize, CatalogueVersion);

impl Drawn {
    /// DISCARD SEQUENCES.
    pub(super) fn forget(&mut self) {
        *self = Drawn::default();
    }
}

/// A source whose sequence is known.
enum Known<'a> {
    Next(&'a Relation),
    Current(&'a Relation),
    Last,
    Time(i64),
}

fn full_name(relation: &Relation) -> String {
    format!("{}.{}", quoted(&relation.schema), quoted(&relation.name))
}

/// A sequence of this name, in this catalogue.
pub(super) fn find<'a>(catalogue: &'a Catalogue, name: &RelationName) -> Result<&'a Relation, Refusal> {
    match catalogue.resolve(&[], Some(&name.schema), &name.name) {
        Resolved::Relation(relation) if relation.kind == RelationKind::Sequence => Ok(relation),
        _ => Err(Refusal::new(
            "42P01",
            format!("relation \"{}\" does not exist", name.name),
        )),
    }
}

impl Session {
    /// Values for the holes of a statement, in the order of its text. `given` has the client's parameters as text.
    pub(super) async fn draw(&mut self, draws: &Draws, given: &[Option<String>]) -> Result<Vec<i64>, Halt> {
        let (moment, began) = self.times();
        if draws.only_tells_time() {
            let mut values = vec![began; draws.holes()];
            for draw in draws.draws.iter().filter(|draw| draw.of == Source::Statement) {
                if let Some(hole) = values.get_mut(draw.hole) {
                    *hole = moment;
                }
            }
            return Ok(values);
        }
        let (place, catalogue) = self.tables().await?;
        let known = self.known(draws, given, &catalogue, (moment, began)).await?;
        let mut counts: Vec<(&Relation, usize)> = Vec::new();
        for source in &known {
            let Known::Next(relation) = source else { continue };
            match counts.iter_mut().find(|(counted, _)| counted.oid == relation.oid) {
                Some((_, count)) => *count += 1,
                None => counts.push((relation, 1)),
            }
        }
        let mut drawn: HashMap<Oid, VecDeque<i64>> = HashMap::new();
        for (relation, count) in counts {
            let values = self.values_of(place, relation, count).await?;
            drawn.insert(relation.oid, values.into());
        }
        let mut values = vec![0; draws.draws.len()];
        for (draw, source) in draws.draws.iter().zip(&known) {
            let value = match source {
                Known::Next(relation) => {
                    let values = drawn.get_mut(&relation.oid);
                    let Some(value) = values.and_then(VecDeque::pop_front) else {
                        return Err(Failure::Catalogue("a sequence gave too few values".to_owned()).into());
                    };
                    self.note_drawn(place, relation, value);
                    value
                }
                Known::Current(relation) => self.current_value(place, relation)?,
                Known::Last => self.last_value(place, &catalogue)?,
                Known::Time(time) => *time,
            };
            if let Some(hole) = values.get_mut(draw.hole) {
                *hole = value;
            }
        }
        Ok(values)
    }

    /// The time of this statement, and that of its transaction, in microseconds since 1970.
    fn times(&mut self) -> (i64, i64) {
        let micros = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let moment = now();
        let began = match &self.transaction {
            Some(transaction) => transaction.began,
            // A pipeline is one transaction, too.
            None if self.pipeline.touched.is_empty() => *self.pipeline.began.insert(moment),
            None => *self.pipeline.began.get_or_insert(moment),
        };
        (micros(moment), micros(began))
    }

    /// The sequences that a statement draws from, each of which the session's role may use so.
    async fn known<'a>(
        &mut self,
        draws: &Draws,
        given: &[Option<String>],
        catalogue: &'a Catalogue,
        (moment, began): (i64, i64),
    ) -> Result<Vec<Known<'a>>, Halt> {
        let mut known = Vec::with_capacity(draws.draws.len());
        for draw in &draws.draws {
            known.push(match &draw.of {
                Source::Next { sequence, identity } => {
                    let relation = self.named(sequence, given, catalogue).await?;
                    if !identity {
                        self.may_use(relation, "USAGE, UPDATE", catalogue).await?;
                    }
                    Known::Next(relation)
                }
                Source::Current(sequence) => {
                    let relation = self.named(sequence, given, catalogue).await?;
                    self.may_use(relation, "USAGE, SELECT", catalogue).await?;
                    Known::Current(relation)
                }
                Source::Last => Known::Last,
                Source::Transaction => Known::Time(began),
                Source::Statement => Known::Time(moment),
            });
        }
        Ok(known)
    }

    async fn named<'a>(
        &mut self,
        sequence: &SequenceName,
        given: &[Option<String>],
        catalogue: &'a Catalogue,
    ) -> Result<&'a Relation, Halt> {
        let name = match sequence {
            SequenceName::Known(name) => name.clone(),
            SequenceName::Parameter(number, _) => {
                let value = number.checked_sub(1).and_then(|at| given.get(at));
                let Some(Some(text)) = value else {
                    return Err(Refusal::unsupported("the name of a sequence cannot be NULL here").into());
                };
                self.sequence_of(text, catalogue).await?
            }
        };
        Ok(find(catalogue, &name)?)
    }

    /// The sequence that a text names.
    pub(super) async fn sequence_of(
        &mut self,
        text: &str,
        catalogue: &Catalogue,
    ) -> Result<RelationName, Halt> {
        let search_path = self.search_path().await?;
        let path: Vec<&str> = search_path.iter().map(String::as_str).collect();
        let temporaries = self.temporary.names();
        let facts = analysis::Facts {
            search_path: &path,
            temporaries: &temporaries,
        };
        Ok(analysis::sequence_of(text, &facts, catalogue)?)
    }

    /// Whether the role may use a sequence so: one of these privileges is enough. PostgreSQL is asked, and what it has said is
    /// believed for as long as a catalogue is: memberships in roles change without a word to it.
    pub(super) async fn may_use(
        &mut self,
        relation: &Relation,
        privileges: &'static str,
        catalogue: &Catalogue,
    ) -> Result<(), Halt> {
        if self.transaction.as_ref().is_some_and(|t| t.defines) {
            // It asks the home group for values, which looks itself.
            return Ok(());
        }
        let script = self.transaction.as_ref().map_or(0, |t| t.script.len());
        let under = (self.settings.latest(), script, catalogue.version());
        let key = (RelationName::of(relation), privileges);
        let known = self.sequences.allowed.get(&key);
        if known.is_some_and(|(asked, of)| asked.elapsed() < LEASE && *of == under) {
            return Ok(());
        }
        let place = self.any_place().await?;
        self.enter_bare(place).await?;
        self.join(place).await?;
        let sql = format!(
            "SELECT pg_catalog.has_sequence_privilege({}, '{privileges}')",
            escape_literal(&full_name(relation))
        );
        let asked = Instant::now();
        if self.ask(place, &sql, None).await?.as_deref() != Some(b"t") {
            let words = format!("permission denied for sequence {}", relation.name);
            return Err(Refusal::new("42501", words).into());
        }
        self.sequences.allowed.insert(key, (asked, under));
        Ok(())
    }

    /// Takes values of a sequence that the catalogue at `place` knows.
    pub(super) async fn values_of(
        &mut self,
        place: usize,
        relation: &Relation,
        count: usize,
    ) -> Result<Vec<i64>, Halt> {
        let transaction = self.transaction.as_ref();
        if transaction.is_some_and(|t| t.read_only == Some(true)) {
            let words = "cannot execute nextval() in a read-only transaction";
            return Err(Refusal::new("25006", words).into());
        }
        if transaction.is_some_and(|t| t.defines) {
            return self.values_within(relation, count).await;
        }
        let database = self.database_name();
        let wanted = Wanted {
            database: &database,
            group: self.group(place),
            relation,
        };
        let patience = self.shared.limits.leader_wait;
        let sequences = Arc::clone(&self.shared.sequences);
        sequences.draw(wanted, count, patience).await.map_err(|error| {
            let failure = match error.said() {
                Some(said) => Failure::said(said),
                None => match error {
                    DrawError::Connect(error) => error.into(),
                    other => Failure::Broken {
                        group: self.group(HOME),
                        why: other.to_string(),
                    },
                },
            };
            failure.into()
        })
    }

    /// As the transaction itself, which has written on all groups.
    async fn values_within(&mut self, relation: &Relation, count: usize) -> Result<Vec<i64>, Halt> {
        self.enter(HOME, Access::Write, Style::Simple).await?;
        let sql = format!(
            "SELECT pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.nextval({}) \
             FROM pg_catalog.generate_series(1, {count})), ',')",
            escape_literal(&full_name(relation))
        );
        let said = self.ask(HOME, &sql, None).await?.unwrap_or_default();
        let values = String::from_utf8_lossy(&said)
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<i64>, _>>();
        values.map_err(|error| Failure::Catalogue(error.to_string()).into())
    }

    /// The session has drawn this value.
    pub(super) fn note_drawn(&mut self, place: usize, relation: &Relation, value: i64) {
        self.remember(place, relation, value);
        self.sequences.last = Some(RelationName::of(relation));
    }

    pub(super) fn remember(&mut self, place: usize, relation: &Relation, value: i64) {
        let name = RelationName::of(relation);
        self.sequences.values.insert(name, (place, relation.oid, value));
    }

    /// The value that the session had last of a sequence. One that has been dropped since, and made again, is another one.
    fn current_value(&self, place: usize, relation: &Relation) -> Result<i64, Refusal> {
        let known = self.sequences.values.get(&RelationName::of(relation));
        match known {
            Some((at, oid, value)) if *at != place || *oid == relation.oid => Ok(*value),
            _ => Err(Refusal::new(
                "55000",
                format!(
                    "currval of sequence \"{}\" is not yet defined in this session",
                    relation.name
                ),
            )),
        }
    }

    fn last_value(&self, place: usize, catalogue: &Catalogue) -> Result<i64, Refusal> {
        let last = self.sequences.last.as_ref();
        let value = last.and_then(|name| self.current_value(place, find(catalogue, name).ok()?).ok());
        value.ok_or_else(|| Refusal::new("55000", "lastval is not yet defined in this session"))
    }
}

//! Temporary tables: what the session knows of those that it has, and what keeps their backend with it.
//!
//! They are on the home group, in one backend of its leader and nowhere else: nothing of them is in the WAL. PostgreSQL itself
//! runs whatever is about them; the session only has to know their names, which come before those of other tables.
//!
//! Invariants:
//! - While the session has any, or may have, it keeps its home backend. If that is lost it ends, and is told why (`home`).
//! - No name is looked up before whatever may have changed them is over, and their backend was asked.
//! - What the home backend holds prepared was parsed while it had the temporary relations that it has now. PostgreSQL parses
//!   a statement again when a table of it is gone, but not when a new one takes the place of another one.

use std::sync::Arc;

use super::Session;
use super::home::HOME;
use crate::analysis::{Access, Form, HomeUse, Plan, Query, Refusal, Spread, Target, Temporaries};
use crate::failure::{Ended, Failure, Halt};

/// The session's temporary relations.
#[derive(Debug, Default)]
pub(super) struct Temporary {
    known: Arc<Temporaries>,
    /// How often `known` has changed.
    changes: u64,
    /// Something has run since PostgreSQL was asked that may have changed them.
    stale: bool,
    /// It was a part of a transaction or pipeline that is open, whose end may undo it.
    unsettled: bool,
}

impl Temporary {
    /// Those that are known.
    pub(super) fn names(&self) -> Arc<Temporaries> {
        Arc::clone(&self.known)
    }

    /// What tells those that there are now from those of another time; 0 while there are none.
    pub(super) fn generation(&self) -> u64 {
        if self.known.is_empty() { 0 } else { self.changes }
    }

    /// Whether there may be any.
    pub(super) fn any(&self) -> bool {
        !self.known.is_empty() || self.stale || self.unsettled
    }

    /// Something that may change them has run in what is open now.
    pub(super) fn defined(&mut self) {
        (self.stale, self.unsettled) = (true, true);
    }

    /// What was open has ended, or a part of it was undone.
    pub(super) fn ended(&mut self) {
        self.stale |= self.unsettled;
    }
}

/// What a statement of one group does besides giving rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Nothing,
    /// It defines temporary relations.
    Defines,
    /// Its group asks the client for rows.
    CopiesIn,
}

impl Does {
    pub(super) fn by(form: &Form) -> Does {
        match form {
            Form::Defines => Does::Defines,
            Form::CopyIn => Does::CopiesIn,
            _ => Does::Nothing,
        }
    }
}

impl Session {
    /// Before a statement of this form goes to the home group: whether it may.
    pub(super) fn allow_definition(&mut self, form: &Form) -> Result<(), Halt> {
        if Does::by(form) != Does::Defines {
            return Ok(());
        }
        self.check_held(HOME, Access::Write, true)?;
        Ok(self.stay_at_home()?)
    }

    /// Notes that a definition of temporary relations was sent.
    pub(super) fn note_definition(&mut self) {
        if self.slots[HOME].is_none() {
            // It was not, or its end is known.
            return;
        }
        self.temporary.defined();
        self.note_unprepared(HOME);
    }

    /// What a group has to do with temporary tables keeps its part of the transaction from being prepared (XACT_FLAGS_ACCESSEDTEMPNAMESPACE
    /// in xact.c), also if it only read them.
    pub(super) fn note_unprepared(&mut self, place: usize) {
        if place == HOME
            && self.temporary.any()
            && let Some(transaction) = &mut self.transaction
        {
            transaction.cannot_prepare(place);
        }
    }

    /// Goes on after a Query or an Execute was sent.
    pub(super) async fn after_sending(&mut self, does: Does) -> Result<(), Halt> {
        match does {
            Does::Nothing => Ok(()),
            Does::Defines => {
                self.note_definition();
                Ok(())
            }
            // Until the group has asked for them nobody knows whose the client's next messages are.
            Does::CopiesIn => self.settle().await,
        }
    }

    /// Asks which temporary relations there are, if they may be others than is known.
    pub(super) async fn see_temporaries(&mut self) -> Result<(), Halt> {
        let failed = self.transaction.as_ref().is_some_and(|t| t.failed);
        if !self.temporary.stale || failed {
            return Ok(());
        }
        self.enter_bare(HOME).await?;
        let answer = self
            .ask(HOME, Temporaries::QUERY, None)
            .await?
            .unwrap_or_default();
        let now = Temporaries::read(&answer)
            .ok_or_else(|| Failure::Catalogue("PostgreSQL did not say what is temporary".to_owned()))?;
        let temporary = &mut self.temporary;
        temporary.stale = false;
        temporary.unsettled &= self.transaction.is_some() || !self.pipeline.touched.is_empty();
        if now != *temporary.known {
            temporary.known = Arc::new(now);
            temporary.changes += 1;
            if let Some(conn) = &mut self.slots[HOME] {
                conn.forget_prepared();
            }
        }
        Ok(())
    }

    /// Sees to it that what is known of them is right while the session waits for its client, so that it keeps no backend for
    /// nothing.
    pub(super) async fn settle_temporaries(&mut self) -> Result<(), Ended> {
        let copies = self.copy.is_some() || self.told.copy_in;
        if self.temporary.stale && self.transaction.is_none() && !copies && !self.is_owed() {
            match self.see_temporaries().await {
                Err(Halt::End(ended)) => return Err(ended),
                Err(Halt::Fail(failure)) => {
                    tracing::debug!(%failure, "temporary tables are not known");
                }
                Err(Halt::Skip) | Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Where PostgreSQL can read a statement: where the names are that it has.
    pub(super) async fn place_to_parse(&mut self, plan: &Result<Plan, Refusal>) -> Result<usize, Halt> {
        let Ok(Plan::Query(query)) = plan else {
            return self.any_place().await;
        };
        self.place_of(query).await
    }

    /// The same for one that is routed.
    pub(super) async fn place_of(&mut self, query: &Query) -> Result<usize, Halt> {
        match &query.target {
            Target::Home(HomeUse::Temporary) | Target::Keys(_, Spread::Home(_)) => Ok(HOME),
            _ => self.any_place().await,
        }
    }
}

//! The session's transaction: which groups take part, what a group that joins later must catch up
//! with, and which statements may go where. No I/O.

use std::sync::Arc;
use std::time::Duration;

use coordinator::catalogue::{Catalogue, CatalogueVersion};
use coordinator::cut::{Cut, CutError, Strength};

use crate::analysis::lexer::quoted;
use crate::analysis::{Access, Isolation, Refusal, Timeout, TransactionModes};
use crate::cancel::now;
use crate::failure::Failure;

/// A transaction block that the client has opened.
///
/// Invariant: `script` holds what is live, in order.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The statement that begins it on a group.
    pub(crate) begin: String,
    /// When, in microseconds since 1970: what `now()` says in all groups.
    pub(crate) began: u64,
    /// How AND CHAIN has begun it.
    inherited: Option<Inherited>,
    /// Made for a Query, or for a pipeline, and ends with it.
    pub(crate) implicit: bool,
    /// Its isolation level, as far as a statement has said.
    pub(crate) isolation: Option<Isolation>,
    /// READ ONLY, as far as a statement has said.
    pub(crate) read_only: Option<bool>,
    /// What it sees of the groups; `None` before it has joined one.
    pub(crate) view: Option<View>,
    /// What a group runs after `begin` when it joins.
    pub(crate) script: Vec<Step>,
    pub(crate) participants: Vec<Participant>,
    /// Where it has what cannot be prepared: cursors WITH HOLD that it has declared, temporary tables.
    pub(crate) unprepared: Vec<usize>,
    /// The home group, where it has taken something there: if it writes on several groups, that one is its anchor.
    pub(crate) anchor: Option<usize>,
    /// It has run NOTIFY, LISTEN or UNLISTEN there.
    pub(crate) announces: bool,
    /// Nothing but its end, or a rollback to a savepoint, is taken.
    pub(crate) failed: bool,
    /// It has failed, and holds no locks any more for which others wait.
    pub(crate) let_go: bool,
    /// A participant's connection was lost: no savepoint leads back.
    pub(crate) lost: bool,
    /// A loss that the client has not been told of.
    pub(crate) untold: Option<Failure>,
    /// It has run definitions: what tables there are others learn with its commit.
    pub(crate) defines: bool,
    /// The tables as it sees them, if they were read since its last definition.
    pub(crate) tables: Option<OwnTables>,
}

/// What a transaction has from the one before it. It keeps that when it fails, where what its own statements have said of it is
/// undone (`RestoreTransactionCharacteristics` in xact.c goes by no setting that `AtEOXact_GUC` could set back).
#[derive(Clone, Debug)]
struct Inherited {
    begin: String,
    isolation: Option<Isolation>,
    read_only: Option<bool>,
    /// SET TRANSACTION statements behind `begin`.
    modes: Vec<String>,
}

/// The catalogue as a transaction sees it that has run definitions.
#[derive(Clone, Debug)]
pub(crate) struct OwnTables {
    pub(crate) catalogue: Arc<Catalogue>,
    /// The place and the version of the committed catalogue when it was read: when that has changed, so may this have.
    pub(crate) beside: (usize, CatalogueVersion),
}

/// What a transaction sees of several groups.
#[derive(Clone, Debug)]
pub(crate) enum View {
    /// Each statement what is there when it begins (READ COMMITTED).
    Statements,
    /// One snapshot of all groups.
    Cut(Arc<Cut>),
    /// One group's own snapshot: it may not look at another.
    OneGroup(Why),
}

/// Why a transaction has no snapshot of other groups.
#[derive(Clone, Debug)]
pub(crate) enum Why {
    /// SERIALIZABLE, and not READ ONLY: nobody would notice conflicts that run through several groups.
    Serializable,
    /// No cut could be taken when it began.
    NoCut(CutError),
    /// Its level was chosen after its first statement, or behind our back.
    Late,
}

/// The cut that a transaction of this level needs; `None` where each group's own snapshot will do, or must.
pub(crate) fn strength(isolation: Isolation, read_only: Option<bool>) -> Result<Strength, View> {
    match isolation {
        Isolation::ReadCommitted => Err(View::Statements),
        Isolation::RepeatableRead => Ok(Strength::Snapshot),
        Isolation::Serializable if read_only == Some(true) => Ok(Strength::SerializableReadOnly),
        Isolation::Serializable => Err(View::OneGroup(Why::Serializable)),
    }
}

/// One step to catch up with.
#[derive(Debug)]
pub(crate) enum Step {
    /// SAVEPOINT, by its name.
    Savepoint(String),
    /// A SET; `name` is `None` for RESET ALL.
    Set {
        name: Option<String>,
        sql: String,
        local: bool,
    },
    /// SET of a timeout, which no backend is told.
    Timeout {
        timeout: Timeout,
        value: Duration,
        local: bool,
    },
    /// SET TRANSACTION.
    Modes(String),
    /// DECLARE of a cursor WITH HOLD, by its name: it outlives the transaction if that commits.
    Hold(String),
}

impl Step {
    /// What a backend runs; none where the session does it alone.
    pub(crate) fn sql(&self) -> Option<String> {
        match self {
            Step::Savepoint(name) => Some(format!("SAVEPOINT {}", quoted(name))),
            Step::Set { sql, .. } | Step::Modes(sql) => Some(sql.clone()),
            Step::Timeout { .. } | Step::Hold(_) => None,
        }
    }
}

/// A group in the transaction, by its place among the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) place: usize,
    /// A statement of the client has read or written there.
    pub(crate) touched: bool,
    pub(crate) wrote: bool,
}

impl Transaction {
    pub(crate) fn new(begin: &str, modes: TransactionModes) -> Self {
        Transaction {
            begin: begin.to_owned(),
            began: now(),
            inherited: None,
            implicit: false,
            isolation: modes.isolation,
            read_only: modes.read_only,
            view: None,
            script: Vec::new(),
            participants: Vec::new(),
            unprepared: Vec::new(),
            anchor: None,
            announces: false,
            failed: false,
            let_go: false,
            lost: false,
            untold: None,
            defines: false,
            tables: None,
        }
    }

    /// The same, begun by AND CHAIN.
    #[must_use]
    pub(crate) fn chained(mut self) -> Self {
        let modes = self.script.iter().filter_map(|step| match step {
            Step::Modes(sql) => Some(sql.clone()),
            _ => None,
        });
        self.inherited = Some(Inherited {
            begin: self.begin.clone(),
            isolation: self.isolation,
            read_only: self.read_only,
            modes: modes.collect(),
        });
        self
    }

    /// What AND CHAIN begins when this one has failed.
    ///
    /// Where the failure was within a savepoint, that alone has been undone when COMMIT or ROLLBACK looks at what the transaction is
    /// (`CommitTransactionCommand` in xact.c): the next one is what this one was at the savepoint.
    pub(crate) fn after_failure(&self) -> Self {
        let savepoint = |step: &Step| matches!(step, Step::Savepoint(_));
        if let Some(last) = self.script.iter().rposition(savepoint) {
            let modes = TransactionModes {
                isolation: self.isolation,
                read_only: self.read_only,
                deferrable: None,
            };
            let mut next = Transaction::new(&self.begin, modes);
            let before = self.script[..last].iter().filter_map(|step| match step {
                Step::Modes(sql) => Some(Step::Modes(sql.clone())),
                _ => None,
            });
            next.script = before.collect();
            return next.chained();
        }
        let Some(inherited) = &self.inherited else {
            return Transaction::new("BEGIN", TransactionModes::default());
        };
        let modes = TransactionModes {
            isolation: inherited.isolation,
            read_only: inherited.read_only,
            deferrable: None,
        };
        let mut next = Transaction::new(&inherited.begin, modes);
        next.script = inherited.modes.iter().cloned().map(Step::Modes).collect();
        next.chained()
    }

    /// One that a backend has begun by itself, for all we know: it stays there.
    pub(crate) fn adopted(place: usize, failed: bool) -> Self {
        let mut adopted = Transaction::new("BEGIN", TransactionModes::default());
        adopted.view = Some(View::OneGroup(Why::Late));
        adopted.participants.push(Participant {
            place,
            touched: true,
            wrote: true,
        });
        adopted.failed = failed;
        adopted
    }

    pub(crate) fn participates(&self, place: usize) -> bool {
        self.participants.iter().any(|p| p.place == place)
    }

    /// The group that a statement which may run anywhere should go to.
    pub(crate) fn preferred(&self) -> Option<usize> {
        self.participants
            .iter()
            .find(|p| p.touched)
            .or(self.participants.first())
            .map(|p| p.place)
    }

    /// Another group than `place` whose data the transaction has used.
    pub(crate) fn other_touched(&self, place: usize) -> Option<usize> {
        self.participants
            .iter()
            .find(|p| p.touched && p.place != place)
            .map(|p| p.place)
    }

    /// A statement with this access goes to a participant.
    pub(crate) fn use_at(&mut self, place: usize, access: Access) {
        if let Some(p) = self.participants.iter_mut().find(|p| p.place == place) {
            // What is only taken there is no data: it needs no snapshot.
            p.touched |= matches!(access, Access::Read | Access::Write);
            p.wrote |= matches!(access, Access::Write | Access::Take);
        }
    }

    /// What it does at `place` cannot be prepared.
    pub(crate) fn cannot_prepare(&mut self, place: usize) {
        if !self.unprepared.contains(&place) {
            self.unprepared.push(place);
        }
    }

    /// The connection to a participant was lost.
    pub(crate) fn lose(&mut self, place: usize) {
        self.participants.retain(|p| p.place != place);
        self.failed = true;
        self.lost = true;
    }

    /// Takes out the steps that say what kind of transaction it is.
    pub(crate) fn take_modes(&mut self) -> Vec<Step> {
        let script = std::mem::take(&mut self.script);
        let (modes, others) = script
            .into_iter()
            .partition(|step| matches!(step, Step::Modes(_)));
        self.script = others;
        modes
    }

    /// Whether several groups have a setting of it. When it fails all of them let go of that before the client hears how it stands.
    pub(crate) fn has_set_on_several(&self) -> bool {
        self.participants.len() > 1 && self.script.iter().any(|step| matches!(step, Step::Set { .. }))
    }

    /// Whether a statement of it may have made it READ ONLY.
    pub(crate) fn may_be_read_only(&self) -> bool {
        let says = |step: &Step| match step {
            Step::Modes(_) => true,
            Step::Set { name, .. } => names_read_only(name.as_deref()),
            _ => false,
        };
        self.read_only == Some(true) || self.script.iter().any(says)
    }

    /// Where the latest live savepoint of that name stands in the script.
    pub(crate) fn savepoint(&self, name: &str) -> Option<usize> {
        self.script
            .iter()
            .rposition(|step| matches!(step, Step::Savepoint(n) if n == name))
    }

    /// RELEASE of the savepoint at `position`: it and later ones are gone, settings stay.
    pub(crate) fn release(&mut self, position: usize) {
        let mut at = 0;
        self.script.retain(|step| {
            at += 1;
            at <= position || !matches!(step, Step::Savepoint(_))
        });
    }

    /// The group that already has a cursor WITH HOLD, or temporary tables, and writes, when `place` is about to be a second one.
    /// What has such cannot be prepared (`PreCommit_Portals` in portalmem.c, `PrepareTransaction` in xact.c), so of the groups
    /// that write only the anchor may. The same holds for what is taken in the home group.
    pub(crate) fn holds_elsewhere(&self, place: usize, access: Access, declares: bool) -> Option<usize> {
        let wrote = |at| self.participants.iter().any(|p| p.place == at && p.wrote);
        let holds = declares || self.unprepared.contains(&place) || self.anchor == Some(place);
        let writes = matches!(access, Access::Write | Access::Take);
        if !holds || !(writes || wrote(place)) {
            return None;
        }
        let mut others = self.unprepared.iter().copied().chain(self.anchor);
        others.find(|other| *other != place && wrote(*other))
    }

    /// Where it has nothing but what is to be told: that commits after all others.
    pub(crate) fn late(&self) -> Option<usize> {
        let place = self.anchor.filter(|_| self.announces)?;
        let only_tells = |p: &Participant| p.place == place && !p.wrote;
        self.participants.iter().any(only_tells).then_some(place)
    }

    /// The participants in the order in which they commit: those that only read first, and last the one that is not prepared.
    pub(crate) fn in_commit_order(&self) -> Vec<Participant> {
        let mut all = self.participants.clone();
        let last = |place| self.anchor == Some(place) || self.unprepared.contains(&place);
        all.sort_by_key(|p| (p.wrote, last(p.place), p.touched));
        all
    }
}

/// A transaction that needs a cut, and there is none.
pub(crate) fn no_cut(error: &CutError) -> Refusal {
    Refusal::new("57P03", error.to_string())
        .hint("Nothing of it is committed. Repeat the transaction when all groups have a leader.")
}

/// A second group that writes and has cursors WITH HOLD, or what belongs to the session at home.
pub(crate) fn held_elsewhere(first: shard::id::GroupId, second: shard::id::GroupId) -> Refusal {
    Refusal::unsupported(
        "a transaction that writes on several groups can have cursors WITH HOLD, or temporary tables, on one of them only",
    )
    .detail(format!(
        "It has such on group {first}, or something else that cannot be prepared, as an advisory lock, and this statement would \
         make group {second} another."
    ))
    .hint("Declare the cursor outside of the transaction, or without WITH HOLD.")
}

/// Whether a SET of this may make the transaction READ ONLY; none stands for all of them.
pub(crate) fn names_read_only(setting: Option<&str>) -> bool {
    setting.is_none_or(|name| name.ends_with("transaction_read_only"))
}

/// A second group in a transaction that has no snapshot of it.
pub(crate) fn second_snapshot(why: &Why, first: shard::id::GroupId, second: shard::id::GroupId) -> Refusal {
    let refusal = match why {
        Why::Serializable => {
            Refusal::unsupported("a SERIALIZABLE transaction on several groups must be READ ONLY")
                .hint("Begin it with ISOLATION LEVEL SERIALIZABLE READ ONLY, or use REPEATABLE READ.")
        }
        Why::NoCut(error) => no_cut(error),
        Why::Late => Refusal::unsupported("this transaction has a snapshot of one group only")
            .hint("Choose the isolation level in BEGIN."),
    };
    refusal.detail(format!(
        "It has used group {first}, and this statement needs group {second}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> Step {
        Step::Set {
            name: Some(name.to_owned()),
            sql: format!("SET {name} = 1"),
            local: false,
        }
    }

    #[test]
    fn release_keeps_settings_and_drops_later_savepoints() {
        let mut t = Transaction::new("BEGIN", TransactionModes::default());
        t.script = vec![
            Step::Savepoint("a".into()),
            set("x"),
            Step::Savepoint("b".into()),
            set("y"),
            Step::Savepoint("c".into()),
        ];
        t.release(t.savepoint("b").expect("live"));
        let sql: Vec<_> = t.script.iter().filter_map(Step::sql).collect();
        assert_eq!(sql, ["SAVEPOINT \"a\"", "SET x = 1", "SET y = 1"]);
    }

    /// By place, whether they wrote.
    fn with(wrote: &[bool]) -> Transaction {
        let mut t = Transaction::new("BEGIN", TransactionModes::default());
        for (place, wrote) in wrote.iter().enumerate() {
            t.participants.push(Participant {
                place,
                touched: true,
                wrote: *wrote,
            });
        }
        t
    }

    fn order(t: &Transaction) -> Vec<usize> {
        t.in_commit_order().iter().map(|p| p.place).collect()
    }

    #[test]
    fn the_writer_commits_last() {
        assert_eq!(order(&with(&[true, false])), [1, 0]);
    }

    #[test]
    fn of_the_writers_the_one_with_a_cursor_with_hold_commits_last() {
        let mut t = with(&[true, true, true]);
        t.anchor = Some(1);
        assert_eq!(order(&t), [0, 2, 1], "so does what has something at home");
        assert_eq!(t.holds_elsewhere(0, Access::Write, true), Some(1));
        let mut t = with(&[true, true, false]);
        t.unprepared = vec![0, 2];
        assert_eq!(order(&t), [2, 1, 0]);
        assert_eq!(t.holds_elsewhere(0, Access::Write, true), None, "it is the one");
        assert_eq!(t.holds_elsewhere(1, Access::Write, false), None, "it has none");
        assert_eq!(
            t.holds_elsewhere(1, Access::Read, true),
            Some(0),
            "it has written"
        );
        assert_eq!(t.holds_elsewhere(2, Access::Read, true), None, "it only reads");
        assert_eq!(t.holds_elsewhere(2, Access::Write, false), Some(0), "it has one");
    }
}

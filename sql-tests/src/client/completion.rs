//! What is certain of an operation that did not end well.
//!
//! `:fail` says that it did not take place and never will, and a checker believes it. So it is said
//! only where PostgreSQL's rules make it certain; everything else is `:info`.

use std::fmt;

use crate::history::Kind;

/// What had been sent when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing, or nothing that the server was still to answer.
    Idle,
    /// One statement outside a transaction block, which commits by itself.
    Autocommit,
    /// BEGIN, and perhaps statements, but no COMMIT.
    Open,
    /// COMMIT.
    Committing,
}

/// Whether an operation could change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only reads.
    Reads,
    /// It may write.
    Writes,
}

/// Why an operation was not carried to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The client itself gave up: it rolled back on purpose, or its condition did not hold and the
    /// statement touched nothing.
    Declined(&'static str),
    /// The server answered with an error.
    Refused {
        /// What had been sent.
        stage: Stage,
        /// SQLSTATE.
        code: String,
        /// The server's words.
        message: String,
    },
    /// No answer came: the connection broke, or the client's patience ended.
    Silent {
        /// What had been sent.
        stage: Stage,
        /// In words.
        why: String,
    },
    /// An answer came that no correct server gives.
    Wrong(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Declined(why) => write!(f, "{why}"),
            Stop::Refused { stage, code, message } => write!(f, "{code} ({stage:?}): {message}"),
            Stop::Silent { stage, why } => write!(f, "no answer ({stage:?}): {why}"),
            Stop::Wrong(what) => write!(f, "wrong answer: {what}"),
        }
    }
}

/// How such an operation completes.
#[must_use]
pub fn completion(stop: &Stop, effect: Effect) -> Kind {
    match stop {
        Stop::Declined(_) => Kind::Fail,
        Stop::Wrong(_) => Kind::Info,
        _ if effect == Effect::Reads => Kind::Fail,
        Stop::Silent { stage, .. } => match stage {
            // Without a COMMIT nothing of a block is ever kept.
            Stage::Idle | Stage::Open => Kind::Fail,
            Stage::Autocommit | Stage::Committing => Kind::Info,
        },
        Stop::Refused { stage, code, .. } => match stage {
            Stage::Idle | Stage::Open => Kind::Fail,
            Stage::Autocommit if nothing_was_sent(code) || statement_failed(code) => Kind::Fail,
            Stage::Committing if commit_failed(code) => Kind::Fail,
            Stage::Autocommit | Stage::Committing => Kind::Info,
        },
    }
}

/// 57P03: the node had no leader to send it to.
fn nothing_was_sent(code: &str) -> bool {
    code == "57P03"
}

/// Errors of the statement itself, after which PostgreSQL has rolled it back. The classes of
/// connections (08), of operators and cancels (57), of resources (53) and of the system (58, XX)
/// are not among them, nor is 40003, "statement completion unknown".
fn statement_failed(code: &str) -> bool {
    let classes = ["0A", "21", "22", "23", "25", "26", "34", "42"];
    classes.iter().any(|class| code.starts_with(class)) || is_conflict(code)
}

/// What PostgreSQL finds before it writes the commit record: a conflict, a deferred constraint, a
/// transaction that had failed.
fn commit_failed(code: &str) -> bool {
    code.starts_with("23") || code == "25P02" || is_conflict(code)
}

fn is_conflict(code: &str) -> bool {
    code == "40001" || code == "40P01"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(stage: Stage, code: &str) -> Kind {
        let stop = Stop::Refused {
            stage,
            code: code.to_owned(),
            message: String::new(),
        };
        completion(&stop, Effect::Writes)
    }

    fn silent(stage: Stage, effect: Effect) -> Kind {
        let why = String::new();
        completion(&Stop::Silent { stage, why }, effect)
    }

    #[test]
    fn before_commit_was_sent_nothing_took_place() {
        for code in ["57P03", "40001", "40P01", "08006", "57P01", "57014", "XX000"] {
            assert_eq!(refused(Stage::Open, code), Kind::Fail, "{code}");
        }
        assert_eq!(silent(Stage::Open, Effect::Writes), Kind::Fail);
    }

    #[test]
    fn after_commit_was_sent_only_a_conflict_or_a_constraint_is_certain() {
        for code in ["40001", "40P01", "23505", "25P02"] {
            assert_eq!(refused(Stage::Committing, code), Kind::Fail, "{code}");
        }
        for code in [
            "08007", "40003", "08006", "57P01", "57P02", "57P03", "57014", "53300", "58030", "XX000", "0A000",
        ] {
            assert_eq!(refused(Stage::Committing, code), Kind::Info, "{code}");
        }
        assert_eq!(silent(Stage::Committing, Effect::Writes), Kind::Info);
    }

    #[test]
    fn a_statement_that_commits_by_itself_fails_only_by_its_own_error_or_unsent() {
        for code in ["57P03", "40001", "40P01", "23505", "22P02", "42P01", "0A000"] {
            assert_eq!(refused(Stage::Autocommit, code), Kind::Fail, "{code}");
        }
        for code in [
            "08007", "40003", "08006", "08000", "57P01", "57P02", "57014", "53100", "58030", "XX000",
        ] {
            assert_eq!(refused(Stage::Autocommit, code), Kind::Info, "{code}");
        }
        assert_eq!(silent(Stage::Autocommit, Effect::Writes), Kind::Info);
    }

    #[test]
    fn a_read_that_broke_did_nothing() {
        for stage in [Stage::Idle, Stage::Autocommit, Stage::Open, Stage::Committing] {
            assert_eq!(silent(stage, Effect::Reads), Kind::Fail);
        }
    }

    #[test]
    fn what_the_client_declined_did_not_take_place_and_a_wrong_answer_proves_nothing() {
        assert_eq!(
            completion(&Stop::Declined("on purpose"), Effect::Writes),
            Kind::Fail
        );
        let wrong = Stop::Wrong("two rows of one key".to_owned());
        assert_eq!(completion(&wrong, Effect::Reads), Kind::Info);
    }
}

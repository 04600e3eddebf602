//! `EXPLAIN (HOWDAH) statement`: where a statement runs and how, as data; shown as rows of text, as EXPLAIN's are.

use std::fmt;

use coordinator::slots::SlotMap;
use shard::id::GroupId;

use super::distributed::Gathering;
use super::lexer::{Kind, Token};
use super::plan::{Access, Answers, Form, Query, Route, Spread, Target};
use super::refusal::Refusal;
use super::words::split_commas;

/// How a statement is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Its text.
    pub text: String,
    /// It is run, to say what comes of it.
    pub analyze: bool,
    groups: Groups,
    way: Way,
}

/// Which groups it runs on.
#[derive(Clone, Debug, PartialEq)]
enum Groups {
    /// Whichever the session works with: it has to do with no distributed rows.
    Any,
    /// The session's home group.
    Home,
    /// Those that the shard keys in it lead to.
    OfKeys(Vec<GroupId>),
    /// Those that its parameters lead to, or the values that PostgreSQL has to read first.
    OfValues,
    /// All: nothing in it proves a shard key.
    All,
    /// All: each has a copy of the reference table.
    Copies,
    /// It is refused.
    None(Refusal),
}

/// What happens there, where it is more than one.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    /// Each group runs it on its own rows, and what they give follows one another.
    Concatenate,
    /// Each group counts its own rows, and the counts are summed up.
    Count,
    /// Each row of VALUES goes to its group.
    Rows,
    /// Each group does all of it.
    Copy,
    /// Each group does this.
    Aggregate {
        /// The columns that it gives, and of which table.
        columns: String,
        /// Expressions and aggregates.
        values: Vec<String>,
    },
    /// Each group gives its rows in this order; how many are skipped, and given at most.
    Merge {
        order: String,
        offset: u64,
        limit: Option<u64>,
    },
    /// These are read in each group.
    Gather(Vec<String>),
    /// These are read in each group, and brought to all that change rows.
    Bring(Vec<String>),
    /// Rows whose shard keys change are deleted, and inserted where they belong then.
    Move,
    /// A SELECT runs so, and its rows go to their groups.
    Feed(Box<Explained>),
    /// Each group inserts what it selects of its own rows, where it has one snapshot with the others; else that.
    Push(Box<Explained>),
    /// One PostgreSQL computes the shard keys, by which each row of VALUES goes to its group.
    Compute,
    /// Nothing: it must be one group.
    Refuse(Refusal),
}

impl Explained {
    /// Of a planned statement, of this text, in that of the whole EXPLAIN.
    pub(super) fn of(
        query: &Query,
        (text, whole): (&str, &str),
        analyze: bool,
        slots: &SlotMap,
    ) -> Explained {
        let groups = match query.route(&[], slots, &Answers::new()) {
            _ if matches!(query.form, Form::Computes(_)) => Groups::OfValues,
            Ok(Route::Any) => Groups::Any,
            Ok(Route::Home(_)) => Groups::Home,
            Ok(Route::One(group) | Route::AtHome(group, _)) => Groups::OfKeys(vec![group]),
            Ok(Route::Several(groups)) => Groups::OfKeys(groups),
            Ok(Route::Rows(rows)) => Groups::OfKeys(rows.into_iter().map(|(group, _)| group).collect()),
            Ok(Route::All) => Groups::All,
            Ok(Route::Copies) => Groups::Copies,
            Ok(Route::Ask(_)) => Groups::OfValues,
            // It has parameters, which nobody has given.
            Err(refusal) if refusal.sqlstate == "08P01" => Groups::OfValues,
            Err(refusal) => Groups::None(refusal),
        };
        let read = |gathering: &Gathering| gathering.parts.iter().map(ToString::to_string).collect();
        let way = match (&query.target, &query.form) {
            (_, Form::Computes(_)) => Way::Compute,
            (_, Form::Moves(_)) => Way::Move,
            (_, Form::Brings(bring)) => Way::Bring(read(&bring.gathering)),
            (_, Form::Feeds(feed)) => {
                let text = feed.text(whole);
                let way = if feed.within_groups { Way::Push } else { Way::Feed };
                way(Box::new(Explained::of(
                    &feed.cut.source,
                    (text, text),
                    false,
                    slots,
                )))
            }
            (Target::Keys(_, Spread::Rows(_)), _) => Way::Rows,
            (Target::Keys(_, Spread::Refuse(refusal) | Spread::Home(refusal)), _) => {
                Way::Refuse(refusal.clone())
            }
            (Target::Copies(_), _) => Way::Copy,
            (_, Form::Count) => Way::Count,
            (_, Form::Gathered(gathering) | Form::Locks(gathering)) => {
                match (&gathering.merge, &gathering.partial) {
                    (Some(merge), _) => Way::Merge {
                        order: merge.shown(whole),
                        offset: merge.offset,
                        limit: merge.limit,
                    },
                    (None, Some(partial)) => Way::Aggregate {
                        columns: partial.to_string(),
                        values: partial.shown().collect(),
                    },
                    (None, None) => Way::Gather(read(gathering)),
                }
            }
            (_, _) => Way::Concatenate,
        };
        Explained {
            text: text.to_owned(),
            analyze,
            groups,
            way,
        }
    }

    fn is_of_several(&self) -> bool {
        match &self.groups {
            Groups::Any | Groups::Home | Groups::None(_) => false,
            Groups::OfKeys(groups) => groups.len() > 1,
            Groups::OfValues | Groups::All | Groups::Copies => true,
        }
    }

    /// What it shows.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("Groups: {}", self.groups)];
        if !self.is_of_several() {
            return lines;
        }
        let once = if matches!(self.groups, Groups::OfValues) {
            ", where they are several"
        } else {
            ""
        };
        match &self.way {
            Way::Concatenate => lines.push(format!(
                "Each group{once}: the statement, on its own rows; what they give follows one another"
            )),
            Way::Count => lines.push(format!(
                "Each group{once}: the statement; its counts are summed up"
            )),
            Way::Copy => lines.push("Each group: the statement, alike".to_owned()),
            Way::Rows => lines.push(format!("Each group{once}: its own rows of VALUES")),
            Way::Refuse(refusal) => lines.push(format!(
                "Several groups: refused, {}: {}",
                refusal.sqlstate, refusal.message
            )),
            Way::Aggregate { columns, values } => {
                lines.push(format!("Each group{once}: aggregates its own rows of {columns}"));
                lines.extend(values.iter().map(|value| format!("  gives {value}")));
                lines.push("One of them: the statement, over what they give".to_owned());
            }
            Way::Merge { order, offset, limit } => {
                let mut how = match order.as_str() {
                    "" => "one group after the other".to_owned(),
                    order => format!("by {order}"),
                };
                if *offset > 0 {
                    how.push_str(&format!(", without the first {offset}"));
                }
                if let Some(limit) = limit {
                    how.push_str(&format!(", {limit} of them"));
                }
                lines.push(format!("Each group{once}: the statement, on its own rows"));
                lines.push(format!(
                    "The node: puts their rows together as they come, {how}; where it does not know that order, one PostgreSQL does, with all of them"
                ));
            }
            Way::Gather(parts) | Way::Bring(parts) => {
                lines.push(format!("Each group{once}: reads"));
                lines.extend(parts.iter().map(|part| format!("  {part}")));
                let then = match &self.way {
                    Way::Bring(_) => "Each group: the statement, on its own rows and with all that was read",
                    _ => "One of them: the statement, over these rows",
                };
                lines.push(then.to_owned());
            }
            Way::Move => lines.extend([
                format!("Each group{once}: takes its rows out whose shard key changes"),
                "Each group: puts those in whose new keys are its own".to_owned(),
            ]),
            Way::Compute => lines.extend([
                "One group: computes the shard keys".to_owned(),
                format!("Each group{once}: its own rows of VALUES"),
            ]),
            Way::Feed(selected) | Way::Push(selected) => {
                if let Way::Push(_) = &self.way {
                    lines.push(format!("Each group{once}: the statement, on its own rows, if all have one snapshot for it; else"));
                }
                lines.push("Its SELECT:".to_owned());
                lines.extend(selected.lines().iter().map(|line| format!("  {line}")));
                lines.push("The node: sends each row to the group of its shard key".to_owned());
            }
        }
        lines
    }
}

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Groups::Any => f.write_str("any, it needs no distributed rows"),
            Groups::Home => f.write_str("the session's home group"),
            Groups::OfKeys(groups) => {
                let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
                write!(f, "{}, by shard key", groups.join(", "))
            }
            Groups::OfValues => f.write_str("by shard key, as its values say"),
            Groups::All => f.write_str("all, no shard key is given"),
            Groups::Copies => f.write_str("all, each has a copy of the reference table"),
            Groups::None(refusal) => write!(f, "none, refused, {}: {}", refusal.sqlstate, refusal.message),
        }
    }
}

/// Whether these options of EXPLAIN are for Howdah.
///
/// # Errors
/// When there are others among them, but for ANALYZE.
pub(super) fn is_asked_for(options: &[Token]) -> Result<bool, Refusal> {
    let names: Vec<&str> = split_commas(options)
        .into_iter()
        .filter_map(|option| match &option.first()?.kind {
            Kind::Word(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    if !names.contains(&"howdah") {
        return Ok(false);
    }
    match names
        .iter()
        .find(|name| !["howdah", "analyze", "analyse"].contains(name))
    {
        Some(other) => Err(Refusal::unsupported(format!(
            "EXPLAIN (HOWDAH) with {} is not supported",
            other.to_uppercase()
        ))
        .hint("Leave it out.")),
        None => Ok(true),
    }
}

/// Whether a statement may be shown so: it reads, or writes rows.
pub(super) fn can_be(query: &Query) -> bool {
    let routed = matches!(
        query.form,
        Form::Plain
            | Form::Count
            | Form::Gathered(_)
            | Form::Locks(_)
            | Form::Moves(_)
            | Form::Brings(_)
            | Form::Feeds(_)
            | Form::Computes(_)
    );
    routed && matches!(query.access, Access::Read | Access::Write)
}

//! What each driver's checks came to, as data: `sql-tests/drivers/outcomes.tsv`, and README's table, which is made from it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::Result;

/// What a check says when all is as it must be.
pub const OK: &str = "ok";
const HEADER: &str = "driver\tcheck\tPostgreSQL\tHowdah\tdifference";
const BEGIN: &str =
    "<!-- drivers: made from sql-tests/drivers/outcomes.tsv by `must-show drivers record` -->";
const END: &str = "<!-- end of drivers -->";

/// One check of one driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whose.
    pub driver: String,
    /// Which.
    pub check: String,
    /// What it came to on one PostgreSQL.
    pub plain: String,
    /// And on a cluster of two groups.
    pub howdah: String,
    /// Why they differ, in words of ours; empty where they do not.
    pub difference: String,
}

/// All of them, in the order in which they are run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(pub Vec<Outcome>);

impl Outcomes {
    /// The recorded ones.
    ///
    /// # Errors
    /// Where the file is not what it should be.
    pub fn recorded() -> Result<Outcomes> {
        Outcomes::parse(&std::fs::read_to_string(super::folder().join("outcomes.tsv"))?)
    }

    fn parse(text: &str) -> Result<Outcomes> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err("outcomes.tsv does not begin with its header".into());
        }
        let parsed = lines.map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [driver, check, plain, howdah, difference] = fields[..] else {
                return Err(format!("outcomes.tsv: not five fields: {line}").into());
            };
            Ok(Outcome {
                driver: driver.to_owned(),
                check: check.to_owned(),
                plain: plain.to_owned(),
                howdah: howdah.to_owned(),
                difference: difference.to_owned(),
            })
        });
        Ok(Outcomes(parsed.collect::<Result<_>>()?))
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for Outcome {
            driver,
            check,
            plain,
            howdah,
            difference,
        } in &self.0
        {
            text.push_str(&format!("{driver}\t{check}\t{plain}\t{howdah}\t{difference}\n"));
        }
        text
    }

    /// Takes over the words for differences that were recorded before.
    pub fn explain_as(&mut self, recorded: &Outcomes) {
        for outcome in &mut self.0 {
            let same = recorded
                .0
                .iter()
                .find(|known| known.driver == outcome.driver && known.check == outcome.check);
            if let Some(known) = same
                && outcome.plain != outcome.howdah
            {
                outcome.difference.clone_from(&known.difference);
            }
        }
    }

    /// What must not be: a scenario that fails on PostgreSQL itself, a difference without a word on it, or one that is gone.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        for outcome in &self.0 {
            let what = format!("{}: {}", outcome.driver, outcome.check);
            if outcome.plain != OK {
                found.push(format!("{what}: on PostgreSQL itself: {}", outcome.plain));
            } else if (outcome.howdah == OK) != outcome.difference.is_empty() {
                found.push(format!(
                    "{what}: {}: the words on it are: {:?}",
                    outcome.howdah, outcome.difference
                ));
            }
        }
        found
    }

    /// What came out otherwise than it was recorded.
    #[must_use]
    pub fn changes_since(&self, recorded: &Outcomes) -> Vec<String> {
        let by_name = |outcomes: &Outcomes| -> BTreeMap<(String, String), (String, String)> {
            let all = outcomes.0.iter().cloned();
            all.map(|o| ((o.driver, o.check), (o.plain, o.howdah))).collect()
        };
        let (now, before) = (by_name(self), by_name(recorded));
        let names: std::collections::BTreeSet<_> = now.keys().chain(before.keys()).collect();
        let changed = names
            .into_iter()
            .filter(|name| now.get(*name) != before.get(*name));
        changed
            .map(|name| {
                format!(
                    "{}: {}: {:?}, recorded {:?}",
                    name.0,
                    name.1,
                    now.get(name),
                    before.get(name)
                )
            })
            .collect()
    }

    /// Writes the file and README's table.
    ///
    /// # Errors
    /// Where they cannot be written, or README has no place for the table.
    pub fn record(&self) -> Result<()> {
        std::fs::write(super::folder().join("outcomes.tsv"), self.text())?;
        let readme = readme();
        let text = std::fs::read_to_string(&readme)?;
        let (before, rest) = text
            .split_once(BEGIN)
            .ok_or("README.md has no place for the table")?;
        let (_, after) = rest.split_once(END).ok_or("README.md's table does not end")?;
        std::fs::write(&readme, format!("{before}{BEGIN}\n{}{END}{after}", self.table()))?;
        Ok(())
    }

    /// Whether README shows the table of these.
    ///
    /// # Errors
    /// Where README cannot be read.
    pub fn are_in_readme(&self) -> Result<bool> {
        let text = std::fs::read_to_string(readme())?;
        Ok(text.contains(&format!("{BEGIN}\n{}{END}", self.table())))
    }

    /// A line for each driver: how much works as on PostgreSQL, and what does not.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = "\n| | checks that pass, as on PostgreSQL | the others |\n|---|---|---|\n".to_owned();
        let mut drivers: Vec<&str> = Vec::new();
        for outcome in &self.0 {
            if !drivers.contains(&outcome.driver.as_str()) {
                drivers.push(&outcome.driver);
            }
        }
        for driver in drivers {
            let all: Vec<_> = self.0.iter().filter(|outcome| outcome.driver == driver).collect();
            let passed = all.iter().filter(|outcome| outcome.howdah == OK).count();
            let others: Vec<&str> = all
                .iter()
                .filter(|outcome| outcome.howdah != OK)
                .map(|outcome| outcome.check.as_str())
                .collect();
            let _ = writeln!(
                table,
                "| {driver} | {passed} of {} | {} |",
                all.len(),
                others.join(", ")
            );
        }
        table.push('\n');
        table
    }
}

fn readme() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(check: &str, howdah: &str, difference: &str) -> Outcome {
        Outcome {
            driver: "d".to_owned(),
            check: check.to_owned(),
            plain: OK.to_owned(),
            howdah: howdah.to_owned(),
            difference: difference.to_owned(),
        }
    }

    #[test]
    fn a_difference_needs_a_word_and_a_word_a_difference() {
        let outcomes = Outcomes(vec![
            outcome("a", "ok", ""),
            outcome("b", "0A000 no", "not yet"),
            outcome("c", "0A000 no", ""),
            outcome("e", "ok", "not yet"),
        ]);
        assert_eq!(outcomes.complaints().len(), 2, "{:?}", outcomes.complaints());
        assert_eq!(Outcomes::parse(&outcomes.text()).unwrap(), outcomes);
        assert!(outcomes.table().contains("| d | 2 of 4 | b, c |"));
    }

    #[test]
    fn what_is_recorded_is_explained_and_in_the_readme() {
        let recorded = Outcomes::recorded().unwrap();
        assert_eq!(recorded.complaints(), Vec::<String>::new());
        assert!(
            recorded.are_in_readme().unwrap(),
            "README's table is not that of outcomes.tsv: record it again"
        );
    }
}

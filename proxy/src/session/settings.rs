//! The session's own settings, which every backend of the session must have.

/// SETs and RESETs in the order in which a new backend must run them, the last of each name only.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    entries: Vec<Setting>,
    latest: u64,
}

#[derive(Debug)]
struct Setting {
    number: u64,
    name: String,
    sql: String,
}

impl Settings {
    /// The number of the latest change; 0 before the first.
    pub(crate) fn latest(&self) -> u64 {
        self.latest
    }

    /// A statement that has changed `name` took effect; `None` for a RESET ALL.
    ///
    /// It leaves the roles as they are (GUC_NO_RESET_ALL in guc.c).
    pub(crate) fn record(&mut self, name: Option<&str>, sql: &str) {
        self.latest += 1;
        self.entries.retain(|entry| match name {
            Some(name) => entry.name != name,
            None => is_role(&entry.name),
        });
        let name = name.unwrap_or_default().to_owned();
        self.entries.push(Setting {
            number: self.latest,
            name,
            sql: sql.to_owned(),
        });
    }

    /// All is as it was at the start (DISCARD ALL).
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.record(None, RESET);
    }

    /// What a backend that has seen the changes up to `seen` must run, with the number of each, but for what is about to be
    /// undone.
    pub(crate) fn since(&self, seen: u64, undone: Undone<'_>) -> Vec<(u64, String)> {
        self.entries
            .iter()
            .filter(|entry| entry.number > seen && !undone.covers(&entry.name))
            .map(|entry| (entry.number, entry.sql.clone()))
            .collect()
    }
}

/// Undoes what another session has set.
pub(crate) const RESET: &str = "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

/// Which settings the next statement replaces: they need not be there before it, and cannot be where a role is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undone<'a> {
    Nothing,
    One(&'a str),
    /// RESET ALL.
    AllButRoles,
    /// DISCARD ALL.
    All,
}

impl Undone<'_> {
    fn covers(self, name: &str) -> bool {
        match self {
            Undone::Nothing => false,
            Undone::One(undone) => undone == name,
            Undone::AllButRoles => !is_role(name),
            Undone::All => true,
        }
    }
}

fn is_role(name: &str) -> bool {
    name == "role" || name == "session_authorization"
}

#[cfg(test)]
mod tests {
    use super::{RESET, Settings, Undone};

    fn since(settings: &Settings, seen: u64) -> Vec<String> {
        let since = settings.since(seen, Undone::Nothing);
        since.into_iter().map(|(_, sql)| sql).collect()
    }

    #[test]
    fn a_new_backend_runs_the_last_of_each_name_in_order() {
        let mut settings = Settings::default();
        settings.record(Some("a"), "SET a = 1");
        settings.record(Some("b"), "SET b = 1");
        settings.record(Some("a"), "SET a = 2");
        assert_eq!(since(&settings, 0), ["SET b = 1", "SET a = 2"]);
        assert_eq!(since(&settings, 2), ["SET a = 2"]);
        assert_eq!(settings.since(0, Undone::One("b")), [(3, "SET a = 2".to_owned())]);
        settings.clear();
        assert_eq!(since(&settings, 3), [RESET]);
    }

    #[test]
    fn reset_all_leaves_the_role_and_discard_all_does_not() {
        let mut settings = Settings::default();
        settings.record(Some("a"), "SET a = 1");
        settings.record(Some("role"), "SET ROLE r");
        assert_eq!(
            settings.since(0, Undone::AllButRoles),
            [(2, "SET ROLE r".to_owned())]
        );
        settings.record(None, "RESET ALL");
        assert_eq!(since(&settings, 0), ["SET ROLE r", "RESET ALL"]);
        assert!(settings.since(0, Undone::All).is_empty());
        settings.clear();
        assert_eq!(since(&settings, 0), [RESET]);
    }
}

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
    pub(crate) fn record(&mut self, name: Option<&str>, sql: &str) {
        self.latest += 1;
        match name {
            Some(name) => self.entries.retain(|entry| entry.name != name),
            None => self.entries.clear(),
        }
        let name = name.unwrap_or_default().to_owned();
        self.entries.push(Setting {
            number: self.latest,
            name,
            sql: sql.to_owned(),
        });
    }

    /// All is as it was at the start (DISCARD ALL).
    pub(crate) fn clear(&mut self) {
        self.record(None, "RESET ALL");
    }

    /// What a backend that has seen the changes up to `seen` must run.
    pub(crate) fn since(&self, seen: u64) -> Vec<String> {
        self.entries
            .iter()
            .filter(|entry| entry.number > seen)
            .map(|entry| entry.sql.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn a_new_backend_runs_the_last_of_each_name_in_order() {
        let mut settings = Settings::default();
        settings.record(Some("a"), "SET a = 1");
        settings.record(Some("b"), "SET b = 1");
        settings.record(Some("a"), "SET a = 2");
        assert_eq!(settings.since(0), ["SET b = 1", "SET a = 2"]);
        assert_eq!(settings.since(2), ["SET a = 2"]);
        settings.clear();
        assert_eq!(settings.since(3), ["RESET ALL"]);
    }
}

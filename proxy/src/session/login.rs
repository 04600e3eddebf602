//! Who a client says it is, and what it asks for with that: the start-up packet.

use std::borrow::Cow;

use super::conn::Parameters;
use crate::analysis::{Refusal, check_setting};
use crate::failure::Failure;

/// Names are cut to this many bytes, as PostgreSQL does (NAMEDATALEN - 1): rules must see the name that it will see.
const LONGEST_NAME: usize = 63;

/// Who a client says it is.
pub(super) struct Login {
    pub(super) user: Vec<u8>,
    pub(super) database: Vec<u8>,
    /// The minor version of protocol 3 that it asks for.
    pub(super) minor: i32,
    /// The start-up message of its backends.
    pub(super) parameters: Parameters,
    /// Names of protocol extensions, none of which is known.
    pub(super) extensions: Vec<Vec<u8>>,
}

impl Login {
    pub(super) fn read(minor: i32, parameters: Parameters) -> Result<Login, Failure> {
        let (extensions, mut parameters): (Parameters, Parameters) = parameters
            .into_iter()
            .partition(|(name, _)| name.starts_with(b"_pq_."));
        check(&parameters)?;
        // The last of several counts, as in PostgreSQL; and it must be the only one that a backend hears of.
        let mut take = |wanted: &[u8]| {
            let mut found = None;
            parameters.retain(|(name, value)| {
                if name == wanted {
                    found = Some(value[..value.len().min(LONGEST_NAME)].to_vec());
                }
                name != wanted
            });
            found.filter(|value| !value.is_empty())
        };
        let Some(user) = take(b"user") else {
            let words = "no PostgreSQL user name specified in startup packet";
            return Err(Refusal::new("28000", words).into());
        };
        let database = take(b"database").unwrap_or_else(|| user.clone());
        take(b"replication");
        parameters.push((b"user".to_vec(), user.clone()));
        parameters.push((b"database".to_vec(), database.clone()));
        Ok(Login {
            user,
            database,
            minor,
            parameters,
            extensions: extensions.into_iter().map(|(name, _)| name).collect(),
        })
    }

    pub(super) fn user_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.user)
    }

    /// Empty where it says none.
    pub(super) fn application_name(&self) -> String {
        let named = |(name, _): &&(Vec<u8>, Vec<u8>)| name == b"application_name";
        let found = self.parameters.iter().rfind(named);
        found.map_or_else(String::new, |(_, value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    }

    pub(super) fn database_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.database)
    }
}

/// Refuses what a session may not begin with.
pub(super) fn check(parameters: &Parameters) -> Result<(), Failure> {
    for (name, value) in parameters {
        let name = String::from_utf8_lossy(name);
        let value = String::from_utf8_lossy(value);
        match &*name {
            "replication" => {
                let value = value.to_ascii_lowercase();
                if !matches!(&*value, "false" | "off" | "no" | "0" | "f" | "n") {
                    return Err(Refusal::unsupported("replication connections are not supported")
                        .hint("Howdah replicates by itself; read the data with SQL or COPY.")
                        .into());
                }
            }
            "user" | "database" => {}
            "options" => {
                for (name, value) in settings_in(&value) {
                    check_setting(&name, &[value])?;
                }
            }
            name => check_setting(name, &[value.into_owned()])?,
        }
    }
    Ok(())
}

/// The settings in command-line options as `-c name=value` or `--name=value` (`pg_split_opts`,
/// `process_postgres_switches`).
pub(super) fn settings_in(options: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().expect("there is always a last word");
        match letter {
            '\\' => word.extend(letters.next()),
            space if space.is_ascii_whitespace() => words.push(String::new()),
            other => word.push(other),
        }
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => continue,
        };
        if let Some((name, value)) = setting.split_once('=') {
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NAME, Login, settings_in};

    fn login(parameters: &[(&str, &str)]) -> Login {
        let owned = parameters
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Login::read(0, owned.collect()).expect("it may begin so")
    }

    /// Else a client could prove that it is the one and be let in as the other.
    #[test]
    fn a_backend_hears_of_one_user_and_one_database_those_that_were_looked_at() {
        let login = login(&[
            ("user", "ada"),
            ("database", "a"),
            ("user", "eve"),
            ("database", "b"),
        ]);
        assert_eq!((&*login.user_text(), &*login.database_text()), ("eve", "b"));
        let parameters = [("user", "eve"), ("database", "b")];
        let expected = parameters.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        assert_eq!(login.parameters, expected);
    }

    /// PostgreSQL cuts them, too: a rule must not look at a longer name than it does.
    #[test]
    fn long_names_are_cut_before_anybody_looks_at_them() {
        let login = login(&[("user", &"x".repeat(100))]);
        assert_eq!(login.user, [b'x'; LONGEST_NAME]);
        assert_eq!(login.database, login.user);
        assert!(
            login
                .parameters
                .iter()
                .all(|(_, value)| value.len() <= LONGEST_NAME)
        );
    }

    #[test]
    fn settings_are_found_in_options() {
        let found = settings_in("-c a=1 -cb=2  --c-d=x\\ y -e 5");
        let expected = [("a", "1"), ("b", "2"), ("c_d", "x y")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}

//! Finds PostgreSQL's programs on this machine.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Error;

/// Major versions that Howdah works with.
const SUPPORTED: std::ops::RangeInclusive<u32> = 14..=18;

/// Folders of distributions that hold one folder for each major version: before and after it.
const VERSIONED_FOLDERS: [(&str, &str); 2] = [
    ("/usr/lib/postgresql/", "/bin"), // Debian, Ubuntu
    ("/usr/pgsql-", "/bin"),          // PostgreSQL's own packages for Fedora, RHEL
];

/// Folders that hold one version, whichever.
const PLAIN_FOLDERS: [&str; 3] = ["/usr/local/pgsql/bin", "/usr/libexec/postgresql", "/usr/bin"];

/// Programs without which a folder is no server installation.
const NEEDED: [&str; 5] = [
    "postgres",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
    "pg_controldata",
];

/// A PostgreSQL version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 15 of 15.13: what decides about formats.
    pub major: u32,
    /// 13 of 15.13; 0 for a beta.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder of `postgres`, `initdb`, ...
    pub bin_dir: PathBuf,
    /// What `postgres --version` says.
    pub version: Version,
}

impl Installation {
    /// The configured folder, and nothing else, where there is one; else the first supported
    /// PostgreSQL on PATH; else the newest supported one in the distributions' folders.
    ///
    /// Runs `postgres --version`, which takes milliseconds.
    pub fn find(configured: Option<&Path>) -> Result<Installation, Error> {
        if let Some(folder) = configured {
            return probe(folder).unwrap_or_else(|| not_installed(&[folder.to_owned()]));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let on_path: Vec<PathBuf> = env::split_paths(&path).collect();
        let usual = usual_folders();
        let mut refused = None;
        for folders in [&on_path, &usual] {
            for folder in folders {
                match probe(folder) {
                    Some(Ok(found)) => return Ok(found),
                    Some(Err(error)) => refused = Some(error),
                    None => {}
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None => not_installed(&[on_path, usual].concat()),
        }
    }

    /// One of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

fn not_installed(looked_in: &[PathBuf]) -> Result<Installation, Error> {
    let names: Vec<String> = looked_in
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    Err(Error::NotInstalled {
        looked_in: names.join(", "),
    })
}

/// Newest version first.
fn usual_folders() -> Vec<PathBuf> {
    let versions = SUPPORTED.rev().flat_map(|major| {
        VERSIONED_FOLDERS
            .iter()
            .map(move |(before, after)| PathBuf::from(format!("{before}{major}{after}")))
    });
    versions
        .chain(PLAIN_FOLDERS.iter().map(PathBuf::from))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// None where the folder holds no server installation.
fn probe(folder: &Path) -> Option<Result<Installation, Error>> {
    // PATH may lead to a link farm (/usr/bin/postgres); its target's folder has all programs.
    let program = fs::canonicalize(folder.join("postgres")).ok()?;
    let bin_dir = program.parent()?.to_owned();
    if !NEEDED.iter().all(|name| bin_dir.join(name).is_file()) {
        return None;
    }
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Some(match parse_version(&text) {
        Some(version) if SUPPORTED.contains(&version.major) => Ok(Installation { bin_dir, version }),
        _ => Err(Error::UnsupportedVersion {
            bin_dir,
            version: text,
        }),
    })
}

/// `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(text: &str) -> Option<Version> {
    let number = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (major, rest) = number.split_at(digits(number));
    let rest = rest.strip_prefix('.').unwrap_or("");
    Some(Version {
        major: major.parse().ok()?,
        minor: rest[..digits(rest)].parse().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_understood() {
        let cases = [
            (
                "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)",
                Some((15, 13)),
            ),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 9.6.24", Some((9, 6))),
            ("postgres (EnterpriseDB) 15", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(major, minor)| Version { major, minor });
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn a_folder_without_postgresql_is_refused_in_words_that_name_the_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = Installation::find(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
        assert!(error.contains(&empty.path().display().to_string()), "{error}");
    }

    #[test]
    fn the_postgresql_of_this_machine_is_found() {
        let found = Installation::find(None).unwrap();
        assert!(SUPPORTED.contains(&found.version.major));
        assert!(found.program("initdb").is_file());
    }
}

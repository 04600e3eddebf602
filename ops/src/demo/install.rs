//! Whether PostgreSQL's server programs are here, before anything is started.

use std::path::{Path, PathBuf};

use super::error::DemoError;

/// Finds the folder with `postgres` and `initdb`: in PATH, or where Debian puts them.
pub(super) fn find() -> Result<PathBuf, DemoError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(debian_folders())
        .find(|folder| has(folder, "postgres") && has(folder, "initdb"))
        .ok_or(DemoError::NoPostgres)
}

fn has(folder: &Path, program: &str) -> bool {
    folder.join(program).is_file()
}

/// `/usr/lib/postgresql/VERSION/bin`, newest first.
fn debian_folders() -> Vec<PathBuf> {
    let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.into_iter().map(|(_, folder)| folder).collect()
}

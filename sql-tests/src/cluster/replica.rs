//! The way to one replica's own PostgreSQL, past its node.

use std::fs;
use std::path::{Path, PathBuf};

use tokio_postgres::{Client, Config, NoTls};

use crate::Result;

/// Connects to the postmaster with this process id, whose data lies somewhere below `data_dir`.
///
/// `postmaster.pid` tells where it listens: line 1 is its process id, line 4 its port, line 5 the
/// folder of its socket (PostgreSQL's `miscadmin.h`, `LOCK_FILE_LINE_...`).
pub(super) async fn connect(data_dir: PathBuf, postmaster: u32) -> Result<Client> {
    let mut found = Vec::new();
    pid_files_below(&data_dir, 4, &mut found);
    for file in found {
        let text = fs::read_to_string(&file)?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let (Some(pid), Some(port), Some(folder)) = (lines.first(), lines.get(3), lines.get(4)) else {
            continue;
        };
        if pid.parse() != Ok(postmaster) {
            continue;
        }
        let mut config = Config::new();
        config
            .host_path(folder)
            .port(port.parse()?)
            .user("postgres")
            .dbname("postgres");
        config.application_name("test");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        return Ok(client);
    }
    Err(format!(
        "no postmaster.pid of process {postmaster} below {}",
        data_dir.display()
    )
    .into())
}

fn pid_files_below(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let file = folder.join("postmaster.pid");
    if file.is_file() {
        found.push(file);
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    if depth > 0 {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            pid_files_below(&entry.path(), depth - 1, found);
        }
    }
}

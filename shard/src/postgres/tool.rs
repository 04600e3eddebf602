//! Runs PostgreSQL's programs to their end: bounded in time and memory, nothing left behind.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::process::Process;

/// Lines of a program's error output that are kept.
const KEPT_LINES: usize = 200;
/// Lines of it that an error shows.
const SHOWN_LINES: usize = 6;
/// Bytes of a program's output that are kept; `pg_controldata` writes 3 KiB.
const KEPT_OUTPUT: u64 = 256 * 1024;

/// A program that failed.
#[derive(Debug, thiserror::Error)]
#[error("{program} {outcome}: {stderr}")]
pub struct ToolError {
    /// `initdb`, `pg_basebackup`, ...
    pub program: String,
    /// "exit status: 1", "could not be started", "took longer than 60s".
    pub outcome: String,
    /// The last lines that it wrote to its error output, joined by " | ".
    pub stderr: String,
}

/// What a program wrote.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: Vec<String>,
}

/// Ends the program when the future that runs it is dropped.
struct KillOnDrop(Arc<Process>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill_group();
    }
}

/// Runs `command` for at most `patience`; `program` is its name for messages.
pub(super) async fn run(
    program: &Path,
    mut command: Command,
    patience: Duration,
) -> Result<Output, ToolError> {
    let name = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    let failed = |outcome: String, lines: &[String]| ToolError {
        program: name.clone(),
        outcome,
        stderr: lines[lines.len().saturating_sub(SHOWN_LINES)..].join(" | "),
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (process, pipes) =
        Process::spawn(command).map_err(|error| failed(format!("could not be started: {error}"), &[]))?;
    let guard = KillOnDrop(process.clone());
    let stdout = pipes
        .stdout
        .map(tokio::process::ChildStdout::from_std)
        .transpose();
    let stderr = pipes
        .stderr
        .map(tokio::process::ChildStderr::from_std)
        .transpose();
    let (stdout, stderr) = match (stdout, stderr) {
        (Ok(Some(stdout)), Ok(Some(stderr))) => (stdout, stderr),
        _ => return Err(failed("could not be listened to".to_owned(), &[])),
    };
    let mut lines = VecDeque::new();
    let ended = tokio::time::timeout(patience, async {
        let (stdout, ()) = tokio::join!(read_output(stdout), read_lines(stderr, &name, &mut lines));
        (stdout, process.exited().wait().await)
    })
    .await;
    drop(guard);
    let lines = Vec::from(lines);
    match ended {
        Err(_) => Err(failed(format!("took longer than {patience:?}"), &lines)),
        Ok((stdout, status)) if status.success() => Ok(Output {
            stdout,
            stderr: lines,
        }),
        Ok((_, status)) => Err(failed(format!("failed ({status})"), &lines)),
    }
}

async fn read_output(stdout: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut limited = stdout.take(KEPT_OUTPUT);
    // A failed read ends the output; the exit status tells the rest.
    drop(limited.read_to_end(&mut bytes).await);
    drop(tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_lines(mut stderr: impl AsyncRead + Unpin, program: &str, kept: &mut VecDeque<String>) {
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = match stderr.read(&mut chunk).await {
            Ok(count) if count > 0 => count,
            _ => break,
        };
        for &byte in &chunk[..count] {
            if matches!(byte, b'\n' | b'\r') || pending.len() >= chunk.len() {
                keep_line(&std::mem::take(&mut pending), program, kept);
            } else {
                pending.push(byte);
            }
        }
    }
    keep_line(&pending, program, kept);
}

fn keep_line(line: &[u8], program: &str, kept: &mut VecDeque<String>) {
    let line = String::from_utf8_lossy(line).trim().to_owned();
    // "12345/67890 kB (18%), 0/1 tablespace": progress is told, not kept.
    if line.contains(" kB (") {
        tracing::info!("{program}: {line}");
    } else if !line.is_empty() {
        tracing::debug!("{program}: {line}");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

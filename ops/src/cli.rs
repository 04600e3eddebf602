//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::config::{NodeConfig, Overrides};
use crate::{certificates, demo, in_doubt, logging, node, signals, status, switchover};

/// Howdah makes many PostgreSQL servers one database.
#[derive(Debug, Parser)]
#[command(name = "howdah", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster until SIGTERM or Ctrl-C; SIGHUP has it read its configuration again.
    Node(NodeArgs),
    /// Read a node's configuration and say whether it can be used.
    CheckConfig(ConfigArgs),
    /// Make a certificate authority for a cluster, and with it a certificate for each of its nodes.
    Init(certificates::InitArgs),
    /// Issue one more certificate, or one anew: for a new node, or before one expires.
    Cert(certificates::CertArgs),
    /// Run a whole cluster on this machine until Ctrl-C; the data stays for the next start.
    Demo(demo::Args),
    /// Show nodes, groups, leaders and positions of a cluster.
    Status(status::Args),
    /// Hand the leadership of a group to another node, while all is well.
    Switchover(switchover::Args),
    /// List transactions across groups that are prepared and not settled: none while all is well.
    InDoubt(in_doubt::Args),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// The configuration file (TOML).
    #[arg(long, env = "HOWDAH_CONFIG")]
    config: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also stop when standard input closes: whoever started the node is gone then.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// Does what the arguments say, the first of which is the program's name.
///
/// Prints to standard output and error. The exit code is 0 where all went well, 2 for a usage or
/// configuration error, 1 for everything else.
pub fn main_from<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    match Cli::parse_from(args).command {
        Command::Node(args) => run_node(args),
        Command::CheckConfig(args) => check_config(&args),
        Command::Init(args) => report(certificates::init(args).map_err(Into::into)),
        Command::Cert(args) => report(certificates::issue(args).map_err(Into::into)),
        Command::Demo(args) => report(with_runtime(demo::run(args))),
        Command::Status(args) => report(with_runtime(status::run(args))),
        Command::Switchover(args) => report(with_runtime(switchover::run(args))),
        Command::InDoubt(args) => report(with_runtime(in_doubt::run(args))),
    }
}

fn run_node(args: NodeArgs) -> ExitCode {
    let config = match NodeConfig::load(&args.config.config, &args.config.overrides) {
        Ok(config) => config,
        Err(error) => return complain(&error, 2),
    };
    let logging = logging::start(&config.log);
    report(with_runtime(async move {
        let shutdown = signals::stop_requested_not_by_hangup();
        if args.until_stdin_closes {
            signals::stop_when_stdin_closes(shutdown.clone());
        }
        node::run(config, logging, shutdown)
            .await
            .map(|()| ExitCode::SUCCESS)
    }))
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn check_config(args: &ConfigArgs) -> ExitCode {
    match NodeConfig::load(&args.config, &args.overrides) {
        Ok(config) => {
            let tls = match &config.shard.tls {
                Some(tls) => format!("TLS between nodes with a certificate until {}", tls.expires()),
                None => "no TLS between nodes".to_owned(),
            };
            println!(
                "{}: good: node {} of {} in cluster {}, {} groups, {tls}",
                args.config.display(),
                config.shard.node,
                config.shard.nodes.len(),
                config.shard.cluster,
                config.shard.groups.len(),
            );
            ExitCode::SUCCESS
        }
        Err(error) => complain(&error, 2),
    }
}

/// Runs a command's future to its end.
fn with_runtime<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, Box<dyn std::error::Error>>
where
    E: std::error::Error + 'static,
{
    let runtime = Runtime::new()?;
    let result = runtime.block_on(future);
    // A thread may sit in a blocking read of standard input for ever.
    runtime.shutdown_background();
    result.map_err(Into::into)
}

fn report(result: Result<ExitCode, Box<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => complain(error.as_ref(), 1),
    }
}

/// One line with the error and what caused it.
#[expect(clippy::print_stderr, reason = "the command line's answer")]
fn complain(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("howdah: {}", whole(error));
    ExitCode::from(code)
}

/// An error with its causes, each told once.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

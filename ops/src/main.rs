//! The `howdah` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ops::main_from(std::env::args_os())
}

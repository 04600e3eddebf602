//! Consistency tests: `cargo run --release -p sql-tests -- append --nemesis all --time 60 --seed 1`.
//!
//! Also acts as `howdah` itself, so that what it tests is what it was built with.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if sql_tests::run::program_is_node(&arguments) {
        return ops::main_from(arguments);
    }
    sql_tests::run::main_from(arguments)
}

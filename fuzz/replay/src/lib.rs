//! Runs a fuzz target over its corpus, and over seeded mutations of it, as an ordinary test.
//!
//! cargo-fuzz searches; this remembers. What a search found lies in `fuzz/corpus/<target>` and is tried at
//! every test, and so are a few thousand inputs near it, always the same ones.

mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use mutate::Mutator;

/// The mutations that are tried of a target where nothing else is asked for.
const MUTATIONS: u32 = 4000;
/// The environment's word for another number of them, for a longer search without cargo-fuzz.
const MUTATIONS_VARIABLE: &str = "HOWDAH_FUZZ_MUTATIONS";
/// After this long no more mutations are tried, unless their number was asked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Gives `run` every file of the target's corpus, then mutations of them.
///
/// # Panics
/// Where `run` does; the input is then in a file that the message names. And where there is no corpus.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let files = corpus(target);
    assert!(!files.is_empty(), "fuzz/corpus/{target} holds nothing");
    let inputs: Vec<Vec<u8>> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    run_one(target, &run, &[]);
    for (path, bytes) in &files {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(bytes))) {
            panic_with(panic, &format!("{target} fails on {}", path.display()));
        }
    }
    let asked: Option<u32> = std::env::var(MUTATIONS_VARIABLE)
        .ok()
        .map(|text| text.parse().expect("HOWDAH_FUZZ_MUTATIONS is a number"));
    let began = Instant::now();
    let mut mutator = Mutator::new(target);
    for _ in 0..asked.unwrap_or(MUTATIONS) {
        if asked.is_none() && began.elapsed() > PATIENCE {
            break;
        }
        run_one(target, &run, &mutator.mutation(&inputs));
    }
}

/// The files of a target's corpus, by name.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(PathBuf, Vec<u8>)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .map(|path| {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, bytes)
        })
        .collect();
    files.sort();
    files
}

fn run_one(target: &str, run: &impl Fn(&[u8]), input: &[u8]) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) else {
        return;
    };
    let path = std::env::temp_dir().join(format!("howdah-fuzz-{target}-{}", std::process::id()));
    let kept = fs::write(&path, input);
    panic_with(
        panic,
        &format!(
            "{target} fails on a mutation; kept in {} ({kept:?})",
            path.display()
        ),
    );
}

#[expect(
    clippy::print_stderr,
    reason = "a test says what its input was; the panic goes on unchanged"
)]
fn panic_with(panic: Box<dyn std::any::Any + Send>, what: &str) -> ! {
    eprintln!("{what}");
    resume_unwind(panic)
}

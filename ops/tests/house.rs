//! The house stays tidy: what no lint checks, this does.

#![expect(clippy::unwrap_used, reason = "in a test, a failed step is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// The crates, lowest first: each may use those before it.
const DIRECTION: [&str; 6] = ["shard", "coordinator", "proxy", "ops", "sql-tests", "benches"];
/// Lines of a source file, without the tests at its end, above which ARCHITECTURE.md must say why.
const LONG_FILE: usize = 800;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["common", "util", "utils", "helpers", "misc"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn sources_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of ours, with its path from the root and its text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in DIRECTION {
        for part in ["src", "tests", "benches"] {
            sources_below(&root().join(name).join(part), &mut found);
        }
    }
    for folder in ["fuzz/fuzz_targets", "fuzz/replay/src"] {
        sources_below(&root().join(folder), &mut found);
    }
    found.sort();
    assert!(found.len() > 20, "the sources were not found");
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(named).collect()
}

/// Fails with every complaint, one a line.
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn a_crate_uses_only_those_below_it() {
    let mut complaints = Vec::new();
    for (place, name) in DIRECTION.iter().enumerate() {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for above in &DIRECTION[place + 1..] {
            if manifest
                .lines()
                .any(|line| line.starts_with(&format!("{above}.")))
            {
                complaints.push(format!("{name} uses {above}, which is above it"));
            }
        }
    }
    none(complaints);
}

#[test]
fn a_file_says_what_it_is_and_is_not_too_long() {
    let mut complaints = Vec::new();
    let reasons = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    for (name, text) in sources() {
        if name.contains("tests") {
            continue;
        }
        if !text.starts_with("//!") {
            complaints.push(format!("{name}: does not begin with what it is (//!)"));
        }
        let own = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        if own > LONG_FILE && !reasons.contains(&name) {
            complaints.push(format!(
                "{name}: {own} lines without its tests, more than {LONG_FILE}, and no reason in ARCHITECTURE.md"
            ));
        }
    }
    none(complaints);
}

#[test]
fn names_and_folders_stay_plain() {
    let mut complaints = Vec::new();
    for (name, _) in sources() {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap();
        if EMPTY_NAMES.contains(&stem)
            || EMPTY_NAMES
                .iter()
                .any(|empty| name.contains(&format!("/{empty}/")))
        {
            complaints.push(format!("{name}: a name that says nothing"));
        }
        // crate/src/a/b/file.rs
        if name.split('/').count() > 5 {
            complaints.push(format!("{name}: too deep"));
        }
    }
    none(complaints);
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    let mut complaints = Vec::new();
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["X", "XX"].concat(),
    ];
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                complaints.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
            if line.contains('\t') || line.ends_with(' ') {
                complaints.push(format!("{name}:{}: a tab or a space at the end", number + 1));
            }
        }
    }
    none(complaints);
}

#[test]
fn the_operators_scripts_are_sound_bash() {
    for script in [
        "ops/demo",
        "ops/test",
        "ops/bench",
        "ops/prepare.sh",
        "sql-tests/drivers/prepare.sh",
        "sql-tests/drivers/psql/scenario.sh",
        ".ci/run",
    ] {
        let checked = std::process::Command::new("bash")
            .arg("-n")
            .arg(root().join(script))
            .status()
            .unwrap();
        assert!(checked.success(), "{script}");
    }
}

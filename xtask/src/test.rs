//! The step `test`: all tests of the workspace, and what they did not check on this machine.
//!
//! A test that cannot check something says so by `kpkeys_skips::skip!`, which adds a line to a file that is named to it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::step::Outcome;
use crate::{command, workspace};

/// All of them, even after a failure, so that one run shows every test that fails.
pub fn run() -> Result<Outcome> {
    let file = workspace::target_dir()?.join("skips");
    let ran = with_skips(&file, &["test", "--workspace", "--no-fail-fast"]);
    let skips = skips_in(&fs::read_to_string(&file).unwrap_or_default());
    // Where a test failed too, the summary has no place for them.
    if ran.is_err() {
        skips.iter().for_each(|skip| println!("skipped: {skip}"));
    }
    ran.map(|()| if skips.is_empty() { Outcome::Done } else { Outcome::Skipped(skips) })
}

fn with_skips(file: &Path, arguments: &[&str]) -> Result<()> {
    fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    command::run(command::cargo(arguments).env(kpkeys_skips::FILE, file))
}

/// Each once, by name: a check may be skipped for every program that it is tried with.
pub fn skips_in(text: &str) -> Vec<String> {
    let mut skips: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("skipped: ")).map(str::to_owned).collect();
    skips.sort();
    skips.dedup();
    skips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_sorted_and_counted_once() {
        let text = "skipped: b::x: no perf\nskipped: a::y: no strace\nskipped: b::x: no perf\n";
        assert_eq!(skips_in(text), ["a::y: no strace", "b::x: no perf"]);
        assert!(skips_in("").is_empty());
    }
}

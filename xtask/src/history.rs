//! `cargo xtask history DIR`: what the gate on instructions said at each commit, for `kpkeys history`.
//!
//! The counts of a commit are the file that was committed with it, so that nothing has to be built again. Lines are added, never changed:
//! what is there already stays.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;
use crate::instructions::{self, Baseline};

/// Where the counts go to.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder of the history; its file is instructions.jsonl
    folder: PathBuf,
}

/// Adds the commits that are missing.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.folder.join("instructions.jsonl");
    fs::create_dir_all(&arguments.folder)
        .with_context(|| format!("cannot make {}", arguments.folder.display()))?;
    let known = known(&path)?;
    let counts = instructions::FILE;
    let log = git(&["log", "--reverse", "--format=%H %cI", "--", counts])?;
    let mut lines = String::new();
    for commit in log.lines() {
        let Some((commit, date)) = commit.split_once(' ') else { continue };
        if known.contains(commit) {
            continue;
        }
        let text = git(&["show", &format!("{commit}:{counts}")])?;
        let Ok(baseline) = toml::from_str::<Baseline>(&text) else {
            println!("{commit}: its {counts} is not of this form, and left out");
            continue;
        };
        lines += &line(commit, date, &baseline);
    }
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    file.write_all(lines.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "{}: {} commits added, {} were there",
        path.display(),
        lines.lines().count(),
        known.len()
    );
    Ok(())
}

fn git(arguments: &[&str]) -> Result<String> {
    command::output(&mut command::program("git", arguments))
}

fn line(commit: &str, date: &str, baseline: &Baseline) -> String {
    let compiler = format!("{}, {}", baseline.compiler, baseline.target);
    let counts = &baseline.counts;
    format!(
        "{}\n",
        json!({ "commit": commit, "date": date, "compiler": compiler, "counts": counts })
    )
}

/// The commits that have a line.
fn known(path: &Path) -> Result<BTreeSet<String>> {
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let commit = |(index, line): (usize, &str)| {
        let line: Value = serde_json::from_str(line)
            .with_context(|| format!("{}:{}: not JSON", path.display(), index + 1))?;
        Ok(line["commit"].as_str().unwrap_or_default().to_owned())
    };
    text.lines().enumerate().map(commit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_commit_has_one_line_however_often_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments { folder: folder.path().to_owned() };
        run(&arguments).unwrap();
        let path = folder.path().join("instructions.jsonl");
        let first = fs::read_to_string(&path).unwrap();
        run(&arguments).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        assert_eq!(known(&path).unwrap().len(), first.lines().count());
    }
}

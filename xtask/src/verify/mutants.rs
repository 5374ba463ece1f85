//! The stage `mutants`: cargo-mutants changes crates whose tests are quick, an operator or a function at a time, and some test must fail of each change.
//!
//! Changes that no test can find, since the program does the same or nothing is said of the difference, are listed in `verify/mutants.toml` with the reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::Arguments;
use crate::{command, workspace};

const PACKAGES: [&str; 2] = ["kpkeys-handover", "kpkeys-program"];

/// Tests that start a compiler would take longer than all others, and documentation is compiled as slowly.
const TESTS: [&str; 5] = ["--", "--tests", "--", "--skip", "misuse_does_not_compile"];

/// What cargo-mutants ends with if all went well but that some change was not found, or a test did not end for one.
const SOME_MISSED: [i32; 2] = [2, 3];

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    same: Vec<Same>,
    #[serde(default)]
    elsewhere: Vec<Elsewhere>,
}

/// A change that is not to be found.
#[derive(Deserialize)]
struct Same {
    /// As cargo-mutants names it, without line and column.
    mutant: String,
    why: String,
}

/// Changes of code that does not run where these tests do, which are not made.
#[derive(Deserialize)]
struct Elsewhere {
    /// A regular expression of what cargo-mutants names them.
    mutants: String,
    why: String,
}

/// What is missing to run it.
pub fn missing() -> Option<String> {
    (!command::succeeds(&mut command::cargo(&["mutants", "--version"])))
        .then(|| "cargo-mutants; cargo install --locked cargo-mutants".to_owned())
}

/// Changes all packages that the arguments select.
pub fn run(arguments: &Arguments) -> Result<()> {
    let packages: Vec<_> =
        PACKAGES.into_iter().filter(|name| name.contains(&arguments.target)).collect();
    ensure!(!packages.is_empty(), "no package has `{}` in its name", arguments.target);
    let File { same: known, elsewhere } = known()?;
    let folder = workspace::target_dir()?.join("mutants");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut cargo = command::cargo(&["mutants", "--all-features", "--colors", "never", "--output"]);
    cargo.arg(&folder).args(packages.iter().flat_map(|name| ["--package", name]));
    cargo.args(elsewhere.iter().flat_map(|left| ["--exclude-re", &left.mutants])).args(TESTS);
    let line = command::describe(&cargo);
    println!("$ {line}");
    let status = cargo.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() && !status.code().is_some_and(|code| SOME_MISSED.contains(&code)) {
        bail!("`{line}`: {status}");
    }
    for Elsewhere { mutants, why } in &elsewhere {
        println!("left out: {mutants}: {why}");
    }
    judge(&folder.join("mutants.out"), &known)
}

fn known() -> Result<File> {
    let path = workspace::root().join("verify/mutants.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no list", path.display()))
}

/// Holds what was missed against what is known.
fn judge(results: &Path, known: &[Same]) -> Result<()> {
    let lines = |name: &str| -> Result<BTreeSet<String>> {
        let path = results.join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let missed = lines("missed.txt")?;
    let (same, new): (Vec<_>, Vec<_>) =
        missed.iter().partition(|line| known.iter().any(|same| same.mutant == without_place(line)));
    let [caught, hung, unviable] =
        [lines("caught.txt")?, lines("timeout.txt")?, lines("unviable.txt")?].map(|all| all.len());
    println!(
        "{} changes: {caught} found, {hung} by a test that does not end, {} known to be no \
         difference, {} missed; {unviable} do not compile",
        missed.len() + caught + hung,
        same.len(),
        new.len()
    );
    for line in &same {
        let why = known.iter().find(|same| same.mutant == without_place(line));
        println!("  no difference: {line}: {}", why.map_or("", |same| &same.why));
    }
    for line in &new {
        println!("  missed: {line}");
    }
    ensure!(new.is_empty(), "{} changes were found by no test", new.len());
    Ok(())
}

/// A change's name without line and column, which others move.
fn without_place(line: &str) -> String {
    let mut parts = line.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(change)) => format!("{file}:{change}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_wherever_it_stands_by_now() {
        let line = "crates/program/src/elf.rs:12:34: replace < with <= in load";
        assert_eq!(without_place(line), "crates/program/src/elf.rs: replace < with <= in load");
        assert_eq!(without_place("what is this"), "what is this");
    }

    #[test]
    fn every_reason_is_of_a_file_that_is_there() {
        let File { same, elsewhere } = known().unwrap();
        for Same { mutant, why } in same {
            let file = mutant.split(':').next().unwrap();
            assert!(workspace::root().join(file).is_file(), "{mutant}");
            assert!(!why.is_empty(), "{mutant}");
        }
        for Elsewhere { mutants, why } in elsewhere {
            let file = mutants.split(':').next().unwrap();
            assert!(workspace::root().join(file).is_file(), "{mutants}");
            assert!(!why.is_empty(), "{mutants}");
        }
    }

    #[test]
    fn what_is_missed_and_not_known_fails() {
        let folder = std::env::temp_dir().join(format!("kpkeys-mutants-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("missed.txt", "a.rs:1:2: replace < with <=\n"),
            ("caught.txt", "a.rs:1:2: replace < with >\n"),
            ("timeout.txt", ""),
            ("unviable.txt", ""),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let known = [Same { mutant: "a.rs: replace < with <=".into(), why: "both end".into() }];
        let judged = (judge(&folder, &known), judge(&folder, &[]));
        fs::remove_dir_all(&folder).unwrap();
        judged.0.unwrap();
        assert_eq!(judged.1.unwrap_err().to_string(), "1 changes were found by no test");
    }
}

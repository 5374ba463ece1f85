//! The stage `faults`: each fault of `verify/faults.toml` is planted, and must be found by the stage that it names.
//!
//! A fault of the source is planted in a copy, which is built; one of a kernel that uses the crates is planted in the model, by its name. Before, the same parts
//! of the stages must hold without a fault.
//!
//! | file | concept |
//! |---|---|
//! | `copy` | a copy of the sources, and planting in it |
//! | `judge` | what a stage says, and what counts as found |

mod copy;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::workspace;
use copy::Copy;
use judge::{Verdict, judge};

#[derive(Deserialize)]
struct File {
    fault: Vec<Fault>,
}

#[derive(Clone, Deserialize)]
struct Fault {
    name: String,
    #[serde(flatten)]
    planted: Planted,
    stage: Stage,
    /// What of the stage must find it.
    of: Vec<String>,
    /// For the stage `protocol`: how many disturbances it takes.
    #[serde(default = "one")]
    disturbances: u8,
}

impl Fault {
    /// Whether the model finds it within seconds, once it is built.
    fn is_quick(&self) -> bool {
        self.stage == Stage::Protocol
            && self.disturbances == 1
            && !self.of.iter().any(|part| part == "Program" || part == "Sweep")
    }
}

fn one() -> u8 {
    1
}

/// Where a fault is planted.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Planted {
    /// In a file: `find`, which stands there once, is replaced.
    Source { file: String, find: String, replace: String },
    /// In the kernel that the stage `protocol` runs: a fault of the model.
    Kernel { kernel: String },
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// `of` are parts of an exploration's name.
    Protocol,
    /// `of` is a part of a property's name.
    Proofs,
    /// `of` are a package, its test target, and a part of a test's name.
    Tests,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Protocol => "protocol",
            Stage::Proofs => "proofs",
            Stage::Tests => "tests",
        }
    }
}

/// Plants the faults whose names contain one of `parts`, or all, one after the other.
pub fn run(parts: &[String]) -> Result<()> {
    plant(&select(read()?, parts)?)
}

/// Plants two that need no package: one of the model's kernel and one of the source, which a number chooses.
pub fn run_some(number: u64) -> Result<()> {
    let faults: Vec<_> = read()?.into_iter().filter(Fault::is_quick).collect();
    let (kernel, source): (Vec<_>, Vec<_>) =
        faults.into_iter().partition(|fault| matches!(fault.planted, Planted::Kernel { .. }));
    let chosen = |faults: Vec<Fault>| {
        let count = faults.len().max(1) as u64;
        faults.into_iter().nth((number % count) as usize)
    };
    plant(&[kernel, source].into_iter().filter_map(chosen).collect::<Vec<_>>())
}

fn plant(faults: &[Fault]) -> Result<()> {
    let begun = Instant::now();
    let copy = Copy::make()?;
    hold_without_fault(&copy, faults)?;
    println!("without a fault all of it holds, {:.0} s", begun.elapsed().as_secs_f64());
    let mut found = BTreeMap::<Stage, usize>::new();
    for fault in faults {
        let begun = Instant::now();
        let verdict = copy.with(fault, || judge(&copy, fault))?;
        let (word, what) = match verdict {
            Verdict::Found(what) => ("found", what),
            Verdict::NotFound(what) => ("MISSED", what),
            Verdict::Held => ("MISSED", "everything holds".to_owned()),
        };
        *found.entry(fault.stage).or_default() += usize::from(word == "found");
        let (name, stage, took) = (&fault.name, fault.stage.name(), begun.elapsed().as_secs_f64());
        println!("{word:<7} {stage:<9} {took:>4.0} s  {name}: {what}");
    }
    let by_stage: Vec<_> =
        found.iter().map(|(stage, count)| format!("{count} by {}", stage.name())).collect();
    let sum: usize = found.values().sum();
    println!(
        "{sum} of {} faults found: {}; {:.0} s",
        faults.len(),
        by_stage.join(", "),
        begun.elapsed().as_secs_f64()
    );
    ensure!(sum == faults.len(), "{} faults were not found", faults.len() - sum);
    Ok(())
}

/// Those whose names contain one of `parts`, all if there are none, in the order of stages, so that each stage's builds follow one another.
fn select(mut faults: Vec<Fault>, parts: &[String]) -> Result<Vec<Fault>> {
    for part in parts {
        let has = faults.iter().any(|fault| fault.name.contains(part));
        ensure!(has, "no fault has `{part}` in its name");
    }
    faults.retain(|fault| parts.is_empty() || parts.iter().any(|part| fault.name.contains(part)));
    faults.sort_by_key(|fault| fault.stage);
    Ok(faults)
}

/// What is to find faults must hold without any. (With one disturbance each: more take hours to explore to their end.)
fn hold_without_fault(copy: &Copy, faults: &[Fault]) -> Result<()> {
    for (stage, of) in parts(faults) {
        match judge::of(copy, stage, &of, None, 1)? {
            Verdict::Held => {}
            Verdict::Found(what) | Verdict::NotFound(what) => {
                bail!("without a fault, {} of {of:?} does not hold: {what}", stage.name())
            }
        }
    }
    Ok(())
}

/// What is to find faults, once each; all tests of a target together.
fn parts(faults: &[Fault]) -> BTreeSet<(Stage, Vec<String>)> {
    let mut tests = BTreeMap::<_, BTreeSet<_>>::new();
    let mut parts = BTreeSet::new();
    for Fault { stage, of, .. } in faults {
        match (stage, of.as_slice()) {
            (Stage::Tests, [package, target, of]) => {
                tests.entry([package, target]).or_default().insert(of);
            }
            _ => {
                parts.insert((*stage, of.clone()));
            }
        }
    }
    let tests = tests
        .into_iter()
        .map(|(target, tests)| (Stage::Tests, target.into_iter().chain(tests).cloned().collect()));
    parts.extend(tests);
    parts
}

fn read() -> Result<Vec<Fault>> {
    let file = workspace::root().join("verify/faults.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let file: File = toml::from_str(&text).context("verify/faults.toml")?;
    Ok(file.fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the source that moves a fault's place shows at once, not when the stage is asked for.
    #[test]
    fn every_fault_has_its_place_in_the_source() {
        let faults = read().unwrap();
        let names: BTreeSet<_> = faults.iter().map(|fault| &fault.name).collect();
        assert_eq!(names.len(), faults.len(), "every fault has a name of its own");
        let model = workspace::root().join("verify/protocol/src/fault.rs");
        let model = fs::read_to_string(model).unwrap();
        for fault in &faults {
            match &fault.planted {
                Planted::Source { file, .. } => {
                    let source = fs::read_to_string(workspace::root().join(file)).unwrap();
                    assert_ne!(copy::planted(&source, fault).unwrap(), source, "{}", fault.name);
                }
                Planted::Kernel { kernel } => {
                    assert!(model.contains(&format!("Fault::{kernel},")), "{kernel}");
                    assert_eq!(fault.stage, Stage::Protocol, "{}", fault.name);
                }
            }
        }
    }

    #[test]
    fn there_are_as_many_faults_as_are_promised_and_the_crash_of_the_series_is_one() {
        let faults = read().unwrap();
        assert!(faults.len() >= 40, "{}", faults.len());
        let crash = faults.iter().find(|fault| fault.name.contains("v4"));
        assert!(matches!(&crash.unwrap().planted, Planted::Kernel { .. }));
        for fault in faults.iter().filter(|fault| fault.stage == Stage::Tests) {
            assert_eq!(fault.of.len(), 3, "{}: package, target, test", fault.name);
        }
    }
}

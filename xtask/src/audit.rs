//! The step `audit`: the kernel's images have no instruction that can write a protection register but those in a committed list.
//!
//! `cargo xtask audit` writes the lists anew. They are for one compiler, which inlines as it does; with another one there is nothing to
//! compare, and the step says so.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kpkeys_audit::{Difference, Known, Report};
use kpkeys_emulator::{Kernel, Target};

use crate::step::Outcome;
use crate::{kernel, workspace};

/// Compares each image with its list.
pub fn check() -> Result<Outcome> {
    let mut skipped = Vec::new();
    let mut different = 0;
    for (target, report) in reports()? {
        let file = list(target);
        let known =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let known = Known::parse(&known).with_context(|| file.display().to_string())?;
        if known.producer != report.producer {
            skipped.push(target.name());
            continue;
        }
        let differences = known.compare(&report);
        differences.iter().for_each(|difference| describe(target, difference));
        different += differences.len();
        println!("{}: {} sites", target.name(), report.sites.len());
    }
    match (different, &skipped[..]) {
        (0, []) => Ok(Outcome::Done),
        (0, skipped) => {
            let skip = |target| format!("audit of {target}: the list is for another compiler");
            Ok(Outcome::Skipped(skipped.iter().map(skip).collect()))
        }
        (count, _) => bail!(
            "{count} differences from the lists in kernel/audit; if each is meant: cargo xtask audit"
        ),
    }
}

/// Writes the lists anew.
pub fn update() -> Result<()> {
    for (target, report) in reports()? {
        let file = list(target);
        let text = format!("{HEAD}{}", Known::of(&report).to_toml());
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{}: {} sites", file.display(), report.sites.len());
    }
    Ok(())
}

/// What a list begins with.
const HEAD: &str = "# Instructions of the kernel's image that can write what protection depends on. Written by `cargo xtask audit`.\n";

/// What is in the image of each target.
fn reports() -> Result<Vec<(Target, Report)>> {
    kernel::build()?;
    Target::ALL.into_iter().map(|target| Ok((target, audit(target)?))).collect()
}

fn audit(target: Target) -> Result<Report> {
    let file = Kernel::build(target)?.elf().to_owned();
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    kpkeys_audit::audit(&bytes).with_context(|| file.display().to_string())
}

fn list(target: Target) -> PathBuf {
    workspace::root().join(format!("kernel/audit/{}.toml", target.entry_format()))
}

fn describe(target: Target, difference: &Difference) {
    let Difference { kind, function, value, found, listed } = difference;
    let word = if difference.is_unknown() { "unknown" } else { "missing" };
    println!(
        "{}: {word}: {kind} {value}, {found} found, {listed} listed, in {function}",
        target.name()
    );
}

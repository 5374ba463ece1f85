//! busybox's own test-suite, for the applets that Debian's static busybox has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kpkeys_emulator::Kernel;
use kpkeys_pgtable::Mode;
use kpkeys_program::initramfs::Writer;

use super::boot::Boot;
use super::{architecture, busybox, root};
use crate::command;
use crate::debian::{Apt, SourcePart};
use crate::workspace;

/// What the suite says on Linux of what does not pass there, and how many tests pass. The file says how it was made.
const ON_LINUX: &str = include_str!("guest/busybox-suite.txt");
/// Makes links for all applets, then runs the tests of all.
const SCRIPT: &str = "busybox --install -s /bin; cd /work/busybox/testsuite; ./runtest";

/// Runs the suite and compares what it says.
pub fn run(kernel: &Kernel, mode: Mode) -> Result<()> {
    let archive = archive(architecture(kernel.target()))?;
    let limit = Duration::from_secs(3600);
    let boot = Boot { memory_mib: 512, limit, ..Boot::new(kernel, &archive, mode) };
    // Tests that fail on Linux fail here, so that the suite ends with a failure.
    let ended = boot.run(SCRIPT)?;
    let said = Verdicts::of(ended.printed.iter().map(String::as_str));
    let expected = Verdicts::of(ON_LINUX.lines());
    let differences = said.differences(&expected);
    let (name, mode, passed) = (kernel.target().name(), mode.name(), said.passed);
    ensure!(
        differences.is_empty() && ended.is_well(1),
        "{name}, {mode}: busybox's test-suite ended with {:?}, {:?}, checker clean: {}; other than on Linux: {differences:#?}",
        ended.status,
        ended.outcome,
        ended.is_clean
    );
    println!(
        "{name}, {mode}: busybox's test-suite: {passed} pass, {} do not, as on Linux",
        said.others.len()
    );
    Ok(())
}

/// What a run of the suite said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdicts {
    /// How many tests passed.
    passed: usize,
    /// The lines of those that did not: failed, skipped, untested.
    others: Vec<String>,
}

impl Verdicts {
    fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut verdicts = Self::default();
        for line in lines {
            match line.split_once(": ") {
                Some(("PASS", "*")) => {}
                Some(("PASS", _)) => verdicts.passed += 1,
                Some(("PASSES", count)) => verdicts.passed = count.parse().unwrap_or(0),
                Some(("FAIL" | "SKIPPED" | "UNTESTED", _)) => verdicts.others.push(line.to_owned()),
                _ => {}
            }
        }
        verdicts.others.sort();
        verdicts
    }

    /// What is in one and not in the other.
    fn differences(&self, expected: &Self) -> Vec<String> {
        let only = |of: &Self, other: &Self, place: &str| -> Vec<String> {
            let lines = of.others.iter().filter(|line| !other.others.contains(line));
            lines.map(|line| format!("{place}: {line}")).collect()
        };
        let mut differences = only(self, expected, "here alone");
        differences.extend(only(expected, self, "on Linux alone"));
        if self.passed != expected.passed {
            differences.push(format!("{} pass, on Linux {}", self.passed, expected.passed));
        }
        differences
    }
}

/// An archive with busybox, its test-suite, and the configuration that Debian builds it with, by which the suite leaves out what is not there.
fn archive(architecture: &'static str) -> Result<PathBuf> {
    let folder = workspace::target_dir()?.join("programs").join(architecture);
    let apt = Apt::new(architecture, folder.clone())?;
    let root = folder.join("suite-root");
    let place = root.join("work/busybox");
    if !place.join("busybox").exists() {
        fs::create_dir_all(&place)?;
        fs::create_dir_all(root.join("tmp"))?;
        let source = apt.source(busybox::SOURCE, SourcePart::Original)?;
        unpack(&source, &place, "--wildcards", "*/testsuite")?;
        let packaging = apt.source(busybox::SOURCE, SourcePart::Packaging)?;
        unpack(&packaging, &place, "--wildcards", "debian/config/pkg/static")?;
        fs::copy(place.join("config/pkg/static"), place.join(".config"))?;
        fs::write(place.join("busybox"), busybox::program(&apt)?)?;
        command::run(command::program("chmod", &["755", "busybox"]).current_dir(&place))?;
    }
    let mut archive = Writer::new();
    archive.directory("bin");
    archive.program("bin/busybox", &fs::read(place.join("busybox"))?);
    archive.link("bin/sh", "busybox");
    root::add(&mut archive, &root, Path::new(""))?;
    let file = folder.join("suite.cpio");
    fs::write(&file, archive.finish())?;
    println!("{}", file.display());
    Ok(file)
}

fn unpack(source: &Path, to: &Path, option: &str, what: &str) -> Result<()> {
    let mut tar = command::program("tar", &["--strip-components=1", option, "-xf"]);
    let shown = source.display();
    command::run(tar.arg(source).arg("-C").arg(to).arg(what)).with_context(|| format!("{shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_says_the_same_does_not_differ() {
        let kept = Verdicts::of("# how\nPASSES: 2\nFAIL: c\nSKIPPED: d (not built)\n".lines());
        let lines = ["PASS: a", "PASS: b: c", "SKIPPED: d (not built)", "FAIL: c", "noise"];
        let said = Verdicts::of(lines.into_iter());
        assert_eq!(said, kept);
        assert!(said.differences(&kept).is_empty());
    }

    #[test]
    fn what_differs_is_named() {
        let kept = Verdicts::of("PASSES: 2\nFAIL: c\n".lines());
        let said = Verdicts::of(["PASS: a", "FAIL: b"].into_iter());
        let expected = ["here alone: FAIL: b", "on Linux alone: FAIL: c", "1 pass, on Linux 2"];
        assert_eq!(said.differences(&kept), expected);
    }

    #[test]
    fn what_linux_said_is_kept() {
        let kept = Verdicts::of(ON_LINUX.lines());
        assert!(kept.passed > 800 && !kept.others.is_empty());
    }
}

//! `cargo xtask trees`: reads every device tree of the distribution's arm64 kernel, or of a folder, with `kpkeys-devicetree`, and
//! compares with `dtc`.
//!
//! Run on request, since it fetches 60 MB ([`fetch`]). What `dtc` prints of a tree is read by other code than the crate's ([`dts`]), and
//! memory and CPUs must be the same, one by one. The summary lists what was not read by part and reason.

mod dts;
mod fetch;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kpkeys_devicetree::{Console, Machine, Ram};

use crate::command;

#[derive(Args)]
pub struct Arguments {
    /// Read the trees (*.dtb) in this folder instead, and those below it
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Of 100 trees so many must be read without error.
const WANTED_PERCENT: usize = 90;

/// Reads them all.
pub fn run(arguments: &Arguments) -> Result<()> {
    if command::find("dtc").is_none() {
        bail!(
            "there is no dtc to compare with; on Debian or Ubuntu: sudo apt-get install device-tree-compiler"
        );
    }
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => fetch::arm64_kernel()?,
    };
    let mut files = Vec::new();
    find(&folder, &mut files).with_context(|| format!("cannot look into {}", folder.display()))?;
    files.sort();
    let mut summary = Summary::default();
    for file in &files {
        let name = file.strip_prefix(&folder).unwrap_or(file);
        summary.add(name, look_at(file)?);
    }
    println!("{}", summary.text(&folder));
    summary.verdict()
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "dtb") {
            files.push(path);
        }
    }
    Ok(())
}

/// What came of one tree.
#[derive(Default)]
struct Outcome {
    /// Part and reason of everything that is wrong.
    errors: Vec<String>,
    /// Where `dtc` shows something else.
    differences: Vec<String>,
    left_to_loader: bool,
    console: &'static str,
}

fn look_at(file: &Path) -> Result<Outcome> {
    let blob = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let shown = dts::Shown::of(file)?;
    Ok(catch_unwind(|| compare(&blob, &shown)).unwrap_or_else(|_| Outcome {
        differences: vec!["reading it panics".to_owned()],
        ..Outcome::default()
    }))
}

fn compare(blob: &[u8], shown: &dts::Shown) -> Outcome {
    let machine = match Machine::parse(blob) {
        Ok(machine) => machine,
        Err(error) => return Outcome { errors: vec![error.to_string()], ..Outcome::default() },
    };
    let mut outcome = Outcome {
        errors: machine.errors().map(|(part, error)| format!("{part}: {error}")).collect(),
        left_to_loader: machine.ram == Ok(Ram::LeftToLoader),
        console: match machine.console {
            Ok(Console::Pl011(_)) => "a PL011",
            Ok(Console::Other(_)) => "another port",
            Ok(Console::Unsaid) => "none",
            Err(_) => "",
        },
        ..Outcome::default()
    };
    if let Ok(ram) = &machine.ram {
        let found: Vec<_> =
            ram.ranges().iter().map(|region| (region.base(), region.end())).collect();
        outcome.differ("memory", &found, &shown.memory);
    }
    if let Ok(cpus) = &machine.cpus {
        let mut found: Vec<_> = cpus.listed.iter().map(|cpu| cpu.mpidr.get()).collect();
        // Those beyond the capacity are counted, not listed.
        found.extend(shown.cpus.iter().skip(found.len()).take(cpus.left_out));
        outcome.differ("CPUs", &found, &shown.cpus);
    }
    outcome
}

impl Outcome {
    fn differ<T: PartialEq + Debug>(&mut self, what: &str, found: &[T], shown: &[T]) {
        if found != shown {
            self.differences.push(format!("{what}: read {found:x?}, dtc shows {shown:x?}"));
        }
    }
}

/// What came of all of them.
#[derive(Default)]
struct Summary {
    trees: usize,
    whole: usize,
    left_to_loader: usize,
    consoles: BTreeMap<&'static str, usize>,
    /// The trees with each error.
    errors: BTreeMap<String, Vec<String>>,
    differences: Vec<String>,
}

impl Summary {
    fn add(&mut self, name: &Path, outcome: Outcome) {
        self.trees += 1;
        self.whole += usize::from(outcome.errors.is_empty());
        self.left_to_loader += usize::from(outcome.left_to_loader);
        *self.consoles.entry(outcome.console).or_default() += 1;
        for error in outcome.errors {
            self.errors.entry(error).or_default().push(name.display().to_string());
        }
        for difference in outcome.differences {
            self.differences.push(format!("{}: {difference}", name.display()));
        }
    }

    fn percent(&self) -> f64 {
        100.0 * self.whole as f64 / self.trees.max(1) as f64
    }

    fn text(&self, folder: &Path) -> String {
        let mut lines = vec![
            format!("{} trees in {}", self.trees, folder.display()),
            format!("  {:>4} read without error ({:.1} %)", self.whole, self.percent()),
            format!("  {:>4} leave their memory to the boot loader", self.left_to_loader),
        ];
        for (console, count) in self.consoles.iter().filter(|(console, _)| !console.is_empty()) {
            lines.push(format!("  {count:>4} have for a console {console}"));
        }
        lines.push(format!("  {:>4} differences from what dtc shows", self.differences.len()));
        lines.extend(self.differences.iter().map(|difference| format!("       {difference}")));
        let mut reasons: Vec<_> = self.errors.iter().collect();
        reasons.sort_by_key(|(_, trees)| std::cmp::Reverse(trees.len()));
        for (reason, trees) in reasons {
            lines.push(format!("  {:>4} {reason}", trees.len()));
            lines.push(format!("       {}", trees.join(", ")));
        }
        lines.join("\n")
    }

    fn verdict(&self) -> Result<()> {
        if self.trees == 0 {
            bail!("there is no tree");
        }
        if !self.differences.is_empty() {
            bail!("{} differences from what dtc shows", self.differences.len());
        }
        if self.whole * 100 < self.trees * WANTED_PERCENT {
            bail!("{:.1} % read without error, of {WANTED_PERCENT} wanted", self.percent());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(blob: &[u8], memory: &[(u64, u64)], cpus: &[u64]) -> Outcome {
        compare(blob, &dts::Shown { memory: memory.to_vec(), cpus: cpus.to_vec() })
    }

    const PHONE: &[u8] = include_bytes!("../../../crates/devicetree/tests/data/phone.dtb");
    const BOARD: &[u8] = include_bytes!("../../../crates/devicetree/tests/data/long-names.dtb");

    #[test]
    fn what_dtc_shows_otherwise_is_a_difference() {
        let memory = (0x4000_0000, 0x5000_0000);
        assert!(outcome(BOARD, &[memory], &[0, 1]).differences.is_empty());
        assert!(outcome(PHONE, &[], &[0, 0x100]).differences.is_empty());
        let expected = [
            "memory: read [(40000000, 50000000)], dtc shows []",
            "CPUs: read [0, 1], dtc shows [0]",
        ];
        assert_eq!(outcome(BOARD, &[], &[0]).differences, expected);
    }

    #[test]
    fn the_summary_counts_by_reason_and_the_verdict_has_three_of_its_own() {
        let mut summary = Summary::default();
        assert_eq!(summary.verdict().unwrap_err().to_string(), "there is no tree");
        for _ in 0..9 {
            summary.add(Path::new("phone.dtb"), outcome(PHONE, &[], &[0, 0x100]));
        }
        summary.add(Path::new("cut.dtb"), outcome(&BOARD[..100], &[], &[]));
        summary.verdict().unwrap();
        let text = summary.text(Path::new("trees"));
        for line in [
            "9 read without error (90.0 %)",
            "9 leave their memory",
            "9 have for a console another port",
            "1 device tree: 100 bytes given",
            "cut.dtb",
        ] {
            assert!(text.contains(line), "no \"{line}\" in {text}");
        }
        summary.add(Path::new("cut.dtb"), outcome(&BOARD[..100], &[], &[]));
        assert_eq!(
            summary.verdict().unwrap_err().to_string(),
            "81.8 % read without error, of 90 wanted"
        );
        summary.add(Path::new("phone.dtb"), outcome(PHONE, &[(0, 1)], &[0, 0x100]));
        assert_eq!(summary.verdict().unwrap_err().to_string(), "1 differences from what dtc shows");
    }
}

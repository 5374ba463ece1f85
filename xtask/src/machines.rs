//! `cargo xtask machines`: machines that are too many, or too slow to emulate, for each commit: 64 CPUs on two NUMA nodes, CPU models that people have,
//! other formats of page tables (`cargo xtask machines formats`), and soaks of ten minutes.
//!
//! Each case is a call of the command, which says itself whether everything held. All are run, and what failed is said in the end, and what was left out
//! since the emulator is too old for it.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use kpkeys_emulator::Target;

use crate::command;

#[derive(Args)]
pub struct Arguments {
    /// Only cases whose names contain this
    #[arg(default_value = "")]
    part: String,
    /// Say which cases there are, and run nothing
    #[arg(long)]
    list: bool,
}

struct Case {
    name: String,
    call: Vec<String>,
    /// A CPU model that older emulators do not have, and the machine.
    needs: Option<(&'static str, &'static str)>,
}

/// What came of a case that did not fail.
enum Outcome {
    Held,
    /// The emulator has no such CPU model.
    Skipped,
}

/// Machines, with the backends that protect them.
const PROTECTED: [(&str, &str); 4] = [
    ("qemu-x86_64", "pks"),
    ("qemu-x86_64", "smap"),
    ("qemu-aarch64", "pan"),
    ("qemu-aarch64", "ttbr0"),
];
/// CPU models that people have, where the machine's default is one that has everything.
const MODELS: [(&str, &str, &str); 8] = [
    ("qemu-x86_64", "smap", "Broadwell"),
    ("qemu-x86_64", "smap", "Skylake-Server"),
    ("qemu-x86_64", "smap", "EPYC"),
    ("qemu-aarch64", "pan", "neoverse-n1"),
    ("qemu-aarch64", "pan", "cortex-a76"),
    ("qemu-aarch64", "ttbr0", "cortex-a53"),
    ("qemu-aarch64", "ttbr0", "cortex-a72"),
    ("qemu-aarch64", "ttbr0", "neoverse-n1"),
];
/// The same of models that QEMU has got since 7.2: Neoverse V1 is the series' own machine.
const NEWER_MODELS: [(&str, &str, &str); 3] = [
    ("qemu-aarch64", "pan", "neoverse-v1"),
    ("qemu-aarch64", "pan", "neoverse-n2"),
    ("qemu-aarch64", "pan", "cortex-a710"),
];
/// Formats of page tables that the kernel is built with besides the usual ones, with the backends that protect them.
const FORMATS: [(&str, &str, &str); 6] = [
    ("x86_64-la57", "qemu-x86_64", "pks"),
    ("x86_64-la57", "qemu-x86_64", "smap"),
    ("aarch64-16k", "qemu-aarch64", "pan"),
    ("aarch64-16k", "qemu-aarch64", "ttbr0"),
    ("aarch64-64k", "qemu-aarch64", "pan"),
    ("aarch64-64k", "qemu-aarch64", "ttbr0"),
];

fn cases() -> Vec<Case> {
    let many = "--smp 64 --nodes 2 --memory 2048 --time-limit 3600";
    let all = |what: &str, call: &str| {
        let case = |(on, backend): (&str, &str)| {
            Case::new(
                &format!("{what}, {backend}"),
                &format!("{call} --on {on} --backend {backend}"),
            )
        };
        PROTECTED.map(case)
    };
    let model = |(on, backend, model): (&str, &str, &str)| {
        let machine = format!("--on {on} --backend {backend} --cpu {model}");
        let matrix = format!("attack --modes off,batched,fused {machine}");
        [
            Case::new(&format!("attacks, {backend}, {model}"), &matrix),
            Case::new(
                &format!("tests, {backend}, {model}"),
                &format!("run tests later=16 {machine}"),
            ),
        ]
    };
    let many_cpus = all("many CPUs", &format!("run tests operations=20 {many}"));
    let formats = FORMATS.into_iter().flat_map(|(tables, on, backend)| {
        let machine = format!("--on {on} --tables {tables} --backend {backend} --smp 4");
        let matrix = format!("attack {machine} --time-limit 1200");
        let tests = ["off", "batched", "fused"].map(|mode| {
            Case::new(
                &format!("formats: tests, {tables}, {backend}, {mode}"),
                &format!("run tests later=16 mode={mode} {machine} --time-limit 1200"),
            )
        });
        let attacks = Case::new(&format!("formats: attacks, {tables}, {backend}"), &matrix);
        tests.into_iter().chain([attacks])
    });
    let soaks = all("soak", "run soak=600 --smp 4 --time-limit 1800");
    let models = MODELS.into_iter().flat_map(model);
    let newer_models = NEWER_MODELS.into_iter().flat_map(|newer| {
        model(newer).map(|case| Case { needs: Some((newer.0, newer.2)), ..case })
    });
    many_cpus.into_iter().chain(models).chain(newer_models).chain(formats).chain(soaks).collect()
}

impl Case {
    fn new(name: &str, call: &str) -> Case {
        let call = call.split(' ').map(str::to_owned).collect();
        Case { name: name.to_owned(), call, needs: None }
    }

    fn run(&self) -> Result<Outcome> {
        if !self.is_possible()? {
            return Ok(Outcome::Skipped);
        }
        self.call()?;
        Ok(Outcome::Held)
    }

    fn is_possible(&self) -> Result<bool> {
        let Some((on, model)) = self.needs else { return Ok(true) };
        let emulator = on.parse::<Target>()?.find_emulator()?;
        let listed = Command::new(&emulator)
            .args(["-cpu", "help"])
            .output()
            .with_context(|| format!("cannot run {}", emulator.display()))?;
        let has = |line: &str| line.split_whitespace().next() == Some(model);
        Ok(String::from_utf8_lossy(&listed.stdout).lines().any(has))
    }

    fn call(&self) -> Result<()> {
        let call: Vec<_> = self.call.iter().map(String::as_str).collect();
        let command = ["run", "--quiet", "--release", "-p", "kpkeys-cli", "--"];
        command::run(&mut command::cargo(&[&command[..], &call].concat()))
    }
}

/// Runs them.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cases: Vec<_> =
        cases().into_iter().filter(|case| case.name.contains(&arguments.part)).collect();
    if cases.is_empty() {
        bail!("no case has `{}` in its name; see --list", arguments.part);
    }
    if arguments.list {
        cases.iter().for_each(|case| println!("{}: kpkeys {}", case.name, case.call.join(" ")));
        return Ok(());
    }
    let results = cases.iter().map(|case| {
        println!("\n== {}", case.name);
        let begun = Instant::now();
        let outcome = case.run().inspect_err(|error| eprintln!("{error:#}"));
        (case, outcome, begun.elapsed().as_secs())
    });
    let results: Vec<_> = results.collect();
    println!();
    for (case, outcome, seconds) in &results {
        let how = match outcome {
            Ok(Outcome::Held) => "held",
            Ok(Outcome::Skipped) => "skipped: the emulator has no such CPU",
            Err(_) => "FAILED",
        };
        println!("{:<28} {how:<6} {seconds:>6} s", case.name);
    }
    match results.iter().filter(|(_, outcome, _)| outcome.is_err()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} cases failed", results.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<_> = cases().into_iter().map(|case| case.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}

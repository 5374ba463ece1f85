//! `cargo xtask verify`: models, proofs, planted faults, searches and fuzzing, in stages. What they are and what they showed is in the book, page "Assurance".
//!
//! They live in `verify/`, most in a workspace of their own. A stage whose solver, emulator or compiler is missing is named with its package and counts as not
//! run, which is a failure of the whole. [`short`] is what the checks of each commit have room for.

mod faults;
mod fuzz;
mod mutants;
mod short;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use kpkeys_emulator::Target;

use crate::command;
pub use short::run as run_short;

#[derive(Args)]
pub struct Arguments {
    /// Say what each stage covers, how long it takes and what it does not cover, and run nothing
    #[arg(long)]
    list: bool,
    /// Run only these stages (repeat, or separate by commas)
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    only: Vec<String>,
    /// Only what the checks of each commit do: a part of the stage `protocol`, and two faults, which the commit chooses
    #[arg(long, conflicts_with = "only")]
    short: bool,
    /// Of the stage `faults`, only those whose names contain this (repeat for more)
    #[arg(long, value_name = "PART")]
    fault: Vec<String>,
    /// How long: the stage `search` each of its five searches (10), the stage `fuzz` each of its targets (a twelfth)
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// The stages `fuzz` and `mutants`: only targets, or packages, whose names contain this
    #[arg(long, value_name = "PART", default_value = "")]
    target: String,
    /// The stage `fuzz`: keep the inputs that reach what no kept one does
    #[arg(long)]
    keep: bool,
    /// The stage `search`: which moments and changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// One kind of evidence.
struct Stage {
    name: &'static str,
    covers: &'static str,
    takes: &'static str,
    leaves_out: &'static str,
    /// What is missing to run it, and what has it.
    missing: fn() -> Option<String>,
    run: fn(&Arguments) -> Result<()>,
}

const STAGES: [Stage; 6] = [
    Stage {
        name: "protocol",
        covers: "windows, gates, exceptions, thread switches, flushes, life of tables, sweeps, memory that is out, unmaps that wait for a flush: the code of kpkeys, \
                 kpkeys-pgtable and kpkeys-mm under a model checker, 2 threads on 2 CPUs, or on 3, PKS, POE, PAN, TTBR0; 15 faults of kernels that use it are found",
        takes: "ten minutes on two cores, and two to build",
        leaves_out: "faults, forks and moves of kpkeys-mm, block-mapped linear maps, weak memory, barriers that are forgotten, more than one disturbance, entry code in assembly",
        missing: || None,
        run: |_| protocol(),
    },
    Stage {
        name: "proofs",
        covers: "entries of both formats, registers of PKS, POE and PAN, permission indirection, ranges, levels: properties of the compiled code, for all values",
        takes: "20 s, and a minute to build",
        leaves_out: "loops over many tables, arm64's instructions (the same source is compiled for x86-64), what a property does not say",
        missing: missing_for_proofs,
        run: |_| proofs(),
    },
    Stage {
        name: "faults",
        covers: "faults planted in copies of the source and in the model's kernel, verify/faults.toml, mends of this project's history reversed among them: each is \
                 found by one of the stages above, or by a test of a crate that it names",
        takes: "some ten to fifty seconds a fault, most of it building",
        leaves_out: "faults that nobody thought of",
        missing: missing_for_proofs,
        run: |arguments| faults::run(&arguments.fault),
    },
    Stage {
        name: "search",
        covers: "one word of ordinary memory of the running kernel is changed, thousands of times: in mode fused no rule of page tables may break, by an outside \
                 walker and by stores to tables; in off, and in fused-lean, which checks nothing, a break must be found; QEMU, x86-64 and arm64",
        takes: "five times --minutes, or less where a break is found",
        leaves_out: "two words, several CPUs, stale TLBs, what the kernel's work does not reach, tables of programs that are not loaded",
        missing: missing_for_search,
        run: search,
    },
    Stage {
        name: "fuzz",
        covers: "device trees, traces, sample files, audited images, archives, programs, stacks, the kernel's command line; operations of kpkeys-pgtable \
                 and kpkeys-mm against plain models: inputs that coverage guides, from those that were kept",
        takes: "five seconds a target, or --minutes, and two minutes to build",
        leaves_out: "several CPUs, want of memory, what needs longer inputs than a few KiB",
        missing: fuzz::missing,
        run: fuzz::run,
    },
    Stage {
        name: "mutants",
        covers: "crates that read what comes from outside, or that everything rests on, and whose tests are quick: each operator and each function changed, one at a \
                 time, by cargo-mutants; some test of the crate fails, or verify/mutants.toml says why none can",
        takes: "some five seconds a change",
        leaves_out: "the other crates, kpkeys-pgtable and kpkeys-mm above all, whose tests take a minute; more than one change at a time",
        missing: mutants::missing,
        run: mutants::run,
    },
];

/// Runs the stages that the arguments select.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(unknown) = arguments.only.iter().find(|name| stage(name).is_none()) {
        bail!(
            "there is no stage `{unknown}`; the stages are {}",
            STAGES.map(|one| one.name).join(", ")
        );
    }
    if arguments.list {
        print!("{}", list());
        return Ok(());
    }
    if arguments.short {
        return short::run();
    }
    let wanted = |stage: &&Stage| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == stage.name)
    };
    let results: Vec<_> =
        STAGES.iter().filter(wanted).map(|stage| run_stage(stage, arguments)).collect();
    println!("\nsummary");
    results.iter().for_each(|result| println!("{result}"));
    match results.iter().filter(|result| result.how != How::Held).count() {
        0 => Ok(()),
        left => bail!("{left} of {} stages failed or did not run", results.len()),
    }
}

/// With a CPU a thread, and then with one that begins idle, where there is less else.
fn protocol() -> Result<()> {
    verify(&["test", "-p", "kpkeys-protocol"])?;
    let explore = ["run", "-p", "kpkeys-protocol", "--"];
    verify(&[&explore[..], &["1"]].concat())?;
    verify(&[&explore[..], &["--cpus", "3", "1", "short"]].concat())
}

fn proofs() -> Result<()> {
    verify(&["test", "--release", "-p", "kpkeys-proofs"])?;
    verify(&["run", "--release", "-p", "kpkeys-proofs"])
}

/// First without protection and without integrity, where it must find something.
fn search(arguments: &Arguments) -> Result<()> {
    let minutes = arguments.minutes.unwrap_or(10.0).to_string();
    let seed = arguments.seed.to_string();
    let same = ["run", "-p", "kpkeys-search", "--", "--seed", &seed, "--minutes", &minutes];
    for (machine, mode, until) in [
        ("qemu-x86_64", "off", &["--until-bypass"][..]),
        ("qemu-x86_64", "fused-lean", &["--until-bypass"]),
        ("qemu-aarch64", "off", &["--until-bypass"]),
        ("qemu-x86_64", "fused", &[]),
        ("qemu-aarch64", "fused", &[]),
    ] {
        verify(&[&same[..], &["--machine", machine, "--mode", mode], until].concat())?;
    }
    Ok(())
}

fn missing_for_search() -> Option<String> {
    let missing: Vec<_> =
        Target::ALL.into_iter().filter(|target| target.find_emulator().is_err()).collect();
    let programs: Vec<_> = missing.iter().map(|target| target.program()).collect();
    let advice = Target::install_advice(&missing);
    (!missing.is_empty()).then(|| format!("{}; {advice}", programs.join(", ")))
}

fn verify(arguments: &[&str]) -> Result<()> {
    let (what, rest) = arguments.split_at(1);
    command::run(&mut command::cargo(
        &[what, &["--manifest-path", "verify/Cargo.toml"], rest].concat(),
    ))
}

fn stage(name: &str) -> Option<&'static Stage> {
    STAGES.iter().find(|stage| stage.name == name)
}

fn list() -> String {
    let line = |stage: &Stage| {
        let Stage { name, covers, takes, leaves_out, missing, .. } = stage;
        let missing = missing().map_or(String::new(), |missing| format!("\n  missing: {missing}"));
        format!(
            "{name}\n  covers: {covers}\n  takes: {takes}\n  leaves out: {leaves_out}{missing}\n"
        )
    };
    STAGES.iter().map(line).collect()
}

#[derive(PartialEq, Eq, Debug)]
enum How {
    Held,
    Failed(String),
    NotRun(String),
}

struct StageResult {
    name: &'static str,
    how: How,
    took: Duration,
}

impl std::fmt::Display for StageResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, note) = match &self.how {
            How::Held => ("ok", String::new()),
            How::Failed(why) => ("FAILED", format!("  {why}")),
            How::NotRun(why) => ("NOT RUN", format!("  {why}")),
        };
        write!(f, "  {:<12} {word:<7} {:>8.1} s{note}", self.name, self.took.as_secs_f64())
    }
}

fn run_stage(stage: &Stage, arguments: &Arguments) -> StageResult {
    println!("\n== {}: {}", stage.name, stage.covers);
    let begun = Instant::now();
    let how = match (stage.missing)() {
        Some(missing) => How::NotRun(missing),
        None => match (stage.run)(arguments) {
            Ok(()) => How::Held,
            Err(error) => How::Failed(format!("{error:#}")),
        },
    };
    if let How::Failed(why) | How::NotRun(why) = &how {
        println!("{why}");
    }
    StageResult { name: stage.name, how, took: begun.elapsed() }
}

fn missing_for_proofs() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("an x86-64 host, whose instructions the proofs read".to_owned());
    }
    if command::succeeds(&mut command::program("pkg-config", &["--exists", "z3"])) || has_library()
    {
        return None;
    }
    Some("the solver Z3; on Debian: apt-get install --no-install-recommends libz3-dev".to_owned())
}

fn has_library() -> bool {
    ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/lib"]
        .iter()
        .any(|folder| Path::new(folder).join("libz3.so").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(list: bool, only: &[&str]) -> Arguments {
        let only = only.iter().map(|name| (*name).to_owned()).collect();
        let (fault, target) = (Vec::new(), String::new());
        Arguments { list, only, short: false, fault, minutes: None, target, keep: false, seed: 1 }
    }

    #[test]
    fn every_stage_says_what_it_leaves_out() {
        let list = list();
        for stage in &STAGES {
            assert!(list.contains(&format!("{}\n  covers: {}", stage.name, stage.covers)));
            assert!(!stage.leaves_out.is_empty());
        }
    }

    #[test]
    fn a_stage_that_cannot_run_is_named_with_what_is_missing() {
        let arguments = arguments(false, &[]);
        let stage = Stage {
            missing: || Some("package x".into()),
            run: |_| panic!("it is not run"),
            ..STAGES[1]
        };
        let result = run_stage(&stage, &arguments);
        assert_eq!(result.how, How::NotRun("package x".into()));
        assert!(result.to_string().contains("NOT RUN"), "{result}");
        assert!(result.to_string().ends_with("package x"), "{result}");
    }

    #[test]
    fn an_unknown_stage_is_refused_with_the_stages() {
        let arguments = arguments(true, &["prove"]);
        let error = run(&arguments).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no stage `prove`; the stages are protocol, proofs, faults, search, fuzz, mutants"
        );
    }
}

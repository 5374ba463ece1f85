//! The step `instructions`: no operation executes more instructions, or fewer, than a committed file says, by 2 %.
//!
//! `kpkeys-counted` does the operations under callgrind, a process for each mode. A count depends on the compiler and the target, which
//! the file names: with others there is nothing to compare, and the step says so. `cargo xtask instructions` writes the file anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use kpkeys_pgtable::Mode;
use serde::Deserialize;

use crate::step::Outcome;
use crate::{command, workspace};

/// How far a count may be from the file's, in percent.
const TOLERANCE_PCT: f64 = 2.0;
/// The function that callgrind collects inside of.
const SPAN: &str = "kpkeys_counted_span";

/// Instructions of one operation, by name.
pub type Counts = BTreeMap<String, f64>;

/// The committed file.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Baseline {
    /// What `rustc -vV` says.
    pub compiler: String,
    /// The target it compiles for.
    pub target: String,
    /// Instructions of one operation.
    pub counts: Counts,
}

/// Where it is.
pub const FILE: &str = "crates/counted/instructions.toml";

/// Compares with the file.
pub fn check() -> Result<Outcome> {
    let file = file();
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let baseline: Baseline = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let (compiler, target) = compiler()?;
    if (&baseline.compiler, &baseline.target) != (&compiler, &target) {
        return Ok(Outcome::Skipped(vec![format!(
            "instructions: the counts are for {}, not for {compiler}",
            baseline.compiler
        )]));
    }
    if command::find("valgrind").is_none() {
        let skip = "instructions: there is no valgrind to count with".to_owned();
        return Ok(Outcome::Skipped(vec![skip]));
    }
    let differences = differences(&baseline.counts, &count_all()?);
    if differences.is_empty() {
        println!("{} counts within {TOLERANCE_PCT} %", baseline.counts.len());
        return Ok(Outcome::Done);
    }
    differences.iter().for_each(|difference| println!("{difference}"));
    bail!("{} counts differ; if each is meant: cargo xtask instructions", differences.len())
}

/// Writes the file anew.
pub fn update() -> Result<()> {
    let (compiler, target) = compiler()?;
    let baseline = Baseline { compiler, target, counts: count_all()? };
    let file = file();
    fs::write(&file, to_toml(&baseline))
        .with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}: {} counts", file.display(), baseline.counts.len());
    Ok(())
}

fn file() -> PathBuf {
    workspace::root().join(FILE)
}

/// The version of the compiler, and what it compiles for.
fn compiler() -> Result<(String, String)> {
    let said = command::output(&mut command::program("rustc", &["-vV"]))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let version = said.lines().next().unwrap_or_default();
    Ok((version.to_owned(), host.context("`rustc -vV` names no host")?.to_owned()))
}

/// Counts every mode, and `fused` with both choices of keys.
fn count_all() -> Result<Counts> {
    let mut counts = count(&Mode::ALL, &[])?;
    counts.extend(count(&[Mode::Fused], &["--keys", "separate"])?);
    Ok(counts)
}

/// Builds the program, and counts modes, as many at a time as there are CPUs. `options` are the program's, after the mode.
pub(crate) fn count(modes: &[Mode], options: &[&str]) -> Result<Counts> {
    let build = ["build", "--quiet", "--release", "--package=kpkeys-counted"];
    command::run(&mut command::cargo(&build))?;
    let built = workspace::target_dir()?;
    let (program, folder) = (&built.join("release/kpkeys-counted"), built.join("instructions"));
    let at_a_time = thread::available_parallelism().map_or(1, usize::from);
    let mut counts = Counts::new();
    for modes in modes.chunks(at_a_time) {
        let results: Vec<Result<Counts>> = thread::scope(|scope| {
            let count = |mode: Mode| {
                let folder = folder.join(mode.name());
                scope.spawn(move || count_mode(program, mode, options, &folder))
            };
            let running: Vec<_> = modes.iter().copied().map(count).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Counts>>| {
                thread.join().unwrap_or_else(|_| bail!("counting panicked"))
            };
            running.into_iter().map(join).collect()
        });
        for result in results {
            counts.extend(result?);
        }
    }
    Ok(counts)
}

/// Counts one mode. Callgrind writes a file for each span, numbered from 1.
fn count_mode(program: &Path, mode: Mode, options: &[&str], folder: &Path) -> Result<Counts> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let out = folder.join("out");
    let (built_in, program) = program.parent().zip(program.file_name()).context("no program")?;
    let of_valgrind = [
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--toggle-collect={SPAN}"),
        format!("--dump-after={SPAN}"),
        format!("--callgrind-out-file={}", out.display()),
        format!("./{}", program.display()),
        mode.name().to_owned(),
    ];
    let valgrind = command::find("valgrind").context("there is no valgrind to count with")?;
    let valgrind = valgrind.to_string_lossy();
    let mut valgrind = command::program(&valgrind, &of_valgrind.each_ref().map(String::as_str));
    // Its name and its environment lie on the heap: they would decide which list can grow in place, and which must be copied.
    valgrind.args(options).current_dir(built_in).env_clear();
    let said = command::output(&mut valgrind)?;
    let spans = said.lines().enumerate().map(|(index, line)| {
        let (name, operations) =
            line.split_once('\t').with_context(|| format!("no span: `{line}`"))?;
        let file = out.with_extension((index + 1).to_string());
        let text = fs::read_to_string(&file)
            .with_context(|| format!("callgrind wrote no {}", file.display()))?;
        let each = total(&text).with_context(|| format!("no total in {}", file.display()))? as f64
            / operations.parse::<u64>()? as f64;
        Ok((name.to_owned(), each))
    });
    spans.collect()
}

/// What a file of callgrind's counted (`summary:`, Callgrind Format Specification, section 3.1.8).
fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary:"))?.trim().parse().ok()
}

/// Every count that differs, and every one that only one side has, for people.
fn differences(expected: &Counts, found: &Counts) -> Vec<String> {
    let gone = expected.keys().filter(|name| !found.contains_key(*name));
    let gone = gone.map(|name| format!("{name}: in the file, and not counted"));
    let differ = found.iter().filter_map(|(name, now)| match expected.get(name) {
        None => Some(format!("{name}: counted, and not in the file")),
        Some(was) => {
            let percent = (now / was - 1.0) * 100.0;
            let differs = percent.is_nan() || percent.abs() > TOLERANCE_PCT;
            differs.then(|| format!("{name}: {was:.1} in the file, {now:.1} now, {percent:+.1} %"))
        }
    });
    gone.chain(differ).collect()
}

fn to_toml(baseline: &Baseline) -> String {
    let mut text = String::from(
        "# Instructions of one operation, counted by callgrind. Written by `cargo xtask instructions`.\n",
    );
    let Baseline { compiler, target, counts } = baseline;
    let _ = writeln!(text, "compiler = \"{compiler}\"\ntarget = \"{target}\"\n\n[counts]");
    for (name, count) in counts {
        let _ = writeln!(text, "\"{name}\" = {count:.2}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, f64)]) -> Counts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_and_fewer_instructions_than_the_tolerance_are_told() {
        let file = counts(&[("fork", 1000.0), ("walk", 10.0), ("gone", 1.0)]);
        let same = counts(&[("fork", 1019.0), ("walk", 9.85), ("gone", 1.0)]);
        assert_eq!(differences(&file, &same), [""; 0]);
        let other = counts(&[("fork", 1021.0), ("walk", 9.7), ("new", 1.0)]);
        assert_eq!(
            differences(&file, &other),
            [
                "gone: in the file, and not counted",
                "fork: 1000.0 in the file, 1021.0 now, +2.1 %",
                "new: counted, and not in the file",
                "walk: 10.0 in the file, 9.7 now, -3.0 %",
            ]
        );
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let (compiler, target) = ("rustc 1".to_owned(), "t".to_owned());
        let baseline = Baseline { compiler, target, counts: counts(&[("a, p:1", 12.5)]) };
        assert_eq!(toml::from_str::<Baseline>(&to_toml(&baseline)).unwrap(), baseline);
    }

    #[test]
    fn the_total_is_the_summary() {
        assert_eq!(total("version: 1\nevents: Ir\nsummary: 42\n\nfn=(1) main\n"), Some(42));
        assert_eq!(total("version: 1\n"), None);
    }
}

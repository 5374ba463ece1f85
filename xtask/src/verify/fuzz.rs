//! The stage `fuzz`: libFuzzer makes inputs for each target of `verify/fuzz`, from those that were kept in `verify/fuzz/corpus`.
//!
//! The counters that guide it are a pass of the compiler that a stable one has, so that no other toolchain is needed. What is found while fuzzing is kept in the
//! target folder; with `--keep`, inputs that reach something that no kept one does are added to those in the checkout.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::Arguments;
use crate::{command, workspace};

const PACKAGE: &str = "kpkeys-fuzz";
/// Minutes a target, if nothing is said.
const MINUTES: f64 = 1.0 / 12.0;
/// Passed to the compiler: coverage as libFuzzer reads it.
const RUSTFLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// What is missing to build the engine.
pub fn missing() -> Option<String> {
    (command::find("c++").is_none()).then(|| {
        "a C++ compiler, for libFuzzer; on Debian: apt-get install --no-install-recommends g++"
            .to_owned()
    })
}

/// First kept inputs without the engine, then each target with it.
pub fn run(arguments: &Arguments) -> Result<()> {
    replay()?;
    let targets: Vec<_> =
        targets()?.into_iter().filter(|name| name.contains(&arguments.target)).collect();
    ensure!(!targets.is_empty(), "no target has `{}` in its name", arguments.target);
    let engine = Engine::build()?;
    let seconds = (arguments.minutes.unwrap_or(MINUTES) * 60.0).max(1.0) as u64;
    let mut failed = Vec::new();
    for target in &targets {
        if let Err(error) = engine.fuzz(target, seconds) {
            println!("{target}: {error:#}");
            failed.push(target.as_str());
        } else if arguments.keep {
            engine.keep(target)?;
        }
    }
    ensure!(failed.is_empty(), "findings in {}", failed.join(", "));
    Ok(())
}

/// Runs all kept inputs.
fn replay() -> Result<()> {
    command::run(&mut command::cargo(&["test", "-p", PACKAGE]))
}

/// A target is a folder of kept inputs; a test holds that each has one.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join("verify/fuzz/corpus");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The program that fuzzes.
struct Engine {
    program: PathBuf,
    /// What it keeps for itself.
    folder: PathBuf,
}

impl Engine {
    fn build() -> Result<Engine> {
        let folder = workspace::target_dir()?.join("fuzz");
        let triple = host()?;
        let words = ["build", "--release", "-p", PACKAGE, "--features", "engine", "--target"];
        let mut cargo = command::cargo(&[&words[..], &[&triple]].concat());
        cargo.env("RUSTFLAGS", RUSTFLAGS.join(" ")).env("CARGO_TARGET_DIR", &folder);
        // Many small executions: the time that it takes to link better is not got back.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
        command::run(&mut cargo)?;
        let program = folder.join(triple).join("release/fuzz");
        Ok(Engine { program, folder })
    }

    fn fuzz(&self, target: &str, seconds: u64) -> Result<()> {
        let (own, findings) = (self.corpus(target)?, self.folder.join("findings"));
        fs::create_dir_all(&findings)
            .with_context(|| format!("cannot make {}", findings.display()))?;
        let mut command = self.command(target);
        command
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-artifact_prefix={}/{target}-", findings.display()))
            .args([own, kept(target)]);
        let line = command::describe(&command);
        println!("$ {line}");
        let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let lines: Vec<_> = said.lines().collect();
            let from = lines.len().saturating_sub(60);
            bail!("{}\n{}", lines[from..].join("\n"), output.status);
        }
        let number = |name: &str| {
            let line = said.lines().find(|line| line.contains(name));
            line.and_then(|line| line.split_whitespace().last()).unwrap_or("?").to_owned()
        };
        let (runs, new) = (number("number_of_executed_units"), number("new_units_added"));
        println!("{target}: {runs} runs in {seconds} s, {new} new inputs, no finding");
        Ok(())
    }

    /// Adds to the kept inputs what reaches something that they do not, few and small ones.
    fn keep(&self, target: &str) -> Result<()> {
        let mut command = self.command(target);
        command.args(["-set_cover_merge=1", "-verbosity=0"]);
        command::run(command.args([kept(target), self.corpus(target)?]))
    }

    fn command(&self, target: &str) -> std::process::Command {
        let mut command = command::program(&self.program.to_string_lossy(), &[]);
        command.env("KPKEYS_FUZZ", target);
        command
    }

    fn corpus(&self, target: &str) -> Result<PathBuf> {
        let folder = self.folder.join("corpus").join(target);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

fn kept(target: &str) -> PathBuf {
    workspace::root().join("verify/fuzz/corpus").join(target)
}

/// With it named, nothing that runs while building is counted.
fn host() -> Result<String> {
    let version = command::output(&mut command::program("rustc", &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say which host it is for")
}

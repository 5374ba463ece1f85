//! What a stage says of a copy. Found means that it names a broken rule, a refuted property, or a test that fails. A copy that does not compile, or of which
//! nothing can be said, is not found.

use anyhow::{Context, Result, bail};

use super::copy::Copy;
use super::{Fault, Planted, Stage};
use crate::command;

/// What a stage says.
pub enum Verdict {
    Held,
    Found(String),
    NotFound(String),
}

/// What the stage of a fault says of the copy.
pub fn judge(copy: &Copy, fault: &Fault) -> Result<Verdict> {
    let kernel = match &fault.planted {
        Planted::Kernel { kernel } => Some(kernel.as_str()),
        Planted::Source { .. } => None,
    };
    of(copy, fault.stage, &fault.of, kernel, fault.disturbances)
}

/// What a part of a stage says of the copy, with a fault of the model's kernel if one is named.
pub fn of(
    copy: &Copy,
    stage: Stage,
    of: &[String],
    kernel: Option<&str>,
    disturbances: u8,
) -> Result<Verdict> {
    let of: Vec<_> = of.iter().map(String::as_str).collect();
    let disturbances = disturbances.to_string();
    let fault: Vec<_> = kernel.into_iter().flat_map(|kernel| ["--fault", kernel]).collect();
    let verify = |words: &[&[&str]]| run(copy, &[], &words.concat());
    match (stage, of.as_slice()) {
        (Stage::Protocol, _) => {
            let run = ["run", "--quiet", "-p", "kpkeys-protocol", "--"];
            verify(&[&run, &fault, &[&disturbances], &of])
        }
        (Stage::Proofs, _) => {
            verify(&[&["run", "--quiet", "--release", "-p", "kpkeys-proofs", "--"], &of])
        }
        (Stage::Tests, [package, "lib", tests @ ..]) => {
            run(copy, tests, &[&["test", "-p", package, "--lib", "--"], tests].concat())
        }
        (Stage::Tests, [package, target, tests @ ..]) => {
            run(copy, tests, &[&["test", "-p", package, "--test", target, "--"], tests].concat())
        }
        (Stage::Tests, _) => bail!("{of:?} are not a package, a target and tests"),
    }
}

/// Runs a program of `verify`, or these tests.
fn run(copy: &Copy, tests: &[&str], words: &[&str]) -> Result<Verdict> {
    let mut cargo = command::cargo(words);
    if tests.is_empty() {
        cargo.current_dir(copy.root().join("verify")).env("CARGO_TARGET_DIR", &copy.verify_target);
    } else {
        cargo.current_dir(copy.root()).env("CARGO_TARGET_DIR", &copy.target);
        // One test is run of a program that is built for it: what optimising costs is not got back.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    }
    let output = cargo.output().context("cannot start cargo")?;
    let (said, erred) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(verdict(output.status.success(), &said, &erred, tests))
}

fn verdict(success: bool, said: &str, erred: &str, tests: &[&str]) -> Verdict {
    let failed = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(format!("{name} fails"))
    };
    let broken = |line: &str| {
        let is = line.contains("BROKEN: ") || line.contains("REFUTED");
        is.then(|| line.trim().to_owned())
    };
    if let Some(what) = said.lines().find_map(|line| broken(line).or_else(|| failed(line))) {
        return Verdict::Found(what);
    }
    // A store to a table outside of a window ends the process.
    if erred.contains("signal: 11") {
        return Verdict::Found("its test is ended by SIGSEGV".to_owned());
    }
    // So does a panic while another one is under way.
    if erred.contains("signal: 6") && erred.contains("panicked at") {
        return Verdict::Found("its test is ended by a panic in a panic".to_owned());
    }
    let ran =
        |test: &&&str| said.lines().any(|line| line.starts_with("test ") && line.contains(**test));
    if success && let Some(test) = tests.iter().find(|test| !ran(test)) {
        return Verdict::NotFound(format!("no test has `{test}` in its name"));
    }
    if success {
        return Verdict::Held;
    }
    let mut lines = erred.lines().chain(said.lines());
    let last = lines.find(|line| line.contains("error") || line.contains("UNKNOWN"));
    Verdict::NotFound(last.unwrap_or("it says nothing").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_rule_is_a_fault_found() {
        let is_found =
            |success, said, erred| matches!(verdict(success, said, erred, &[]), Verdict::Found(_));
        let held = |said, tests: &[&str]| matches!(verdict(true, said, "", tests), Verdict::Held);
        assert!(is_found(false, "x\n  BROKEN: Table: writable\n", ""));
        assert!(is_found(false, "range_new REFUTED by [1]\n", ""));
        assert!(is_found(false, "running 1 test\ntest x86_64::a ... FAILED\n", ""));
        assert!(is_found(false, "running 1 test\n", "(signal: 11, SIGSEGV: invalid memory)"));
        let twice = "thread 'x' panicked at x.rs:1:1:\n(signal: 6, SIGABRT: process abort signal)";
        assert!(is_found(false, "running 1 test\n", twice));
        assert!(!is_found(false, "", "(signal: 6, SIGABRT: process abort signal)"));
        assert!(!is_found(false, "", "error[E0308]: mismatched types"), "it does not compile");
        assert!(!is_found(false, "leaf UNKNOWN: an instruction", ""));
        assert!(held("all holds", &[]));
        assert!(held("running 1 test\ntest x::a ... ok\ntest x::b ... ok", &["a", "b"]));
        assert!(!held("running 1 test\ntest x::a ... ok", &["a", "b"]), "one was not looked at");
    }
}

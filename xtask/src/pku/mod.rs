//! `cargo xtask pku`: page tables in a process with keys that the CPU checks, on Linux, where there are any: in an emulator that has PKU.
//!
//! Run on request, since it fetches the distribution's kernel ([`guest`]). Three boots: on a CPU with PKU the tests of the hosted machine, `kpkeys bench` and `kpkeys doctor`
//! must do what they promise; without PKU, and with PKU turned off by `nopku`, the command must refuse and say why.

mod guest;

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command;
use guest::{Call, Guest, Outcome};

/// The rows that are run: few and short, since every write of PKRU drops what the emulator knows of translations.
const ROWS: [&str; 2] = ["fix_size_alloc_test: p:1, h:0", "vm_map_ram_test: p:1, h:0"];
/// The CPU that has everything the emulator knows, PKU too.
const WITH: &str = "max";
const WITHOUT: &str = "max,-pku";

/// Runs everything.
pub fn run() -> Result<()> {
    let guest = Guest::fetch()?;
    let programs = [("kpkeys", the_command()?), ("tests", tests()?)];
    let calls = [
        call("tests", "tests"),
        call("bench", &bench_line("--out /tmp/run --format json")),
        call("table", "kpkeys table /tmp/run"),
        call("doctor", "kpkeys doctor --format json"),
    ];
    let [tests, bench, table, doctor] = booted(&guest, WITH, "", &programs, &calls)?;
    println!("{}{}", tests.output, table.output);
    check("tests", &tests, check_tests)?;
    check("bench", &bench, check_bench)?;
    for notice in notices(&bench.output) {
        println!("note: {notice}");
    }
    check("table", &table, check_table)?;
    check("doctor", &doctor, |said| check_doctor(said, "ok"))?;
    let refused = [call("bench", &bench_line("")), call("doctor", "kpkeys doctor --format json")];
    for (cpu, parameters, status, why) in
        [(WITHOUT, "", "unavailable", "bit 3 is clear"), (WITH, "nopku", "missing", "OSPKE")]
    {
        let [bench, doctor] = booted(&guest, cpu, parameters, &programs[..1], &refused)?;
        print!("{}", bench.complaints);
        check_refused(&bench, why)?;
        check("doctor", &doctor, |said| check_doctor(said, status))?;
    }
    println!("keys for user pages: the tests, the benchmark and the refusals are as promised");
    Ok(())
}

fn booted<const N: usize>(
    guest: &Guest,
    cpu: &str,
    parameters: &str,
    programs: &[(&str, PathBuf)],
    calls: &[Call<'_>; N],
) -> Result<[Outcome; N]> {
    println!("booting Linux in the emulator: CPU {cpu} {parameters}");
    let outcomes = guest.run(cpu, parameters, programs, calls)?;
    outcomes.try_into().ok().context("an outcome for each call")
}

fn call<'c>(name: &'c str, line: &str) -> Call<'c> {
    Call { name, line: line.to_owned() }
}

fn bench_line(options: &str) -> String {
    let rows: String = ROWS.iter().map(|row| format!(" --rows '{row}'")).collect();
    format!("kpkeys bench --backend pku --quick --blocks 1 --counts{rows} {options}")
}

/// The command, built.
fn the_command() -> Result<PathBuf> {
    built(&["build", "-p", "kpkeys-cli"], "kpkeys")
}

/// The tests of the hosted machine that need PKU, built.
fn tests() -> Result<PathBuf> {
    built(&["test", "-p", "kpkeys-hosted", "--test", "pku", "--no-run"], "pku")
}

fn built(arguments: &[&str], target: &str) -> Result<PathBuf> {
    let mut cargo = command::cargo(arguments);
    cargo.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    println!("$ {}", command::describe(&cargo));
    let said = command::output(&mut cargo)?;
    executable(&said, target).with_context(|| format!("cargo built no {target}"))
}

/// The program of a target, in what Cargo says it built.
fn executable(built: &str, target: &str) -> Option<PathBuf> {
    let messages = built.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut of_target = messages.filter(|message| message["target"]["name"] == target);
    of_target.find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// Holds a call that must succeed against what it must have said.
fn check(name: &str, outcome: &Outcome, judge: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let judged = match outcome.status {
        Some(0) => judge(&outcome.output),
        Some(status) => Err(anyhow::anyhow!("exit status {status}")),
        None => Err(anyhow::anyhow!("it did not come to its end")),
    };
    judged.with_context(|| {
        format!("in the emulator, {name} printed:\n{}{}", outcome.output, outcome.complaints)
    })
}

fn check_tests(said: &str) -> Result<()> {
    let summary = said.lines().find(|line| line.starts_with("test result: ok. "));
    let summary = summary.context("no summary of the tests")?;
    let passed = summary.split_whitespace().nth(3).and_then(|passed| passed.parse::<u32>().ok());
    ensure!(passed.is_some_and(|passed| passed > 0), "no test passed: {summary}");
    ensure!(summary.contains(" 0 ignored"), "some tests were left out: {summary}");
    ensure!(!said.contains("skipped: "), "some tests found no keys");
    Ok(())
}

fn check_bench(said: &str) -> Result<()> {
    let table: Value = serde_json::from_str(said).context("not one JSON object")?;
    ensure!(table["backend"] == "pku" && table["on"] == "host", "not by this backend");
    ensure!(table["machine"]["emulator"] == "QEMU TCG", "it does not say what the machine is");
    let of_times = |notice: &String| notice.contains("its times say nothing of hardware");
    ensure!(notices(said).iter().any(of_times), "no word on times");
    let rows = table["rows"].as_array().context("no rows")?;
    ensure!(rows.len() == ROWS.len(), "{} rows", rows.len());
    for row in rows {
        for mode in ["unbatched", "batched", "fused-lean", "fused"] {
            let mode_of_row = &row["modes"][mode];
            let switches = mode_of_row["counts"]["switches"].as_f64().unwrap_or_default();
            ensure!(
                mode_of_row["effect_pct"].is_number() && switches > 0.0,
                "{mode} was not measured: {row}"
            );
        }
    }
    Ok(())
}

/// What the benchmark says of its own figures.
fn notices(said: &str) -> Vec<String> {
    let table: Value = serde_json::from_str(said).unwrap_or_default();
    let notices = table["notices"].as_array().cloned().unwrap_or_default();
    notices.iter().filter_map(|notice| Some(notice.as_str()?.to_owned())).collect()
}

fn check_table(said: &str) -> Result<()> {
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in ["backend pku", "WRPKRU", "emulated by"] {
        ensure!(flat.contains(expected), "no `{expected}`");
    }
    Ok(())
}

fn check_doctor(said: &str, status: &str) -> Result<()> {
    let report: Value = serde_json::from_str(said).context("not one JSON object")?;
    let findings = report["findings"].as_array().context("no findings")?;
    let finding = |name: &str| findings.iter().find(|finding| finding["name"] == name);
    let keys = finding("PKU").context("no word on PKU")?;
    ensure!(keys["status"] == status, "expected {status}: {keys}");
    ensure!(finding("emulator").is_some(), "it does not say that the machine is an emulator");
    Ok(())
}

/// A refusal is one of what was asked for: exit status 2, with the reason and what works instead.
fn check_refused(outcome: &Outcome, why: &str) -> Result<()> {
    let said = &outcome.complaints;
    if outcome.status != Some(2) || !said.contains(why) || !said.contains("--backend mock") {
        bail!("expected exit status 2 and `{why}`, got {:?}:\n{said}", outcome.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests_of_judgement {
    use super::*;

    #[test]
    fn tests_that_found_no_keys_are_no_proof() {
        let passed = "test result: ok. 16 passed; 0 failed; 0 ignored; 0 measured\n";
        assert!(check_tests(passed).is_ok());
        assert!(check_tests(&format!("skipped: a: no keys\n{passed}")).is_err());
        assert!(check_tests("test result: ok. 0 passed; 0 failed; 0 ignored\n").is_err());
        assert!(check_tests("test result: FAILED. 15 passed; 1 failed; 0 ignored\n").is_err());
    }

    #[test]
    fn a_refusal_has_its_status_and_reason() {
        let outcome = |status| Outcome {
            complaints: "kpkeys: backend pku: OSPKE. `--backend mock` works\n".into(),
            status,
            ..Outcome::default()
        };
        assert!(check_refused(&outcome(Some(2)), "OSPKE").is_ok());
        assert!(check_refused(&outcome(Some(1)), "OSPKE").is_err());
        assert!(check_refused(&outcome(Some(2)), "bit 3").is_err());
        assert!(check("x", &outcome(None), |_| Ok(())).is_err());
    }

    #[test]
    fn the_program_is_the_one_of_its_target() {
        let built = "{\"target\":{\"name\":\"a\"},\"executable\":\"/t/a\"}\n\
                     {\"target\":{\"name\":\"b\"},\"executable\":null}\nnoise\n";
        assert_eq!(executable(built, "a"), Some("/t/a".into()));
        assert_eq!(executable(built, "b"), None);
    }
}

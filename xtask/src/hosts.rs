//! Where else the command runs, seen from here.
//!
//! | host | what is done | when |
//! |---|---|---|
//! | macOS, Apple's and Intel's CPUs | compiled without a warning; nothing here can run it | step `hosts` |
//! | Windows | the libraries of a kernel compile; what needs a process says in one line that it does not | step `hosts` |
//! | arm64 Linux | built, and run by QEMU's user mode where this is no such machine | `cargo xtask hosts` |

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages::Needed;
use crate::step::Outcome;
use crate::toolchain::Toolchain;
use crate::{bare, command, packages, test, workspace};

const APPLE: &str = "aarch64-apple-darwin";
const INTEL_MAC: &str = "x86_64-apple-darwin";
const WINDOWS: &str = "x86_64-pc-windows-msvc";
const ARM64_LINUX: &str = "aarch64-unknown-linux-gnu";

/// What differs between the two kinds of Mac.
const DEPENDS_ON_CPU: [&str; 2] = ["kpkeys-hosted", "kpkeys-trace"];

/// Compiles for the hosts that cannot be run here. Without their standard libraries it is skipped.
pub fn check() -> Result<Outcome> {
    if let Err(error) = Toolchain::of_targets(&[APPLE, INTEL_MAC, WINDOWS]).install_missing() {
        return Ok(Outcome::Skipped(vec![format!("hosts: {error:#}")]));
    }
    lint(APPLE, &["kpkeys-cli"])?;
    lint(INTEL_MAC, &DEPENDS_ON_CPU)?;
    command::run(&mut for_target("check", WINDOWS, &bare::OWN_CRATES))?;
    refused_in_one_line()?;
    Ok(Outcome::Done)
}

fn lint(target: &str, crates: &[&str]) -> Result<()> {
    command::run(for_target("clippy", target, crates).args(["--", "-D", "warnings"]))
}

fn for_target(task: &str, target: &str, crates: &[&str]) -> Command {
    let packages = crates.iter().flat_map(|name| ["--package", name]);
    let arguments: Vec<_> = [task, "--target", target].into_iter().chain(packages).collect();
    command::cargo(&arguments)
}

/// What needs a process with memory to map does not compile for Windows, and says what to do instead.
fn refused_in_one_line() -> Result<()> {
    let mut check = for_target("check", WINDOWS, &["kpkeys-hosted"]);
    println!("$ {}, which must be refused", command::describe(&check));
    let output = check.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().find(|line| line.contains("build and run them in WSL2"));
    ensure!(!output.status.success(), "kpkeys-hosted compiles for {WINDOWS}");
    println!("{}", reason.with_context(|| format!("no reason in one line: {said}"))?);
    Ok(())
}

/// Programs that this needs, and Debian's packages that have them; the last has the C library, which the linker's package only recommends.
const NEEDED: [Needed; 2] =
    [("qemu-aarch64", "qemu-user"), ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")];
const C_LIBRARY: (&str, &str) = ("/usr/aarch64-linux-gnu", "libc6-dev-arm64-cross");

/// Crates whose tests run a machine in a process, attacks on the MMU model among them.
const TESTED: [&str; 3] = ["kpkeys", "kpkeys-pgtable", "kpkeys-hosted"];

/// Rows that are measured: one with a window for each of many stores, one with few.
const ROWS: [&str; 2] = ["fix_size_alloc_test: p:64, h:0", "vm_map_ram_test: p:1, h:0"];

/// Builds the command for arm64 Linux, runs what of it needs no other emulator, and the tests of the machine in a process.
pub fn run() -> Result<()> {
    let emulated = ARCH != "aarch64";
    if emulated {
        packages::install_needed(&NEEDED)?;
        if !Path::new(C_LIBRARY.0).join("lib/libc.so.6").exists() {
            packages::install(&[C_LIBRARY.1])?;
        }
        Toolchain::of_targets(&[ARM64_LINUX]).install_missing()?;
    }
    command::run(&mut arm64(&["build", "--package", "kpkeys-cli"]))?;
    doctor(emulated)?;
    bench(emulated)?;
    let skips = tests()?;
    println!(
        "arm64 Linux{}: doctor, {} rows and the tests of {} crates; {} checks skipped",
        if emulated { ", by QEMU's user mode" } else { "" },
        ROWS.len(),
        TESTED.len(),
        skips.len()
    );
    skips.iter().for_each(|skip| println!("  {skip}"));
    Ok(())
}

/// Cargo, with the linker and what runs its programs where this is another machine.
fn arm64(arguments: &[&str]) -> Command {
    let mut cargo = command::cargo(arguments);
    cargo.args(["--target", ARM64_LINUX]);
    if ARCH != "aarch64" {
        let runner = format!("qemu-aarch64 -L {}", C_LIBRARY.0);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", NEEDED[1].0);
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", &runner);
        // The command starts itself again, which the kernel would not run.
        cargo.env("KPKEYS_RUNNER", &runner);
    }
    cargo
}

fn doctor(emulated: bool) -> Result<()> {
    let said = kpkeys(&["doctor"])?;
    expect(&said, "aarch64")?;
    ensure!(
        said.contains("translation") == emulated,
        "doctor does not say whether it is translated:\n{said}"
    );
    Ok(())
}

fn bench(emulated: bool) -> Result<()> {
    let rows = ROWS.iter().flat_map(|row| ["--rows", row]);
    let quick = ["bench", "--quick", "--counts", "--format", "markdown"];
    let said = kpkeys(&quick.into_iter().chain(rows).collect::<Vec<_>>())?;
    for row in ROWS {
        expect(&said, row)?;
    }
    expect(&said, "MSR FPSR + ISB")?;
    ensure!(
        said.contains("TRANSLATED") == emulated,
        "bench does not say whether it is translated:\n{said}"
    );
    Ok(())
}

/// Runs the command and returns what it prints, which is shown too.
fn kpkeys(arguments: &[&str]) -> Result<String> {
    let run = ["run", "--quiet", "--package", "kpkeys-cli"];
    let mut cargo = arm64(&run);
    cargo.arg("--").args(arguments);
    println!("$ {}", command::describe(&cargo));
    let said = command::output(&mut cargo)?;
    print!("{said}");
    Ok(said)
}

fn expect(said: &str, words: &str) -> Result<()> {
    match said.contains(words) {
        true => Ok(()),
        false => bail!("`{words}` was expected in:\n{said}"),
    }
}

/// What says nothing of a host: programs that must not compile, which the compiler here is asked about.
const OF_THE_COMPILER: &str = "misuse_does_not_compile";

/// Runs the tests, and returns what was left unchecked.
fn tests() -> Result<Vec<String>> {
    let file = workspace::target_dir()?.join("skips-hosts");
    fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    let packages: Vec<_> = TESTED.iter().flat_map(|name| ["--package", name]).collect();
    let mut cargo = arm64(&["test", "--lib", "--tests", "--no-fail-fast"]);
    cargo.args(packages).args(["--", "--skip", OF_THE_COMPILER]);
    command::run(cargo.env(kpkeys_skips::FILE, &file))?;
    let mut skips = test::skips_in(&fs::read_to_string(&file).unwrap_or_default());
    skips.push(format!("{OF_THE_COMPILER}: asks this machine's compiler"));
    skips.push("kpkeys-workloads: all rows in all modes take an emulator more than an hour".into());
    Ok(skips)
}

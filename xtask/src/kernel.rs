//! The reference kernel: a workspace of its own, built for bare targets and tested in an emulator.
//!
//! Its tests inside the kernel run with all others (`kpkeys-emulator` boots it); here is what the workspace does not reach.

use std::process::Command;

use anyhow::Result;
use kpkeys_emulator::{Tables, Target};

use crate::command;
use crate::step::Outcome;
use crate::workspace;

/// The kernel is formatted, and for its targets free of warnings, in its documentation too.
pub fn lint() -> Result<Outcome> {
    command::run(&mut cargo(&["fmt", "--check"]))?;
    command::run(for_every_target(&["clippy", "--release"]).args(["--", "-D", "warnings"]))?;
    lint_formats()?;
    lint_exploits()?;
    lint_loader()?;
    let document = ["doc", "--no-deps", "--document-private-items"];
    command::run(for_every_target(&document).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Done)
}

/// The same of the kernel on page tables of other formats.
fn lint_formats() -> Result<()> {
    for tables in Tables::ALL {
        let target = format!("--target={}", tables.target().rust_target());
        let mut clippy = cargo(&["clippy", "--release", &target]);
        let [name, feature] = tables.binary();
        let which = ["--bin", name, "--features", feature];
        command::run(clippy.args(which).args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// The same of what is in no ordinary build: the driver with planted faults, which is the same on every target, and the exploits.
fn lint_exploits() -> Result<()> {
    let target = format!("--target={}", Target::X86_64.rust_target());
    let vulnerable = ["--bin", "kpkeys-vulnerable", "--features", "vulnerable"];
    let mut clippy = cargo(&["clippy", "--release", &target]);
    command::run(clippy.args(vulnerable).args(["--", "-D", "warnings"]))?;
    let exploits = workspace::root().join("kernel/exploits");
    command::run(cargo(&["fmt", "--check"]).current_dir(&exploits))?;
    let mut clippy = for_every_target(&["clippy", "--release"]);
    command::run(clippy.current_dir(&exploits).args(["--", "-D", "warnings"]))
}

/// The loader, for UEFI's targets.
fn lint_loader() -> Result<()> {
    let folder = workspace::root().join("kernel/loader");
    command::run(cargo(&["fmt", "--check"]).current_dir(&folder))?;
    let mut clippy = cargo(&["clippy", "--release"]);
    clippy.args(Target::ALL.map(|target| format!("--target={}", target.loader_target())));
    command::run(clippy.current_dir(&folder).args(["--", "-D", "warnings"]))
}

/// Builds the images of all targets side by side: each by itself keeps one CPU busy most of the time.
pub fn build() -> Result<()> {
    command::run(&mut for_every_target(&["build", "--release"]))
}

fn for_every_target(arguments: &[&str]) -> Command {
    let mut cargo = cargo(arguments);
    cargo.args(Target::ALL.map(|target| format!("--target={}", target.rust_target())));
    cargo
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command::cargo(arguments);
    let folder = workspace::root().join("kernel");
    cargo.env("CARGO_TARGET_DIR", kpkeys_emulator::target_dir(&folder));
    cargo.current_dir(folder);
    cargo
}

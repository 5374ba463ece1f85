//! The reference kernel: a workspace of its own, built for bare targets and tested in an emulator.
//!
//! Its tests inside the kernel run with all others (`kpkeys-emulator` boots it); here is what the workspace does not reach.

use anyhow::Result;

use crate::command;
use crate::step::Outcome;
use crate::workspace;

/// The kernel is formatted and free of warnings.
pub fn lint() -> Result<Outcome> {
    for arguments in [&["fmt", "--check"][..], &["clippy", "--release", "--", "-D", "warnings"]] {
        let mut cargo = command::cargo(arguments);
        command::run(cargo.current_dir(workspace::root().join("kernel")))?;
    }
    Ok(Outcome::Done)
}

/// Every promised attack is blocked where the hardware checks, and every attack succeeds with protection off.
pub fn attack() -> Result<Outcome> {
    command::run(&mut command::cargo(&[
        "run",
        "--quiet",
        "--package=kpkeys-cli",
        "--",
        "attack",
        "--on",
        "qemu-x86_64",
    ]))?;
    Ok(Outcome::Done)
}

//! The reference kernel: a workspace of its own, built for bare targets and tested in an emulator.
//!
//! Its tests inside the kernel run with all others (`kpkeys-emulator` boots it); here is what the workspace does not reach.

use anyhow::Result;
use kpkeys_emulator::Target;

use crate::command;
use crate::step::Outcome;
use crate::workspace;

/// The kernel is formatted and free of warnings.
pub fn lint() -> Result<Outcome> {
    let run = |arguments: &[&str]| {
        let mut cargo = command::cargo(arguments);
        command::run(cargo.current_dir(workspace::root().join("kernel")))
    };
    run(&["fmt", "--check"])?;
    for target in Target::ALL.map(Target::rust_target) {
        run(&["clippy", "--release", "--target", target, "--", "-D", "warnings"])?;
    }
    Ok(Outcome::Done)
}

/// Every promised attack is blocked where the hardware checks, and every attack succeeds with protection off.
pub fn attack() -> Result<Outcome> {
    for target in Target::ALL.map(Target::name) {
        let run = ["run", "--quiet", "--package=kpkeys-cli", "--", "attack", "--on", target];
        command::run(&mut command::cargo(&run))?;
    }
    Ok(Outcome::Done)
}

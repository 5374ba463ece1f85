//! The reference kernel: a workspace of its own, built for bare targets and tested in an emulator.
//!
//! Its tests inside the kernel run with all others (`kpkeys-emulator` boots it); here is what the workspace does not reach.

use anyhow::Result;
use kpkeys_emulator::Target;

use crate::command;
use crate::step::Outcome;
use crate::workspace;

/// The kernel is formatted, and for each of its targets free of warnings, in its documentation too.
pub fn lint() -> Result<Outcome> {
    in_kernel(&["fmt", "--check"], &[])?;
    for target in Target::ALL.map(Target::rust_target) {
        in_kernel(&["clippy", "--release", "--target", target, "--", "-D", "warnings"], &[])?;
        let document = ["doc", "--no-deps", "--document-private-items", "--target", target];
        in_kernel(&document, &[("RUSTDOCFLAGS", "-D warnings")])?;
    }
    Ok(Outcome::Done)
}

fn in_kernel(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut cargo = command::cargo(arguments);
    let folder = workspace::root().join("kernel");
    cargo.env("CARGO_TARGET_DIR", kpkeys_emulator::target_dir(&folder));
    cargo.current_dir(folder).envs(environment.iter().copied());
    command::run(&mut cargo)
}

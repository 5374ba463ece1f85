//! `cargo xtask setup`, also the first step of `cargo xtask test`: installs what is missing.

use anyhow::Result;

use crate::packages;
use crate::step::Outcome;
use crate::toolchain::Toolchain;

/// Installs what the other steps need. Rust's own parts must be there; an emulator that is missing is
/// only reported, since most steps need none.
pub fn run() -> Result<Outcome> {
    Toolchain::of_workspace()?.install_missing()?;
    Ok(packages::install_missing())
}

/// The task of its own, whose output already says what is left to do.
pub fn run_alone() -> Result<()> {
    run().map(|_| ())
}

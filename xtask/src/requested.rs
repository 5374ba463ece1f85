//! Tests that run on request, since they take minutes, or the distribution's packages that nothing else needs: `cargo xtask exploits`, `cargo xtask slurm` and
//! `cargo xtask browser`.

use anyhow::Result;

use crate::command;
use crate::packages::{Needed, install_needed};

const SLURM: [Needed; 4] = [
    ("slurmctld", "slurmctld"),
    ("slurmd", "slurmd"),
    ("sbatch", "slurm-client"),
    ("munged", "munge"),
];
const BROWSER: [Needed; 1] = [("chromium", "chromium")];

/// Every exploit in every mode with every backend, on kernels that are built for it.
pub fn exploits() -> Result<()> {
    let test = ["test", "-p", "kpkeys-cli", "--test", "exploits"];
    command::run(command::cargo(&test).args(["--", "--ignored", "--nocapture"]))
}

/// A campaign of 1,000 tasks in a Slurm of its own, eight nodes on this machine, with tasks killed and a node lost.
pub fn slurm() -> Result<()> {
    install_needed(&SLURM)?;
    let test = ["test", "-p", "kpkeys-cli", "--test", "slurm"];
    command::run(command::cargo(&test).args(["--", "--ignored", "--nocapture"]))
}

/// The page of a report in Chromium; its pictures stay in the target directory, in `tmp/pages`.
pub fn browser() -> Result<()> {
    install_needed(&BROWSER)?;
    let test = ["test", "-p", "kpkeys-cli", "--test", "browser"];
    command::run(command::cargo(&test).args(["--", "--nocapture"]))
}

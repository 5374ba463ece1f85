//! Tests that run on request, since they take minutes, or the distribution's packages that nothing else needs: `cargo xtask exploits`, `cargo xtask image`,
//! `cargo xtask slurm` and `cargo xtask browser`.

use anyhow::Result;
use kpkeys_emulator::Target;

use crate::command;
use crate::packages::{Needed, install_needed, install_or_say};

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

/// The disk that `kpkeys image` writes, on UEFI firmware of both machines, from a USB stick.
pub fn image() -> Result<()> {
    let firmware = Target::ALL.map(Target::debian_firmware).into_iter();
    let missing: Vec<&str> =
        firmware.filter(|(_, files)| !files.code.is_file()).map(|(package, _)| package).collect();
    install_or_say(&missing)?;
    let test = ["test", "-p", "kpkeys-cli", "--test", "image"];
    command::run(command::cargo(&test).args(["--", "--ignored", "--nocapture", "--test-threads=1"]))
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

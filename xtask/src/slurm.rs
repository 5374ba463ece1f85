//! `cargo xtask slurm`: a campaign of 1,000 tasks in a Slurm of its own, eight nodes on this machine, with tasks killed and a node lost.
//!
//! Run on request, since it takes root, the distribution's packages and minutes.

use anyhow::{Result, bail};

use crate::{command, packages};

/// Programs, and the packages of Debian that have them.
const NEEDED: [(&str, &str); 4] = [
    ("slurmctld", "slurmctld"),
    ("slurmd", "slurmd"),
    ("sbatch", "slurm-client"),
    ("munged", "munge"),
];

/// Installs what is missing, and runs the test.
pub fn run() -> Result<()> {
    let missing = NEEDED.iter().filter(|(program, _)| command::find(program).is_none());
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        if !packages::can_install() {
            bail!("as root, on Debian or Ubuntu: apt-get install {}", missing.join(" "));
        }
        packages::install(&missing)?;
    }
    let test = ["test", "--release", "-p", "kpkeys-cli", "--test", "slurm"];
    command::run(command::cargo(&test).args(["--", "--ignored", "--nocapture"]))
}

//! What the gate runs of programs: a few of the stressors, for seconds, beside an attacker.

use std::time::Duration;

use anyhow::{Result, ensure};
use kpkeys_emulator::{Kernel, Target};
use kpkeys_pgtable::Mode;

use super::boot::Boot;
use super::root;
use crate::command;
use crate::step::Outcome;

/// One of each at the same time.
const SCRIPT: &str = "stress-ng --fork 1 --mmap 1 --mremap 1 --vm 1 --shm 1 --mmap-bytes 16m --mremap-bytes 16m --vm-bytes 16m --shm-bytes 4m --verify --timeout 3 --temp-path /tmp && echo well";

/// Runs them on both machines, in the strongest mode.
pub fn run() -> Result<Outcome> {
    if command::find("apt-get").is_none() {
        let skip = "programs of the distribution: there is no apt-get to fetch them";
        return Ok(Outcome::Skipped(vec![skip.to_owned()]));
    }
    for target in Target::ALL {
        let kernel = Kernel::build(target)?;
        let archive = root::small_archive(target)?;
        let limit = Duration::from_secs(400);
        let boot = Boot {
            attacked: true,
            limit,
            memory_mib: 1024,
            ..Boot::new(&kernel, &archive, Mode::Fused)
        };
        let ended = boot.run(SCRIPT)?;
        let is_well = ended.is_well(0) && ended.printed.last().is_some_and(|line| line == "well");
        ensure!(is_well, "stressors on {}: {ended:?}", target.name());
        println!("{}: stressors ended well beside {} attacks", target.name(), ended.attacks);
    }
    Ok(Outcome::Done)
}

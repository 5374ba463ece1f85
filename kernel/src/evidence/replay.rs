//! Replays the memory history of a recorded program on this kernel's own tables, from steps that came in place of an initramfs.

use super::report::{Record, emit};
use crate::arch::time;
use crate::memory::boot::PhysRange;
use crate::memory::paging::Bare;
use crate::program::command::bytes_of;
use crate::{cpu, sched};
use alloc::format;
use alloc::string::{String, ToString};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::Probe;
use kpkeys_replay::replayer::replay_steps;
use kpkeys_replay::{Stage, Steps};

/// Replays the steps once unrecorded, as benchmarks are run, and then so many times, each time a record.
///
/// # Errors
///
/// What is wrong with the steps, or that there is too little memory.
pub fn run<P: Probe + 'static>(
    kernel: &'static Kernel<Bare<P>>,
    times: u32,
    steps: Option<PhysRange>,
) -> Result<(), String> {
    let bytes = bytes_of(steps.ok_or("no steps came with the kernel: there is nothing to replay")?);
    let steps = Steps::decode(bytes).map_err(|error| format!("not steps to replay: {error}"))?;
    let thread = sched::spawn("replay", Some(cpu::this().id), move || {
        once(kernel, &steps)?;
        for iteration in 0..times {
            let ns = once(kernel, &steps)?;
            emit(&Record::Sample { row: "replay", iteration, ns, operations: 1 });
        }
        Ok(())
    });
    thread.map_err(|error| error.to_string())?.join()
}

/// How long one replay takes.
fn once<P: Probe>(kernel: &Kernel<Bare<P>>, steps: &Steps) -> Result<u64, String> {
    let failed = |error: kpkeys_mm::Error| error.to_string();
    let file = Stage::file(kernel, steps.setting).map_err(failed)?;
    let start = time::since_boot();
    let tally = replay_steps(kernel, &file, steps.setting, &steps.steps);
    let ns = (time::since_boot() - start).as_nanos() as u64;
    kernel.close_file(file);
    let tally = tally.map_err(failed)?;
    log::info!("replay: {} steps, {} refused", tally.done + tally.refused, tally.refused);
    Ok(ns)
}

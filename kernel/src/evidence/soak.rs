//! The soak: random processes and kernel mappings on all CPUs, with an attacker among them.
//!
//! Each worker has processes and areas of its own and remembers what every page of theirs must hold, so that a lost flush or a page given
//! out twice shows as wrong contents. The attacker stores to page-table pages that never go away; where protection is enforced, every one
//! of its stores must fault. In the end everything is freed: the checker must be content, and no frame may be missing.

mod worker;

use crate::arch::time;
use crate::cpu;
use crate::evidence::attacker::{Attacker, Stores};
use crate::evidence::report::{Record, emit};
use crate::memory::paging::{accounted, memories};
use crate::sched;
use crate::start::command_line::Until;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use worker::Worker;

/// Runs until then with this seed. Returns how much was found wrong.
///
/// # Errors
///
/// What a worker could not do, or found wrong.
pub fn run(until: Until, seed: u64) -> Result<usize, String> {
    let before = accounted(&[]);
    let begun = time::since_boot();
    let attacker = Attacker::start().map_err(|error| error.to_string())?;
    let mut workers = Vec::new();
    for cpu in cpu::online() {
        let seed = seed.wrapping_add(cpu.id.0 as u64);
        let worker =
            sched::spawn("worker", None, move || Worker::new(memories(), seed).run(begun, until));
        workers.push(worker.map_err(|error| error.to_string())?);
    }
    let results: Vec<Result<u64, String>> =
        workers.into_iter().map(|worker| worker.join()).collect();
    let stores = attacker.stop();
    let mut operations = 0;
    for result in results {
        operations += result?;
    }
    let missing = before as i64 - accounted(&[]) as i64;
    let Stores { blocked, succeeded } = stores;
    emit(&Record::Soak { operations, blocked, succeeded, missing_frames: missing });
    Ok(usize::from(missing != 0) + usize::from(!stores.are_right()))
}

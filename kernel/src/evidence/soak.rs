//! The soak: random processes and kernel mappings on all CPUs, with an attacker among them.
//!
//! Each worker has processes and areas of its own and remembers what every page of theirs must hold, so that a lost flush or a page given
//! out twice shows as wrong contents. The attacker stores to page-table pages that never go away; where protection is enforced, every one
//! of its stores must fault. In the end everything is freed: the checker must be content, and no frame may be missing.

mod worker;

use crate::arch::time;
use crate::cpu;
use crate::evidence::attack::Here;
use crate::evidence::report::{Record, emit};
use crate::memory::paging::{self, Memories, memories};
use crate::start::command_line::Until;
use crate::{protection, sched};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kpkeys_workloads::attack::{Aim, Site, Store};
use worker::Worker;

static STOP: AtomicBool = AtomicBool::new(false);
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static SUCCEEDED: AtomicU64 = AtomicU64::new(0);

/// Runs until then with this seed. Returns how much was found wrong.
///
/// # Errors
///
/// What a worker could not do, or found wrong.
pub fn run(until: Until, seed: u64) -> Result<usize, String> {
    let kernel = memories();
    // Unmaps that wait for a window from what ran before hold frames.
    kernel.purge_vmalloc();
    let before = accounted(kernel);
    let begun = time::since_boot();
    let attacker = sched::spawn("attacker", None, attack).map_err(|error| error.to_string())?;
    let mut workers = Vec::new();
    for cpu in cpu::online() {
        let seed = seed.wrapping_add(cpu.id.0 as u64);
        let worker =
            sched::spawn("worker", None, move || Worker::new(memories(), seed).run(begun, until));
        workers.push(worker.map_err(|error| error.to_string())?);
    }
    let results: Vec<Result<u64, String>> =
        workers.into_iter().map(|worker| worker.join()).collect();
    STOP.store(true, Ordering::Relaxed);
    attacker.join();
    kernel.purge_vmalloc();
    kernel.paging().shrink();
    let mut operations = 0;
    for result in results {
        operations += result?;
    }
    let after = accounted(kernel);
    let missing = before as i64 - after as i64;
    let (blocked, succeeded) = (BLOCKED.load(Ordering::Relaxed), SUCCEEDED.load(Ordering::Relaxed));
    emit(&Record::Soak { operations, blocked, succeeded, missing_frames: missing });
    Ok(usize::from(missing != 0) + usize::from(!attacks_were_right(blocked, succeeded)))
}

/// Frames that are free, tables, or waiting to become tables: all there are, when nothing else is in use.
fn accounted(kernel: &Memories) -> usize {
    let report = paging::check(kernel, &[], |finding| log::error!("checker: {finding}"));
    kernel.frames().free_frames() + report.ptps + report.spare + report.state
}

fn attacks_were_right(blocked: u64, succeeded: u64) -> bool {
    let is_protected = memories().paging().is_protected() && protection::selected().enforces();
    if is_protected { blocked > 0 && succeeded == 0 } else { blocked == 0 && succeeded > 0 }
}

/// Stores to page-table pages until told to stop.
fn attack() {
    let site = Here { cpu: cpu::this().id };
    let targets = [site.early_table(), site.static_table(), image_table()]
        .map(|page| Aim::of_table(memories(), page, 0));
    let stores = [Store::Byte, Store::Word, Store::Bulk, Store::ReadModifyWrite];
    for round in 0u64.. {
        for table in targets {
            let aim = table.offset(round % 64 * 64);
            let counter = match site.store(stores[round as usize % 4], aim) {
                Ok(()) => &SUCCEEDED,
                Err(_) => &BLOCKED,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if STOP.load(Ordering::Relaxed) {
            return;
        }
        sched::yield_now();
    }
}

/// The table of pages that maps the image's data: it never changes.
fn image_table() -> crate::memory::boot::PhysAddr {
    use kpkeys_pgtable::{Format, Level};
    let paging = memories().paging();
    let va = Here { cpu: cpu::this().id }.image_address();
    let entry = paging
        .find_table(paging.kernel(), va, Level::Pmd)
        .map(|table| table.slot(va.index::<crate::arch::Format>(Level::Pmd)).load());
    let entry = entry.expect("the image is mapped");
    crate::arch::Format::frame(Level::Pmd, entry)
}

//! What is left of a window when the kernel ends in it.
//!
//! Each way out that does not come back is gone on request: `crash=...-in-window`. The panic handler, where all of them end, then tries to store to
//! a page table, and says what came of it.

use super::attack::Here;
use crate::arch;
use crate::cpu::{self, stack};
use crate::memory::paging;
use crate::protection;
use crate::start::command_line::Way;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys_workloads::attack::execute::inside_window;
use kpkeys_workloads::attack::{Aim, Site, Store};

/// Whether the kernel was asked to end in a window.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Ends the kernel in a window of a real operation.
pub fn crash_in_window(way: Way) {
    let ended = paging::memories().vmalloc(1).map(|area| {
        inside_window(paging::memories(), area, || {
            let site = Here { cpu: cpu::this().id };
            let is_open = site.store(Store::Word, aim(&site)).is_ok();
            log::info!("in a window: page tables can be written: {is_open}");
            ASKED.store(true, Ordering::Relaxed);
            end(way);
        })
    });
    log::error!("nothing ended in the window: {ended:?}");
}

fn end(way: Way) {
    match way {
        Way::Panic => panic!("as the command line asked, in a window"),
        Way::StackOverflow => log::info!("overflowed to {}", crate::overflow_stack(1)),
        // SAFETY: nothing is mapped there: this faults, which is what it is for.
        Way::Fault => log::info!("read {}", unsafe { stack::some_guard().read_volatile() }),
        Way::Error => arch::error::raise(),
    }
}

/// The last thing of a kernel that was asked to end in a window.
pub fn try_to_store() {
    if !ASKED.swap(false, Ordering::Relaxed) {
        return;
    }
    let is_enforced =
        paging::memories().paging().is_protected() && protection::selected().enforces();
    let site = Here { cpu: cpu::this().id };
    let can_store = site.store(Store::Word, aim(&site)).is_ok();
    log::error!("at the end: enforced {is_enforced}, page tables can be written: {can_store}");
}

/// A table, where a window can write it.
fn aim(site: &Here) -> Aim {
    Aim::of_table(paging::memories(), site.early_table(), 4088)
}

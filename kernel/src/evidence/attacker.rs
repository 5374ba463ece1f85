//! A thread that stores to page-table pages which never go away, beside whatever else runs.
//!
//! Where protection is enforced every one of its stores must fault; where it is not, every one must succeed, or nothing is proved.

use crate::evidence::attack::Here;
use crate::memory::boot::PhysAddr;
use crate::memory::paging::memories;
use crate::sched::{JoinHandle, SpawnError};
use crate::{arch, cpu, protection, sched};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys_pgtable::{Format, Level};
use kpkeys_workloads::attack::{Aim, Site, Store};

/// What became of its stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    /// Those that faulted.
    pub blocked: u64,
    /// Those that did not.
    pub succeeded: u64,
}

impl Stores {
    /// Whether they fared as the mode and the backend in use promise.
    pub fn are_right(self) -> bool {
        let is_protected = memories().paging().is_protected() && protection::selected().enforces();
        let (made, not_made) = if is_protected {
            (self.blocked, self.succeeded)
        } else {
            (self.succeeded, self.blocked)
        };
        made > 0 && not_made == 0
    }
}

/// The thread.
pub struct Attacker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Stores>,
}

impl Attacker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`SpawnError::NoStack`].
    pub fn start() -> Result<Self, SpawnError> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = sched::spawn("attacker", None, move || attack(&told))?;
        Ok(Self { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) -> Stores {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join()
    }
}

/// Stores until told to stop.
fn attack(stop: &AtomicBool) -> Stores {
    let site = Here { cpu: cpu::this().id };
    let targets = [site.early_table(), site.static_table(), image_table()]
        .map(|page| Aim::of_table(memories(), page, 0));
    let kinds = [Store::Byte, Store::Word, Store::Bulk, Store::ReadModifyWrite];
    let mut stores = Stores::default();
    for round in 0u64.. {
        for table in targets {
            let aim = table.offset(round % 64 * 64);
            match site.store(kinds[round as usize % kinds.len()], aim) {
                Ok(()) => stores.succeeded += 1,
                Err(_) => stores.blocked += 1,
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sched::yield_now();
    }
    stores
}

/// The table of pages that maps the image's data: it never changes.
fn image_table() -> PhysAddr {
    let paging = memories().paging();
    let va = Here { cpu: cpu::this().id }.image_address();
    let entry = paging
        .find_table(paging.kernel(), va, Level::Pmd)
        .map(|table| table.slot(va.index::<arch::Format>(Level::Pmd)).load());
    let entry = entry.expect("the image is mapped");
    arch::Format::frame(Level::Pmd, entry)
}

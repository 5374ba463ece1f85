//! Address space identifiers: what keeps apart the translations of several address spaces in one TLB.
//!
//! An identifier belongs to a root table's *frame*. It outlives the address space: when that ends, its translations are flushed on every
//! CPU, so the next root in the same frame may have the same identifier. When all are given away they are taken back
//! from all frames but those that some CPU has loaded, and everything is flushed, once, before any is given again
//! (rollover). As on Linux, no CPU is interrupted for it.
//!
//! One lock orders all this. A root is loaded under it, so that at a rollover no CPU is between having been given an identifier and
//! having said so.

use super::{control, tlb};
use crate::cpu::{self, MAX_CPUS};
use crate::lock::IrqLock;
use alloc::collections::BTreeMap;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU64, Ordering};

/// The window root's, with backend `ttbr0`: no address space's.
pub const WINDOW: u16 = 1;

/// Identifier 0 belongs to the empty table, under which no user translation exists.
const FIRST: u32 = WINDOW as u32 + 1;

/// Which frame has which identifier.
pub struct Asids {
    of_root: BTreeMap<u64, u16>,
    /// Those that outlived a rollover.
    kept: ArrayVec<u16, MAX_CPUS>,
    next: u32,
    /// One more than the largest.
    end: u32,
}

static ASIDS: IrqLock<Asids> = IrqLock::new(Asids::new(0));
/// The root each CPU has loaded; 0 for none.
static LOADED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Calls `load` with the identifier of a root that the running CPU is to use from then on.
pub fn with(root: u64, load: impl FnOnce(u16)) {
    let mut asids = ASIDS.lock();
    if asids.end == 0 {
        asids.end = control::asids();
    }
    let asid = asids.of(root, &loaded(), tlb::flush_all_everywhere);
    LOADED[cpu::this().id.0].store(root, Ordering::Relaxed);
    load(asid);
}

/// Says that the running CPU no longer uses any root.
pub fn forget() {
    LOADED[cpu::this().id.0].store(0, Ordering::Release);
}

/// The identifier under which CPUs may have translations of a root's tables; `None` if no CPU can have any.
pub fn of_root(root: u64) -> Option<u16> {
    ASIDS.lock().of_root.get(&root).copied()
}

fn loaded() -> ArrayVec<u64, MAX_CPUS> {
    LOADED.iter().map(|root| root.load(Ordering::Acquire)).filter(|&root| root != 0).collect()
}

impl Asids {
    /// Identifiers below `end`, none of them given away.
    pub const fn new(end: u32) -> Self {
        Self { of_root: BTreeMap::new(), kept: ArrayVec::new_const(), next: FIRST, end }
    }

    /// The identifier of a root, given now if it has none. `loaded` are the roots in use, of which there are fewer than
    /// identifiers; `flush` forgets all user translations on all CPUs.
    pub fn of(&mut self, root: u64, loaded: &[u64], flush: impl FnOnce()) -> u16 {
        if let Some(&asid) = self.of_root.get(&root) {
            return asid;
        }
        let asid = self.take_free().unwrap_or_else(|| {
            self.roll_over(loaded);
            flush();
            self.take_free().unwrap_or_default()
        });
        self.of_root.insert(root, asid);
        asid
    }

    fn take_free(&mut self) -> Option<u16> {
        while self.next < self.end {
            let asid = self.next as u16;
            self.next += 1;
            if !self.kept.contains(&asid) {
                return Some(asid);
            }
        }
        None
    }

    fn roll_over(&mut self, loaded: &[u64]) {
        self.of_root.retain(|root, _| loaded.contains(root));
        self.kept = self.of_root.values().copied().take(MAX_CPUS).collect();
        self.next = FIRST;
    }
}

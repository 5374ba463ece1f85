//! Kernel mappings of frames that need not be contiguous: `vmalloc` and `vm_map_ram`.
//!
//! | module | concept |
//! |---|---|
//! | [`addresses`] | free ranges of kernel addresses |
//! | [`area`] | `vmalloc`, `vmalloc_huge`, `vfree` |
//! | [`blocks`] | `vm_map_ram` on per-CPU blocks |
//! | [`lazy`] | unmapped ranges that wait for a TLB flush, and unmaps that wait for a window |
//!
//! # The life of a range
//!
//! Mapped; then unmapped, its entries cleared but TLBs still holding it, so its *addresses* wait on the lazy list; then, when
//! enough wait, one TLB flush for all of them, and the addresses are free. Its *frames* are free as soon as its entries are cleared.
//! Kernel page-table pages are never freed.
//!
//! # Deferred unmaps in mode `fused`
//!
//! A small unmap would need a window of its own for a handful of stores. In mode `fused` it waits, per CPU, for the next window
//! that `vmalloc` or `vm_map_ram` opens there, and its stores share it. Until then the mapping still translates, and its frames
//! stay allocated, those of `vm_map_ram`'s caller too, even if the caller gives them back: whoever uses the address after freeing it
//! finds the old contents instead of a fault, never somebody else's memory, and never a page table. At most [`MAX_DEFERRED_PAGES`](lazy::MAX_DEFERRED_PAGES) pages wait on a CPU.

pub mod addresses;
pub mod area;
pub mod blocks;
mod contents;
pub mod lazy;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use kpkeys_pgtable::PageRange;
use spin::Mutex;

use addresses::FreeAddresses;
use area::Area;
use blocks::{BlockMap, CpuBlock};
use lazy::{Deferred, LazyRanges};

/// Pages that wait unflushed before a purge, for each doubling of the number of CPUs: 32 MiB.
const LAZY_PAGES: usize = 8192;

/// The kernel's mappings.
pub(crate) struct Vmalloc {
    addresses: Mutex<FreeAddresses>,
    busy: Mutex<BTreeMap<u64, Area>>,
    lazy: Mutex<LazyRanges>,
    blocks: Mutex<BlockMap>,
    cpus: Box<[PerCpu]>,
    max_lazy_pages: usize,
}

/// What each CPU has for itself.
struct PerCpu {
    /// The block that `vm_map_ram` hands out slots of.
    block: Mutex<Option<CpuBlock>>,
    /// Unmaps that wait for this CPU's next window.
    deferred: Mutex<Deferred>,
}

impl Vmalloc {
    pub(crate) fn new(range: PageRange, cpus: usize) -> Self {
        let per_cpu =
            |_| PerCpu { block: Mutex::new(None), deferred: Mutex::new(Deferred::default()) };
        Vmalloc {
            addresses: Mutex::new(FreeAddresses::new(range)),
            busy: Mutex::new(BTreeMap::new()),
            lazy: Mutex::new(LazyRanges::default()),
            blocks: Mutex::new(BlockMap::default()),
            cpus: (0..cpus).map(per_cpu).collect(),
            max_lazy_pages: (cpus.ilog2() as usize + 1) * LAZY_PAGES,
        }
    }

    fn this_cpu(&self, cpu: usize) -> &PerCpu {
        &self.cpus[cpu % self.cpus.len()]
    }
}

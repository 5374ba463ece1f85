//! Unmapped addresses that TLBs may still hold: they wait, on the CPU that unmapped them, for one flush of them all.

use alloc::boxed::Box;
use core::mem::take;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::{Flush, Machine, PAGE_SIZE, PageRange, VirtAddr};

use super::cpu::Own;
use super::extent::{Extent, Extents};
use crate::kernel::Kernel;

/// Pages that wait unflushed before a purge, for each doubling of the number of CPUs: 32 MiB.
const LAZY_PAGES: usize = 8192;
/// Pages that may wait on a CPU before it tells the others, so that they do not share a cache line for every unmap.
const UNREPORTED_PAGES: usize = 64;

/// Addresses that wait on a CPU. Neighbours become one, so that a loop of small areas needs one extent.
#[derive(Default)]
pub(super) struct LazyRanges {
    ranges: Extents,
    reported: usize,
    unreported: usize,
}

/// How much waits on all CPUs together.
pub(super) struct Waiting {
    pages: AtomicUsize,
    /// Above this there is a purge.
    max: usize,
    /// A CPU reports what waits there when it is more than this.
    unreported: usize,
}

impl Waiting {
    pub(super) fn new(cpus: usize) -> Self {
        Waiting {
            pages: AtomicUsize::new(0),
            max: (cpus.ilog2() as usize + 1) * LAZY_PAGES,
            unreported: if cpus == 1 { 0 } else { UNREPORTED_PAGES },
        }
    }
}

impl Own {
    /// Adds addresses to those that wait.
    #[inline]
    fn push_lazy(&mut self, range: Box<Extent>) {
        self.lazy.unreported += range.pages;
        let joined = self.lazy.ranges.last_pushed().is_some_and(|last| last.join(&range));
        if joined { self.keep_spare(range) } else { self.lazy.ranges.push(range) }
    }
}

impl<M: Machine> Kernel<M> {
    /// Addresses whose entries are cleared: they are free after the next purge.
    #[inline]
    pub(super) fn free_addresses_lazily(&self, range: Box<Extent>) {
        let waiting = &self.areas().waiting;
        let mut own = self.own();
        own.push_lazy(range);
        if own.lazy.unreported > waiting.unreported {
            let more = take(&mut own.lazy.unreported);
            own.lazy.reported += more;
            drop(own);
            if waiting.pages.fetch_add(more, Relaxed) + more > waiting.max {
                self.purge_vmalloc();
            }
        }
    }

    /// Flushes every unmapped range from all TLBs at once and frees its addresses.
    pub fn purge_vmalloc(&self) {
        let mut ranges = Extents::default();
        // Taken first, since what is cleared now joins the ranges, and must not begin a purge within this one.
        self.take_lazy(&mut ranges);
        self.clear_all_deferred();
        self.take_lazy(&mut ranges);
        let first = ranges.iter().map(|range| range.start).min();
        let end = ranges.iter().map(Extent::end).max();
        let (Some(first), Some(end)) = (first, end) else { return };
        if let Ok(span) = PageRange::new(VirtAddr(first), ((end - first) / PAGE_SIZE) as usize) {
            self.paging().flush(Flush::Kernel(span));
        }
        let mut addresses = self.areas().addresses.lock();
        while let Some(range) = ranges.pop() {
            addresses.put(range);
        }
    }

    /// Takes what waits on every CPU.
    fn take_lazy(&self, into: &mut Extents) {
        for cpu in &self.areas().cpus {
            let mut lazy = take(&mut cpu.lock().lazy);
            self.areas().waiting.pages.fetch_sub(lazy.reported, Relaxed);
            while let Some(range) = lazy.ranges.pop() {
                into.push(range);
            }
        }
    }
}

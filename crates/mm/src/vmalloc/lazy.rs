//! What waits: unmapped ranges for a TLB flush, and, in mode `fused`, unmaps for a window.

use alloc::vec::Vec;

use kpkeys_pgtable::{Flush, Format, Machine, Mode, PAGE_SIZE, PageRange, Section, VirtAddr};

use super::area::{AreaFrames, with_guard};
use crate::kernel::Kernel;

/// Pages of unmaps that may wait for a CPU's next window.
pub const MAX_DEFERRED_PAGES: usize = 1024;
/// The largest unmap that waits; a larger one is worth a window of its own.
const MAX_DEFERRED_UNMAP: usize = 512;

/// Ranges whose entries are cleared and whose addresses TLBs may still hold.
#[derive(Debug, Default)]
pub(super) struct LazyRanges {
    ranges: Vec<PageRange>,
    pages: usize,
}

/// Unmaps that wait for a CPU's next window. One of them, by far the most common number, needs no memory and one lock.
#[derive(Default)]
pub(super) struct Deferred {
    first: Option<Unmap>,
    rest: Vec<Unmap>,
    pages: usize,
}

impl Deferred {
    fn push(&mut self, unmap: Unmap) {
        self.pages += unmap.mapped.pages();
        if self.first.is_none() {
            self.first = Some(unmap);
        } else {
            self.rest.push(unmap);
        }
    }

    fn take(&mut self) -> Deferred {
        Deferred {
            first: self.first.take(),
            rest: core::mem::take(&mut self.rest),
            pages: core::mem::take(&mut self.pages),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Unmap> {
        self.first.iter().chain(&self.rest)
    }
}

/// One unmap: what to clear, and what it sets free.
pub(super) struct Unmap {
    /// The pages that are mapped.
    pub(super) mapped: PageRange,
    /// What becomes free when the entries are cleared.
    pub(super) frees: Frees,
}

/// What an unmap sets free.
pub(super) enum Frees {
    /// An area of its own: its addresses, which are the mapped ones and a guard page, and its frames.
    Area(AreaFrames),
    /// Slots of a `vm_map_ram` block. The frames are the caller's, who may give them back at any time.
    Slots,
    /// The same, and the frames behind them are held until their entries are cleared.
    HeldSlots,
}

impl<M: Machine> Kernel<M> {
    /// Unmaps now or, in mode `fused`, when this CPU next opens a window for kernel mappings.
    pub(super) fn unmap_lazily(&self, mut unmap: Unmap) {
        let pages = unmap.mapped.pages();
        if self.paging().mode() != Mode::Fused || pages > MAX_DEFERRED_UNMAP {
            return self.unmap_now(unmap);
        }
        if let Frees::Slots = unmap.frees {
            if !self.hold_frames(unmap.mapped) {
                // Nothing keeps these frames from being reused, so their mapping must not outlive this call.
                return self.unmap_now(unmap);
            }
            unmap.frees = Frees::HeldSlots;
        }
        let per_cpu = self.areas().this_cpu(self.machine().cpu());
        let full = {
            let mut deferred = per_cpu.deferred.lock();
            deferred.push(unmap);
            deferred.pages > MAX_DEFERRED_PAGES
        };
        if full {
            self.clear_all_deferred();
        }
    }

    fn unmap_now(&self, unmap: Unmap) {
        {
            let section = self.paging().section(self.paging().kernel());
            self.clear(&section, &unmap);
        }
        self.set_free(unmap);
    }

    /// Holds every frame behind a range; false, and none held, if one cannot be.
    fn hold_frames(&self, mapped: PageRange) -> bool {
        let frame = |page| {
            let va = mapped.start().offset_pages(page);
            let (level, _, entry) = self.paging().walk(self.paging().kernel(), va)?;
            Some(M::Format::frame(level, entry))
        };
        let hold = |page: &usize| frame(*page).is_some_and(|frame| self.frames().hold(frame));
        let held = (0..mapped.pages()).take_while(hold).count();
        if held < mapped.pages() {
            (0..held).filter_map(frame).for_each(|frame| self.frames().let_go(frame));
        }
        held == mapped.pages()
    }

    /// Clears this CPU's deferred unmaps in the window of `section`, and returns them. What they hold is set free by
    /// [`finish`](Self::finish), once the window is closed.
    #[inline]
    pub(super) fn clear_deferred(&self, section: &Section<'_, M>) -> Option<Deferred> {
        if self.paging().mode() != Mode::Fused {
            return None;
        }
        let cleared = self.areas().this_cpu(self.machine().cpu()).deferred.lock().take();
        cleared.iter().for_each(|unmap| self.clear(section, unmap));
        Some(cleared)
    }

    /// Sets free what unmaps held whose entries are cleared.
    #[inline]
    pub(super) fn finish(&self, cleared: Option<Deferred>) {
        if let Some(Deferred { first, rest, .. }) = cleared {
            first.into_iter().chain(rest).for_each(|unmap| self.set_free(unmap));
        }
    }

    /// Clears the deferred unmaps of every CPU.
    pub(super) fn clear_all_deferred(&self) {
        for cpu in &self.areas().cpus {
            let deferred = cpu.deferred.lock().take();
            {
                let section = self.paging().section(self.paging().kernel());
                deferred.iter().for_each(|unmap| self.clear(&section, unmap));
            }
            self.finish(Some(deferred));
        }
    }

    /// Flushes every unmapped range from all TLBs at once and frees its addresses.
    pub fn purge_vmalloc(&self) {
        // Counted anew from here on: what is cleared now joins the ranges, and must not begin a purge within this one.
        self.areas().lazy.lock().pages = 0;
        self.clear_all_deferred();
        let lazy = core::mem::take(&mut *self.areas().lazy.lock());
        let first = lazy.ranges.iter().map(|range| range.start()).min();
        let end = lazy.ranges.iter().map(|range| range.end()).max();
        let (Some(first), Some(end)) = (first, end) else { return };
        if let Ok(span) = PageRange::new(first, ((end.0 - first.0) / PAGE_SIZE) as usize) {
            self.paging().flush(Flush::Kernel(span));
        }
        let mut addresses = self.areas().addresses.lock();
        for range in lazy.ranges {
            addresses.put(range.start(), range.pages());
        }
    }

    /// A range of kernel addresses, purging if that is what it takes.
    pub(super) fn take_addresses(
        &self,
        pages: usize,
        align: u64,
    ) -> Result<VirtAddr, crate::Error> {
        let taken = self.areas().addresses.lock().take(pages, align);
        taken
            .or_else(|| {
                self.purge_vmalloc();
                self.areas().addresses.lock().take(pages, align)
            })
            .ok_or(crate::Error::OutOfAddresses(pages))
    }

    /// Addresses that were taken and never mapped.
    pub(super) fn return_addresses(&self, range: PageRange) {
        self.areas().addresses.lock().put(range.start(), range.pages());
    }

    /// Addresses whose entries are cleared: they are free after the next purge.
    pub(super) fn free_addresses_lazily(&self, range: PageRange) {
        let waiting = {
            let mut lazy = self.areas().lazy.lock();
            lazy.ranges.push(range);
            lazy.pages += range.pages();
            lazy.pages
        };
        if waiting > self.areas().max_lazy_pages {
            self.purge_vmalloc();
        }
    }

    /// Clears the entries of a range. Each table's are one lazy-MMU section.
    fn clear(&self, section: &Section<'_, M>, unmap: &Unmap) {
        let held = matches!(unmap.frees, Frees::HeldSlots);
        // The range is what a call of this module mapped, whole, so it cuts no block.
        let _ = self.paging().unmap(
            section,
            self.paging().kernel(),
            unmap.mapped,
            |_, level, entry| {
                if held {
                    self.frames().let_go(M::Format::frame(level, entry));
                }
            },
        );
    }

    fn set_free(&self, unmap: Unmap) {
        match unmap.frees {
            Frees::Area(frames) => {
                frames.release(self.frames());
                self.free_addresses_lazily(with_guard(unmap.mapped));
            }
            Frees::Slots | Frees::HeldSlots => self.slots_cleared(unmap.mapped),
        }
    }
}

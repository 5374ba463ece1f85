//! Unmaps that wait for a window, in mode `fused` where a window is dear.
//!
//! A small unmap would need a window of its own for a handful of stores. It waits, on its CPU, for the next window that `vmalloc`
//! or `vm_map_ram` opens there, and its stores share it. Until then the mapping still translates, and its frames stay allocated,
//! those of `vm_map_ram`'s caller too, even if the caller gives them back: whoever uses the address after freeing it finds the old contents
//! instead of a fault, never somebody else's memory, and never a page table. At most [`MAX_DEFERRED_PAGES`] pages wait on a CPU.
//!
//! Waiting costs a lock and a few moves. Where windows are cheap (PAN), that is more than the window, and nothing waits.

use alloc::boxed::Box;
use core::mem::take;

use kpkeys::Backend;
use kpkeys_pgtable::{Format, Machine, Mode, PageRange, PhysAddr, Section, VirtAddr};

use super::cpu::Own;
use super::extent::{Extent, Extents};
use super::owners::REGION_BYTES;
use crate::kernel::Kernel;

/// Pages of unmaps that may wait for a CPU's next window.
pub const MAX_DEFERRED_PAGES: usize = 1024;
/// The largest area that waits; a larger one is worth a window of its own.
const MAX_DEFERRED_AREA: usize = 512;
/// The largest range of `vm_map_ram` that waits: holding its frames takes longer than a window if there are more.
const MAX_HELD: usize = 2;
/// Slots that wait together.
const MAX_RUN: usize = 64;

/// Unmaps that wait for a CPU's next window.
#[derive(Default)]
pub(super) struct Deferred {
    areas: Extents,
    area_pages: usize,
    slots: Run,
}

/// Slots of one block, in a row, whose frames are held.
#[derive(Clone, Copy)]
struct Run {
    start: VirtAddr,
    pages: usize,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        self.areas.is_empty() && self.slots.pages == 0
    }
}

impl Default for Run {
    fn default() -> Self {
        Run { start: VirtAddr(0), pages: 0 }
    }
}

impl Run {
    /// Adds slots if they lie beside those that wait, in the same block.
    fn push(&mut self, slots: PageRange) -> bool {
        let end = self.start.offset_pages(self.pages);
        if self.pages == 0 {
            *self = Run { start: slots.start(), pages: slots.pages() };
            return true;
        }
        let below = slots.end() == self.start;
        let same_block = slots.start().0 / REGION_BYTES == self.start.0 / REGION_BYTES;
        let fits = same_block && self.pages + slots.pages() <= MAX_RUN;
        if !fits || !below && slots.start() != end {
            return false;
        }
        self.start = if below { slots.start() } else { self.start };
        self.pages += slots.pages();
        true
    }
}

impl<M: Machine> Kernel<M> {
    /// Whether unmaps wait for a window.
    #[inline(always)]
    pub(super) fn defers(&self) -> bool {
        self.paging().mode() == Mode::Fused && !self.machine().backend().windows_are_cheap()
    }

    /// Unmaps an area and frees what it had: now, or when this CPU next opens a window for kernel mappings.
    pub(super) fn unmap_area(&self, area: Box<Extent>) {
        let pages = area.pages - 1;
        if !self.defers() || pages > MAX_DEFERRED_AREA {
            self.clear_in_own_section(area.mapped(), false);
            return self.free_area(area);
        }
        let full = {
            let mut own = self.own();
            own.deferred.areas.push(area);
            own.deferred.area_pages += pages;
            if own.deferred.area_pages > MAX_DEFERRED_PAGES {
                take(&mut own.deferred)
            } else {
                return;
            }
        };
        self.clear_now(full);
    }

    /// Unmaps a range of `vm_map_ram` that has addresses of its own.
    pub(super) fn unmap_range(&self, extent: Box<Extent>) {
        self.clear_in_own_section(extent.first(extent.pages), false);
        self.free_addresses_lazily(extent);
    }

    /// Unmaps slots, now or later.
    pub(super) fn unmap_slots(&self, slots: PageRange, held: bool) {
        if !held || !self.own().deferred.slots.push(slots) {
            self.clear_in_own_section(slots, held);
            self.slots_cleared(slots);
        }
    }

    /// Holds the frames of a range of `vm_map_ram`, if its unmap may wait: they are the caller's, who may give them back at any time.
    /// False, and none held, if it may not or one cannot be held.
    #[inline]
    pub(super) fn hold_frames(&self, frames: &[PhysAddr]) -> bool {
        if frames.len() > MAX_HELD || !self.defers() {
            return false;
        }
        let held = frames.iter().take_while(|frame| self.frames().hold(**frame)).count();
        if held < frames.len() {
            self.let_go(&frames[..held]);
        }
        held == frames.len()
    }

    pub(super) fn let_go(&self, frames: &[PhysAddr]) {
        frames.iter().for_each(|&frame| self.frames().let_go(frame));
    }

    /// The unmaps that wait on a CPU, for one who has its lock and is about to open a window: it must [`clear`](Self::clear_deferred) them in
    /// it, and [`finish`](Self::finish) them when it is closed.
    #[inline(always)]
    pub(super) fn deferred_of(&self, own: &mut Own) -> Deferred {
        if self.defers() { take(&mut own.deferred) } else { Deferred::default() }
    }

    /// Clears unmaps that waited in the window of `section`.
    #[inline]
    pub(super) fn clear_deferred(&self, section: &Section<'_, M>, deferred: &Deferred) {
        if !deferred.is_empty() {
            deferred.areas.iter().for_each(|area| self.clear(section, area.mapped(), false));
            if let Ok(slots) = PageRange::new(deferred.slots.start, deferred.slots.pages) {
                self.clear(section, slots, true);
            }
        }
    }

    /// Sets free what unmaps held whose entries are cleared.
    #[inline]
    pub(super) fn finish(&self, mut deferred: Deferred) {
        while let Some(area) = deferred.areas.pop() {
            self.free_area(area);
        }
        if let Ok(slots) = PageRange::new(deferred.slots.start, deferred.slots.pages) {
            self.slots_cleared(slots);
        }
    }

    /// Clears unmaps that waited, in a window of their own.
    #[cold]
    pub(super) fn clear_now(&self, deferred: Deferred) {
        {
            let section = self.paging().section(self.paging().kernel());
            self.clear_deferred(&section, &deferred);
        }
        self.finish(deferred);
    }

    /// Clears the deferred unmaps of every CPU.
    #[cold]
    pub(super) fn clear_all_deferred(&self) {
        for cpu in &self.areas().cpus {
            let deferred = take(&mut cpu.lock().deferred);
            self.clear_now(deferred);
        }
    }

    fn clear_in_own_section(&self, mapped: PageRange, held: bool) {
        let section = self.paging().section(self.paging().kernel());
        self.clear(&section, mapped, held);
    }

    /// Clears the entries of a range, and lets go of the frames they held. Each table's are one lazy-MMU section.
    #[inline]
    fn clear(&self, section: &Section<'_, M>, mapped: PageRange, held: bool) {
        let let_go = |_, level, entry| {
            if held {
                self.frames().let_go(M::Format::frame(level, entry));
            }
        };
        // The range is what calls of this module mapped, whole, so it cuts no block.
        let _ = self.paging().unmap(section, self.paging().kernel(), mapped, let_go);
    }

    fn free_area(&self, mut area: Box<Extent>) {
        area.frames.release(self.frames());
        self.free_addresses_lazily(area);
    }
}

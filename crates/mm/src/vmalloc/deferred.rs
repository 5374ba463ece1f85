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
use kpkeys_pgtable::{Flush, Format, Machine, PageRange, PhysAddr, Section, VirtAddr};

use super::cpu::Own;
use super::extent::{Extent, Extents};
use super::held::HeldPages;
use super::owners::Owners;
use crate::frames::WaitingFrames;
use crate::kernel::Kernel;

/// Pages of unmaps that may wait for a CPU's next window.
pub const MAX_DEFERRED_PAGES: usize = 1024;
/// The largest area that waits; a larger one is worth a window of its own.
const MAX_DEFERRED_AREA: usize = 512;
/// The largest range of `vm_map_ram` that waits.
const MAX_DEFERRED_RAM: usize = 2;
/// Slots that wait together.
const MAX_RUN: usize = 64;

/// Unmaps that wait for a CPU's next window.
#[derive(Default)]
pub(super) struct Deferred<E: Format> {
    areas: Extents<E>,
    area_pages: usize,
    slots: Run,
}

/// Slots of one block, in a row, whose frames are held.
#[derive(Clone, Copy)]
struct Run {
    start: VirtAddr,
    pages: usize,
}

impl Default for Run {
    fn default() -> Self {
        Run { start: VirtAddr(0), pages: 0 }
    }
}

impl Run {
    /// The slots, of which there is one at least.
    fn range<E: Format>(self) -> PageRange<E> {
        PageRange::new(self.start, self.pages).expect("slots that were handed out, in a row")
    }

    /// Adds slots if they lie beside those that wait, in the same block.
    fn push<E: Format>(&mut self, slots: PageRange<E>) -> bool {
        let end = self.start.offset_pages::<E>(self.pages);
        if self.pages == 0 {
            *self = Run { start: slots.start(), pages: slots.pages() };
            return true;
        }
        let below = slots.end() == self.start;
        let same_block =
            slots.start().0 / Owners::<E>::REGION_BYTES == self.start.0 / Owners::<E>::REGION_BYTES;
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
        self.paging().mode().fuses() && !self.machine().backend().windows_are_cheap()
    }

    /// Unmaps an area and frees what it had: now, or when this CPU next opens a window for kernel mappings.
    pub(super) fn unmap_area(&self, area: Box<Extent<M::Format>>) {
        let pages = area.pages - 1;
        if !self.defers() || pages > MAX_DEFERRED_AREA {
            self.clear_in_own_section(area.mapped());
            return self.free_areas(Extents::of(area));
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
    pub(super) fn unmap_range(&self, extent: Box<Extent<M::Format>>, held: bool) {
        self.unmap_ram(extent.first(extent.pages), held);
        self.free_lazily(Extents::of(extent), WaitingFrames::default());
    }

    /// Unmaps slots, now or later.
    pub(super) fn unmap_slots(&self, slots: PageRange<M::Format>, held: bool) {
        let may_wait = held && slots.pages() <= MAX_DEFERRED_RAM && self.defers();
        if !may_wait || !self.own().deferred.slots.push(slots) {
            self.unmap_ram(slots, held);
            self.slots_cleared(slots);
        }
    }

    /// Unmaps frames of a caller, who may do with them what it likes from here on: they are held until a flush, or flushed now.
    fn unmap_ram(&self, range: PageRange<M::Format>, held: bool) {
        if !held {
            self.clear_in_own_section(range);
            return self.paging().flush(Flush::Kernel(range));
        }
        let pages = {
            let section = self.paging().section(self.paging().kernel());
            self.clear_held(&section, range)
        };
        self.let_go_lazily(pages);
    }

    /// Holds the frames of a range of `vm_map_ram`. False, and none held, if one cannot be.
    #[inline]
    pub(super) fn hold_frames(&self, range: PageRange<M::Format>, frames: &[PhysAddr]) -> bool {
        if !self.areas().owners.can_hold(range) {
            return false;
        }
        let held = frames.iter().take_while(|frame| self.frames().hold(**frame)).count();
        if held < frames.len() {
            frames[..held].iter().for_each(|&frame| self.frames().let_go(frame));
        }
        held == frames.len()
    }

    /// Lets go, after a flush, of the frames of a range that was not to be mapped; flushes now if they are not held.
    #[cold]
    pub(super) fn let_go_after_flush(
        &self,
        range: PageRange<M::Format>,
        held: Option<&[PhysAddr]>,
    ) {
        let Some(frames) = held else { return self.paging().flush(Flush::Kernel(range)) };
        let mut pages = HeldPages::default();
        for (page, &frame) in frames.iter().enumerate() {
            let page = range.start().offset_pages::<M::Format>(page);
            self.areas().owners.hold(&mut pages, page, self.frames().number(frame));
        }
        self.let_go_lazily(pages);
    }

    /// The unmaps that wait on a CPU, for one who has its lock and is about to open a window: it must [`clear`](Self::clear_deferred) them in
    /// it, and [`finish`](Self::finish) them when it is closed.
    #[inline(always)]
    pub(super) fn deferred_of(&self, own: &mut Own<M::Format>) -> Deferred<M::Format> {
        if self.defers() { take(&mut own.deferred) } else { Deferred::default() }
    }

    /// Clears unmaps that waited in the window of `section`. Returns the pages of `vm_map_ram` among them.
    #[inline]
    pub(super) fn clear_deferred(
        &self,
        section: &Section<'_, M>,
        deferred: &Deferred<M::Format>,
    ) -> HeldPages {
        deferred.areas.iter().for_each(|area| self.clear(section, area.mapped()));
        if deferred.slots.pages > 0 {
            self.clear_held(section, deferred.slots.range())
        } else {
            HeldPages::default()
        }
    }

    /// Sets free what unmaps held whose entries are cleared; `held` is what clearing them returned.
    #[inline]
    pub(super) fn finish(&self, deferred: Deferred<M::Format>, held: HeldPages) {
        let Deferred { areas, slots, .. } = deferred;
        if !areas.is_empty() {
            self.free_areas(areas);
        }
        if slots.pages > 0 {
            self.let_go_lazily(held);
            self.slots_cleared(slots.range());
        }
    }

    /// Clears unmaps that waited, in a window of their own.
    #[cold]
    pub(super) fn clear_now(&self, deferred: Deferred<M::Format>) {
        let held = {
            let section = self.paging().section(self.paging().kernel());
            self.clear_deferred(&section, &deferred)
        };
        self.finish(deferred, held);
    }

    /// Clears the deferred unmaps of every CPU.
    #[cold]
    pub(super) fn clear_all_deferred(&self) {
        for cpu in &self.areas().cpus {
            let deferred = take(&mut cpu.lock().deferred);
            self.clear_now(deferred);
        }
    }

    fn clear_in_own_section(&self, mapped: PageRange<M::Format>) {
        let section = self.paging().section(self.paging().kernel());
        self.clear(&section, mapped);
    }

    /// Clears the entries of a range. Each table's are one lazy-MMU section.
    #[inline]
    fn clear(&self, section: &Section<'_, M>, mapped: PageRange<M::Format>) {
        // The range is what calls of this module mapped, whole, so it cuts no block.
        let _ = self.paging().unmap(section, self.paging().kernel(), mapped, |_, _, _| ());
    }

    /// The same for frames that are held.
    #[inline]
    fn clear_held(&self, section: &Section<'_, M>, mapped: PageRange<M::Format>) -> HeldPages {
        let mut pages = HeldPages::default();
        let add = |page, level, entry| {
            let frame = self.frames().number(M::Format::frame(level, entry));
            self.areas().owners.hold(&mut pages, page, frame);
        };
        let _ = self.paging().unmap(section, self.paging().kernel(), mapped, add);
        pages
    }

    /// Makes areas whose entries are cleared wait for a flush, and their frames.
    pub(super) fn free_areas(&self, mut areas: Extents<M::Format>) {
        let mut frames = WaitingFrames::default();
        areas.for_each_mut(|area| area.frames.wait(self.frames(), &mut frames));
        self.free_lazily(areas, frames);
    }
}

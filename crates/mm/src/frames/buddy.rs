//! The buddy allocator: all frames of a machine, in two zones.
//!
//! The lower three quarters of memory are for user folios, which can be anywhere; the rest is for what a kernel needs for itself, page
//! tables above all. So the kernel's frames stay together, as they do in a kernel with a movable zone. Either borrows from the other
//! when it runs out.

use core::ops::Range;

use kpkeys_pgtable::{Frames, Memory, PhysAddr};

use super::meta::{FrameMeta, FrameTable};
use super::zone::{MAX_ORDER, NONE, Zone};

/// All frames of a machine.
pub struct Buddy {
    pub(super) memory: Memory,
    pub(super) table: FrameTable,
    /// Whether frames held zeroes at boot, so that an untouched one need not be zeroed.
    pub(super) zero_at_boot: bool,
    movable: Zone,
    kernel: Zone,
    /// The first frame of the kernel's zone.
    boundary: u32,
    cpu: fn() -> usize,
}

impl Buddy {
    /// A buddy without free frames; give it memory with [`add`](Self::add). `cpu` returns the calling CPU's number.
    ///
    /// # Panics
    ///
    /// If the table has not one element for each frame of `memory`, or memory has more than 2^32 - 1 frames.
    pub fn new(memory: Memory, table: FrameTable, zero_at_boot: bool, cpu: fn() -> usize) -> Buddy {
        assert_eq!(
            table.len(),
            memory.pages,
            "the frame table must have one element for each frame"
        );
        assert!(memory.pages < NONE as usize, "too much memory for 32-bit frame numbers");
        // No block straddles the boundary.
        let boundary = (memory.pages / 4 * 3) as u32 >> MAX_ORDER << MAX_ORDER;
        let (movable, kernel) = (Zone::new(), Zone::new());
        Buddy { memory, table, zero_at_boot, movable, kernel, boundary, cpu }
    }

    /// Gives a range of frames, by number, to the allocator. They must be in memory, unused, and given once.
    pub fn add(&self, frames: Range<usize>) {
        let (boundary, end) = (self.boundary as usize, frames.end.min(self.memory.pages));
        self.movable.add(&self.table, frames.start..end.min(boundary));
        self.kernel.add(&self.table, frames.start.max(boundary)..end);
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> usize {
        self.kernel.free_frames() + self.movable.free_frames()
    }

    /// A block of `1 << order` frames for the kernel itself, as a frame number.
    #[inline]
    pub(crate) fn take(&self, order: u8) -> Option<u32> {
        let from = |zone: &Zone| zone.take(&self.table, (self.cpu)(), order);
        from(&self.kernel).or_else(|| from(&self.movable))
    }

    /// A block of `1 << order` frames for user memory.
    #[inline]
    pub(super) fn take_movable(&self, order: u8) -> Option<u32> {
        let from = |zone: &Zone| zone.take(&self.table, (self.cpu)(), order);
        from(&self.movable).or_else(|| from(&self.kernel))
    }

    /// Fills `frames` with single frames for the kernel itself; returns how many there were, at least one unless memory is out.
    pub(crate) fn take_bulk(&self, frames: &mut [u32]) -> usize {
        let taken = self.kernel.take_bulk(&self.table, (self.cpu)(), frames);
        match (taken, frames.first_mut()) {
            (0, Some(first)) => self.take(0).map_or(0, |frame| {
                *first = frame;
                1
            }),
            _ => taken,
        }
    }

    /// Takes back a block. Nothing may refer to it any more.
    #[inline]
    pub(crate) fn put(&self, frame: u32, order: u8) {
        let zone = if frame < self.boundary { &self.movable } else { &self.kernel };
        zone.put(&self.table, (self.cpu)(), frame, order);
    }

    /// The number of the frame at `pa`, which must be in memory.
    #[inline(always)]
    pub(crate) fn number(&self, pa: PhysAddr) -> u32 {
        self.memory.frame_number(pa) as u32
    }

    /// The address of a frame.
    #[inline(always)]
    pub(crate) fn address(&self, frame: u32) -> PhysAddr {
        self.memory.frame(frame as usize)
    }

    #[inline(always)]
    pub(super) fn meta(&self, frame: u32) -> &FrameMeta {
        &self.table[frame as usize]
    }
}

impl Frames for Buddy {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        let frame = self.take(order)?;
        for part in frame..frame + (1 << order) {
            // Page-table pages are written where this allocator does not see it.
            self.meta(part).touch();
        }
        Some(self.address(frame))
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        self.put(self.number(block), order);
    }
}

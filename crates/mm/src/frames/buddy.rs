//! The buddy allocator: all frames of a machine, in two zones.
//!
//! The lower three quarters of memory are for user folios, which can be anywhere; the rest is for what a kernel needs for itself, page
//! tables above all. So the kernel's frames stay together, as they do in a kernel with a movable zone. Either borrows from the other
//! when it runs out, and only when both have is what other CPUs keep for themselves taken from them.
//!
//! What comes back is checked: a block that is not out - freed already, misaligned, of another order, or never given to this allocator -
//! is refused, which changes nothing and is counted.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kpkeys_pgtable::{Format, Frames, Memory, PhysAddr, VirtAddr};

use super::free_lists::{MAX_ORDER, NONE};
use super::meta::{FrameMeta, FrameTable};
use super::word::Kind;
use super::zone::Zone;

/// All frames of a machine.
pub struct Buddy<E: Format> {
    pub(crate) memory: Memory<E>,
    pub(super) table: FrameTable,
    /// Whether frames held zeroes at boot, so that an untouched one need not be zeroed.
    pub(super) zero_at_boot: bool,
    movable: Zone,
    pub(super) kernel: Zone,
    /// The first frame of the kernel's zone.
    pub(super) boundary: u32,
    cpu: fn() -> usize,
    /// Blocks that came back and were not out.
    refused: AtomicUsize,
}

/// Nothing of size is in the value itself, which is moved over the stack of a kernel that boots.
const _: () = assert!(size_of::<Buddy<kpkeys_pgtable::entry::X86_64>>() <= 1024);

impl<E: Format> Buddy<E> {
    /// A buddy without free frames; give it memory with [`add`](Self::add). `cpu` returns the calling CPU's number, which is below `cpus`.
    ///
    /// # Panics
    ///
    /// If the table has not one element for each frame of `memory`, or memory has more than 2^32 - 1 frames.
    pub fn new(
        memory: Memory<E>,
        table: FrameTable,
        zero_at_boot: bool,
        cpus: usize,
        cpu: fn() -> usize,
    ) -> Self {
        assert_eq!(
            table.len(),
            memory.pages,
            "the frame table must have one element for each frame"
        );
        assert!(memory.pages < NONE as usize, "too much memory for 32-bit frame numbers");
        // No block straddles the boundary.
        let boundary = (memory.pages / 4 * 3) as u32 >> MAX_ORDER << MAX_ORDER;
        let (movable, kernel) = (Zone::new(cpus), Zone::new(cpus));
        let refused = AtomicUsize::new(0);
        Buddy { memory, table, zero_at_boot, movable, kernel, boundary, cpu, refused }
    }

    /// Gives a range of frames, by number, to the allocator.
    ///
    /// # Safety
    ///
    /// They must be RAM, unused, and given once: from here on the allocator says whose they are.
    pub unsafe fn add(&self, frames: Range<usize>) {
        let (boundary, end) = (self.boundary as usize, frames.end.min(self.memory.pages));
        self.movable.add(&self.table, frames.start..end.min(boundary));
        self.kernel.add(&self.table, frames.start.max(boundary)..end);
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> usize {
        self.kernel.free_frames() + self.movable.free_frames()
    }

    /// How many blocks were refused when they came back: freed twice, misaligned, of another order, or of other memory. Each is a bug
    /// of whoever gave it back, and changed nothing.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// What says which block of an order the kernel gets next, and where that is kept: the low half of the word is the block's first frame. For attacks.
    pub fn next_block(&self, order: u8) -> (u64, VirtAddr) {
        self.kernel.next_block((self.cpu)(), order)
    }

    /// A block of `1 << order` frames for the kernel itself, as a frame number.
    #[inline]
    pub(crate) fn take(&self, order: u8) -> Option<u32> {
        self.take_from([&self.kernel, &self.movable], order)
    }

    /// [`take`](Self::take) for whoever gives the frames back one by one.
    pub(crate) fn take_split(&self, order: u8) -> Option<u32> {
        let first = self.take(order)?;
        (first..first + (1 << order))
            .for_each(|frame| self.meta(frame).word.become_kind(Kind::Block(0)));
        Some(first)
    }

    /// A block of `1 << order` frames for user memory.
    #[inline]
    pub(super) fn take_movable(&self, order: u8) -> Option<u32> {
        self.take_from([&self.movable, &self.kernel], order)
    }

    #[inline(always)]
    fn take_from(&self, zones: [&Zone; 2], order: u8) -> Option<u32> {
        let cpu = (self.cpu)();
        let [own, other] = zones;
        own.take(&self.table, cpu, order)
            .or_else(|| other.take(&self.table, cpu, order))
            .or_else(|| self.take_last(zones, cpu, order))
    }

    /// A block when neither zone has one: frames on the lists of CPUs may be what it lacks.
    #[cold]
    fn take_last(&self, zones: [&Zone; 2], cpu: usize, order: u8) -> Option<u32> {
        zones.into_iter().find_map(|zone| {
            zone.drain(&self.table);
            zone.take(&self.table, cpu, order)
        })
    }

    /// Hands up to `most` single frames for the kernel itself to `taken`; returns how many there were, at least one unless memory is out.
    /// A list of frames is locked meanwhile.
    #[inline(always)]
    pub(crate) fn take_bulk(&self, most: usize, mut taken: impl FnMut(u32)) -> usize {
        match self.kernel.take_bulk(&self.table, (self.cpu)(), most, &mut taken) {
            0 => self.take(0).map_or(0, |frame| {
                taken(frame);
                1
            }),
            frames => frames,
        }
    }

    /// Takes back a block, which nothing may refer to any more.
    #[inline]
    pub(crate) fn put(&self, frame: u32, order: u8) {
        if !self.is_out(frame, order) {
            return self.refuse();
        }
        let zone = if frame < self.boundary { &self.movable } else { &self.kernel };
        zone.put(&self.table, (self.cpu)(), frame, order);
    }

    /// Marks a frame as written, by whoever has it.
    #[inline(always)]
    pub(crate) fn touch(&self, frame: u32) {
        self.meta(frame).word.touch();
    }

    /// Whether this block was handed out and did not come back.
    #[inline(always)]
    pub(super) fn is_out(&self, frame: u32, order: u8) -> bool {
        self.table.get(frame as usize).is_some_and(|meta| meta.word.is_out(order))
    }

    #[cold]
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
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

impl<E: Format> Frames for Buddy<E> {
    fn allocate(&self, order: u8) -> Option<PhysAddr> {
        let frame = self.take(order)?;
        for part in frame..frame + (1 << order) {
            // Page-table pages are written where this allocator does not see it.
            self.meta(part).word.touch();
        }
        Some(self.address(frame))
    }

    unsafe fn release(&self, block: PhysAddr, order: u8) {
        if !self.memory.contains(block, 1) || !block.is_aligned(E::PAGE_SIZE) {
            return self.refuse();
        }
        self.put(self.number(block), order);
    }
}

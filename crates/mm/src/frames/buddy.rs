//! The buddy allocator, with a list of single frames for each CPU in front of it.
//!
//! Blocks of `1 << order` frames are naturally aligned. Free blocks are linked through their metadata, so a free frame needs no
//! backing memory. Single frames, by far the most, come from the calling CPU's list, which is refilled and spilled in batches.

use kpkeys_pgtable::{Frames, Memory, PhysAddr};
use spin::Mutex;

use super::meta::{FrameMeta, FrameTable, Kind};
use core::sync::atomic::Ordering::Relaxed;

/// The largest order: 4 MiB blocks.
pub const MAX_ORDER: u8 = 10;

const ORDERS: usize = MAX_ORDER as usize + 1;
const CPUS: usize = 64;
/// Frames moved at once between a CPU's list and the buddy.
const BATCH: usize = 64;
/// Frames on a CPU's list beyond which a batch goes back.
const HIGH: usize = 512;
/// The end of a list.
const NONE: u32 = u32::MAX;

/// All frames of a machine.
pub struct Buddy {
    pub(super) memory: Memory,
    pub(super) table: FrameTable,
    /// Whether frames held zeroes at boot, so that an untouched one need not be zeroed.
    pub(super) zero_at_boot: bool,
    free: Mutex<FreeLists>,
    lists: [Mutex<CpuList>; CPUS],
    cpu: fn() -> usize,
}

struct FreeLists {
    heads: [u32; ORDERS],
    frames: usize,
}

struct CpuList {
    head: u32,
    len: usize,
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
        Buddy {
            memory,
            table,
            zero_at_boot,
            free: Mutex::new(FreeLists { heads: [NONE; ORDERS], frames: 0 }),
            lists: [const { Mutex::new(CpuList { head: NONE, len: 0 }) }; CPUS],
            cpu,
        }
    }

    /// Gives a range of frames, by number, to the allocator. They must be in memory, unused, and given once.
    pub fn add(&self, frames: core::ops::Range<usize>) {
        let mut free = self.free.lock();
        let mut first = frames.start;
        let end = frames.end.min(self.memory.pages);
        while first < end {
            let order = (0..=MAX_ORDER)
                .rev()
                .find(|&order| first.is_multiple_of(1 << order) && first + (1 << order) <= end)
                .unwrap_or(0);
            free.insert(&self.table, first as u32, order);
            free.frames += 1 << order;
            first += 1 << order;
        }
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> usize {
        let on_lists: usize = self.lists.iter().map(|list| list.lock().len).sum();
        self.free.lock().frames + on_lists
    }

    /// A block of `1 << order` frames, as a frame number.
    #[inline]
    pub(crate) fn take(&self, order: u8) -> Option<u32> {
        if order == 0 {
            let frame = self.list().lock().take(self);
            frame.or_else(|| self.take_last())
        } else {
            self.take_block(order).or_else(|| {
                // Frames on CPU lists may be what a larger block lacks.
                self.drain_lists();
                self.take_block(order)
            })
        }
    }

    /// Fills `frames` with single frames; returns how many there were.
    pub(crate) fn take_bulk(&self, frames: &mut [u32]) -> usize {
        let mut taken = 0;
        {
            let mut list = self.list().lock();
            while taken < frames.len()
                && let Some(frame) = list.take(self)
            {
                frames[taken] = frame;
                taken += 1;
            }
        }
        if taken == 0
            && let (Some(first), Some(frame)) = (frames.first_mut(), self.take_last())
        {
            *first = frame;
            taken = 1;
        }
        taken
    }

    /// Takes back a block. Nothing may refer to it any more.
    #[inline]
    pub(crate) fn put(&self, frame: u32, order: u8) {
        if order == 0 {
            self.list().lock().put(self, frame);
        } else {
            self.free.lock().put(&self.table, frame, order);
        }
    }

    #[inline(always)]
    fn list(&self) -> &Mutex<CpuList> {
        &self.lists[(self.cpu)() % CPUS]
    }

    /// A single frame when neither the calling CPU's list nor the buddy has one: other CPUs' lists may.
    #[cold]
    fn take_last(&self) -> Option<u32> {
        self.drain_lists();
        self.list().lock().take(self)
    }

    fn take_block(&self, order: u8) -> Option<u32> {
        let frame = self.free.lock().take(&self.table, order)?;
        self.table[frame as usize].set_kind(Kind::Used(order));
        Some(frame)
    }

    fn drain_lists(&self) {
        for list in &self.lists {
            let mut list = list.lock();
            let len = list.len;
            list.spill(self, len);
        }
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

impl CpuList {
    #[inline(always)]
    fn take(&mut self, buddy: &Buddy) -> Option<u32> {
        if self.len == 0 {
            self.refill(buddy);
        }
        if self.len == 0 {
            return None;
        }
        let frame = self.head;
        let meta = &buddy.table[frame as usize];
        self.head = meta.link.load(Relaxed);
        self.len -= 1;
        meta.set_kind(Kind::Used(0));
        Some(frame)
    }

    #[inline(always)]
    fn put(&mut self, buddy: &Buddy, frame: u32) {
        buddy.table[frame as usize].link.store(self.head, Relaxed);
        self.head = frame;
        self.len += 1;
        if self.len > HIGH {
            self.spill(buddy, BATCH);
        }
    }

    #[cold]
    fn refill(&mut self, buddy: &Buddy) {
        let mut free = buddy.free.lock();
        for _ in 0..BATCH {
            let Some(frame) = free.take(&buddy.table, 0) else { break };
            buddy.table[frame as usize].link.store(self.head, Relaxed);
            self.head = frame;
            self.len += 1;
        }
    }

    #[cold]
    fn spill(&mut self, buddy: &Buddy, frames: usize) {
        let mut free = buddy.free.lock();
        for _ in 0..frames.min(self.len) {
            let frame = self.head;
            self.head = buddy.table[frame as usize].link.load(Relaxed);
            self.len -= 1;
            free.put(&buddy.table, frame, 0);
        }
    }
}

impl FreeLists {
    /// A block of this order, split off a larger one if need be.
    fn take(&mut self, table: &[FrameMeta], order: u8) -> Option<u32> {
        let found = (order..=MAX_ORDER).find(|&order| self.heads[order as usize] != NONE)?;
        let block = self.heads[found as usize];
        self.remove(table, block, found);
        for half in (order..found).rev() {
            self.insert(table, block + (1 << half), half);
        }
        self.frames -= 1 << order;
        Some(block)
    }

    /// Puts a block back, merged with its buddy for as long as that is free.
    fn put(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        self.frames += 1 << order;
        let (mut block, mut order) = (block, order);
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            if table.get(buddy as usize).is_none_or(|meta| meta.kind() != Kind::Free(order)) {
                break;
            }
            self.remove(table, buddy, order);
            block &= buddy;
            order += 1;
        }
        self.insert(table, block, order);
    }

    fn insert(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        let meta = &table[block as usize];
        let head = &mut self.heads[order as usize];
        meta.set_kind(Kind::Free(order));
        meta.refs.store(NONE, Relaxed);
        meta.link.store(*head, Relaxed);
        if let Some(next) = table.get(*head as usize) {
            next.refs.store(block, Relaxed);
        }
        *head = block;
    }

    fn remove(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        let meta = &table[block as usize];
        let (previous, next) = (meta.refs.load(Relaxed), meta.link.load(Relaxed));
        match table.get(previous as usize) {
            Some(previous) => previous.link.store(next, Relaxed),
            None => self.heads[order as usize] = next,
        }
        if let Some(next) = table.get(next as usize) {
            next.refs.store(previous, Relaxed);
        }
        meta.set_kind(Kind::Used(order));
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

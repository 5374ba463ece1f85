//! A zone: part of memory with free blocks of its own. Single frames, by far the most, come from the calling CPU's list, which is
//! filled from the blocks and spilled to them in batches.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_utils::CachePadded;
use kpkeys_pgtable::VirtAddr;
use spin::{Mutex, MutexGuard};

use super::cpu_list::{Chain, CpuList, OwnList};
use super::free_lists::{FreeLists, MAX_ORDER};
use super::meta::FrameMeta;

/// See the module. Frames are numbers; `table` is the metadata of all memory.
pub(super) struct Zone {
    blocks: CachePadded<Blocks>,
    /// One for each CPU.
    lists: Box<[OwnList]>,
    /// Frames on a CPU's list beyond which a batch goes back: see [`HIGH`].
    high: AtomicUsize,
}

/// Frames that a CPU's list holds at least before a batch goes back. The lists of all CPUs together hold up to half of a zone: frames that a
/// flush sets free by the thousand would otherwise be joined to blocks, only to be split again.
const HIGH: usize = 512;

/// The free blocks, with how many frames they have, so that whoever finds none need not take the lock.
pub(super) struct Blocks {
    lists: Mutex<FreeLists>,
    frames: AtomicUsize,
}

/// The free blocks, locked.
pub(super) struct LockedBlocks<'a> {
    lists: MutexGuard<'a, FreeLists>,
    frames: &'a AtomicUsize,
}

impl Blocks {
    /// How many frames there are.
    pub(super) fn frames(&self) -> usize {
        self.frames.load(Relaxed)
    }

    pub(super) fn lock(&self) -> LockedBlocks<'_> {
        LockedBlocks { lists: self.lists.lock(), frames: &self.frames }
    }
}

impl LockedBlocks<'_> {
    pub(super) fn take(&mut self, table: &[FrameMeta], order: u8) -> Option<u32> {
        let block = self.lists.take(table, order)?;
        self.frames.store(self.frames.load(Relaxed) - (1 << order), Relaxed);
        Some(block)
    }

    /// [`FreeLists::take_smallest`].
    pub(super) fn take_smallest(&mut self, table: &[FrameMeta], most: u8) -> Option<(u32, u8)> {
        let (block, order) = self.lists.take_smallest(table, most)?;
        self.frames.store(self.frames.load(Relaxed) - (1 << order), Relaxed);
        Some((block, order))
    }

    pub(super) fn put(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        self.lists.put(table, block, order);
        self.frames.store(self.frames.load(Relaxed) + (1 << order), Relaxed);
    }
}

impl Zone {
    /// A zone without free frames.
    pub(super) fn new(cpus: usize) -> Zone {
        let blocks = Blocks { lists: Mutex::new(FreeLists::new()), frames: AtomicUsize::new(0) };
        let list = |_| CachePadded::new(Mutex::new(CpuList::new()));
        let lists = (0..cpus.max(1)).map(list).collect();
        Zone { blocks: CachePadded::new(blocks), lists, high: AtomicUsize::new(HIGH) }
    }

    /// Gives frames to the zone. They must be unused, and given once.
    pub(super) fn add(&self, table: &[FrameMeta], frames: Range<usize>) {
        let mut blocks = self.blocks.lock();
        let mut first = frames.start;
        while first < frames.end {
            let fits = |&order: &u8| {
                first.is_multiple_of(1 << order) && first + (1 << order) <= frames.end
            };
            let order = (0..=MAX_ORDER).rev().find(fits).unwrap_or(0);
            blocks.put(table, first as u32, order);
            first += 1 << order;
        }
        let share = blocks.frames.load(Relaxed) / 2 / self.lists.len();
        self.high.fetch_max(share, Relaxed);
    }

    /// How many frames are free.
    pub(super) fn free_frames(&self) -> usize {
        let on_lists: usize = self.lists.iter().map(|list| list.lock().len()).sum();
        self.blocks.frames() + on_lists
    }

    /// A block of `1 << order` frames, from what the calling CPU can reach by itself.
    #[inline]
    pub(super) fn take(&self, table: &[FrameMeta], cpu: usize, order: u8) -> Option<u32> {
        if order == 0 {
            self.list(cpu).lock().take(&self.blocks, table)
        } else if self.blocks.frames() >= 1 << order {
            self.blocks.lock().take(table, order)
        } else {
            None
        }
    }

    /// Hands up to `most` single frames to `taken`; returns how many there were.
    #[inline(always)]
    pub(super) fn take_bulk(
        &self,
        table: &[FrameMeta],
        cpu: usize,
        most: usize,
        mut taken: impl FnMut(u32),
    ) -> usize {
        let mut list = self.list(cpu).lock();
        for number in 0..most {
            let Some(frame) = list.take(&self.blocks, table) else { return number };
            taken(frame);
        }
        most
    }

    /// Takes back a block of this zone. Nothing may refer to it any more.
    #[inline]
    pub(super) fn put(&self, table: &[FrameMeta], cpu: usize, frame: u32, order: u8) {
        if order == 0 {
            let high = self.high.load(Relaxed);
            self.list(cpu).lock().put(&self.blocks, table, frame, high);
        } else {
            self.blocks.lock().put(table, frame, order);
        }
    }

    /// Takes back single frames of this zone, which a CPU's list then has, in one step.
    pub(super) fn put_chain(&self, table: &[FrameMeta], cpu: usize, frames: Chain) {
        let high = self.high.load(Relaxed);
        self.list(cpu).lock().put_chain(&self.blocks, table, frames, high);
    }

    /// Where it is kept which block of an order is next, with what is there. For attacks.
    pub(super) fn next_block(&self, cpu: usize, order: u8) -> (u64, VirtAddr) {
        match order {
            0 => self.list(cpu).lock().first(),
            _ => self.blocks.lock().lists.first(order),
        }
    }

    /// Takes the frames off the lists of all CPUs: they may be what a block lacks, or the last ones.
    #[cold]
    pub(super) fn drain(&self, table: &[FrameMeta]) {
        for list in &self.lists {
            let mut list = list.lock();
            let len = list.len();
            if len > 0 {
                list.spill(&self.blocks, table, len);
            }
        }
    }

    #[inline(always)]
    fn list(&self, cpu: usize) -> &OwnList {
        // A number that no CPU has shares the first one's list: lists have locks.
        self.lists.get(cpu).unwrap_or(&self.lists[0])
    }
}

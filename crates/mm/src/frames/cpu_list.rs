//! A CPU's own free frames: what it freed last it gets first, while it is warm, and without touching what other CPUs use.

use core::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;
use kpkeys_pgtable::VirtAddr;
use spin::Mutex;

use super::free_lists::NONE;
use super::meta::FrameMeta;
use super::word::Kind;
use super::zone::Blocks;

/// Frames moved at once between a CPU's list and the free blocks.
const BATCH: usize = 1 << BATCH_ORDER;
const BATCH_ORDER: u8 = 6;

/// Free frames, linked through their metadata.
/// (`head` has a word of its own, which attacks write.)
#[repr(C)]
pub(super) struct CpuList {
    head: u32,
    len: usize,
}

/// Frames that are linked as those of a list are, and [listed](Kind::Listed).
pub(super) struct Chain {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) len: usize,
}

/// A list that shares no cache line with another CPU's, also where lines are fetched in pairs.
pub(super) type OwnList = CachePadded<Mutex<CpuList>>;

const _: () = assert!(size_of::<OwnList>() == 128 && align_of::<OwnList>() == 128);

impl CpuList {
    pub(super) const fn new() -> Self {
        CpuList { head: NONE, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The frame that is next, and where that is kept: a word whose other half is nothing. For attacks.
    pub(super) fn first(&self) -> (u64, VirtAddr) {
        let at = core::ptr::from_ref(&self.head).addr();
        (u64::from(self.head), VirtAddr(at as u64))
    }

    /// A frame; the list is filled from the free blocks if it is empty.
    #[inline(always)]
    pub(super) fn take(&mut self, blocks: &Blocks, table: &[FrameMeta]) -> Option<u32> {
        if self.len == 0 {
            self.refill(blocks, table);
        }
        if self.len == 0 {
            return None;
        }
        let frame = self.head;
        let meta = &table[frame as usize];
        self.head = meta.link.load(Relaxed);
        self.len -= 1;
        meta.word.become_kind(Kind::Block(0));
        Some(frame)
    }

    /// Takes back a frame. Beyond `high` frames a batch goes to the free blocks.
    #[inline(always)]
    pub(super) fn put(&mut self, blocks: &Blocks, table: &[FrameMeta], frame: u32, high: usize) {
        self.push(table, frame);
        if self.len > high {
            self.spill(blocks, table, BATCH);
        }
    }

    /// [`put`](Self::put) for frames that are linked already.
    pub(super) fn put_chain(
        &mut self,
        blocks: &Blocks,
        table: &[FrameMeta],
        frames: Chain,
        high: usize,
    ) {
        table[frames.last as usize].link.store(self.head, Relaxed);
        self.head = frames.first;
        self.len += frames.len;
        if self.len > high {
            self.spill(blocks, table, (self.len - high).max(BATCH));
        }
    }

    /// Moves frames to the free blocks.
    #[cold]
    pub(super) fn spill(&mut self, blocks: &Blocks, table: &[FrameMeta], frames: usize) {
        let mut free = blocks.lock();
        for _ in 0..frames.min(self.len) {
            let frame = self.head;
            self.head = table[frame as usize].link.load(Relaxed);
            self.len -= 1;
            free.put(table, frame, 0);
        }
    }

    #[cold]
    fn refill(&mut self, blocks: &Blocks, table: &[FrameMeta]) {
        if blocks.frames() == 0 {
            return;
        }
        let mut free = blocks.lock();
        let mut missing = BATCH;
        // Block by block, not frame by frame: what is split is split once.
        while let Some(most) = missing.checked_ilog2()
            && let Some((first, order)) = free.take_smallest(table, most as u8)
        {
            (first..first + (1 << order)).rev().for_each(|frame| self.push(table, frame));
            missing -= 1 << order;
        }
    }

    #[inline(always)]
    fn push(&mut self, table: &[FrameMeta], frame: u32) {
        let meta = &table[frame as usize];
        meta.word.become_kind(Kind::Listed);
        meta.link.store(self.head, Relaxed);
        self.head = frame;
        self.len += 1;
    }
}

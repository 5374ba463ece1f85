//! A zone: part of memory with free lists of its own.
//!
//! Free blocks of `1 << order` frames are naturally aligned and linked through their metadata, so a free frame needs no backing
//! memory. Single frames, by far the most, come from the calling CPU's list, which is refilled and spilled in batches.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use spin::Mutex;

use super::meta::{FrameMeta, Kind};

/// The largest order: 4 MiB blocks.
pub const MAX_ORDER: u8 = 10;

const ORDERS: usize = MAX_ORDER as usize + 1;
const CPUS: usize = 64;
/// Frames moved at once between a CPU's list and the free blocks.
const BATCH: usize = 64;
/// Frames on a CPU's list beyond which a batch goes back.
const HIGH: usize = 512;
/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// Part of memory with free lists of its own. Frames are numbers; `table` is the metadata of all memory.
pub(super) struct Zone {
    free: Mutex<FreeLists>,
    lists: [Mutex<CpuList>; CPUS],
}

struct FreeLists {
    heads: [u32; ORDERS],
    frames: usize,
}

struct CpuList {
    head: u32,
    len: usize,
}

impl Zone {
    /// A zone without free frames.
    pub(super) const fn new() -> Zone {
        Zone {
            free: Mutex::new(FreeLists { heads: [NONE; ORDERS], frames: 0 }),
            lists: [const { Mutex::new(CpuList { head: NONE, len: 0 }) }; CPUS],
        }
    }

    /// Gives frames to the zone. They must be unused, and given once.
    pub(super) fn add(&self, table: &[FrameMeta], frames: Range<usize>) {
        let mut free = self.free.lock();
        let mut first = frames.start;
        while first < frames.end {
            let order = (0..=MAX_ORDER)
                .rev()
                .find(|&order| {
                    first.is_multiple_of(1 << order) && first + (1 << order) <= frames.end
                })
                .unwrap_or(0);
            free.insert(table, first as u32, order);
            free.frames += 1 << order;
            first += 1 << order;
        }
    }

    /// How many frames are free.
    pub(super) fn free_frames(&self) -> usize {
        let on_lists: usize = self.lists.iter().map(|list| list.lock().len).sum();
        self.free.lock().frames + on_lists
    }

    /// A block of `1 << order` frames.
    #[inline]
    pub(super) fn take(&self, table: &[FrameMeta], cpu: usize, order: u8) -> Option<u32> {
        if order == 0 {
            let frame = self.list(cpu).lock().take(self, table);
            frame.or_else(|| self.take_last(table, cpu))
        } else {
            self.take_block(table, order).or_else(|| {
                // Frames on CPU lists may be what a larger block lacks.
                self.drain_lists(table);
                self.take_block(table, order)
            })
        }
    }

    /// Fills `frames` with single frames; returns how many there were.
    #[inline]
    pub(super) fn take_bulk(&self, table: &[FrameMeta], cpu: usize, frames: &mut [u32]) -> usize {
        let mut list = self.list(cpu).lock();
        let mut taken = 0;
        while taken < frames.len()
            && let Some(frame) = list.take(self, table)
        {
            frames[taken] = frame;
            taken += 1;
        }
        taken
    }

    /// Takes back a block of this zone. Nothing may refer to it any more.
    #[inline]
    pub(super) fn put(&self, table: &[FrameMeta], cpu: usize, frame: u32, order: u8) {
        if order == 0 {
            self.list(cpu).lock().put(self, table, frame);
        } else {
            self.free.lock().put(table, frame, order);
        }
    }

    /// A single frame when neither the calling CPU's list nor the free blocks have one: other CPUs' lists may.
    #[cold]
    fn take_last(&self, table: &[FrameMeta], cpu: usize) -> Option<u32> {
        self.drain_lists(table);
        self.list(cpu).lock().take(self, table)
    }

    #[inline(always)]
    fn list(&self, cpu: usize) -> &Mutex<CpuList> {
        &self.lists[cpu % CPUS]
    }

    fn take_block(&self, table: &[FrameMeta], order: u8) -> Option<u32> {
        let frame = self.free.lock().take(table, order)?;
        table[frame as usize].set_kind(Kind::Used(order));
        Some(frame)
    }

    #[cold]
    fn drain_lists(&self, table: &[FrameMeta]) {
        for list in &self.lists {
            let mut list = list.lock();
            let len = list.len;
            list.spill(self, table, len);
        }
    }
}

impl CpuList {
    #[inline(always)]
    fn take(&mut self, zone: &Zone, table: &[FrameMeta]) -> Option<u32> {
        if self.len == 0 {
            self.refill(zone, table);
        }
        if self.len == 0 {
            return None;
        }
        let frame = self.head;
        let meta = &table[frame as usize];
        self.head = meta.link.load(Relaxed);
        self.len -= 1;
        meta.set_kind(Kind::Used(0));
        Some(frame)
    }

    #[inline(always)]
    fn put(&mut self, zone: &Zone, table: &[FrameMeta], frame: u32) {
        table[frame as usize].link.store(self.head, Relaxed);
        self.head = frame;
        self.len += 1;
        if self.len > HIGH {
            self.spill(zone, table, BATCH);
        }
    }

    #[cold]
    fn refill(&mut self, zone: &Zone, table: &[FrameMeta]) {
        let mut free = zone.free.lock();
        for _ in 0..BATCH {
            let Some(frame) = free.take(table, 0) else { break };
            table[frame as usize].link.store(self.head, Relaxed);
            self.head = frame;
            self.len += 1;
        }
    }

    #[cold]
    fn spill(&mut self, zone: &Zone, table: &[FrameMeta], frames: usize) {
        let mut free = zone.free.lock();
        for _ in 0..frames.min(self.len) {
            let frame = self.head;
            self.head = table[frame as usize].link.load(Relaxed);
            self.len -= 1;
            free.put(table, frame, 0);
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
        // No longer a link: an allocated frame has no references until somebody says so.
        meta.refs.store(0, Relaxed);
        meta.set_kind(Kind::Used(order));
    }
}

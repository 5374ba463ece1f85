//! The free blocks of a zone: a list for each order, linked through the metadata of the blocks' heads.
//!
//! Free blocks of `1 << order` frames are naturally aligned. A free frame needs no backing memory.

use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::VirtAddr;

use super::meta::FrameMeta;
use super::word::Kind;

/// The largest order: 4 MiB blocks.
pub const MAX_ORDER: u8 = 10;

const ORDERS: usize = MAX_ORDER as usize + 1;
/// The end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// See the module. Frames are numbers; `table` is the metadata of all memory.
pub(super) struct FreeLists {
    heads: [u32; ORDERS],
}

impl FreeLists {
    pub(super) const fn new() -> Self {
        FreeLists { heads: [NONE; ORDERS] }
    }

    /// A block of this order, split off a larger one if need be.
    pub(super) fn take(&mut self, table: &[FrameMeta], order: u8) -> Option<u32> {
        let found = self.smallest(order)?;
        Some(self.take_from(table, found, order))
    }

    /// The smallest block there is, or as much of it as `1 << most` frames, and its order: small blocks are used up first.
    pub(super) fn take_smallest(&mut self, table: &[FrameMeta], most: u8) -> Option<(u32, u8)> {
        let found = self.smallest(0)?;
        let order = found.min(most);
        Some((self.take_from(table, found, order), order))
    }

    /// The smallest order, from `least` on, of which there is a block.
    fn smallest(&self, least: u8) -> Option<u8> {
        (least..=MAX_ORDER).find(|&order| self.heads[order as usize] != NONE)
    }

    /// A block of this order, split off the first of order `found`.
    fn take_from(&mut self, table: &[FrameMeta], found: u8, order: u8) -> u32 {
        let block = self.heads[found as usize];
        self.remove(table, block);
        for half in (order..found).rev() {
            self.insert(table, block + (1 << half), half);
        }
        table[block as usize].word.become_kind(Kind::Block(order));
        block
    }

    /// Puts a block back, merged with its buddy for as long as that is free.
    pub(super) fn put(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        let (mut block, mut order) = (block, order);
        while order < MAX_ORDER {
            let buddy = block ^ (1 << order);
            if table.get(buddy as usize).is_none_or(|meta| meta.word.kind() != Kind::Free(order)) {
                break;
            }
            self.remove(table, buddy);
            table[block.max(buddy) as usize].word.become_kind(Kind::Tail);
            block &= buddy;
            order += 1;
        }
        self.insert(table, block, order);
    }

    /// The first block of an order and, above it, what lies behind, and where that is. For attacks.
    pub(super) fn first(&self, order: u8) -> (u64, VirtAddr) {
        let [first, behind] = [order, order + 1]
            .map(|order| self.heads.get(order as usize).map_or(0, |head| u64::from(*head)));
        let at = self.heads.get(order as usize).map_or(0, |head| core::ptr::from_ref(head).addr());
        (first | behind << u32::BITS, VirtAddr(at as u64))
    }

    pub(super) fn insert(&mut self, table: &[FrameMeta], block: u32, order: u8) {
        let meta = &table[block as usize];
        let head = &mut self.heads[order as usize];
        meta.word.become_kind(Kind::Free(order));
        meta.previous.store(NONE, Relaxed);
        meta.link.store(*head, Relaxed);
        if let Some(next) = table.get(*head as usize) {
            next.previous.store(block, Relaxed);
        }
        *head = block;
    }

    /// Takes a free block out of its list.
    fn remove(&mut self, table: &[FrameMeta], block: u32) {
        let meta = &table[block as usize];
        let (previous, next) = (meta.previous.load(Relaxed), meta.link.load(Relaxed));
        match (table.get(previous as usize), meta.word.kind()) {
            (Some(previous), _) => previous.link.store(next, Relaxed),
            (None, Kind::Free(order)) => self.heads[order as usize] = next,
            (None, _) => {}
        }
        if let Some(next) = table.get(next as usize) {
            next.previous.store(previous, Relaxed);
        }
    }
}

//! What the pool knows of one 2 MiB region of memory: which blocks in it are the pool's, and which of their pages are free.
//!
//! Records are written with the lock of the [spare pages](super::spares) held. Whether a page is the pool's can be read without it
//! by whoever has that page in use: as long as it is, its block stays.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Pages of a region: the largest block. With pages of 4 KiB that is a block of the linear map too.
pub(super) const REGION: usize = 512;
/// Pages of the smallest block.
pub(super) const GRANULE: usize = 1 << super::LEAST_ORDER;
/// No region.
pub(super) const NOWHERE: u32 = u32::MAX;

/// The order of the block that a granule belongs to. It is never 0, so that 0 says that the granule is not the pool's.
const ORDER: u8 = 0x0f;

/// What was done to a block as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Done {
    /// It has its alias, if the backend wants one.
    Aliased = 0x10,
    /// It is protected, and has its alias.
    Protected = 0x30,
}

/// One block: its first page in the region, and its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) order: u8,
}

impl Block {
    pub(super) const fn pages(self) -> usize {
        1 << self.order
    }

    fn granules(self) -> core::ops::Range<usize> {
        self.first / GRANULE..(self.first + self.pages()) / GRANULE
    }
}

/// See the module.
pub(super) struct Region {
    /// One bit a page, set while it is free.
    free: [AtomicU64; REGION / 64],
    /// For each granule the order of its block and what was done to that.
    granules: [AtomicU8; REGION / GRANULE],
    /// Pages that are the pool's.
    pages: AtomicU32,
    /// How many of them are free.
    spare: AtomicU32,
    /// The regions with free pages before and behind this one, in their list.
    pub(super) previous: AtomicU32,
    pub(super) next: AtomicU32,
    /// The page that was taken or freed last.
    last: AtomicU32,
    /// Whether pages are handed out from `last` upwards.
    upwards: AtomicBool,
    _rest: [u32; 10],
}

const _: () = assert!(size_of::<Region>() == 256);

impl Region {
    /// A region that the pool has nothing of.
    pub(super) const fn new() -> Self {
        Region {
            free: [const { AtomicU64::new(0) }; _],
            granules: [const { AtomicU8::new(0) }; _],
            pages: AtomicU32::new(0),
            spare: AtomicU32::new(0),
            previous: AtomicU32::new(NOWHERE),
            next: AtomicU32::new(NOWHERE),
            last: AtomicU32::new(REGION as u32 - 1),
            upwards: AtomicBool::new(false),
            _rest: [0; 10],
        }
    }

    /// The region before this one in the list of those with free pages.
    pub(super) fn previous(&self) -> u32 {
        self.previous.load(Relaxed)
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.load(Relaxed) as usize
    }

    pub(super) fn spare(&self) -> usize {
        self.spare.load(Relaxed) as usize
    }

    /// Whether a page is the pool's.
    #[inline(always)]
    pub(super) fn owns(&self, page: usize) -> bool {
        self.granules[page / GRANULE].load(Relaxed) != 0
    }

    /// Adds a block, all of it free.
    pub(super) fn add(&self, block: Block) {
        self.describe(block, block.order);
        self.set_free(block, true);
        self.last.store(REGION as u32 - 1, Relaxed);
        self.upwards.store(false, Relaxed);
        self.change_counts(block.pages() as i32, block.pages() as i32);
    }

    /// Removes a block, all of it free.
    pub(super) fn remove(&self, block: Block) {
        self.describe(block, 0);
        self.set_free(block, false);
        self.change_counts(-(block.pages() as i32), -(block.pages() as i32));
    }

    /// A free page: the nearest to the one freed last, against the direction in which pages were freed, so that what was freed last comes
    /// first, as from the lists of a frame allocator. New blocks come from the top down. (Handed out upwards, the tables of a fork lay one
    /// above the other as they were filled, and filling them took 8 % longer on an AMD EPYC.)
    pub(super) fn take(&self) -> Option<usize> {
        let from = self.last.load(Relaxed) as usize;
        let page = if self.upwards.load(Relaxed) {
            self.free_above(from).or_else(|| self.free_below(from))
        } else {
            self.free_below(from).or_else(|| self.free_above(from))
        }?;
        let word = &self.free[page / 64];
        word.store(word.load(Relaxed) & !(1 << (page % 64)), Relaxed);
        self.last.store(page as u32, Relaxed);
        self.change_counts(0, -1);
        Some(page)
    }

    /// The first free page from `page` on.
    fn free_above(&self, page: usize) -> Option<usize> {
        let in_word = |word: usize, wanted: u64| {
            let bits = self.free[word].load(Relaxed) & wanted;
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        };
        in_word(page / 64, u64::MAX << (page % 64))
            .or_else(|| (page / 64 + 1..self.free.len()).find_map(|word| in_word(word, u64::MAX)))
    }

    /// The last free page up to `page`.
    fn free_below(&self, page: usize) -> Option<usize> {
        let in_word = |word: usize, wanted: u64| {
            let bits = self.free[word].load(Relaxed) & wanted;
            (bits != 0).then(|| word * 64 + bits.ilog2() as usize)
        };
        in_word(page / 64, u64::MAX >> (63 - page % 64))
            .or_else(|| (0..page / 64).rev().find_map(|word| in_word(word, u64::MAX)))
    }

    /// Makes a page free. False, and nothing done, if it is free already or not the pool's.
    pub(super) fn put(&self, page: usize) -> bool {
        if !self.owns(page) || self.is_free(page) {
            return false;
        }
        let word = &self.free[page / 64];
        word.store(word.load(Relaxed) | 1 << (page % 64), Relaxed);
        self.upwards.store(page < self.last.load(Relaxed) as usize, Relaxed);
        self.last.store(page as u32, Relaxed);
        self.change_counts(0, 1);
        true
    }

    /// The blocks in this region.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        let mut first = 0;
        core::iter::from_fn(move || {
            while first < REGION {
                let order = self.granules[first / GRANULE].load(Relaxed) & ORDER;
                let block = Block { first, order };
                first += if order == 0 { GRANULE } else { block.pages() };
                if order != 0 {
                    return Some(block);
                }
            }
            None
        })
    }

    pub(super) fn has(&self, block: Block, done: Done) -> bool {
        self.granules[block.first / GRANULE].load(Relaxed) & done as u8 == done as u8
    }

    pub(super) fn note(&self, block: Block, done: Done) {
        let known = self.granules[block.first / GRANULE].load(Relaxed);
        self.describe(block, known | done as u8);
    }

    /// Whether every page of a block is free.
    pub(super) fn is_whole(&self, block: Block) -> bool {
        self.free_in(block).count() == block.pages()
    }

    /// The free pages of a block.
    pub(super) fn free_in(&self, block: Block) -> impl Iterator<Item = usize> + '_ {
        (block.first..block.first + block.pages()).filter(|&page| self.is_free(page))
    }

    fn is_free(&self, page: usize) -> bool {
        self.free[page / 64].load(Relaxed) & 1 << (page % 64) != 0
    }

    fn describe(&self, block: Block, description: u8) {
        self.granules[block.granules()]
            .iter()
            .for_each(|granule| granule.store(description, Relaxed));
    }

    fn set_free(&self, block: Block, free: bool) {
        for page in block.first..block.first + block.pages() {
            let (word, bit) = (&self.free[page / 64], 1 << (page % 64));
            let others = word.load(Relaxed) & !bit;
            word.store(if free { others | bit } else { others }, Relaxed);
        }
    }

    fn change_counts(&self, pages: i32, spare: i32) {
        self.pages.store(self.pages.load(Relaxed).wrapping_add_signed(pages), Relaxed);
        self.spare.store(self.spare.load(Relaxed).wrapping_add_signed(spare), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const SMALL: Block = Block { first: 8, order: 2 };
    const LARGER: Block = Block { first: 64, order: 4 };

    #[test]
    fn pages_are_handed_out_from_the_top_down() {
        let region = Region::new();
        assert_eq!(region.take(), None);
        region.add(SMALL);
        region.add(LARGER);
        let all: Vec<_> = core::iter::from_fn(|| region.take()).collect();
        assert_eq!(all, (64..80).rev().chain((8..12).rev()).collect::<Vec<_>>());
        assert_eq!((region.pages(), region.spare()), (20, 0));
    }

    #[test]
    fn what_was_freed_last_is_handed_out_first() {
        let region = Region::new();
        region.add(Block { first: 0, order: 9 });
        let mut pages: Vec<_> = (0..300).filter_map(|_| region.take()).collect();
        for round in 0..3 {
            assert!(pages.iter().all(|&page| region.put(page)), "{round}");
            let again: Vec<_> = (0..300).filter_map(|_| region.take()).collect();
            pages.reverse();
            assert_eq!(again, pages, "{round}");
        }
    }

    #[test]
    fn a_page_freed_twice_and_a_foreign_one_change_nothing() {
        let region = Region::new();
        region.add(LARGER);
        for wrong in [0, 63, 80, 511, 70] {
            assert!(!region.put(wrong), "{wrong}");
        }
        assert_eq!((region.pages(), region.spare()), (16, 16));
        let page = region.take().expect("there are 16");
        assert!(region.put(page));
        assert!(!region.put(page));
        assert_eq!(region.spare(), 16);
    }

    #[test]
    fn blocks_are_known_by_what_was_done_to_them() {
        let region = Region::new();
        region.add(SMALL);
        region.add(LARGER);
        region.note(SMALL, Done::Aliased);
        region.note(LARGER, Done::Protected);
        assert_eq!(region.blocks().collect::<Vec<_>>(), [SMALL, LARGER]);
        let done = |block| [Done::Aliased, Done::Protected].map(|done| region.has(block, done));
        assert_eq!([done(SMALL), done(LARGER)], [[true, false], [true, true]]);
        region.take();
        assert!(region.is_whole(SMALL) && !region.is_whole(LARGER));
        region.remove(SMALL);
        assert_eq!(region.blocks().collect::<Vec<_>>(), [LARGER]);
        assert_eq!((region.pages(), region.spare()), (16, 15));
        assert!(!region.owns(8) && region.owns(64));
    }
}

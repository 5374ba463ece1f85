//! The frames behind an area.

use kpkeys_pgtable::Format;
use smallvec::SmallVec;

use crate::error::Error;
use crate::frames::{Buddy, HUGE_ORDER, WaitingFrames};

/// Frames taken from the allocator in one go.
const BULK: usize = 100;

/// The frames behind an area, in the order they are mapped: single frames, or the first frames of blocks. A few need no heap.
#[derive(Debug, Default)]
pub(super) struct AreaFrames {
    blocks: SmallVec<[Block; 2]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) first: u32,
    pub(super) order: u8,
}

/// What an area is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    /// Single frames.
    Pages,
    /// Blocks of 512 pages where they fit (2 MiB of 4 KiB pages), then those of contiguous runs (64 KiB), then single frames.
    Blocks,
}

impl Backing {
    /// What the start of an area of this many pages should be a multiple of.
    pub(super) fn align<E: Format>(self, pages: usize) -> u64 {
        match (self, pages) {
            (Backing::Blocks, pages) if pages >= 1 << HUGE_ORDER => E::PAGE_SIZE << HUGE_ORDER,
            (Backing::Blocks, pages) if pages >= E::CONT_PAGES => E::CONT_BYTES,
            _ => E::PAGE_SIZE,
        }
    }
}

impl AreaFrames {
    /// Takes the frames for `pages` pages, which memory has, whoever uses them now.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], and none is taken.
    pub(super) fn take<E: Format>(
        buddy: &Buddy<E>,
        pages: usize,
        backing: Backing,
    ) -> Result<AreaFrames, Error> {
        let mut frames = AreaFrames::default();
        let taken = (|| {
            if backing == Backing::Blocks {
                frames.take_blocks(buddy, pages)?;
            }
            frames.take_pages(buddy, pages)
        })();
        if taken.is_err() {
            frames.release(buddy);
        }
        taken.map(|()| frames)
    }

    /// The blocks, in the order they are mapped.
    #[inline(always)]
    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Frees them, which were never mapped.
    pub(super) fn release<E: Format>(&mut self, buddy: &Buddy<E>) {
        self.each(|frame| buddy.put(frame, 0));
    }

    /// Makes them wait for a flush, with those that do already: they were mapped.
    #[inline]
    pub(super) fn wait<E: Format>(&mut self, buddy: &Buddy<E>, waiting: &mut WaitingFrames) {
        self.each(|frame| buddy.wait(waiting, frame));
    }

    /// Gives them up one by one, as Linux does: a block behind an area is split into frames when it is allocated.
    #[inline(always)]
    fn each(&mut self, mut give_up: impl FnMut(u32)) {
        for block in &core::mem::take(&mut self.blocks) {
            (block.first..block.first + (1 << block.order)).for_each(&mut give_up);
        }
    }

    /// As many of `pages` as whole blocks can serve, the largest first.
    fn take_blocks<E: Format>(&mut self, buddy: &Buddy<E>, pages: usize) -> Result<(), Error> {
        let mut missing = pages;
        // The second order is that of the blocks behind a contiguous run of PTEs.
        for order in [HUGE_ORDER, E::CONT_PAGES.ilog2() as u8] {
            self.reserve(missing >> order)?;
            while missing >= 1 << order
                && let Some(first) = buddy.take_split(order)
            {
                self.push(buddy, first, order);
                missing -= 1 << order;
            }
        }
        Ok(())
    }

    /// Single frames until there are `pages` in all.
    fn take_pages<E: Format>(&mut self, buddy: &Buddy<E>, pages: usize) -> Result<(), Error> {
        let mut missing = pages - self.pages();
        self.reserve(missing)?;
        while missing > 0 {
            let taken = buddy.take_bulk(missing.min(BULK), |frame| self.push(buddy, frame, 0));
            if taken == 0 {
                return Err(Error::OutOfMemory);
            }
            missing -= taken;
        }
        Ok(())
    }

    fn reserve(&mut self, blocks: usize) -> Result<(), Error> {
        self.blocks.try_reserve_exact(blocks).map_err(|_| Error::OutOfMemory)
    }

    /// Adds a block that there is room for.
    #[inline(always)]
    fn push<E: Format>(&mut self, buddy: &Buddy<E>, first: u32, order: u8) {
        (first..first + (1 << order)).for_each(|frame| buddy.touch(frame));
        self.blocks.push(Block { first, order });
    }

    fn pages(&self) -> usize {
        self.blocks.iter().map(|block| 1 << block.order).sum()
    }
}

//! Page-table pages from a pool that carries the key already, or has its alias already.
//!
//! The pool takes naturally aligned blocks from the frame allocator and keys each as a whole: one change of the linear map's
//! tables and one TLB flush for up to 512 page-table pages, and no split where the linear map is made of 2 MiB blocks. Where
//! page tables are protected by an alias, that is one more entry for the whole block.
//! Pages go back to the pool, never straight to the frame allocator, so allocating and freeing a page-table page changes no
//! key and flushes nothing. [`Pool::shrink`] gives wholly free blocks back.
//!
//! Each CPU has a magazine of spare pages; the list of blocks is behind one lock, taken once per half magazine.
//!
//! A few pages are kept in reserve for splitting blocks of the linear map, so that setting a key never has to allocate a
//! page-table page. The reserve is topped up before each key change. Lock order: magazine, blocks, reserve, linear map.

use kpkeys::Pkey;
use spin::Mutex;

use super::{FlushedPtp, Ptp, PtpAllocator};
use crate::addr::{ENTRIES, PAGE_SIZE, PhysAddr};
use crate::error::Error;
use crate::ground::Ground;
use crate::linear::Reserve;
use crate::machine::{Event, Flush, Frames, Machine, Probe};
use crate::section::Section;
use crate::table::Table;

/// Block orders a refill tries in turn. The least still gains: a split on its behalf takes two pages at most.
pub const REFILL_ORDERS: [u8; 3] = [9, 4, 2];

/// Pages a CPU's magazine holds.
const MAGAZINE: usize = 32;
/// CPUs with a magazine of their own; further ones share.
const MAGAZINES: usize = 64;
/// Blocks the pool can track: 512 of 2 MiB are page tables for 256 GiB of 4 KiB pages.
const BLOCKS: usize = 512;
/// Spare pages that shrinking leaves.
const KEEP: usize = 16;

/// The keyed pool.
pub struct Pool {
    magazines: [Mutex<Magazine>; MAGAZINES],
    blocks: Mutex<Blocks>,
    reserve: Mutex<Reserve>,
}

struct Magazine {
    pages: [PhysAddr; MAGAZINE],
    len: usize,
}

struct Blocks {
    blocks: [Block; BLOCKS],
    len: usize,
    /// Free pages in all blocks.
    spare: usize,
}

#[derive(Clone, Copy)]
struct Block {
    start: PhysAddr,
    order: u8,
    keyed: bool,
    free: usize,
    /// The page handed out last.
    cursor: usize,
    /// One bit a page, set while it is free.
    map: [u64; ENTRIES / 64],
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// An empty pool. It takes its first block when it is first used.
    pub const fn new() -> Self {
        Pool {
            magazines: [const { Mutex::new(Magazine { pages: [PhysAddr(0); MAGAZINE], len: 0 }) };
                MAGAZINES],
            blocks: Mutex::new(Blocks { blocks: [Block::NONE; BLOCKS], len: 0, spare: 0 }),
            reserve: Mutex::new(Reserve::new()),
        }
    }

    /// Gives wholly free blocks back to the frame allocator, each with one key change, as long as 16 spare pages remain.
    /// Returns how many pages went.
    pub fn shrink<M: Machine, F: Frames>(&self, ground: &Ground<M, F>) -> usize {
        for magazine in &self.magazines {
            let mut magazine = magazine.lock();
            let mut blocks = self.blocks.lock();
            while let Some(page) = magazine.pop() {
                blocks.put(page);
            }
        }
        let mut blocks = self.blocks.lock();
        let mut returned = 0;
        let mut i = 0;
        while i < blocks.len {
            let block = blocks.blocks[i];
            if block.free == block.pages()
                && blocks.spare - block.free >= KEEP
                && self.reset(ground, &block)
            {
                blocks.remove(i);
                returned += block.pages();
                // SAFETY: every page of the block is free, so nothing refers to it; it is data again.
                unsafe { ground.frames().release(block.start, block.order) };
            } else {
                i += 1;
            }
        }
        returned
    }

    /// Sets the key of any range of the linear map, with pages for splitting it from this pool.
    pub(crate) fn set_key<M: Machine, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
    ) -> Result<(), Error> {
        // A bad request is refused before a block is taken for it.
        ground.linear().key_range::<M::Format>(start, pages, key)?;
        self.with_reserve(ground, |reserve| ground.set_key(start, pages, key, reserve))
    }

    /// Runs `f` with a reserve as full as memory allows.
    pub(crate) fn with_reserve<M: Machine, F: Frames, R>(
        &self,
        ground: &Ground<M, F>,
        f: impl FnOnce(&mut Reserve) -> R,
    ) -> R {
        let mut blocks = self.blocks.lock();
        if blocks.spare < Reserve::CAPACITY {
            // Whether the pages that are left suffice is found out by `f`: most changes split nothing.
            let _ = self.add_block(ground, &mut blocks);
        }
        self.top_up_reserve(ground, &mut blocks);
        f(&mut self.reserve.lock())
    }

    /// Makes a block data again. False if that failed, which keeps the block in the pool.
    fn reset<M: Machine, F: Frames>(&self, ground: &Ground<M, F>, block: &Block) -> bool {
        !block.keyed
            || ground.unprotect(block.start, block.pages(), &mut self.reserve.lock()).is_ok()
    }

    /// Moves half a magazine of pages in, taking new blocks if none is spare: a block of the least order may go to the
    /// reserve as a whole. The window of the operation that needs the pages is closed meanwhile, since a new block's key is
    /// flushed from every CPU's TLB.
    fn refill<M: Machine, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        magazine: &mut Magazine,
    ) -> Result<(), Error> {
        let mut blocks = self.blocks.lock();
        while blocks.spare == 0 {
            section.paused(|| self.add_block(ground, &mut blocks))?;
        }
        while magazine.len < MAGAZINE / 2
            && let Some(page) = blocks.take()
        {
            magazine.push(page);
        }
        Ok(())
    }

    fn add_block<M: Machine, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        blocks: &mut Blocks,
    ) -> Result<(), Error> {
        if blocks.len == BLOCKS {
            return Err(Error::PoolFull);
        }
        let mut failure = Error::OutOfMemory;
        for order in REFILL_ORDERS {
            let Some(start) = ground.frames().allocate(order) else { continue };
            match self.key_block(ground, start, order) {
                Ok(keyed) => {
                    blocks.add(Block::new(start, order, keyed));
                    self.top_up_reserve(ground, blocks);
                    return Ok(());
                }
                Err(error) => {
                    failure = error;
                    // SAFETY: the block was allocated above and never used.
                    unsafe { ground.frames().release(start, order) };
                }
            }
        }
        Err(failure)
    }

    /// Protects a new block. Kernel mappings that the frames had before may still be in TLBs, writable: they are flushed first, so that no
    /// page-table page can be reached through one.
    fn key_block<M: Machine, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        start: PhysAddr,
        order: u8,
    ) -> Result<bool, Error> {
        if ground.is_protected() {
            ground.machine().probe().count(Event::TlbFlush, 1);
            ground.machine().flush_tlb(Flush::AllKernel);
            ground.protect(start, 1 << order, &mut self.reserve.lock())?;
        }
        Ok(ground.is_protected())
    }

    /// Passes every block with a reserve for it: protecting a block may split blocks of the linear map, and its alias may need a table.
    /// Blocks that are taken for that are passed in their turn.
    fn for_each_block<M: Machine, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        mut f: impl FnMut(&mut Block, &mut Reserve) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut blocks = self.blocks.lock();
        let mut i = 0;
        while i < blocks.len {
            self.top_up_reserve(ground, &mut blocks);
            while !self.reserve.lock().is_full() && self.add_block(ground, &mut blocks).is_ok() {}
            f(&mut blocks.blocks[i], &mut self.reserve.lock())?;
            i += 1;
        }
        Ok(())
    }

    fn top_up_reserve<M: Machine, F: Frames>(&self, ground: &Ground<M, F>, blocks: &mut Blocks) {
        let mut reserve = self.reserve.lock();
        while !reserve.is_full()
            && let Some(page) = blocks.take()
        {
            // Zeroed when a split fills every entry of it.
            reserve.put(Ptp::new(page));
            ground.machine().probe().count(Event::PtpAllocated, 1);
        }
    }
}

impl<M: Machine, F: Frames> PtpAllocator<M, F> for Pool {
    fn allocate(&self, ground: &Ground<M, F>, section: &Section<'_, M>) -> Result<Ptp, Error> {
        let page = {
            let mut magazine = self.magazines[ground.machine().cpu() % MAGAZINES].lock();
            match magazine.pop() {
                Some(page) => page,
                None => {
                    self.refill(ground, section, &mut magazine)?;
                    magazine.pop().ok_or(Error::OutOfMemory)?
                }
            }
        };
        // SAFETY: the page belongs to the pool, whose pages are page-table pages and nothing else; it was just taken out, so nobody
        // else knows it.
        unsafe { section.zero(Table::at(ground.machine(), page)) };
        ground.machine().probe().count(Event::PtpAllocated, 1);
        Ok(Ptp::new(page))
    }

    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp) {
        ground.machine().probe().count(Event::PtpFreed, 1);
        let mut magazine = self.magazines[ground.machine().cpu() % MAGAZINES].lock();
        if magazine.len == MAGAZINE {
            let mut blocks = self.blocks.lock();
            while magazine.len > MAGAZINE / 2
                && let Some(page) = magazine.pop()
            {
                blocks.put(page);
            }
        }
        magazine.push(ptp.into_frame());
    }

    fn map_aliases(&self, ground: &Ground<M, F>) -> Result<(), Error> {
        self.for_each_block(ground, |block, reserve| {
            ground.map_alias(block.start, block.pages(), reserve)
        })
    }

    fn enable_protection(&self, ground: &Ground<M, F>) -> Result<(), Error> {
        self.for_each_block(ground, |block, reserve| {
            if !block.keyed {
                ground.protect(block.start, block.pages(), reserve)?;
                block.keyed = true;
            }
            Ok(())
        })
    }

    fn for_each_keyed_spare(&self, f: &mut dyn FnMut(PhysAddr)) {
        for magazine in &self.magazines {
            let magazine = magazine.lock();
            magazine.pages[..magazine.len].iter().for_each(|&page| f(page));
        }
        self.reserve.lock().iter().for_each(&mut *f);
        let blocks = self.blocks.lock();
        for block in blocks.blocks[..blocks.len].iter().filter(|block| block.keyed) {
            block.free_pages().for_each(&mut *f);
        }
    }
}

impl Magazine {
    fn pop(&mut self) -> Option<PhysAddr> {
        self.len = self.len.checked_sub(1)?;
        Some(self.pages[self.len])
    }

    fn push(&mut self, page: PhysAddr) {
        self.pages[self.len] = page;
        self.len += 1;
    }
}

impl Blocks {
    fn add(&mut self, block: Block) {
        self.blocks[self.len] = block;
        self.len += 1;
        self.spare += block.free;
    }

    fn remove(&mut self, i: usize) {
        self.spare -= self.blocks[i].free;
        self.len -= 1;
        self.blocks[i] = self.blocks[self.len];
    }

    /// A free page of the first block that has one, so that later blocks can become wholly free.
    fn take(&mut self) -> Option<PhysAddr> {
        let page = self.blocks[..self.len].iter_mut().find_map(Block::take)?;
        self.spare -= 1;
        Some(page)
    }

    fn put(&mut self, page: PhysAddr) {
        if let Some(block) = self.blocks[..self.len].iter_mut().find(|block| block.contains(page)) {
            block.put(page);
            self.spare += 1;
        }
    }
}

impl Block {
    const NONE: Block = Block {
        start: PhysAddr(0),
        order: 0,
        keyed: false,
        free: 0,
        cursor: 0,
        map: [0; ENTRIES / 64],
    };

    fn new(start: PhysAddr, order: u8, keyed: bool) -> Block {
        let mut block = Block { start, order, keyed, free: 1 << order, ..Block::NONE };
        for page in 0..block.free {
            block.map[page / 64] |= 1 << (page % 64);
        }
        block
    }

    fn pages(&self) -> usize {
        1 << self.order
    }

    fn contains(&self, page: PhysAddr) -> bool {
        page >= self.start && page < self.start.offset(self.pages() as u64 * PAGE_SIZE)
    }

    /// A free page, from the top down, as the lists of a frame allocator give them. (Handed out upwards, the tables of a fork lay one
    /// above the other as they were filled, and filling them took 8 % longer on an AMD EPYC.)
    fn take(&mut self) -> Option<PhysAddr> {
        self.cursor = self.cursor.checked_sub(1).unwrap_or(self.pages() - 1);
        let index = self.first_free_from(self.cursor)?;
        self.map[index / 64] &= !(1 << (index % 64));
        self.free -= 1;
        Some(self.page(index))
    }

    /// The first free page at or behind an index, going round.
    fn first_free_from(&self, index: usize) -> Option<usize> {
        let bit_in = |word: usize, bits: u64| {
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        };
        let (word, words) = (index / 64, self.pages().div_ceil(64));
        let behind = bit_in(word, self.map[word] & (!0 << (index % 64)));
        behind.or_else(|| {
            (1..=words).map(|i| (word + i) % words).find_map(|word| bit_in(word, self.map[word]))
        })
    }

    fn put(&mut self, page: PhysAddr) {
        let index = ((page.0 - self.start.0) / PAGE_SIZE) as usize;
        self.map[index / 64] |= 1 << (index % 64);
        self.free += 1;
    }

    fn page(&self, index: usize) -> PhysAddr {
        self.start.offset(index as u64 * PAGE_SIZE)
    }

    fn free_pages(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        (0..self.pages()).filter(|i| self.map[i / 64] & (1 << (i % 64)) != 0).map(|i| self.page(i))
    }
}

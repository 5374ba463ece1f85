//! Page-table pages from a pool that carries the key already, or has its alias already.
//!
//! The pool takes naturally aligned blocks from the frame allocator and keys each as a whole: one change of the linear map's
//! tables and one TLB flush for up to 512 page-table pages, and no split where the linear map is made of 2 MiB blocks. Where
//! page tables are protected by an alias, that is one more entry for the whole block.
//! Pages go back to the pool, never straight to the frame allocator, so allocating and freeing a page-table page changes no
//! key and flushes nothing. [`Pool::shrink`] gives wholly free blocks back.
//!
//! | file | concept |
//! |---|---|
//! | `magazine` | a CPU's own spare pages |
//! | `spares` | the free pages of all blocks |
//! | `region` | the blocks and pages of one 2 MiB of memory |
//! | `records` | the records of all regions, found by address |
//! | `state` | the pages that all of this is kept in |
//!
//! Taking and putting a page is a matter of the CPU's magazine, and once in half a magazine of the spare pages, behind one lock. Neither
//! depends on how many pages or blocks the pool has, and there is no limit on those.
//!
//! A few pages are kept in reserve for splitting blocks of the linear map, so that setting a key never has to allocate a
//! page-table page. The reserve is topped up before each key change. Lock order: magazine, spares, reserve, linear map.
//!
//! Where the tables of address spaces have a key of their own, these have a pool of their own, the [`UserPool`], whose blocks carry it. Tables of the linear map are not
//! among them, so that its reserve comes from the other pool. Lock order: magazine and spares of this one, then those of the other.

mod magazine;
mod records;
mod region;
mod spares;
mod state;

use crossbeam_utils::CachePadded;
use kpkeys::Pkey;
use spin::Mutex;

use super::{Class, FlushedPtp, Ptp, PtpAllocator};
use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Format, X86_64};
use crate::error::Error;
use crate::ground::Ground;
use crate::guarded::{FrameType, Kind};
use crate::linear::Reserve;
use crate::machine::{Event, Flush, Frames, Machine, Probe};
use crate::section::{Section, Space};
use magazine::{Magazine, OwnMagazine};
use records::{Place, Records, Regions};
use region::{Block, Done, Region};
use spares::Spares;
use state::Array;

/// Block orders a refill tries in turn. The least still gains: a split on its behalf takes two pages at most.
pub const REFILL_ORDERS: [u8; 3] = [9, 4, LEAST_ORDER];
const LEAST_ORDER: u8 = 2;

/// The part of the pool that it grows by once every table was looked at for its sake.
const GROWTH: usize = 8;

/// Spare pages that shrinking leaves.
const KEEP: usize = 16;

/// The keyed pool.
pub struct Pool<E: Format> {
    /// What its pages are for.
    class: Class,
    /// One for each CPU.
    magazines: Array<OwnMagazine, E>,
    records: Records<E>,
    spares: CachePadded<Mutex<Spares>>,
    reserve: CachePadded<Mutex<Reserve>>,
}

/// Nothing of size is in the value itself, which is moved over the stack of a kernel that boots.
const _: () = assert!(size_of::<Pool<X86_64>>() <= 512);

impl<E: Format> Pool<E> {
    /// An empty pool, with pages for what it must remember. It takes its first block when it is first used.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new<M: Machine<Format = E>, F: Frames>(machine: &M, frames: &F) -> Result<Self, Error> {
        Self::of(Class::Kernel, machine, frames)
    }

    /// The same for tables of a class.
    pub(crate) fn of<M: Machine<Format = E>, F: Frames>(
        class: Class,
        machine: &M,
        frames: &F,
    ) -> Result<Self, Error> {
        Ok(Pool {
            class,
            magazines: Array::new(machine, frames, machine.cpus().max(1), Magazine::new)?,
            records: Records::new(machine, frames)?,
            spares: CachePadded::new(Mutex::new(Spares::new())),
            reserve: CachePadded::new(Mutex::new(Reserve::new())),
        })
    }

    /// Gives wholly free blocks back to the frame allocator, each with one key change, as long as 16 spare pages remain.
    /// Returns how many pages went.
    pub fn shrink<M: Machine<Format = E>, F: Frames>(&self, ground: &Ground<M, F>) -> usize {
        let regions = self.records.of(ground.machine());
        for magazine in self.all_magazines(ground.machine()) {
            let mut magazine = magazine.lock();
            let mut spares = self.spares.lock();
            while !magazine.is_empty() {
                magazine.spill(|page| Self::put_back(&mut spares, regions, page));
            }
        }
        let mut spares = self.spares.lock();
        let mut returned = 0;
        let mut number = spares.last();
        while let Some(region) = regions.get(number) {
            let previous = region.previous();
            for block in region.blocks().filter(|&block| region.is_whole(block)) {
                let start = regions.address(number, block.first);
                if spares.pages() - block.pages() >= KEEP
                    && self.reset(ground, start, region, block)
                {
                    spares.remove(regions, region, block);
                    returned += block.pages();
                    // SAFETY: every page of the block is free, so nothing refers to it; it is data again.
                    unsafe { ground.frames().release(start, block.order) };
                }
            }
            number = previous;
        }
        returned
    }

    /// Sets the key of any range of the linear map, with pages for splitting it from this pool.
    pub(crate) fn set_key<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
    ) -> Result<(), Error> {
        // A bad request is refused before a block is taken for it.
        ground.linear().key_range(start, pages, key)?;
        self.with_reserve(ground, |reserve| ground.set_key(start, pages, key, reserve))
    }

    /// Runs `f` with a reserve as full as memory allows.
    pub(crate) fn with_reserve<M: Machine<Format = E>, F: Frames, R>(
        &self,
        ground: &Ground<M, F>,
        f: impl FnOnce(&mut Reserve) -> R,
    ) -> R {
        let mut spares = self.spares.lock();
        if spares.pages() < Reserve::CAPACITY {
            // Whether the pages that are left suffice is found out by `f`: most changes split nothing.
            let _ = self.add_block(ground, &mut spares, self);
        }
        self.top_up_reserve(ground, &mut spares, self);
        f(&mut self.reserve.lock())
    }

    /// Makes a block data again. False if that failed, which keeps the block in the pool.
    fn reset<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        start: PhysAddr,
        region: &Region,
        block: Block,
    ) -> bool {
        let retype =
            |from, to| ground.section(Space::Linear).retype(start, block.pages(), from, to);
        if retype(self.class.spare(), FrameType::Data).is_err() {
            return false;
        }
        let reset = !region.has(block, Done::Protected)
            || ground.unprotect(start, block.pages(), &mut self.reserve.lock()).is_ok();
        // What cannot be made data is spare as before; nobody had it meanwhile.
        if !reset {
            let _ = retype(FrameType::Data, self.class.spare());
        }
        reset
    }

    /// Moves half a magazine of pages in, taking new blocks if none is spare: a block of the least order may go to the
    /// reserve as a whole. The window of the operation that needs the pages is closed meanwhile, since a new block's key is
    /// flushed from every CPU's TLB.
    #[cold]
    fn refill<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        magazine: &mut Magazine,
        tables: &Self,
    ) -> Result<(), Error> {
        let mut spares = self.spares.lock();
        while spares.pages() == 0 {
            section.paused(|| self.add_block(ground, &mut spares, tables))?;
        }
        let regions = self.records.of(ground.machine());
        magazine.fill(|| spares.take(regions));
        Ok(())
    }

    fn add_block<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        spares: &mut Spares,
        tables: &Self,
    ) -> Result<(), Error> {
        let mut failure = Error::OutOfMemory;
        if !core::ptr::eq(self, tables) {
            // It has none of its own to begin with.
            self.top_up_reserve(ground, spares, tables);
        }
        for order in REFILL_ORDERS {
            match self.take_block(ground, spares, order) {
                Ok(swept) => {
                    if swept {
                        self.add_swept(ground, spares, order);
                    }
                    self.top_up_reserve(ground, spares, tables);
                    return Ok(());
                }
                Err(error @ Error::Violation(_)) => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Takes more blocks of an order, since every table was just looked at to find which are not mapped: until the pool has grown by an eighth,
    /// so that the looking costs each page of it a few entries' time, however many tables there are.
    #[cold]
    fn add_swept<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        spares: &mut Spares,
        order: u8,
    ) {
        let goal = spares.owned() + spares.owned() / GROWTH;
        while spares.owned() < goal && self.take_block(ground, spares, order) == Ok(false) {}
    }

    /// Takes a block from the frame allocator. Returns whether every table had to be looked at for it.
    fn take_block<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        spares: &mut Spares,
        order: u8,
    ) -> Result<bool, Error> {
        let start = ground.frames().allocate(order).ok_or(Error::OutOfMemory)?;
        let adopted = self.adopt(ground, spares, start, order);
        // What is no data, or is mapped, was never free: it is not given back.
        if adopted.as_ref().is_err_and(|error| !matches!(error, Error::Violation(_))) {
            // SAFETY: the block was allocated above and never used.
            unsafe { ground.frames().release(start, order) };
        }
        adopted
    }

    /// Makes a new block the pool's, protected if protection is on. Returns whether every table had to be looked at for it.
    fn adopt<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        spares: &mut Spares,
        start: PhysAddr,
        order: u8,
    ) -> Result<bool, Error> {
        if !ground.machine().memory().contains(start, 1 << order) {
            return Err(Error::OutsideLinearMap(start, 1 << order));
        }
        self.records.prepare(ground.machine(), ground.frames(), start)?;
        let regions = self.records.of(ground.machine());
        let place = regions.place(start).ok_or(Error::OutsideLinearMap(start, 1 << order))?;
        let section = ground.section(Space::Linear);
        let swept = ground.make_spare(&section, start, 1 << order, self.class)?;
        let protected = match self.protect_new(ground, start, order) {
            Ok(protected) => protected,
            Err(error) => {
                section.retype(start, 1 << order, self.class.spare(), FrameType::Data)?;
                return Err(error);
            }
        };
        let block = Block { first: place.page, order };
        spares.add(regions, place.number, place.region, block);
        if protected {
            place.region.note(block, Done::Protected);
        }
        Ok(swept)
    }

    /// Protects a new block. Kernel mappings that the frames had before may still be in TLBs, writable: they are flushed first, so that no
    /// page-table page can be reached through one.
    fn protect_new<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        start: PhysAddr,
        order: u8,
    ) -> Result<bool, Error> {
        if ground.is_protected() {
            ground.machine().probe().count(Event::TlbFlush, 1);
            ground.machine().flush_tlb(Flush::AllKernel);
            ground.protect(start, 1 << order, self.class, &mut self.reserve.lock())?;
        }
        Ok(ground.is_protected())
    }

    /// Does something once to every block that it was not done to yet, with a reserve for it: protecting a block may split blocks of the
    /// linear map, and its alias may need a table. Blocks that are taken for that are seen to in a later round.
    fn for_each_block_without<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        done: Done,
        tables: &Self,
        f: impl Fn(PhysAddr, usize, &mut Reserve) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let regions = self.records.of(ground.machine());
        let mut spares = self.spares.lock();
        loop {
            let mut seen = false;
            for (number, region) in regions.iter() {
                for block in region.blocks().filter(|&block| !region.has(block, done)) {
                    self.top_up_reserve(ground, &mut spares, tables);
                    while !self.reserve.lock().is_full()
                        && self.add_block(ground, &mut spares, tables).is_ok()
                    {}
                    let start = regions.address(number, block.first);
                    f(start, block.pages(), &mut self.reserve.lock())?;
                    region.note(block, done);
                    seen = true;
                }
            }
            if !seen {
                return Ok(());
            }
        }
    }

    /// Fills the reserve from `tables`, the pool of the linear map's tables: this one, with its spares, or another.
    fn top_up_reserve<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        spares: &mut Spares,
        tables: &Self,
    ) {
        if core::ptr::eq(self, tables) {
            return self.fill_reserve(ground, &self.reserve, spares);
        }
        if !self.reserve.lock().is_full() {
            let mut spares = tables.spares.lock();
            if spares.pages() < Reserve::CAPACITY {
                // As in `with_reserve`.
                let _ = tables.add_block(ground, &mut spares, tables);
            }
            tables.fill_reserve(ground, &self.reserve, &mut spares);
        }
    }

    /// Moves spare pages of this pool to a reserve.
    fn fill_reserve<M: Machine<Format = E>, F: Frames>(
        &self,
        ground: &Ground<M, F>,
        reserve: &Mutex<Reserve>,
        spares: &mut Spares,
    ) {
        let regions = self.records.of(ground.machine());
        let mut reserve = reserve.lock();
        while !reserve.is_full()
            && let Some(page) = spares.take(regions)
        {
            // Zeroed when a split fills every entry of it.
            reserve.put(page);
            ground.machine().probe().count(Event::PtpAllocated, 1);
        }
    }

    /// [`allocate`](PtpAllocator::allocate), where `tables` is the pool of the linear map's tables.
    #[inline(always)]
    fn allocate_beside<M: Machine<Format = E>, F: Frames>(
        &self,
        tables: &Self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        (level, kind): (Level, Kind),
    ) -> Result<Ptp, Error> {
        let page = {
            let mut magazine = self.magazine(ground.machine()).lock();
            match magazine.pop() {
                Some(page) => page,
                None => {
                    self.refill(ground, section, &mut magazine, tables)?;
                    magazine.pop().ok_or(Error::OutOfMemory)?
                }
            }
        };
        // SAFETY: the page belongs to the pool, whose pages are page-table pages and nothing else; it was just taken out, so nobody
        // else knows it.
        let ptp = unsafe { section.claim_empty(page, level, kind) }?;
        ground.machine().probe().count(Event::PtpAllocated, 1);
        Ok(ptp)
    }

    fn enable_protection_beside<M: Machine<Format = E>, F: Frames>(
        &self,
        tables: &Self,
        ground: &Ground<M, F>,
    ) -> Result<(), Error> {
        self.for_each_block_without(ground, Done::Protected, tables, |start, pages, reserve| {
            ground.protect(start, pages, self.class, reserve)
        })
    }

    /// The calling CPU's magazine.
    #[inline(always)]
    fn magazine<'m, M: Machine<Format = E>>(&self, machine: &'m M) -> &'m OwnMagazine {
        let own = self.magazines.get(machine, machine.cpu());
        own.expect("a CPU's number is below the number of CPUs, as the machine promises")
    }

    /// How many pages the calling CPU's magazine has, and where that is kept. For attacks.
    pub(crate) fn spares_of_this_cpu<M: Machine<Format = E>>(
        &self,
        machine: &M,
    ) -> (usize, VirtAddr) {
        let magazine = self.magazine(machine).lock();
        (*magazine.len(), VirtAddr(core::ptr::from_ref(magazine.len()).addr() as u64))
    }

    /// The page that the calling CPU hands out next, and where that is kept. For attacks.
    pub(crate) fn next_of_this_cpu<M: Machine<Format = E>>(
        &self,
        machine: &M,
    ) -> Option<(PhysAddr, VirtAddr)> {
        let magazine = self.magazine(machine).lock();
        magazine.next().map(|next| (*next, VirtAddr(core::ptr::from_ref(next).addr() as u64)))
    }

    fn all_magazines<'m, M: Machine<Format = E>>(
        &self,
        machine: &'m M,
    ) -> impl Iterator<Item = &'m OwnMagazine> {
        (0..self.magazines.len()).filter_map(|cpu| self.magazines.get(machine, cpu))
    }

    /// Every page of a magazine was the pool's when it was put in, and is in one place at a time, so that this does not fail.
    fn put_back<M: Machine<Format = E>>(
        spares: &mut Spares,
        regions: Regions<'_, M>,
        page: PhysAddr,
    ) {
        let taken = spares.put(regions, page);
        debug_assert!(taken, "{page:?} was in a magazine and in no block's use");
    }
}

impl<M: Machine, F: Frames> PtpAllocator<M, F> for Pool<M::Format> {
    fn allocate(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        self.allocate_beside(self, ground, section, (level, kind))
    }

    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp) {
        let (page, regions) = (ptp.into_frame(), self.records.of(ground.machine()));
        let known = regions.place(page);
        if !known.is_some_and(|Place { region, page, .. }| region.owns(page)) {
            // The table of somebody else's root. Left alone it can do no harm.
            return;
        }
        let types = ground.machine().anchor().get();
        let spare = if ground.separates_user_tables() { self.class } else { Class::Kernel }.spare();
        if types.is_some_and(|types| types.of(page) != spare) {
            // In use, whatever the caller was told.
            return;
        }
        ground.machine().probe().count(Event::PtpFreed, 1);
        let mut magazine = self.magazine(ground.machine()).lock();
        if magazine.is_full() {
            let mut spares = self.spares.lock();
            magazine.spill(|page| Self::put_back(&mut spares, regions, page));
        }
        magazine.push(page);
    }

    fn map_aliases(&self, ground: &Ground<M, F>) -> Result<(), Error> {
        self.for_each_block_without(ground, Done::Aliased, self, |start, pages, reserve| {
            ground.map_alias(start, pages, reserve)
        })
    }

    fn enable_protection(&self, ground: &Ground<M, F>) -> Result<(), Error> {
        self.enable_protection_beside(self, ground)
    }

    fn for_each_keyed_spare(&self, machine: &M, f: &mut dyn FnMut(PhysAddr)) {
        for magazine in self.all_magazines(machine) {
            magazine.lock().iter().for_each(&mut *f);
        }
        self.reserve.lock().iter().for_each(&mut *f);
        let _locked = self.spares.lock();
        let regions = self.records.of(machine);
        for (number, region) in regions.iter() {
            for block in region.blocks().filter(|&block| region.has(block, Done::Protected)) {
                region.free_in(block).for_each(|page| f(regions.address(number, page)));
            }
        }
    }

    fn state_pages(&self, machine: &M) -> usize {
        self.magazines.pages() + self.records.of(machine).pages()
    }
}

/// The pool of the tables of address spaces, where these have a key of their own.
pub(crate) struct UserPool<'p, E: Format> {
    /// Whose blocks carry it.
    pub(crate) own: &'p Pool<E>,
    /// That of the linear map's tables.
    pub(crate) tables: &'p Pool<E>,
}

impl<M: Machine, F: Frames> PtpAllocator<M, F> for UserPool<'_, M::Format> {
    fn allocate(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        self.own.allocate_beside(self.tables, ground, section, (level, kind))
    }

    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp) {
        self.own.release(ground, ptp);
    }

    fn map_aliases(&self, _ground: &Ground<M, F>) -> Result<(), Error> {
        // Who has keys has none.
        Ok(())
    }

    fn enable_protection(&self, ground: &Ground<M, F>) -> Result<(), Error> {
        self.own.enable_protection_beside(self.tables, ground)
    }

    fn for_each_keyed_spare(&self, machine: &M, f: &mut dyn FnMut(PhysAddr)) {
        PtpAllocator::<M, F>::for_each_keyed_spare(self.own, machine, f);
    }

    fn state_pages(&self, machine: &M) -> usize {
        PtpAllocator::<M, F>::state_pages(self.own, machine)
    }
}

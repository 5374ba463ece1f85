//! The whole: a kernel's page tables, their roots, and how protection is turned on.
//!
//! | module | concept |
//! |---|---|
//! | `tables` | finding the table that translates an address, and linking those that are missing |
//! | `build` | the linear map, as a kernel starts with it |
//! | `later` | memory that comes once the kernel runs |
//! | `protection` | turning it on, and saying first what frames are that this library did not allocate |
//! | `root` | the roots of address spaces, and of the kernel's half |

mod build;
mod later;
mod protection;
mod root;
mod tables;

use kpkeys::{Backend, Pkey, Scheme};
use spin::Once;

use crate::addr::{Level, PageRange, PhysAddr, VirtAddr};
use crate::alias::Alias;
use crate::entry::Format;
use crate::error::Error;
use crate::ground::Ground;
use crate::guarded::{FrameType, Kind, Types};
use crate::linear::{Linear, Reserve};
use crate::machine::{Event, Flush, Frames, Machine, Probe};
use crate::mode::Mode;
use crate::ptp::{
    Class, EarlyPtps, FlushedPtp, PerPage, Pool, Ptp, PtpAllocator, REFILL_ORDERS, UnlinkedPtp,
    UserPool,
};
use crate::section::{Section, Space};
use crate::table::Table;

/// How a kernel's page tables are set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Where windows are opened.
    pub mode: Mode,
    /// What the linear map is made of: pages, or 2 MiB or 1 GiB blocks.
    pub linear: Level,
    /// Whether page-table pages come from the keyed pool, rather than one by one.
    pub pool: bool,
}

impl Config {
    /// The set-up that belongs to a mode. The series' modes and the baseline use single pages throughout, as the series was
    /// measured; `fused` uses 2 MiB blocks and the pool.
    pub const fn of(mode: Mode) -> Config {
        match mode {
            Mode::Off | Mode::Unbatched | Mode::Batched => {
                Config { mode, linear: Level::Pte, pool: false }
            }
            Mode::FusedLean | Mode::Fused => Config { mode, linear: Level::Pmd, pool: true },
        }
    }

    /// The same for tables of a format that may have larger blocks. Where a block of the linear map is more than the pool takes at a time, it would have to be
    /// split while it is in use, which few CPUs allow (arm64: FEAT_BBM level 2); there the map is made of pages.
    pub const fn for_format<F: Format>(mode: Mode) -> Config {
        let config = Config::of(mode);
        let splits = Level::Pmd.entry_pages::<F>() > 1 << REFILL_ORDERS[0];
        Config { linear: if splits { Level::Pte } else { config.linear }, ..config }
    }
}

pub use root::Root;
pub(crate) use tables::Found;

/// A kernel's page tables.
pub struct Paging<M: Machine, F: Frames> {
    ground: Ground<M, F>,
    /// The keyed pool; without one, page-table pages are allocated one by one.
    pool: Option<Pool<M::Format>>,
    /// That of tables with a key of their own, if there are such and a pool.
    user_pool: Option<Pool<M::Format>>,
    kernel: Root,
    /// The largest leaves of the linear map.
    granule: Level,
    /// The alias's, if it has one of its own.
    window: Option<Root>,
    /// The kernel's half without the alias.
    programs_kernel: Once<Root>,
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Builds the kernel's tables with the linear map in them. Nothing is protected yet: the page-table pages made so far
    /// are recorded.
    ///
    /// # Errors
    ///
    /// [`Error::NeedsPageMappedLinearMap`] for a protecting configuration without pool over blocks; [`Error::NoKeys`] for a backend that says of an alias that it has keys to
    /// spare; [`Error::OutOfMemory`].
    pub fn new(machine: M, frames: F, config: Config) -> Result<Self, Error> {
        if config.mode.protects() && !config.pool && config.linear != Level::Pte {
            return Err(Error::NeedsPageMappedLinearMap);
        }
        let memory = machine.memory();
        let separate = config.mode.checks() && machine.backend().separates_user_tables();
        if separate && machine.backend().scheme() == Scheme::Alias {
            return Err(Error::NoKeys(Pkey::USER_TABLES));
        }
        let user_pool = (config.pool && separate)
            .then(|| Pool::of(Class::User, &machine, &frames))
            .transpose()?;
        let pool = config.pool.then(|| Pool::new(&machine, &frames)).transpose()?;
        // Until the root exists the linear map has none; no key is set before protection is enabled.
        let no_map = Linear::new(memory, memory.start, None);
        let ground = Ground::new(machine, frames, config.mode, no_map);
        if config.mode.checks() {
            lay_types(&ground)?;
        }
        let number = root::next_number();
        let new_root = |space| {
            let section = ground.section(Space::Linear);
            let kind = Kind::of_root(space);
            let page = allocator(&pool).allocate(&ground, &section, M::Format::ROOT, kind)?;
            Ok::<_, Error>(Root::new(section.found_root(page, space)?, number, space))
        };
        let kernel = new_root(Space::Kernel)?;
        let backend = ground.machine().backend();
        let by_alias = backend.scheme() == Scheme::Alias && config.mode.protects();
        let window =
            (by_alias && backend.has_window_root()).then(|| new_root(Space::Alias)).transpose()?;
        let has_copies = M::Format::USER_ROOT_HAS_KERNEL_HALF;
        let root = window.as_ref().unwrap_or(&kernel);
        let alias = by_alias
            .then(|| Alias::new(memory, ground.machine().alias(), root, has_copies))
            .transpose()?;
        let ground = ground.with_linear(Linear::new(memory, kernel.frame, alias));
        let programs_kernel = Once::new();
        let granule = config.linear;
        let paging = Paging { ground, pool, user_pool, kernel, granule, window, programs_kernel };
        paging.build_linear_map(memory, config.linear)?;
        paging.build_alias_tables()?;
        Ok(paging)
    }

    /// How many spare pages the calling CPU has, and where that is kept, if there is a pool. For attacks.
    pub fn spares_of_this_cpu(&self) -> Option<(usize, VirtAddr)> {
        self.pool.as_ref().map(|pool| pool.spares_of_this_cpu(self.machine()))
    }

    /// The spare page that the calling CPU hands out next, and where that is kept, if there is a pool and a page. For attacks.
    pub fn next_spare_of_this_cpu(&self) -> Option<(PhysAddr, VirtAddr)> {
        self.pool.as_ref().and_then(|pool| pool.next_of_this_cpu(self.machine()))
    }

    /// Where it is kept where the linear map's tables start. For attacks.
    pub fn linear_root_address(&self) -> *const u64 {
        self.ground.linear().root_address()
    }

    /// Sets the key of a range of memory in the linear map, and flushes what TLBs hold of it.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideLinearMap`] if the range is not page-aligned or not all mapped in the linear map,
    /// [`Error::KeyOutOfRange`] if the format has no such key, [`Error::NoKeys`] if the backend protects page tables by an alias and
    /// this is not the default key, [`Error::OutOfMemory`] if a block had to be split and no page-table page was in reserve. Keys
    /// are as before then.
    pub fn set_memory_pkey(&self, start: PhysAddr, pages: usize, key: Pkey) -> Result<(), Error> {
        // Before the pool takes a block for it.
        self.ground.linear().mapped_range(self.machine(), start, pages)?;
        match &self.pool {
            None => self.ground.set_key(start, pages, key, &mut Reserve::new()),
            Some(pool) => pool.set_key(&self.ground, start, pages, key),
        }
    }

    /// Whether the tables of address spaces have a key of their own: the backend [says so](Backend::separates_user_tables), and the mode checks.
    pub fn separates_user_tables(&self) -> bool {
        self.ground.separates_user_tables()
    }

    pub(crate) fn class_of_frame(&self, frame: PhysAddr) -> Class {
        self.ground.class_of_frame(frame)
    }

    /// The key that a page-table page, or what else is protected as such, must carry where the backend works by keys.
    pub fn key_of_protected(&self, frame: PhysAddr) -> Pkey {
        self.ground.class_of_frame(frame).key()
    }

    /// The key that a frame carries in the linear map, if it is mapped there.
    pub fn memory_pkey(&self, frame: PhysAddr) -> Option<Pkey> {
        let memory = self.machine().memory();
        if !memory.contains(frame, 1) {
            return None;
        }
        let (_, _, leaf) = self.walk(&self.kernel, memory.linear_address(frame))?;
        Some(M::Format::key(leaf))
    }

    /// The address that a frame's page table is stored through, if page tables are protected by an alias. The frame must be in the
    /// linear map.
    pub fn alias_of(&self, frame: PhysAddr) -> Option<VirtAddr> {
        self.alias().map(|alias| alias.address(frame))
    }

    /// How many 2 MiB pieces of the linear map are mapped by a table of pages. In a map of blocks those are the blocks that were split,
    /// which nothing joins again.
    pub fn split_blocks(&self) -> usize {
        let memory = self.machine().memory();
        let Ok(map) = PageRange::new(memory.linear_address(memory.start), memory.pages) else {
            return 0;
        };
        let is_split = |table: &Table<'_, M::Format>, index| {
            M::Format::is_table(Level::Pmd, table.slot(index).load())
        };
        let split_in = |piece: PageRange<M::Format>| {
            let entries = piece.start().index::<M::Format>(Level::Pmd)
                ..=piece.last_page().index::<M::Format>(Level::Pmd);
            let table = self.find_table(&self.kernel, piece.start(), Level::Pmd);
            table.map_or(0, |table| entries.filter(|&index| is_split(&table, index)).count())
        };
        map.by_table(Level::Pmd).map(split_in).sum()
    }

    /// Gives wholly free blocks of the pools back to the frame allocator; returns how many pages. Zero without pool.
    pub fn shrink(&self) -> usize {
        [&self.user_pool, &self.pool]
            .into_iter()
            .flatten()
            .map(|pool| pool.shrink(&self.ground))
            .sum()
    }

    /// The machine.
    #[inline(always)]
    pub fn machine(&self) -> &M {
        self.ground.machine()
    }

    /// The frame allocator.
    #[inline(always)]
    pub fn frames(&self) -> &F {
        self.ground.frames()
    }

    /// The protection mode.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.ground.mode()
    }

    /// Invalidates translations on every CPU.
    pub fn flush(&self, flush: Flush<M::Format>) {
        self.machine().probe().count(Event::TlbFlush, 1);
        self.machine().flush_tlb(flush);
    }

    /// Flushes, then releases page-table pages. This is the one way back for an unlinked page: there is no releasing without flushing.
    ///
    /// The flush is to cover the range by which they were unlinked, in the same address space. If that of one does not, everything is flushed
    /// before it is released: a flush of something else is none of this.
    pub fn flush_and_release(
        &self,
        flush: Flush<M::Format>,
        unlinked: impl IntoIterator<Item = UnlinkedPtp<M::Format>>,
    ) {
        self.flush(flush);
        let mut flushed = flush;
        for ptp in unlinked {
            if !ptp.is_forgotten_by(flushed) {
                flushed = Flush::All;
                self.flush(flushed);
            }
            self.release(ptp.flushed());
        }
    }

    pub(crate) fn allocate(
        &self,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        match self.user_ptps() {
            Some(pool) if Class::of(level, kind) == Class::User => {
                pool.allocate(&self.ground, section, level, kind)
            }
            _ => self.ptps().allocate(&self.ground, section, level, kind),
        }
    }

    fn release(&self, ptp: FlushedPtp) {
        match self.user_ptps() {
            Some(pool) if self.ground.class_of_frame(ptp.frame()) == Class::User => {
                pool.release(&self.ground, ptp);
            }
            _ => self.ptps().release(&self.ground, ptp),
        }
    }

    /// Where tables with a key of their own come from, if there are such and a pool.
    #[inline(always)]
    fn user_ptps(&self) -> Option<UserPool<'_, M::Format>> {
        if !self.machine().backend().separates_user_tables() {
            return None;
        }
        let (own, tables) = self.user_pool.as_ref().zip(self.pool.as_ref())?;
        Some(UserPool { own, tables })
    }

    /// Passes each page that is ready to become a page-table page and carries its key already.
    pub(crate) fn for_each_keyed_spare(&self, f: &mut dyn FnMut(PhysAddr)) {
        self.ptps().for_each_keyed_spare(self.machine(), f);
        if let Some(pool) = self.user_ptps() {
            PtpAllocator::<M, F>::for_each_keyed_spare(&pool, self.machine(), f);
        }
    }

    /// Pages that hold no tables but what the pools must remember.
    pub(crate) fn state_pages(&self) -> usize {
        let own = self
            .user_ptps()
            .map_or(0, |pool| PtpAllocator::<M, F>::state_pages(&pool, self.machine()));
        own + self.ptps().state_pages(self.machine())
    }

    pub(crate) fn ptps(&self) -> &dyn PtpAllocator<M, F> {
        allocator(&self.pool)
    }

    /// The pages given to [`record_early_ptps`](Self::record_early_ptps).
    pub(crate) fn foreign_ptps(&self) -> EarlyPtps<M::Format> {
        self.ground.foreign()
    }

    /// Whether some of these addresses are the linear map's or the alias's.
    #[inline(always)]
    pub(crate) fn is_own_map(&self, first: VirtAddr, last: VirtAddr) -> bool {
        let linear = self.ground.linear();
        linear.overlaps(first, last)
            || linear.alias().is_some_and(|alias| alias.overlaps(first.0, last.0))
    }

    pub(crate) fn alias(&self) -> Option<&Alias<M::Format>> {
        self.ground.linear().alias()
    }
}

/// Makes the types of all frames, and has the pages that they are in recorded, to be protected as page tables are.
fn lay_types<M: Machine, F: Frames>(ground: &Ground<M, F>) -> Result<(), Error> {
    let mut own = EarlyPtps::<M::Format>::new();
    let types = Types::new(ground.machine(), ground.frames(), |start, pages| {
        ground.record_foreign(start, pages)?;
        own.record(start, pages)
    })?;
    ground.machine().anchor().lay(types);
    let section = ground.section(Space::Linear);
    own.iter().try_for_each(|(start, pages)| {
        section.retype(start, pages, FrameType::Data, FrameType::Guarded)
    })
}

fn allocator<M: Machine, F: Frames>(pool: &Option<Pool<M::Format>>) -> &dyn PtpAllocator<M, F> {
    match pool {
        Some(pool) => pool,
        None => &PerPage,
    }
}

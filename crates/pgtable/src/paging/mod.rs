//! The whole: a kernel's page tables, their roots, and how protection is turned on.
//!
//! | module | concept |
//! |---|---|
//! | `tables` | finding the table that translates an address, and linking those that are missing |
//! | `build` | the linear map, as a kernel starts with it |
//! | `later` | memory that comes once the kernel runs |

mod build;
mod later;
mod tables;

use core::panic::Location;
use core::sync::atomic::{AtomicU32, Ordering};

use kpkeys::{Backend, Pkey, Scheme, context};
use spin::{Mutex, Once};

use crate::addr::{Level, PageRange, PhysAddr, VirtAddr};
use crate::alias::Alias;
use crate::entry::{Format, own_half, root_address};
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

/// How many kernels' tables were made: each has a number, by which roots of one are told from roots of another.
static TABLES: AtomicU32 = AtomicU32::new(0);

/// The root table of an address space.
#[derive(Debug)]
pub struct Root {
    frame: PhysAddr,
    /// The number of the tables that it is a root of.
    of: u32,
    space: Space,
    /// Serialises the linking of tables; entries of linked tables need no lock here.
    link: Mutex<()>,
}

impl Root {
    fn new(frame: PhysAddr, of: u32, space: Space) -> Root {
        Root { frame, of, space, link: Mutex::new(()) }
    }

    /// Whether the root translates this address: it is canonical, and in the root's half.
    #[inline(always)]
    pub(crate) fn is_for<F: Format>(&self, va: VirtAddr) -> bool {
        let in_kernels = matches!(self.space, Space::Kernel | Space::Linear);
        va.is_canonical::<F>() && va.is_kernel() == in_kernels
    }

    /// What the root register is loaded with.
    pub fn frame(&self) -> PhysAddr {
        self.frame
    }

    /// Where that is kept. For attacks.
    pub fn frame_address(&self) -> VirtAddr {
        VirtAddr(core::ptr::from_ref(&self.frame).addr() as u64)
    }

    /// Whose tables these are.
    pub fn space(&self) -> Space {
        self.space
    }
}

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
        let number = TABLES.fetch_add(1, Ordering::Relaxed);
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

    /// Turns protection on: protects every page-table page made so far, and from now on each new one. Does nothing in mode
    /// `off`. Every CPU's backend must be initialised. Under [`Scheme::Alias`] every CPU must be on these tables, since page tables
    /// are stored through their alias from here on, and no other operation may be going on.
    ///
    /// # Errors
    ///
    /// Why some page could not be protected. Protection must not be claimed then. [`Error::OutsideLinearMap`] if the linear map does not
    /// map a recorded page, [`Error::CpuOpen`] if this CPU is not outside of windows: nothing is changed then.
    pub fn enable_protection(&self) -> Result<(), Error> {
        if !self.ground.mode().protects() || self.is_protected() {
            return Ok(());
        }
        if !self.machine().backend().is_in::<context::Default>() {
            return Err(Error::CpuOpen);
        }
        self.refuse_holes_recorded()?;
        if self.ground.linear().alias().is_some() {
            return self.enable_alias();
        }
        self.ptps().enable_protection(&self.ground)?;
        if let Some(pool) = self.user_ptps() {
            pool.enable_protection(&self.ground)?;
        }
        self.ground.set_protected();
        for early in [self.ground.early(), self.ground.foreign()] {
            for (start, pages) in early.iter() {
                self.protect_recorded(start, pages)?;
            }
        }
        Ok(())
    }

    /// Gives recorded pages their key: one, or each its own.
    fn protect_recorded(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if !self.separates_user_tables() {
            return self.set_memory_pkey(start, pages, Pkey::PAGE_TABLES);
        }
        let mut frames = (0..pages as u64).map(|page| start.offset(page * M::Format::PAGE_SIZE));
        let class_of = |frame: &PhysAddr| self.ground.class_of_frame(*frame);
        let mut next = frames.next();
        while let Some(first) = next {
            let class = class_of(&first);
            let mut alike = 1;
            next = frames.next();
            while next.as_ref().is_some_and(|frame| class_of(frame) == class) {
                alike += 1;
                next = frames.next();
            }
            self.set_memory_pkey(first, alike, class.key())?;
        }
        Ok(())
    }

    /// First every page gets its alias, while all are still writable in the linear map, then stores take that way, then the linear
    /// map becomes read-only: the tables that are changed are among the pages they are changed for.
    fn enable_alias(&self) -> Result<(), Error> {
        self.for_each_recorded(|start, pages, reserve| {
            self.ground.map_alias(start, pages, reserve)
        })?;
        self.ptps().map_aliases(&self.ground)?;
        self.ground.store_through_alias();
        self.ground.set_protected();
        self.ptps().enable_protection(&self.ground)?;
        self.for_each_recorded(|start, pages, reserve| {
            self.ground.protect(start, pages, Class::Kernel, reserve)
        })
    }

    /// Refuses records of pages that the linear map does not map any more: protecting them would be a claim about nothing.
    fn refuse_holes_recorded(&self) -> Result<(), Error> {
        [self.ground.early(), self.ground.foreign()].iter().flat_map(EarlyPtps::iter).try_for_each(
            |(start, pages)| {
                self.ground.linear().mapped_range(self.machine(), start, pages).map(|_| ())
            },
        )
    }

    /// Passes recorded pages, those in the same 2 MiB together, with a reserve for them.
    fn for_each_recorded(
        &self,
        mut f: impl FnMut(PhysAddr, usize, &mut Reserve) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for record in [self.ground.early(), self.ground.foreign()] {
            for (start, pages) in record.iter() {
                let range = self.ground.linear().range(start, pages)?;
                for piece in range.by_table(Level::Pte) {
                    let start = start.offset(piece.start().0 - range.start().0);
                    match &self.pool {
                        None => f(start, piece.pages(), &mut Reserve::new()),
                        Some(pool) => pool
                            .with_reserve(&self.ground, |reserve| f(start, piece.pages(), reserve)),
                    }?;
                }
            }
        }
        Ok(())
    }

    /// Records page-table pages that this library did not allocate, such as static ones in the kernel image, for
    /// [`enable_protection`](Self::enable_protection) to key. They must be in the linear map, and are page-table pages for ever,
    /// whether or not they are linked into these tables: tables that CPUs start on stay worth attacking.
    ///
    /// # Errors
    ///
    /// [`Error::EarlyRecordFull`]: the pages would stay unprotected. [`Error::OutsideLinearMap`].
    pub fn record_early_ptps(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.record(start, pages, FrameType::Early)
    }

    /// Records pages that settled during the kernel's start, and are to be protected as page tables are from
    /// [`enable_protection`](Self::enable_protection) on.
    ///
    /// # Errors
    ///
    /// As [`record_early_ptps`](Self::record_early_ptps).
    pub fn record_settled(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.record(start, pages, FrameType::Guarded)
    }

    fn record(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        self.ground.linear().mapped_range(self.machine(), start, pages)?;
        if self.is_protected() {
            return Err(Error::TooLate(start));
        }
        self.ground.record_foreign(start, pages)?;
        self.say(start, pages, is)
    }

    /// Says what frames are that this library did not allocate, in modes that check: the kernel's code and constants, and what is no RAM. What
    /// is not said to be anything is data.
    ///
    /// # Errors
    ///
    /// [`Error::TooLate`] once protection is on, [`Error::Violation`] if they are something else than data already, [`Error::NotSaid`] for a type that only this library gives: a table's,
    /// or one that becomes a table.
    #[track_caller]
    pub fn type_frames(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        use FrameType::{Constants, KernelData, NotRam, Text};
        if !matches!(is, Text | Constants | KernelData | NotRam) {
            return Err(Error::NotSaid(is));
        }
        self.say(start, pages, is)
    }

    #[track_caller]
    fn say(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        if self.is_protected() {
            return Err(Error::TooLate(start));
        }
        // The kernel has mapped its image before it says what is where.
        self.building().retype(start, pages, FrameType::Mapped, is)
    }

    /// What every frame is, in modes that check.
    #[inline(always)]
    pub fn types(&self) -> Option<&Types<M::Format>> {
        self.machine().anchor().get()
    }

    /// Looks at every table to find out which data no entry maps any more, in modes that check: only such data can become a page table. This
    /// is done by itself when the pool meets data that may be mapped; a kernel that is idle can do it ahead.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the machine cannot [wait for gates](Machine::wait_for_gates), or there were four million sweeps.
    pub fn sweep(&self) -> Result<(), Error> {
        self.types().map_or(Ok(()), |types| self.ground.section(Space::Linear).sweep(types))
    }

    /// How many spare pages the calling CPU has, and where that is kept, if there is a pool. For attacks.
    pub fn spares_of_this_cpu(&self) -> Option<(usize, VirtAddr)> {
        self.pool.as_ref().map(|pool| pool.spares_of_this_cpu(self.machine()))
    }

    /// The spare page that the calling CPU hands out next, and where that is kept, if there is a pool and a page. For attacks.
    pub fn next_spare_of_this_cpu(&self) -> Option<(PhysAddr, VirtAddr)> {
        self.pool.as_ref().and_then(|pool| pool.next_of_this_cpu(self.machine()))
    }

    /// Where it is kept whether protection is on. For attacks.
    pub fn protected_address(&self) -> *const u8 {
        self.ground.protected_address()
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
        self.ground.refuse_protected(start, pages, key)?;
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

    /// Whether page-table pages carry their key by now.
    pub fn is_protected(&self) -> bool {
        self.ground.is_protected()
    }

    /// The kernel's root.
    pub fn kernel(&self) -> &Root {
        &self.kernel
    }

    /// Begins an operation on the tables of an address space, on the calling CPU.
    #[inline(always)]
    pub fn section(&self, root: &Root) -> Section<'_, M> {
        self.ground.section(root.space)
    }

    /// Whether a root is one of these tables'.
    #[inline(always)]
    pub(crate) fn has(&self, root: &Root) -> bool {
        root.of == self.kernel.of
    }

    /// Whether a section has begun on these tables.
    #[inline(always)]
    pub(crate) fn has_begun(&self, section: &Section<'_, M>) -> bool {
        core::ptr::eq(section.machine(), self.machine())
    }

    /// Makes the root of a new user address space. Where user roots hold the kernel's half (x86-64), that is copied, but for an alias: kernel
    /// entries of the root must not change from then on, so link all tables below them first with
    /// [`link_kernel_half`](Self::link_kernel_half).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Foreign`] for a section of other tables.
    pub fn new_user_root(&self, section: &Section<'_, M>) -> Result<Root, Error> {
        if !self.has_begun(section) {
            return Err(Error::Foreign(VirtAddr(0)));
        }
        self.check_kernel_root()?;
        let page = self.allocate(section, M::Format::ROOT, Kind::of_root(Space::User))?;
        if M::Format::USER_ROOT_HAS_KERNEL_HALF {
            self.copy_kernel_half(section, page.table(self.machine()));
        }
        Ok(Root::new(section.found_root(page, Space::User)?, self.kernel.of, Space::User))
    }

    /// Makes a second root for the kernel's half, without the alias: what programs run on where that half has a root register of its own and the
    /// CPU does not keep them out of it (arm64 without E0PD). Once, during start: a second call returns the first one's. Kernel entries of the root must not change from then on, as for
    /// [`new_user_root`](Self::new_user_root).
    ///
    /// # Errors
    ///
    /// [`Error::AliasMisplaced`] if its root entries are not its own, [`Error::OutOfMemory`].
    pub fn make_programs_kernel_root(&self) -> Result<&Root, Error> {
        if self.alias().is_some_and(|alias| !alias.has_own_root_entries()) {
            return Err(Error::AliasMisplaced(self.machine().alias()));
        }
        if let Some(made) = self.programs_kernel.get() {
            return Ok(made);
        }
        let section = self.section(&self.kernel);
        let page = self.allocate(&section, M::Format::ROOT, Kind::of_root(Space::Kernel))?;
        self.copy_kernel_half(&section, page.table(self.machine()));
        let root = section.found_root(page, Space::Kernel)?;
        let root = Root::new(root, self.kernel.of, Space::Kernel);
        Ok(self.programs_kernel.call_once(|| root))
    }

    /// That root, if it was made.
    pub fn programs_kernel_root(&self) -> Option<&Root> {
        self.programs_kernel.get()
    }

    /// The root of an alias that is translated in windows alone, if it is that: what opening a window loads, and nothing else may.
    pub fn window_root(&self) -> Option<&Root> {
        self.window.as_ref()
    }

    /// The root that translates the alias, if there is one.
    pub fn alias_root(&self) -> &Root {
        self.window.as_ref().unwrap_or(&self.kernel)
    }

    /// Copies the kernel's half to a new root, but for the alias.
    fn copy_kernel_half(&self, section: &Section<'_, M>, to: Table<'_, M::Format>) {
        let kernel = self.table(self.kernel.frame);
        for i in own_half::<M::Format>(true).filter(|&i| self.is_for_every_root(i)) {
            let entry = kernel.slot(i).load();
            if !entry.is_empty() {
                section.set_upper(to.slot(i), entry);
            }
        }
    }

    /// Whether an entry of the kernel's root may be in an address space's: those of the alias may not, which is user memory to programs.
    pub(crate) fn is_for_every_root(&self, index: usize) -> bool {
        let first = VirtAddr(root_address::<M::Format>(index, true));
        self.alias().is_none_or(|alias| !alias.owns_root_entry_of(first))
    }

    /// Whether the kernel's root, of which every address space has a part on some machines, is one by its type.
    #[track_caller]
    fn check_kernel_root(&self) -> Result<(), Error> {
        let Some(types) = self.types() else { return Ok(()) };
        let (section, slot) = (self.section(&self.kernel), self.root_table(&self.kernel).slot(0));
        section
            .check_table(types, slot, M::Format::ROOT, Location::caller())
            .inspect_err(|_| section.report())
    }

    /// Ends a user address space whose tables are all unlinked: flushes it from every TLB and releases its root.
    ///
    /// A frame that is no root in use, by its type, is left alone, and so is a root of other tables.
    pub fn release_user_root(&self, root: Root) {
        if !self.has(&root) {
            return;
        }
        let retired = self.section(&root).retire_root(root.frame, root.space);
        self.flush(Flush::AddressSpace(root.frame));
        if retired.is_ok() {
            self.release(FlushedPtp::of_root(root.frame));
        }
    }

    /// Links a table below each root entry that translates part of a kernel range, so that root entries never change later.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn link_kernel_half(&self, range: PageRange<M::Format>) -> Result<(), Error> {
        let section = self.section(&self.kernel);
        for piece in range.by_table(Level::Pud) {
            self.table_for(&section, &self.kernel, piece.start(), Level::Pud)?;
        }
        Ok(())
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

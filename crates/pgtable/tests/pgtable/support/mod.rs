//! A system under test: page tables on the guarded arena, where a store outside a window is SIGSEGV, with the raw view of memory
//! that tests use to look at tables and to play the attacker.

pub mod attacked;
pub mod frames;
pub mod protection;
pub mod victim;

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use kpkeys_hosted::arena::{Arena, HOST_PAGE};
use kpkeys_hosted::mmu::{Fault, Mmu};
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_hosted::{Counter, Counts, Hosted, HostedFormat};
use kpkeys_pgtable::check::{self, Finding, Scratch};
use kpkeys_pgtable::range::By;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Event, Flush, Level, Machine, Mode, PageRange, Paging, PhysAddr,
    Root, VirtAddr,
};

pub use frames::Scarce;
pub use protection::{Aliased, InWindows, Keys, MachineOf, Protection, RegisterOf, Separate};

/// Pages in 16 MiB, the memory of most tests.
pub const SMALL: usize = 16 << 8;
/// Pages in 2 GiB, for tests of 1 GiB blocks. Memory that is not touched costs nothing.
pub const LARGE: usize = 2 << 18;
/// An address for kernel mappings, aligned to 512 GiB.
pub const KERNEL: VirtAddr = VirtAddr(0xffff_c900_0000_0000);
/// An address for user mappings, aligned to 1 GiB.
pub const USER: VirtAddr = VirtAddr(0x5555_4000_0000);

/// Runs each test for both usual formats. What differs with the shape of tables is in `tests/shapes`, for all formats.
macro_rules! for_both_formats {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64>(); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64>(); })*
        }
    };
}

/// Runs each test for both usual formats and every way to protect page tables that they have; separate keys for one of them, since a test program
/// takes its time to compile.
macro_rules! for_both_formats_and_schemes {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64, $crate::support::Keys>(); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64, $crate::support::Keys>(); })*
        }
        mod x86_64_by_separate_keys {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64, $crate::support::Separate>(); })*
        }
        mod aarch64_by_alias {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64, $crate::support::Aliased>(); })*
        }
        mod aarch64_in_windows {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64, $crate::support::InWindows>(); })*
        }
        mod x86_64_by_alias {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64, $crate::support::Aliased>(); })*
        }
    };
}

/// Page tables on the guarded arena. For one thread.
pub struct System<F: HostedFormat, S: Protection = Keys> {
    pub paging: Paging<MachineOf<F, S>, Scarce<F>>,
    arena: Arc<Arena>,
    pub register: RegisterOf<F, S>,
}

/// Where the entry that translates an address is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub table: PhysAddr,
    pub index: usize,
    pub level: Level,
    pub entry: Entry,
}

/// Every possible configuration, the baseline first. One without pool over blocks is refused where it protects.
pub fn configs() -> impl Iterator<Item = Config> {
    Mode::ALL.into_iter().flat_map(|mode| {
        [Level::Pte, Level::Pmd, Level::Pud].into_iter().flat_map(move |linear| {
            [false, true].into_iter().filter_map(move |pool| {
                let possible = pool || linear == Level::Pte || !mode.protects();
                possible.then_some(Config { mode, linear, pool })
            })
        })
    })
}

/// Configurations that protect.
pub fn protecting_configs() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.protects())
}

/// A change of leaves that no kernel asks for.
pub fn by<C: Fn(Entry) -> Entry>(change: C) -> By<C> {
    // SAFETY: the tests' machine is a process, whose tables nothing translates by.
    unsafe { By::new(change) }
}

pub fn pages<F: HostedFormat>(start: VirtAddr, pages: usize) -> PageRange<F> {
    PageRange::new(start, pages).expect("a range of whole pages in one half")
}

impl<F: HostedFormat, S: Protection> System<F, S> {
    /// Boots with protection on.
    pub fn boot(config: Config, pages: usize) -> Self {
        let system = Self::build(config, pages);
        system.enable_protection().expect("protection can be turned on");
        system
    }

    /// Turns protection on, for the arena too.
    pub fn enable_protection(&self) -> Result<(), Error> {
        self.paging.enable_protection()?;
        if self.paging.mode().protects() {
            S::seal(&self.arena);
        }
        Ok(())
    }

    /// The fault of a store to a page-table page by way of the linear map.
    pub fn fault(&self, table: PhysAddr) -> Fault {
        S::fault(&self.paging, table, self.linear_place(table).level)
    }

    /// Whether a frame is protected as a page-table page.
    pub fn protects(&self, frame: PhysAddr) -> bool {
        S::protects(&self.paging, frame)
    }

    /// Builds the tables; nothing is protected yet.
    pub fn build(config: Config, pages: usize) -> Self {
        Self::build_with(config, pages, |_| ())
            .expect("there is memory for the linear map's tables")
    }

    /// Boots with protection on, where violations are audited.
    pub fn boot_auditing(config: Config, pages: usize) -> Self {
        let system = Self::build_on(config, pages, |_| (), MachineOf::<F, S>::auditing);
        let system = system.expect("there is memory for the linear map's tables");
        system.enable_protection().expect("protection can be turned on");
        system
    }

    /// Builds the tables from frames that were prepared.
    pub fn build_with(
        config: Config,
        pages: usize,
        prepare: impl FnOnce(&Scarce<F>),
    ) -> Result<Self, Error> {
        Self::build_on(config, pages, prepare, |machine| machine)
    }

    fn build_on(
        config: Config,
        pages: usize,
        prepare: impl FnOnce(&Scarce<F>),
        machine: impl FnOnce(MachineOf<F, S>) -> MachineOf<F, S>,
    ) -> Result<Self, Error> {
        let pages = pages * (F::PAGE_SIZE as usize / HOST_PAGE);
        let arena = if config.mode.protects() { S::arena(pages) } else { Arena::new(pages) };
        let arena = Arc::new(arena.expect("the host gives the arena its addresses"));
        // Mode `off` has the same register, in the same default context, and no window: there it guards an arena that nobody uses.
        let guarded = if config.mode.protects() {
            arena.clone()
        } else {
            Arc::new(S::arena(1).expect("the host gives a page"))
        };
        let register = ArenaRegister::new(guarded);
        let backend = S::backend(register.clone());
        let hosted = Hosted::new(arena.clone(), backend, Counter::default(), 1);
        let machine = machine(S::machine(hosted));
        let frames = Scarce::new(machine.memory());
        prepare(&frames);
        let paging = Paging::new(machine, frames, config)?;
        Ok(System { paging, arena, register })
    }

    pub fn machine(&self) -> &MachineOf<F, S> {
        self.paging.machine()
    }

    pub fn counts(&self) -> Counts {
        self.machine().probe().read()
    }

    /// How often something was counted while `f` ran.
    pub fn counted<R>(&self, f: impl FnOnce() -> R) -> (Counts, R) {
        let before = self.counts();
        let result = f();
        (self.counts().since(&before), result)
    }

    pub fn new_user_root(&self) -> Root {
        let section = self.paging.section(self.paging.kernel());
        self.paging.new_user_root(&section).expect("there is a frame for a root")
    }

    /// Maps pages to consecutive frames.
    pub fn map(
        &self,
        root: &Root,
        range: PageRange<F>,
        attrs: Attrs,
        frame: PhysAddr,
    ) -> Result<(), Error> {
        let section = self.paging.section(root);
        self.paging.map(&section, root, range, attrs, |i| frame.offset(i as u64 * F::PAGE_SIZE))
    }

    /// Unmaps; returns how many entries were valid.
    pub fn unmap(&self, root: &Root, range: PageRange<F>) -> Result<usize, Error> {
        let mut unmapped = 0;
        let section = self.paging.section(root);
        self.paging.unmap(&section, root, range, |_, _, _| unmapped += 1)?;
        Ok(unmapped)
    }

    /// Unlinks the tables of a user range that was unmapped, and releases them after a flush. Returns how many.
    pub fn free_user_tables(&self, root: &Root, range: PageRange<F>) -> usize {
        let mut unlinked = Vec::new();
        {
            let section = self.paging.section(root);
            let end = VirtAddr(1 << F::HALF_BITS);

            // SAFETY: nobody else works on these tables.
            unsafe {
                self.paging
                    .free_tables(&section, root, range, VirtAddr(0), end, |ptp| unlinked.push(ptp))
            }
            .expect("the tables are empty");
        }
        let freed = unlinked.len();
        self.paging.flush_and_release(Flush::User(root.frame(), range), unlinked);
        freed
    }

    /// Ends an address space that had this one range mapped.
    pub fn end_user(&self, root: Root, range: PageRange<F>) {
        self.unmap(&root, range).expect("no block is cut");
        self.free_user_tables(&root, range);
        self.paging.release_user_root(root);
    }

    /// A block of data frames.
    pub fn data_block(&self, order: u8) -> PhysAddr {
        use kpkeys_pgtable::Frames;
        self.paging.frames().allocate(order).expect("there is memory for the test's data")
    }

    /// A CPU of the MMU model whose protection register is this system's, as it is now.
    pub fn mmu(&self, user: Option<&Root>) -> Mmu<'_, MachineOf<F, S>> {
        let kernel = self.paging.kernel().frame();
        let user = S::lower_root(&self.paging, &self.register, user.map(Root::frame));
        let mut mmu = Mmu::new(self.machine(), kernel, user, 0);
        mmu.cpu = S::cpu::<F>(&self.register);
        mmu
    }

    /// The linear map's address of a frame.
    pub fn linear(&self, frame: PhysAddr) -> VirtAddr {
        self.machine().memory().linear_address(frame)
    }

    /// An entry, read past all protection.
    pub fn read(&self, table: PhysAddr, index: usize) -> Entry {
        // SAFETY: `word` points into memory that lives as long as the machine.
        Entry(unsafe { self.word(table, index).read_volatile() })
    }

    /// Stores an entry past all protection, as DMA or a broken kernel would.
    pub fn plant(&self, table: PhysAddr, index: usize, entry: Entry) {
        // SAFETY: `word` points into memory that lives as long as the machine, through the view that is always writable; tests
        // of this system have one thread.
        unsafe { self.word(table, index).write_volatile(entry.0) }
    }

    fn word(&self, table: PhysAddr, index: usize) -> NonNull<u64> {
        assert!(
            index < F::ENTRIES && self.machine().memory().contains(table, 1),
            "{table:?} {index}"
        );
        // SAFETY: the index is below their number, so the word is in the frame, which is in the arena.
        unsafe { self.machine().data(table).cast::<u64>().add(index) }
    }

    /// Every table below and including a root, with its level.
    pub fn tables(&self, root: &Root) -> Vec<(Level, PhysAddr)> {
        let mut tables = vec![(F::ROOT, root.frame())];
        let mut next = 0;
        while let Some(&(level, table)) = tables.get(next) {
            for index in 0..F::ENTRIES {
                let entry = self.read(table, index);
                if let Some(below) = level.below()
                    && F::is_table(level, entry)
                {
                    tables.push((below, F::frame(level, entry)));
                }
            }
            next += 1;
        }
        tables
    }

    /// Every entry that is not empty, of every table of a root: equal before and after means that nothing was stored.
    pub fn entries(&self, root: &Root) -> BTreeMap<(PhysAddr, usize), Entry> {
        self.tables(root)
            .into_iter()
            .flat_map(|(_, table)| (0..F::ENTRIES).map(move |index| (table, index)))
            .map(|place| (place, self.read(place.0, place.1)))
            .filter(|(_, entry)| !entry.is_empty())
            .collect()
    }

    /// The valid leaf or empty place where the walk for an address ends.
    pub fn place(&self, root: &Root, va: VirtAddr) -> Place {
        let (mut table, mut level) = (root.frame(), F::ROOT);
        loop {
            let index = va.index::<F>(level);
            let entry = self.read(table, index);
            match level.below() {
                Some(below) if F::is_table(level, entry) => {
                    table = F::frame(level, entry);
                    level = below;
                }
                _ => return Place { table, index, level, entry },
            }
        }
    }

    /// The entry that keeps a frame's key.
    pub fn linear_place(&self, frame: PhysAddr) -> Place {
        self.place(self.paging.kernel(), self.linear(frame))
    }

    /// Everything the checker finds.
    pub fn findings(&self, users: &[&Root]) -> Vec<Finding> {
        let mut scratch = vec![0; Scratch::words(&self.machine().memory())];
        let mut findings = Vec::new();
        let report =
            check::check(&self.paging, users, Scratch::new(&mut scratch), |f| findings.push(f));
        let report = report.expect("the scratch memory is large enough");
        assert_eq!(report.findings, findings.len(), "the report counts what it passes on");
        findings
    }

    pub fn assert_clean(&self, users: &[&Root]) {
        assert_eq!(self.findings(users), [], "{} {:?}", F::NAME, self.paging.mode());
    }

    /// Counted events, for comparing with numbers worked out by hand.
    pub fn count_of(&self, event: Event) -> u64 {
        self.counts().of(event)
    }
}

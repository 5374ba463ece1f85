//! A machine in this process whose tables are the wrapped crate's: behind windows, or bare.
#![allow(dead_code, unused_macros, reason = "each test uses a part of it")]

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{
    Constraints, El1And0, MemoryRegion, PAGE_SIZE, PageTable, Translation, VaRange,
};
use kpkeys::encoding::Por;
use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys::pan::Pan;
use kpkeys::{Backend, Pkey};
use kpkeys_aarch64_paging::{Layout, Pool, Tables, Views};
use kpkeys_hosted::Hosted;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::{ALIAS_START, LINEAR_START, MEMORY_START};
use kpkeys_hosted::mmu::{Cpu, Fault, Mmu};
use kpkeys_hosted::register::{ArenaRegister, Opens, PanFlag};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Level, NoProbe, PhysAddr, VirtAddr};

/// As careless as may be: writable, and executable too.
pub const NORMAL: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ATTRIBUTE_INDEX_1)
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED);
pub const USER: El1Attributes = NORMAL.union(El1Attributes::USER).union(El1Attributes::NON_GLOBAL);
pub const NO_CONSTRAINTS: Constraints = Constraints::empty();

/// 16 MiB.
pub const MEMORY_PAGES: usize = 4096;
pub const MEMORY: PhysicalAddress = PhysicalAddress(MEMORY_START.0 as usize);
/// Table memory: not a whole number of blocks, so that it shares blocks of the linear map with data.
const TABLES_AT: usize = 520;

pub type Attributes = El1Attributes;

/// What stands before the machine's protection register and counts windows.
#[derive(Clone, Debug)]
pub struct Counted<E> {
    register: ArenaRegister<E>,
    opened: Arc<AtomicU64>,
}

impl<E> Counted<E> {
    pub fn inner(&self) -> &ArenaRegister<E> {
        &self.register
    }
}

// SAFETY: the register inside keeps the contract; counting changes nothing of it.
unsafe impl<E: Opens> Register for Counted<E> {
    const NEEDS_BARRIER: bool = false;

    fn read(&self) -> u64 {
        self.register.read()
    }

    fn write(&self, value: Value) {
        if E::opens(value.bits()) {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        self.register.write(value);
    }

    fn synchronize(&self) {}
}

/// A way to protect tables.
pub trait Protection: Sized + 'static {
    type Values: Opens + Clone + 'static;
    type Backend: Backend + Clone + Sync + 'static;

    const ALIASED: bool;

    fn arena() -> Arena;
    fn backend(register: Counted<Self::Values>) -> Self::Backend;
    /// The CPU of the model, by what the register holds.
    fn cpu(register: u64) -> Cpu;
    /// The fault of a store by the linear map, whose leaf is at a level.
    fn fault(level: Level) -> Fault;
}

/// By the key of the linear map.
pub struct Keys;

impl Protection for Keys {
    type Values = Por;
    type Backend = Keyed<Counted<Por>, Por>;

    const ALIASED: bool = false;

    fn arena() -> Arena {
        Arena::guarded(MEMORY_PAGES).expect("memory")
    }

    fn backend(register: Counted<Por>) -> Self::Backend {
        let backend = Keyed::new(register);
        backend.reset();
        backend
    }

    fn cpu(register: u64) -> Cpu {
        Cpu::new(register)
    }

    fn fault(_level: Level) -> Fault {
        Fault::Key(Pkey::PAGE_TABLES)
    }
}

/// By an alias.
pub struct Aliased;

impl Protection for Aliased {
    type Values = PanFlag;
    type Backend = Pan<Counted<PanFlag>>;

    const ALIASED: bool = true;

    fn arena() -> Arena {
        Arena::aliased(MEMORY_PAGES).expect("memory")
    }

    fn backend(register: Counted<PanFlag>) -> Self::Backend {
        let backend = Pan::new(register);
        backend.reset();
        backend
    }

    fn cpu(register: u64) -> Cpu {
        // Without overlays every key allows everything.
        Cpu { pan: !PanFlag::opens(register), e0pd: true, ..Cpu::new(0x7777_7777) }
    }

    fn fault(level: Level) -> Fault {
        Fault::Permission(level)
    }
}

/// A machine with a pool.
pub struct System<S: Protection> {
    pub arena: Arc<Arena>,
    pub register: Counted<S::Values>,
    pub pool: Pool<S::Backend>,
    machine: Hosted<Aarch64, S::Backend, NoProbe>,
}

impl<S: Protection> System<S> {
    /// With this many pages of table memory, and none of it protected yet.
    pub fn new(pages: usize) -> Self {
        let arena = Arc::new(S::arena());
        let opened = Arc::new(AtomicU64::new(0));
        let register = Counted { register: ArenaRegister::new(arena.clone()), opened };
        let backend = S::backend(register.clone());
        // SAFETY: the arena lives as long as the system, its views have all of it, and only tests of one thread use it; the backend
        // is that of its one CPU.
        let pool = unsafe { Pool::through(layout(pages), views(&arena), backend.clone()) };
        let machine = Hosted::new(arena.clone(), backend, NoProbe, 1);
        System { arena, register, pool: pool.expect("a fit layout"), machine }
    }

    /// Tables of the kernel: all memory in the linear map, and the alias.
    pub fn kernel(&self) -> Tables<'_, S::Backend> {
        let mut kernel = Tables::new(&self.pool, 0, 0, VaRange::Upper).expect("room for a root");
        kernel.map_range(&linear(0..MEMORY_PAGES), MEMORY, NORMAL, NO_CONSTRAINTS).expect("mapped");
        kernel.map_alias(NORMAL).expect("mapped");
        kernel
    }

    /// The same, with protection turned on.
    pub fn protected(&self) -> Tables<'_, S::Backend> {
        let kernel = self.kernel();
        kernel.mark_active();
        // SAFETY: the model's CPU is given these tables, and it has no TLB.
        unsafe { self.pool.protect() }.expect("the checklist is met");
        self.seal();
        kernel
    }

    /// Empty tables of a program.
    pub fn user(&self) -> Tables<'_, S::Backend> {
        Tables::new(&self.pool, 1, 0, VaRange::Lower).expect("room for a root")
    }

    fn seal(&self) {
        if S::ALIASED {
            self.arena.seal();
        }
    }

    /// How many windows were opened so far.
    pub fn windows(&self) -> u64 {
        self.register.opened.load(Ordering::Relaxed)
    }

    /// A CPU of the model with these tables of the kernel, as the register is now.
    pub fn mmu(&self, root: PhysicalAddress) -> Mmu<'_, Hosted<Aarch64, S::Backend, NoProbe>> {
        let mut mmu = Mmu::new(&self.machine, PhysAddr(root.0 as u64), None, 0);
        mmu.cpu = S::cpu(self.register.read());
        mmu
    }

    /// A word of memory, read past all protection.
    pub fn read(&self, frame: PhysicalAddress, index: usize) -> u64 {
        // SAFETY: an aligned word of the arena's view that is always there.
        unsafe { word(&self.arena, frame, index).read_volatile() }
    }

    /// Stores a word past all protection.
    pub fn plant(&self, frame: PhysicalAddress, index: usize, value: u64) {
        // SAFETY: as for `read`; the view is always writable.
        unsafe { word(&self.arena, frame, index).write_volatile(value) }
    }

    /// Every page of table memory.
    pub fn table_pages(&self) -> impl Iterator<Item = PhysicalAddress> + use<S> {
        let layout = *self.pool.layout();
        (0..layout.pages).map(move |page| layout.start + page * PAGE_SIZE)
    }

    /// All of table memory.
    pub fn contents(&self) -> Vec<u64> {
        let words = self.table_pages().flat_map(|page| (0..512).map(move |index| (page, index)));
        words.map(|(page, index)| self.read(page, index)).collect()
    }

    /// Every page of table memory of the tables, roots first.
    pub fn tables_of(&self, tables: &Tables<'_, S::Backend>) -> Vec<PhysicalAddress> {
        let mut found = vec![(tables.root_address(), 0)];
        let mut next = 0;
        while let Some(&(table, level)) = found.get(next) {
            let entries = (0..512).map(|index| self.read(table, index) as usize);
            let lower = entries.filter(|entry| level < 3 && entry & 3 == 3);
            found.extend(lower.map(|entry| (PhysicalAddress(entry & 0xffff_ffff_f000), level + 1)));
            next += 1;
        }
        found.into_iter().map(|(table, _)| table).collect()
    }
}

fn word(arena: &Arena, frame: PhysicalAddress, index: usize) -> *mut u64 {
    assert!(index < 512 && frame.0 - MEMORY.0 < MEMORY_PAGES * PAGE_SIZE);
    arena.data().as_ptr().wrapping_add(frame.0 - MEMORY.0).cast::<u64>().wrapping_add(index)
}

/// The layout of this many pages of table memory.
pub fn layout(pages: usize) -> Layout {
    Layout {
        start: MEMORY + TABLES_AT * PAGE_SIZE,
        pages,
        linear: VirtualAddress(LINEAR_START.0 as usize + TABLES_AT * PAGE_SIZE),
        alias: Some(VirtualAddress(ALIAS_START.0 as usize + TABLES_AT * PAGE_SIZE)),
    }
}

/// Where this process has it.
pub fn views(arena: &Arena) -> Views {
    let at = |view: NonNull<u8>| view.as_ptr().wrapping_add(TABLES_AT * PAGE_SIZE);
    Views { linear: at(arena.tables()), alias: at(arena.alias()) }
}

/// Pages of memory, in the linear map.
pub fn linear(pages: std::ops::Range<usize>) -> MemoryRegion {
    let at = |page: usize| LINEAR_START.0 as usize + page * PAGE_SIZE;
    MemoryRegion::new(at(pages.start), at(pages.end))
}

/// The linear map's address of a word of a frame.
pub fn linear_address(frame: PhysicalAddress, index: u64) -> VirtAddr {
    LINEAR_START.offset((frame.0 - MEMORY.0) as u64 + index * 8)
}

/// The alias of it.
pub fn alias_address(frame: PhysicalAddress, index: u64) -> VirtAddr {
    ALIAS_START.offset((frame.0 - MEMORY.0) as u64 + index * 8)
}

pub fn pages(va: usize, pages: usize) -> MemoryRegion {
    MemoryRegion::new(va, va + pages * PAGE_SIZE)
}

/// Tables of the wrapped crate by itself, in ordinary memory.
pub type Bare = Mapping<Heap, El1And0>;

/// Tables on the heap, where an address is physical and virtual alike.
#[derive(Default)]
pub struct Heap {
    live: RefCell<Vec<NonNull<PageTable<El1Attributes>>>>,
}

impl Heap {
    pub fn tables(&self) -> usize {
        self.live.borrow().len()
    }
}

impl Translation<El1Attributes> for Heap {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let table = NonNull::from(Box::leak(Box::new(PageTable::EMPTY)));
        self.live.borrow_mut().push(table);
        (table, PhysicalAddress(table.addr().get()))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        self.live.borrow_mut().retain(|&live| live != table);
        // SAFETY: it was leaked by `allocate_table`, and the wrapped crate is done with it.
        drop(unsafe { Box::from_raw(table.as_ptr()) });
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        let table = self.live.borrow().iter().copied().find(|table| table.addr().get() == pa.0);
        table.expect("a table of these")
    }
}

/// Empty ones.
pub fn bare(asid: usize, half: VaRange) -> Bare {
    Mapping::with_asid_and_va_range(Heap::default(), asid, 0, El1And0, half)
}

/// The same tests by key and by alias.
macro_rules! for_both {
    ($($name:ident),* $(,)?) => {
        mod keys {
            $(#[test] fn $name() { super::$name::<crate::support::Keys>(); })*
        }
        mod aliased {
            $(#[test] fn $name() { super::$name::<crate::support::Aliased>(); })*
        }
    };
}

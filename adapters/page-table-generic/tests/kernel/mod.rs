//! A kernel that keeps x86-64 tables by `page-table-generic`, first as it is, then hardened.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../../../x86_64/tests/support/mod.rs"]
pub mod support;

mod pte;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::Register;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_hosted::mmu::Fault;
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_page_table_generic::{HardenedPageTable, adopt};
use kpkeys_x86_64::{LinearMap, Machine, Protection};
use page_table_generic::{FrameAllocator, MapConfig, PageTable, PhysAddr, TableMeta, VirtAddr};
use pte::Pte;
use support::{Counts, Frames, Model, OFFSET, PAGES, TestMachine};
use x86_64::structures::paging::{self, FrameDeallocator, PhysFrame};

/// Kernel data.
pub const DATA: u64 = 1 << 63 | 0b11;
pub const READ_ONLY: u64 = 1 << 63 | 0b01;
pub const START: usize = 0xffff_c900_0000_0000;
pub const SMALL: usize = 4096;
pub const HUGE: usize = SMALL << 9;
pub const GIANT: usize = HUGE << 9;

thread_local! {
    /// The register of the CPU that flushes, once it has one.
    static REGISTER: RefCell<Option<ArenaRegister<Pkrs>>> = const { RefCell::new(None) };
    static FLUSHED: RefCell<Vec<Option<VirtAddr>>> = const { RefCell::new(Vec::new()) };
}

/// Tables of four levels, whose flush must not be in a window.
#[derive(Clone, Copy)]
pub struct FourLevels;

impl TableMeta for FourLevels {
    type P = Pte;
    const PAGE_SIZE: usize = SMALL;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    fn flush(address: Option<VirtAddr>) {
        let is_open = |register: &ArenaRegister<Pkrs>| register.read() & 0b1000 == 0;
        assert!(!REGISTER.with_borrow(|register| register.as_ref().is_some_and(is_open)));
        FLUSHED.with_borrow_mut(|flushed| flushed.push(address));
    }
}

/// What the kernel has flushed on this thread since the last time.
pub fn flushed() -> Vec<Option<VirtAddr>> {
    FLUSHED.take()
}

/// The kernel's allocator, through a view of memory.
#[derive(Clone)]
pub struct Allocator {
    pub frames: Arc<Mutex<Frames>>,
    view: usize,
}

impl Allocator {
    pub fn new(arena: &Arc<Arena>) -> Allocator {
        let view = (arena.data().as_ptr() as usize).wrapping_sub(MEMORY_START.0 as usize);
        Allocator { frames: Arc::new(Mutex::new(Frames::of(arena))), view }
    }

    pub fn left(&self) -> usize {
        self.frames.lock().unwrap().left
    }

    pub fn leave(&self, frames: usize) {
        self.frames.lock().unwrap().left = frames;
    }
}

impl FrameAllocator for Allocator {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        let frame = paging::FrameAllocator::allocate_frame(&mut *self.frames.lock().unwrap())?;
        Some(PhysAddr::from_usize(frame.start_address().as_u64() as usize))
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        let frame = support::frame_of(frame.as_usize() as u64);
        // SAFETY: the crate, or the adapter, says so.
        unsafe { self.frames.lock().unwrap().deallocate_frame(frame) };
    }

    fn phys_to_virt(&self, frame: PhysAddr) -> *mut u8 {
        self.view.wrapping_add(frame.as_usize()) as *mut u8
    }
}

/// The machine under test, which stays on the thread of its test.
pub struct OneThread(TestMachine);

// SAFETY: a test uses its machine on its own thread; the wrapped crate's allocator must be sendable, whoever owns it.
unsafe impl Send for OneThread {}
// SAFETY: as above.
unsafe impl Sync for OneThread {}

// SAFETY: the machine's own promises.
unsafe impl Machine for OneThread {
    type Backend = <TestMachine as Machine>::Backend;

    fn backend(&self) -> &Self::Backend {
        self.0.backend()
    }

    fn flush_all(&self) {
        self.0.flush_all();
    }

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        self.0.without_interrupts(f)
    }
}

pub type BareTables = PageTable<FourLevels, Allocator>;
pub type Tables = HardenedPageTable<FourLevels, OneThread, LinearMap, Allocator>;
pub type TestProtection = Protection<OneThread, LinearMap>;

/// A kernel with the bare crate: memory mapped at its offset by small pages, nothing protected.
pub struct Bare {
    pub arena: Arc<Arena>,
    pub allocator: Allocator,
    pub tables: BareTables,
    model: Model,
}

impl Bare {
    pub fn new() -> Bare {
        REGISTER.set(None);
        let arena = Arc::new(Arena::guarded(PAGES as usize).expect("the host has memory"));
        let allocator = Allocator::new(&arena);
        let mut tables = BareTables::new(allocator.clone()).expect("memory is fresh");
        let linear = mapping(
            (OFFSET + MEMORY_START.0) as usize,
            MEMORY_START.0 as usize,
            PAGES as usize * SMALL,
        );
        tables.map(&linear).expect("an empty place");
        let model = support::model(&arena);
        Bare { arena, allocator, tables, model }
    }

    pub fn root(&self) -> PhysFrame {
        support::frame_of(self.tables.root_paddr().as_usize() as u64)
    }

    /// What the model says of a stray store, on a CPU that has keys: key 1 is not to be written.
    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        support::attack(&self.model, &self.arena, self.root(), 0b1000, table, index)
    }

    pub fn harden(self) -> Booted {
        let Bare { arena, allocator, tables, model } = self;
        let (register, counts) = (ArenaRegister::new(arena.clone()), Rc::<Counts>::default());
        let machine = OneThread(support::machine_of(register.clone(), counts.clone()));
        // SAFETY: the only tables, with their map.
        let adopted = unsafe { adopt(machine, support::linear_map(&arena), &tables, &allocator) };
        let protection: &TestProtection =
            Box::leak(Box::new(adopted.expect("plain tables are adopted")));
        // SAFETY: just adopted.
        let tables = unsafe { Tables::adopted(protection, tables, allocator.clone()) };
        REGISTER.set(Some(register.clone()));
        flushed();
        let booted = Booted { arena, allocator, protection, tables, model, register, counts };
        booted.cost();
        booted
    }
}

/// The same kernel, hardened.
pub struct Booted {
    pub arena: Arc<Arena>,
    pub allocator: Allocator,
    pub protection: &'static TestProtection,
    pub tables: Tables,
    model: Model,
    register: ArenaRegister<Pkrs>,
    counts: Rc<Counts>,
}

impl Booted {
    pub fn new() -> Booted {
        Bare::new().harden()
    }

    pub fn root(&self) -> PhysFrame {
        self.protection.root()
    }

    /// An address space.
    pub fn space(&self) -> Tables {
        // SAFETY: entries of x86-64; no CPU uses the root.
        unsafe { Tables::new(self.protection, self.allocator.clone()) }.expect("there is memory")
    }

    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        let register = self.register.read();
        support::attack(&self.model, &self.arena, self.root(), register, table, index)
    }

    /// Windows and flushes of every CPU since the last time.
    pub fn cost(&self) -> (usize, usize) {
        let (writes, flushes) = (self.counts.writes.take(), self.counts.flushes.take());
        assert_eq!(writes % 2, 0, "every window that was opened was closed");
        (writes / 2, flushes)
    }
}

/// A mapping of small pages.
pub fn mapping(at: usize, to: usize, size: usize) -> MapConfig<u64> {
    let (vaddr, paddr) = (VirtAddr::from_usize(at), PhysAddr::from_usize(to));
    MapConfig { vaddr, paddr, size, pte: DATA, allow_huge: false, flush: true }
}

pub fn at(page: usize) -> VirtAddr {
    VirtAddr::from_usize(START + page * SMALL)
}

pub fn device(page: usize) -> PhysAddr {
    PhysAddr::from_usize(0x80_0000_0000 + page * SMALL)
}

//! A kernel for each test: its memory and allocator in thread-locals, since the wrapped crate asks functions.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../../../x86_64/tests/support/mod.rs"]
pub mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::Register;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_hosted::mmu::Fault;
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_page_table_multiarch::{HardenedPageTable, Kernel};
use kpkeys_x86_64::{LinearMap, Protection};
use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::{MappingFlags, PagingHandler};
use support::{Counts, Frames, Model, OFFSET, PAGES, TestMachine};
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame};

pub const DATA: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
pub const START: usize = 0xffff_c900_0000_0000;

type TestProtection = Protection<TestMachine, LinearMap>;

thread_local! {
    static PROTECTION: Cell<Option<&'static TestProtection>> = const { Cell::new(None) };
    pub static FRAMES: RefCell<Option<Frames>> = const { RefCell::new(None) };
    static VIEW: Cell<usize> = const { Cell::new(0) };
}

/// The kernel.
pub struct TestKernel;
/// Its allocator.
pub struct Own;

pub type Tables = HardenedPageTable<TestKernel>;

impl Kernel for TestKernel {
    type Machine = TestMachine;
    type Linear = LinearMap;
    type Handler = Own;

    fn protection() -> Option<&'static TestProtection> {
        PROTECTION.get()
    }
}

impl PagingHandler for Own {
    fn alloc_frames(count: usize, _: usize) -> Option<PhysAddr> {
        assert_eq!(count, 1);
        let frame = with_frames(|frames| frames.allocate_frame())?;
        Some(PhysAddr::from_usize(frame.start_address().as_u64() as usize))
    }

    fn dealloc_frames(frame: PhysAddr, count: usize) {
        assert_eq!(count, 1);
        // SAFETY: the wrapped crate, or the adapter, says so.
        with_frames(|frames| unsafe {
            frames.deallocate_frame(support::frame_of(frame.as_usize() as u64))
        });
    }

    fn phys_to_virt(frame: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(VIEW.get().wrapping_add(frame.as_usize()))
    }
}

pub fn with_frames<R>(f: impl FnOnce(&mut Frames) -> R) -> R {
    FRAMES.with_borrow_mut(|frames| f(frames.as_mut().expect("the kernel has booted")))
}

/// A kernel that runs on this thread.
pub struct Booted {
    pub arena: Arc<Arena>,
    pub tables: Tables,
    model: Model,
    register: ArenaRegister<Pkrs>,
    counts: Rc<Counts>,
}

impl Booted {
    /// Memory mapped at its offset, nothing protected: tables are reached through the view that is always writable.
    pub fn new() -> Booted {
        let arena = Arc::new(Arena::guarded(PAGES as usize).expect("the host has memory"));
        PROTECTION.set(None);
        FRAMES.set(Some(Frames::of(&arena)));
        VIEW.set((arena.data().as_ptr() as usize).wrapping_sub(MEMORY_START.0 as usize));
        let mut tables = Tables::try_new().expect("memory is fresh");
        let linear = |at: VirtAddr| PhysAddr::from_usize(at.as_usize() - OFFSET as usize);
        let first = VirtAddr::from_usize((OFFSET + MEMORY_START.0) as usize);
        tables.map_region(first, linear, (PAGES * 4096) as usize, DATA).expect("an empty place");
        let (model, register) = (support::model(&arena), ArenaRegister::new(arena.clone()));
        Booted { arena, tables, model, register, counts: Rc::default() }
    }

    /// The same, protected: tables are reached through the view that windows open.
    pub fn hardened() -> Booted {
        let booted = Booted::new();
        booted.harden();
        booted
    }

    pub fn harden(&self) {
        VIEW.set((self.arena.tables().as_ptr() as usize).wrapping_sub(MEMORY_START.0 as usize));
        let machine = support::machine_of(self.register.clone(), self.counts.clone());
        // SAFETY: the only tables, with their map.
        let adopted = unsafe { self.tables.adopt(machine, support::linear_map(&self.arena)) };
        PROTECTION.set(Some(Box::leak(Box::new(adopted.expect("plain tables are adopted")))));
        self.counts.writes.set(0);
        self.counts.flushes.set(0);
    }

    pub fn protection(&self) -> &'static TestProtection {
        PROTECTION.get().expect("the kernel is hardened")
    }

    pub fn root(&self) -> PhysFrame {
        support::frame_of(self.tables.root_paddr().as_usize() as u64)
    }

    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        // Before, as of a CPU that has keys: key 1 is not to be written.
        let register = if PROTECTION.get().is_some() { self.register.read() } else { 0b1000 };
        support::attack(&self.model, &self.arena, self.root(), register, table, index)
    }

    /// Windows and flushes since the last time.
    pub fn cost(&self) -> (usize, usize) {
        let (writes, flushes) = (self.counts.writes.take(), self.counts.flushes.take());
        assert_eq!(writes % 2, 0, "every window that was opened was closed");
        (writes / 2, flushes)
    }
}

pub fn at(page: usize) -> VirtAddr {
    VirtAddr::from_usize(START + page * 4096)
}

pub fn device(page: usize) -> PhysAddr {
    PhysAddr::from_usize(0x80_0000_0000 + page * 4096)
}

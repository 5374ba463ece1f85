//! A firmware that keeps its tables by `patina_paging`, with memory mapped one to one, first as it is, then hardened.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../../../x86_64/tests/support/mod.rs"]
pub mod support;

use std::alloc::{Layout, alloc};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::Register;
use kpkeys::{Backend, Pkey, context};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_hosted::mmu::{Fault, Mmu, Privilege, Want};
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_patina_paging::{HardenedPageTable, adopt};
use kpkeys_x86_64::{AdoptError, LinearMap, Machine, Protection};
use patina_paging::page_allocator::PageAllocator;
use patina_paging::x64::X64PageTable;
use patina_paging::{MappedRegion, MemoryAttributes, PageTable, PagingType, PtError};
use support::{Counts, Frames, Model, PAGES, TestMachine, frame, frame_of, tables};
use x86_64::structures::paging::{FrameAllocator, PhysFrame};

pub const DATA: MemoryAttributes = MemoryAttributes::ExecuteProtect;
pub const READ_ONLY: MemoryAttributes = DATA.union(MemoryAttributes::ReadOnly);
pub const START: u64 = 0xffff_c900_0000_0000;
pub const SMALL: u64 = 4096;

type Shared = Arc<Mutex<Frames>>;

/// The firmware's allocator.
pub struct Pages(pub Shared);

impl PageAllocator for Pages {
    fn allocate_page(&mut self, _: u64, size: u64, _: bool) -> Result<u64, PtError> {
        assert_eq!(size, SMALL);
        let frame = self.0.lock().unwrap().allocate_frame();
        frame.map(|frame| frame.start_address().as_u64()).ok_or(PtError::OutOfResources)
    }
}

/// The allocator of the bare crate's twin: this process's memory, which is never freed.
pub struct HeapPages;

impl PageAllocator for HeapPages {
    fn allocate_page(&mut self, align: u64, size: u64, _: bool) -> Result<u64, PtError> {
        let layout = Layout::from_size_align(size as usize, align as usize).unwrap();
        // SAFETY: the layout is not empty.
        let page = unsafe { alloc(layout) };
        Ok(page.expose_provenance() as u64)
    }
}

impl Frames {
    pub fn next_free(&mut self) -> PhysFrame {
        self.allocate_frame().expect("there is memory")
    }
}

/// The machine's memory: there is one such range of addresses, and tests take turns.
static MEMORY: Mutex<Option<Arc<Arena>>> = Mutex::new(None);

type Turn = MutexGuard<'static, Option<Arc<Arena>>>;

/// A machine with the bare crate's tables.
pub struct Bare {
    pub arena: Arc<Arena>,
    frames: Shared,
    tables: Option<X64PageTable<Pages>>,
    root: PhysFrame,
    machine: TestMachine,
    counts: Rc<Counts>,
    register: ArenaRegister<Pkrs>,
    model: Model,
    memory: Turn,
}

impl Bare {
    /// Memory mapped one to one by small pages, as far as tables are concerned.
    pub fn new() -> Bare {
        let mut memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arena::guarded_at(MEMORY_START, PAGES as usize).expect("nothing is there");
        let arena = memory.get_or_insert_with(|| Arc::new(made())).clone();
        let counts = Rc::<Counts>::default();
        let register = ArenaRegister::new(arena.clone());
        let machine = support::machine_of(register.clone(), counts.clone());
        let frames = Arc::new(Mutex::new(Frames::of(&arena)));
        // SAFETY: nothing is protected yet: this process may write the tables, as the firmware may.
        unsafe { machine.backend().enter::<context::PageTables>() };
        let mut tables =
            X64PageTable::new(Pages(frames.clone()), PagingType::Paging4Level).unwrap();
        for page in 0..PAGES {
            // One by one: the crate would map blocks, which adoption would split all the same.
            let address = frame(page).start_address().as_u64();
            tables.map_memory_region(address, SMALL, DATA).expect("an empty place");
        }
        // The root is the first page that was allocated.
        let (root, model) = (frame(0), support::model(&arena));
        let tables = Some(tables);
        Bare { arena, frames, tables, root, machine, counts, register, model, memory }
    }

    pub fn root(&self) -> PhysFrame {
        self.root
    }

    pub fn map(&mut self, va: u64, pa: u64, size: u64, attributes: MemoryAttributes) {
        let tables = self.tables.as_mut().expect("the firmware runs");
        tables.map_aliased_memory_region(va, pa, size, attributes).expect("mapped");
    }

    /// Every table, but for the root once more that the map of itself is.
    pub fn tables(&self) -> Vec<(u8, PhysFrame)> {
        let map = support::read(&self.arena, self.root, 511);
        support::write(&self.arena, self.root, 511, 0);
        let all = tables(&self.arena, self.root);
        support::write(&self.arena, self.root, 511, map);
        // What is below the entry for zeroing goes, too.
        let zeroing = support::read(&self.arena, self.root, 510);
        let below = tables_below(&self.arena, frame_of(zeroing), 3);
        all.into_iter().filter(|table| !below.contains(&table.1)).collect()
    }

    /// Every word of every table of the root, but what is below the map of itself.
    pub fn contents(&self) -> BTreeMap<(u64, usize), u64> {
        let words = |table: PhysFrame| {
            let at = table.start_address().as_u64();
            (0..512).map(move |index| {
                ((at, index), support::read(&self.arena, table, index) & !(0xf << 59))
            })
        };
        self.tables().into_iter().flat_map(|table| words(table.1)).collect()
    }

    /// What the model says of a stray store, on a CPU that has keys: key 1 is not to be written.
    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        attack(&self.model, self.root, 0b1000, table, index)
    }

    pub fn attack_at(&self, address: u64) -> Result<(), Fault> {
        attack_at(&self.model, self.root, 0b1000, address)
    }

    pub fn harden(mut self) -> Result<Booted, (AdoptError, Box<Bare>)> {
        let root = self.tables.take().expect("the firmware runs").into_page_table_root();
        assert_eq!(root, self.root.start_address().as_u64());
        let memory = PhysFrame::range(frame(0), frame(PAGES - 1) + 1);
        let machine = support::machine_of(self.register.clone(), self.counts.clone());
        let pages = &mut Pages(self.frames.clone());
        // SAFETY: as in `new`, for the entries that go.
        unsafe { machine.backend().enter::<context::PageTables>() };
        let machine = Opening { machine, arena_is_open: true.into() };
        // SAFETY: the only tables, with memory one to one.
        match unsafe { adopt(machine, memory, root, pages) } {
            Ok(protection) => Ok(Booted::of(self, Box::leak(Box::new(protection)))),
            Err(error) => {
                let pages = Pages(self.frames.clone());
                // SAFETY: the firmware goes on with its tables.
                let tables =
                    unsafe { X64PageTable::from_existing(root, pages, PagingType::Paging4Level) };
                self.tables = Some(tables.unwrap());
                Err((error, Box::new(self)))
            }
        }
    }
}

/// A machine whose memory this process may write until the first flush, and again when adoption has failed: nothing carries a key then.
pub struct Opening {
    machine: TestMachine,
    arena_is_open: std::cell::Cell<bool>,
}

// SAFETY: the machine's own promises.
unsafe impl Machine for Opening {
    type Backend = <TestMachine as Machine>::Backend;

    fn backend(&self) -> &Self::Backend {
        self.machine.backend()
    }

    fn flush_all(&self) {
        if self.arena_is_open.replace(false) {
            self.machine.backend().reset();
        }
        self.machine.flush_all();
    }

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // SAFETY: nothing is protected.
        unsafe { self.machine.backend().enter::<context::PageTables>() };
    }
}

fn tables_below(arena: &Arena, table: PhysFrame, level: u8) -> Vec<PhysFrame> {
    let mut all = vec![table];
    for index in (0..512).filter(|_| level > 1) {
        let entry = support::read(arena, table, index);
        if entry & 1 != 0 {
            all.extend(tables_below(arena, frame_of(entry), level - 1));
        }
    }
    all
}

fn attack(
    model: &Model,
    root: PhysFrame,
    register: u64,
    table: PhysFrame,
    index: usize,
) -> Result<(), Fault> {
    attack_at(model, root, register, table.start_address().as_u64() + index as u64 * 8)
}

/// Whether the model lets a stray store through.
fn attack_at(model: &Model, root: PhysFrame, register: u64, address: u64) -> Result<(), Fault> {
    let root = kpkeys_pgtable::PhysAddr(root.start_address().as_u64());
    let mmu = Mmu::new(model, root, Some(root), register);
    mmu.access(kpkeys_pgtable::VirtAddr(address), Want::Write, Privilege::Kernel).map(drop)
}

/// The same machine, hardened.
pub struct Booted {
    pub arena: Arc<Arena>,
    pub protection: &'static Protection<Opening, LinearMap>,
    pub tables: HardenedPageTable<'static, Opening, Pages>,
    frames: Shared,
    counts: Rc<Counts>,
    register: ArenaRegister<Pkrs>,
    model: Model,
    memory: Turn,
}

impl Booted {
    pub fn new() -> Booted {
        Bare::new().harden().map_err(|(error, _)| error).expect("the crate's tables are adopted")
    }

    fn of(bare: Bare, protection: &'static Protection<Opening, LinearMap>) -> Booted {
        let Bare { arena, frames, counts, register, model, memory, .. } = bare;
        // SAFETY: just adopted.
        let tables = unsafe { HardenedPageTable::adopted(protection, Pages(frames.clone())) };
        let booted = Booted { arena, protection, tables, frames, counts, register, model, memory };
        assert_eq!(booted.register.read() >> 2 & 0b11, 0b10, "key {:?}", Pkey::PAGE_TABLES);
        booted.counts.writes.set(0);
        booted.counts.flushes.set(0);
        booted
    }

    pub fn root(&self) -> PhysFrame {
        self.protection.root()
    }

    pub fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap()
    }

    pub fn pages(&self) -> Shared {
        self.frames.clone()
    }

    pub fn reserve(&self, count: usize) {
        self.protection.reserve(count, &mut *self.frames()).expect("there is memory");
    }

    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        attack(&self.model, self.root(), self.register.read(), table, index)
    }

    pub fn attack_at(&self, address: u64) -> Result<(), Fault> {
        attack_at(&self.model, self.root(), self.register.read(), address)
    }

    /// Windows and flushes of every CPU since the last time.
    pub fn cost(&self) -> (usize, usize) {
        let (writes, flushes) = (self.counts.writes.take(), self.counts.flushes.take());
        assert_eq!(writes % 2, 0, "every window that was opened was closed");
        (writes / 2, flushes)
    }
}

type Region = (u64, u64, u64, MemoryAttributes);

/// What tables map, whether by blocks or by pages.
pub fn coalesced(regions: impl Iterator<Item = MappedRegion>) -> Vec<Region> {
    let mut all: Vec<Region> = Vec::new();
    for region in regions {
        let MappedRegion { va, pa, size, attributes } = region;
        match all.last_mut() {
            Some(last) if (last.0 + last.2, last.1 + last.2, last.3) == (va, pa, attributes) => {
                last.2 += size;
            }
            _ => all.push((va, pa, size, attributes)),
        }
    }
    all
}

pub fn regions(tables: &HardenedPageTable<'_, Opening, Pages>) -> Vec<Region> {
    let mut all = Vec::new();
    tables.mapped_regions(|region| all.push(region));
    coalesced(all.into_iter())
}

pub fn device(page: u64) -> u64 {
    0x80_0000_0000 + page * SMALL
}

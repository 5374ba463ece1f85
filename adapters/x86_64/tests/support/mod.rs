//! A machine under test: memory whose tables this process can write in windows alone, tables made by the bare crate, the model of an MMU that
//! walks them, and twins without protection.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys::{Backend, context};
use kpkeys_hosted::Hosted;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::{LINEAR_START, MEMORY_START};
use kpkeys_hosted::mmu::{Fault, Mmu};
use kpkeys_hosted::register::ArenaRegister;
use kpkeys_pgtable::NoProbe;
use kpkeys_pgtable::entry::X86_64;
use kpkeys_x86_64::{AdoptError, HardenedPageTable, LinearMap, Machine, Protection};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageSize, PageTable,
    PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// Pages of memory: 16 MiB.
pub const PAGES: u64 = 4096;
/// Kernel data.
pub const DATA: PageTableFlags = PageTableFlags::from_bits_truncate(1 << 63 | 0b11);
/// What fills a frame that is handed out: entries that are present.
pub const JUNK: u64 = 0x0bad_0bad_0bad_0bad;
/// Address minus physical address, in the tables' linear map.
pub const OFFSET: u64 = LINEAR_START.0 - MEMORY_START.0;

/// The kernel's protection register, counting.
pub struct Counting(ArenaRegister<Pkrs>, Rc<Counts>);

/// What was counted.
#[derive(Default)]
pub struct Counts {
    pub writes: Cell<usize>,
    pub flushes: Cell<usize>,
}

// SAFETY: the register's own promises; a counter changes nothing of them.
unsafe impl Register for Counting {
    const NEEDS_BARRIER: bool = false;

    fn read(&self) -> u64 {
        self.0.read()
    }

    fn write(&self, value: Value) {
        self.1.writes.set(self.1.writes.get() + 1);
        self.0.write(value);
    }

    fn synchronize(&self) {}
}

/// The machine that the adapter sees.
pub struct TestMachine {
    backend: Keyed<Counting, Pkrs>,
    pub counts: Rc<Counts>,
}

// SAFETY: there are no TLBs, and no interrupts.
unsafe impl Machine for TestMachine {
    type Backend = Keyed<Counting, Pkrs>;

    fn backend(&self) -> &Self::Backend {
        &self.backend
    }

    fn flush_all(&self) {
        assert!(self.backend.is_in::<context::Default>(), "a flush inside a window");
        self.counts.flushes.set(self.counts.flushes.get() + 1);
    }

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// The machine of an arena, outside of windows.
pub fn machine(arena: &Arc<Arena>) -> TestMachine {
    machine_of(ArenaRegister::new(arena.clone()), Rc::new(Counts::default()))
}

pub fn machine_of(register: ArenaRegister<Pkrs>, counts: Rc<Counts>) -> TestMachine {
    let backend = Keyed::new(Counting(register, counts.clone()));
    backend.reset();
    counts.writes.set(0);
    TestMachine { backend, counts }
}

/// Frames from a range, and those given back, in the order of a stack. `left` is how many there are.
pub struct Frames {
    arena: Arc<Arena>,
    next: u64,
    pub free: Vec<PhysFrame>,
    pub left: usize,
    /// What was given back.
    pub given_back: Vec<PhysFrame>,
}

impl Frames {
    /// All of memory.
    pub fn of(arena: &Arc<Arena>) -> Frames {
        let (free, given_back) = (Vec::new(), Vec::new());
        Frames { arena: arena.clone(), next: 0, free, left: PAGES as usize, given_back }
    }
}

// SAFETY: each frame is handed out once until it is given back.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.left = self.left.checked_sub(1)?;
        let frame = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            frame(self.next - 1)
        });
        for index in 0..512 {
            write(&self.arena, frame, index, JUNK);
        }
        Some(frame)
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.given_back.push(frame);
        self.free.push(frame);
        self.left += 1;
    }
}

/// A frame of memory by its number.
pub fn frame(number: u64) -> PhysFrame {
    assert!(number < PAGES);
    PhysFrame::containing_address(PhysAddr::new(MEMORY_START.0 + number * 4096))
}

fn word(arena: &Arena, frame: PhysFrame, index: usize) -> *mut u64 {
    let offset = frame.start_address().as_u64() - MEMORY_START.0 + index as u64 * 8;
    assert!(offset < PAGES * 4096);
    // SAFETY: the offset is inside the arena.
    unsafe { arena.data().as_ptr().add(offset as usize).cast() }
}

/// A word of memory, past all protection.
pub fn read(arena: &Arena, frame: PhysFrame, index: usize) -> u64 {
    // SAFETY: a word of the arena's view for data.
    unsafe { word(arena, frame, index).read_volatile() }
}

/// Stores past all protection.
pub fn write(arena: &Arena, frame: PhysFrame, index: usize, value: u64) {
    // SAFETY: a word of the arena's view for data, which is writable.
    unsafe { word(arena, frame, index).write_volatile(value) }
}

/// Memory with tables of the bare crate in it, not protected.
pub struct Bare {
    pub arena: Arc<Arena>,
    pub root: PhysFrame,
    pub frames: Frames,
}

impl Bare {
    /// Tables with a linear map of pages of this size.
    pub fn new<S: PageSize>() -> Bare
    where
        for<'t> OffsetPageTable<'t>: Mapper<S>,
    {
        Self::with_linear_map::<S>(DATA)
    }

    pub fn with_linear_map<S: PageSize>(flags: PageTableFlags) -> Bare
    where
        for<'t> OffsetPageTable<'t>: Mapper<S>,
    {
        let arena = Arena::guarded(PAGES as usize).expect("the host has memory");
        Self::on::<S>(Arc::new(arena), flags)
    }

    /// The same in this arena.
    pub fn on<S: PageSize>(arena: Arc<Arena>, flags: PageTableFlags) -> Bare
    where
        for<'t> OffsetPageTable<'t>: Mapper<S>,
    {
        let mut frames = Frames::of(&arena);
        let root = frames.allocate_frame().expect("memory is fresh");
        (0..512).for_each(|index| write(&arena, root, index, 0));
        let mut bare = Bare { arena, root, frames };
        let step = S::SIZE;
        for pa in (MEMORY_START.0..MEMORY_START.0 + PAGES * 4096).step_by(step as usize) {
            let page = Page::<S>::from_start_address(VirtAddr::new(OFFSET + pa)).unwrap();
            let to = PhysFrame::from_start_address(PhysAddr::new(pa)).unwrap();
            let huge =
                if step > 4096 { PageTableFlags::HUGE_PAGE } else { PageTableFlags::empty() };
            assert!(bare.map(page, to, flags | huge).is_ok(), "an empty place");
        }
        bare
    }

    /// The bare crate's mapper.
    pub fn mapper(&mut self) -> OffsetPageTable<'_> {
        mapper(&self.arena, self.root)
    }

    pub fn map<S: PageSize>(
        &mut self,
        page: Page<S>,
        to: PhysFrame<S>,
        flags: PageTableFlags,
    ) -> Result<(), MapToError<S>>
    where
        for<'t> OffsetPageTable<'t>: Mapper<S>,
    {
        let mut mapper = mapper(&self.arena, self.root);
        // SAFETY: a model's tables, used by no CPU.
        unsafe { mapper.map_to(page, to, flags, &mut self.frames) }.map(|flush| flush.ignore())
    }

    /// Adopts the tables.
    pub fn adopt(self) -> Result<System, (AdoptError, Bare)> {
        let Bare { arena, root, mut frames } = self;
        let counts = Rc::new(Counts::default());
        let register = ArenaRegister::new(arena.clone());
        let machine = machine_of(register.clone(), counts.clone());
        // SAFETY: `root` is the root of tables that nobody else uses, and the map is where the bare crate put it.
        match unsafe { Protection::adopt(machine, linear_map(&arena), root, &mut frames) } {
            Ok(protection) => {
                let hosted = Hosted::new(arena.clone(), Keyed::new(register.clone()), NoProbe, 1);
                let frames = RefCell::new(frames);
                Ok(System { arena, protection, frames, counts, register, hosted })
            }
            Err(error) => Err((error, Bare { arena, root, frames })),
        }
    }

    /// What the model says of a stray store of the same value to a table's entry.
    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        let hosted = model(&self.arena);
        // A kernel that has protection ready and no table adopted: the register says that key 1 is not to be written.
        attack(&hosted, &self.arena, self.root, 0b1000, table, index)
    }
}

/// The bare crate's mapper, through the view that is always writable.
pub fn mapper(arena: &Arena, root: PhysFrame) -> OffsetPageTable<'_> {
    let offset = (arena.data().as_ptr() as u64).wrapping_sub(MEMORY_START.0);
    let table = word(arena, root, 0).cast::<PageTable>();
    // SAFETY: the root of tables in the arena, reached through the view that is always writable, by this test alone.
    unsafe { OffsetPageTable::new(&mut *table, VirtAddr::new(offset)) }
}

/// The linear map, through the view that can be written in windows alone.
pub fn linear_map(arena: &Arena) -> LinearMap {
    map_through(arena.tables().as_ptr())
}

/// The linear map, through the view that is always writable.
pub fn data_map(arena: &Arena) -> LinearMap {
    map_through(arena.data().as_ptr())
}

fn map_through(view: *mut u8) -> LinearMap {
    let pointers = (view as usize).wrapping_sub(MEMORY_START.0 as usize);
    let memory = PhysFrame::range(frame(0), frame(PAGES - 1) + 1);
    LinearMap::seen_at(memory, VirtAddr::new(OFFSET), pointers).expect("a map of all memory")
}

/// The model of an arena, for its MMU.
pub fn model(arena: &Arc<Arena>) -> Model {
    Hosted::new(arena.clone(), Keyed::new(ArenaRegister::new(arena.clone())), NoProbe, 1)
}

pub type Model = Hosted<X86_64, Keyed<ArenaRegister<Pkrs>, Pkrs>, NoProbe>;

/// Protected tables.
pub struct System {
    pub arena: Arc<Arena>,
    pub protection: Protection<TestMachine, LinearMap>,
    pub frames: RefCell<Frames>,
    pub counts: Rc<Counts>,
    register: ArenaRegister<Pkrs>,
    hosted: Model,
}

impl System {
    pub fn new<S: PageSize>() -> System
    where
        for<'t> OffsetPageTable<'t>: Mapper<S>,
    {
        Bare::new::<S>().adopt().map_err(|(error, _)| error).expect("plain tables are adopted")
    }

    pub fn root(&self) -> PhysFrame {
        self.protection.root()
    }

    pub fn mapper(&self) -> HardenedPageTable<'_, TestMachine, LinearMap> {
        // SAFETY: the adopted root, and tests use one mapper at a time.
        unsafe { self.protection.tables(self.root()) }
    }

    /// Windows and flushes of `f`.
    pub fn counted<R>(&self, f: impl FnOnce() -> R) -> ((usize, usize), R) {
        let before = (self.counts.writes.get(), self.counts.flushes.get());
        let result = f();
        let writes = self.counts.writes.get() - before.0;
        assert_eq!(writes % 2, 0, "every window that was opened was closed");
        ((writes / 2, self.counts.flushes.get() - before.1), result)
    }

    /// What the model says of a stray store of the same value to a frame's word.
    pub fn attack(&self, table: PhysFrame, index: usize) -> Result<(), Fault> {
        attack(&self.hosted, &self.arena, self.root(), self.register.read(), table, index)
    }
}

/// What the model says of a stray store of the same value to a frame's word.
pub fn attack(
    hosted: &Model,
    arena: &Arena,
    root: PhysFrame,
    register: u64,
    table: PhysFrame,
    index: usize,
) -> Result<(), Fault> {
    let root = kpkeys_pgtable::PhysAddr(root.start_address().as_u64());
    let mmu = Mmu::new(hosted, root, Some(root), register);
    let address = OFFSET + table.start_address().as_u64() + index as u64 * 8;
    mmu.store(kpkeys_pgtable::VirtAddr(address), read(arena, table, index))
}

/// Every table with its level, from a root.
pub fn tables(arena: &Arena, root: PhysFrame) -> Vec<(u8, PhysFrame)> {
    let mut tables = vec![(4, root)];
    let mut next = 0;
    while let Some(&(level, table)) = tables.get(next) {
        for index in (0..512).filter(|_| level > 1) {
            let entry = read(arena, table, index);
            if entry & 1 != 0 && entry & 0x80 == 0 {
                tables.push((level - 1, frame_of(entry)));
            }
        }
        next += 1;
    }
    tables
}

pub fn frame_of(entry: u64) -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(entry & 0x000f_ffff_ffff_f000))
}

/// Everything the tables say, by level and address. Where tables are does not matter, nor do keys.
pub fn contents(arena: &Arena, root: PhysFrame) -> BTreeMap<(u8, u64), u64> {
    let mut contents = BTreeMap::new();
    collect(arena, root, 4, 0, &mut contents);
    contents
}

fn collect(
    arena: &Arena,
    table: PhysFrame,
    level: u8,
    base: u64,
    into: &mut BTreeMap<(u8, u64), u64>,
) {
    for index in 0..512 {
        let entry = read(arena, table, index);
        let address = base + ((index as u64) << (3 + 9 * level));
        let points = level > 1 && entry & 0x81 == 1;
        if entry != 0 {
            let said = if points { entry & !0x000f_ffff_ffff_f000 } else { entry & !(0xf << 59) };
            into.insert((level, address), said);
        }
        if points {
            collect(arena, frame_of(entry), level - 1, address, into);
        }
    }
}

pub fn page<S: PageSize>(address: u64) -> Page<S> {
    Page::from_start_address(VirtAddr::new(address)).expect("an address of such a page")
}

pub fn device<S: PageSize>(number: u64) -> PhysFrame<S> {
    PhysFrame::from_start_address(PhysAddr::new(0x80_0000_0000 + number * S::SIZE)).unwrap()
}

pub type Huge = Size2MiB;
pub type Giant = Size1GiB;

//! A machine without a register, whose memory is this process's, mapped one to one.

use std::alloc::{Layout, alloc_zeroed};

use kpkeys::Backend;
use kpkeys::null::Null;
use kpkeys_x86_64::{LinearMap, Machine, Protection};
use x86_64::structures::paging::frame::PhysFrameRange;
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, PageTable, PageTableFlags,
    PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

const MEMORY_PAGES: usize = 1024;
/// Pages that are mapped before the first of them is changed.
pub const RUN: usize = 512;
/// Where.
pub const START: usize = 0xffff_c900_0000_0000;
/// To what.
pub const TARGET: usize = 0x1000;
/// Kernel data, and a page that is not to be written.
pub const FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
pub const READ_ONLY: PageTableFlags = PageTableFlags::PRESENT;

/// See the module.
pub struct NoRegister(Null);

// SAFETY: no CPU uses the tables.
unsafe impl Machine for NoRegister {
    type Backend = Null;

    fn backend(&self) -> &Null {
        &self.0
    }

    fn flush_all(&self) {}

    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// The kernel's frames: those given back, and those never used.
pub struct Frames(Vec<PhysFrame>, PhysFrameRange);

// SAFETY: each frame is handed out once until it is given back.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0.pop().or_else(|| self.1.next())
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        self.0.push(frame);
    }
}

/// Memory with tables that map it one to one.
pub struct Memory {
    pub all: PhysFrameRange,
    pub frames: Frames,
    pub root: PhysFrame,
}

impl Memory {
    pub fn new() -> Memory {
        let layout = Layout::from_size_align(MEMORY_PAGES << 12, 4096).expect("a possible layout");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) }.expose_provenance() as u64;
        let frame = |at: u64| PhysFrame::containing_address(PhysAddr::new(at));
        let all = PhysFrame::range(frame(memory), frame(memory + ((MEMORY_PAGES as u64) << 12)));
        let mut frames = Frames(Vec::new(), all);
        let root = frames.allocate_frame().expect("memory is fresh");
        let mut bare = mapper(root);
        for frame in all {
            // SAFETY: no CPU uses these tables.
            let mapped = unsafe { bare.identity_map(frame, FLAGS, &mut frames) };
            mapped.expect("an empty place").ignore();
        }
        Memory { all, frames, root }
    }

    pub fn protect(&mut self) -> Protection<NoRegister, LinearMap> {
        let linear = LinearMap::new(self.all, VirtAddr::zero()).expect("a range of addresses");
        let machine = NoRegister(Null::new());
        assert!(!machine.backend().has_register());
        // SAFETY: the root of tables that nobody else uses; memory is mapped one to one.
        let protection = unsafe { Protection::adopt(machine, linear, self.root, &mut self.frames) };
        protection.expect("plain tables are adopted")
    }
}

/// The `x86_64` crate's mapper.
pub fn mapper(root: PhysFrame) -> OffsetPageTable<'static> {
    let table: *mut PageTable =
        std::ptr::with_exposed_provenance_mut(root.start_address().as_u64() as usize);
    // SAFETY: the root of tables that no CPU uses; addresses here are addresses of this process.
    unsafe { OffsetPageTable::new(&mut *table, VirtAddr::zero()) }
}

/// What is done with a page.
pub trait Calls {
    fn map(&mut self, at: usize);
    fn change(&mut self, at: usize);
    fn unmap(&mut self, at: usize);
}

/// Runs of pages, mapped, changed and unmapped.
pub fn calls(tables: &mut impl Calls, pages: usize) {
    for first in (0..pages).step_by(RUN) {
        run_of(tables, first);
    }
}

pub fn run_of(tables: &mut impl Calls, first: usize) {
    let page = |number: usize| START + (first + number) * 4096;
    (0..RUN).for_each(|number| tables.map(page(number)));
    (0..RUN).for_each(|number| tables.change(page(number)));
    (0..RUN).for_each(|number| tables.unmap(page(number)));
}

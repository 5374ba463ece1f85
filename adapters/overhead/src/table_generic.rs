//! `page-table-generic`, with an entry of x86-64.

#[path = "../../page-table-generic/tests/kernel/pte.rs"]
mod pte;

use std::cell::RefCell;

use kpkeys_page_table_generic::HardenedPageTable;
use kpkeys_x86_64::LinearMap;
use page_table_generic::{FrameAllocator, PageTable, PageTableRef, PhysAddr, TableMeta, VirtAddr};

use pte::Pte;

use crate::Who;
use crate::machine::{Calls, Memory, NoRegister, RUN, TARGET, calls, run_of};

const DATA: u64 = 1 << 63 | 0b11;
const READ_ONLY: u64 = 1 << 63 | 0b01;

thread_local! {
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy)]
struct FourLevels;

#[derive(Clone)]
struct Allocator;

impl TableMeta for FourLevels {
    type P = Pte;
    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    fn flush(_: Option<VirtAddr>) {}
}

impl FrameAllocator for Allocator {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        use x86_64::structures::paging::FrameAllocator;
        let frame = MEMORY.with_borrow_mut(|memory| memory.as_mut()?.frames.allocate_frame())?;
        Some(PhysAddr::from_usize(frame.start_address().as_u64() as usize))
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        use x86_64::structures::paging::{FrameDeallocator, PhysFrame};
        let frame = PhysFrame::containing_address(x86_64::PhysAddr::new(frame.as_usize() as u64));
        MEMORY.with_borrow_mut(|memory| {
            if let Some(memory) = memory {
                // SAFETY: whoever frees it says so.
                unsafe { memory.frames.deallocate_frame(frame) };
            }
        });
    }

    fn phys_to_virt(&self, frame: PhysAddr) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(frame.as_usize())
    }
}

struct Viewed<'a, T: TableMeta, A: FrameAllocator>(&'a mut PageTableRef<T, A>);
struct Hardened(HardenedPageTable<FourLevels, NoRegister, LinearMap, Allocator>);

fn page(at: usize) -> VirtAddr {
    VirtAddr::from_usize(at)
}

fn target() -> PhysAddr {
    PhysAddr::from_usize(TARGET)
}

impl<T: TableMeta<P = Pte>, A: FrameAllocator> Calls for Viewed<'_, T, A> {
    fn map(&mut self, at: usize) {
        self.0.map_page(page(at), target(), 4096, DATA).expect("mapped");
    }

    fn change(&mut self, at: usize) {
        self.0.protect_page(page(at), READ_ONLY).expect("changed");
    }

    fn unmap(&mut self, at: usize) {
        self.0.unmap_page(page(at)).expect("unmapped");
    }
}

impl Calls for Hardened {
    fn map(&mut self, at: usize) {
        self.0.map_page(page(at), target(), 4096, DATA).expect("mapped");
    }

    fn change(&mut self, at: usize) {
        self.0.protect_page(page(at), READ_ONLY).expect("changed");
    }

    fn unmap(&mut self, at: usize) {
        self.0.unmap_page(page(at)).expect("unmapped");
    }
}

pub fn run(who: Who, pages: usize) {
    let mut memory = Memory::new();
    if who == Who::Bare {
        MEMORY.set(Some(memory));
        let mut tables = PageTable::<FourLevels, _>::new(Allocator).expect("memory");
        calls(&mut Viewed(&mut tables), pages);
        return tables.leak();
    }
    let protection = Box::leak(Box::new(memory.protect()));
    MEMORY.set(Some(memory));
    // SAFETY: entries of x86-64, and no CPU uses the root.
    let tables = unsafe { HardenedPageTable::new(protection, Allocator) }.expect("memory");
    if who == Who::Hardened {
        return calls(&mut Hardened(tables), pages);
    }
    let mut tables = tables;
    for first in (0..pages).step_by(RUN) {
        // SAFETY: calls of the view alone.
        let done = unsafe { tables.change(3, |view| run_of(&mut Viewed(view), first)) };
        done.expect("there are frames for tables");
    }
}

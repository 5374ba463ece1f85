//! `patina_paging`.

use kpkeys_patina_paging::HardenedPageTable;
use patina_paging::page_allocator::PageAllocator;
use patina_paging::x64::X64PageTable;
use patina_paging::{MemoryAttributes, PageTable, PagingType, PtError};
use x86_64::structures::paging::FrameAllocator;

use crate::Who;
use crate::machine::{Calls, Frames, Memory, RUN, TARGET, calls, run_of};

const DATA: MemoryAttributes = MemoryAttributes::ExecuteProtect;

struct Pages(Frames);

impl PageAllocator for Pages {
    fn allocate_page(&mut self, _: u64, _: u64, _: bool) -> Result<u64, PtError> {
        let frame = self.0.allocate_frame().ok_or(PtError::OutOfResources)?;
        Ok(frame.start_address().as_u64())
    }
}

struct Tables<'a, T>(&'a mut T);

impl<T: PageTable> Calls for Tables<'_, T> {
    fn map(&mut self, at: usize) {
        let mapped = self.0.map_aliased_memory_region(at as u64, TARGET as u64, 4096, DATA);
        mapped.expect("mapped");
    }

    fn change(&mut self, at: usize) {
        let attributes = DATA | MemoryAttributes::ReadOnly;
        let changed = self.0.map_aliased_memory_region(at as u64, TARGET as u64, 4096, attributes);
        changed.expect("changed");
    }

    fn unmap(&mut self, at: usize) {
        self.0.unmap_memory_region(at as u64, 4096).expect("unmapped");
    }
}

pub fn run(who: Who, pages: usize) {
    let mut memory = Memory::new();
    let root = memory.root.start_address().as_u64();
    if who == Who::Bare {
        // SAFETY: the root of tables that nobody else uses.
        let tables = unsafe {
            X64PageTable::from_existing(root, Pages(memory.frames), PagingType::Paging4Level)
        };
        return calls(&mut Tables(&mut tables.expect("an aligned root")), pages);
    }
    let protection = memory.protect();
    // SAFETY: just adopted.
    let mut tables = unsafe { HardenedPageTable::adopted(&protection, Pages(memory.frames)) };
    if who == Who::Hardened {
        return calls(&mut Tables(&mut tables), pages);
    }
    for first in (0..pages).step_by(RUN) {
        // SAFETY: calls of the tables alone.
        let done = unsafe { tables.change(3, |view| run_of(&mut Tables(view), first)) };
        done.expect("there are frames for tables");
    }
}

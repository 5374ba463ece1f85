//! `patina_paging`: its x86-64 tables. Protecting is mapping again with other attributes. Asked about a mapping, it tells the attributes.

use patina_paging::page_allocator::PageAllocator;
use patina_paging::x64::X64PageTable;
use patina_paging::{MemoryAttributes, PageTable, PagingType, PtError};

use crate::peer::{FIRST_FRAME, PAGE, Peer, START, Tables, entry_below};

/// The library's tables.
pub struct Patina {
    table: X64PageTable<Identity>,
    root: u64,
}

struct Identity {
    tables: Tables,
    root: std::rc::Rc<std::cell::Cell<u64>>,
}

impl PageAllocator for Identity {
    fn allocate_page(&mut self, _: u64, _: u64, is_root: bool) -> Result<u64, PtError> {
        let page = self.tables.take();
        if is_root {
            self.root.set(page);
        }
        Ok(page)
    }
}

const RW: MemoryAttributes = MemoryAttributes::ExecuteProtect;
const RO: MemoryAttributes = RW.union(MemoryAttributes::ReadOnly);

impl Patina {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let root = std::rc::Rc::new(std::cell::Cell::new(0));
        let identity = Identity { tables: Tables::new(tables), root: root.clone() };
        let table =
            X64PageTable::new(identity, PagingType::Paging4Level).expect("memory for a root");
        Patina { table, root: root.get() }
    }
}

/// The frame of an address, since the library maps and protects by the same call.
#[inline(always)]
fn frame(va: u64) -> u64 {
    va - START + FIRST_FRAME
}

impl Peer for Patina {
    #[inline]
    fn walk(&self, va: u64) -> u64 {
        self.table.query_memory_region(va, PAGE).map_or(0, |attributes| attributes.bits())
    }

    #[inline]
    fn map_range(&mut self, va: u64, pa: u64, pages: usize) {
        let bytes = pages as u64 * PAGE;
        self.table.map_aliased_memory_region(va, pa, bytes, RW).expect("mapped");
    }

    #[inline]
    fn protect_range(&mut self, va: u64, pages: usize) {
        let bytes = pages as u64 * PAGE;
        self.table.map_aliased_memory_region(va, frame(va), bytes, RO).expect("protected");
    }

    #[inline]
    fn unmap_range(&mut self, va: u64, pages: usize) {
        self.table.unmap_memory_region(va, pages as u64 * PAGE).expect("unmapped");
    }

    fn entry(&self, va: u64) -> u64 {
        entry_below(self.root, va)
    }
}

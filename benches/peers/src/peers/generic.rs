//! `page-table-generic`: with an x86-64 entry, which the library leaves to its users. It frees a table as soon as it is empty.

use std::sync::{Arc, Mutex};

use page_table_generic::{
    FrameAllocator, MapConfig, PageTable, PageTableEntry, PhysAddr, TableMeta, VirtAddr,
};

use crate::peer::{ADDRESS, PAGE, Peer, Tables, entry_below};

/// The library's tables.
pub struct Generic(PageTable<FourLevels, Identity>);

#[derive(Clone, Copy)]
struct FourLevels;

#[derive(Clone)]
struct Identity(Arc<Mutex<Tables>>);

#[derive(Clone, Copy, Debug)]
struct Pte(u64);

const PRESENT: u64 = 1;
const HUGE: u64 = 1 << 7;
const TABLE: u64 = 0b10_0111;
const RW: u64 = 1 << 63 | 0b110_0111;
const RO: u64 = 1 << 63 | 0b110_0101;

impl TableMeta for FourLevels {
    type P = Pte;
    const PAGE_SIZE: usize = PAGE as usize;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    fn flush(_: Option<VirtAddr>) {}
}

impl FrameAllocator for Identity {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        let page = self.0.lock().expect("nobody panicked with it").take();
        Some(PhysAddr::from_usize(page as usize))
    }

    fn dealloc_frame(&self, page: PhysAddr) {
        self.0.lock().expect("nobody panicked with it").give(page.as_usize() as u64);
    }

    fn phys_to_virt(&self, page: PhysAddr) -> *mut u8 {
        page.as_usize() as *mut u8
    }
}

impl PageTableEntry for Pte {
    /// Flags.
    type PteConfig = u64;

    fn new_page(page: PhysAddr, flags: u64, is_huge: bool) -> Self {
        Pte(page.as_usize() as u64 | flags | if is_huge { HUGE } else { 0 })
    }

    fn new_table(table: PhysAddr) -> Self {
        Pte(table.as_usize() as u64 | TABLE)
    }

    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    fn config(&self, _: bool) -> u64 {
        self.0 & !ADDRESS & !HUGE
    }

    fn present(&self) -> bool {
        self.0 & PRESENT != 0
    }

    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & HUGE != 0
    }

    fn unused(&self) -> bool {
        self.0 == 0
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

impl Generic {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let identity = Identity(Arc::new(Mutex::new(Tables::new(tables))));
        Generic(PageTable::new(identity).expect("there is memory for a root"))
    }
}

#[inline(always)]
fn va(va: u64) -> VirtAddr {
    VirtAddr::from_usize(va as usize)
}

impl Peer for Generic {
    #[inline]
    fn walk(&self, at: u64) -> u64 {
        self.0.translate_phys(va(at)).map_or(0, |pa| pa.as_usize() as u64)
    }

    #[inline]
    fn protect_one(&mut self, at: u64) {
        self.0.protect_page(va(at), RO).expect("protected");
    }

    #[inline]
    fn map_range(&mut self, at: u64, pa: u64, pages: usize) {
        let config = MapConfig {
            vaddr: va(at),
            paddr: PhysAddr::from_usize(pa as usize),
            size: pages * PAGE as usize,
            pte: RW,
            allow_huge: false,
            flush: false,
        };
        self.0.map(&config).expect("mapped");
    }

    #[inline]
    fn protect_range(&mut self, at: u64, pages: usize) {
        self.0.protect_region(va(at), pages * PAGE as usize, RO).expect("protected");
    }

    #[inline]
    fn unmap_range(&mut self, at: u64, pages: usize) {
        self.0.unmap(va(at), pages * PAGE as usize).expect("unmapped");
    }

    fn entry(&self, at: u64) -> u64 {
        entry_below(self.0.root_paddr().as_usize() as u64, at)
    }
}

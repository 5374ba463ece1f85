//! `page_table_multiarch`: a cursor for each call. Its own flush is a privileged instruction, so here is none.

use std::cell::RefCell;

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::x86_64::X64PTE;
use page_table_multiarch::{MappingFlags, PageSize, PageTable64, PagingHandler, PagingMetaData};

use crate::peer::{PAGE, Peer, Tables, entry_below};

/// The library's tables.
pub struct Multiarch(PageTable64<WithoutFlush, X64PTE, Identity>);

struct WithoutFlush;
struct Identity;

thread_local! {
    /// The library takes frames from a function, not a value.
    static TABLES: RefCell<Option<Tables>> = const { RefCell::new(None) };
}

impl PagingMetaData for WithoutFlush {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 52;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = VirtAddr;

    #[inline]
    fn flush_tlb(_: Option<VirtAddr>) {}
}

impl PagingHandler for Identity {
    fn alloc_frames(_: usize, _: usize) -> Option<PhysAddr> {
        TABLES.with_borrow_mut(|tables| tables.as_mut().map(|t| PhysAddr::from(t.take() as usize)))
    }

    fn dealloc_frames(page: PhysAddr, _: usize) {
        TABLES.with_borrow_mut(|tables| {
            if let Some(tables) = tables {
                tables.give(page.as_usize() as u64);
            }
        });
    }

    #[inline]
    fn phys_to_virt(page: PhysAddr) -> VirtAddr {
        VirtAddr::from(page.as_usize())
    }
}

const RO: MappingFlags = MappingFlags::READ.union(MappingFlags::USER);
const RW: MappingFlags = RO.union(MappingFlags::WRITE);

impl Multiarch {
    /// Empty tables; one for each thread.
    pub fn new(tables: usize) -> Self {
        TABLES.set(Some(Tables::new(tables)));
        Multiarch(PageTable64::try_new().expect("there is memory for a root"))
    }
}

#[inline(always)]
fn va(va: u64) -> VirtAddr {
    VirtAddr::from(va as usize)
}

impl Peer for Multiarch {
    #[inline]
    fn map_one(&mut self, at: u64, pa: u64) {
        let pa = PhysAddr::from(pa as usize);
        self.0.cursor().map(va(at), pa, PageSize::Size4K, RW).expect("mapped");
    }

    #[inline]
    fn walk(&self, at: u64) -> u64 {
        self.0.query(va(at)).map_or(0, |(pa, _, _)| pa.as_usize() as u64)
    }

    #[inline]
    fn protect_one(&mut self, at: u64) {
        self.0.cursor().protect(va(at), RO).expect("protected");
    }

    #[inline]
    fn unmap_one(&mut self, at: u64) {
        self.0.cursor().unmap(va(at)).expect("unmapped");
    }

    fn map_range(&mut self, at: u64, pa: u64, pages: usize) {
        let frame = |page: VirtAddr| PhysAddr::from(page.as_usize() - at as usize + pa as usize);
        let bytes = pages * PAGE as usize;
        self.0.cursor().map_region(va(at), frame, bytes, RW, false).expect("mapped");
    }

    fn protect_range(&mut self, at: u64, pages: usize) {
        self.0.cursor().protect_region(va(at), pages * PAGE as usize, RO).expect("protected");
    }

    fn unmap_range(&mut self, at: u64, pages: usize) {
        self.0.cursor().unmap_region(va(at), pages * PAGE as usize).expect("unmapped");
    }

    fn entry(&self, at: u64) -> u64 {
        entry_below(self.0.root_paddr().as_usize() as u64, at)
    }
}

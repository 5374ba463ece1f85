//! `hyperlight-common`: its `vmem` functions over tables in this process, with plain stores.

use std::cell::RefCell;

use hyperlight_common::vmem::{
    self, BasicMapping, Mapping, MappingKind, MayNotMoveTable, TableOps, TableReadOps, Void,
};

use crate::peer::{PAGE, Peer, Tables, entry_below};

/// The library's tables.
pub struct Hyperlight(Identity);

struct Identity {
    root: u64,
    tables: RefCell<Tables>,
}

impl AsRef<Identity> for Identity {
    #[inline(always)]
    fn as_ref(&self) -> &Identity {
        self
    }
}

impl TableReadOps for Identity {
    type TableAddr = u64;

    #[inline(always)]
    fn entry_addr(addr: u64, offset: u64) -> u64 {
        addr + offset
    }

    #[inline(always)]
    unsafe fn read_entry(&self, addr: u64) -> u64 {
        // SAFETY: the library passes addresses of entries in tables that are in memory of this process.
        unsafe { *(addr as *const u64) }
    }

    #[inline(always)]
    fn to_phys(addr: u64) -> u64 {
        addr
    }

    #[inline(always)]
    fn from_phys(addr: u64) -> u64 {
        addr
    }

    #[inline(always)]
    fn root_table(&self) -> u64 {
        self.root
    }
}

impl TableOps for Identity {
    type TableMovability = MayNotMoveTable;

    unsafe fn alloc_table(&self) -> u64 {
        self.tables.borrow_mut().take_zeroed()
    }

    #[inline(always)]
    unsafe fn write_entry(&self, addr: u64, entry: u64) -> Option<Void> {
        // SAFETY: as for `read_entry`; nobody else uses the tables.
        unsafe { *(addr as *mut u64) = entry };
        None
    }

    unsafe fn update_root(&self, impossible: Void) {
        match impossible {}
    }
}

const fn data(writable: bool) -> MappingKind {
    MappingKind::Basic(BasicMapping { readable: true, writable, executable: false })
}

impl Hyperlight {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let mut tables = Tables::new(tables);
        let root = tables.take_zeroed();
        Hyperlight(Identity { root, tables: RefCell::new(tables) })
    }

    #[inline]
    fn change(&mut self, va: u64, pages: usize, kind: MappingKind) {
        // SAFETY: one thread uses these tables, and no CPU.
        unsafe { vmem::modify_mapping(&self.0, va, pages as u64 * PAGE, |_, _| kind) };
    }
}

impl Peer for Hyperlight {
    #[inline]
    fn walk(&self, va: u64) -> u64 {
        // SAFETY: nobody changes the tables meanwhile.
        let mut found = unsafe { vmem::virt_to_phys(&self.0, va, 1) };
        found.next().map_or(0, |mapping| mapping.phys_base)
    }

    #[inline]
    fn protect_one(&mut self, va: u64) {
        self.change(va, 1, data(false));
    }

    #[inline]
    fn unmap_one(&mut self, va: u64) {
        self.change(va, 1, MappingKind::Unmapped);
    }

    #[inline]
    fn map_range(&mut self, va: u64, pa: u64, pages: usize) {
        let len = pages as u64 * PAGE;
        let mapping = Mapping { phys_base: pa, virt_base: va, len, kind: data(true) };
        // SAFETY: as in `change`.
        unsafe { vmem::map(&self.0, mapping) };
    }

    #[inline]
    fn protect_range(&mut self, va: u64, pages: usize) {
        self.change(va, pages, data(false));
    }

    #[inline]
    fn unmap_range(&mut self, va: u64, pages: usize) {
        self.change(va, pages, MappingKind::Unmapped);
    }

    fn entry(&self, va: u64) -> u64 {
        entry_below(self.0.root, va)
    }
}

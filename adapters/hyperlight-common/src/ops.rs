//! What the wrapped crate's functions read and write tables by. An address of theirs is a physical one.

use hyperlight_common::vmem::{MayNotMoveTable, TableOps, TableReadOps, Void};
use kpkeys_x86_64::{Linear, Machine, Protection, Within};
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

/// Reads tables: for `vmem::virt_to_phys`.
#[derive(Debug)]
pub struct Reader<'p, M, L> {
    pub(crate) protection: &'p Protection<M, L>,
    pub(crate) root: PhysFrame,
}

impl<M, L> AsRef<Self> for Reader<'_, M, L> {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl<M: Machine, L: Linear> TableReadOps for Reader<'_, M, L> {
    type TableAddr = u64;

    fn entry_addr(table: u64, offset: u64) -> u64 {
        table + offset
    }

    unsafe fn read_entry(&self, entry: u64) -> u64 {
        let (table, index) = place(entry);
        // SAFETY: the wrapped crate reads entries of the root's tables. It takes a block for a table: what it reads then is in memory all the same,
        // or refused by `HardenedTables` before.
        unsafe { self.protection.load(table, index) }
    }

    fn to_phys(table: u64) -> u64 {
        table
    }

    fn from_phys(table: u64) -> u64 {
        table
    }

    fn root_table(&self) -> u64 {
        self.root.start_address().as_u64()
    }
}

/// Reads and writes tables, with frames in stock.
pub(crate) struct Ops<'p, M, L> {
    pub(crate) reader: Reader<'p, M, L>,
    pub(crate) within: Within,
}

impl<M: Machine, L: Linear> TableReadOps for Ops<'_, M, L> {
    type TableAddr = u64;

    fn entry_addr(table: u64, offset: u64) -> u64 {
        table + offset
    }

    unsafe fn read_entry(&self, entry: u64) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { self.reader.read_entry(entry) }
    }

    fn to_phys(table: u64) -> u64 {
        table
    }

    fn from_phys(table: u64) -> u64 {
        table
    }

    fn root_table(&self) -> u64 {
        self.reader.root_table()
    }
}

impl<M: Machine, L: Linear> TableOps for Ops<'_, M, L> {
    type TableMovability = MayNotMoveTable;

    /// # Panics
    ///
    /// If there is none in stock, which `HardenedTables` has seen to.
    unsafe fn alloc_table(&self) -> u64 {
        let protection = self.reader.protection;
        let frame = protection.take_reserved().expect("as many are in stock as are missing");
        // SAFETY: just taken, and not linked yet.
        unsafe { protection.empty(self.within, frame) };
        frame.start_address().as_u64()
    }

    unsafe fn write_entry(&self, entry: u64, value: u64) -> Option<Void> {
        let (table, index) = place(entry);
        // SAFETY: the wrapped crate stores entries of the root's tables, as whoever called `HardenedTables` wants them.
        unsafe { self.reader.protection.store(self.within, table, index, value) };
        None
    }

    unsafe fn update_root(&self, impossible: Void) {
        match impossible {}
    }
}

fn place(entry: u64) -> (PhysFrame, usize) {
    let table = PhysFrame::containing_address(PhysAddr::new_truncate(entry));
    (table, (entry >> 3) as usize & 511)
}

//! `aarch64-paging`: a `Mapping` that is not active, which spares it the checks of live tables.

use std::ptr::NonNull;

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{
    El1Attributes, PhysicalAddress, UpdatableDescriptor, VirtualAddress,
};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange};

use crate::peer::{PAGE, Peer, Tables, entry_below};

type Updatable<'a> = UpdatableDescriptor<'a, El1Attributes>;

/// The library's tables.
pub struct Aarch64Paging(Mapping<Identity, El1And0>);

struct Identity(Tables);

impl Translation<El1Attributes> for Identity {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let page = self.0.take_zeroed();
        let table = NonNull::new(page as *mut PageTable<El1Attributes>).expect("not at zero");
        (table, PhysicalAddress(page as usize))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        self.0.give(table.as_ptr() as u64);
    }

    fn physical_to_virtual(&self, pa: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        NonNull::new(pa.0 as *mut PageTable<El1Attributes>).expect("not at zero")
    }
}

const PAGES: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::INNER_SHAREABLE)
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::USER)
    .union(El1Attributes::NON_GLOBAL)
    .union(El1Attributes::PXN)
    .union(El1Attributes::UXN);
const PAGES_ONLY: Constraints =
    Constraints::NO_BLOCK_MAPPINGS.union(Constraints::NO_CONTIGUOUS_HINT);

impl Aarch64Paging {
    /// Empty tables.
    pub fn new(tables: usize) -> Self {
        let identity = Identity(Tables::new(tables));
        Aarch64Paging(Mapping::with_asid_and_va_range(identity, 1, 0, El1And0, VaRange::Lower))
    }
}

#[inline(always)]
fn region(va: u64, pages: usize) -> MemoryRegion {
    MemoryRegion::from(
        VirtualAddress(va as usize)..VirtualAddress((va + pages as u64 * PAGE) as usize),
    )
}

impl Peer for Aarch64Paging {
    #[inline]
    fn walk(&self, va: u64) -> u64 {
        let mut found = 0;
        let walked = self.0.walk_range(&region(va, 1), &mut |_, descriptor, _| {
            found = descriptor.output_address().0 as u64;
            Ok(())
        });
        walked.map_or(0, |()| found)
    }

    #[inline]
    fn map_range(&mut self, va: u64, pa: u64, pages: usize) {
        let pa = PhysicalAddress(pa as usize);
        self.0.map_range(&region(va, pages), pa, PAGES, PAGES_ONLY).expect("mapped");
    }

    #[inline]
    fn protect_range(&mut self, va: u64, pages: usize) {
        let read_only = |_: &MemoryRegion, descriptor: &mut Updatable<'_>| {
            if descriptor.level() == 3 {
                descriptor.modify_flags(El1Attributes::READ_ONLY, El1Attributes::empty())?;
            }
            Ok(())
        };
        self.0.modify_range(&region(va, pages), &read_only).expect("protected");
    }

    #[inline]
    fn unmap_range(&mut self, va: u64, pages: usize) {
        // By `map_range` it would drop whole tables without a look at what they map; what is asked for here is each entry.
        let empty = |_: &MemoryRegion, descriptor: &mut Updatable<'_>| {
            if descriptor.level() == 3 {
                descriptor.set(PhysicalAddress(0), El1Attributes::empty())?;
            }
            Ok(())
        };
        self.0.modify_range(&region(va, pages), &empty).expect("unmapped");
    }

    fn entry(&self, va: u64) -> u64 {
        entry_below(self.0.root_address().0 as u64, va)
    }
}

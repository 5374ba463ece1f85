//! What is refused, with the reason, and that nothing has changed then.

#[macro_use]
mod support;

use aarch64_paging::MapError;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::paging::{MemoryRegion, VaRange};
use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys_aarch64_paging::{Error, Existing, Layout, Pool, Tables};
use support::{
    Aliased, Keys, MEMORY, MEMORY_PAGES, NO_CONSTRAINTS, NORMAL, Protection, System, USER, layout,
    linear, pages, views,
};

const VA: usize = 0x40_0000_0000;

fn refused<S: Protection>(layout: Layout) -> Error {
    let system = System::<S>::new(8);
    let backend = system.pool.backend().clone();
    // SAFETY: as in `System::new`; it is refused.
    let pool = unsafe { Pool::through(layout, views(&system.arena), backend) };
    pool.err().expect("an unfit layout")
}

#[test]
fn a_layout_that_cannot_be() {
    let good = layout(8);
    let start = PhysicalAddress(good.start.0 + 8);
    assert_eq!(refused::<Keys>(Layout { start, ..good }), Error::Misaligned(start.0));
    let linear = VirtualAddress(good.linear.0 + 1);
    assert_eq!(refused::<Keys>(Layout { linear, ..good }), Error::Misaligned(linear.0));
    for pages in [0, usize::MAX, 1 << 40] {
        assert_eq!(refused::<Keys>(Layout { pages, ..good }), Error::NoSuchMemory);
    }
    assert_eq!(refused::<Aliased>(Layout { alias: None, ..good }), Error::NoAlias);
    for va in [VirtualAddress(0x4000_0000), VirtualAddress(good.linear.0 + 7 * 4096)] {
        let alias = Some(va);
        assert_eq!(refused::<Aliased>(Layout { alias, ..good }), Error::AliasMisplaced(va));
    }
}

#[test]
fn protection_before_its_checklist_is_met() {
    let system = System::<Aliased>::new(16);
    // SAFETY: refused.
    let protect = || unsafe { system.pool.protect() };
    assert_eq!(protect(), Err(Error::LinearMapMissing));
    let mut kernel = Tables::new(&system.pool, 0, 0, VaRange::Upper).unwrap();
    // A part of it does not do.
    kernel.map_range(&linear(0..521), MEMORY, NORMAL, NO_CONSTRAINTS).unwrap();
    assert_eq!(protect(), Err(Error::LinearMapMissing));
    kernel.map_range(&linear(0..MEMORY_PAGES), MEMORY, NORMAL, NO_CONSTRAINTS).unwrap();
    assert_eq!(protect(), Err(Error::AliasMissing));
    assert!(!system.pool.is_protected());
    kernel.map_alias(NORMAL).unwrap();
    // SAFETY: the only window of this CPU, in which nothing is done.
    let window: Guard<'_, _, PageTables> = unsafe { Guard::enter(system.pool.backend()) };
    assert_eq!(protect(), Err(Error::CpuOpen));
    drop(window);
    assert_eq!(protect(), Ok(()));
}

fn table_memory_is_mapped_as_nothing_else<S: Protection>() {
    let system = System::<S>::new(16);
    let mut kernel = system.protected();
    let before = system.contents();
    let layout = *system.pool.layout();
    let (tables, around) = (layout.linear_region(), linear(519..522));
    let elsewhere = pages(0xffff_d000_0000_0000, 1);
    let none = El1Attributes::empty();
    for pa in [layout.start, layout.start + 15 * 4096] {
        let mapped = kernel.map_range(&elsewhere, pa, NORMAL, NO_CONSTRAINTS);
        assert_eq!(mapped, Err(Error::TableMemory(elsewhere.clone())));
    }
    for region in [&tables, &around, &layout.alias_region().unwrap()] {
        let error = Err(Error::TableMemory(region.clone()));
        assert_eq!(kernel.unmap_range(region), error);
        assert_eq!(kernel.modify_range(region, &|_, _| panic!("not called")), error);
        assert_eq!(kernel.map_range(region, MEMORY, NORMAL, NO_CONSTRAINTS), error);
        assert_eq!(kernel.map_range(region, layout.start, none, NO_CONSTRAINTS), error);
    }
    assert_eq!(system.contents(), before);
    // Once more as it is: nothing is loosened.
    kernel.map_range(&tables, layout.start, NORMAL, NO_CONSTRAINTS).unwrap();
    assert_eq!(system.contents(), before);
}

fn ranges_are_checked_as_the_wrapped_crate_does<S: Protection>() {
    let system = System::<S>::new(16);
    let _kernel = system.protected();
    let mut user = system.user();
    let end = VirtualAddress(1 << 48);
    for (range, error) in [
        (MemoryRegion::new(0x2000, 0x1000), None),
        (MemoryRegion::new(end.0 - 4096, end.0 + 4096), Some(end + 4096)),
        (pages(0xffff_d000_0000_0000, 1), Some(VirtualAddress(0xffff_d000_0000_0000))),
    ] {
        let error = error.map_or(MapError::RegionBackwards(range.clone()), MapError::AddressRange);
        let ours = user.map_range(&range, MEMORY, USER, NO_CONSTRAINTS);
        let bare = support::bare(1, VaRange::Lower).map_range(&range, MEMORY, USER, NO_CONSTRAINTS);
        assert_eq!((ours, bare), (Err(Error::Map(error.clone())), Err(error)));
    }
}

/// The wrapped crate would panic, with overflow checks; see the twins, which find it so.
fn below_a_block_with_the_same_flags<S: Protection>() {
    let system = System::<S>::new(16);
    let _kernel = system.protected();
    let mut user = system.user();
    user.map_range(&pages(VA, 512), PhysicalAddress(1 << 40), USER, NO_CONSTRAINTS).unwrap();
    let before = system.contents();
    let pa = PhysicalAddress(0x2000);
    let mapped = user.map_range(&pages(VA + 0x3000, 1), pa, USER, NO_CONSTRAINTS);
    assert_eq!(mapped, Err(Error::BelowBlock(pa)));
    assert_eq!(system.contents(), before);
}

fn an_entry_that_leads_out_of_table_memory_is_not_followed<S: Protection>() {
    let system = System::<S>::new(32);
    let kernel = system.protected();
    let mut user = system.user();
    user.map_range(&pages(VA, 1), MEMORY, USER, NO_CONSTRAINTS).unwrap();
    let root = user.root_address();
    // As DMA would. The entry is another one than that of the range mapped.
    system.plant(root, 2, MEMORY.0 as u64 | 3);
    let there = pages(2 << 39, 1);
    let error = Err(Error::ForeignTable(MEMORY));
    assert_eq!(user.map_range(&there, MEMORY, USER, NO_CONSTRAINTS), error);
    assert_eq!(user.unmap_range(&there), error);
    assert_eq!(user.modify_range(&there, &|_, _| Ok(())), error);
    assert_eq!(user.walk_range(&there, &mut |_, _, _| Ok(())), error);
    assert_eq!(user.compact_subtables(), error);
    let free = system.pool.free_pages();
    drop(user);
    assert_eq!(system.pool.free_pages(), free, "kept, since what is in it is not known");
    drop(kernel);
}

fn tables_in_use_are_kept<S: Protection>() {
    let system = System::<S>::new(32);
    let kernel = system.protected();
    assert!(kernel.active());
    let free = system.pool.free_pages();
    let root = kernel.root_address();
    drop(kernel);
    assert_eq!(system.pool.free_pages(), free);
    assert!(system.mmu(root).store(support::linear_address(MEMORY, 0), 1).is_ok(), "still whole");
}

/// Tables that somebody else made, in data pages from this one on.
struct Foreign<'s, S: Protection>(&'s System<S>);

const OLD_ROOT: PhysicalAddress = PhysicalAddress(MEMORY.0 + 0x1000);

impl<S: Protection> Foreign<'_, S> {
    /// A root, below it a table of each level, and a page, a block, and the linear map of everything.
    fn make(&self) -> Existing {
        let table = |n: usize| PhysicalAddress(OLD_ROOT.0 + n * 4096);
        let link = |n: usize| table(n).0 as u64 | 3;
        let leaf = |pa: usize, page: u64| pa as u64 | NORMAL.bits() as u64 | page;
        let first = support::linear_address(MEMORY, 0).0 as usize;
        let index = |level: usize| first >> (39 - 9 * level) & 0x1ff;
        self.0.plant(table(0), index(0), link(1));
        self.0.plant(table(1), index(1), link(2));
        for block in 0..8 {
            self.0.plant(table(2), index(2) + block, leaf(MEMORY.0 + (block << 21), 0));
        }
        self.0.plant(table(0), 400, link(3));
        self.0.plant(table(3), 0, leaf(0x8000_0000, 0));
        self.0.plant(table(3), 1, link(4));
        self.0.plant(table(4), 5, link(5));
        self.0.plant(table(5), 511, leaf(0x9000_0000, 2));
        let memory = MEMORY..MEMORY + MEMORY_PAGES * 4096;
        Existing { root: OLD_ROOT, level: 0, half: VaRange::Upper, linear_memory: memory }
    }
}

fn existing_tables_are_copied_but_for_table_memory<S: Protection>() {
    let system = System::<S>::new(32);
    let existing = Foreign(&system).make();
    let old_root = existing.root;
    assert!(system.mmu(old_root).store(support::linear_address(old_root, 9), 0).is_ok());
    // SAFETY: they are valid, and this thread alone has them.
    let mut kernel = unsafe { Tables::adopt(&system.pool, &existing, 0) }.unwrap();
    let new = system.mmu(kernel.root_address());
    let old = system.mmu(old_root);
    use kpkeys_hosted::mmu::{Privilege, Want};
    use kpkeys_pgtable::VirtAddr;
    let page = VirtAddr(0xffff_0000_0000_0000 | 400 << 39 | 1 << 30 | 5 << 21 | 511 << 12 | 8);
    for va in [page, VirtAddr(0xffff_0000_0000_0000 | 400 << 39 | 0x1234_5678)] {
        for want in [Want::Read, Want::Write, Want::Execute] {
            let access =
                |mmu: &kpkeys_hosted::mmu::Mmu<'_, _>| mmu.access(va, want, Privilege::Kernel);
            assert_eq!(access(&new), access(&old), "{va:?} {want:?}");
        }
    }
    for frame in (0..MEMORY_PAGES).map(|page| MEMORY + page * 4096) {
        let at = support::linear_address(frame, 0);
        let is_table = system.table_pages().any(|page| page == frame);
        let write = |mmu: &kpkeys_hosted::mmu::Mmu<'_, _>| {
            mmu.access(at, Want::Write, Privilege::Kernel).is_ok()
        };
        assert!(write(&old));
        assert_eq!(write(&new), !is_table, "{frame}");
    }
    kernel.map_alias(NORMAL).unwrap();
    kernel.mark_active();
    let mut given_back = Vec::new();
    // SAFETY: the model's CPU has no TLB, and uses the new tables.
    unsafe {
        system.pool.protect().unwrap();
        existing.give_back(&system.pool, |table| given_back.push(table)).unwrap();
    }
    let tables = [2, 1, 5, 4, 3, 0].map(|n| PhysicalAddress(OLD_ROOT.0 + n * 4096));
    assert_eq!(given_back, tables, "those below first");
}

fn tables_that_cannot_be_copied_are_refused_with_the_reason<S: Protection>() {
    let system = System::<S>::new(32);
    let existing = Foreign(&system).make();
    let free = system.pool.free_pages();
    let refused = |existing: &Existing| {
        // SAFETY: whatever is wrong with them is found by a walk inside the arena.
        let error = unsafe { Tables::adopt(&system.pool, existing, 0) }.unwrap_err();
        assert_eq!(system.pool.free_pages(), free, "{error}: nothing is kept");
        error
    };
    let root = PhysicalAddress(OLD_ROOT.0 + 0x80);
    assert_eq!(refused(&Existing { root, ..existing.clone() }), Error::Misaligned(root.0));
    let short = existing.linear_memory.start..PhysicalAddress(OLD_ROOT.0 + 3 * 4096);
    let outside = PhysicalAddress(OLD_ROOT.0 + 3 * 4096);
    let error = refused(&Existing { linear_memory: short, ..existing.clone() });
    assert_eq!(error, Error::OutsideLinearMap(outside));
    let va = |index: usize| VirtualAddress(0xffff_0000_0000_0000 + (index << 39));
    for (entry, error) in [
        (OLD_ROOT.0 as u64 | 3, Error::Recursive(OLD_ROOT)),
        (0x10_0000_0000_0003, Error::OutsideLinearMap(PhysicalAddress(0))),
        ((OLD_ROOT.0 as u64 + 0x3003) | (1 << 62), Error::TableAttributes(va(300))),
        (0xff0, Error::UnknownEntry(va(300))),
    ] {
        system.plant(OLD_ROOT, 300, entry);
        assert_eq!(refused(&existing), error);
    }
    // A second mapping of table memory, which would stay writable.
    let tables = system.pool.layout().start;
    system.plant(OLD_ROOT, 300, 0);
    let evil = PhysicalAddress(OLD_ROOT.0 + 5 * 4096);
    system.plant(evil, 0, (tables.0 | NORMAL.bits() | 2) as u64);
    assert!(matches!(refused(&existing), Error::TableMemory(_)));
}

for_both!(
    table_memory_is_mapped_as_nothing_else,
    ranges_are_checked_as_the_wrapped_crate_does,
    below_a_block_with_the_same_flags,
    an_entry_that_leads_out_of_table_memory_is_not_followed,
    tables_in_use_are_kept,
    existing_tables_are_copied_but_for_table_memory,
    tables_that_cannot_be_copied_are_refused_with_the_reason,
);

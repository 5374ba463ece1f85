//! Tables of `patina_paging` behind windows: attacked, counted, and compared with the bare crate's. Every store outside of a window would be
//! SIGSEGV: the crate takes a physical address for a pointer, and there the memory of this machine is read-only.
#![cfg(target_arch = "x86_64")]

mod firmware;

use firmware::support::{frame_of, tables, write};
use firmware::{Bare, Booted, DATA, HeapPages, Pages, READ_ONLY, SMALL, START, device, regions};
use kpkeys::Pkey;
use kpkeys_hosted::mmu::Fault;
use kpkeys_pgtable::Level;
use kpkeys_x86_64::AdoptError;
use patina_paging::x64::X64PageTable;
use patina_paging::{MemoryAttributes, PageTable, PagingType, PtError};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));
const HUGE: u64 = SMALL << 9;
const GIANT: u64 = HUGE << 9;

fn at(page: u64) -> u64 {
    START + page * SMALL
}

#[test]
fn a_store_to_any_table_works_before_and_faults_after() {
    let mut bare = Bare::new();
    bare.map(at(0), device(0), SMALL, DATA);
    let before: Vec<_> = bare.tables();
    assert!((1..=4).all(|level| before.iter().any(|table| table.0 == level)));
    assert!(before.iter().all(|table| bare.attack(table.1, 3) == Ok(())));

    let mut booted = bare.harden().map_err(|(error, _)| error).unwrap();
    assert!(before.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    booted.tables.map_aliased_memory_region(at(1 << 27), device(1), SMALL, DATA).unwrap();
    let after = tables(&booted.arena, booted.root());
    assert_eq!(after.len(), before.len() + 3);
    assert!(after.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    let data = booted.frames().next_free();
    assert_eq!(booted.attack(data, 0), Ok(()));
}

/// What the wrapped crate's README shows, and what its tests `test_remap_memory_address_mixed_attributes`, `test_query_memory_address_simple` and
/// `test_unmap_memory_address_partially_unmapped` do and expect, in hardened tables. (At other addresses: there, memory is one to one.)
#[test]
fn the_crates_own_example_and_tests_run() {
    let mut booted = Booted::new();
    let pt = &mut booted.tables;
    let base = 0x7000_0000_0000;
    let page = |n: u64| base + n * SMALL;
    let none = MemoryAttributes::empty();
    let mixed = [MemoryAttributes::ReadOnly, MemoryAttributes::ExecuteProtect, none, READ_ONLY];
    for (n, attributes) in (0..).zip(mixed) {
        pt.map_memory_region(page(n), SMALL, attributes).unwrap();
    }
    for (n, attributes) in (0..).zip(mixed) {
        assert_eq!(pt.query_memory_region(page(n), SMALL), Ok(attributes));
    }
    pt.map_memory_region(base, 4 * SMALL, MemoryAttributes::ExecuteProtect).unwrap();
    let all = pt.query_memory_region(base, 4 * SMALL);
    assert_eq!(all, Ok(MemoryAttributes::ExecuteProtect));

    pt.unmap_memory_region(page(1), SMALL).unwrap();
    pt.unmap_memory_region(base, 4 * SMALL).unwrap();
    assert!((0..4).all(|n| pt.query_memory_region(page(n), SMALL).is_err()));

    // Ten times a GiB and a page, so that blocks of each size and pages are met.
    let (much, attributes) = (10 * GIANT, MemoryAttributes::ReadOnly);
    pt.map_memory_region(page(1), much, attributes).unwrap();
    assert_eq!(pt.query_memory_region(page(1), much), Ok(attributes));
    let every = tables(&booted.arena, booted.root());
    assert!(every.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    booted.tables.unmap_memory_region(page(1), much).unwrap();
    assert!(booted.tables.query_memory_region(page(1), much).is_err());
}

/// The way past any key that the wrapped crate's own tables have: entries are mapped by the entries above them.
#[test]
fn the_map_of_the_tables_themselves_goes() {
    let bare = Bare::new();
    let (root, through) = (bare.root(), 0xffff_ffff_ffff_f000);
    assert_eq!(bare.attack_at(through), Ok(()), "the root, by the map of itself");
    let booted = bare.harden().map_err(|(error, _)| error).unwrap();
    assert_eq!(booted.attack_at(through), Err(Fault::NotPresent(Level::Pgd)));
    assert_eq!(booted.attack(root, 511), BLOCKED);
}

#[test]
fn tables_that_cannot_be_adopted_are_as_they_were() {
    let mut bare = Bare::new();
    // A second mapping of the root, writable.
    let root = bare.root().start_address().as_u64();
    bare.map(at(0), root, SMALL, DATA);
    let before = bare.contents();
    let (error, bare) = bare.harden().err().expect("refused");
    assert!(matches!(error, AdoptError::WritableElsewhere { .. }), "{error}");
    assert_eq!(bare.contents(), before, "with the map of itself");
    assert_eq!(bare.attack_at(0xffff_ffff_ffff_f000), Ok(()));
    drop(bare);

    let bare = Bare::new();
    write(&bare.arena, bare.root(), 9, bare.root().start_address().as_u64() | 0b11);
    let (error, _) = bare.harden().err().expect("refused");
    assert!(matches!(error, AdoptError::Recursive { index: 9, .. }), "{error}");
}

#[test]
fn a_call_is_one_window_and_a_range_one_for_512_entries() {
    let mut booted = Booted::new();
    booted.tables.map_aliased_memory_region(at(0), device(0), SMALL, DATA).unwrap();
    // A key each for three tables, one to link them, one to put them in stock, one for the call; a flush for all.
    assert_eq!(booted.cost(), (6, 1), "map, with three tables");
    booted.tables.map_aliased_memory_region(at(1), device(1), SMALL, DATA).unwrap();
    assert_eq!(booted.cost(), (1, 0), "map");
    booted.tables.map_aliased_memory_region(at(1), device(1), SMALL, READ_ONLY).unwrap();
    assert_eq!(booted.cost(), (1, 0), "other attributes");
    assert_eq!(booted.tables.query_memory_region(at(1), SMALL), Ok(READ_ONLY));
    assert_eq!(booted.cost(), (0, 0), "query");
    booted.tables.unmap_memory_region(at(1), SMALL).unwrap();
    assert_eq!(booted.cost(), (1, 0), "unmap");

    booted.reserve(4);
    booted.cost();
    booted.tables.map_aliased_memory_region(at(512), device(513), 1024 * SMALL, DATA).unwrap();
    assert_eq!(booted.cost(), (2, 0), "map, of pages");
    booted.tables.unmap_memory_region(at(512), 1024 * SMALL).unwrap();
    assert_eq!(booted.cost(), (2, 0), "unmap");
    let blocks = 1 << 18;
    booted.tables.map_aliased_memory_region(at(blocks), device(512), GIANT, DATA).unwrap();
    assert_eq!(booted.cost(), (1, 0), "map, of 512 blocks");
    booted.tables.unmap_memory_region(at(blocks), HUGE).unwrap();
    assert_eq!(booted.cost(), (1, 0), "unmap, of one");
    // SAFETY: calls of the tables alone.
    let batch = unsafe {
        booted.tables.change(0, |view| {
            (0..9).all(|page| {
                view.map_aliased_memory_region(at(100 + page), device(page), SMALL, DATA).is_ok()
            })
        })
    };
    assert_eq!((batch, booted.cost()), (Ok(true), (1, 0)), "change");
}

#[test]
fn an_allocation_that_fails_changes_nothing_and_loses_no_frame() {
    for there in 0..3 {
        let mut booted = Booted::new();
        let before = regions(&booted.tables);
        booted.frames().left = there;
        let failed = booted.tables.map_aliased_memory_region(at(0), device(0), SMALL, DATA);
        assert_eq!(failed, Err(PtError::OutOfResources), "what the allocator says");
        assert_eq!(regions(&booted.tables), before);
        assert_eq!(booted.protection.reserved(), there);
        booted.frames().left = 3 - there;
        booted.tables.map_aliased_memory_region(at(0), device(0), SMALL, DATA).unwrap();
        assert_eq!((booted.frames().left, booted.protection.reserved()), (0, 0));
    }
}

#[test]
fn what_maps_a_table_is_left_alone() {
    let mut booted = Booted::new();
    let root = booted.root().start_address().as_u64();
    let refused = Err(PtError::IncompatibleMemoryAttributes);
    assert_eq!(booted.tables.map_memory_region(root, SMALL, DATA), refused);
    assert_eq!(booted.tables.unmap_memory_region(root, SMALL), refused);
    // Blocks in the place of the tables that map them.
    let memory = root & !(HUGE - 1);
    assert_eq!(booted.tables.map_memory_region(memory, HUGE, DATA), refused);
    assert_eq!(booted.attack(booted.root(), 0), BLOCKED);
}

#[test]
fn a_range_that_is_none_is_refused_as_by_the_bare_crate() {
    let mut booted = Booted::new();
    let mut bare = X64PageTable::new(HeapPages, PagingType::Paging4Level).unwrap();
    for (at, size) in [
        (START, 0),
        (START + 1, SMALL),
        (START, SMALL - 1),
        (0x7fff_ffff_f000, 2 * SMALL),
        (1 << 50, SMALL),
        (0xffff_ff00_0000_0000, SMALL),
        (0xffff_ffff_ffff_f000, SMALL),
        (0xffff_ffff_ffff_f000, 2 * SMALL),
    ] {
        let refused = booted.tables.map_aliased_memory_region(at, device(0), size, DATA);
        assert!(refused.is_err(), "{at:#x} {size:#x}");
        assert_eq!(refused, bare.map_aliased_memory_region(at, device(0), size, DATA));
        let refused = booted.tables.unmap_memory_region(at, size);
        assert_eq!(refused, bare.unmap_memory_region(at, size), "{at:#x} {size:#x}");
    }
    let unaligned = booted.tables.map_aliased_memory_region(START, 1, SMALL, DATA);
    assert_eq!(unaligned, Err(PtError::UnalignedAddress));
}

/// What the bare crate does wrong with a block, and what is done here: see the README.
#[test]
fn blocks_are_neither_misplaced_nor_in_the_way() {
    let mut booted = Booted::new();
    let mut bare = X64PageTable::new(HeapPages, PagingType::Paging4Level).unwrap();
    let mut both = |va: u64, pa: u64, size: u64, attributes| {
        let ours = booted.tables.map_aliased_memory_region(va, pa, size, attributes);
        (ours, bare.map_aliased_memory_region(va, pa, size, attributes))
    };
    assert_eq!(both(at(0), device(0), HUGE, DATA), (Ok(()), Ok(())));
    // From the middle of a block that stays as it is, on.
    assert_eq!(both(at(256), device(256), HUGE, DATA), (Ok(()), Ok(())));
    // A block in the place of which there are to be pages.
    let there = both(at(1 << 18), device(1 << 18), HUGE, DATA);
    assert_eq!(there, (Ok(()), Ok(())));
    let pages = both(at(1 << 18), device(1), HUGE, DATA);
    assert_eq!(pages, (Ok(()), Err(PtError::InternalError)));

    let to = |regions: &[(u64, u64, u64, MemoryAttributes)], va: u64| {
        let found = regions.iter().find(|region| (region.0..region.0 + region.2).contains(&va));
        found.map(|region| region.1 + va - region.0)
    };
    let ours = regions(&booted.tables);
    let theirs = firmware::coalesced(bare.iter_mapped_regions(None));
    assert_eq!(to(&ours, at(600)), Some(device(600)));
    assert_eq!(to(&theirs, at(600)), Some(device(600 - 256)), "11.1 maps the wrong memory");
    assert_eq!(to(&ours, at((1 << 18) + 5)), Some(device(6)));
}

#[test]
fn every_call_does_what_the_bare_crate_does_page_by_page() {
    let mut booted = Booted::new();
    let mut bare = X64PageTable::new(HeapPages, PagingType::Paging4Level).unwrap();
    let linear = regions(&booted.tables);
    let mut state = 7u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let attributes = [
        DATA,
        READ_ONLY,
        MemoryAttributes::ReadOnly,
        MemoryAttributes::ReadProtect | MemoryAttributes::ExecuteProtect,
    ];
    for step in 0..300 {
        let first = (random(2) << 27) + (random(2) << 18) + (random(3) << 9) + random(3) * 300;
        let (pages, attributes) =
            ([random(600), random(3) << 9][random(2) as usize], attributes[random(4) as usize]);
        let unmap = random(3) == 0;
        let (va, bytes) = (at(first), pages * SMALL);
        let ours = match unmap {
            true => booted.tables.unmap_memory_region(va, bytes),
            false => booted.tables.map_aliased_memory_region(va, device(first), bytes, attributes),
        };
        assert_eq!(ours.is_ok(), pages > 0, "step {step}: {ours:?}");
        for page in first..first + pages {
            let theirs = match unmap {
                true => bare.unmap_memory_region(at(page), SMALL),
                false => bare.map_aliased_memory_region(at(page), device(page), SMALL, attributes),
            };
            assert_eq!(theirs, Ok(()), "step {step}");
        }
        if step % 10 == 0 {
            let mut ours = regions(&booted.tables);
            ours.retain(|region| !linear.contains(region));
            let theirs = firmware::coalesced(bare.iter_mapped_regions(None));
            assert_eq!(ours, theirs, "step {step}");
            let queried = booted.tables.query_memory_region(va, bytes.max(SMALL));
            assert_eq!(queried, bare.query_memory_region(va, bytes.max(SMALL)), "step {step}");
        }
    }
    for (level, table) in tables(&booted.arena, booted.root()) {
        assert_eq!(booted.attack(table, 7), BLOCKED, "level {level}");
    }
}

/// The example of the wrapped crate's documentation.
#[test]
fn the_example_of_the_wrapped_crate() {
    let mut booted = Booted::new();
    let attributes = MemoryAttributes::ReadOnly | MemoryAttributes::Writeback;
    booted.tables.map_memory_region(0x1000, 0x2000, attributes).unwrap();
    booted.tables.install_page_table().unwrap();
    let found = booted.tables.query_memory_region(0x1000, 0x2000);
    assert_eq!(found, Ok(MemoryAttributes::ReadOnly));
    assert!(tables(&booted.arena, booted.root()).iter().all(|t| booted.attack(t.1, 1) == BLOCKED));
}

#[test]
fn an_address_space_has_the_kernels_half() {
    let mut booted = Booted::new();
    booted.tables.map_aliased_memory_region(at(0), device(0), SMALL, DATA).unwrap();
    let pages = Pages(booted.pages());
    // SAFETY: no CPU uses the root.
    let mut space =
        unsafe { kpkeys_patina_paging::HardenedPageTable::new(booted.protection, pages) }.unwrap();
    space.map_aliased_memory_region(0x1000, device(7), SMALL, DATA).unwrap();
    assert_eq!(space.query_memory_region(at(0), SMALL), Ok(DATA));
    assert_eq!(booted.tables.query_memory_region(0x1000, SMALL), Err(PtError::NoMapping));
    assert_eq!(booted.attack(frame_of(space.root()), 0), BLOCKED);
}

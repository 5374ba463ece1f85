//! Tables of `page-table-generic` behind windows: attacked, counted, and compared with the bare crate's. Every store outside of a window would
//! be SIGSEGV.
#![cfg(target_arch = "x86_64")]

mod kernel;

use kernel::support::{OFFSET, contents, frame_of, tables};
use kernel::{
    Bare, Booted, DATA, GIANT, HUGE, READ_ONLY, SMALL, START, at, device, flushed, mapping,
};
use kpkeys::Pkey;
use kpkeys_hosted::mmu::Fault;
use page_table_generic::{FrameAllocator, MapConfig, PagingError, PhysAddr, VirtAddr};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));

fn pages(first: usize, count: usize) -> MapConfig<u64> {
    mapping(at(first).as_usize(), device(first).as_usize(), count * SMALL)
}

#[test]
fn a_store_to_any_table_works_before_and_faults_after() {
    let mut bare = Bare::new();
    bare.tables.map(&pages(0, 1)).unwrap();
    let before = tables(&bare.arena, bare.root());
    assert!((1..=4).all(|level| before.iter().any(|table| table.0 == level)));
    assert!(before.iter().all(|table| bare.attack(table.1, 3) == Ok(())));

    let mut booted = bare.harden();
    assert!(before.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    booted.tables.map(&pages(1 << 27, 1)).unwrap();
    let after = tables(&booted.arena, booted.root());
    assert_eq!(after.len(), before.len() + 3);
    assert!(after.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    let data = booted.allocator.alloc_frame().unwrap();
    assert_eq!(booted.attack(frame_of(data.as_usize() as u64), 0), Ok(()));
}

#[test]
fn tables_of_an_address_space_are_protected_and_data_again_after_it() {
    let booted = Booted::new();
    let left = booted.allocator.left();
    let mut space = booted.space();
    space.map(&mapping(0x1000, device(0).as_usize(), SMALL)).unwrap();
    space.map(&mapping(0x7fff_ffff_f000, device(0).as_usize(), SMALL)).unwrap();
    let root = frame_of(space.root_paddr().as_usize() as u64);
    let own = tables(&booted.arena, root);
    let kernel = tables(&booted.arena, booted.root());
    let own: Vec<_> = own.into_iter().filter(|table| !kernel.contains(table)).collect();
    assert_eq!(own.len(), 7);
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == BLOCKED));
    booted.cost();
    drop(space);
    // A window for the call, one to take the root back and one for each key; flushes before the first key is taken and after, of tables and root.
    assert_eq!(booted.cost(), (2 + 7, 4));
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == Ok(())));
    assert_eq!(booted.allocator.left(), left);
    assert_eq!(tables(&booted.arena, booted.root()), kernel, "the kernel's stay");
}

/// What the wrapped crate's tests `test_new_l4` and `test_huge` do and expect, in hardened tables.
#[test]
fn the_crates_own_tests_run() {
    let booted = Booted::new();
    let mut high = booted.space();
    let first = 0x0000_7000_0000_0000;
    high.map(&MapConfig { flush: false, ..mapping(first, 0, 2 * SMALL) }).unwrap();
    let lower = |tables: &kernel::Tables| -> Vec<(usize, usize)> {
        let leaves = tables.inner().walk(VirtAddr::from_usize(0), VirtAddr::from_usize(1 << 47));
        let leaves = leaves.filter(|leaf| leaf.is_final_mapping);
        leaves.map(|leaf| (leaf.vaddr.as_usize(), leaf.level)).collect()
    };
    assert_eq!(lower(&high), [(first, 1), (first + SMALL, 1)]);

    let mut huge = booted.space();
    let all = MapConfig { allow_huge: true, ..mapping(0, 0, HUGE + 3 * SMALL) };
    huge.map(&MapConfig { flush: false, ..all }).unwrap();
    let pages = [0, 1, 2].map(|page| (HUGE + page * SMALL, 1));
    assert_eq!(lower(&huge), [&[(0, 2)], &pages[..]].concat());
    for space in [&high, &huge] {
        let root = frame_of(space.root_paddr().as_usize() as u64);
        let own = tables(&booted.arena, root);
        assert!(own.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    }
}

#[test]
fn tables_made_by_the_bare_crate_join() {
    let booted = Booted::new();
    let mut made = kernel::BareTables::new(booted.allocator.clone()).unwrap();
    made.map(&mapping(0x1000, device(0).as_usize(), SMALL)).unwrap();
    let root = frame_of(made.root_paddr().as_usize() as u64);
    let own = tables(&booted.arena, root);
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == Ok(())));
    // SAFETY: tables of x86-64 that no CPU uses, whose upper half is empty.
    let space = unsafe { kernel::Tables::join(booted.protection, made, booted.allocator.clone()) };
    let space = space.map_err(|(error, _)| error).unwrap();
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == BLOCKED));
    drop(space);
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == Ok(())));

    // Tables that lead back to themselves are refused, and given back as they were.
    let mut recursive = kernel::BareTables::new(booted.allocator.clone()).unwrap();
    recursive.map(&mapping(0x1000, device(0).as_usize(), SMALL)).unwrap();
    let root = frame_of(recursive.root_paddr().as_usize() as u64);
    kernel::support::write(&booted.arena, root, 9, root.start_address().as_u64() | 0b11);
    // SAFETY: as above.
    let refused =
        unsafe { kernel::Tables::join(booted.protection, recursive, booted.allocator.clone()) };
    let (error, tables) = refused.expect_err("recursive");
    assert!(matches!(error, kpkeys_x86_64::AdoptError::Recursive { .. }), "{error}");
    assert_eq!(booted.attack(root, 0), Ok(()));
    kernel::support::write(&booted.arena, root, 9, 0);
    drop(tables);
}

#[test]
fn a_call_is_one_window_and_a_range_one_for_512_entries() {
    let mut booted = Booted::new();
    booted.tables.map(&pages(0, 1)).unwrap();
    // A key each for three tables, one to link them, one to put them in stock, one for the call; a flush for all.
    assert_eq!(booted.cost(), (6, 1), "map, with three tables");
    booted.tables.map(&pages(1, 1)).unwrap();
    assert_eq!(booted.cost(), (1, 0), "map");
    booted.tables.protect_page(at(1), READ_ONLY).unwrap();
    assert_eq!(booted.cost(), (1, 0), "protect_page");
    booted.tables.remap_page(at(1), device(2), DATA).unwrap();
    assert_eq!(booted.cost(), (1, 0), "remap_page");
    assert_eq!(booted.tables.inner().query(at(1)), Ok((device(2), DATA, SMALL)));
    assert_eq!(booted.cost(), (0, 0), "query");
    booted.tables.unmap_page(at(1)).unwrap();
    assert_eq!(booted.cost(), (1, 0), "unmap_page");

    booted.protection.reserve(4, &mut *booted.allocator.frames.lock().unwrap()).unwrap();
    booted.cost();
    booted.tables.map(&pages(512, 1024)).unwrap();
    assert_eq!(booted.cost(), (2, 0), "map");
    booted.tables.protect_region(at(512), 1024 * SMALL, READ_ONLY).unwrap();
    assert_eq!(booted.cost(), (2, 0), "protect_region");
    booted.tables.unmap(at(512), 1024 * SMALL).unwrap();
    // One for each of the two tables that become empty, and their keys; flushes before and after, for both.
    assert_eq!(booted.cost(), (2 + 2, 2), "unmap, with two tables");
    booted.tables.map(&MapConfig { allow_huge: true, ..pages(1 << 18, 1 << 18) }).unwrap();
    assert_eq!(booted.cost(), (1, 0), "a block");
    // SAFETY: calls of the view alone.
    let batch = unsafe {
        booted.tables.change(0, |view| (0..9).all(|page| view.map(&pages(100 + page, 1)).is_ok()))
    };
    assert_eq!((batch, booted.cost()), (Ok(true), (1, 0)), "change");
}

/// [`kernel::FourLevels`] refuses to flush in a window.
#[test]
fn flushes_are_the_kernels_and_after_the_window() {
    let mut booted = Booted::new();
    booted.tables.map(&pages(0, 600)).unwrap();
    assert_eq!(flushed(), [], "nothing that was mapped is changed");
    booted.tables.protect_page(at(3), READ_ONLY).unwrap();
    booted.tables.remap_page(at(4), device(7), DATA).unwrap();
    booted.tables.unmap(at(5), SMALL).unwrap();
    assert_eq!(flushed(), [3, 4, 5].map(|page| Some(at(page))));
    booted.tables.unmap(at(0), 600 * SMALL).unwrap();
    assert_eq!(flushed(), [None], "once for all");
}

#[test]
fn an_allocation_that_fails_changes_nothing_and_loses_no_frame() {
    for there in 0..3 {
        let mut booted = Booted::new();
        let before = contents(&booted.arena, booted.root());
        booted.allocator.leave(there);
        assert_eq!(booted.tables.map(&pages(0, 1)), Err(PagingError::NoMemory));
        assert_eq!(contents(&booted.arena, booted.root()), before);
        assert_eq!(booted.protection.reserved(), there);
        booted.allocator.leave(3 - there);
        booted.tables.map(&pages(0, 1)).unwrap();
        assert_eq!((booted.allocator.left(), booted.protection.reserved()), (0, 0));
    }
    // Splitting a block needs tables, too.
    let mut booted = Booted::new();
    booted.tables.map(&MapConfig { allow_huge: true, ..pages(0, 1 << 18) }).unwrap();
    let before = contents(&booted.arena, booted.root());
    booted.allocator.leave(2);
    let failed = booted.tables.protect_region(at(1), GIANT - HUGE, READ_ONLY);
    assert_eq!(failed, Err(PagingError::NoMemory), "the 1 GiB block and two of 2 MiB");
    assert_eq!(contents(&booted.arena, booted.root()), before);
    booted.allocator.leave(1);
    booted.tables.protect_region(at(1), GIANT - HUGE, READ_ONLY).unwrap();
    assert_eq!((booted.allocator.left(), booted.protection.reserved()), (0, 0));
}

#[test]
fn what_maps_a_table_is_left_alone() {
    let mut booted = Booted::new();
    let root = booted.tables.root_paddr();
    let linear = VirtAddr::from_usize(OFFSET as usize + root.as_usize());
    let refused = Err(PagingError::mapping_conflict(linear, root));
    assert_eq!(booted.tables.protect_page(linear, DATA), refused.clone());
    assert_eq!(booted.tables.remap_page(linear, device(0), DATA), refused.clone());
    assert_eq!(booted.tables.unmap_page(linear).map(|_| 0), refused.clone());
    assert_eq!(booted.tables.unmap(linear, SMALL), refused.clone().map(drop));
    assert_eq!(booted.tables.protect_region(linear, SMALL, DATA), refused.map(drop));
    assert_eq!(booted.attack(booted.root(), 0), BLOCKED);
}

#[test]
fn a_range_that_is_none_is_refused_as_by_the_bare_crate() {
    let mut booted = Booted::new();
    let mut bare = Bare::new();
    let last = usize::MAX - (SMALL - 1);
    for (at, to, size) in [
        (START, 0, 0),
        (START + 1, 0, SMALL),
        (START, 1, SMALL),
        (last, 0, 2 * SMALL),
        (START, last, 2 * SMALL),
    ] {
        let refused = booted.tables.map(&mapping(at, to, size));
        assert!(refused.is_err(), "{at:#x} {to:#x} {size:#x}");
        assert_eq!(refused, bare.tables.map(&mapping(at, to, size)));
    }
    for (at, size) in [(START, 0), (START + 1, SMALL), (START, SMALL - 1), (last, 2 * SMALL)] {
        let at = VirtAddr::from_usize(at);
        assert_eq!(booted.tables.unmap(at, size), bare.tables.unmap(at, size));
    }
    assert!(booted.tables.protect_region(at(0), SMALL - 1, DATA).is_err());
    assert!(booted.tables.map_page(at(0), device(0), 3, DATA).is_err());
}

#[test]
fn every_call_does_what_the_bare_crate_does() {
    let mut booted = Booted::new();
    let mut bare = Bare::new();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let flags = [DATA, READ_ONLY, DATA | 0b100, 1 << 9];
    let mut done = [0; 7];
    for step in 0..1000 {
        let first = (random(2) << 27) + (random(2) << 18) + (random(3) << 9) + random(3);
        let (page, to) = (at(first), device((random(2) << 18) + first * random(2)));
        let (pte, size) = (flags[random(4)], [SMALL, SMALL, HUGE, GIANT][random(4)]);
        let bytes = [random(600) * SMALL, random(3) * HUGE, GIANT][random(3)];
        let allow_huge = random(2) == 0;
        let map = MapConfig { vaddr: page, paddr: to, size: bytes, pte, allow_huge, flush: true };
        let call = random(7);
        let (ours, theirs) = (&mut booted.tables, &mut bare.tables);
        let (ours, theirs) = match call {
            0 => (format!("{:?}", ours.map(&map)), format!("{:?}", theirs.map(&map))),
            1 => (
                format!("{:?}", ours.map_page(page, to, size, pte)),
                format!("{:?}", theirs.map_page(page, to, size, pte)),
            ),
            2 => (
                format!("{:?}", ours.unmap(page, bytes)),
                format!("{:?}", unmap_by_tables(theirs, page, bytes)),
            ),
            3 => (
                format!("{:?}", ours.protect_region(page, bytes, pte)),
                format!("{:?}", theirs.protect_region(page, bytes, pte)),
            ),
            4 => (
                format!("{:?}", ours.remap_page(page, to, pte)),
                format!("{:?}", theirs.remap_page(page, to, pte)),
            ),
            5 => (format!("{:?}", ours.unmap_page(page)), format!("{:?}", theirs.unmap_page(page))),
            _ => (
                format!("{:?}", ours.protect_page(page, pte)),
                format!("{:?}", theirs.protect_page(page, pte)),
            ),
        };
        done[call] += usize::from(ours.starts_with("Ok"));
        assert_eq!(ours, theirs, "step {step}: {map:?}");
        let found = (booted.tables.inner().query(page), bare.tables.query(page));
        assert_eq!(found.0, found.1, "step {step}");
        if step % 50 == 0 {
            let same = contents(&booted.arena, booted.root()) == contents(&bare.arena, bare.root());
            assert!(same, "tables differ at step {step}");
        }
    }
    assert!(done.iter().all(|&done| done > 15), "calls that did something: {done:?}");
    for (level, table) in tables(&booted.arena, booted.root()) {
        assert_eq!(booted.attack(table, 7), BLOCKED, "level {level}");
    }
}

/// What the bare crate means to do: see [`what_follows_a_hole_is_unmapped`].
fn unmap_by_tables(
    tables: &mut kernel::BareTables,
    at: VirtAddr,
    bytes: usize,
) -> Result<(), PagingError> {
    if bytes == 0 {
        return tables.unmap(at, bytes);
    }
    let mut done = 0;
    while done < bytes {
        let piece = (HUGE - (at + done).as_usize() % HUGE).min(bytes - done);
        tables.unmap(at + done, piece)?;
        done += piece;
    }
    Ok(())
}

/// The bare crate goes on by the size of a hole from where it came into it, past what follows.
#[test]
fn what_follows_a_hole_is_unmapped() {
    let (mut bare, mut booted) = (Bare::new(), Booted::new());
    bare.tables.map(&pages(512, 4)).unwrap();
    booted.tables.map(&pages(512, 4)).unwrap();
    bare.tables.unmap(at(100), 512 * SMALL).unwrap();
    assert!(bare.tables.is_mapped(at(512)), "0.9 leaves it mapped");
    booted.tables.unmap(at(100), 512 * SMALL).unwrap();
    assert!((512..516).all(|page| !booted.tables.inner().is_mapped(at(page))));
}

/// The wrapped crate has no example; this is what its documentation says of a kernel half that address spaces share: what is mapped below a
/// root entry that was there when they were made is seen by all.
#[test]
fn the_kernels_half_is_shared() {
    let mut booted = Booted::new();
    booted.tables.map(&pages(0, 1)).unwrap();
    let space = booted.space();
    booted.tables.map(&pages(7, 1)).unwrap();
    let found = space.inner().translate_phys(at(7));
    assert_eq!(found, Ok(PhysAddr::from_usize(device(7).as_usize())));
}

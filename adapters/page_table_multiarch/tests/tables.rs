//! Tables of `page_table_multiarch` behind windows: attacked, counted, and compared with the bare crate's. Every store outside of a window would
//! be SIGSEGV.
#![cfg(target_arch = "x86_64")]

mod kernel;

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use kernel::support::{Frames, PAGES, contents, frame_of, tables};
use kernel::{Booted, DATA, Tables, at, device, with_frames};
use kpkeys::Pkey;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_hosted::mmu::Fault;
use memory_addr::{MemoryAddr, PhysAddr, VirtAddr};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize, PagingError, PagingHandler};
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));
const SMALL: PageSize = PageSize::Size4K;

#[test]
fn a_store_to_any_table_works_before_and_faults_after() {
    let mut booted = Booted::new();
    booted.tables.map(at(0), device(0), SMALL, DATA).unwrap();
    let before = tables(&booted.arena, booted.root());
    assert!((1..=4).all(|level| before.iter().any(|table| table.0 == level)));
    assert!(before.iter().all(|table| booted.attack(table.1, 3) == Ok(())));
    booted.harden();
    assert!(before.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));

    booted.tables.map(at(1 << 27), device(1), SMALL, DATA).unwrap();
    let after = tables(&booted.arena, booted.root());
    assert_eq!(after.len(), before.len() + 3);
    assert!(after.iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    let data = with_frames(|frames| frames.allocate_frame()).unwrap();
    assert_eq!(booted.attack(data, 0), Ok(()));
}

#[test]
fn tables_of_an_address_space_are_protected_and_data_again_after_it() {
    let booted = Booted::hardened();
    let left = with_frames(|frames| frames.left);
    let mut space = Tables::try_new().unwrap();
    space.map(VirtAddr::from_usize(0x1000), device(0), SMALL, DATA).unwrap();
    space.map(VirtAddr::from_usize(0x7fff_ffff_f000), device(0), SMALL, DATA).unwrap();
    let root = frame_of(space.root_paddr().as_usize() as u64);
    let own = tables(&booted.arena, root);
    assert_eq!(own.len(), 7);
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == BLOCKED));
    booted.cost();
    drop(space);
    // A window for the call and one for each key; flushes before the first key is taken and after.
    assert_eq!(booted.cost(), (1 + 7, 2));
    assert!(own.iter().all(|table| booted.attack(table.1, 0) == Ok(())));
    assert_eq!(with_frames(|frames| frames.left), left);
}

#[test]
fn a_call_is_one_window_and_a_range_one_for_512_pages() {
    let mut booted = Booted::hardened();
    booted.tables.map(at(0), device(0), SMALL, DATA).unwrap();
    // A key each for three tables, one to link them, one to put them in stock, one for the call; a flush for all.
    assert_eq!(booted.cost(), (6, 1), "map, with three tables");
    booted.tables.map(at(1), device(1), SMALL, DATA).unwrap();
    assert_eq!(booted.cost(), (1, 0), "map");
    booted.tables.protect(at(1), MappingFlags::READ).unwrap();
    assert_eq!(booted.cost(), (1, 0), "protect");
    booted.tables.remap(at(1), device(2), DATA).unwrap();
    assert_eq!(booted.cost(), (1, 0), "remap");
    assert_eq!(booted.tables.query(at(1)), Ok((device(2), DATA, SMALL)));
    assert_eq!(booted.cost(), (0, 0), "query");
    booted.tables.unmap(at(1)).unwrap();
    assert_eq!(booted.cost(), (1, 0), "unmap");

    let to = |page: VirtAddr| device((page.as_usize() - kernel::START) / 4096);
    booted.protection().reserve(4, &mut Stock).unwrap();
    booted.cost();
    booted.tables.map_region(at(512), to, 1024 * 4096, DATA).unwrap();
    assert_eq!(booted.cost(), (2, 0), "map_region");
    booted.tables.protect_region(at(512), 1024 * 4096, MappingFlags::READ).unwrap();
    assert_eq!(booted.cost(), (2, 0), "protect_region");
    booted.tables.unmap_region(at(512), 1024 * 4096).unwrap();
    assert_eq!(booted.cost(), (2, 0), "unmap_region");
    // SAFETY: calls of the cursor alone.
    let batch = unsafe {
        booted.tables.change(0, |cursor| {
            (0..9).all(|page| cursor.map(at(100 + page), device(page), SMALL, DATA).is_ok())
        })
    };
    assert_eq!((batch, booted.cost()), (Ok(true), (1, 0)), "change");
}

/// The kernel's frames, as the `x86_64` crate wants them.
struct Stock;

// SAFETY: the kernel's allocator.
unsafe impl FrameAllocator<x86_64::structures::paging::Size4KiB> for Stock {
    fn allocate_frame(&mut self) -> Option<x86_64::structures::paging::PhysFrame> {
        with_frames(|frames| frames.allocate_frame())
    }
}

#[test]
fn an_allocation_that_fails_changes_nothing_and_loses_no_frame() {
    for there in 0..3 {
        let mut booted = Booted::hardened();
        let before = contents(&booted.arena, booted.root());
        with_frames(|frames| frames.left = there);
        let failed = booted.tables.map(at(0), device(0), SMALL, DATA);
        assert_eq!(failed, Err(PagingError::NoMemory));
        assert_eq!(contents(&booted.arena, booted.root()), before);
        assert_eq!(booted.protection().reserved(), there);
        with_frames(|frames| frames.left = 3 - there);
        booted.tables.map(at(0), device(0), SMALL, DATA).unwrap();
        assert_eq!(with_frames(|frames| frames.left), 0);
        assert_eq!(booted.protection().reserved(), 0);
    }
}

#[test]
fn what_maps_a_table_is_left_alone() {
    let mut booted = Booted::hardened();
    let linear = VirtAddr::from_usize(
        kernel::support::OFFSET as usize + booted.tables.root_paddr().as_usize(),
    );
    let refused = Some(PagingError::AlreadyMapped);
    assert_eq!(booted.tables.protect(linear, DATA).err(), refused);
    assert_eq!(booted.tables.remap(linear, device(0), DATA).err(), refused);
    assert_eq!(booted.tables.unmap(linear).err(), refused);
    assert_eq!(booted.tables.unmap_region(linear, 4096).err(), refused);
    assert_eq!(booted.tables.protect_region(linear, 4096, DATA).err(), refused);
    assert_eq!(booted.attack(booted.root(), 0), BLOCKED);
}

#[test]
fn a_region_that_is_none_is_refused() {
    let mut booted = Booted::hardened();
    let to = |_: VirtAddr| device(0);
    let refused = Err(PagingError::NotAligned);
    assert_eq!(booted.tables.map_region(at(0), to, 4095, DATA), refused);
    assert_eq!(booted.tables.unmap_region(VirtAddr::from_usize(1), 4096), refused);
    let last = VirtAddr::from_usize(usize::MAX - 4095);
    assert_eq!(booted.tables.map_region(last, to, 8192, DATA), refused, "goes on after the end");
    assert_eq!(booted.tables.map_region(last, to, 4096, DATA), Ok(()));
    assert_eq!(booted.tables.map_region(at(0), to, 0, DATA), Ok(()));
}

/// What the wrapped crate's README shows, and what its test `test_dealloc_x86` does to 2,048 random pages.
#[test]
fn the_crates_own_example_and_test_run() {
    let booted = Booted::hardened();
    let left = with_frames(|frames| frames.left);
    let (vaddr, paddr) = (VirtAddr::from_usize(0x0dea_dbee_f000), PhysAddr::from_usize(0x2000));
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    let mut pt = Tables::try_new().unwrap();
    assert!(pt.root_paddr().is_aligned_4k());
    assert!(pt.map(vaddr, paddr, PageSize::Size4K, flags).is_ok());
    assert_eq!(pt.query(vaddr), Ok((paddr, flags, PageSize::Size4K)));
    drop(pt);

    let mut random = random();
    let mut address = || random(1 << 16) << 32 | random(1 << 20) << 12;
    let mut table = Tables::try_new().unwrap();
    let mut pages = HashSet::new();
    for step in 0..2048 {
        let (page, removed) = (address(), pages.iter().next().copied());
        match removed.filter(|_| step % 4 == 3) {
            Some(page) => {
                table.unmap(VirtAddr::from_usize(page)).unwrap();
                pages.remove(&page);
            }
            None if pages.insert(page) => {
                let to = PhysAddr::from_usize(address());
                table.map(VirtAddr::from_usize(page), to, SMALL, flags).unwrap();
            }
            None => {}
        }
    }
    assert!(pages.iter().all(|page| table.query(VirtAddr::from_usize(*page)).is_ok()));
    let root = frame_of(table.root_paddr().as_usize() as u64);
    assert!(tables(&booted.arena, root).iter().all(|table| booted.attack(table.1, 3) == BLOCKED));
    drop(table);
    assert_eq!(with_frames(|frames| frames.left), left, "every frame is given back");
}

/// Numbers below a bound, the same in every run.
fn random() -> impl FnMut(usize) -> usize {
    let mut state = 7u64;
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

thread_local! {
    static TWIN: RefCell<Option<(Arc<Arena>, Frames)>> = const { RefCell::new(None) };
}

/// The allocator of the bare crate's twin.
struct Bare;

impl PagingHandler for Bare {
    fn alloc_frames(_: usize, _: usize) -> Option<PhysAddr> {
        let frame = TWIN.with_borrow_mut(|twin| twin.as_mut()?.1.allocate_frame())?;
        Some(PhysAddr::from_usize(frame.start_address().as_u64() as usize))
    }

    fn dealloc_frames(frame: PhysAddr, _: usize) {
        let frame = frame_of(frame.as_usize() as u64);
        TWIN.with_borrow_mut(|twin| {
            let (_, frames) = twin.as_mut().expect("there is a twin");
            // SAFETY: the crate says so.
            unsafe { frames.deallocate_frame(frame) };
        });
    }

    fn phys_to_virt(frame: PhysAddr) -> VirtAddr {
        let view =
            TWIN.with_borrow(|twin| twin.as_ref().map_or(0, |t| t.0.data().as_ptr() as usize));
        VirtAddr::from_usize(
            view.wrapping_sub(MEMORY_START.0 as usize).wrapping_add(frame.as_usize()),
        )
    }
}

#[test]
fn every_call_does_what_the_bare_crate_does() {
    let mut booted = Booted::hardened();
    let arena = Arc::new(Arena::guarded(PAGES as usize).expect("the host has memory"));
    // The allocators hand out the same frames in the same order.
    TWIN.set(Some((arena.clone(), Frames::of(&arena))));
    let mut bare = X64PageTable::<Bare>::try_new().unwrap();
    let linear =
        |at: VirtAddr| PhysAddr::from_usize(at.as_usize() - kernel::support::OFFSET as usize);
    let first = VirtAddr::from_usize((kernel::support::OFFSET + MEMORY_START.0) as usize);
    bare.cursor().map_region(first, linear, PAGES as usize * 4096, DATA, false).unwrap();

    let mut random = random();
    let flags = [DATA, MappingFlags::READ, DATA | MappingFlags::USER, MappingFlags::empty()];
    for step in 0..1500 {
        let page = at((random(3) << 27) + (random(3) << 18) + (random(3) << 9) + random(4));
        let (to, flags) = (device(random(5) << 18), flags[random(4)]);
        let size = [SMALL, SMALL, SMALL, PageSize::Size2M, PageSize::Size1G][random(5)];
        let bytes = random(600) * 4096;
        let ours = &mut booted.tables;
        let (ours, theirs) = match random(7) {
            0 | 1 => (
                format!("{:?}", ours.map(page, to, size, flags)),
                format!("{:?}", bare.cursor().map(page, to, size, flags)),
            ),
            2 => (format!("{:?}", ours.unmap(page)), format!("{:?}", bare.cursor().unmap(page))),
            3 => (
                format!("{:?}", ours.protect(page, flags)),
                format!("{:?}", bare.cursor().protect(page, flags)),
            ),
            4 => (
                format!("{:?}", ours.remap(page, to, flags)),
                format!("{:?}", bare.cursor().remap(page, to, flags)),
            ),
            5 => (
                format!("{:?}", ours.map_region(page, |_| to, bytes, flags)),
                format!("{:?}", bare.cursor().map_region(page, |_| to, bytes, flags, false)),
            ),
            _ => (format!("{:?}", ours.query(page)), format!("{:?}", bare.query(page))),
        };
        assert_eq!(ours, theirs, "step {step}");
        if step % 50 == 0 {
            let root = frame_of(bare.root_paddr().as_usize() as u64);
            let same = contents(&booted.arena, booted.root()) == contents(&arena, root);
            assert!(same, "tables differ at step {step}");
        }
    }
    for (level, table) in tables(&booted.arena, booted.root()) {
        assert_eq!(booted.attack(table, 7), BLOCKED, "level {level}");
    }
}

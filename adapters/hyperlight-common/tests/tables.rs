//! Tables of `hyperlight-common` behind windows: attacked, counted, and compared with the bare crate's. Every store outside of a window would
//! be SIGSEGV.
#![cfg(target_arch = "x86_64")]

#[path = "../../x86_64/tests/support/mod.rs"]
mod support;

use std::cell::RefCell;

use hyperlight_common::vmem::{
    self, BasicMapping, CowMapping, Mapping, MappingKind, MayNotMoveTable, TableOps, TableReadOps,
    Void, virt_to_phys,
};
use kpkeys::Pkey;
use kpkeys_hosted::mmu::Fault;
use kpkeys_hyperlight_common::{HardenedTables, MapError};
use kpkeys_x86_64::LinearMap;
use support::{
    Bare, DATA, Frames, Huge, OFFSET, System, TestMachine, contents, frame_of, page, tables,
};
use x86_64::VirtAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));
const START: u64 = 0xffff_c900_0000_0000;
const WRITABLE: MappingKind =
    MappingKind::Basic(BasicMapping { readable: true, writable: true, executable: false });
const COW: MappingKind = MappingKind::Cow(CowMapping { readable: true, executable: true });

fn mapping(first: u64, pages: u64, kind: MappingKind) -> Mapping {
    let (phys_base, virt_base) = (0x80_0000_0000 + first * 4096, START + first * 4096);
    Mapping { phys_base, virt_base, len: pages * 4096, kind }
}

fn hardened(system: &System) -> HardenedTables<'_, TestMachine, LinearMap> {
    // SAFETY: the adopted root, and tests use one mapper at a time.
    unsafe { HardenedTables::new(&system.protection, system.root()) }
}

/// The bare crate on memory that is always writable.
struct Ops {
    bare: RefCell<Bare>,
    root: PhysFrame,
}

impl TableReadOps for Ops {
    type TableAddr = u64;

    fn entry_addr(table: u64, offset: u64) -> u64 {
        table + offset
    }

    unsafe fn read_entry(&self, entry: u64) -> u64 {
        support::read(&self.bare.borrow().arena, frame_of(entry), (entry >> 3) as usize & 511)
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

impl TableOps for Ops {
    type TableMovability = MayNotMoveTable;

    unsafe fn alloc_table(&self) -> u64 {
        let mut bare = self.bare.borrow_mut();
        let frame = bare.frames.allocate_frame().expect("the twin has memory");
        (0..512).for_each(|index| support::write(&bare.arena, frame, index, 0));
        frame.start_address().as_u64()
    }

    unsafe fn write_entry(&self, entry: u64, value: u64) -> Option<Void> {
        let bare = self.bare.borrow();
        support::write(&bare.arena, frame_of(entry), (entry >> 3) as usize & 511, value);
        None
    }

    unsafe fn update_root(&self, impossible: Void) {
        match impossible {}
    }
}

#[test]
fn a_store_to_any_table_works_before_and_faults_after() {
    let bare = Bare::new::<Size4KiB>();
    let root = bare.root;
    let ops = Ops { bare: RefCell::new(bare), root };
    // SAFETY: a model's tables, here and below.
    unsafe { vmem::map(&ops, mapping(0, 1, WRITABLE)) };
    let bare = ops.bare.into_inner();
    let before = tables(&bare.arena, root);
    assert!((1..=4).all(|level| before.iter().any(|table| table.0 == level)));
    assert!(before.iter().all(|table| bare.attack(table.1, 3) == Ok(())));

    let system = bare.adopt().map_err(|(error, _)| error).unwrap();
    let mut frames = system.frames.borrow_mut();
    // SAFETY: as above.
    unsafe { hardened(&system).map(mapping(1 << 18, 1, WRITABLE), &mut *frames) }.unwrap();
    let after = tables(&system.arena, root);
    assert_eq!(after.len(), before.len() + 2, "below the P3 table that was there");
    assert!(after.iter().all(|table| system.attack(table.1, 3) == BLOCKED));
}

#[test]
fn a_mapping_is_one_window_a_table_and_a_change_one_a_store() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut tables = hardened(&system);
    system.protection.reserve(5, &mut *frames).unwrap();
    // SAFETY: a model's tables, here and below.
    let map = || unsafe { tables.map(mapping(100, 1024, WRITABLE), &mut *frames) };
    let (cost, mapped) = system.counted(map);
    assert_eq!((cost, mapped), ((3, 0), Ok(())), "three tables are touched");
    let mut seen = Vec::new();
    let (cost, changed) = system.counted(|| {
        // SAFETY: as above.
        unsafe {
            tables.modify(START + 100 * 4096, 3 * 4096, &mut *frames, |at, mapping| {
                // The kernel's code is in no window.
                assert_eq!(system.attack(system.root(), 3), BLOCKED);
                seen.push((at, mapping.kind));
                COW
            })
        }
    });
    assert_eq!((cost, changed), ((3, 0), Ok(())));
    let at = |page: u64| VirtAddr::new(START + page * 4096);
    assert_eq!(seen, [100, 101, 102].map(|page| (at(page), WRITABLE)));
    let reader = tables.reader();
    // SAFETY: nobody changes the tables meanwhile.
    let (cost, found) = system.counted(|| unsafe {
        virt_to_phys(&reader, START + 101 * 4096, 8192).map(|m| m.kind).collect::<Vec<_>>()
    });
    assert_eq!((cost, found), ((0, 0), vec![COW, COW]));
}

#[test]
fn every_call_does_what_the_bare_crate_does() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut ours = hardened(&system);
    let bare = Bare::new::<Size4KiB>();
    let (arena, root) = (bare.arena.clone(), bare.root);
    let theirs = Ops { bare: RefCell::new(bare), root };
    let zero =
        MappingKind::ZeroInit(BasicMapping { readable: true, writable: true, executable: false });
    let kinds = [WRITABLE, COW, zero, MappingKind::Unmapped];
    let mut state = 11u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..150 {
        let first = (random(3) << 18) + (random(3) << 9) + random(700);
        let (mapping, other) =
            (mapping(first, random(900), kinds[random(4) as usize]), kinds[random(4) as usize]);
        // SAFETY: models' tables.
        unsafe {
            if random(2) == 0 {
                ours.map(mapping, &mut *frames).unwrap();
                vmem::map(&theirs, mapping);
            } else {
                ours.modify(mapping.virt_base, mapping.len, &mut *frames, |_, _| other).unwrap();
                vmem::modify_mapping(&theirs, mapping.virt_base, mapping.len, |_, _| other);
            }
        }
        let same = contents(&system.arena, system.root()) == contents(&arena, root);
        assert!(same, "step {step}: tables differ after {mapping:?} {other:?}");
    }
    for (level, table) in tables(&system.arena, system.root()) {
        assert_eq!(system.attack(table, 7), BLOCKED, "level {level}");
    }
}

#[test]
fn what_the_bare_crate_does_not_look_at_is_refused() {
    let map = |system: &System, frames: &mut Frames, virt_base: u64, len: u64| {
        let mapping = Mapping { phys_base: 0x80_0000_0000, virt_base, len, kind: WRITABLE };
        // SAFETY: a model's tables.
        unsafe { hardened(system).map(mapping, frames) }
    };
    let mut bare = Bare::new::<Size4KiB>();
    bare.map(page::<Huge>(START), support::device(3), DATA).unwrap();
    let system = bare.adopt().map_err(|(error, _)| error).unwrap();
    let mut frames = system.frames.borrow_mut();
    let before = contents(&system.arena, system.root());
    let address = VirtAddr::new(START + 4096);
    assert_eq!(map(&system, &mut frames, START + 4096, 4096), Err(MapError::Block { address }));
    let root = OFFSET + system.root().start_address().as_u64();
    let address = VirtAddr::new(root);
    assert_eq!(map(&system, &mut frames, root, 4096), Err(MapError::Table { address }));
    for (start, len) in
        [(START + 1, 4096), (START, 4095), (0x7fff_ffff_f000, 8192), (u64::MAX - 4095, 8192)]
    {
        assert_eq!(map(&system, &mut frames, start, len), Err(MapError::Range), "{start:#x}");
    }
    frames.left = 2;
    assert_eq!(map(&system, &mut frames, START + (1 << 39), 4096), Err(MapError::OutOfFrames));
    assert_eq!(contents(&system.arena, system.root()), before, "nothing was changed");
    frames.left = 9;
    assert_eq!(map(&system, &mut frames, u64::MAX - 4095, 4096), Ok(()), "the last page");
    // SAFETY: a model's tables.
    let modified = unsafe {
        hardened(&system).modify(u64::MAX - 4095, 4096, &mut *frames, |_, mapping| mapping.kind)
    };
    assert_eq!(modified, Err(MapError::Range), "which the bare crate cannot change");
    assert_eq!(map(&system, &mut frames, START, 0), Ok(()), "nothing at all");
}

//! `hyperlight-common`. A batch is one call for a run of pages.

use hyperlight_common::vmem::{
    self, BasicMapping, Mapping, MappingKind, MayNotMoveTable, TableOps, TableReadOps, Void,
};
use kpkeys_hyperlight_common::HardenedTables;
use kpkeys_x86_64::LinearMap;
use std::cell::RefCell;
use x86_64::structures::paging::FrameAllocator;

use crate::Who;
use crate::machine::{Calls, Frames, Memory, NoRegister, RUN, START, TARGET, calls};

const DATA: MappingKind = kind(true);
const READ_ONLY: MappingKind = kind(false);

const fn kind(writable: bool) -> MappingKind {
    MappingKind::Basic(BasicMapping { readable: true, writable, executable: false })
}

fn mapping(at: usize, pages: usize, kind: MappingKind) -> Mapping {
    let (phys_base, virt_base) = (TARGET as u64, at as u64);
    Mapping { phys_base, virt_base, len: pages as u64 * 4096, kind }
}

/// The bare crate on this process's memory.
struct Ops {
    frames: RefCell<Frames>,
    root: u64,
}

impl TableReadOps for Ops {
    type TableAddr = u64;

    fn entry_addr(table: u64, offset: u64) -> u64 {
        table + offset
    }

    unsafe fn read_entry(&self, entry: u64) -> u64 {
        // SAFETY: an entry of these tables.
        unsafe { std::ptr::with_exposed_provenance::<u64>(entry as usize).read_volatile() }
    }

    fn to_phys(table: u64) -> u64 {
        table
    }

    fn from_phys(table: u64) -> u64 {
        table
    }

    fn root_table(&self) -> u64 {
        self.root
    }
}

impl TableOps for Ops {
    type TableMovability = MayNotMoveTable;

    unsafe fn alloc_table(&self) -> u64 {
        // Memory is fresh, and nothing is given back.
        let frame = self.frames.borrow_mut().allocate_frame().expect("memory");
        frame.start_address().as_u64()
    }

    unsafe fn write_entry(&self, entry: u64, value: u64) -> Option<Void> {
        // SAFETY: as above.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u64>(entry as usize).write_volatile(value)
        };
        None
    }

    unsafe fn update_root(&self, impossible: Void) {
        match impossible {}
    }
}

struct Hardened<'p>(HardenedTables<'p, NoRegister, LinearMap>, Frames);

impl Hardened<'_> {
    fn map_run(&mut self, mapping: Mapping) {
        // SAFETY: no CPU uses these tables.
        unsafe { self.0.map(mapping, &mut self.1) }.expect("mapped");
    }
}

impl Calls for Ops {
    fn map(&mut self, at: usize) {
        // SAFETY: no CPU uses these tables, here and below.
        unsafe { vmem::map(self, mapping(at, 1, DATA)) };
    }

    fn change(&mut self, at: usize) {
        // SAFETY: as above.
        unsafe { vmem::map(self, mapping(at, 1, READ_ONLY)) };
    }

    fn unmap(&mut self, at: usize) {
        // SAFETY: as above.
        unsafe { vmem::map(self, mapping(at, 1, MappingKind::Unmapped)) };
    }
}

impl Calls for Hardened<'_> {
    fn map(&mut self, at: usize) {
        self.map_run(mapping(at, 1, DATA));
    }

    fn change(&mut self, at: usize) {
        self.map_run(mapping(at, 1, READ_ONLY));
    }

    fn unmap(&mut self, at: usize) {
        self.map_run(mapping(at, 1, MappingKind::Unmapped));
    }
}

pub fn run(who: Who, pages: usize) {
    let mut memory = Memory::new();
    let root = memory.root.start_address().as_u64();
    if who == Who::Bare {
        return calls(&mut Ops { frames: RefCell::new(memory.frames), root }, pages);
    }
    let protection = memory.protect();
    // SAFETY: the only mapper.
    let tables = unsafe { HardenedTables::new(&protection, protection.root()) };
    let mut tables = Hardened(tables, memory.frames);
    if who == Who::Hardened {
        return calls(&mut tables, pages);
    }
    for first in (0..pages).step_by(RUN) {
        let at = START + first * 4096;
        for kind in [DATA, READ_ONLY, MappingKind::Unmapped] {
            tables.map_run(mapping(at, RUN, kind));
        }
    }
}

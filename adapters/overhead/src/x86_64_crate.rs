//! `x86_64`.

use kpkeys_x86_64::{Batch, LinearMap};
use x86_64::structures::paging::{Mapper, Page, PhysFrame, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

use crate::Who;
use crate::machine::{
    Calls, FLAGS, Frames, Memory, READ_ONLY, RUN, START, TARGET, calls, mapper, run_of,
};

struct Each<'a, T>(&'a mut T, &'a mut Frames);
struct Batched<'a, 'w>(&'a mut Batch<'w, LinearMap>);

fn page(at: usize) -> Page {
    Page::containing_address(VirtAddr::new(at as u64))
}

fn target() -> PhysFrame {
    PhysFrame::containing_address(PhysAddr::new(TARGET as u64))
}

impl<T: Mapper<Size4KiB>> Calls for Each<'_, T> {
    fn map(&mut self, at: usize) {
        // SAFETY: no CPU uses these tables, here and below.
        unsafe { self.0.map_to(page(at), target(), FLAGS, self.1) }.expect("mapped").ignore();
    }

    fn change(&mut self, at: usize) {
        // SAFETY: as above.
        unsafe { self.0.update_flags(page(at), READ_ONLY) }.expect("changed").ignore();
    }

    fn unmap(&mut self, at: usize) {
        self.0.unmap(page(at)).expect("unmapped").1.ignore();
    }
}

impl Calls for Batched<'_, '_> {
    fn map(&mut self, at: usize) {
        // SAFETY: as above.
        unsafe { self.0.map_to(page(at), target(), FLAGS) }.expect("mapped").ignore();
    }

    fn change(&mut self, at: usize) {
        // SAFETY: as above.
        unsafe { self.0.update_flags(page(at), READ_ONLY) }.expect("changed").ignore();
    }

    fn unmap(&mut self, at: usize) {
        self.0.unmap(page(at)).expect("unmapped").1.ignore();
    }
}

pub fn run(who: Who, pages: usize) {
    let mut memory = Memory::new();
    if who == Who::Bare {
        return calls(&mut Each(&mut mapper(memory.root), &mut memory.frames), pages);
    }
    let protection = memory.protect();
    // SAFETY: the only mapper.
    let mut tables = unsafe { protection.tables(protection.root()) };
    if who == Who::Hardened {
        return calls(&mut Each(&mut tables, &mut memory.frames), pages);
    }
    for first in (0..pages).step_by(RUN) {
        let start = page(START) + first as u64;
        let missing = tables.tables_for(Page::range(start, start + RUN as u64));
        // SAFETY: no CPU uses these tables; calls of the batch alone.
        let done = unsafe {
            tables.batch(missing, &mut memory.frames, |batch| run_of(&mut Batched(batch), first))
        };
        done.expect("there are frames for tables");
    }
}

//! The vmalloc rows: the tests of Linux's `test_vmalloc` module, loop by loop.
//!
//! Each test is one timed span over all loops, set-up included, as the module times it.

use alloc::vec::Vec;

use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::{Error, Kernel};
use kpkeys_pgtable::{Format, Machine, PhysAddr, VirtAddr};

use crate::row::{Row, Test};
use crate::{Clock, Timing, timed};

/// Live areas of the long-busy-list test.
const BUSY_AREAS: usize = 15_000;
/// Largest size of the random-size test.
const MAX_RANDOM_PAGES: u64 = 100;

/// Runs one iteration of `loops` loops.
///
/// # Errors
///
/// Out of memory or addresses.
pub(crate) fn run<M: Machine, C: Clock>(
    kernel: &Kernel<M>,
    clock: &C,
    row: &Row,
    loops: u64,
) -> Result<Timing, Error> {
    timed(clock, loops, || match row.test {
        Test::FixSize => repeat(loops, || allocate_touch_free(kernel, row.pages, row.huge)),
        Test::RandomSize => {
            let mut sizes = Sizes::new();
            repeat(loops, || allocate_touch_free(kernel, sizes.next_pages(), false))
        }
        Test::VmMapRam => vm_map_ram(kernel, row.pages, loops),
        Test::FullFit => full_fit(kernel, loops),
        Test::LongBusyList => long_busy_list(kernel, loops),
        Test::FixAlign => repeat(loops, || fix_align(kernel)),
        // Not in this module; `run` of the crate sends them elsewhere.
        Test::Fork | Test::Munmap => Ok(()),
    })
}

fn repeat(loops: u64, mut f: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    (0..loops).try_for_each(|_| f())
}

#[inline(always)]
fn allocate_touch_free<M: Machine>(
    kernel: &Kernel<M>,
    pages: usize,
    huge: bool,
) -> Result<(), Error> {
    let area = if huge { kernel.vmalloc_huge(pages)? } else { kernel.vmalloc(pages)? };
    kernel.touch(area)?;
    kernel.vfree(area)
}

fn vm_map_ram<M: Machine>(kernel: &Kernel<M>, pages: usize, loops: u64) -> Result<(), Error> {
    let mut owned = Vec::with_capacity(pages);
    let result = (|| {
        for _ in 0..pages {
            owned.push(kernel.frames().new_frame()?);
        }
        let frames: Vec<PhysAddr> = owned.iter().map(OwnedFrame::address).collect();
        repeat(loops, || {
            let area = kernel.vm_map_ram(&frames)?;
            kernel.touch(area)?;
            kernel.vm_unmap_ram(area, pages)
        })
    })();
    // No unmap may still wait when the frames go to somebody else.
    kernel.purge_vmalloc();
    owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
    result
}

/// Fills every second of many areas, leaving holes of exactly one area, then allocates into them.
fn full_fit<M: Machine>(kernel: &Kernel<M>, loops: u64) -> Result<(), Error> {
    let junk = (kernel.machine().cpus().ilog2() as usize + 1) * 8192;
    let mut areas = Vec::with_capacity(2 * junk);
    let result = (|| {
        for _ in 0..2 * junk {
            areas.push(kernel.vmalloc(1)?);
        }
        for i in (0..2 * junk).step_by(2) {
            kernel.vfree(areas[i])?;
            areas[i] = VirtAddr(0);
        }
        repeat(loops, || allocate_touch_free(kernel, 1, false))
    })();
    free_all(kernel, &areas)?;
    result
}

fn long_busy_list<M: Machine>(kernel: &Kernel<M>, loops: u64) -> Result<(), Error> {
    let mut areas = Vec::with_capacity(BUSY_AREAS);
    let result = (|| {
        for _ in 0..BUSY_AREAS {
            areas.push(kernel.vmalloc(1)?);
        }
        repeat(loops, || {
            let large = kernel.vmalloc(100)?;
            let small = kernel.vmalloc(1)?;
            kernel.touch(large)?;
            kernel.touch(small)?;
            kernel.vfree(large)?;
            kernel.vfree(small)
        })
    })();
    free_all(kernel, &areas)?;
    result
}

fn free_all<M: Machine>(kernel: &Kernel<M>, areas: &[VirtAddr]) -> Result<(), Error> {
    areas.iter().filter(|area| area.0 != 0).try_for_each(|&area| kernel.vfree(area))
}

fn fix_align<M: Machine>(kernel: &Kernel<M>) -> Result<(), Error> {
    const PAGES: usize = 5;
    let area = kernel.vmalloc_aligned(PAGES, 128 * M::Format::PAGE_SIZE)?;
    kernel.zero_pages(area, PAGES)?;
    kernel.vfree(area)
}

/// The random-size test's sizes: uniform in 1 to 100 pages, the same sequence in every run and mode.
struct Sizes(u64);

impl Sizes {
    fn new() -> Self {
        Sizes(0x9e37_79b9_7f4a_7c15)
    }

    /// The next size. (xorshift64; the bias of the remainder is below 1 in 10^17.)
    fn next_pages(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % MAX_RANDOM_PAGES) as usize + 1
    }
}

//! The fork and munmap rows: a process with 1 GiB of anonymous memory, every page touched, mapped by PTEs.

use alloc::vec::Vec;

use kpkeys_mm::{AddressSpace, Error, Kernel, MapFlags};
use kpkeys_pgtable::{Machine, PageRange, VirtAddr};

use crate::row::{Row, Test};
use crate::{Clock, Timing, timed};

/// Pages of the mapping: 1 GiB.
pub const PAGES: usize = 1 << 18;
/// Where it is mapped: aligned to 1 GiB, so that it has exactly 512 PTE tables and one PMD table.
const START: VirtAddr = VirtAddr(0x40_0000_0000);
/// A mapping that is never touched, in the same 512 GiB: a process has others, which is why munmap of this one leaves the upper
/// tables alone.
const NEIGHBOUR: VirtAddr = VirtAddr(0x20_0000_0000);

/// Runs one iteration: a fresh mapping, one timed operation, tear-down.
///
/// # Errors
///
/// Out of memory.
pub(crate) fn run<M: Machine, C: Clock>(
    kernel: &Kernel<M>,
    clock: &C,
    row: &Row,
) -> Result<Timing, Error> {
    let range = PageRange::new(START, row.pages)?;
    let mut space = populated(kernel, range, row.huge)?;
    if row.test == Test::Fork {
        let mut child = Vec::with_capacity(1);
        let timing = timed(clock, 1, || space.fork().map(|space| child.push(space)))?;
        drop(child);
        Ok(timing)
    } else {
        timed(clock, 1, || space.munmap(range))
    }
}

/// A process with one touched mapping.
///
/// # Errors
///
/// Out of memory.
pub fn populated<M: Machine>(
    kernel: &Kernel<M>,
    range: PageRange<M::Format>,
    huge: bool,
) -> Result<AddressSpace<'_, M>, Error> {
    let mut space = AddressSpace::new(kernel)?;
    space.mmap(PageRange::new(NEIGHBOUR, 1)?, MapFlags::DATA)?;
    space.mmap(range, if huge { MapFlags::HUGE_DATA } else { MapFlags::DATA })?;
    space.populate(range)?;
    Ok(space)
}

//! The boot memory lists: nothing is given out twice, nothing reserved is given out.

use crate::memory::boot::{BootMemory, PAGE_SIZE, PhysAddr, PhysRange};
use crate::{ensure, kernel_test};

fn range(start_page: u64, end_page: u64) -> PhysRange {
    PhysRange { start: PhysAddr(start_page * PAGE_SIZE), end: PhysAddr(end_page * PAGE_SIZE) }
}

fn memory(ranges: &[PhysRange]) -> BootMemory {
    BootMemory::new(ranges.iter().copied())
}

kernel_test! {
    /// Ranges come in any order, overlapping, touching, empty; RAM is their union.
    fn ram_is_the_union_of_what_was_reported() {
        let found = memory(&[range(8, 10), range(1, 4), range(3, 6), range(6, 7), range(9, 9)]);
        ensure!(found.ram() == [range(1, 7), range(8, 10)], "got {:x?}", found.ram());
        ensure!(found.ram_bytes() == 8 * PAGE_SIZE, "got {} bytes", found.ram_bytes());
    }

    /// A page that is only partly RAM is not free.
    fn partial_pages_are_not_free() {
        let odd = PhysRange::new(PAGE_SIZE + 1, 3 * PAGE_SIZE);
        let found = memory(&[odd]);
        ensure!(found.free() == [range(2, 4)], "got {:x?}", found.free());
    }

    /// Reserving cuts a hole, or an end, or a whole range, and touches RAM's list never.
    fn reserved_pages_are_not_free() {
        let mut found = memory(&[range(0, 10), range(20, 22)]);
        found.reserve(PhysRange::new(3 * PAGE_SIZE + 7, 1));
        found.reserve(range(9, 21));
        ensure!(found.free() == [range(0, 3), range(4, 9), range(21, 22)], "got {:x?}", found.free());
        ensure!(found.ram() == [range(0, 10), range(20, 22)], "RAM is {:x?}", found.ram());
    }

    /// What is removed is neither free nor RAM.
    fn removed_pages_are_no_ram() {
        let mut found = memory(&[range(0, 10)]);
        found.remove(PhysRange::new(3 * PAGE_SIZE + 7, 1));
        ensure!(found.ram() == [range(0, 3), range(4, 10)], "RAM is {:x?}", found.ram());
        ensure!(found.free() == found.ram(), "free is {:x?}", found.free());
    }

    /// What is taken is aligned, as long as asked for, and no longer free.
    fn taken_memory_is_no_longer_free() {
        let mut found = memory(&[range(1, 3), range(5, 16)]);
        let taken = found.take(3 * PAGE_SIZE - 1, 4 * PAGE_SIZE).map_err(|error| alloc::format!("{error}"))?;
        ensure!(taken == range(8, 11), "took {taken}");
        ensure!(found.free() == [range(1, 3), range(5, 8), range(11, 16)], "got {:x?}", found.free());
        ensure!(found.take(6 * PAGE_SIZE, PAGE_SIZE).is_err(), "took 6 pages where 5 are contiguous");
    }

    /// Ranges at the end of the address space do not wrap around.
    fn ranges_do_not_wrap() {
        let last = PhysRange::new(u64::MAX - 10, 100);
        ensure!(last.len() == 10, "length {}", last.len());
        ensure!(!last.rounded_out(PAGE_SIZE).is_empty(), "rounded out to {}", last.rounded_out(PAGE_SIZE));
        ensure!(last.rounded_in(PAGE_SIZE).is_empty(), "rounded in to {}", last.rounded_in(PAGE_SIZE));
    }
}

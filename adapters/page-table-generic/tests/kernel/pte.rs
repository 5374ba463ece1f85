//! An entry of x86-64: what a kernel writes to use `page-table-generic`.

use page_table_generic::{PageTableEntry, PhysAddr};

/// An entry of x86-64: what a kernel writes to use the crate.
#[derive(Clone, Copy, Debug)]
pub struct Pte(pub u64);

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const IS_HUGE: u64 = 1 << 7;

impl PageTableEntry for Pte {
    /// Flags.
    type PteConfig = u64;

    fn new_page(page: PhysAddr, flags: u64, is_huge: bool) -> Self {
        Pte(page.as_usize() as u64 | flags | if is_huge { IS_HUGE } else { 0 })
    }

    fn new_table(table: PhysAddr) -> Self {
        Pte(table.as_usize() as u64 | 0b11)
    }

    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    fn config(&self, is_dir: bool) -> u64 {
        self.0 & !ADDRESS & !if is_dir { IS_HUGE } else { 0 }
    }

    fn present(&self) -> bool {
        self.0 & 1 != 0
    }

    fn huge(&self, is_dir: bool) -> bool {
        is_dir && self.0 & IS_HUGE != 0
    }

    fn unused(&self) -> bool {
        self.0 == 0
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

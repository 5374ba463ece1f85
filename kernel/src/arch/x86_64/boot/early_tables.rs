//! The page tables Rust starts on: image, linear map, local APIC.
//!
//! They are built once, by the boot CPU, while the boot tables map the first 4 GiB one to
//! one, from page-table pages taken from boot memory. Nothing here changes a table after
//! [`build`]; the page-table crate takes over from then on. Whoever protects page tables
//! must protect these as well, so each page-table page is recorded: [`page_table_pages`].
//!
//! Entry bits: Intel SDM vol. 3A, table 4-15 ff.; every table below the root is linked with
//! present and writable only, so the leaf decides.

use crate::arch::image::{self, Access};
use crate::arch::layout::{DEVICES, LINEAR_MAP};
use crate::memory::{BootMemory, OutOfMemory, PAGE_SIZE, PhysAddr, PhysRange};
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a block mapped by a page-directory entry.
pub const BLOCK_SIZE: u64 = 2 << 20;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const BLOCK: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Physical address of the root, for the CPUs that start later.
pub static ROOT: AtomicU64 = AtomicU64::new(0);

/// The page-table pages in use, as physical ranges, merged where they touch.
static PAGE_TABLE_PAGES: spin::Once<PageTablePages> = spin::Once::new();

/// Pages come one after the other from boot memory, so there are few ranges; a full list
/// stops the boot, since an unrecorded page would stay unprotected.
type PageTablePages = ArrayVec<PhysRange, 16>;

/// Builds the tables and records them. They are not loaded yet.
///
/// # Errors
///
/// [`OutOfMemory`] when boot memory has no page for a table.
///
/// # Safety
///
/// The boot tables must be in use; free boot memory must really be unused.
pub unsafe fn build(memory: &mut BootMemory, local_apic: PhysAddr) -> Result<(), OutOfMemory> {
    let ram: ArrayVec<PhysRange, 64> = memory.ram().iter().copied().collect();
    let mut builder = Builder { memory, pages: ArrayVec::new(), root: PhysAddr(0) };
    builder.root = builder.new_table()?;
    builder.map_image()?;
    for range in ram {
        builder.map_linear(range.rounded_out(BLOCK_SIZE))?;
    }
    let device = PRESENT | WRITABLE | NO_EXECUTE | GLOBAL | WRITE_THROUGH | CACHE_DISABLE;
    builder.map(DEVICES, local_apic.0 | device, Leaf::Page)?;
    ROOT.store(builder.root.0, Ordering::Release);
    PAGE_TABLE_PAGES.call_once(|| builder.pages);
    Ok(())
}

/// Every page-table page of the early tables, the root included.
pub fn page_table_pages() -> &'static [PhysRange] {
    PAGE_TABLE_PAGES.get().map_or(&[], |pages| pages.as_slice())
}

/// The level a leaf sits on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// 4 KiB, level 1.
    Page,
    /// 2 MiB, level 2.
    Block,
}

struct Builder<'a> {
    memory: &'a mut BootMemory,
    pages: PageTablePages,
    root: PhysAddr,
}

impl Builder<'_> {
    fn map_image(&mut self) -> Result<(), OutOfMemory> {
        for region in image::regions() {
            let access = match region.access {
                Access::ReadExecute => 0,
                Access::Read => NO_EXECUTE,
                Access::ReadWrite => NO_EXECUTE | WRITABLE,
            };
            let phys = region.phys().start.0;
            for offset in (0..region.len).step_by(PAGE_SIZE as usize) {
                let entry = (phys + offset) | PRESENT | GLOBAL | access;
                self.map(region.virt + offset, entry, Leaf::Page)?;
            }
        }
        Ok(())
    }

    /// Rounded-out ranges may share a block; mapping it twice stores the same entry.
    fn map_linear(&mut self, range: PhysRange) -> Result<(), OutOfMemory> {
        let read_only = image::read_only_frames();
        for start in (range.start.0..range.end.0).step_by(BLOCK_SIZE as usize) {
            let block = PhysRange::new(start, BLOCK_SIZE);
            let access = if block.overlaps(&read_only) { 0 } else { WRITABLE };
            let entry = start | PRESENT | BLOCK | GLOBAL | NO_EXECUTE | access;
            self.map(LINEAR_MAP + start, entry, Leaf::Block)?;
        }
        Ok(())
    }

    fn map(&mut self, virt: u64, entry: u64, leaf: Leaf) -> Result<(), OutOfMemory> {
        let last = if leaf == Leaf::Page { 1 } else { 2 };
        let mut table = self.root;
        for level in (last + 1..=4).rev() {
            table = self.next_table(table, index(virt, level))?;
        }
        self.store(table, index(virt, last), entry);
        Ok(())
    }

    fn next_table(&mut self, table: PhysAddr, index: usize) -> Result<PhysAddr, OutOfMemory> {
        let entry = self.load(table, index);
        if entry & PRESENT != 0 {
            return Ok(PhysAddr(entry & ADDRESS));
        }
        let next = self.new_table()?;
        self.store(table, index, next.0 | PRESENT | WRITABLE);
        Ok(next)
    }

    /// A zeroed page-table page, recorded.
    fn new_table(&mut self) -> Result<PhysAddr, OutOfMemory> {
        let page = self.memory.take(PAGE_SIZE, PAGE_SIZE)?;
        // SAFETY: the page is free RAM that `take` gave to us alone. It is mapped one to one
        // by the boot tables, since `take` prefers the lowest address and a machine has far
        // more free RAM below 4 GiB than these tables need.
        unsafe { core::ptr::write_bytes(page.start.0 as *mut u8, 0, PAGE_SIZE as usize) };
        match self.pages.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => self.pages.push(page),
        }
        Ok(page.start)
    }

    fn load(&self, table: PhysAddr, index: usize) -> u64 {
        // SAFETY: `table` came from `new_table`, so it is a page of ours, and `index` is below 512.
        unsafe { (table.0 as *const u64).add(index).read() }
    }

    fn store(&mut self, table: PhysAddr, index: usize, entry: u64) {
        // SAFETY: as in `load`; the tables are not in use by any CPU yet.
        unsafe { (table.0 as *mut u64).add(index).write(entry) }
    }
}

/// The index of `virt` in a table of `level` (1 = page table).
const fn index(virt: u64, level: u32) -> usize {
    (virt >> (12 + 9 * (level - 1)) & 0x1ff) as usize
}

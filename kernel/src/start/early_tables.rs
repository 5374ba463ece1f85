//! The page tables Rust starts on: image, linear map, devices, screen.
//!
//! They are built once, by the boot CPU, while the boot tables map RAM one to
//! one, from page-table pages taken from boot memory. Nothing here changes a table after
//! [`build`]; the page-table crate takes over from then on. Whoever protects page tables
//! must protect these as well, so each page-table page is recorded: [`page_table_pages`].
//!
//! Entries are spelt by the architecture's [`Format`]; what it wants of these tables alone is [`arch::early_leaf`].

use crate::arch::layout::{DEVICES, LINEAR_MAP, SCREEN};
use crate::arch::{self, Format};
use crate::console::screen;
use crate::memory::boot::{BootMemory, OutOfMemory, PAGE_SIZE, PhysAddr, PhysRange, RAM_UNIT};
use crate::start::image;
use arrayvec::ArrayVec;
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys_pgtable::{Attrs, Entry, Format as _, Level, VirtAddr};

/// Bytes of a block of the linear map.
const BLOCK_SIZE: u64 = Level::Pmd.entry_bytes::<Format>();

/// Physical address of the root, for the CPUs that start later.
#[unsafe(link_section = ".settled")]
pub static ROOT: AtomicU64 = AtomicU64::new(0);

/// The page-table pages in use, as physical ranges, merged where they touch.
#[unsafe(link_section = ".settled")]
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
pub unsafe fn build(
    memory: &mut BootMemory,
    devices: impl Iterator<Item = PhysAddr>,
) -> Result<(), OutOfMemory> {
    let ram: ArrayVec<PhysRange, 64> = memory.ram().iter().copied().collect();
    let mut builder = Builder { memory, pages: ArrayVec::new(), root: PhysAddr(0) };
    builder.root = builder.new_table()?;
    builder.map_image()?;
    for range in ram {
        builder.map_linear(range.rounded_out(RAM_UNIT))?;
    }
    for (page, device) in devices.enumerate() {
        let at = VirtAddr(DEVICES + page as u64 * PAGE_SIZE);
        builder.map(at, Level::Pte, device, Attrs::DEVICE)?;
    }
    for (page, frame) in screen::memory().into_iter().flat_map(PhysRange::frames).enumerate() {
        builder.map(
            VirtAddr(SCREEN + page as u64 * PAGE_SIZE),
            Level::Pte,
            frame,
            Attrs::DEVICE,
        )?;
    }
    ROOT.store(builder.root.0, Ordering::Release);
    PAGE_TABLE_PAGES.call_once(|| builder.pages);
    Ok(())
}

/// Every page-table page of the early tables, the root included.
pub fn page_table_pages() -> &'static [PhysRange] {
    PAGE_TABLE_PAGES.get().map_or(&[], |pages| pages.as_slice())
}

struct Builder<'a> {
    memory: &'a mut BootMemory,
    pages: PageTablePages,
    root: PhysAddr,
}

impl Builder<'_> {
    fn map_image(&mut self) -> Result<(), OutOfMemory> {
        for region in image::regions() {
            let attrs = region.access.attrs(false);
            let phys = region.phys().start;
            for offset in (0..region.len).step_by(PAGE_SIZE as usize) {
                let at = VirtAddr(region.virt + offset);
                self.map(at, Level::Pte, phys.offset(offset), attrs)?;
            }
        }
        Ok(())
    }

    /// By blocks, and by pages where a block would hold other things too. Rounded-out ranges may share a block; mapping it twice stores the
    /// same entry.
    fn map_linear(&mut self, range: PhysRange) -> Result<(), OutOfMemory> {
        let read_only = image::read_only_frames();
        let mut at = range.start;
        while at < range.end {
            let block = PhysRange::new(at.0, BLOCK_SIZE);
            let is_whole = at.is_aligned(BLOCK_SIZE) && block.end <= range.end;
            let is_of_one_kind = !block.overlaps(&read_only) || read_only.contains(&block);
            let level = if is_whole && is_of_one_kind { Level::Pmd } else { Level::Pte };
            let is_code = PhysRange::new(at.0, PAGE_SIZE).overlaps(&read_only);
            let attrs = if is_code { Attrs::KERNEL_DATA.read_only() } else { Attrs::KERNEL_DATA };
            self.map(VirtAddr(LINEAR_MAP + at.0), level, at, attrs)?;
            at = at.offset(level.entry_bytes::<Format>());
        }
        Ok(())
    }

    fn map(
        &mut self,
        at: VirtAddr,
        level: Level,
        frame: PhysAddr,
        attrs: Attrs,
    ) -> Result<(), OutOfMemory> {
        let (mut table, mut above) = (self.root, Format::ROOT);
        while above > level {
            table = self.next_table(table, above, at.index::<Format>(above))?;
            above = above.below().unwrap_or(level);
        }
        let entry = Format::leaf(level, frame, attrs);
        let entry = entry.expect("pages and blocks of memory are aligned and carry key 0");
        self.store(table, at.index::<Format>(level), arch::early_leaf(entry));
        Ok(())
    }

    fn next_table(
        &mut self,
        table: PhysAddr,
        level: Level,
        index: usize,
    ) -> Result<PhysAddr, OutOfMemory> {
        let entry = self.load(table, index);
        if Format::is_present(entry) {
            return Ok(Format::frame(level, entry));
        }
        let next = self.new_table()?;
        self.store(table, index, Format::table(next, false));
        Ok(next)
    }

    /// A zeroed page-table page, recorded.
    fn new_table(&mut self) -> Result<PhysAddr, OutOfMemory> {
        let page = self.memory.take(PAGE_SIZE, PAGE_SIZE)?;
        // SAFETY: the page is free RAM that `take` gave to us alone. It is mapped one to one
        // by the boot tables: x86-64's map the first 4 GiB, `take` prefers the lowest address, and a machine has
        // far more free RAM there than these tables need; arm64's map all RAM.
        unsafe { core::ptr::write_bytes(page.start.0 as *mut u8, 0, PAGE_SIZE as usize) };
        match self.pages.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => self.pages.push(page),
        }
        Ok(page.start)
    }

    fn load(&self, table: PhysAddr, index: usize) -> Entry {
        // SAFETY: `table` came from `new_table`, so it is a page of ours, and `index` is below the number of a table's entries.
        Entry(unsafe { (table.0 as *const u64).add(index).read() })
    }

    fn store(&mut self, table: PhysAddr, index: usize, entry: Entry) {
        // SAFETY: as in `load`; the tables are not in use by any CPU yet.
        unsafe { (table.0 as *mut u64).add(index).write(entry.0) }
    }
}

//! The tables: the wrapped crate's, each of whose calls is in a window, or in one for each 512 entries.

use kpkeys_x86_64::pieces::{SIZES, to_change, to_map};
use kpkeys_x86_64::{LinearMap, Machine, OutOfFrames, Protection};
use patina_paging::page_allocator::{PageAllocator, PageAllocatorStub};
use patina_paging::x64::X64PageTable;
use patina_paging::{MappedRegion, MemoryAttributes, PageTable, PagingType, PtError};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::frames::{Own, Stock};

/// With that feature the wrapped crate clears CR0.WP around each store, where no key holds and no page is read-only; and pages are the programs'
/// unless it is told otherwise, whom keys of supervisor pages do not bind.
const _: () = assert!(
    !MemoryAttributes::AccessAttributesMask.contains(MemoryAttributes::Supervisor),
    "turn off the feature `supervisor` of `patina_paging`: it clears CR0.WP, which opens every key"
);

/// The wrapped crate's tables, in a window.
pub type Batch<'p, M> = X64PageTable<Stock<'p, M>>;

const PAGE: usize = SIZES[0];
/// The last address that the wrapped crate maps.
const LAST: usize = 0xffff_feff_ffff_ffff;

/// Tables of `patina_paging`, with four levels, that only this can change.
///
/// It is the wrapped crate's [`PageTable`], too.
#[derive(Debug)]
pub struct HardenedPageTable<'p, M, A> {
    protection: &'p Protection<M, LinearMap>,
    root: PhysFrame,
    frames: A,
}

impl<'p, M: Machine, A: PageAllocator> HardenedPageTable<'p, M, A> {
    /// The tables that [`adopt`](crate::adopt) has protected.
    ///
    /// # Safety
    ///
    /// As for [`Protection::tables`].
    pub unsafe fn adopted(protection: &'p Protection<M, LinearMap>, frames: A) -> Self {
        HardenedPageTable { protection, root: protection.root(), frames }
    }

    /// Tables for an address space: an empty lower half, and the upper half of the root that was adopted, as it is now.
    ///
    /// # Errors
    ///
    /// What the allocator says.
    ///
    /// # Safety
    ///
    /// As for [`Protection::tables`].
    pub unsafe fn new(
        protection: &'p Protection<M, LinearMap>,
        mut frames: A,
    ) -> Result<Self, PtError> {
        let mut own = Own::new(&mut frames);
        match protection.new_root(&mut own) {
            Ok(root) => Ok(HardenedPageTable { protection, root, frames }),
            Err(OutOfFrames) => Err(own.error),
        }
    }

    /// The root, for CR3.
    pub fn root(&self) -> u64 {
        self.root.start_address().as_u64()
    }

    /// `X64PageTable::iter_mapped_regions`. Needs no window.
    pub fn mapped_regions(&self, f: impl FnMut(MappedRegion)) {
        self.reader().iter_mapped_regions(None).for_each(f);
    }

    /// Runs `f` in one window, with frames for `tables` new tables at hand. Nothing but calls of the tables belongs in it, and none that splits a
    /// block, which logs.
    ///
    /// # Errors
    ///
    /// What the allocator says, before `f` runs.
    ///
    /// # Safety
    ///
    /// `f` opens no window, keeps nothing, and changes no mapping of a table's page.
    pub unsafe fn change<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Batch<'p, M>) -> R,
    ) -> Result<R, PtError> {
        self.in_window(tables, f)
    }

    /// Runs `f`, which is calls of the wrapped crate alone, in one window.
    fn in_window<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Batch<'p, M>) -> R,
    ) -> Result<R, PtError> {
        let mut own = Own::new(&mut self.frames);
        // SAFETY: the root of these tables, which are borrowed exclusively.
        let mut view = unsafe { view(self.root, Stock(self.protection)) };
        // SAFETY: what runs is the wrapped crate, whose allocator opens no window; or the closure of `change`, for which its caller answers.
        let result = unsafe { self.protection.call_of_many(tables, &mut own, || f(&mut view)) };
        result.map_err(|OutOfFrames| own.error)
    }

    fn reader(&self) -> X64PageTable<PageAllocatorStub> {
        // SAFETY: the root of these tables, which are borrowed: what this returns reads them.
        unsafe { view(self.root, PageAllocatorStub::new()) }
    }

    /// Where the walk for an address ends.
    fn walk(&self, at: usize, lowest: PageTableLevel) -> (PageTableLevel, u64) {
        // SAFETY: the root of these tables.
        unsafe { self.protection.walk(self.root, VirtAddr::new_truncate(at as u64), lowest) }
    }

    /// What the entry at which the walk for an address ends translates, and the entry if it is a leaf.
    fn leaf(&self, at: usize) -> (usize, Option<u64>) {
        let (level, entry) = self.walk(at, PageTableLevel::One);
        let size = level.entry_address_space_alignment() as usize;
        (size, (entry & PageTableFlags::PRESENT.bits() != 0).then_some(entry))
    }

    /// How many tables are missing to map a page of this size. What is not present is no table for the wrapped crate, whatever it holds.
    fn tables_for(&self, at: usize, size: usize) -> usize {
        let leaf = match size {
            size if size == SIZES[2] => PageTableLevel::Three,
            size if size == SIZES[1] => PageTableLevel::Two,
            _ => PageTableLevel::One,
        };
        let above = leaf.next_higher_level().unwrap_or(PageTableLevel::Four);
        match self.walk(at, above) {
            (level, entry) if entry & PageTableFlags::PRESENT.bits() == 0 => {
                level as usize - leaf as usize
            }
            _ => 0,
        }
    }

    /// Looks for pages of tables among what is mapped here: new attributes would take their key away.
    fn leave_tables_alone(&self, at: usize, bytes: usize) -> Result<(), PtError> {
        let mut done = 0;
        while done < bytes {
            let (size, leaf) = self.leaf(at + done);
            let is_a_tables = |leaf: u64| {
                let to = PhysAddr::new_truncate(leaf & 0x000f_ffff_ffff_f000);
                size == PAGE && self.protection.protects(PhysFrame::containing_address(to))
            };
            if leaf.is_some_and(is_a_tables) {
                return Err(PtError::IncompatibleMemoryAttributes);
            }
            done += size - (at + done) % size;
        }
        Ok(())
    }

    /// Splits blocks until what is mapped here is no larger than `bytes`. The wrapped crate logs when it does that.
    fn split_down_to(&mut self, at: usize, bytes: usize) -> Result<(), PtError> {
        while let (size, Some(_)) = self.leaf(at) {
            let whole = at.is_multiple_of(size) && bytes >= size;
            if whole || !self.split(at)? {
                break;
            }
        }
        Ok(())
    }

    fn split(&mut self, at: usize) -> Result<bool, PtError> {
        let mut own = Own::new(&mut self.frames);
        let at = VirtAddr::new_truncate(at as u64);
        // SAFETY: the root of these tables, which are borrowed exclusively.
        let split = unsafe { self.protection.split(self.root, at, &mut own) };
        split.map_err(|OutOfFrames| own.error)
    }

    fn map_piece(
        &mut self,
        (at, to): (usize, usize),
        (page, bytes): (usize, usize),
        attributes: MemoryAttributes,
    ) -> Result<(), PtError> {
        if self.says(at, to, page, attributes) {
            return Ok(());
        }
        self.leave_tables_alone(at, bytes)?;
        // A block that is larger than the pages has all of the piece, which is of one table.
        self.split_down_to(at, page)?;
        let tables = self.tables_for(at, page);
        self.in_window(tables, |view| {
            view.map_aliased_memory_region(at as u64, to as u64, bytes as u64, attributes)
        })?
    }

    /// Whether a block that is larger than a page maps it so already: it stays whole then.
    fn says(&self, at: usize, to: usize, page: usize, attributes: MemoryAttributes) -> bool {
        let (size, Some(entry)) = self.leaf(at) else { return false };
        let flags = PageTableFlags::from_bits_retain(entry);
        let access = MemoryAttributes::AccessAttributesMask & attributes;
        let mut said = MemoryAttributes::empty();
        said.set(MemoryAttributes::ReadOnly, !flags.contains(PageTableFlags::WRITABLE));
        said.set(MemoryAttributes::ExecuteProtect, flags.contains(PageTableFlags::NO_EXECUTE));
        let target = entry as usize & 0x000f_ffff_ffff_f000;
        size > page && said == access && target + at % size == to
    }
}

/// # Safety
///
/// `root` is the root of protected tables, and what the view stores it stores in a window.
unsafe fn view<P: PageAllocator>(root: PhysFrame, pages: P) -> X64PageTable<P> {
    let base = root.start_address().as_u64();
    // SAFETY: the caller's promise.
    let view = unsafe { X64PageTable::from_existing(base, pages, PagingType::Paging4Level) };
    view.expect("a frame is aligned, and there are tables of four levels")
}

/// Whether the wrapped crate takes a range for one, so that something may be stored: what it refuses, it refuses before that.
fn is_range(at: usize, bytes: usize) -> bool {
    let last = at.checked_add(bytes.saturating_sub(1));
    let in_one_half = |last: usize| {
        let canonical = |address: usize| VirtAddr::try_new(address as u64).is_ok();
        last <= LAST && canonical(at) && canonical(last) && at >> 63 == last >> 63
    };
    bytes > 0 && (at | bytes).is_multiple_of(PAGE) && last.is_some_and(in_one_half)
}

impl<M: Machine, A: PageAllocator> PageTable for HardenedPageTable<'_, M, A> {
    fn map_memory_region(
        &mut self,
        address: u64,
        size: u64,
        attributes: MemoryAttributes,
    ) -> Result<(), PtError> {
        self.map_aliased_memory_region(address, address, size, attributes)
    }

    fn map_aliased_memory_region(
        &mut self,
        va: u64,
        pa: u64,
        size: u64,
        attributes: MemoryAttributes,
    ) -> Result<(), PtError> {
        let (at, to, bytes) = (va as usize, pa as usize, size as usize);
        if !is_range(at, bytes) {
            return self.reader().map_aliased_memory_region(va, pa, size, attributes);
        }
        if !to.is_multiple_of(PAGE) {
            return Err(PtError::UnalignedAddress);
        }
        to.checked_add(bytes - 1).ok_or(PtError::AdditionOverflow)?;
        let mut done = 0;
        while done < bytes {
            let (at, to) = (at + done, to + done);
            let piece = to_map(at, to, bytes - done, 3);
            self.map_piece((at, to), piece, attributes)?;
            done += piece.1;
        }
        Ok(())
    }

    fn unmap_memory_region(&mut self, address: u64, size: u64) -> Result<(), PtError> {
        let (at, bytes) = (address as usize, size as usize);
        if !is_range(at, bytes) {
            return self.reader().unmap_memory_region(address, size);
        }
        let mut done = 0;
        while done < bytes {
            let at = at + done;
            let piece = to_change(at, bytes - done, self.leaf(at).0);
            self.leave_tables_alone(at, piece)?;
            // A block is kept where the range ends in it.
            self.split_down_to(at, piece)?;
            let piece = to_change(at, piece, self.leaf(at).0);
            self.in_window(0, |view| view.unmap_memory_region(at as u64, piece as u64))??;
            done += piece;
        }
        Ok(())
    }

    fn install_page_table(&mut self) -> Result<(), PtError> {
        self.reader().install_page_table()
    }

    fn query_memory_region(&self, address: u64, size: u64) -> Result<MemoryAttributes, PtError> {
        self.reader().query_memory_region(address, size)
    }

    fn dump_page_tables(&self, address: u64, size: u64) -> Result<(), PtError> {
        self.reader().dump_page_tables(address, size)
    }
}

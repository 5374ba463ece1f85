//! The tables: the wrapped crate's, each of whose calls is in a window, or in one for each 512 entries.

use core::fmt;

use kpkeys_x86_64::pieces::{to_change, to_map};
use kpkeys_x86_64::{AdoptError, Linear, Machine, OutOfFrames, Protection};
use page_table_generic::{
    FrameAllocator, MapConfig, PageTable, PageTableEntry, PageTableRef, PagingError, PagingResult,
    PhysAddr, PteConfigOf, TableMeta, VirtAddr,
};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{Page, PageTableFlags, PhysFrame, Size1GiB, Size2MiB, Size4KiB};

use crate::frames::{Own, Stock, to_address, to_frame};
use crate::pieces::{PAGE, Piece, is_range, splits};
use crate::quiet::{Config, Quiet, assert_shape};

/// The wrapped crate's view of tables, in a window.
pub type Batch<T, M, L> = PageTableRef<Quiet<T>, Stock<M, L>>;

/// Tables of `page-table-generic`, in the format of x86-64, that only this can change.
pub struct HardenedPageTable<T: TableMeta, M: Machine + Send + Sync + 'static, L, A: FrameAllocator>
where
    L: Linear + Send + Sync,
{
    tables: Batch<T, M, L>,
    protection: &'static Protection<M, L>,
    frames: A,
}

impl<T, M, L, A> HardenedPageTable<T, M, L, A>
where
    T: TableMeta,
    M: Machine + Send + Sync + 'static,
    L: Linear + Send + Sync,
    A: FrameAllocator,
{
    /// Takes over the kernel's tables, which [`adopt`](crate::adopt) has protected. They stay when this is dropped.
    ///
    /// # Safety
    ///
    /// `tables` are those that were adopted; `T::P` is the entry of x86-64.
    pub unsafe fn adopted(
        protection: &'static Protection<M, L>,
        mut tables: PageTable<T, A>,
        frames: A,
    ) -> Self {
        tables.leak();
        // SAFETY: the root of tables that were adopted, so that each has an address.
        unsafe { Self::of(protection, to_frame(tables.root_paddr()), frames) }
    }

    /// Protects and takes over the tables of another address space, made before the kernel's were adopted. If that fails they are given back.
    ///
    /// # Errors
    ///
    /// As for [`Protection::adopt_root`].
    ///
    /// # Safety
    ///
    /// As there, and as for [`new`](Self::new).
    pub unsafe fn join(
        protection: &'static Protection<M, L>,
        mut tables: PageTable<T, A>,
        frames: A,
    ) -> Result<Self, (AdoptError, PageTable<T, A>)> {
        let root = to_frame(tables.root_paddr());
        // SAFETY: the caller's promise.
        match unsafe { protection.adopt_root(root, &mut Own(&frames)) } {
            Ok(()) => {
                tables.leak();
                // SAFETY: as in `adopted`.
                Ok(unsafe { Self::of(protection, root, frames) })
            }
            Err(error) => Err((error, tables)),
        }
    }

    /// Tables for an address space: an empty lower half, and the kernel's upper half as it is now.
    ///
    /// # Errors
    ///
    /// [`PagingError::NoMemory`].
    ///
    /// # Safety
    ///
    /// `T::P` is the entry of x86-64, and no CPU uses the root any more when this is dropped.
    pub unsafe fn new(protection: &'static Protection<M, L>, frames: A) -> PagingResult<Self> {
        let root = protection.new_root(&mut Own(&frames)).map_err(no_memory)?;
        // SAFETY: a new root, whose upper half is the kernel's.
        Ok(unsafe { Self::of(protection, root, frames) })
    }

    /// # Safety
    ///
    /// `root` is protected, and nobody else changes its tables.
    unsafe fn of(protection: &'static Protection<M, L>, root: PhysFrame, frames: A) -> Self {
        const { assert_shape::<T>() };
        // SAFETY: the caller's promise; whoever changes tables has `&mut` of this.
        let tables = unsafe { Batch::from_paddr(to_address(root), Stock(protection)) };
        HardenedPageTable { tables, protection, frames }
    }

    /// The wrapped crate's view, to look at: `query`, `translate`, `walk_valid` and the like need no window.
    pub fn inner(&self) -> &Batch<T, M, L> {
        &self.tables
    }

    /// The root, for CR3.
    pub fn root_paddr(&self) -> PhysAddr {
        self.tables.root_paddr()
    }

    /// Runs `f` in one window, with frames for `tables` new tables at hand, and flushes all after it. Nothing but calls of the view belongs in it.
    ///
    /// # Errors
    ///
    /// [`PagingError::NoMemory`], before `f` runs.
    ///
    /// # Safety
    ///
    /// `f` opens no window, keeps nothing that allocates or frees when it is used or dropped later, and changes no mapping of a table's page.
    pub unsafe fn change<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Batch<T, M, L>) -> R,
    ) -> PagingResult<R> {
        let result = self.in_window(tables, f);
        self.protection.give_back_freed(&mut Own(&self.frames));
        T::flush(None);
        result
    }

    /// Runs `f`, which is calls of the wrapped crate alone, in one window. Flushing, and giving back what was freed, is the caller's.
    fn in_window<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Batch<T, M, L>) -> R,
    ) -> PagingResult<R> {
        let (view, frames) = (&mut self.tables, &mut Own(&self.frames));
        // SAFETY: what runs is the wrapped crate, whose allocator and description of the tables are this crate's and open no window; or the closure of `change`.
        unsafe { self.protection.call_of_many(tables, frames, || f(view)) }.map_err(no_memory)
    }

    /// `PageTableRef::map`, in a window for each 512 entries. What was mapped before an error stays so, as there.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map(&mut self, config: &MapConfig<PteConfigOf<T>>) -> PagingResult {
        let config = MapConfig { flush: false, ..quiet::<T>(*config) };
        let (at, to) = (config.vaddr.as_usize(), config.paddr.as_usize());
        let in_memory = to.is_multiple_of(PAGE) && to.checked_add(config.size).is_some();
        if !is_range::<T>(at, config.size) || !in_memory {
            return self.tables.map(&config);
        }
        // The wrapped crate maps the page in which a range ends.
        let bytes = config.size.next_multiple_of(PAGE);
        let mut done = 0;
        while done < bytes {
            let (vaddr, paddr) = (config.vaddr + done, config.paddr + done);
            let (at, to) = (vaddr.as_usize(), paddr.as_usize());
            let highest = if config.allow_huge { T::MAX_BLOCK_LEVEL } else { 1 };
            let (page, size) = to_map(at, to, bytes - done, highest);
            let tables = self.tables_for(Piece::new(vaddr, size), page);
            self.in_window(tables, |view| view.map(&MapConfig { vaddr, paddr, size, ..config }))??;
            done += size;
        }
        Ok(())
    }

    /// `PageTableRef::map_page`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map_page(
        &mut self,
        vaddr: VirtAddr,
        paddr: PhysAddr,
        page_size: usize,
        config: PteConfigOf<T>,
    ) -> PagingResult {
        let first = vaddr.as_usize() & !page_size.wrapping_sub(1);
        let is_page = page_size.is_power_of_two() && page_size >= PAGE;
        let tables = match is_page {
            true => self.tables_for(Piece::new(VirtAddr::from_usize(first), page_size), page_size),
            false => 0,
        };
        self.in_window(tables, |view| view.map_page(vaddr, paddr, page_size, config))?
    }

    /// `PageTableRef::unmap`, in a window for each 512 entries; tables that are empty then are given back after a flush of every CPU.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::MappingConflict`] for a page of a table. What came before is unmapped then.
    pub fn unmap(&mut self, at: VirtAddr, bytes: usize) -> PagingResult {
        if !is_range::<T>(at.as_usize(), bytes) || !bytes.is_multiple_of(PAGE) {
            return self.tables.unmap(at, bytes);
        }
        let result = self.each_piece(at, bytes, |view, piece| view.unmap(piece.at, piece.bytes));
        self.protection.give_back_freed(&mut Own(&self.frames));
        T::flush(if bytes == PAGE { Some(at) } else { None });
        result
    }

    /// `PageTableRef::unmap_page`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::MappingConflict`] for a page of a table.
    pub fn unmap_page(&mut self, at: VirtAddr) -> PagingResult<(PhysAddr, PteConfigOf<T>, usize)> {
        self.leave_tables_alone(at)?;
        let result = self.in_window(0, |view| view.unmap_page(at))?;
        self.protection.give_back_freed(&mut Own(&self.frames));
        T::flush(Some(at));
        result
    }

    /// `PageTableRef::protect_page`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::MappingConflict`] for a page of a table: its new entry would have no key.
    pub fn protect_page(&mut self, at: VirtAddr, config: PteConfigOf<T>) -> PagingResult<usize> {
        self.leave_tables_alone(at)?;
        let result = self.in_window(0, |view| view.protect_page(at, config))?;
        T::flush(Some(at));
        result
    }

    /// `PageTableRef::protect_region`, in a window for each 512 entries.
    ///
    /// # Errors
    ///
    /// As there, [`PagingError::AlignmentError`] for a region that is not of whole pages, and [`PagingError::MappingConflict`] for a page of a
    /// table. What came before is changed then.
    pub fn protect_region(
        &mut self,
        at: VirtAddr,
        bytes: usize,
        config: PteConfigOf<T>,
    ) -> PagingResult {
        let end = at.as_usize().checked_add(bytes);
        if bytes == 0 || end.is_none() {
            return self.tables.protect_region(at, bytes, config);
        }
        if !(at.as_usize() | bytes).is_multiple_of(PAGE) {
            return Err(PagingError::alignment_error("a region to protect is of whole pages"));
        }
        let result = self.each_piece(at, bytes, |view, piece| {
            view.protect_region(piece.at, piece.bytes, config)
        });
        T::flush(if bytes == PAGE { Some(at) } else { None });
        result
    }

    /// `PageTableRef::remap_page`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::MappingConflict`] for a page of a table.
    pub fn remap_page(
        &mut self,
        at: VirtAddr,
        to: PhysAddr,
        config: PteConfigOf<T>,
    ) -> PagingResult<usize> {
        self.leave_tables_alone(at)?;
        let result = self.in_window(0, |view| view.remap_page(at, to, config))?;
        T::flush(Some(at));
        result
    }

    /// Runs `f` in a window for each part of a range that is one table, one block or one hole.
    fn each_piece(
        &mut self,
        at: VirtAddr,
        bytes: usize,
        f: impl Fn(&mut Batch<T, M, L>, Piece) -> PagingResult,
    ) -> PagingResult {
        let mut done = 0;
        while done < bytes {
            let first = at + done;
            let (size, is_block) = self.ends_at(first);
            let piece = Piece::new(first, to_change(first.as_usize(), bytes - done, size));
            if size == PAGE {
                (0..piece.bytes)
                    .step_by(PAGE)
                    .try_for_each(|offset| self.leave_tables_alone(first + offset))?;
            }
            let tables = if is_block { splits(piece, size) } else { 0 };
            self.in_window(tables, |view| f(view, piece))??;
            done += piece.bytes;
        }
        Ok(())
    }

    /// What the entry at which the walk for an address ends translates, and whether it is a block.
    fn ends_at(&self, at: VirtAddr) -> (usize, bool) {
        let (level, entry) = self.walk(at);
        let size = level.entry_address_space_alignment() as usize;
        (size, level != PageTableLevel::One && entry & PageTableFlags::HUGE_PAGE.bits() != 0)
    }

    fn walk(&self, at: VirtAddr) -> (PageTableLevel, u64) {
        let at = x86_64::VirtAddr::new_truncate(at.as_usize() as u64);
        let root = to_frame(self.root_paddr());
        // SAFETY: the root of these tables.
        unsafe { self.protection.walk(root, at, PageTableLevel::One) }
    }

    /// # Errors
    ///
    /// [`PagingError::MappingConflict`] if this is mapped to a page of a table.
    fn leave_tables_alone(&self, at: VirtAddr) -> PagingResult {
        let Ok((to, entry)) = self.tables.translate(at) else { return Ok(()) };
        match entry.present() && self.protection.protects(to_frame(to)) {
            true => Err(PagingError::mapping_conflict(at, to)),
            false => Ok(()),
        }
    }

    /// How many tables are missing for pages of this size in these addresses.
    fn tables_for(&self, piece: Piece, page_size: usize) -> usize {
        let ends = [piece.at.as_usize(), piece.last()];
        let [first, last] = ends.map(|end| x86_64::VirtAddr::new_truncate(end as u64));
        // SAFETY: it answers one question, by reading, while these tables are borrowed.
        let tables = unsafe { self.protection.tables(to_frame(self.root_paddr())) };
        match page_size.ilog2() {
            30 => tables.tables_between::<Size1GiB>(page(first), page(last)),
            21 => tables.tables_between::<Size2MiB>(page(first), page(last)),
            _ => tables.tables_between::<Size4KiB>(page(first), page(last)),
        }
    }
}

fn page<S: x86_64::structures::paging::PageSize>(at: x86_64::VirtAddr) -> Page<S> {
    Page::containing_address(at)
}

fn no_memory(_: OutOfFrames) -> PagingError {
    PagingError::NoMemory
}

fn quiet<T: TableMeta>(config: MapConfig<PteConfigOf<T>>) -> MapConfig<Config<T>> {
    config
}

impl<T, M, L, A> Drop for HardenedPageTable<T, M, L, A>
where
    T: TableMeta,
    M: Machine + Send + Sync + 'static,
    L: Linear + Send + Sync,
    A: FrameAllocator,
{
    /// Frees the tables of the lower half and the root, after a flush of every CPU. The kernel's stay, and so do those of the upper half.
    fn drop(&mut self) {
        let root = to_frame(self.root_paddr());
        if root == self.protection.root() {
            return;
        }
        // Nothing is allocated, so that it cannot fail.
        let _ = self.in_window(0, |view| view.unmap(VirtAddr::from_usize(0), 1 << 47));
        self.protection.give_back_freed(&mut Own(&self.frames));
        // SAFETY: the lower half is empty, whoever drops this says that no CPU uses the root, and the allocator is the one it came from.
        unsafe { self.protection.release_root(root, &mut Own(&self.frames)) };
    }
}

impl<T, M, L, A> fmt::Debug for HardenedPageTable<T, M, L, A>
where
    T: TableMeta,
    M: Machine + Send + Sync + 'static,
    L: Linear + Send + Sync,
    A: FrameAllocator,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HardenedPageTable").field("tables", &self.tables).finish_non_exhaustive()
    }
}

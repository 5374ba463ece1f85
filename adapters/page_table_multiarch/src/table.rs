//! The tables: the wrapped crate's, each of whose calls is in a window.
//!
//! Ranges are this crate's own loops over single pages, in windows of [`PAGES`] each: the wrapped crate's log what they do, and a
//! logger has no business in a window.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use kpkeys_x86_64::{AdoptError, OutOfFrames, Protection};
use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::x86_64::{X64PageTable, X64PageTableCursor};
use page_table_multiarch::{MappingFlags, PageSize, PagingError, PagingResult};
use x86_64::structures::paging::{Page, Size1GiB, Size2MiB, Size4KiB};

use crate::handler::{Kernel, Own, Protected, to_frame};

/// Pages that one window changes, at most.
pub const PAGES: usize = 512;

/// A window's cursor, for [`change`](HardenedPageTable::change).
pub type Cursor<'t, K> = X64PageTableCursor<'t, Protected<K>>;

/// Tables of `page_table_multiarch`, for x86-64, that only this can change. Before the kernel's tables are adopted it is what it wraps.
pub struct HardenedPageTable<K: Kernel> {
    inner: ManuallyDrop<X64PageTable<Protected<K>>>,
}

impl<K: Kernel> HardenedPageTable<K> {
    /// Empty tables.
    ///
    /// # Errors
    ///
    /// [`PagingError::NoMemory`].
    pub fn try_new() -> PagingResult<Self> {
        let inner = in_call::<K, _>(1, X64PageTable::try_new)??;
        Ok(HardenedPageTable { inner: ManuallyDrop::new(inner) })
    }

    /// Protects these tables, which the CPUs use, and returns what [`Kernel::protection`] gives from then on.
    ///
    /// # Errors
    ///
    /// What cannot be adopted, and why. Nothing is protected then.
    ///
    /// # Safety
    ///
    /// As for [`Protection::adopt`]; no call is made of these tables until [`Kernel::protection`] gives what this returns.
    pub unsafe fn adopt(
        &self,
        machine: K::Machine,
        linear: K::Linear,
    ) -> Result<Protection<K::Machine, K::Linear>, AdoptError> {
        let root = to_frame(self.root_paddr());
        // SAFETY: the caller's promise.
        unsafe {
            Protection::adopt_without_alias(machine, linear, root, &mut Own::<K>(PhantomData))
        }
    }

    /// Protects these tables, made for another address space before the kernel's were adopted.
    ///
    /// # Errors
    ///
    /// As for [`adopt`](Self::adopt).
    ///
    /// # Safety
    ///
    /// As for [`Protection::adopt_root`].
    pub unsafe fn join(
        &self,
        protection: &Protection<K::Machine, K::Linear>,
    ) -> Result<(), AdoptError> {
        let root = to_frame(self.root_paddr());
        // SAFETY: the caller's promise.
        unsafe { protection.adopt_root(root, &mut Own::<K>(PhantomData)) }
    }

    /// The wrapped tables, to look at.
    pub fn inner(&self) -> &X64PageTable<Protected<K>> {
        &self.inner
    }

    /// The root, for CR3.
    pub fn root_paddr(&self) -> PhysAddr {
        self.inner.root_paddr()
    }

    /// `PageTable64::query`. Needs no window.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn query(&self, at: VirtAddr) -> PagingResult<(PhysAddr, MappingFlags, PageSize)> {
        self.inner.query(at)
    }

    /// Runs `f` in one window, with frames for `tables` new tables at hand. Nothing but calls of the cursor belongs in it, and none of those for
    /// regions, which log.
    ///
    /// # Errors
    ///
    /// [`PagingError::NoMemory`], before `f` runs.
    ///
    /// # Safety
    ///
    /// `f` opens no window: it uses no other tables of this type, and nothing that is not meant to be able to write tables.
    pub unsafe fn change<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Cursor<'_, K>) -> R,
    ) -> PagingResult<R> {
        self.with_cursor(tables, f)
    }

    /// Runs `f`, which does nothing but call the cursor, in one window.
    fn with_cursor<R>(
        &mut self,
        tables: usize,
        f: impl FnOnce(&mut Cursor<'_, K>) -> R,
    ) -> PagingResult<R> {
        // The cursor flushes this CPU when it is dropped.
        in_call::<K, _>(tables, || f(&mut self.inner.cursor()))
    }

    /// `PageTable64Cursor::map`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map(
        &mut self,
        at: VirtAddr,
        to: PhysAddr,
        size: PageSize,
        flags: MappingFlags,
    ) -> PagingResult {
        let tables = self.tables_for(at, size as usize, size);
        self.with_cursor(tables, |cursor| cursor.map(at, to, size, flags))?
    }

    /// `PageTable64Cursor::remap`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::AlreadyMapped`] for a page of a table.
    pub fn remap(
        &mut self,
        at: VirtAddr,
        to: PhysAddr,
        flags: MappingFlags,
    ) -> PagingResult<PageSize> {
        self.leave_tables_alone(at)?;
        self.with_cursor(0, |cursor| cursor.remap(at, to, flags))?
    }

    /// `PageTable64Cursor::protect`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::AlreadyMapped`] for a page of a table: new flags would take its key away.
    pub fn protect(&mut self, at: VirtAddr, flags: MappingFlags) -> PagingResult<PageSize> {
        self.leave_tables_alone(at)?;
        self.with_cursor(0, |cursor| cursor.protect(at, flags))?
    }

    /// `PageTable64Cursor::unmap`.
    ///
    /// # Errors
    ///
    /// As there, and [`PagingError::AlreadyMapped`] for a page of a table.
    pub fn unmap(&mut self, at: VirtAddr) -> PagingResult<(PhysAddr, MappingFlags, PageSize)> {
        self.leave_tables_alone(at)?;
        self.with_cursor(0, |cursor| cursor.unmap(at))?
    }

    /// `PageTable64Cursor::map_region`, by pages of 4 KiB. What was mapped before an error stays so, as there.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map_region(
        &mut self,
        at: VirtAddr,
        to: impl Fn(VirtAddr) -> PhysAddr,
        bytes: usize,
        flags: MappingFlags,
    ) -> PagingResult {
        let small = PageSize::Size4K;
        for (first, pages) in windows(at, bytes)? {
            // What the kernel's function says is asked for outside.
            let mut frames = [PhysAddr::from_usize(0); PAGES];
            let frames = &mut frames[..pages];
            let page = |i: usize| VirtAddr::from_usize(first.as_usize() + i * small as usize);
            frames.iter_mut().enumerate().for_each(|(i, frame)| *frame = to(page(i)));
            let tables = self.tables_for(first, pages * small as usize, small);
            self.with_cursor(tables, |cursor| {
                frames
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, &frame)| cursor.map(page(i), frame, small, flags))
            })??;
        }
        Ok(())
    }

    /// `PageTable64Cursor::unmap_region`, of a region of 4 KiB pages.
    ///
    /// # Errors
    ///
    /// As there, and those of [`unmap`](Self::unmap). What came before is unmapped.
    pub fn unmap_region(&mut self, at: VirtAddr, bytes: usize) -> PagingResult {
        self.each_page(at, bytes, |cursor, page| cursor.unmap(page).map(drop))
    }

    /// `PageTable64Cursor::protect_region`, of a region of 4 KiB pages; those that are not mapped are skipped, as there.
    ///
    /// # Errors
    ///
    /// As there, and those of [`protect`](Self::protect). What came before is changed.
    pub fn protect_region(
        &mut self,
        at: VirtAddr,
        bytes: usize,
        flags: MappingFlags,
    ) -> PagingResult {
        self.each_page(at, bytes, |cursor, page| match cursor.protect(page, flags) {
            Err(PagingError::NotMapped) => Ok(()),
            other => other.map(drop),
        })
    }

    fn each_page(
        &mut self,
        at: VirtAddr,
        bytes: usize,
        f: impl Fn(&mut Cursor<'_, K>, VirtAddr) -> PagingResult,
    ) -> PagingResult {
        let small = PageSize::Size4K;
        for (first, pages) in windows(at, bytes)? {
            let page = |i: usize| VirtAddr::from_usize(first.as_usize() + i * small as usize);
            for i in 0..pages {
                self.leave_tables_alone(page(i))?;
                if self.query(page(i)).is_ok_and(|(_, _, size)| size.is_huge()) {
                    return Err(PagingError::MappedToHugePage);
                }
            }
            self.with_cursor(0, |cursor| (0..pages).try_for_each(|i| f(cursor, page(i))))??;
        }
        Ok(())
    }

    /// # Errors
    ///
    /// [`PagingError::AlreadyMapped`] if this is mapped to a page of a table.
    fn leave_tables_alone(&self, at: VirtAddr) -> PagingResult {
        let to = self.query(at).map(|(to, _, _)| to_frame(to));
        let is_a_tables = K::protection().zip(to.ok()).is_some_and(|(all, to)| all.protects(to));
        if is_a_tables { Err(PagingError::AlreadyMapped) } else { Ok(()) }
    }

    /// How many tables are missing for pages of this size in these addresses. What is no address is for the wrapped crate to judge.
    fn tables_for(&self, at: VirtAddr, bytes: usize, size: PageSize) -> usize {
        let Some(protection) = K::protection() else { return 0 };
        let ends = [at.as_usize(), at.as_usize().saturating_add(bytes - 1)];
        let [first, last] = ends.map(|end| x86_64::VirtAddr::new_truncate(end as u64));
        // SAFETY: it answers one question, by reading, while these tables are borrowed.
        let tables = unsafe { protection.tables(to_frame(self.root_paddr())) };
        match size {
            PageSize::Size1G => tables.tables_between::<Size1GiB>(page(first), page(last)),
            PageSize::Size2M => tables.tables_between::<Size2MiB>(page(first), page(last)),
            _ => tables.tables_between::<Size4KiB>(page(first), page(last)),
        }
    }
}

fn page<S: x86_64::structures::paging::PageSize>(at: x86_64::VirtAddr) -> Page<S> {
    Page::containing_address(at)
}

impl<K: Kernel> Drop for HardenedPageTable<K> {
    /// Frees the tables, after a flush of every CPU.
    fn drop(&mut self) {
        let _ = in_call::<K, _>(0, || {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        });
    }
}

/// Runs the wrapped crate's code: in a window, where tables are protected.
fn in_call<K: Kernel, R>(tables: usize, f: impl FnOnce() -> R) -> PagingResult<R> {
    let Some(protection) = K::protection() else { return Ok(f()) };
    // SAFETY: what runs is the wrapped crate, whose handler opens no window; or the closure of `change`, for which its caller answers.
    unsafe { protection.call(tables, &mut Own::<K>(PhantomData), f) }
        .map_err(|OutOfFrames| PagingError::NoMemory)
}

/// A region in pieces of one window each: where it starts, and how many pages it has.
///
/// # Errors
///
/// [`PagingError::NotAligned`], also for a region that goes on after the last address.
fn windows(at: VirtAddr, bytes: usize) -> PagingResult<impl Iterator<Item = (VirtAddr, usize)>> {
    let (start, small) = (at.as_usize(), PageSize::Size4K);
    let ends = start.checked_add(bytes.saturating_sub(1)).is_some();
    if !small.is_aligned(start) || !small.is_aligned(bytes) || !ends {
        return Err(PagingError::NotAligned);
    }
    let pages = bytes / small as usize;
    Ok((0..pages).step_by(PAGES).map(move |first| {
        (VirtAddr::from_usize(start + first * small as usize), PAGES.min(pages - first))
    }))
}

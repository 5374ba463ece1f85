//! The mapper: the wrapped crate's traits, each call in a window of its own, or many in one.

use core::cell::Cell;
use core::marker::PhantomData;

use kpkeys::{Pkey, Window};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{
    CleanUp, FlagUpdateError, MapToError, MappedPageTable, MapperFlush, MapperFlushAll,
    TranslateError, TranslateResult, UnmapError,
};
use x86_64::structures::paging::page::{PageRange, PageRangeInclusive};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, Page, PageSize, PageTableFlags, PhysFrame, Size1GiB,
    Size2MiB, Size4KiB, Translate,
};

use crate::entry::{KEY, Place, walk};
use crate::error::OutOfFrames;
use crate::frames::{List, Prepared, Waiting};
use crate::linear::{InWindow, Linear};
use crate::machine::{Machine, in_window};
use crate::protection::Protection;

/// The wrapped crate's mapper, made anew for each window: outside of one, nothing holds a reference that claims to be able to write a table.
type Bare<L> = MappedPageTable<'static, InWindow<L>>;

/// A mapper for tables that only it can change: `OffsetPageTable` and `MappedPageTable`, behind a window.
///
/// It implements the wrapped crate's [`Mapper`] for every page size, [`Translate`] and [`CleanUp`], and takes the kernel's own frame allocator
/// where those take one: a frame for a table is protected, flushed and emptied before it is linked, and a table's frame is flushed and
/// unprotected before it is given back.
#[derive(Debug)]
pub struct HardenedPageTable<'p, M, L> {
    protection: &'p Protection<M, L>,
    root: PhysFrame,
    /// May move to another thread, may not be shared: the wrapped crate reads by exclusive references.
    exclusive: PhantomData<Cell<()>>,
}

impl<'p, M: Machine, L: Linear> HardenedPageTable<'p, M, L> {
    pub(crate) fn new(protection: &'p Protection<M, L>, root: PhysFrame) -> Self {
        HardenedPageTable { protection, root, exclusive: PhantomData }
    }

    /// The root of the tables.
    pub fn root(&self) -> PhysFrame {
        self.root
    }

    /// Runs `f` in one window, with frames for up to `tables` new tables at hand. How many a range may need says [`tables_for`](Self::tables_for).
    ///
    /// Everything in `f` runs with interrupts off: nothing but calls of the batch belongs there.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`], before `f` runs.
    ///
    /// # Safety
    ///
    /// `f` opens no window: it calls no other mapper, and nothing that is not meant to be able to write tables.
    pub unsafe fn batch<A, R>(
        &mut self,
        tables: usize,
        frames: &mut A,
        f: impl FnOnce(&mut Batch<'_, L>) -> R,
    ) -> Result<R, OutOfFrames>
    where
        A: FrameAllocator<Size4KiB> + ?Sized,
    {
        let list = self.protection.take(tables, frames)?;
        Ok(self.with(list, f))
    }

    /// How many tables are missing to map every page of a range.
    pub fn tables_for<S: PageSize>(&self, range: PageRange<S>) -> usize {
        if range.is_empty() { 0 } else { self.tables_between(range.start, range.end - 1) }
    }

    /// The same from a page to another, included.
    pub fn tables_between<S: PageSize>(&self, first: Page<S>, last: Page<S>) -> usize {
        let [first, last] = [first, last].map(Page::start_address);
        let levels = core::iter::successors(leaf_level::<S>().next_higher_level(), |level| {
            level.next_higher_level()
        });
        levels.map(|level| self.missing_at(level, first, last)).sum()
    }

    /// The same for one page, by one walk.
    fn tables_for_page<S: PageSize>(&self, page: Page<S>) -> usize {
        let leaf = leaf_level::<S>();
        let lowest = leaf.next_higher_level().unwrap_or(PageTableLevel::Four);
        let (linear, address) = (&self.protection.linear, page.start_address());
        // SAFETY: the root is one of this protection's.
        match unsafe { walk(linear, self.root, address, lowest) } {
            Ok(place) if place.entry.0 == 0 => place.level as usize - leaf as usize,
            _ => 0,
        }
    }

    /// How many entries at `level` are to point to a table for these addresses and do not yet.
    fn missing_at(&self, level: PageTableLevel, first: VirtAddr, last: VirtAddr) -> usize {
        let size = level.entry_address_space_alignment();
        let index = |va: VirtAddr| va.as_u64() / size;
        (index(first)..=index(last))
            .filter(|&index| {
                // SAFETY: the root is one of this protection's.
                let place = unsafe {
                    walk(
                        &self.protection.linear,
                        self.root,
                        VirtAddr::new_truncate(index * size),
                        level,
                    )
                };
                place.is_ok_and(|place| place.entry.0 == 0)
            })
            .count()
    }

    /// Runs `f` in a window, and keeps the frames that it did not need.
    #[inline(always)]
    fn with<R>(&mut self, list: List, f: impl FnOnce(&mut Batch<'_, L>) -> R) -> R {
        let protection = self.protection;
        let mut left = PutBack { protection, list };
        in_window(&protection.machine, |window| {
            let (list, linear) = (&mut left.list, protection.linear);
            let prepared = Prepared { list, linear, root: protection.root(), window };
            // SAFETY: the root's tables are this mapper's, which is borrowed exclusively, and can be written while the window is open.
            let bare = unsafe { bare(protection.linear, self.root) };
            f(&mut Batch { bare, prepared, root: self.root })
        })
    }

    /// Runs `f` in a window, if it needs no frames.
    #[inline(always)]
    fn change<R>(&mut self, f: impl FnOnce(&mut Batch<'_, L>) -> R) -> R {
        self.with(List::EMPTY, f)
    }

    /// The wrapped mapper, for reading.
    fn reader(&self) -> MappedPageTable<'static, L> {
        let linear = self.protection.linear;
        let table = linear.frame_to_pointer(self.root);
        // SAFETY: the pointer is valid for the frame (`Linear`); nothing is stored through it, and this mapper, the only one of the root, is
        // not shared.
        unsafe { MappedPageTable::new(&mut *table, linear) }
    }
}

/// Frames that a call has at hand. What is left goes back to stock after its window, also when a batch's closure panics.
struct PutBack<'p, M: Machine, L: Linear> {
    protection: &'p Protection<M, L>,
    list: List,
}

impl<M: Machine, L: Linear> Drop for PutBack<'_, M, L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.protection.put(core::mem::replace(&mut self.list, List::EMPTY));
    }
}

/// # Safety
///
/// `root` is the root of tables that `linear` has addresses of, used by nobody else meanwhile; what the mapper stores, it stores in a window.
#[inline(always)]
unsafe fn bare<L: Linear>(linear: L, root: PhysFrame) -> Bare<L> {
    let table = linear.writable(root);
    // SAFETY: the caller's promise; the pointer is valid for the frame while the window is open (`Linear`).
    unsafe { MappedPageTable::new(&mut *table, InWindow(linear)) }
}

fn leaf_level<S: PageSize>() -> PageTableLevel {
    match S::SIZE {
        Size1GiB::SIZE => PageTableLevel::Three,
        Size2MiB::SIZE => PageTableLevel::Two,
        _ => PageTableLevel::One,
    }
}

/// Calls in a window that is open already.
pub struct Batch<'w, L: Linear> {
    bare: Bare<L>,
    prepared: Prepared<'w, L>,
    root: PhysFrame,
}

impl<L: Linear> Batch<'_, L> {
    /// [`Mapper::map_to`], with a new table where one is missing and there are frames left.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn map_to<S: PageSize>(
        &mut self,
        page: Page<S>,
        frame: PhysFrame<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlush<S>, MapToError<S>>
    where
        Bare<L>: Mapper<S>,
    {
        let parents = flags & PARENT;
        // SAFETY: the caller's promise.
        unsafe { self.map_to_with_table_flags(page, frame, flags, parents) }
    }

    /// [`Mapper::map_to_with_table_flags`], likewise. Tables are always present and never blocks, whatever the flags say: the wrapped crate would
    /// panic half-way, with the window open.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn map_to_with_table_flags<S: PageSize>(
        &mut self,
        page: Page<S>,
        frame: PhysFrame<S>,
        flags: PageTableFlags,
        parents: PageTableFlags,
    ) -> Result<MapperFlush<S>, MapToError<S>>
    where
        Bare<L>: Mapper<S>,
    {
        let parents = (parents | PageTableFlags::PRESENT) - PageTableFlags::HUGE_PAGE;
        let flags = leaf_flags::<S>(flags);
        // SAFETY: the caller's promise.
        unsafe {
            self.bare.map_to_with_table_flags(page, frame, flags, parents, &mut self.prepared)
        }
    }

    /// [`Mapper::unmap`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unmap<S: PageSize>(
        &mut self,
        page: Page<S>,
    ) -> Result<(PhysFrame<S>, MapperFlush<S>), UnmapError>
    where
        Bare<L>: Mapper<S>,
    {
        self.bare.unmap(page)
    }

    /// [`Mapper::update_flags`]. A leaf that carries the key of page tables keeps it: the wrapped crate takes keys for flags, and would drop it.
    ///
    /// # Errors
    ///
    /// As there, and [`FlagUpdateError::PageNotMapped`] where there is a table instead of a block: the wrapped crate would turn it into a
    /// block, which maps the table itself.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn update_flags<S: PageSize>(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlush<S>, FlagUpdateError>
    where
        Bare<L>: Mapper<S>,
    {
        let level = leaf_level::<S>();
        // SAFETY: the root of this batch's tables.
        let place = unsafe { walk(&self.prepared.linear, self.root, page.start_address(), level) };
        let mut flags = flags;
        if let Some(Place { entry, .. }) = place.ok().filter(|place| place.level == level) {
            if entry.is_present() && !entry.is_leaf(level) {
                return Err(FlagUpdateError::PageNotMapped);
            }
            if entry.key() == Pkey::PAGE_TABLES {
                flags = (flags - KEY) | (entry.flags() & KEY);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.bare.update_flags(page, flags) }
    }
}

/// What the wrapped crate hands on to parents.
const PARENT: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::USER_ACCESSIBLE);

/// Flags for a leaf of this size. The wrapped crate panics where a small page is said to be a block.
fn leaf_flags<S: PageSize>(flags: PageTableFlags) -> PageTableFlags {
    if S::SIZE == Size4KiB::SIZE { flags - PageTableFlags::HUGE_PAGE } else { flags }
}

impl<M: Machine, L: Linear, S: PageSize> Mapper<S> for HardenedPageTable<'_, M, L>
where
    Bare<L>: Mapper<S>,
    MappedPageTable<'static, L>: Mapper<S>,
{
    unsafe fn map_to_with_table_flags<A>(
        &mut self,
        page: Page<S>,
        frame: PhysFrame<S>,
        flags: PageTableFlags,
        parents: PageTableFlags,
        frames: &mut A,
    ) -> Result<MapperFlush<S>, MapToError<S>>
    where
        A: FrameAllocator<Size4KiB> + ?Sized,
    {
        let list = self.protection.take(self.tables_for_page(page), frames);
        let list = list.map_err(|OutOfFrames| MapToError::FrameAllocationFailed)?;
        // SAFETY: the caller's promise.
        self.with(list, |batch| unsafe {
            batch.map_to_with_table_flags(page, frame, flags, parents)
        })
    }

    fn unmap(&mut self, page: Page<S>) -> Result<(PhysFrame<S>, MapperFlush<S>), UnmapError> {
        self.change(|batch| batch.unmap(page))
    }

    unsafe fn update_flags(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlush<S>, FlagUpdateError> {
        // SAFETY: the caller's promise.
        self.change(|batch| unsafe { batch.update_flags(page, flags) })
    }

    unsafe fn set_flags_p4_entry(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        // SAFETY: the caller's promise.
        self.change(|batch| unsafe { batch.bare.set_flags_p4_entry(page, flags) })
    }

    unsafe fn set_flags_p3_entry(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        // SAFETY: the caller's promise.
        self.change(|batch| unsafe { batch.bare.set_flags_p3_entry(page, flags) })
    }

    unsafe fn set_flags_p2_entry(
        &mut self,
        page: Page<S>,
        flags: PageTableFlags,
    ) -> Result<MapperFlushAll, FlagUpdateError> {
        // SAFETY: the caller's promise.
        self.change(|batch| unsafe { batch.bare.set_flags_p2_entry(page, flags) })
    }

    fn translate_page(&self, page: Page<S>) -> Result<PhysFrame<S>, TranslateError> {
        self.reader().translate_page(page)
    }
}

impl<M: Machine, L: Linear> Translate for HardenedPageTable<'_, M, L> {
    fn translate(&self, address: VirtAddr) -> TranslateResult {
        self.reader().translate(address)
    }
}

/// Frames wait for a flush of every CPU; the wrapped crate gives them away while CPUs may still walk them.
impl<M: Machine, L: Linear> CleanUp for HardenedPageTable<'_, M, L> {
    unsafe fn clean_up<D>(&mut self, frames: &mut D)
    where
        D: FrameDeallocator<Size4KiB>,
    {
        let [first, last] = [0, 0xffff_ffff_ffff_f000].map(VirtAddr::new_truncate);
        let [first, last] = [first, last].map(Page::containing_address);
        // SAFETY: the caller's promise.
        unsafe { self.clean_up_addr_range(Page::range_inclusive(first, last), frames) };
    }

    unsafe fn clean_up_addr_range<D>(&mut self, range: PageRangeInclusive, frames: &mut D)
    where
        D: FrameDeallocator<Size4KiB>,
    {
        let (linear, kernel) = (self.protection.linear, self.protection.root());
        let freed = in_window(&self.protection.machine, |window: &Window<'_>| {
            let mut waiting = Waiting { list: List::EMPTY, linear, root: kernel, window };
            // SAFETY: as in `with`; that tables may be freed is the caller's promise.
            unsafe { bare(linear, self.root).clean_up_addr_range(range, &mut waiting) };
            waiting.list
        });
        self.protection.give_back(freed, frames);
    }
}

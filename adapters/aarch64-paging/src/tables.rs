//! Tables, and the calls that change them: the wrapped crate's, each in a window.

use core::fmt;
use core::mem::{self, ManuallyDrop};
use core::sync::atomic::{AtomicUsize, Ordering};

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{Descriptor, El1Attributes, PhysicalAddress, UpdatableDescriptor};
use aarch64_paging::paging::{Constraints, El1And0, LEAF_LEVEL, MemoryRegion, VaRange};
use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard};

use crate::Error;
use crate::frames::Frames;
use crate::layout::{aliased, overlap};
use crate::plan::{Piece, Plan};
use crate::pool::Pool;
use crate::walk::{Change, Walk};

/// What an updater of [`modify_range`](Tables::modify_range) is called with.
pub type Updatable<'a> = UpdatableDescriptor<'a, El1Attributes>;

/// The tables of one root: a [`Mapping`] of the EL1&0 regime whose tables are in a [`Pool`].
///
/// Each call that changes tables opens one window, in which the wrapped crate's code runs. Reading opens none.
/// One caller at a time may change tables, which `&mut` says; where several CPUs do, keep them behind a lock.
pub struct Tables<'p, B: Backend> {
    pub(crate) pool: &'p Pool<B>,
    mapping: ManuallyDrop<Mapping<Frames<'p, B>, El1And0>>,
    level: usize,
    half: VaRange,
    /// How often they are active: the wrapped crate counts as well, but does not tell.
    active: AtomicUsize,
    /// Whether the wrapped crate's address of the root is that of after protection was turned on.
    settled: bool,
    /// Pages that the pool has promised to the call that is under way, and how many had been taken before it.
    promised: Option<(usize, usize)>,
}

/// Several changes in one window.
pub struct Batch<'t, 'p, B: Backend> {
    tables: &'t mut Tables<'p, B>,
    _window: Guard<'p, B, PageTables>,
}

impl<'p, B: Backend> Tables<'p, B> {
    /// Empty tables.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfTables`].
    ///
    /// # Panics
    ///
    /// If there is no such level of tables.
    pub fn new(
        pool: &'p Pool<B>,
        asid: usize,
        root_level: usize,
        half: VaRange,
    ) -> Result<Self, Error> {
        assert!(root_level <= LEAF_LEVEL, "tables have levels 0 to 3");
        pool.reserve(1)?;
        // SAFETY: no other guard lives on this CPU: windows are opened by this crate alone, for one call of the wrapped crate, or by
        // `batch`, whose caller answers for it.
        let window = unsafe { pool.open() };
        let frames = Frames::new(pool);
        let mapping = Mapping::with_asid_and_va_range(frames, asid, root_level, El1And0, half);
        drop(window);
        Ok(Tables {
            pool,
            mapping: ManuallyDrop::new(mapping),
            level: root_level,
            half,
            active: AtomicUsize::new(0),
            settled: pool.is_protected(),
            promised: None,
        })
    }

    /// [`Mapping::map_range`], in one window. Where `range` is the linear map of table memory, that part of it is mapped protected,
    /// whatever `flags` says of writing.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing was changed then, but by [`Error::Map`] parts of `range` beside table memory may be.
    pub fn map_range(
        &mut self,
        range: &MemoryRegion,
        pa: PhysicalAddress,
        flags: El1Attributes,
        constraints: Constraints,
    ) -> Result<(), Error> {
        let plan = Plan::of(self, range, pa, flags, constraints)?;
        self.settle();
        // SAFETY: as for `new`.
        let window = unsafe { self.pool.open() };
        let mapped = self.carry_out(plan);
        drop(window);
        mapped
    }

    /// Takes all mappings out of a range, and the tables that have no other: `map_range` without `VALID`, in one window.
    ///
    /// # Errors
    ///
    /// As for [`map_range`](Self::map_range). Where the range cuts a block, or a hole that a block would fit, that takes tables.
    pub fn unmap_range(&mut self, range: &MemoryRegion) -> Result<(), Error> {
        let (pa, flags) = (PhysicalAddress(0), El1Attributes::empty());
        self.map_range(range, pa, flags, Constraints::empty())
    }

    /// [`Mapping::modify_range`], in one window, in which `f` runs too.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing was changed then, but by [`Error::Map`] some entries may be.
    pub fn modify_range<F>(&mut self, range: &MemoryRegion, f: &F) -> Result<(), Error>
    where
        F: Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()> + ?Sized,
    {
        let reserved = self.reserve_for_modify(range)?;
        self.settle();
        // SAFETY: as for `new`; what else runs in it is the caller's updater, which is there to change entries.
        let window = unsafe { self.pool.open() };
        let modified = self.modify_within(range, f, reserved);
        drop(window);
        modified
    }

    /// [`Mapping::compact_subtables`], in one window: gives back tables that are empty, after their flush.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignTable`]; nothing was changed then.
    pub fn compact_subtables(&mut self) -> Result<(), Error> {
        self.walk().check_below(self.root_address(), self.level)?;
        self.settle();
        // SAFETY: as for `new`.
        let window = unsafe { self.pool.open() };
        self.mapping.compact_subtables();
        drop(window);
        Ok(())
    }

    /// Maps the alias of table memory, of memory with these attributes (type and shareability). Nothing is done for a backend without one.
    ///
    /// # Errors
    ///
    /// As for [`map_range`](Self::map_range).
    pub fn map_alias(&mut self, memory: El1Attributes) -> Result<(), Error> {
        let layout = *self.pool.layout();
        let Some(alias) = layout.alias_region().filter(|_| self.has_alias()) else {
            return Ok(());
        };
        self.walk().verify(&alias)?;
        let (flags, constraints) = (aliased(memory), Constraints::empty());
        let piece = Piece { region: alias, pa: layout.start, flags, constraints };
        let plan = Plan::of_pieces(self, [Some(piece), None, None])?;
        self.settle();
        // SAFETY: as for `new`.
        let window = unsafe { self.pool.open() };
        let mapped = self.carry_out(plan);
        drop(window);
        mapped?;
        self.pool.alias_mapped.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens one window for several changes. It ends with what is returned.
    ///
    /// # Safety
    ///
    /// While it lives, no other call of this crate opens a window on this CPU, interrupt handlers aside, and this CPU executes only what may
    /// write page tables.
    pub unsafe fn batch(&mut self) -> Batch<'_, 'p, B> {
        self.settle();
        // SAFETY: the caller's promise.
        let window = unsafe { self.pool.open() };
        Batch { tables: self, _window: window }
    }

    /// [`Mapping::walk_range`], through the linear map: no window.
    ///
    /// # Errors
    ///
    /// As the wrapped crate, and [`Error::ForeignTable`].
    pub fn walk_range<F>(&self, range: &MemoryRegion, f: &mut F) -> Result<(), Error>
    where
        F: FnMut(&MemoryRegion, &Descriptor<El1Attributes>, usize) -> Result<(), ()>,
    {
        self.walk().visit(range, f)
    }

    /// [`Mapping::activate`]. Tables that are active when they are dropped are not given back.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::activate`].
    pub unsafe fn activate(&self) -> usize {
        self.active.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.mapping.activate() }
    }

    /// [`Mapping::deactivate`]. It flushes this CPU alone.
    ///
    /// # Safety
    ///
    /// As for [`Mapping::deactivate`].
    ///
    /// # Panics
    ///
    /// If they are not active.
    pub unsafe fn deactivate(&self, previous_ttbr: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.mapping.deactivate(previous_ttbr) }
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether they are active somewhere: changes are checked and flushed then.
    pub fn active(&self) -> bool {
        self.mapping.active()
    }

    /// [`Mapping::mark_active`], for who writes TTBRn_EL1 without this crate.
    pub fn mark_active(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.mapping.mark_active();
    }

    /// [`Mapping::mark_inactive`].
    ///
    /// # Panics
    ///
    /// If they are not active.
    pub fn mark_inactive(&self) {
        self.mapping.mark_inactive();
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// The root table.
    pub fn root_address(&self) -> PhysicalAddress {
        self.mapping.root_address()
    }

    /// Which half they translate.
    pub fn va_range(&self) -> VaRange {
        self.half
    }

    fn has_alias(&self) -> bool {
        self.pool.backend().scheme() == kpkeys::Scheme::Alias
    }

    pub(crate) fn walk(&self) -> Walk<'p, B> {
        Walk { pool: self.pool, root: self.root_address(), level: self.level, half: self.half }
    }

    /// The wrapped crate keeps the address that its root was allocated at. When protection is turned on that is one that cannot be stored
    /// to any more: it is made to take up the same root at the other.
    fn settle(&mut self) {
        if self.settled || !self.pool.is_protected() {
            return;
        }
        self.return_unused();
        let root = self.pool.layout().page(self.root_address());
        let frames = Frames::of(self.pool, root.expect("the root is in the table memory"));
        let asid = self.mapping.asid();
        let settled = Mapping::with_asid_and_va_range(frames, asid, self.level, El1And0, self.half);
        for _ in 0..self.active.load(Ordering::Relaxed) {
            settled.mark_active();
        }
        // Not dropped: its tables are the same.
        mem::forget(mem::replace(&mut *self.mapping, settled));
        self.settled = true;
    }

    fn reserve_for_modify(&self, range: &MemoryRegion) -> Result<usize, Error> {
        self.walk().verify(range)?;
        let layout = self.pool.layout();
        if layout.overlaps_alias(range) || overlap(&layout.linear_region(), range).is_some() {
            return Err(Error::TableMemory(range.clone()));
        }
        let needed = self.walk().needs(range, Change::Modify)?;
        self.pool.reserve(needed)?;
        Ok(needed)
    }

    fn modify_within<F>(
        &mut self,
        range: &MemoryRegion,
        f: &F,
        reserved: usize,
    ) -> Result<(), Error>
    where
        F: Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()> + ?Sized,
    {
        self.promise(reserved);
        let modified = self.mapping.modify_range(range, f);
        self.return_unused();
        Ok(modified?)
    }

    fn carry_out(&mut self, plan: Plan) -> Result<(), Error> {
        self.promise(plan.reserved);
        let mut pieces = plan.pieces.iter().flatten();
        let mapped = pieces.try_for_each(|piece| {
            self.mapping.map_range(&piece.region, piece.pa, piece.flags, piece.constraints)
        });
        self.return_unused();
        mapped?;
        if plan.maps_all_linear {
            self.pool.linear_mapped.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn promise(&mut self, pages: usize) {
        self.return_unused();
        self.promised = Some((pages, self.mapping.translation().taken));
    }

    /// Also what is left of a call whose updater has panicked.
    fn return_unused(&mut self) {
        if let Some((reserved, before)) = self.promised.take() {
            self.pool.unreserve(reserved - (self.mapping.translation().taken - before));
        }
    }
}

impl<B: Backend> Batch<'_, '_, B> {
    /// [`Tables::map_range`], in the batch's window.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map_range(
        &mut self,
        range: &MemoryRegion,
        pa: PhysicalAddress,
        flags: El1Attributes,
        constraints: Constraints,
    ) -> Result<(), Error> {
        let plan = Plan::of(self.tables, range, pa, flags, constraints)?;
        self.tables.carry_out(plan)
    }

    /// [`Tables::unmap_range`], in the batch's window.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unmap_range(&mut self, range: &MemoryRegion) -> Result<(), Error> {
        self.map_range(range, PhysicalAddress(0), El1Attributes::empty(), Constraints::empty())
    }

    /// [`Tables::modify_range`], in the batch's window.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn modify_range<F>(&mut self, range: &MemoryRegion, f: &F) -> Result<(), Error>
    where
        F: Fn(&MemoryRegion, &mut Updatable<'_>) -> Result<(), ()> + ?Sized,
    {
        let reserved = self.tables.reserve_for_modify(range)?;
        self.tables.modify_within(range, f, reserved)
    }
}

impl<B: Backend> Drop for Tables<'_, B> {
    /// Gives all tables back, in one window, unless a CPU may still walk them.
    fn drop(&mut self) {
        self.return_unused();
        let whole = self.walk().check_below(self.root_address(), self.level).is_ok();
        if self.active() || !whole {
            return;
        }
        self.settle();
        // SAFETY: as for `new`.
        let window = unsafe { self.pool.open() };
        // SAFETY: not used again.
        unsafe { ManuallyDrop::drop(&mut self.mapping) };
        drop(window);
    }
}

impl<B: Backend> fmt::Debug for Tables<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Tables");
        shown.field("root", &self.root_address()).field("half", &self.half);
        shown.field("active", &self.active()).finish_non_exhaustive()
    }
}

//! Reading tables. Reading needs no window; what is read may have been stored by another CPU a moment ago.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::machine::Machine;

/// A page-table page, seen through the linear map.
#[derive(Debug)]
pub struct Table<'m, F: Format> {
    entries: &'m F::Entries,
}

impl<F: Format> Clone for Table<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Table<'_, F> {}

/// One entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'m>(pub(crate) &'m AtomicU64);

/// A run of entries of one table.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'m>(pub(crate) &'m [AtomicU64]);

impl<'m, F: Format> Table<'m, F> {
    /// The table in `frame`.
    ///
    /// # Safety
    ///
    /// `frame` must be a page-aligned frame of the machine's memory that holds a page-table page and goes on doing so
    /// for as long as the returned value is used.
    #[inline(always)]
    pub(crate) unsafe fn at<M: Machine<Format = F>>(machine: &'m M, frame: PhysAddr) -> Self {
        let address = machine.table(frame).cast::<F::Entries>();
        // SAFETY: the machine gives a page-aligned address, readable as long as the machine lives; the frame holds a
        // table (caller's promise), which is accessed by atomic operations alone. Read-only mappings are no obstacle:
        // atomic loads of 64 bits are plain loads on every architecture served, and stores need a window.
        Table { entries: unsafe { address.as_ref() } }
    }

    /// The table that an entry at `level` points to, if it does.
    ///
    /// # Safety
    ///
    /// Where it does, what it points to must be a table, as for [`at`](Self::at).
    #[inline(always)]
    pub(crate) unsafe fn below<M: Machine<Format = F>>(
        machine: &'m M,
        level: Level,
        entry: Entry,
    ) -> Option<Self> {
        // SAFETY: the caller's promise.
        F::is_table(level, entry).then(|| unsafe { Table::at(machine, F::frame(level, entry)) })
    }

    /// The table at `level` that translates an address, if it is linked, from this one as the root.
    ///
    /// # Safety
    ///
    /// As [`below`](Self::below), for each table on the way.
    #[inline(always)]
    pub(crate) unsafe fn find<M: Machine<Format = F>>(
        self,
        machine: &'m M,
        va: VirtAddr,
        level: Level,
    ) -> Option<Self> {
        let mut table = self;
        for &at in F::ABOVE_PTE {
            if at == level {
                break;
            }
            let entry = table.slot(va.index::<F>(at)).load();
            if !F::is_table(at, entry) {
                return None;
            }
            // SAFETY: the caller's promise.
            table = unsafe { Table::at(machine, F::frame(at, entry)) };
        }
        Some(table)
    }

    /// The entry with this index, taken modulo their number.
    #[inline(always)]
    pub fn slot(self, index: usize) -> Slot<'m> {
        Slot(&self.entries.as_ref()[index % F::ENTRIES])
    }

    /// `count` entries from `index`.
    ///
    /// # Panics
    ///
    /// If they are not all in the table.
    #[inline(always)]
    pub fn slots(self, index: usize, count: usize) -> Slots<'m> {
        Slots(&self.entries.as_ref()[index..index + count])
    }

    /// All entries.
    #[inline(always)]
    pub fn all(self) -> Slots<'m> {
        Slots(self.entries.as_ref())
    }
}

/// An address `by` bytes further on, wrapping. It is made from the number, since it leads to another mapping, of which the first
/// pointer says nothing: so the compiler must assume that a store through one shows through the other.
#[inline(always)]
pub(crate) fn displaced<T>(word: *const T, by: usize) -> *const T {
    core::ptr::with_exposed_provenance(word.expose_provenance().wrapping_add(by))
}

impl<'m> Slot<'m> {
    /// The same entry at another address.
    ///
    /// # Safety
    ///
    /// As [`Slots::displaced`].
    #[inline(always)]
    pub(crate) unsafe fn displaced(self, by: usize) -> Slot<'m> {
        // SAFETY: the caller's promise, and the same alignment.
        Slot(unsafe { &*displaced(self.0, by) })
    }

    /// Where the entry is.
    pub(crate) fn address(self) -> VirtAddr {
        VirtAddr(core::ptr::from_ref(self.0).addr() as u64)
    }

    /// Its index in its table.
    pub(crate) fn index<F: Format>(self) -> usize {
        (self.address().0 % F::PAGE_SIZE) as usize / size_of::<Entry>()
    }

    /// The entry now, for whoever does not follow it: nothing behind it is made visible.
    #[inline(always)]
    pub(crate) fn load_relaxed(self) -> Entry {
        Entry(self.0.load(Ordering::Relaxed))
    }

    /// The entry now. If it points to a table, that table's initialisation is visible.
    #[inline(always)]
    pub fn load(self) -> Entry {
        Entry(self.0.load(Ordering::Acquire))
    }
}

impl<'m> Slots<'m> {
    /// The same entries at another address.
    ///
    /// # Safety
    ///
    /// `by` bytes further on, wrapping, must be another mapping of the same entries, which may be loaded and stored for as long as
    /// the returned value is used, and `by` must be a multiple of the page size.
    #[inline(always)]
    pub(crate) unsafe fn displaced(self, by: usize) -> Slots<'m> {
        // SAFETY: the caller's promise, and the same alignment.
        Slots(unsafe { core::slice::from_raw_parts(displaced(self.0.as_ptr(), by), self.0.len()) })
    }

    /// How many entries.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry in the run.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The first entry that is not empty.
    pub(crate) fn first_taken(self) -> Option<usize> {
        // Almost always there is none: look at a cache line of them without a branch for each.
        let is_empty = |run: &[AtomicU64]| {
            run.iter().fold(0, |any, entry| any | entry.load(Ordering::Relaxed)) == 0
        };
        let (lines, rest) = self.0.as_chunks::<8>();
        if lines.iter().all(|line| is_empty(line))
            && rest.iter().all(|entry| is_empty(core::slice::from_ref(entry)))
        {
            return None;
        }
        self.iter().position(|slot| !slot.load_relaxed().is_empty())
    }

    /// The entry with this index in the run.
    ///
    /// # Panics
    ///
    /// If the run is shorter.
    #[inline(always)]
    pub fn slot(self, index: usize) -> Slot<'m> {
        Slot(&self.0[index])
    }

    /// The entries from `index`, `count` of them.
    ///
    /// # Panics
    ///
    /// If the run is shorter.
    #[inline(always)]
    #[must_use]
    pub fn sub(self, index: usize, count: usize) -> Slots<'m> {
        Slots(&self.0[index..index + count])
    }

    /// The entries, in order.
    #[inline(always)]
    pub fn iter(self) -> impl Iterator<Item = Slot<'m>> {
        self.0.iter().map(Slot)
    }
}

//! Where the pool keeps what it must remember: whole pages of its own, which hold nothing else.
//!
//! Nothing is remembered inside free page-table pages, and nothing of size in the pool's value. Items are never moved; they are reached
//! through the machine each time, by the number of the page they are in.

use core::marker::PhantomData;

use crate::addr::PhysAddr;
use crate::entry::Format;
use crate::error::Error;
use crate::machine::{Frames, Machine};

/// An array of `T` in pages of its own.
pub(super) struct Array<T, E> {
    start: PhysAddr,
    len: usize,
    items: PhantomData<(T, E)>,
}

// SAFETY: an array gives out shared references to its items and nothing else.
unsafe impl<T: Sync, E> Sync for Array<T, E> {}
// SAFETY: as for `Sync`; items are never dropped or moved.
unsafe impl<T: Sync, E> Send for Array<T, E> {}

impl<T: Sync, E: Format> Array<T, E> {
    /// Items of one page. None crosses into the next.
    pub(super) const PER_PAGE: usize = {
        assert!((E::PAGE_SIZE as usize).is_multiple_of(size_of::<T>()), "items fill pages");
        E::PAGE_SIZE as usize / size_of::<T>()
    };

    /// A new array of `len` items. It is never freed.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there is no block of that many pages.
    pub(super) fn new<M: Machine<Format = E>, F: Frames>(
        machine: &M,
        frames: &F,
        len: usize,
        make: impl Fn() -> T,
    ) -> Result<Self, Error> {
        let pages = len.div_ceil(Self::PER_PAGE).next_power_of_two();
        let order = pages.trailing_zeros() as u8;
        let start = frames.allocate(order).ok_or(Error::OutOfMemory)?;
        if !machine.memory().contains(start, pages) {
            // SAFETY: the block was allocated above and never used.
            unsafe { frames.release(start, order) };
            return Err(Error::OutsideLinearMap(start, pages));
        }
        let array = Array { start, len, items: PhantomData };
        for i in 0..len {
            // SAFETY: the pages were allocated above and are nobody else's; the item lies inside them, aligned since pages are.
            unsafe {
                machine.data(array.page(i)).cast::<T>().add(i % Self::PER_PAGE).write(make())
            };
        }
        Ok(array)
    }

    /// The array of `len` items whose first page is `start`.
    ///
    /// # Safety
    ///
    /// It was made by [`new`](Self::new) with as many.
    pub(super) unsafe fn at(start: PhysAddr, len: usize) -> Self {
        Array { start, len, items: PhantomData }
    }

    pub(super) fn start(&self) -> PhysAddr {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Pages it takes.
    pub(super) fn pages(&self) -> usize {
        self.len.div_ceil(Self::PER_PAGE).next_power_of_two()
    }

    /// An item.
    #[inline(always)]
    pub(super) fn get<'m, M: Machine<Format = E>>(
        &self,
        machine: &'m M,
        i: usize,
    ) -> Option<&'m T> {
        // SAFETY: the item was written when the array was made, and lies in pages that are never freed nor used otherwise.
        (i < self.len).then(|| unsafe {
            machine.data(self.page(i)).cast::<T>().add(i % Self::PER_PAGE).as_ref()
        })
    }

    #[inline(always)]
    fn page(&self, i: usize) -> PhysAddr {
        self.start.offset((i / Self::PER_PAGE) as u64 * E::PAGE_SIZE)
    }
}

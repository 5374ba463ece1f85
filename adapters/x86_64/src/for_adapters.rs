//! For adapters of other crates, whose allocator is made of functions without a state of their own, called in the middle.
//!
//! Such a call takes what it needs from stock, and leaves what it frees to be released after it: `Protection::call`.

use kpkeys::Window;
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

use crate::entry::{Entry, Place, Slot, walk, zero};
use crate::error::{AdoptError, OutOfFrames};
use crate::frames::{List, is_keyed};
use crate::linear::Linear;
use crate::machine::{Machine, in_window};
use crate::protection::Protection;

impl<M: Machine, L: Linear> Protection<M, L> {
    /// [`adopt`](Self::adopt) for a crate that reads and writes a table at one address.
    ///
    /// # Errors
    ///
    /// As there, and [`AdoptError::Scheme`] for a linear map with an alias.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn adopt_without_alias<A: FrameAllocator<Size4KiB>>(
        machine: M,
        linear: L,
        root: PhysFrame,
        frames: &mut A,
    ) -> Result<Self, AdoptError> {
        if linear.alias(root).is_some() {
            return Err(AdoptError::Scheme);
        }
        // SAFETY: the caller's promise.
        unsafe { Self::adopt(machine, linear, root, frames) }
    }

    /// Runs `f` in one window, with at least `tables` frames in stock, which no other call takes meanwhile; what was freed goes to `frames` after.
    ///
    /// A lock is held throughout, over flushes too: call it with interrupts on, and from no handler.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`], before `f` runs.
    ///
    /// # Safety
    ///
    /// `f` runs the wrapped crate's own code and nothing else, and opens no window.
    pub unsafe fn call<A, R>(
        &self,
        tables: usize,
        frames: &mut A,
        f: impl FnOnce() -> R,
    ) -> Result<R, OutOfFrames>
    where
        A: FrameAllocator<Size4KiB> + FrameDeallocator<Size4KiB>,
    {
        // SAFETY: the caller's promise.
        let result = unsafe { self.call_of_many(tables, frames, f) };
        self.give_back_freed(frames);
        result
    }

    /// The same for one call of several in a row: what is freed waits for [`give_back_freed`](Self::give_back_freed), so that all of
    /// it shares the flushes.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    ///
    /// # Safety
    ///
    /// As for [`call`](Self::call).
    pub unsafe fn call_of_many<A, R>(
        &self,
        tables: usize,
        frames: &mut A,
        f: impl FnOnce() -> R,
    ) -> Result<R, OutOfFrames>
    where
        A: FrameAllocator<Size4KiB> + ?Sized,
    {
        let _lock = self.call.lock();
        self.reserve(tables, frames)?;
        Ok(in_window(&self.machine, |_| f()))
    }

    /// Gives back what calls have freed, those of other CPUs too: flushed, without its key, and flushed again.
    pub fn give_back_freed<D: FrameDeallocator<Size4KiB>>(&self, frames: &mut D) {
        let freed = core::mem::replace(&mut *self.freed.lock(), List::EMPTY);
        self.give_back(freed, frames);
    }

    /// Replaces the block in which an address is by a table that says the same, and flushes. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// [`OutOfFrames`].
    ///
    /// # Safety
    ///
    /// As for [`load`](Self::load), of the root; not within a call.
    pub unsafe fn split<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        root: PhysFrame,
        address: VirtAddr,
        frames: &mut A,
    ) -> Result<bool, OutOfFrames> {
        // SAFETY: the caller's promise.
        let place = unsafe { walk(&self.linear, root, address, PageTableLevel::One) };
        let is_block = |place: &Place<'_>| {
            let (level, entry) = (place.level, place.entry);
            level != PageTableLevel::One && entry.is_leaf(level) && entry.is_aligned(level)
        };
        let Some(block) = place.ok().filter(is_block) else { return Ok(false) };
        let mut list = self.take(1, frames)?;
        let table = list.pop(&self.linear, self.root()).ok_or(OutOfFrames)?;
        {
            let _lock = self.spares.lock();
            self.keys().split(block, table);
        }
        self.machine.flush_all();
        Ok(true)
    }

    /// Where the tables map memory.
    pub fn linear(&self) -> &L {
        &self.linear
    }

    /// Where the walk for an address ends, at `lowest` or above: the level, and the entry, which is a leaf, or not present, or at `lowest`.
    ///
    /// # Safety
    ///
    /// As for [`load`](Self::load), of the root.
    pub unsafe fn walk(
        &self,
        root: PhysFrame,
        address: VirtAddr,
        lowest: PageTableLevel,
    ) -> (PageTableLevel, u64) {
        // SAFETY: the caller's promise.
        match unsafe { walk(&self.linear, root, address, lowest) } {
            Ok(place) => (place.level, place.entry.0),
            // A table without an address was neither adopted nor made here.
            Err(_) => (PageTableLevel::Four, 0),
        }
    }

    /// A frame from stock, within [`call`](Self::call): protected, and to be emptied before it is linked.
    pub fn take_reserved(&self) -> Option<PhysFrame> {
        self.spares.lock().pop(&self.linear, self.root())
    }

    /// Takes a table that is linked nowhere any more, within [`call`](Self::call), and returns whether it is one of the protected.
    ///
    /// # Safety
    ///
    /// Within [`call`](Self::call), whose window is open. Nobody uses the frame but CPUs that have not been flushed.
    pub unsafe fn put_freed(&self, frame: PhysFrame) -> bool {
        let keyed = is_keyed(&self.linear, self.root(), frame);
        if keyed {
            // SAFETY: `call` has a window open (caller's promise).
            let window = unsafe { Window::assume_open() };
            // SAFETY: the frame carries the key, and is nobody's (caller's promise).
            unsafe { self.freed.lock().push(&window, &self.linear, frame) };
        }
        keyed
    }

    /// The entry at `index` of a table.
    ///
    /// # Safety
    ///
    /// `table` is the root of a mapper's tables, or what an entry of them points to.
    pub unsafe fn load(&self, table: PhysFrame, index: usize) -> u64 {
        // SAFETY: the caller's promise; tables were adopted, or come from stock, so each has an address.
        unsafe { Slot::of(&self.linear, table, index) }.load().0
    }

    /// Stores an entry of a table, in a window of its own or [`within`](Within) that of a call. Returns whether it was stored: a frame that does
    /// not carry the key is no table, and left alone.
    ///
    /// # Safety
    ///
    /// As for [`load`](Self::load), and the entry may have this value.
    pub unsafe fn store(&self, within: Within, table: PhysFrame, index: usize, entry: u64) -> bool {
        let keyed = is_keyed(&self.linear, self.root(), table);
        if keyed {
            // SAFETY: the caller's promise.
            let slot = unsafe { Slot::of(&self.linear, table, index) };
            match within {
                // SAFETY: a call has a window open.
                Within::Call => slot.store(&unsafe { Window::assume_open() }, Entry(entry)),
                Within::Itself => {
                    in_window(&self.machine, |window| slot.store(window, Entry(entry)))
                }
            }
        }
        keyed
    }

    /// Empties a frame that [`take_reserved`](Self::take_reserved) gave.
    ///
    /// # Safety
    ///
    /// It is linked nowhere yet; as for [`store`](Self::store).
    pub unsafe fn empty(&self, within: Within, frame: PhysFrame) {
        // SAFETY: the frame was in stock, so it has an address, and is the caller's.
        let zero = |window: &Window<'_>| unsafe { zero(window, &self.linear, frame) };
        match within {
            // SAFETY: a call has a window open.
            Within::Call => zero(&unsafe { Window::assume_open() }),
            Within::Itself => in_window(&self.machine, zero),
        }
    }
}

/// Where a store of an adapter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Within {
    /// Within [`Protection::call`], whose window is open.
    Call,
    /// In no window: it opens its own.
    Itself,
}

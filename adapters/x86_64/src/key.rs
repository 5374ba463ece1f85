//! Keys on the linear map: the leaf that maps a frame says whether a store needs a window, or that it must go to the alias. A block that holds a
//! table is split into pages.
//!
//! Whoever changes a key holds the lock, and flushes after it let go of it: another CPU that waits for the lock could not answer.

use kpkeys::Pkey;
use x86_64::VirtAddr;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{FrameAllocator, PageTableFlags, PhysFrame, Size4KiB};

use crate::entry::{Entry, Place, Slot, walk};
use crate::error::AdoptError;
use crate::linear::Linear;
use crate::machine::{Machine, in_window};

/// What every entry of the way to an alias allows: stores, and programs, which is what SMAP goes by.
const ALIAS: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE).union(PageTableFlags::USER_ACCESSIBLE);

/// Frames that the tables of one new table may need: each of them may lie in a block of its own.
const SPLITS: usize = 16;

/// The linear map of adopted tables, while the lock is held.
pub(crate) struct Keys<'p, M, L> {
    pub(crate) machine: &'p M,
    pub(crate) linear: L,
    pub(crate) root: PhysFrame,
}

impl<M: Machine, L: Linear> Keys<'_, M, L> {
    /// Gives a frame this key, in the linear map; `frames` are for tables that split blocks, and get the key of page tables. Returns
    /// whether there is something to flush.
    ///
    /// # Errors
    ///
    /// What [`leaf`](Self::leaf) refuses, or [`AdoptError::OutOfFrames`]. A block may be split then.
    pub(crate) fn set<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        frame: PhysFrame,
        key: Pkey,
        frames: &mut A,
    ) -> Result<bool, AdoptError> {
        self.set_within(frame, key, frames, SPLITS)
    }

    fn set_within<A: FrameAllocator<Size4KiB> + ?Sized>(
        &self,
        frame: PhysFrame,
        key: Pkey,
        frames: &mut A,
        splits: usize,
    ) -> Result<bool, AdoptError> {
        let mut splits = splits;
        loop {
            let place = self.leaf(frame)?;
            if place.level == PageTableLevel::One {
                let changed = place.entry.key() != key;
                if changed {
                    let entry = self.keyed(place.entry, key);
                    in_window(self.machine, |window| place.slot.store(window, entry));
                }
                return Ok(changed);
            }
            splits = splits.checked_sub(1).ok_or(AdoptError::OutOfFrames)?;
            let table = frames.allocate_frame().ok_or(AdoptError::OutOfFrames)?;
            self.leaf(table)?;
            self.split(place, table);
            self.set_within(table, Pkey::PAGE_TABLES, frames, splits)?;
        }
    }

    fn keyed(&self, leaf: Entry, key: Pkey) -> Entry {
        if self.is_aliased() { leaf.aliased_with_key(key) } else { leaf.with_key(key) }
    }

    pub(crate) fn is_aliased(&self) -> bool {
        self.linear.alias(self.root).is_some()
    }

    /// The leaf of the linear map that maps a frame, if it can carry the key of page tables, and the frame has an alias if it needs one.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub(crate) fn leaf(&self, frame: PhysFrame) -> Result<Place<'_>, AdoptError> {
        let outside = AdoptError::OutsideLinearMap { table: frame };
        let address = self.linear.address(frame).ok_or(outside)?;
        let place = self.mapped(frame, address)?;
        if !place.entry.is_aligned(place.level) {
            return Err(AdoptError::Unaligned { address });
        }
        if !place.maps(frame, address) {
            return Err(AdoptError::NotMapped { table: frame, address });
        }
        if (place.above & place.entry.flags()).contains(PageTableFlags::USER_ACCESSIBLE) {
            return Err(AdoptError::UserAccessible { table: frame });
        }
        if ![Pkey::DEFAULT, Pkey::PAGE_TABLES].contains(&place.entry.key()) {
            return Err(AdoptError::OtherKey { table: frame });
        }
        match self.linear.alias(frame) {
            Some(alias) => self.check_alias(frame, alias).map(|()| place),
            None => Ok(place),
        }
    }

    /// Whether the tables map a frame at the address of its alias, as an alias must be.
    fn check_alias(&self, frame: PhysFrame, address: VirtAddr) -> Result<(), AdoptError> {
        let place = self.mapped(frame, address)?;
        let flags = place.entry.flags();
        let good = place.maps(frame, address)
            && (place.above & flags).contains(ALIAS)
            && flags.contains(PageTableFlags::NO_EXECUTE)
            && !flags.contains(PageTableFlags::GLOBAL);
        if good { Ok(()) } else { Err(AdoptError::NoAlias { table: frame, address }) }
    }

    /// Where the walk for an address ends.
    fn mapped(&self, frame: PhysFrame, address: VirtAddr) -> Result<Place<'_>, AdoptError> {
        // SAFETY: `root` is the root that is, or is about to be, adopted.
        let place = unsafe { walk(&self.linear, self.root, address, PageTableLevel::One) }
            .map_err(|table| AdoptError::OutsideLinearMap { table })?;
        let is_leaf = place.entry.is_leaf(place.level);
        is_leaf.then_some(place).ok_or(AdoptError::NotMapped { table: frame, address })
    }

    /// Replaces a block by a table that says the same. Until the flush, the table itself has no key to be held by.
    pub(crate) fn split(&self, block: Place<'_>, table: PhysFrame) {
        in_window(self.machine, |window| {
            for index in 0..512 {
                // SAFETY: the frame is the allocator's to give, and has an address (`leaf`).
                let slot = unsafe { Slot::of(&self.linear, table, index) };
                slot.store(window, block.entry.part(block.level, index as u64));
            }
            block.slot.store(window, block.entry.pointing_to(table));
        });
    }
}

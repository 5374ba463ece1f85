//! The walk over tables that exist: what cannot be adopted is found before anything is changed, and a second writable mapping of a table after.

use kpkeys::Pkey;
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{FrameAllocator, PageTableFlags, PhysFrame, Size4KiB};
use x86_64::{PhysAddr, VirtAddr};

use crate::entry::{Entry, Slot};
use crate::error::AdoptError;
use crate::frames::NoFrames;
use crate::key::Keys;
use crate::linear::Linear;
use crate::machine::Machine;

/// What is done with each table of a root.
type Visit<'v> = &'v mut dyn FnMut(PhysFrame) -> Result<(), AdoptError>;

/// What is done with each leaf: its level, its entry and the address it maps.
type Look<'v> = &'v mut dyn FnMut(PageTableLevel, Entry, VirtAddr) -> Result<(), AdoptError>;

impl<M: Machine, L: Linear> Keys<'_, M, L> {
    /// Protects every table below and including `root`, the linear map's own or another one with the same upper half. Flushing is left to
    /// the caller.
    ///
    /// # Errors
    ///
    /// Why that is not possible. No table is protected then, if `root` is the linear map's.
    pub(crate) fn adopt<A: FrameAllocator<Size4KiB>>(
        &self,
        root: PhysFrame,
        frames: &mut A,
    ) -> Result<(), AdoptError> {
        self.tables(root, &mut |table| self.leaf(table).map(drop))?;
        self.keep_alias_from_programs(root)?;
        let mut protect = |table| self.set(table, Pkey::PAGE_TABLES, frames).map(drop);
        let protected =
            self.tables(root, &mut protect).and_then(|()| self.nothing_else_writes(root));
        if protected.is_err() && root == self.root {
            let reset = |table| self.set(table, Pkey::DEFAULT, &mut NoFrames).map(drop);
            self.tables(root, &mut |table| reset(table).or(Ok(())))?;
        }
        protected
    }

    /// An alias is for programs to access as far as the CPU knows: a root of theirs must not lead to it, and in the kernel's, nothing else may
    /// go by the entries that do.
    fn keep_alias_from_programs(&self, root: PhysFrame) -> Result<(), AdoptError> {
        if !self.is_aliased() {
            return Ok(());
        }
        let known = |index| self.entry(self.root, index).map(Entry::may_be_an_alias);
        for index in 256..512 {
            let entry = self.entry(root, index)?;
            let expected = root == self.root || !known(index)?;
            if entry.is_present() && !expected {
                return Err(AdoptError::AliasReachable { root });
            }
        }
        let linear = self.linear.address(self.root).map(VirtAddr::p4_index);
        match linear {
            Some(index) if known(index.into())? => {
                Err(AdoptError::UserAccessible { table: self.root })
            }
            _ => Ok(()),
        }
    }

    /// Every table, those above before those below.
    fn tables(&self, root: PhysFrame, visit: Visit<'_>) -> Result<(), AdoptError> {
        self.below(&[root], visit)
    }

    /// The table at the end of `path` and those below it.
    fn below(&self, path: &[PhysFrame], visit: Visit<'_>) -> Result<(), AdoptError> {
        let Some(&table) = path.last() else { return Ok(()) };
        visit(table)?;
        let level = LEVELS[path.len() - 1];
        for index in 0..self.own_entries(path) {
            let entry = self.entry(table, index)?;
            if level == PageTableLevel::One || !entry.is_present() || entry.is_leaf(level) {
                continue;
            }
            if path.contains(&entry.frame()) {
                return Err(AdoptError::Recursive { table, index: index as u16 });
            }
            let mut longer = [entry.frame(); LEVELS.len()];
            longer[..path.len()].copy_from_slice(path);
            self.below(&longer[..=path.len()], visit)?;
        }
        Ok(())
    }

    /// How many entries of a table are looked at: the upper half of another root is that of the linear map's.
    fn own_entries(&self, path: &[PhysFrame]) -> usize {
        if path.len() == 1 && path[0] != self.root { 256 } else { 512 }
    }

    fn entry(&self, table: PhysFrame, index: usize) -> Result<Entry, AdoptError> {
        self.linear.address(table).ok_or(AdoptError::OutsideLinearMap { table })?;
        // SAFETY: the frame is a table, being the root or what a present entry that is no leaf points to, and has an address.
        Ok(unsafe { Slot::of(&self.linear, table, index) }.load())
    }

    /// # Errors
    ///
    /// [`AdoptError::WritableElsewhere`], of either root.
    fn nothing_else_writes(&self, root: PhysFrame) -> Result<(), AdoptError> {
        let mut look = |level, leaf: Entry, address| {
            // Of a page that programs may access, a key says nothing; nor does it where the tables have an alias.
            let keyed = leaf.key() == Pkey::PAGE_TABLES
                && !leaf.has(PageTableFlags::USER_ACCESSIBLE)
                && !self.is_aliased();
            if keyed || !leaf.has(PageTableFlags::WRITABLE) || self.is_known(leaf, address) {
                return Ok(());
            }
            let first = leaf.frame().start_address().as_u64() & !(size(level) - 1);
            match self.first_table(first, first + size(level)) {
                Some(table) => Err(AdoptError::WritableElsewhere { table, address }),
                None => Ok(()),
            }
        };
        self.leaves(root, PageTableLevel::Four, 0, &mut look)?;
        self.leaves(self.root, PageTableLevel::Four, 0, &mut look)
    }

    /// Whether a leaf is one of the linear map's, or the alias'.
    fn is_known(&self, leaf: Entry, address: VirtAddr) -> bool {
        let frame = leaf.frame();
        [self.linear.address(frame), self.linear.alias(frame)].contains(&Some(address))
    }

    /// The first frame from `start` up to `end` that carries the key of page tables in the linear map.
    fn first_table(&self, start: u64, end: u64) -> Option<PhysFrame> {
        let mut next = start;
        while next < end {
            let frame = PhysFrame::containing_address(PhysAddr::new_truncate(next));
            let step = match self.leaf(frame) {
                Ok(place) if place.entry.key() == Pkey::PAGE_TABLES => return Some(frame),
                Ok(place) => size(place.level),
                Err(_) => size(PageTableLevel::One),
            };
            next = (next & !(step - 1)) + step;
        }
        None
    }

    /// Every leaf that can be written as far as the entries above say.
    fn leaves(
        &self,
        table: PhysFrame,
        level: PageTableLevel,
        base: u64,
        look: Look<'_>,
    ) -> Result<(), AdoptError> {
        for index in 0..512 {
            let entry = self.entry(table, index)?;
            let address = base + index as u64 * size(level);
            match level.next_lower_level() {
                _ if entry.is_leaf(level) => {
                    look(level, entry, VirtAddr::new_truncate(address))?;
                }
                Some(below) if entry.has(PageTableFlags::PRESENT | PageTableFlags::WRITABLE) => {
                    self.leaves(entry.frame(), below, address, look)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// From the root down.
const LEVELS: [PageTableLevel; 4] =
    [PageTableLevel::Four, PageTableLevel::Three, PageTableLevel::Two, PageTableLevel::One];

/// Bytes that an entry translates.
fn size(level: PageTableLevel) -> u64 {
    level.entry_address_space_alignment()
}

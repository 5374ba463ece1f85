//! The tables that a kernel starts with: its linear map, and those that an alias must not need pages for.

use super::Paging;
use crate::addr::{Level, PhysAddr, VirtAddr};
use crate::entry::{Attrs, Format, MemoryType};
use crate::error::Error;
use crate::linear;
use crate::machine::{Frames, Machine, Memory};
use crate::mode::Mode;
use crate::section::{Section, Space};

impl<M: Machine, F: Frames> Paging<M, F> {
    /// An operation with a window for the whole of it: a window around each store, whatever the mode, would take longer than all the
    /// rest of boot.
    pub(super) fn building(&self) -> Section<'_, M> {
        self.building_in(Space::Linear)
    }

    fn building_in(&self, space: Space) -> Section<'_, M> {
        let mode = if self.mode().protects() { Mode::FusedLean } else { Mode::Off };
        Section::begin(self.machine(), mode, space, 0)
    }

    /// Builds the tables that giving a page its alias must not need pages for; see [`mod@crate::alias`].
    pub(super) fn build_alias_tables(&self) -> Result<(), Error> {
        let Some(alias) = self.alias() else { return Ok(()) };
        let level = if self.pool.is_some() { Level::Pmd } else { Level::Pte };
        let root = self.alias_root();
        let space = if self.window.is_some() { Space::Alias } else { Space::Linear };
        let section = self.building_in(space);
        for piece in alias.whole()?.by_table(level) {
            self.table_for(&section, root, piece.start(), level)?;
        }
        Ok(())
    }

    /// Maps a page of a device's registers beside the aliases, so that it can be written in windows alone, and returns where; `None` without an
    /// alias.
    ///
    /// # Errors
    ///
    /// [`Error::TooLate`] once protection is on; [`Error::NotMappable`] for a page of memory; [`Error::AliasMisplaced`] if memory leaves no room for this page, [`Error::OutsideLinearMap`] if no
    /// entry can map it; [`Error::OutOfMemory`].
    pub fn map_device_beside_alias(
        &self,
        number: usize,
        device: PhysAddr,
    ) -> Result<Option<VirtAddr>, Error> {
        let Some(alias) = self.alias() else { return Ok(None) };
        if self.is_protected() {
            return Err(Error::TooLate(device));
        }
        if self.ground.linear().mapped_range(self.machine(), device, 1).is_ok() {
            return Err(Error::NotMappable(device));
        }
        let no_room = Error::AliasMisplaced(self.machine().alias());
        let va = alias.device(number).ok_or(no_room)?;
        // As an alias is, but for what is behind it.
        let attrs = Attrs { memory: MemoryType::Device, ..Attrs::USER_DATA };
        let leaf = M::Format::leaf(Level::Pte, device, attrs);
        let leaf = leaf.ok_or(Error::OutsideLinearMap(device, 1))?;
        let section = self.building();
        let table = self.table_for(&section, self.alias_root(), va, Level::Pte)?;
        section.set_upper(table.slot(va.index::<M::Format>(Level::Pte)), leaf);
        Ok(Some(va))
    }

    /// Takes frames out of the linear map: what is no RAM is not to be reached through cached mappings.
    ///
    /// # Errors
    ///
    /// [`Error::TooLate`] once protection is on; [`Error::OutsideLinearMap`]; [`Error::MappedByBlock`] if a block would be cut.
    pub fn leave_out(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.before_protection(start)?;
        let range = self.ground.linear().range(start, pages)?;
        self.unmap_anywhere(&self.building(), &self.kernel, range, |_, _, _| ())
    }

    /// Has the linear map allow no stores to frames: those of the kernel's code and constants.
    ///
    /// # Errors
    ///
    /// As [`leave_out`](Self::leave_out).
    pub fn make_read_only(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.before_protection(start)?;
        self.ground.changing_linear(|linear, section| linear.make_read_only(section, start, pages))
    }

    /// The linear map may be changed by hand as long as nothing is protected.
    fn before_protection(&self, start: PhysAddr) -> Result<(), Error> {
        if self.is_protected() { Err(Error::TooLate(start)) } else { Ok(()) }
    }

    pub(super) fn build_linear_map(
        &self,
        memory: Memory<M::Format>,
        granule: Level,
    ) -> Result<(), Error> {
        let section = self.building();
        let mut frame = memory.start;
        let end = memory.frame(memory.pages);
        while frame < end {
            let level = largest_leaf(memory, frame, granule);
            let table =
                self.table_for(&section, &self.kernel, memory.linear_address(frame), level)?;
            let slot = table.slot(memory.linear_address(frame).index::<M::Format>(level));
            section.set_upper(slot, linear::leaf::<M::Format>(level, frame)?);
            frame = frame.offset(level.entry_bytes::<M::Format>());
        }
        Ok(())
    }
}

/// The largest leaf, no larger than `granule`, that maps memory from `frame` without leaving it.
pub(super) fn largest_leaf<F: Format>(memory: Memory<F>, frame: PhysAddr, granule: Level) -> Level {
    let mut level = granule.min(F::LARGEST_BLOCK);
    while let Some(below) = level.below() {
        if frame.is_aligned(level.entry_bytes::<F>())
            && memory.contains(frame, level.entry_pages::<F>())
        {
            break;
        }
        level = below;
    }
    level
}

//! Memory that comes once the kernel runs.
//!
//! It lies where the linear map has addresses for it and maps nothing: in [`Memory`], and no RAM so far. So everything that is kept for each frame has a place for these too, and
//! no root changes. Before the first store the whole of it is looked at; then it becomes data, and is mapped.
//!
//! In modes that check it becomes data that an entry *may* map: as long as it was no RAM a leaf could map it as a device's registers. So none of it becomes a page table before all
//! tables were looked at.

use super::Paging;
use super::build::largest_leaf;
use crate::addr::{Level, PIECE_ENTRIES, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::guarded::FrameType;
use crate::linear;
use crate::machine::{Frames, Machine, Memory};
use crate::section::{Section, Space};

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Makes memory of frames that were none, and maps them in the linear map, as [`Config::linear`](crate::Config::linear) says where they fill blocks. They are the frame allocator's to give out from then on,
    /// once it has been given them.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideLinearMap`] for frames that the linear map has no place for; [`Error::AlreadyMapped`] if it maps one of them; [`Error::Violation`] if one is
    /// something else than no RAM; [`Error::OutOfMemory`] for its tables. Nothing is added then.
    ///
    /// # Safety
    ///
    /// The frames must be RAM that works, whose content nobody needs, and that nothing else uses: no firmware, no device, no other kernel.
    #[track_caller]
    pub unsafe fn add_memory(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        let range = self.ground.linear().range(start, pages)?;
        let added = Memory::<M::Format>::new(start, pages, range.start());
        self.are_unmapped(added)?;
        {
            let section = self.ground.section(Space::Linear);
            for (frame, level) in leaves(added, self.granule) {
                let va = added.linear_address(frame);
                let root = self.root_table(&self.kernel);
                let above = root.slot(va.index::<M::Format>(M::Format::ROOT)).load();
                if !M::Format::is_present(above) {
                    return Err(Error::OutsideLinearMap(start, pages));
                }
                // Not with the lock held: a new table may be protected by a change of the linear map.
                self.table_for(&section, &self.kernel, va, level)?;
            }
        }
        self.ground.changing_linear(|_, section| self.map_added(section, added))
    }

    #[track_caller]
    fn map_added(&self, section: &Section<'_, M>, added: Memory<M::Format>) -> Result<(), Error> {
        self.are_unmapped(added)?;
        become_data(section, added)?;
        for (frame, level) in leaves(added, self.granule) {
            let va = added.linear_address(frame);
            let table = self.find_table(&self.kernel, va, level).ok_or(Error::MappedByBlock(va))?;
            let slot = table.slot(va.index::<M::Format>(level));
            section.set_upper(slot, linear::leaf::<M::Format>(level, frame)?);
        }
        Ok(())
    }

    /// # Errors
    ///
    /// [`Error::AlreadyMapped`] if the linear map maps one of these frames.
    fn are_unmapped(&self, added: Memory<M::Format>) -> Result<(), Error> {
        for (frame, level) in leaves(added, self.granule) {
            let va = added.linear_address(frame);
            let is_mapped = match self.find_table(&self.kernel, va, level) {
                Some(table) => !table.slot(va.index::<M::Format>(level)).load().is_empty(),
                None => self.walk(&self.kernel, va).is_some(),
            };
            if is_mapped {
                return Err(Error::AlreadyMapped(va));
            }
        }
        Ok(())
    }
}

/// The frames that leaves of the linear map begin with, and their levels.
fn leaves<E: Format>(added: Memory<E>, granule: Level) -> impl Iterator<Item = (PhysAddr, Level)> {
    let end = added.frame(added.pages);
    let mut next = added.start;
    core::iter::from_fn(move || {
        let frame = next;
        let level = (frame < end).then(|| largest_leaf(added, frame, granule))?;
        next = frame.offset(level.entry_bytes::<E>());
        Some((frame, level))
    })
}

/// In windows of one table's work.
#[track_caller]
fn become_data<M: Machine>(
    section: &Section<'_, M>,
    added: Memory<M::Format>,
) -> Result<(), Error> {
    let pieces = (0..added.pages).step_by(PIECE_ENTRIES);
    let piece = |first| (added.frame(first), PIECE_ENTRIES.min(added.pages - first));
    for first in pieces {
        let (start, pages) = piece(first);
        let result = section.retype(start, pages, FrameType::NotRam, FrameType::Mapped);
        if result.is_err() {
            for first in (0..first).step_by(PIECE_ENTRIES) {
                let (start, pages) = piece(first);
                // Just made data by this very call, and nobody's yet.
                section.retype(start, pages, FrameType::Mapped, FrameType::NotRam)?;
            }
            return result;
        }
    }
    Ok(())
}

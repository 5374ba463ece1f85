//! The life of a table as changes of type, each in the window of the store it belongs to. Where there are no types, the stores alone.

use core::panic::Location;

use super::frame_type::{FrameType, Kind};
use super::rules::{LeafRule, Use, Violation};
use super::types::Types;
use crate::addr::{Level, PAGE_SIZE, PhysAddr, VirtAddr};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::machine::Machine;
use crate::ptp::{FlushedPtp, Ptp, UnlinkedPtp};
use crate::section::{Section, Space};
use crate::table::Slot;

impl<'m, M: Machine> Section<'m, M> {
    /// The types that what is stored is held against, if there are any.
    #[inline(always)]
    pub(crate) fn types(&self) -> Option<&'m Types> {
        self.machine().anchor().get()
    }

    /// Changes what frames are, all or none.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] for the first that is not what it is said to be.
    #[track_caller]
    pub(crate) fn retype(
        &self,
        start: PhysAddr,
        pages: usize,
        from: FrameType,
        to: FrameType,
    ) -> Result<(), Error> {
        let Some(types) = self.types() else { return Ok(()) };
        let frames =
            |pages: usize| (0..pages as u64).map(move |page| start.offset(page * PAGE_SIZE));
        for (done, frame) in frames(pages).enumerate() {
            if let Err(violation) = self.change(types, frame, from, to, None) {
                // Just made by this very call, so that nothing else can be there.
                for frame in frames(done) {
                    let _ = self.change(types, frame, to, from, None);
                }
                return Err(violation);
            }
        }
        Ok(())
    }

    /// Makes a spare page a table of a level and a kind, to be zeroed and linked.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if the page is not spare: whoever handed it out was deceived.
    #[inline]
    #[track_caller]
    pub(crate) fn claim(&self, page: PhysAddr, level: Level, kind: Kind) -> Result<Ptp, Error> {
        if let Some(types) = self.types() {
            let to = FrameType::unlinked(level, kind);
            self.change(types, page, FrameType::Spare, to, None)?;
        }
        Ok(Ptp::new(page))
    }

    /// Takes back what [`claim`](Self::claim) did, for a table that was not linked.
    pub(crate) fn disclaim(&self, ptp: Ptp, level: Level, kind: Kind) -> FlushedPtp {
        if let Some(types) = self.types() {
            // What was claimed by this very operation is nothing else meanwhile.
            let from = FrameType::unlinked(level, kind);
            let _ = self.change(types, ptp.frame(), from, FrameType::Spare, None);
        }
        ptp.never_linked()
    }

    /// Links a table into an entry at `at`. `user` is whether the way to a user page may lead through it.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if the page is not an unlinked table of the level below and of this kind.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn link(
        &self,
        slot: Slot<'_>,
        at: Level,
        kind: Kind,
        user: bool,
        ptp: Ptp,
    ) -> Result<(), Error> {
        if let (Some(types), Some(level)) = (self.types(), at.below()) {
            let (from, to) = (FrameType::unlinked(level, kind), FrameType::linked(level, kind));
            self.check_table(types, slot, at)?;
            self.change(types, ptp.frame(), from, to, Some(slot))?;
        }
        self.set_upper(slot, M::Format::table(ptp.link(), user));
        Ok(())
    }

    /// Unlinks the table that an entry at `at` points to.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is not a linked table of the level below and of this kind.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn unlink(
        &self,
        slot: Slot<'_>,
        at: Level,
        kind: Kind,
        entry: Entry,
    ) -> Result<UnlinkedPtp, Error> {
        let frame = M::Format::frame(at, entry);
        if let (Some(types), Some(level)) = (self.types(), at.below()) {
            let from = FrameType::linked(level, kind);
            self.change(types, frame, from, FrameType::Spare, Some(slot))?;
        }
        self.clear_upper(slot);
        Ok(UnlinkedPtp::new(frame))
    }

    /// Makes a table a root that may be loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is none of this kind.
    #[track_caller]
    pub(crate) fn found_root(&self, ptp: Ptp, space: Space) -> Result<PhysAddr, Error> {
        if let Some(types) = self.types() {
            let kind = Kind::of_root(space);
            let from = FrameType::unlinked(Level::Pgd, kind);
            self.change(types, ptp.frame(), from, FrameType::linked(Level::Pgd, kind), None)?;
        }
        Ok(ptp.link())
    }

    /// Makes a root one that cannot be loaded any more.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is none.
    #[track_caller]
    pub(crate) fn retire_root(&self, root: PhysAddr, space: Space) -> Result<UnlinkedPtp, Error> {
        if let Some(types) = self.types() {
            let from = FrameType::linked(Level::Pgd, Kind::of_root(space));
            self.change(types, root, from, FrameType::Spare, None)?;
        }
        Ok(UnlinkedPtp::new(root))
    }

    /// Holds the table that an entry is in against its type: that of a table in use, of this level, a program's or the kernel's as the section is.
    /// (The linear map's section links tables of the kernel's half.)
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    #[track_caller]
    pub(crate) fn check_table(
        &self,
        types: &Types,
        slot: Slot<'_>,
        level: Level,
    ) -> Result<(), Error> {
        let (frame, user) = (types.frame_of(slot), self.space() == Space::User);
        if types.is_table(frame, level, user) {
            return Ok(());
        }
        let (wanted, entry) = (Use::Table { level, user }, Some(address_of(slot)));
        let (is, by) = (types.of(frame), Location::caller());
        Err(Violation { frame, is, wanted, entry, by }.into())
    }

    /// Holds a PTE against the type of the frame that it maps, and its table against the table's.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    #[track_caller]
    pub(crate) fn admit(&self, slot: Slot<'_>, entry: Entry) -> Result<(), Error> {
        self.admit_run(slot, Level::Pte, entry, 1)
    }

    /// The same for a leaf at a level, or for `pages` PTEs that map one frame after the other, of which this is the first.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    #[track_caller]
    pub(crate) fn admit_run(
        &self,
        slot: Slot<'_>,
        level: Level,
        entry: Entry,
        pages: usize,
    ) -> Result<(), Error> {
        let Some(types) = self.types() else { return Ok(()) };
        self.check_table(types, slot, level)?;
        if !M::Format::is_present(entry) {
            return Ok(());
        }
        let rule = LeafRule::of::<M::Format>(self.space(), entry);
        match rule.first_refused(types, M::Format::frame(level, entry), pages) {
            None => Ok(()),
            Some(frame) => Err(self.violation(rule, types, frame, Some(slot))),
        }
    }

    /// What is said of a frame that a leaf may not map.
    #[cold]
    #[track_caller]
    pub(crate) fn violation(
        &self,
        rule: LeafRule,
        types: &Types,
        frame: PhysAddr,
        slot: Option<Slot<'_>>,
    ) -> Error {
        rule.violation(types, frame, slot.map(address_of), Location::caller()).into()
    }

    #[inline]
    #[track_caller]
    fn change(
        &self,
        types: &Types,
        frame: PhysAddr,
        from: FrameType,
        to: FrameType,
        slot: Option<Slot<'_>>,
    ) -> Result<(), Error> {
        let by = Location::caller();
        self.store_guarded(|window, to_alias| types.change(window, to_alias, frame, from, to))
            .map_err(|is| {
                let (wanted, entry) = (Use::Change { from, to }, slot.map(address_of));
                Error::Violation(Violation { frame, is, wanted, entry, by })
            })
    }
}

/// Where an entry is.
fn address_of(slot: Slot<'_>) -> VirtAddr {
    VirtAddr(core::ptr::from_ref(slot.0).addr() as u64)
}

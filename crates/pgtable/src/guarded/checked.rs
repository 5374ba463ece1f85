//! The life of a table as changes of type, each in the window of the store it belongs to. Where there are no types, the stores alone.

use core::panic::Location;

use kpkeys::Backend;

use super::frame_type::{FrameType, Kind};
use super::rules::{Use, Violation};
use super::types::Types;
use crate::addr::{Level, PhysAddr};
use crate::entry::{Entry, Format, is_in_half};
use crate::error::Error;
use crate::machine::Machine;
use crate::ptp::{Class, FlushedPtp, Ptp};
use crate::section::{Section, Space, TypesWindow};
use crate::table::{Slot, Table};

impl<'m, M: Machine> Section<'m, M> {
    /// The types that what is stored is held against, if there are any.
    #[inline(always)]
    pub(crate) fn types(&self) -> Option<&'m Types<M::Format>> {
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
        self.try_retype(start, pages, from, to).map_err(|violation| self.refuse(violation))
    }

    /// [`retype`](Self::retype) for a caller who knows what to do about frames that are something else.
    ///
    /// # Errors
    ///
    /// As [`retype`](Self::retype). Nothing is reported.
    #[track_caller]
    pub(crate) fn try_retype(
        &self,
        start: PhysAddr,
        pages: usize,
        from: FrameType,
        to: FrameType,
    ) -> Result<(), Violation> {
        let Some(types) = self.types() else { return Ok(()) };
        let frames = |pages: usize| {
            (0..pages as u64).map(move |page| start.offset(page * M::Format::PAGE_SIZE))
        };
        let by = Location::caller();
        // As many in one window as a block has pages.
        let result = self.store_guarded(|window, to_alias| {
            for (done, frame) in frames(pages).enumerate() {
                if let Err(is) = types.change(window, to_alias, frame, from, to) {
                    // Just made by this very call, so that nothing else can be there.
                    for frame in frames(done) {
                        let _ = types.change(window, to_alias, frame, to, from);
                    }
                    return Err((frame, is));
                }
            }
            Ok(())
        });
        result.map_err(|(frame, is)| {
            let wanted = Use::Change { from, to };
            Violation { frame, is, wanted, entry: None, by, stored: false }
        })
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
            self.change(types, page, self.spare(level, kind), to, None)?;
        }
        Ok(Ptp::new(page))
    }

    /// [`claim`](Self::claim)s a page and empties it, in one window.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim); the page is not emptied then.
    ///
    /// # Safety
    ///
    /// Where there are no types, the page must be a page-table page that nobody else can reach.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn claim_empty(
        &self,
        page: PhysAddr,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        let by = Location::caller();
        // SAFETY: the caller's promise, or what its type says before it is used.
        let table = unsafe { Table::at(self.machine(), page) };
        let to = FrameType::unlinked(level, kind);
        let types = self.types();
        let from = self.spare(level, kind);
        let claim = |window: &TypesWindow<'_>, to_alias| match types {
            Some(types) => types.change(window, to_alias, page, from, to),
            None => Ok(()),
        };
        let apart = self.is_apart(level, kind);
        // SAFETY: nobody else can reach it: the caller's promise, or it was spare, which only one caller can have claimed.
        unsafe { self.zero_after(apart, table, claim) }.map_err(|is| {
            let wanted = Use::Change { from, to };
            self.refuse(Violation { frame: page, is, wanted, entry: None, by, stored: false })
        })?;
        Ok(Ptp::new(page))
    }

    /// Takes back what [`claim`](Self::claim) did, for a table that was not linked.
    pub(crate) fn disclaim(&self, ptp: Ptp, level: Level, kind: Kind) -> FlushedPtp {
        if let Some(types) = self.types() {
            // What was claimed by this very operation is nothing else meanwhile.
            let from = FrameType::unlinked(level, kind);
            let _ = self.change(types, ptp.frame(), from, self.spare(level, kind), None);
        }
        ptp.never_linked()
    }

    /// Links a table into an entry at `at` that is `was`: nothing, or a block that the table's leaves say the same as. `user` is whether the way to a user page
    /// may lead through it.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if the page is not an unlinked table of the level below and of this kind, or the entry is something else by now.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn link(
        &self,
        (slot, was): (Slot<'_>, Entry),
        at: Level,
        kind: Kind,
        user: bool,
        ptp: Ptp,
    ) -> Result<(), Error> {
        let frame = ptp.link();
        let entry = M::Format::table(frame, user);
        let (Some(types), Some(level)) = (self.types(), at.below()) else {
            self.set_upper(slot, entry);
            return Ok(());
        };
        let (from, to) = (FrameType::unlinked(level, kind), FrameType::linked(level, kind));
        let by = Location::caller();
        let linked = self.change_upper(
            self.is_apart(at, kind),
            |window, to_alias| {
                self.check_upper(types, slot, at, by)?;
                types.change(window, to_alias, frame, from, to).map_err(|_| {
                    self.refuse_frame(types, frame, slot, Use::Change { from, to }, by)
                })
            },
            |window, typed: Result<(), Error>| {
                typed.map(|()| self.replace_upper(window, slot, was, entry))
            },
        )?;
        if !linked {
            // It was made what it is a moment ago, and nothing leads to it.
            let _: Result<(), FrameType> = self
                .store_guarded(|window, to_alias| types.change(window, to_alias, frame, to, from));
            return Err(self.refuse(self.violation(types, frame, slot, Use::Entry, by)));
        }
        self.stored_valid(entry);
        Ok(())
    }

    /// Unlinks the table that an entry at `at` points to, and returns its frame.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is not a linked table of the level below and of this kind, or the entry points to something else by now.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn unlink(
        &self,
        slot: Slot<'_>,
        at: Level,
        kind: Kind,
        was: Entry,
    ) -> Result<PhysAddr, Error> {
        let frame = M::Format::frame(at, was);
        let (Some(types), Some(level)) = (self.types(), at.below()) else {
            self.clear_upper(slot);
            return Ok(frame);
        };
        let (from, to) = (FrameType::linked(level, kind), self.spare(level, kind));
        let wanted = Use::Change { from, to };
        let by = Location::caller();
        self.change_upper_first(
            self.is_apart(at, kind),
            |window| {
                self.check_upper(types, slot, at, by)?;
                if types.of(frame) != from {
                    return Err(self.refuse_frame(types, frame, slot, wanted, by));
                }
                // A table has one link: whoever takes it away is the one who unlinked it.
                match self.replace_upper(window, slot, was, Entry::EMPTY) {
                    true => Ok(()),
                    false => Err(self.refuse_frame(types, frame, slot, Use::Entry, by)),
                }
            },
            |window, to_alias| {
                types
                    .change(window, to_alias, frame, from, to)
                    .map_err(|_| self.refuse_frame(types, frame, slot, wanted, by))
            },
        )?;
        Ok(frame)
    }

    /// Empties an entry at `at` that maps a block.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is in no such table, or something else by now.
    #[track_caller]
    pub(crate) fn clear_block(&self, slot: Slot<'_>, at: Level) -> Result<(), Error> {
        let Some(types) = self.types() else {
            self.clear_upper(slot);
            return Ok(());
        };
        let by = Location::caller();
        self.change_block(|window| {
            self.check_table(types, slot, at, by)?;
            // Walkers set flags in it, a few times at most.
            loop {
                let now = slot.load();
                if !M::Format::is_leaf(at, now) {
                    let frame = M::Format::frame(at, now);
                    return Err(self.refuse_frame(types, frame, slot, Use::Entry, by));
                }
                if self.replace_upper(window, slot, now, Entry::EMPTY) {
                    return Ok(());
                }
            }
        })
    }

    /// Whether an entry above the last level may be changed: it is in a table in use, and in the half that is the section's.
    #[inline(always)]
    fn check_upper(
        &self,
        types: &Types<M::Format>,
        slot: Slot<'_>,
        at: Level,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        self.check_table(types, slot, at, by)?;
        self.check_half(types, slot, at, by)
    }

    /// What is said in a window of a frame that an entry was to point to, or does.
    #[cold]
    #[inline(never)]
    fn refuse_frame(
        &self,
        types: &Types<M::Format>,
        frame: PhysAddr,
        slot: Slot<'_>,
        wanted: Use,
        by: &'static Location<'static>,
    ) -> Error {
        self.refuse_in_window(self.violation(types, frame, slot, wanted, by))
    }

    fn violation(
        &self,
        types: &Types<M::Format>,
        frame: PhysAddr,
        slot: Slot<'_>,
        wanted: Use,
        by: &'static Location<'static>,
    ) -> Violation {
        let (is, entry) = (types.of(frame), Some(slot.address()));
        Violation { frame, is, wanted, entry, by, stored: false }
    }

    /// What a page is that waits to become a table of a level and a kind: where two keys are in use, it has that table's by then.
    #[inline(always)]
    fn spare(&self, level: Level, kind: Kind) -> FrameType {
        match self.machine().backend().separates_user_tables() {
            true => Class::of(level, kind).spare(),
            false => FrameType::Spare,
        }
    }

    /// Whether an entry of a root is in the half that the root is for: a program's may have the kernel's entries as well, which nobody changes.
    fn check_half(
        &self,
        types: &Types<M::Format>,
        slot: Slot<'_>,
        at: Level,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        let user = matches!(self.space(), Space::User | Space::Alias);
        if at != M::Format::ROOT || is_in_half::<M::Format>(slot.index::<M::Format>(), user) {
            return Ok(());
        }
        Err(self.refuse_table(types, slot, Use::Half { user }, by))
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
            let from = FrameType::unlinked(M::Format::ROOT, kind);
            self.change(types, ptp.frame(), from, FrameType::linked(M::Format::ROOT, kind), None)?;
        }
        Ok(ptp.link())
    }

    /// Makes a root one that cannot be loaded any more.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is none.
    #[track_caller]
    pub(crate) fn retire_root(&self, root: PhysAddr, space: Space) -> Result<(), Error> {
        if let Some(types) = self.types() {
            let from = FrameType::linked(M::Format::ROOT, Kind::of_root(space));
            self.change(types, root, from, FrameType::Spare, None)?;
        }
        Ok(())
    }

    /// Holds the table that an entry is in against its type, for whoever asked `by`: that of a table in use, of this level, a program's or the kernel's as the section is.
    /// (The linear map's section links tables of the kernel's half.) What is refused is noted, for the caller to report.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`].
    #[inline(always)]
    pub(crate) fn check_table(
        &self,
        types: &Types<M::Format>,
        slot: Slot<'_>,
        level: Level,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        if types.is_table(types.frame_of(slot), level, self.space()) {
            return Ok(());
        }
        let user = self.space() == Space::User;
        Err(self.refuse_table(types, slot, Use::Table { level, user }, by))
    }

    /// What is said of the table of an entry that is not one to be stored to.
    #[cold]
    #[inline(never)]
    fn refuse_table(
        &self,
        types: &Types<M::Format>,
        slot: Slot<'_>,
        wanted: Use,
        by: &'static Location<'static>,
    ) -> Error {
        self.refuse_frame(types, types.frame_of(slot), slot, wanted, by)
    }

    /// What is said of a store that was refused, outside of its window: it is reported.
    #[cold]
    pub(crate) fn refuse(&self, violation: Violation) -> Error {
        self.noted().note(violation);
        self.report();
        violation.into()
    }

    /// The same in a window: it is reported once that is closed.
    #[cold]
    pub(crate) fn refuse_in_window(&self, violation: Violation) -> Error {
        self.noted().note(violation);
        violation.into()
    }

    #[inline]
    #[track_caller]
    fn change(
        &self,
        types: &Types<M::Format>,
        frame: PhysAddr,
        from: FrameType,
        to: FrameType,
        slot: Option<Slot<'_>>,
    ) -> Result<(), Error> {
        let by = Location::caller();
        self.store_guarded(|window, to_alias| types.change(window, to_alias, frame, from, to))
            .map_err(|is| {
                let (wanted, entry) = (Use::Change { from, to }, slot.map(Slot::address));
                self.refuse(Violation { frame, is, wanted, entry, by, stored: false })
            })
    }
}

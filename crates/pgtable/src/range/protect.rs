//! Changing what mappings allow.

use core::cell::Cell;
use core::panic::Location;

use super::{Blocks, Change, Piece, slots_of};
use crate::addr::{Level, PageRange};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::{LeafRule, Types, Violation};
use crate::machine::{Frames, Machine};
use crate::paging::{Found, Paging, Root};
use crate::section::Section;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Changes what every valid PTE of a range allows: [`WriteProtect`](super::WriteProtect), [`Executable`](super::Executable),
    /// [`Unused`](super::Unused). No TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if any of the range is mapped by a block, or it cuts a contiguous run; nothing is changed then.
    /// [`Error::Foreign`], [`Error::WrongHalf`], [`Error::OwnMap`] likewise.
    /// [`Error::Violation`] if an entry was to map a frame that it must not map so, or another frame; it and nothing else stays as it was.
    #[inline(always)]
    #[track_caller]
    pub fn protect(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        change: impl Change,
    ) -> Result<(), Error> {
        self.check_place(section, root, range)?;
        let change = |leaf| change.apply::<M::Format>(leaf);
        if let Some(types) = section.types() {
            return self.protect_checked(section, types, root, range, change);
        }
        self.protect_admitted(section, root, range, change)
    }

    /// [`protect`](Self::protect) where changes are held against the types of frames. One that only takes permission needs no look.
    #[inline(always)]
    #[track_caller]
    fn protect_checked(
        &self,
        section: &Section<'_, M>,
        types: &Types<M::Format>,
        root: &Root,
        range: PageRange<M::Format>,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        let (refused, by) = (Cell::new(None), Location::caller());
        self.protect_admitted(section, root, range, |now| {
            let new = change(now);
            let rule = LeafRule::of::<M::Format>(section.space(), new);
            let [was, frame] = [now, new].map(|entry| M::Format::frame(Level::Pte, entry));
            let admitted = rule.only_takes::<M::Format>(now, new) || rule.admits(types, frame);
            if was == frame && admitted {
                return new;
            }
            // Another frame is not what the call is for.
            let stored = was == frame && types.audits();
            refused.set(Some((rule, frame, stored)));
            if stored { new } else { now }
        })?;
        let Some((rule, frame, stored)) = refused.get() else { return Ok(()) };
        let violation = rule.violation(types, frame, None, by);
        let error = section.refuse(Violation { stored, ..violation });
        if stored { Ok(()) } else { Err(error) }
    }

    #[inline(always)]
    fn protect_admitted(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        if !range.is_one_piece() {
            return self.protect_many(section, root, range, change);
        }
        protect_piece(section, self.only_piece(root, range, Blocks::Refused)?, &change);
        Ok(())
    }

    /// [`protect`](Self::protect) of a range that several tables translate.
    #[inline(never)]
    fn protect_many(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        self.for_each_piece(root, range, Blocks::Refused, |piece| {
            protect_piece(section, piece, &change);
        })
    }
}

#[inline(always)]
fn protect_piece<M: Machine>(
    section: &Section<'_, M>,
    piece: Piece<'_, M::Format>,
    change: &impl Fn(Entry) -> Entry,
) {
    if let Found::Table(table) = piece.found {
        let _lazy = section.lazy();
        section.will_store(piece.range.pages());
        // SAFETY: the table was just found below the section's root, and stays in use: callers keep others from freeing tables of the range
        // (crate protocol, *Locks*).
        unsafe { section.modify_valid(slots_of(table, piece.range), change) };
    }
}

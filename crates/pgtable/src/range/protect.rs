//! Changing what mappings allow.

use super::{Blocks, Piece, slots_of};
use crate::addr::PageRange;
use crate::entry::Entry;
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Found, Paging, Root};
use crate::section::Section;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Changes every valid PTE of a range. No TLB is flushed.
    ///
    /// # Errors
    ///
    /// [`Error::MappedByBlock`] if any of the range is mapped by a block, or it cuts a contiguous run; nothing is changed then.
    #[inline(always)]
    pub fn protect(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        if !range.is_in_one_table() {
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
        range: PageRange,
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
    piece: Piece<'_>,
    change: &impl Fn(Entry) -> Entry,
) {
    if let Found::Table(table) = piece.found {
        let _lazy = section.lazy();
        section.will_store(piece.range.pages());
        section.modify_valid(slots_of(table, piece.range), change);
    }
}

//! Changing what mappings allow.

use super::{Blocks, slots_of};
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
    #[inline]
    pub fn protect(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange,
        change: impl Fn(Entry) -> Entry,
    ) -> Result<(), Error> {
        self.for_each_piece(root, range, Blocks::Refused, |piece| {
            if let Found::Table(table) = piece.found {
                let _lazy = section.lazy();
                section.will_store(piece.range.pages());
                section.modify_valid(slots_of(table, piece.range), &change);
            }
        })
    }
}

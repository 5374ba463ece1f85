//! Operations on ranges: map, unmap, protect, copy, move, and freeing the tables that are left empty.
//!
//! All of them work table by table, one lazy-MMU section each, and keep to the same order: descend, refuse what cannot be done, gather
//! what is needed, then commit by one call of the [section](crate::section), which is where the window is. A call descends once to each table it
//! changes, and what it refuses it refuses before its first store. The caller keeps other users of the same range away.
//!
//! | module | concept |
//! |---|---|
//! | `map` | page by page, or with the largest leaves that fit |
//! | `unmap`, `protect` | what is mapped, without cutting a block |
//! | `change` | what `protect` makes of a leaf |
//! | `copy` | the page-table half of fork |
//! | `move_pages` | the page-table half of mremap |
//! | `tables` | unlinking tables that are left empty |

mod change;
mod copy;
mod map;
mod move_pages;
mod protect;
mod tables;
mod unmap;

pub use change::{By, Change, Executable, Unused, WriteProtect};
pub use copy::Share;

use crate::addr::{Level, PageRange, VirtAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::machine::{Frames, Machine};
use crate::paging::{Found, Paging, Root};
use crate::section::{Section, Space};
use crate::table::{Slots, Table};

/// A part of a range that one table of PTEs translates, and what the descent to it found.
#[derive(Clone, Copy)]
struct Piece<'m, F: Format> {
    range: PageRange<F>,
    found: Found<'m, F>,
}

/// Which blocks an operation can change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// Whole ones.
    Whole,
    /// None.
    Refused,
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Refuses an operation whose section, root and range do not belong together, or whose range is the linear map's or the alias's.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`], [`Error::WrongHalf`], [`Error::OwnMap`].
    #[inline(always)]
    fn check_place(
        &self,
        section: &Section<'_, M>,
        root: &Root,
        range: PageRange<M::Format>,
    ) -> Result<(), Error> {
        let start = range.start();
        let is_own = self.has_begun(section) && self.has(root);
        if !is_own || section.space() != root.space() {
            return Err(Error::Foreign(start));
        }
        if !root.is_for::<M::Format>(start) {
            return Err(Error::WrongHalf(start));
        }
        if root.space() != Space::User && self.is_own_map(start, range.last_page()) {
            return Err(Error::OwnMap(start));
        }
        Ok(())
    }

    /// Descends to a range that one table translates, having refused blocks, as asked, and ends that cut a block or a contiguous run.
    #[inline(always)]
    fn only_piece(
        &self,
        root: &Root,
        range: PageRange<M::Format>,
        blocks: Blocks,
    ) -> Result<Piece<'_, M::Format>, Error> {
        let piece = self.piece(root, range);
        piece.refuse_cuts(range, [range.start(), range.last_page()], blocks)?;
        Ok(piece)
    }

    /// Passes the pieces of a range that several tables translate, in order, having descended to each once. What
    /// [`only_piece`](Self::only_piece) refuses it refuses before the first.
    #[inline(always)]
    fn for_each_piece<'p>(
        &'p self,
        root: &Root,
        range: PageRange<M::Format>,
        blocks: Blocks,
        mut f: impl FnMut(Piece<'p, M::Format>),
    ) -> Result<(), Error> {
        let mut pieces = range.by_table(Level::Pte);
        let (Some(first), Some(last)) = (pieces.next(), pieces.last_piece()) else { return Ok(()) };
        let (mut piece, last) = (self.piece(root, first), self.piece(root, last));
        // Only its two ends can be cut.
        piece.refuse_cuts(range, [range.start()], blocks)?;
        last.refuse_cuts(range, [range.last_page()], blocks)?;
        if blocks == Blocks::Refused {
            self.refuse_blocks(root, pieces.clone())?;
        }
        loop {
            f(piece);
            piece = match pieces.next() {
                None => return Ok(()),
                Some(range) if range == last.range => last,
                Some(range) => self.piece(root, range),
            };
        }
    }

    #[inline(always)]
    fn piece(&self, root: &Root, range: PageRange<M::Format>) -> Piece<'_, M::Format> {
        Piece { range, found: self.descend(root, range.start()) }
    }

    /// Refuses pieces that are mapped by a block.
    #[inline(always)]
    fn refuse_blocks(
        &self,
        root: &Root,
        pieces: impl Iterator<Item = PageRange<M::Format>>,
    ) -> Result<(), Error> {
        for range in pieces {
            if let Found::Block(..) = self.piece(root, range).found {
                return Err(Error::MappedByBlock(range.start()));
            }
        }
        Ok(())
    }
}

impl<F: Format> Piece<'_, F> {
    /// Refuses `whole` if the block or a contiguous run that translates one of its `ends`, which are in this piece, is not all in it: what is left
    /// would not be one any more.
    #[inline(always)]
    fn refuse_cuts(
        &self,
        whole: PageRange<F>,
        ends: impl IntoIterator<Item = VirtAddr>,
        blocks: Blocks,
    ) -> Result<(), Error> {
        match self.found {
            Found::Nothing => Ok(()),
            Found::Block(..) if blocks == Blocks::Refused => {
                Err(Error::MappedByBlock(self.range.start()))
            }
            Found::Block(level, ..) => {
                ends.into_iter().try_for_each(|va| refuse_cut(whole, va, level.entry_pages::<F>()))
            }
            Found::Table(table) if F::HAS_CONT => ends.into_iter().try_for_each(|va| {
                let entry = table.slot(va.index::<F>(Level::Pte)).load_relaxed();
                if F::is_present(entry) && F::is_contiguous(entry) {
                    return refuse_cut(whole, va, F::CONT_PAGES);
                }
                Ok(())
            }),
            Found::Table(_) => Ok(()),
        }
    }
}

/// Refuses a range that does not contain all of the naturally aligned `pages` pages around `va`.
#[cold]
fn refuse_cut<F: Format>(range: PageRange<F>, va: VirtAddr, pages: usize) -> Result<(), Error> {
    let block = VirtAddr(va.0 & !(pages as u64 * F::PAGE_SIZE - 1));
    if range.contains(block) && range.contains(block.offset_pages::<F>(pages - 1)) {
        Ok(())
    } else {
        Err(Error::MappedByBlock(va))
    }
}

/// The PTEs of a piece of a range, in the table that translates it.
#[inline(always)]
fn slots_of<F: Format>(table: Table<'_, F>, piece: PageRange<F>) -> Slots<'_> {
    table.slots(piece.start().index::<F>(Level::Pte), piece.pages())
}

//! One mapping of an address space: what it is, how it is cut in two, and when two are one.

use kpkeys_pgtable::{Format, PageRange, VirtAddr};

use super::file::FilePages;

/// How a range is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapFlags {
    /// Pages may be written.
    pub write: bool,
    /// Pages may be executed.
    pub execute: bool,
    /// The order of the folios that back it where they fit: 0, or 9 for 2 MiB folios mapped page by page.
    pub order: u8,
}

impl MapFlags {
    /// Data in pages of 4 KiB.
    pub const DATA: MapFlags = MapFlags { write: true, execute: false, order: 0 };
    /// Data in folios of 2 MiB.
    pub const HUGE_DATA: MapFlags = MapFlags { order: crate::frames::HUGE_ORDER, ..Self::DATA };
}

/// What a fork does with a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFork {
    /// The child has it, with its pages shared until they are written.
    #[default]
    Copy,
    /// The child does not have it (`MADV_DONTFORK`).
    Skip,
    /// The child has it without pages (`MADV_WIPEONFORK`).
    Wipe,
}

/// Where the pages of a mapping come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing<'k> {
    /// Nowhere: they read as zeroes at first.
    Anonymous,
    /// Nowhere, and it grows downwards when the pages below it are touched.
    Stack,
    /// A file.
    File(FilePages<'k>),
}

/// One mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vma<'k, E: Format> {
    pub(super) range: PageRange<E>,
    pub(super) flags: MapFlags,
    pub(super) backing: Backing<'k>,
    pub(super) on_fork: OnFork,
    /// Nobody may use it; its pages are kept in tables that no CPU walks.
    pub(super) withheld: bool,
    /// Whether some page was ever made for it alone. A fork need not copy entries otherwise: the child finds what they translate
    /// to where the parent did.
    pub(super) owns_pages: bool,
}

impl<'k, E: Format> Vma<'k, E> {
    /// A new mapping, which no page was touched in.
    pub(super) fn new(range: PageRange<E>, flags: MapFlags, backing: Backing<'k>) -> Self {
        Vma { range, flags, backing, on_fork: OnFork::Copy, withheld: false, owns_pages: false }
    }

    /// The same mapping at another place: `range`, whose first page continues as page `first` of this one.
    pub(super) fn moved(&self, range: PageRange<E>, first: usize) -> Self {
        let backing = match self.backing {
            Backing::File(file) => Backing::File(file.skip(first)),
            other => other,
        };
        Vma { range, backing, ..*self }
    }

    /// Whether writes reach whoever else maps the same pages.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.backing, Backing::File(file) if file.shared)
    }

    /// The mapping from `start` up, which lies at or above this one's start.
    pub(super) fn from(&self, start: VirtAddr) -> Option<Self> {
        Some(
            self.moved(
                part(start, self.range.end())?,
                pages_between::<E>(self.range.start(), start),
            ),
        )
    }

    /// The mapping below `end`, which lies at or below this one's end.
    pub(super) fn up_to(&self, end: VirtAddr) -> Option<Self> {
        Some(Vma { range: part(self.range.start(), end)?, ..*self })
    }

    /// Both as one, if `next` begins where this one ends and is alike in everything.
    pub(super) fn joined(&self, next: &Self) -> Option<Self> {
        let alike = self.flags == next.flags
            && self.on_fork == next.on_fork
            && self.withheld == next.withheld;
        let continues = match self.backing {
            Backing::Anonymous => next.backing == Backing::Anonymous,
            // Each stack needs the gap below it.
            Backing::Stack => false,
            Backing::File(file) => next.backing == Backing::File(file.skip(self.range.pages())),
        };
        if self.range.end() != next.range.start() || !alike || !continues {
            return None;
        }
        let range = part(self.range.start(), next.range.end())?;
        Some(Vma { range, owns_pages: self.owns_pages || next.owns_pages, ..*self })
    }
}

/// The first address of a range's last page. (The range may end with the address space, where its end is no address.)
pub(super) fn last_page<E: Format>(range: PageRange<E>) -> VirtAddr {
    range.start().offset_pages::<E>(range.pages() - 1)
}

/// The pages between two addresses, if there are any.
pub(super) fn part<E: Format>(start: VirtAddr, end: VirtAddr) -> Option<PageRange<E>> {
    let bytes = end.0.checked_sub(start.0)?;
    PageRange::new(start, (bytes / E::PAGE_SIZE) as usize).ok()
}

fn pages_between<E: Format>(start: VirtAddr, end: VirtAddr) -> usize {
    (end.0.saturating_sub(start.0) / E::PAGE_SIZE) as usize
}

/// What two ranges have in common.
pub(super) fn intersection<E: Format>(a: PageRange<E>, b: PageRange<E>) -> Option<PageRange<E>> {
    part(a.start().max(b.start()), a.end().min(b.end()))
}

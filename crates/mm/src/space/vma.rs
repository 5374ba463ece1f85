//! The mappings of an address space, kept by address.

use alloc::collections::BTreeMap;

use kpkeys_pgtable::{PageRange, VirtAddr};

use crate::error::Error;

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

/// One mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vma {
    pub(super) range: PageRange,
    pub(super) flags: MapFlags,
}

/// Mappings that do not overlap, by start address.
#[derive(Clone, Debug, Default)]
pub(super) struct Vmas {
    by_start: BTreeMap<u64, Vma>,
}

impl Vmas {
    pub(super) fn insert(&mut self, vma: Vma) {
        self.by_start.insert(vma.range.start().0, vma);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.by_start.values()
    }

    /// The mapping that holds an address.
    pub(super) fn find(&self, va: VirtAddr) -> Option<&Vma> {
        let (_, vma) = self.by_start.range(..=va.0).next_back()?;
        vma.range.contains(va).then_some(vma)
    }

    pub(super) fn overlaps(&self, range: PageRange) -> bool {
        self.touching(range).next().is_some()
    }

    /// Whether mappings cover a range without a gap.
    pub(super) fn covered(&self, range: PageRange) -> Result<(), Error> {
        let mut next = range.start();
        for vma in self.touching(range) {
            if vma.range.start() > next {
                break;
            }
            next = vma.range.end();
        }
        if next > last_page(range) { Ok(()) } else { Err(Error::NotMapped(next)) }
    }

    /// Cuts the mappings that reach over either end of a range, so that each lies inside or outside.
    pub(super) fn split_at_ends_of(&mut self, range: PageRange) {
        self.split_at(range.start());
        self.split_at(range.end());
    }

    /// The mappings inside a range that was split at.
    pub(super) fn inside_mut(&mut self, range: PageRange) -> impl Iterator<Item = &mut Vma> {
        self.by_start.range_mut(range.start().0..range.end().0).map(|(_, vma)| vma)
    }

    /// The parts of a range that are mapped.
    pub(super) fn parts_in(&self, range: PageRange) -> impl Iterator<Item = PageRange> {
        self.touching(range).filter_map(move |vma| intersection(vma.range, range))
    }

    /// Takes out the mappings inside a range that was split at.
    pub(super) fn remove_inside(&mut self, range: PageRange) {
        let mut from_start = self.by_start.split_off(&range.start().0);
        let mut behind = from_start.split_off(&range.end().0);
        self.by_start.append(&mut behind);
    }

    /// The end of the mapping before a range, and the start of the one behind it: what page tables may be freed between.
    pub(super) fn neighbours(&self, range: PageRange, end_of_space: u64) -> (VirtAddr, VirtAddr) {
        let before =
            self.by_start.range(..range.start().0).next_back().map(|(_, vma)| vma.range.end());
        let behind = self.by_start.range(range.end().0..).next().map(|(&start, _)| VirtAddr(start));
        (before.unwrap_or(VirtAddr(0)), behind.unwrap_or(VirtAddr(end_of_space)))
    }

    fn touching(&self, range: PageRange) -> impl Iterator<Item = &Vma> {
        let first = self.find(range.start()).map_or(range.start().0, |vma| vma.range.start().0);
        self.by_start.range(first..=last_page(range).0).map(|(_, vma)| vma)
    }

    fn split_at(&mut self, va: VirtAddr) {
        let Some(&Vma { range, flags }) = self.find(va) else { return };
        if let (Some(below), Some(above)) = (part(range.start(), va), part(va, range.end())) {
            self.insert(Vma { range: below, flags });
            self.insert(Vma { range: above, flags });
        }
    }
}

/// The first address of a range's last page. (The range may end with the address space, where its end is no address.)
fn last_page(range: PageRange) -> VirtAddr {
    range.start().offset_pages(range.pages() - 1)
}

fn part(start: VirtAddr, end: VirtAddr) -> Option<PageRange> {
    let bytes = end.0.checked_sub(start.0)?;
    PageRange::new(start, (bytes / kpkeys_pgtable::PAGE_SIZE) as usize).ok()
}

fn intersection(a: PageRange, b: PageRange) -> Option<PageRange> {
    part(a.start().max(b.start()), a.end().min(b.end()))
}

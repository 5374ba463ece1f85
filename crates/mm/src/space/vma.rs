//! The mappings of an address space, kept by address.

use alloc::collections::BTreeMap;

use kpkeys_pgtable::{PAGE_SIZE, PageRange, VirtAddr};

use super::file::FilePages;
use crate::error::Error;

/// What must stay unmapped below a stack, so that a program cannot step over it into what lies there: Linux's 256 pages.
const STACK_GUARD_BYTES: u64 = 256 * PAGE_SIZE;

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
pub(super) struct Vma<'k> {
    pub(super) range: PageRange,
    pub(super) flags: MapFlags,
    pub(super) backing: Backing<'k>,
    pub(super) on_fork: OnFork,
    /// Whether some page was ever made for it alone. A fork need not copy entries otherwise: the child finds what they translate
    /// to where the parent did.
    pub(super) owns_pages: bool,
}

impl<'k> Vma<'k> {
    /// A new mapping, which no page was touched in.
    pub(super) fn new(range: PageRange, flags: MapFlags, backing: Backing<'k>) -> Self {
        Vma { range, flags, backing, on_fork: OnFork::Copy, owns_pages: false }
    }

    /// The same mapping at another place: `range`, whose first page continues as page `first` of this one.
    pub(super) fn moved(&self, range: PageRange, first: usize) -> Self {
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
    fn from(&self, start: VirtAddr) -> Option<Self> {
        Some(self.moved(part(start, self.range.end())?, pages_between(self.range.start(), start)))
    }

    /// Both as one, if `next` begins where this one ends and is alike in everything.
    fn joined(&self, next: &Self) -> Option<Self> {
        let alike = self.flags == next.flags && self.on_fork == next.on_fork;
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

/// Mappings that do not overlap, by start address.
#[derive(Clone, Debug, Default)]
pub(super) struct Vmas<'k> {
    by_start: BTreeMap<u64, Vma<'k>>,
}

impl<'k> Vmas<'k> {
    fn insert(&mut self, vma: Vma<'k>) {
        self.by_start.insert(vma.range.start().0, vma);
    }

    /// Adds a mapping, as part of its neighbours where they are alike.
    pub(super) fn add(&mut self, vma: Vma<'k>) {
        self.insert(vma);
        self.join_in(vma.range);
    }

    /// Joins what is alike among the mappings in a range and beside it.
    pub(super) fn join_in(&mut self, range: PageRange) {
        let before = self.by_start.range(..range.start().0).next_back();
        let mut at = before.map_or(range.start().0, |(&start, _)| start);
        while at <= range.end().0
            && let Some(vma) = self.by_start.range(at..=range.end().0).next().map(|(_, vma)| *vma)
        {
            let next = self.by_start.get(&vma.range.end().0);
            if let Some(both) = next.and_then(|next| vma.joined(next)) {
                self.by_start.remove(&vma.range.end().0);
                self.insert(both);
                at = both.range.start().0;
            } else {
                at = vma.range.end().0;
            }
        }
    }

    /// Notes that pages are made for every mapping that reaches into a range.
    pub(super) fn own_pages_in(&mut self, range: PageRange) {
        let first = self.find(range.start()).map_or(range.start().0, |vma| vma.range.start().0);
        self.by_start
            .range_mut(first..=last_page(range).0)
            .for_each(|(_, vma)| vma.owns_pages = true);
    }

    /// The mapping that holds an address, to be changed.
    pub(super) fn find_mut(&mut self, va: VirtAddr) -> Option<&mut Vma<'k>> {
        let (_, vma) = self.by_start.range_mut(..=va.0).next_back()?;
        vma.range.contains(va).then_some(vma)
    }

    /// Extends the mapping that starts at `start` up to `end`, and joins it with what begins there.
    pub(super) fn extend(&mut self, start: VirtAddr, end: VirtAddr) {
        if let Some(&vma) = self.by_start.get(&start.0)
            && let Some(range) = part(start, end)
        {
            self.add(Vma { range, ..vma });
        }
    }

    /// Extends the stack above an address down to it, if there is one and the mapping below keeps its distance.
    pub(super) fn grow_stack_to(&mut self, va: VirtAddr) -> Option<Vma<'k>> {
        let page = VirtAddr(va.0 & !(PAGE_SIZE - 1));
        let (&start, stack) = self.by_start.range(page.0..).next()?;
        let below =
            self.by_start.range(..page.0).next_back().map_or(0, |(_, vma)| vma.range.end().0);
        if stack.backing != Backing::Stack || page.0 < below + STACK_GUARD_BYTES {
            return None;
        }
        let grown = Vma { range: part(page, stack.range.end())?, ..*stack };
        self.by_start.remove(&start);
        self.insert(grown);
        Some(grown)
    }

    /// The mappings a fork gives to the child.
    pub(super) fn for_child(&self) -> Self {
        let kept = self.by_start.iter().filter(|(_, vma)| vma.on_fork != OnFork::Skip);
        let owns = |vma: &Vma<'k>| vma.owns_pages && vma.on_fork == OnFork::Copy;
        let child = |vma: &Vma<'k>| Vma { owns_pages: owns(vma), ..*vma };
        Vmas { by_start: kept.map(|(&start, vma)| (start, child(vma))).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Vma<'k>> {
        self.by_start.values()
    }

    /// The mapping that holds an address.
    pub(super) fn find(&self, va: VirtAddr) -> Option<&Vma<'k>> {
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
    pub(super) fn inside_mut(&mut self, range: PageRange) -> impl Iterator<Item = &mut Vma<'k>> {
        self.by_start.range_mut(range.start().0..range.end().0).map(|(_, vma)| vma)
    }

    /// The parts of a range that are mapped.
    pub(super) fn parts_in(&self, range: PageRange) -> impl Iterator<Item = PageRange> {
        self.touching(range).filter_map(move |vma| intersection(vma.range, range))
    }

    /// Takes out mappings, each given by its whole range.
    pub(super) fn remove(&mut self, ranges: &[PageRange]) {
        for range in ranges {
            self.by_start.remove(&range.start().0);
        }
    }

    /// The end of the mapping before a range, and the start of the one behind it: what page tables may be freed between.
    pub(super) fn neighbours(&self, range: PageRange, end_of_space: u64) -> (VirtAddr, VirtAddr) {
        let before =
            self.by_start.range(..range.start().0).next_back().map(|(_, vma)| vma.range.end());
        let behind = self.by_start.range(range.end().0..).next().map(|(&start, _)| VirtAddr(start));
        (before.unwrap_or(VirtAddr(0)), behind.unwrap_or(VirtAddr(end_of_space)))
    }

    fn touching(&self, range: PageRange) -> impl Iterator<Item = &Vma<'k>> {
        let first = self.find(range.start()).map_or(range.start().0, |vma| vma.range.start().0);
        self.by_start.range(first..=last_page(range).0).map(|(_, vma)| vma)
    }

    fn split_at(&mut self, va: VirtAddr) {
        let Some(&vma) = self.find(va) else { return };
        if let (Some(below), Some(above)) = (part(vma.range.start(), va), vma.from(va)) {
            self.insert(Vma { range: below, ..vma });
            self.insert(above);
        }
    }
}

/// The first address of a range's last page. (The range may end with the address space, where its end is no address.)
fn last_page(range: PageRange) -> VirtAddr {
    range.start().offset_pages(range.pages() - 1)
}

fn part(start: VirtAddr, end: VirtAddr) -> Option<PageRange> {
    let bytes = end.0.checked_sub(start.0)?;
    PageRange::new(start, (bytes / PAGE_SIZE) as usize).ok()
}

fn pages_between(start: VirtAddr, end: VirtAddr) -> usize {
    (end.0.saturating_sub(start.0) / PAGE_SIZE) as usize
}

fn intersection(a: PageRange, b: PageRange) -> Option<PageRange> {
    part(a.start().max(b.start()), a.end().min(b.end()))
}

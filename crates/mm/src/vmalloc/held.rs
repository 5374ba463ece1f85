//! Pages of `vm_map_ram` that are unmapped but that TLBs may still know. Their frames are the caller's, who may give them back at any time,
//! so each is held from before it is mapped until a flush.
//!
//! A frame may be held for several pages, so what is held is found by the pages: the word of a page, which [says who owns what](super::owners)
//! while there is something mapped, has the frame then, and the next page that is held.

use core::mem::take;
use core::ptr::{null_mut, without_provenance_mut};
use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::{Format, PageRange, VirtAddr};

use super::extent::Extent;
use super::owners::{HELD_PAGE, Owners};

/// Where a word has the frame, and above it the number of the next page.
const FRAME_SHIFT: u32 = HELD_PAGE.trailing_zeros() + 1;
const NEXT_SHIFT: u32 = FRAME_SHIFT + u32::BITS;
/// Pages that a word can number: those of 2 TiB.
const MAX_PAGES: u64 = 1 << (usize::BITS - NEXT_SHIFT);

/// Pages whose frames are held, the last added first. Dropped, they stay held.
#[derive(Debug, Default)]
pub(super) struct HeldPages {
    /// Addresses, of nothing while there is no page.
    first: u64,
    last: u64,
    len: usize,
    /// The lowest and the highest.
    low: u64,
    high: u64,
}

impl HeldPages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The addresses from the lowest page to behind the highest.
    pub(super) fn span<E: Format>(&self) -> Option<(u64, u64)> {
        (self.len > 0).then_some((self.low, self.high + E::PAGE_SIZE))
    }
}

/// All of the words are those of pages of a range that was given back, or never handed out, and whose addresses are not free yet. So they
/// belong to whoever has the list.
impl<E: Format> Owners<E> {
    /// Whether pages of a range can be held, once their words are there.
    #[inline(always)]
    pub(super) fn can_hold(&self, range: PageRange<E>) -> bool {
        range.end().0 - self.first().0 <= MAX_PAGES * E::PAGE_SIZE
    }

    /// Adds a page, which has a word, and its frame, which is held.
    #[inline]
    pub(super) fn hold(&self, pages: &mut HeldPages, page: VirtAddr, frame: u32) {
        self.set_held(page.0, frame, pages.first);
        let alone = pages.len == 0;
        pages.last = if alone { page.0 } else { pages.last };
        pages.low = if alone { page.0 } else { pages.low.min(page.0) };
        pages.high = pages.high.max(page.0);
        pages.first = page.0;
        pages.len += 1;
    }

    /// Adds `more`, whatever their number, in one step.
    #[inline]
    pub(super) fn hold_too(&self, pages: &mut HeldPages, more: HeldPages) {
        if pages.len == 0 {
            *pages = more;
        } else if more.len > 0 {
            let (frame, _) = self.held(more.last);
            self.set_held(more.last, frame, pages.first);
            pages.first = more.first;
            pages.low = pages.low.min(more.low);
            pages.high = pages.high.max(more.high);
            pages.len += more.len;
        }
    }

    /// Hands each page's frame to `let_go`; the pages' words are nothing's then.
    pub(super) fn let_go(&self, pages: &mut HeldPages, mut let_go: impl FnMut(u32)) {
        let HeldPages { first: mut page, len, .. } = take(pages);
        for _ in 0..len {
            let (frame, next) = self.held(page);
            if let Some(word) = self.word(VirtAddr(page)) {
                word.store(null_mut(), Relaxed);
            }
            let_go(frame);
            page = next;
        }
    }

    #[inline]
    fn set_held(&self, page: u64, frame: u32, next: u64) {
        let next = (next.saturating_sub(self.first().0) / E::PAGE_SIZE) as usize;
        let word = next << NEXT_SHIFT | (frame as usize) << FRAME_SHIFT | HELD_PAGE;
        if let Some(place) = self.word(VirtAddr(page)) {
            // Others learn of it by the locks that lists are behind.
            place.store(without_provenance_mut::<Extent<E>>(word), Relaxed);
        }
    }

    /// The frame of a page, and the next page.
    #[inline]
    fn held(&self, page: u64) -> (u32, u64) {
        let word = self.word(VirtAddr(page)).map_or(0, |word| word.load(Relaxed).addr());
        let next = self.first().offset_pages::<E>(word >> NEXT_SHIFT);
        ((word >> FRAME_SHIFT) as u32, next.0)
    }
}

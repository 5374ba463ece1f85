//! One word a frame: what it is, how many references it has, and how often it is mapped.
//!
//! | bits | |
//! |---|---|
//! | 0..27 | references |
//! | 27..54 | mappings; each is a reference too |
//! | 54..58 | order of the block or folio that the frame is the head of |
//! | 58..63 | type |
//! | 63 | touched: the frame may hold something else than the zeroes it held at boot |
//!
//! # Who may write it, and how
//!
//! - Whoever allocates or frees the frame is alone with it and stores plainly.
//! - A reference is made by somebody who has one, or whose argument keeps one (a file its pages), and given back once. Both are one
//!   atomic operation for references and mappings together.
//! - *A folio that only its owner can reach needs none.* If all references are the caller's, nobody else can make one, for want of a
//!   reference to make it from; nobody else gives one back; and what others did to the word before, the caller sees, since it sees that
//!   their references are gone. So [`share_own`](Word::share_own) stores plainly then, and [`release`](Word::release) stores nothing.
//!   That holds for folios alone, whose references all belong to entries of page tables: frames of other owners can be
//!   [held](Word::hold) by CPUs that have no reference.
//! - The touched bit may be set by anyone at any time, but is never cleared; while it is not set, nobody stores plainly to a folio
//!   that is mapped.
//!
//! The atomics are those of the module above, so that a model checker can put its own in their place.

use super::sync::{AtomicU64, Ordering};

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Never given to the allocator.
    Foreign,
    /// Allocated, as a single frame or the head of a block of this order, by somebody who counts nothing.
    Block(u8),
    /// Part of a block or folio, allocated or free, that starts earlier.
    Tail,
    /// Head of a free block of this order.
    Free(u8),
    /// On a list of single frames: a CPU's free ones, or those that [wait](super::waiting) for a flush.
    Listed,
    /// Head of a folio of this order.
    Folio(u8),
    /// A single frame of data that somebody owns.
    Owned,
    /// A page that everybody shares and that is never freed: nothing is counted.
    Kept,
}

/// See the module. A zero is a frame that was never given to the allocator and never written.
#[derive(Debug, Default)]
pub(super) struct Word(AtomicU64);

/// A folio has as many references as are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooMany;

/// A frame has not so many mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooFew;

const COUNT_BITS: u32 = 27;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// One reference.
const REFERENCE: u64 = 1;
/// One mapping and its reference.
const MAPPED: u64 = 1 << COUNT_BITS | REFERENCE;
const ORDER_SHIFT: u32 = 2 * COUNT_BITS;
const ORDER: u64 = 0xf;
const TYPE_SHIFT: u32 = ORDER_SHIFT + 4;
const TYPE: u64 = 0x1f << TYPE_SHIFT;
const TOUCHED: u64 = 1 << 63;

const FOREIGN: u64 = 0;
const BLOCK: u64 = 1 << TYPE_SHIFT;
const TAIL: u64 = 2 << TYPE_SHIFT;
const FREE: u64 = 3 << TYPE_SHIFT;
const LISTED: u64 = 4 << TYPE_SHIFT;
const FOLIO: u64 = 5 << TYPE_SHIFT;
const OWNED: u64 = 6 << TYPE_SHIFT;
const KEPT: u64 = 7 << TYPE_SHIFT;

/// References beyond which a frame is not shared further: half of what the count holds, so that increments in flight on other CPUs
/// cannot overflow it.
const MAX_REFERENCES: u64 = COUNT / 2;

const fn references(word: u64) -> u64 {
    word & COUNT
}

const fn mappings(word: u64) -> u64 {
    word >> COUNT_BITS & COUNT
}

impl Word {
    #[inline(always)]
    pub(super) fn kind(&self) -> Kind {
        let word = self.0.load(Ordering::Relaxed);
        let order = (word >> ORDER_SHIFT & ORDER) as u8;
        match word & TYPE {
            BLOCK => Kind::Block(order),
            TAIL => Kind::Tail,
            FREE => Kind::Free(order),
            LISTED => Kind::Listed,
            FOLIO => Kind::Folio(order),
            OWNED => Kind::Owned,
            KEPT => Kind::Kept,
            _ => Kind::Foreign,
        }
    }

    /// Whether the frame is the head of a block of this order that was handed out, as whatever.
    #[inline(always)]
    pub(super) fn is_out(&self, order: u8) -> bool {
        let what = self.0.load(Ordering::Relaxed) & (TYPE | ORDER << ORDER_SHIFT);
        let order = u64::from(order) << ORDER_SHIFT;
        what == BLOCK | order || what == FOLIO | order || what == OWNED | order
    }

    /// The order of the folio that the frame is the head of, if it is.
    #[inline(always)]
    pub(super) fn folio_order(&self) -> Option<u8> {
        let word = self.0.load(Ordering::Relaxed);
        (word & TYPE == FOLIO).then_some((word >> ORDER_SHIFT & ORDER) as u8)
    }

    /// Whether the frame is part of a block or folio that starts earlier.
    #[inline(always)]
    pub(super) fn is_tail(&self) -> bool {
        self.0.load(Ordering::Relaxed) & TYPE == TAIL
    }

    /// Makes the frame something else, without references. The caller is alone with it.
    #[inline(always)]
    pub(super) fn become_kind(&self, kind: Kind) {
        let described = match kind {
            Kind::Foreign => FOREIGN,
            Kind::Block(order) => BLOCK | u64::from(order) << ORDER_SHIFT,
            Kind::Tail => TAIL,
            Kind::Free(order) => FREE | u64::from(order) << ORDER_SHIFT,
            Kind::Listed => LISTED,
            Kind::Folio(order) => FOLIO | u64::from(order) << ORDER_SHIFT,
            Kind::Owned => OWNED,
            Kind::Kept => KEPT,
        };
        let kept = self.0.load(Ordering::Relaxed) & TOUCHED;
        self.0.store(kept | described, Ordering::Relaxed);
    }

    /// Gives the frame its first reference, which maps nothing. The caller is alone with it.
    #[inline(always)]
    pub(super) fn refer(&self) {
        self.set_counts(REFERENCE);
    }

    /// The first reference becomes as many mappings. The caller is alone with the frame.
    #[inline(always)]
    pub(super) fn map(&self, pages: u32) {
        self.set_counts(u64::from(pages) * MAPPED);
    }

    #[inline(always)]
    fn set_counts(&self, counts: u64) {
        let what = self.0.load(Ordering::Relaxed) & !(MAPPED * COUNT);
        self.0.store(what | counts, Ordering::Relaxed);
    }

    /// References and mappings.
    pub(super) fn counts(&self) -> (u32, u32) {
        let word = self.0.load(Ordering::Relaxed);
        (references(word) as u32, mappings(word) as u32)
    }

    /// Makes as many mappings more. Somebody keeps a reference meanwhile, who need not be the caller.
    #[inline(always)]
    pub(super) fn share(&self, pages: u32) -> Result<(), TooMany> {
        if self.0.load(Ordering::Relaxed) & TYPE == KEPT {
            return Ok(());
        }
        let more = u64::from(pages) * MAPPED;
        // Nothing is published by this: what the pages hold was seen by way of the reference that there was.
        if references(self.0.fetch_add(more, Ordering::Relaxed)) > MAX_REFERENCES {
            self.0.fetch_sub(more, Ordering::Relaxed);
            return Err(TooMany);
        }
        Ok(())
    }

    /// Makes as many mappings more as the caller has, at least, and nobody else changes.
    #[inline(always)]
    pub(super) fn share_own(&self, pages: u32) -> Result<(), TooMany> {
        // A plain store ends the chain by which whoever is last would see the accesses of those who gave back their references before
        // it. So the caller must have seen them.
        let word = self.0.load(Ordering::Acquire);
        if word & TOUCHED != 0 && is_all_of(word, pages) {
            self.0.store(word + u64::from(pages) * MAPPED, Ordering::Relaxed);
            return Ok(());
        }
        self.share(pages)
    }

    /// Gives back as many mappings, which no TLB holds any more. True if these were the last: the caller is alone with the folio then,
    /// whose counts mean nothing any more.
    ///
    /// # Errors
    ///
    /// [`TooFew`], and nothing is changed, if there are not so many: the frame was given back before, by somebody who had no right to.
    #[inline(always)]
    pub(super) fn release(&self, pages: u32) -> Result<bool, TooFew> {
        // The last one must see every access made under the others' references.
        let word = self.0.load(Ordering::Acquire);
        if is_all_of(word, pages) {
            return Ok(true);
        }
        if word & TYPE == KEPT {
            return Ok(false);
        }
        // Below zero it would be another frame's kind.
        if mappings(word) < u64::from(pages) {
            return Err(TooFew);
        }
        let before = self.0.fetch_sub(u64::from(pages) * MAPPED, Ordering::AcqRel);
        Ok(references(before) == u64::from(pages))
    }

    /// Whether the one mapping that the caller has is the only reference to a single page.
    #[inline(always)]
    pub(super) fn is_exclusive(&self) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & (ORDER << ORDER_SHIFT) == 0 && is_all_of(word, 1)
    }

    /// One more reference to a frame that somebody owns, by a CPU that has none. False if nobody owns it, or too many hold it.
    #[inline]
    pub(super) fn hold(&self) -> bool {
        let one_more = |word| {
            let counted = word & TYPE == OWNED && (1..MAX_REFERENCES).contains(&references(word));
            counted.then(|| word + REFERENCE)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives up a hold on a frame, or its ownership. True if it was the last: the caller is alone with the frame then.
    #[inline]
    pub(super) fn let_go(&self) -> bool {
        references(self.0.fetch_sub(REFERENCE, Ordering::AcqRel)) == 1
    }

    /// Whether the frame may hold something else than the zeroes it held at boot.
    #[inline(always)]
    pub(super) fn is_touched(&self) -> bool {
        self.0.load(Ordering::Relaxed) & TOUCHED != 0
    }

    #[inline(always)]
    pub(super) fn touch(&self) {
        if !self.is_touched() {
            self.0.fetch_or(TOUCHED, Ordering::Relaxed);
        }
    }
}

/// Whether a word is a folio's, all of whose references are the mappings of this many pages.
#[inline(always)]
const fn is_all_of(word: u64, pages: u32) -> bool {
    word & TYPE == FOLIO && references(word) == pages as u64
}

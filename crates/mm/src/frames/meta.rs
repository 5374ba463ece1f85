//! Per-frame metadata: 16 bytes for each frame of memory.

use alloc::boxed::Box;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering};

/// What is known of one frame.
///
/// The fields mean different things in different states, as in every kernel:
///
/// | state | `refs` | `maps` | `link` |
/// |---|---|---|---|
/// | free, in the buddy | previous block | - | next block |
/// | free, in a CPU's list | - | - | next frame |
/// | head of a folio | references | mapped entries | - |
/// | tail of a folio | - | - | head |
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct FrameMeta {
    pub(super) refs: AtomicU32,
    pub(super) maps: AtomicU32,
    pub(super) link: AtomicU32,
    state: AtomicU32,
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Allocated, as a single frame or the head of a block or folio of this order.
    Used(u8),
    /// Part of a folio that starts earlier.
    Tail,
    /// Head of a free block of this order in the buddy.
    Free(u8),
}

const ORDER: u32 = 0xff;
const TAIL: u32 = 1 << 8;
const FREE: u32 = 1 << 9;
/// The frame may hold something else than zeroes.
const TOUCHED: u32 = 1 << 10;

impl FrameMeta {
    #[inline(always)]
    pub(super) fn kind(&self) -> Kind {
        let state = self.state.load(Ordering::Relaxed);
        let order = (state & ORDER) as u8;
        if state & FREE != 0 {
            Kind::Free(order)
        } else if state & TAIL != 0 {
            Kind::Tail
        } else {
            Kind::Used(order)
        }
    }

    #[inline(always)]
    pub(super) fn set_kind(&self, kind: Kind) {
        let kind = match kind {
            Kind::Used(order) => u32::from(order),
            Kind::Tail => TAIL,
            Kind::Free(order) => FREE | u32::from(order),
        };
        let kept = self.state.load(Ordering::Relaxed) & TOUCHED;
        self.state.store(kept | kind, Ordering::Relaxed);
    }

    /// Whether the frame may hold something else than the zeroes it held at boot.
    #[inline(always)]
    pub(super) fn is_touched(&self) -> bool {
        self.state.load(Ordering::Relaxed) & TOUCHED != 0
    }

    #[inline(always)]
    pub(super) fn touch(&self) {
        let state = self.state.load(Ordering::Relaxed);
        if state & TOUCHED == 0 {
            self.state.store(state | TOUCHED, Ordering::Relaxed);
        }
    }
}

/// The metadata of all frames, one element a frame.
#[derive(Debug)]
pub enum FrameTable {
    /// On the heap.
    Heap(Box<[FrameMeta]>),
    /// In memory set aside at boot.
    Boot(&'static [FrameMeta]),
}

impl FrameTable {
    /// A table on the heap for this many frames.
    pub fn on_heap(frames: usize) -> FrameTable {
        FrameTable::Heap((0..frames).map(|_| FrameMeta::default()).collect())
    }
}

impl Deref for FrameTable {
    type Target = [FrameMeta];

    #[inline(always)]
    fn deref(&self) -> &[FrameMeta] {
        match self {
            FrameTable::Heap(table) => table,
            FrameTable::Boot(table) => table,
        }
    }
}

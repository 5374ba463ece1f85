//! Per-frame metadata: 16 bytes for each frame of memory.

use alloc::boxed::Box;
use core::ops::Deref;
use core::sync::atomic::AtomicU32;

use super::word::Word;

/// What is known of one frame.
///
/// The links mean different things in different states, as in every kernel:
///
/// | state | `link` | `previous` |
/// |---|---|---|
/// | free, in the buddy | next block | previous block |
/// | free, in a CPU's list | next frame | - |
/// | tail of a folio | head | - |
/// | waits for a flush | next frame | - |
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct FrameMeta {
    pub(super) word: Word,
    pub(super) link: AtomicU32,
    pub(super) previous: AtomicU32,
}

const _: () = assert!(size_of::<FrameMeta>() == 16);

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

//! Frames that carry the key and are in no table: about to be handed to the wrapped crate, or taken back from it.
//!
//! They are linked through their own first words, which only a window can change. A CPU that still holds a path through a frame that was a table
//! reads that word as an entry that is not present.

use kpkeys::{Pkey, Window};
use x86_64::structures::paging::page_table::PageTableLevel;
use x86_64::structures::paging::{FrameAllocator, FrameDeallocator, PhysFrame, Size4KiB};

use crate::entry::{self, Entry, Slot};
use crate::linear::Linear;

/// In a link: there is another frame. Bit 0, which makes an entry present, stays clear.
const MORE: u64 = 1 << 1;

/// Keyed frames, linked.
#[derive(Debug)]
pub(crate) struct List {
    first: Option<PhysFrame>,
    len: usize,
}

impl List {
    pub(crate) const EMPTY: List = List { first: None, len: 0 };

    /// How many frames were pushed and not popped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// # Safety
    ///
    /// The frame carries the key, no CPU can write it without a window, and nobody else uses it.
    pub(crate) unsafe fn push<L: Linear>(
        &mut self,
        window: &Window<'_>,
        linear: &L,
        frame: PhysFrame,
    ) {
        let link = self.first.map_or(0, |next| next.start_address().as_u64() | MORE);
        // SAFETY: the caller's promise.
        unsafe { Slot::of(linear, frame, 0) }.store(window, Entry(link));
        self.first = Some(frame);
        self.len += 1;
    }

    /// The frame that was pushed last. Where the list begins is ordinary memory: what does not carry the key is not taken for a frame of
    /// it, and the list ends there.
    pub(crate) fn pop<L: Linear>(&mut self, linear: &L, root: PhysFrame) -> Option<PhysFrame> {
        let frame = self.first.take().filter(|&frame| is_keyed(linear, root, frame));
        let Some(frame) = frame else {
            self.len = 0;
            return None;
        };
        // SAFETY: the frame has an address and carries the key: it was pushed, or is a table, and is only read here.
        let link = unsafe { Slot::of(linear, frame, 0) }.load();
        self.first = (link.0 & MORE != 0).then(|| link.frame());
        self.len = self.len.saturating_sub(1);
        Some(frame)
    }
}

/// Whether a frame carries the key of page tables where `linear` maps it.
pub(crate) fn is_keyed<L: Linear>(linear: &L, root: PhysFrame, frame: PhysFrame) -> bool {
    let Some(address) = linear.address(frame) else { return false };
    // SAFETY: `root` is the root that was adopted.
    unsafe { entry::walk(linear, root, address, PageTableLevel::One) }.is_ok_and(|place| {
        place.entry.is_leaf(place.level) && place.entry.key() == Pkey::PAGE_TABLES
    })
}

/// What the wrapped crate allocates from inside a window: frames that are keyed, flushed and, from when they are handed out, empty.
///
/// That crate links a new table first and zeroes it then; here it is empty before it is linked.
pub(crate) struct Prepared<'w, L> {
    pub(crate) list: &'w mut List,
    pub(crate) linear: L,
    pub(crate) root: PhysFrame,
    pub(crate) window: &'w Window<'w>,
}

// SAFETY: frames in the list are used by nobody, and each is handed out once.
unsafe impl<L: Linear> FrameAllocator<Size4KiB> for Prepared<'_, L> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.list.pop(&self.linear, self.root)?;
        // SAFETY: the frame has an address, and has just been taken out of the list.
        unsafe { entry::zero(self.window, &self.linear, frame) };
        Some(frame)
    }
}

/// What the wrapped crate frees to inside a window: frames wait here for the flush.
pub(crate) struct Waiting<'w, L> {
    pub(crate) list: List,
    pub(crate) linear: L,
    pub(crate) root: PhysFrame,
    pub(crate) window: &'w Window<'w>,
}

impl<L: Linear> FrameDeallocator<Size4KiB> for Waiting<'_, L> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame) {
        // What does not carry the key was no table of these, and would end the list.
        if is_keyed(&self.linear, self.root, frame) {
            // SAFETY: the frame carries the key, and is linked nowhere any more (caller's promise).
            unsafe { self.list.push(self.window, &self.linear, frame) };
        }
    }
}

/// No frames.
pub(crate) struct NoFrames;

// SAFETY: hands out nothing.
unsafe impl FrameAllocator<Size4KiB> for NoFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        None
    }
}

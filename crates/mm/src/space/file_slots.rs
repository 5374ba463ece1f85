//! Where a file keeps its frames: places that are found by number without a lock, and only ever added.
//!
//! They lie in pieces, each as long as all before it together, so that a file that grows moves none of them.

use alloc::vec::Vec;

use kpkeys_pgtable::{Machine, PhysAddr, VirtAddr};
use spin::Once;

use crate::error::Error;
use crate::frames::{FrameSlot, OwnedFrame};
use crate::heap;
use crate::kernel::Kernel;

/// Places in the first piece, and in the second.
const FIRST: usize = 16;
/// Pieces: places for 8 GiB.
const PIECES: usize = 18;

/// The frames of a file.
#[derive(Debug)]
pub(super) struct Slots([Once<Vec<FrameSlot>>; PIECES]);

impl Default for Slots {
    fn default() -> Self {
        Slots([const { Once::new() }; PIECES])
    }
}

/// In which piece a place is, and where in it.
#[inline(always)]
fn piece_of(place: usize) -> (usize, usize) {
    let Some(doublings) = (place / FIRST).checked_ilog2() else { return (0, place) };
    (doublings as usize + 1, place - (FIRST << doublings))
}

/// The first place of a piece, and how many it has.
fn extent(piece: usize) -> (usize, usize) {
    match piece.checked_sub(1) {
        None => (0, FIRST),
        Some(doublings) => (FIRST << doublings, FIRST << doublings),
    }
}

impl Slots {
    /// Places with frames in them.
    ///
    /// # Errors
    ///
    /// The frames, if the heap has no room.
    pub(super) fn holding(frames: Vec<OwnedFrame>) -> Result<Self, Vec<OwnedFrame>> {
        let slots = Self::default();
        if slots.make_room(frames.len()).is_err() {
            return Err(frames);
        }
        for (place, frame) in frames.into_iter().enumerate() {
            let filled = slots.slot(place).map(|slot| slot.fill(frame));
            debug_assert!(matches!(filled, Some(Ok(()))), "there is room, and nothing in it yet");
        }
        Ok(slots)
    }

    /// Makes sure of places for `pages` frames.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(super) fn make_room(&self, pages: usize) -> Result<(), Error> {
        let Some(last) = pages.checked_sub(1) else { return Ok(()) };
        let pieces = self.0.get(..=piece_of(last).0).ok_or(Error::OutOfMemory)?;
        for (piece, once) in pieces.iter().enumerate() {
            once.try_call_once(|| {
                let len = extent(piece).1;
                let mut slots = heap::with_room_for(len)?;
                slots.resize_with(len, FrameSlot::empty);
                Ok::<_, Error>(slots)
            })?;
        }
        Ok(())
    }

    #[inline(always)]
    fn slot(&self, place: usize) -> Option<&FrameSlot> {
        let (piece, place) = piece_of(place);
        self.0.get(piece)?.get()?.get(place)
    }

    /// The frame in a place.
    #[inline(always)]
    pub(super) fn get(&self, place: usize) -> Option<PhysAddr> {
        self.slot(place)?.get()
    }

    /// The frame in a place that may be empty: a new one then, unless somebody else is faster.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[cold]
    pub(super) fn fill<M: Machine>(
        &self,
        kernel: &Kernel<M>,
        place: usize,
    ) -> Result<PhysAddr, Error> {
        let slot = self.slot(place).ok_or(Error::OutOfMemory)?;
        let frames = kernel.frames();
        let new = kernel.purging_if_short(|| frames.new_zeroed_frame(kernel.machine()))?;
        if let Err(late) = slot.fill(new) {
            frames.free_frame(late);
        }
        slot.get().ok_or(Error::OutOfMemory)
    }

    /// Takes out the frames from a place on.
    pub(super) fn take_from(&mut self, first: usize, mut taken: impl FnMut(OwnedFrame)) {
        for (piece, once) in self.0.iter_mut().enumerate() {
            let start = extent(piece).0;
            let slots = once.get_mut().into_iter().flatten().enumerate();
            for (_, slot) in slots.filter(|&(place, _)| start + place >= first) {
                slot.take().into_iter().for_each(&mut taken);
            }
        }
    }

    /// The frame in a place, and where that is kept.
    pub(super) fn cached(&self, place: usize) -> Option<(PhysAddr, VirtAddr)> {
        let slot = self.slot(place)?;
        Some((slot.get()?, VirtAddr(core::ptr::from_ref(slot).addr() as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_each_other_through_the_pieces() {
        let mut next = 0;
        for piece in 0..PIECES {
            let (first, len) = extent(piece);
            assert_eq!(first, next, "piece {piece}");
            assert_eq!(piece_of(first), (piece, 0));
            assert_eq!(piece_of(first + len - 1), (piece, len - 1));
            next = first + len;
        }
    }
}

//! Single frames of data, owned by a value.

use core::sync::atomic::{AtomicU64, Ordering};

use kpkeys_pgtable::{Format, Machine, PhysAddr};

use super::buddy::Buddy;
use super::word::Kind;
use crate::error::Error;

/// A frame of data that belongs to whoever holds this. Its contents are undefined at first.
#[must_use = "the frame is lost unless it is given back with `Buddy::free_frame`"]
#[derive(Debug)]
#[repr(transparent)]
pub struct OwnedFrame(PhysAddr);

impl OwnedFrame {
    /// Its address.
    pub fn address(&self) -> PhysAddr {
        self.0
    }
}

/// A place for a frame of data that is filled once, by whoever comes first, and read without a lock.
#[derive(Debug)]
pub(crate) struct FrameSlot(AtomicU64);

impl FrameSlot {
    /// No frame has this address.
    const EMPTY: u64 = u64::MAX;

    /// An empty one.
    pub(crate) fn empty() -> Self {
        FrameSlot(AtomicU64::new(Self::EMPTY))
    }

    /// The frame in it.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<PhysAddr> {
        // Acquire, for the contents that were there when it was filled.
        let address = self.0.load(Ordering::Acquire);
        (address != Self::EMPTY).then_some(PhysAddr(address))
    }

    /// Puts a frame into it.
    ///
    /// # Errors
    ///
    /// The frame, if there is one already.
    pub(crate) fn fill(&self, frame: OwnedFrame) -> Result<(), OwnedFrame> {
        let filled =
            self.0.compare_exchange(Self::EMPTY, frame.0.0, Ordering::AcqRel, Ordering::Relaxed);
        filled.map(drop).map_err(|_| frame)
    }

    /// Takes the frame out of it.
    pub(crate) fn take(&mut self) -> Option<OwnedFrame> {
        let address = core::mem::replace(self.0.get_mut(), Self::EMPTY);
        (address != Self::EMPTY).then_some(OwnedFrame(PhysAddr(address)))
    }
}

impl<E: Format> Buddy<E> {
    /// A frame for data.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new_frame(&self) -> Result<OwnedFrame, Error> {
        let number = self.take(0).ok_or(Error::OutOfMemory)?;
        Ok(self.owned(number))
    }

    /// A frame for data that holds zeroes. What is written to it later counts as its contents.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub(crate) fn new_zeroed_frame<M: Machine<Format = E>>(
        &self,
        machine: &M,
    ) -> Result<OwnedFrame, Error> {
        let frame = self.new_folio(machine, 0)?;
        Ok(self.owned(self.number(frame)))
    }

    /// Makes a single frame, newly allocated, somebody's own, who will write it.
    fn owned(&self, number: u32) -> OwnedFrame {
        let word = &self.meta(number).word;
        word.become_kind(Kind::Owned);
        word.refer();
        word.touch();
        OwnedFrame(self.address(number))
    }

    /// Takes a frame back. It is free once no mapping holds it any more. A frame of another allocator is [refused](Self::refused).
    pub fn free_frame(&self, frame: OwnedFrame) {
        self.let_go(frame.0);
    }

    /// Keeps a frame from being reused until [`let_go`](Self::let_go): some mapping of it is still to be cleared. False, and
    /// nothing done, if the frame has no owner that counts holds: a page-table page, a page of an address space, the image's, or none of
    /// this memory.
    #[inline]
    #[must_use]
    pub(crate) fn hold(&self, frame: PhysAddr) -> bool {
        self.memory.contains(frame, 1) && self.meta(self.number(frame)).word.hold()
    }

    /// Gives up one hold on a frame, or its ownership.
    #[inline]
    pub(crate) fn let_go(&self, frame: PhysAddr) {
        if !self.memory.contains(frame, 1) {
            return self.refuse();
        }
        let number = self.number(frame);
        let word = &self.meta(number).word;
        if word.kind() != Kind::Owned {
            return self.refuse();
        }
        if word.let_go() {
            self.put(number, 0);
        }
    }
}

//! What PTP allocators stand on: the machine, the frames, the mode, the linear map, and whether protection is on yet.

use core::sync::atomic::{AtomicBool, Ordering};

use kpkeys::Pkey;
use spin::Mutex;

use crate::addr::PhysAddr;
use crate::error::Error;
use crate::linear::{Linear, Reserve};
use crate::machine::{Frames, Machine};
use crate::mode::Mode;
use crate::ptp::EarlyPtps;
use crate::section::{Section, Space};

/// The state shared by everything that allocates, keys or stores.
pub struct Ground<M, F> {
    machine: M,
    frames: F,
    mode: Mode,
    linear: Linear,
    early: Mutex<EarlyPtps>,
    foreign: Mutex<EarlyPtps>,
    protected: AtomicBool,
}

impl<M: Machine, F: Frames> Ground<M, F> {
    pub(crate) fn new(machine: M, frames: F, mode: Mode, linear: Linear) -> Self {
        let [early, foreign] = [const { Mutex::new(EarlyPtps::new()) }; 2];
        let protected = AtomicBool::new(false);
        Ground { machine, frames, mode, linear, early, foreign, protected }
    }

    /// The same, with the linear map it is to use.
    pub(crate) fn with_linear(self, linear: Linear) -> Self {
        Ground { linear, ..self }
    }

    /// The machine.
    #[inline(always)]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The frame allocator.
    #[inline(always)]
    pub fn frames(&self) -> &F {
        &self.frames
    }

    /// The protection mode.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn linear(&self) -> &Linear {
        &self.linear
    }

    /// Begins an operation on tables of `space`.
    #[inline(always)]
    pub(crate) fn section(&self, space: Space) -> Section<'_, M> {
        Section::begin(&self.machine, self.mode, space)
    }

    /// Whether page-table pages carry their key: from [`Paging::enable_protection`](crate::Paging::enable_protection) on.
    #[inline(always)]
    pub fn is_protected(&self) -> bool {
        self.protected.load(Ordering::Acquire)
    }

    pub(crate) fn set_protected(&self) {
        self.protected.store(true, Ordering::Release);
    }

    /// Sets the key of `pages` frames from `start` in the linear map, splitting blocks with page-table pages from `reserve`, and
    /// flushes what TLBs hold of them.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideLinearMap`], [`Error::KeyOutOfRange`], or [`Error::OutOfMemory`] if the reserve is too small; keys are
    /// as before then.
    pub(crate) fn set_key(
        &self,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        let section = self.section(Space::Linear);
        self.linear.set_key(&section, start, pages, key, reserve)
    }

    pub(crate) fn record_early(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if self.mode.protects() { self.early.lock().record(start, pages) } else { Ok(()) }
    }

    pub(crate) fn forget_early(&self, page: PhysAddr) -> Result<(), Error> {
        self.early.lock().forget(page)
    }

    /// Records pages that are never freed, and may or may not be linked.
    pub(crate) fn record_foreign(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if self.mode.protects() { self.foreign.lock().record(start, pages) } else { Ok(()) }
    }

    pub(crate) fn foreign(&self) -> EarlyPtps {
        self.foreign.lock().clone()
    }

    pub(crate) fn early(&self) -> EarlyPtps {
        self.early.lock().clone()
    }
}

//! What PTP allocators stand on: the machine, the frames, the mode, the linear map, and whether protection is on yet.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kpkeys::{Backend, Pkey, Scheme};
use spin::Mutex;

use crate::addr::{Level, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::guarded::{FrameType, Kind, Violation};
use crate::linear::{Linear, Reserve};
use crate::machine::{Frames, Machine};
use crate::mode::Mode;
use crate::ptp::{Class, EarlyPtps};
use crate::section::{Section, Space};

/// The state shared by everything that allocates, keys or stores.
pub struct Ground<M: Machine, F> {
    machine: M,
    frames: F,
    mode: Mode,
    linear: Linear<M::Format>,
    /// Serialises changes of the linear map. Who breaks it has two changes of one block made at a time, of which a gate refuses the second
    /// [split](crate::linear).
    linear_lock: Mutex<()>,
    early: Mutex<EarlyPtps<M::Format>>,
    foreign: Mutex<EarlyPtps<M::Format>>,
    protected: AtomicBool,
    /// How far behind an entry in a table the address is that it is stored through: zero until every page-table page has its alias.
    to_alias: AtomicUsize,
}

impl<M: Machine, F: Frames> Ground<M, F> {
    pub(crate) fn new(machine: M, frames: F, mode: Mode, linear: Linear<M::Format>) -> Self {
        let [early, foreign] = [const { Mutex::new(EarlyPtps::new()) }; 2];
        let (protected, to_alias) = (AtomicBool::new(false), AtomicUsize::new(0));
        let linear_lock = Mutex::new(());
        Ground { machine, frames, mode, linear, linear_lock, early, foreign, protected, to_alias }
    }

    /// The same, with the linear map it is to use. Where there are types, it is kept with them.
    pub(crate) fn with_linear(self, linear: Linear<M::Format>) -> Self {
        let anchor = self.machine.anchor();
        if anchor.get().is_some() {
            anchor.lay_linear(linear);
        }
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

    #[inline(always)]
    pub(crate) fn linear(&self) -> &Linear<M::Format> {
        self.machine.anchor().linear().unwrap_or(&self.linear)
    }

    /// Whether the tables of address spaces have a key of their own: in modes that check, since what a spare page's key is its type says.
    #[inline(always)]
    pub(crate) fn separates_user_tables(&self) -> bool {
        self.machine.backend().separates_user_tables() && self.mode.checks()
    }

    /// Which tables a table has its key in common with.
    #[inline(always)]
    pub(crate) fn class_of(&self, level: Level, kind: Kind) -> Class {
        if self.separates_user_tables() { Class::of(level, kind) } else { Class::Kernel }
    }

    /// The same of a frame that is protected.
    pub(crate) fn class_of_frame(&self, frame: PhysAddr) -> Class {
        let types = self.machine.anchor().get().filter(|_| self.separates_user_tables());
        types.map_or(Class::Kernel, |types| Class::of_type(types.of(frame)))
    }

    /// Changes the linear map, alone.
    pub(crate) fn changing_linear<R>(
        &self,
        change: impl FnOnce(&Linear<M::Format>, &Section<'_, M>) -> R,
    ) -> R {
        let _locked = self.linear_lock.lock();
        change(self.linear(), &self.section(Space::Linear))
    }

    /// Begins an operation on tables of `space`.
    #[inline(always)]
    pub(crate) fn section(&self, space: Space) -> Section<'_, M> {
        let to_alias = match self.machine.backend().scheme() {
            Scheme::Keys => 0,
            Scheme::Alias => self.to_alias(),
        };
        Section::begin(&self.machine, self.mode, space, to_alias)
    }

    /// Where there are types, what is believed is kept with them.
    #[inline(always)]
    fn to_alias(&self) -> usize {
        match self.machine.anchor().get() {
            None => self.to_alias.load(Ordering::Relaxed),
            Some(types) if types.through_alias() => self.machine.to_alias(),
            Some(_) => 0,
        }
    }

    /// From now on page tables are stored through their alias, which they all must have.
    pub(crate) fn store_through_alias(&self) {
        // What was stored for the alias is in force before it is used.
        self.machine.entry_barrier();
        match self.machine.anchor().get() {
            None => self.to_alias.store(self.machine.to_alias(), Ordering::Relaxed),
            Some(types) => {
                self.section(Space::Linear)
                    .store_guarded(|window, _| types.set_through_alias(window));
            }
        }
    }

    /// Whether page-table pages carry their key: from [`Paging::enable_protection`](crate::Paging::enable_protection) on.
    #[inline(always)]
    pub fn is_protected(&self) -> bool {
        match self.machine.anchor().get() {
            None => self.protected.load(Ordering::Acquire),
            Some(types) => types.is_protected(),
        }
    }

    /// Where that is kept. For attacks.
    pub(crate) fn protected_address(&self) -> *const u8 {
        match self.machine.anchor().get() {
            None => self.protected.as_ptr().cast_const().cast(),
            Some(types) => types.protected_address().cast(),
        }
    }

    pub(crate) fn set_protected(&self) {
        match self.machine.anchor().get() {
            None => self.protected.store(true, Ordering::Release),
            Some(types) => self
                .section(Space::Linear)
                .store_guarded(|window, to_alias| types.set_protected(window, to_alias)),
        }
    }

    /// Makes data spare page-table pages of a class, in modes that check, as part of an operation: `pages` frames from `start`. Those with a mark are looked for in all tables
    /// first; returns whether that was needed.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if they are not data, or some entry maps one of them.
    #[track_caller]
    pub(crate) fn make_spare(
        &self,
        section: &Section<'_, M>,
        start: PhysAddr,
        pages: usize,
        class: Class,
    ) -> Result<bool, Error> {
        let (from, to) = (FrameType::Data, class.spare());
        match (section.try_retype(start, pages, from, to), section.types()) {
            (Ok(()), _) => Ok(false),
            (Err(Violation { is: FrameType::Mapped, .. }), Some(types)) => {
                section.sweep(types)?;
                section.retype(start, pages, from, to).map(|()| true)
            }
            (Err(violation), _) => Err(section.refuse(violation)),
        }
    }

    /// Makes `pages` frames from `start` page-table pages of a class for the CPU: sets their key, or makes them read-only in the linear map and
    /// gives them their alias. Flushes what TLBs hold of them.
    ///
    /// # Errors
    ///
    /// As [`set_key`](Self::set_key).
    pub(crate) fn protect(
        &self,
        start: PhysAddr,
        pages: usize,
        class: Class,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        self.changing_linear(|linear, section| {
            linear.protect(section, start, pages, class, reserve)
        })
    }

    /// Makes frames data again, as [`protect`](Self::protect) found them. They must have been protected together.
    ///
    /// # Errors
    ///
    /// As [`set_key`](Self::set_key), and [`Error::MappedByBlock`] for part of what was protected together.
    pub(crate) fn unprotect(
        &self,
        start: PhysAddr,
        pages: usize,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        self.changing_linear(|linear, section| linear.unprotect(section, start, pages, reserve))
    }

    /// [`protect`](Self::protect) for one page where the linear map is made of pages: nothing is split.
    ///
    /// # Errors
    ///
    /// As [`protect`](Self::protect), and [`Error::NeedsPageMappedLinearMap`].
    #[inline(always)]
    pub(crate) fn protect_page(&self, frame: PhysAddr, class: Class) -> Result<(), Error> {
        match self.linear().alias() {
            None => self.set_page_key(frame, class.key()),
            Some(_) => self.protect(frame, 1, class, &mut Reserve::new()),
        }
    }

    /// [`unprotect`](Self::unprotect) for one page where the linear map is made of pages.
    ///
    /// # Errors
    ///
    /// As [`protect_page`](Self::protect_page).
    #[inline(always)]
    pub(crate) fn unprotect_page(&self, frame: PhysAddr) -> Result<(), Error> {
        match self.linear().alias() {
            None => self.set_page_key(frame, Pkey::DEFAULT),
            Some(_) => self.unprotect(frame, 1, &mut Reserve::new()),
        }
    }

    /// [`set_key`](Self::set_key) for a page that is the caller's alone, in a map of pages: it takes no lock.
    #[inline(always)]
    fn set_page_key(&self, frame: PhysAddr, key: Pkey) -> Result<(), Error> {
        self.linear().set_page_key(&self.section(Space::Linear), frame, key)
    }

    /// Gives frames that protection will be turned on for their alias, if the backend wants one.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the reserve is too small; nothing was changed then.
    pub(crate) fn map_alias(
        &self,
        start: PhysAddr,
        pages: usize,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        self.changing_linear(|linear, section| linear.map_alias(section, start, pages, reserve))
    }

    /// Sets the key of `pages` frames from `start` in the linear map, splitting blocks with page-table pages from `reserve`, and
    /// flushes what TLBs hold of them.
    ///
    /// # Errors
    ///
    /// [`Error::OutsideLinearMap`], [`Error::KeyOutOfRange`], [`Error::NoKeys`], or [`Error::OutOfMemory`] if the reserve is too
    /// small; keys are as before then.
    pub(crate) fn set_key(
        &self,
        start: PhysAddr,
        pages: usize,
        key: Pkey,
        reserve: &mut Reserve,
    ) -> Result<(), Error> {
        self.changing_linear(|linear, section| {
            // As late as here: the pool may have taken some of them for the pages in `reserve`.
            self.refuse_protected(start, pages, key)?;
            linear.set_key(section, start, pages, key, reserve)
        })
    }

    /// Refuses another key than their own for frames that are protected, once protection is on.
    ///
    /// # Errors
    ///
    /// [`Error::Protected`].
    fn refuse_protected(&self, start: PhysAddr, pages: usize, key: Pkey) -> Result<(), Error> {
        let types = self.machine.anchor().get().filter(|types| types.is_protected());
        let Some(types) = types else { return Ok(()) };
        let mut frames = (0..pages as u64).map(|page| start.offset(page * M::Format::PAGE_SIZE));
        frames
            .find(|&frame| {
                types.of(frame).is_protected() && self.class_of_frame(frame).key() != key
            })
            .map_or(Ok(()), |frame| Err(Error::Protected(frame)))
    }

    pub(crate) fn record_early(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if self.mode.protects() { self.early.lock().record(start, pages) } else { Ok(()) }
    }

    pub(crate) fn forget_early(&self, page: PhysAddr) -> Result<(), Error> {
        if self.mode.protects() { self.early.lock().forget(page) } else { Ok(()) }
    }

    /// Records pages that are never freed, and may or may not be linked.
    pub(crate) fn record_foreign(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if self.mode.protects() { self.foreign.lock().record(start, pages) } else { Ok(()) }
    }

    pub(crate) fn foreign(&self) -> EarlyPtps<M::Format> {
        self.foreign.lock().clone()
    }

    pub(crate) fn early(&self) -> EarlyPtps<M::Format> {
        self.early.lock().clone()
    }
}

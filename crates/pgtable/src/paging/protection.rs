//! Turning protection on; and what a kernel says before that of frames which this library did not allocate.

use kpkeys::{Backend, Pkey, context};

use super::Paging;
use crate::addr::{Level, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::guarded::{FrameType, Types};
use crate::linear::Reserve;
use crate::machine::{Frames, Machine};
use crate::ptp::{Class, EarlyPtps, PtpAllocator};
use crate::section::Space;

impl<M: Machine, F: Frames> Paging<M, F> {
    /// Turns protection on: protects every page-table page made so far, and from now on each new one. Does nothing in mode
    /// `off`. Every CPU's backend must be initialised. Under [`Scheme::Alias`](kpkeys::Scheme::Alias) every CPU must be on these tables, since page tables
    /// are stored through their alias from here on, and no other operation may be going on.
    ///
    /// # Errors
    ///
    /// Why some page could not be protected. Protection must not be claimed then. [`Error::OutsideLinearMap`] if the linear map does not
    /// map a recorded page, [`Error::CpuOpen`] if this CPU is not outside of windows: nothing is changed then.
    pub fn enable_protection(&self) -> Result<(), Error> {
        if !self.ground.mode().protects() || self.is_protected() {
            return Ok(());
        }
        if !self.machine().backend().is_in::<context::Default>() {
            return Err(Error::CpuOpen);
        }
        self.refuse_holes_recorded()?;
        if self.ground.linear().alias().is_some() {
            return self.enable_alias();
        }
        self.ptps().enable_protection(&self.ground)?;
        if let Some(pool) = self.user_ptps() {
            pool.enable_protection(&self.ground)?;
        }
        self.ground.set_protected();
        for early in [self.ground.early(), self.ground.foreign()] {
            for (start, pages) in early.iter() {
                self.protect_recorded(start, pages)?;
            }
        }
        Ok(())
    }

    /// Gives recorded pages their key: one, or each its own.
    fn protect_recorded(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        if !self.separates_user_tables() {
            return self.set_memory_pkey(start, pages, Pkey::PAGE_TABLES);
        }
        let mut frames = (0..pages as u64).map(|page| start.offset(page * M::Format::PAGE_SIZE));
        let class_of = |frame: &PhysAddr| self.ground.class_of_frame(*frame);
        let mut next = frames.next();
        while let Some(first) = next {
            let class = class_of(&first);
            let mut alike = 1;
            next = frames.next();
            while next.as_ref().is_some_and(|frame| class_of(frame) == class) {
                alike += 1;
                next = frames.next();
            }
            self.set_memory_pkey(first, alike, class.key())?;
        }
        Ok(())
    }

    /// First every page gets its alias, while all are still writable in the linear map, then stores take that way, then the linear
    /// map becomes read-only: the tables that are changed are among the pages they are changed for.
    fn enable_alias(&self) -> Result<(), Error> {
        self.for_each_recorded(|start, pages, reserve| {
            self.ground.map_alias(start, pages, reserve)
        })?;
        self.ptps().map_aliases(&self.ground)?;
        self.ground.store_through_alias();
        self.ground.set_protected();
        self.ptps().enable_protection(&self.ground)?;
        self.for_each_recorded(|start, pages, reserve| {
            self.ground.protect(start, pages, Class::Kernel, reserve)
        })
    }

    /// Refuses records of pages that the linear map does not map any more: protecting them would be a claim about nothing.
    fn refuse_holes_recorded(&self) -> Result<(), Error> {
        [self.ground.early(), self.ground.foreign()].iter().flat_map(EarlyPtps::iter).try_for_each(
            |(start, pages)| {
                self.ground.linear().mapped_range(self.machine(), start, pages).map(|_| ())
            },
        )
    }

    /// Passes recorded pages, those in the same 2 MiB together, with a reserve for them.
    fn for_each_recorded(
        &self,
        mut f: impl FnMut(PhysAddr, usize, &mut Reserve) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for record in [self.ground.early(), self.ground.foreign()] {
            for (start, pages) in record.iter() {
                let range = self.ground.linear().range(start, pages)?;
                for piece in range.by_table(Level::Pte) {
                    let start = start.offset(piece.start().0 - range.start().0);
                    match &self.pool {
                        None => f(start, piece.pages(), &mut Reserve::new()),
                        Some(pool) => pool
                            .with_reserve(&self.ground, |reserve| f(start, piece.pages(), reserve)),
                    }?;
                }
            }
        }
        Ok(())
    }

    /// Records page-table pages that this library did not allocate, such as static ones in the kernel image, for
    /// [`enable_protection`](Self::enable_protection) to key. They must be in the linear map, and are page-table pages for ever,
    /// whether or not they are linked into these tables: tables that CPUs start on stay worth attacking.
    ///
    /// # Errors
    ///
    /// [`Error::EarlyRecordFull`]: the pages would stay unprotected. [`Error::OutsideLinearMap`].
    pub fn record_early_ptps(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.record(start, pages, FrameType::Early)
    }

    /// Records pages that settled during the kernel's start, and are to be protected as page tables are from
    /// [`enable_protection`](Self::enable_protection) on.
    ///
    /// # Errors
    ///
    /// As [`record_early_ptps`](Self::record_early_ptps).
    pub fn record_settled(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        self.record(start, pages, FrameType::Guarded)
    }

    fn record(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        self.ground.linear().mapped_range(self.machine(), start, pages)?;
        if self.is_protected() {
            return Err(Error::TooLate(start));
        }
        self.ground.record_foreign(start, pages)?;
        self.say(start, pages, is)
    }

    /// Says what frames are that this library did not allocate, in modes that check: the kernel's code and constants, and what is no RAM. What
    /// is not said to be anything is data.
    ///
    /// # Errors
    ///
    /// [`Error::TooLate`] once protection is on, [`Error::Violation`] if they are something else than data already, [`Error::NotSaid`] for a type that only this library gives: a table's,
    /// or one that becomes a table.
    #[track_caller]
    pub fn type_frames(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        use FrameType::{Constants, KernelData, NotRam, Text};
        if !matches!(is, Text | Constants | KernelData | NotRam) {
            return Err(Error::NotSaid(is));
        }
        self.say(start, pages, is)
    }

    #[track_caller]
    fn say(&self, start: PhysAddr, pages: usize, is: FrameType) -> Result<(), Error> {
        if self.is_protected() {
            return Err(Error::TooLate(start));
        }
        // The kernel has mapped its image before it says what is where.
        self.building().retype(start, pages, FrameType::Mapped, is)
    }

    /// What every frame is, in modes that check.
    #[inline(always)]
    pub fn types(&self) -> Option<&Types<M::Format>> {
        self.machine().anchor().get()
    }

    /// Looks at every table to find out which data no entry maps any more, in modes that check: only such data can become a page table. This
    /// is done by itself when the pool meets data that may be mapped; a kernel that is idle can do it ahead.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if the machine cannot [wait for gates](Machine::wait_for_gates), or there were four million sweeps.
    pub fn sweep(&self) -> Result<(), Error> {
        self.types().map_or(Ok(()), |types| self.ground.section(Space::Linear).sweep(types))
    }

    /// Where it is kept whether protection is on. For attacks.
    pub fn protected_address(&self) -> *const u8 {
        self.ground.protected_address()
    }

    /// Whether page-table pages carry their key by now.
    pub fn is_protected(&self) -> bool {
        self.ground.is_protected()
    }
}

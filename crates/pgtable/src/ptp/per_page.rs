//! Page-table pages one by one: each is protected on its allocation and data again on its free, as in the Linux series.
//!
//! Each change is a store to the linear map's tables, one more to the alias's where there is one, and a TLB flush or two. The linear map must be made of pages: changing
//! the key of one page inside a block would mean splitting the block, which needs a page-table page first.
//!
//! A page is protected first and zeroed then, in a window of its own. The other way round, a store by another CPU between the zeroes and the
//! key would be an entry of the table once it is linked, with no key broken and no window open.

use super::{FlushedPtp, Ptp, PtpAllocator};
use crate::addr::{Level, PhysAddr};
use crate::error::Error;
use crate::ground::Ground;
use crate::guarded::{FrameType, Kind};
use crate::machine::{Event, Frames, Machine, Probe};
use crate::section::{Section, Space};

/// The allocator that asks the frame allocator for every page-table page.
#[derive(Debug, Default)]
pub struct PerPage;

impl<M: Machine, F: Frames> PtpAllocator<M, F> for PerPage {
    fn allocate(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error> {
        let frame = ground.frames().allocate(0).ok_or(Error::OutOfMemory)?;
        let class = ground.class_of(level, kind);
        // What is no data was never free: it is not given back.
        ground.make_spare(section, frame, 1, class)?;
        let protected = if ground.is_protected() {
            // An operation of its own, so the window of the one that needs the page is closed meanwhile.
            section.paused(|| ground.protect_page(frame, class))
        } else {
            ground.record_early(frame, 1)
        };
        if let Err(error) = protected {
            section.retype(frame, 1, class.spare(), FrameType::Data)?;
            // SAFETY: the frame was allocated above and never used.
            unsafe { ground.frames().release(frame, 0) };
            return Err(error);
        }
        // SAFETY: the frame is ours alone and linked nowhere; where protection is on no TLB has it writable any more.
        let ptp = unsafe { section.claim_empty(frame, level, kind) }?;
        ground.machine().probe().count(Event::PtpAllocated, 1);
        Ok(ptp)
    }

    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp) {
        let frame = ptp.into_frame();
        ground.machine().probe().count(Event::PtpFreed, 1);
        let spare = ground.class_of_frame(frame).spare();
        let retyped = ground.section(Space::Linear).retype(frame, 1, spare, FrameType::Data);
        let reset = retyped.and_then(|()| {
            if ground.is_protected() {
                ground.unprotect_page(frame)
            } else {
                ground.forget_early(frame)
            }
        });
        // A page that could not be made data again is never handed out as data, where every store would fault.
        if reset.is_ok() {
            // SAFETY: nothing refers to the page (the token's meaning), and it is not protected any more.
            unsafe { ground.frames().release(frame, 0) };
        }
    }

    fn map_aliases(&self, _ground: &Ground<M, F>) -> Result<(), Error> {
        // As for `enable_protection`.
        Ok(())
    }

    fn enable_protection(&self, _ground: &Ground<M, F>) -> Result<(), Error> {
        // Every page handed out is in the early record, which `Paging` sees to itself.
        Ok(())
    }

    fn for_each_keyed_spare(&self, _machine: &M, _f: &mut dyn FnMut(PhysAddr)) {}

    fn state_pages(&self, _machine: &M) -> usize {
        0
    }
}

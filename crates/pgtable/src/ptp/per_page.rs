//! Page-table pages one by one: the key is set on each allocation and reset on each free, as in the Linux series.
//!
//! Each key change is a store to the linear map's tables and a TLB flush. The linear map must be made of pages: changing
//! the key of one page inside a block would mean splitting the block, which needs a page-table page first.

use kpkeys::Pkey;

use super::{FlushedPtp, Ptp, PtpAllocator};
use crate::addr::PAGE_SIZE;
use crate::addr::PhysAddr;
use crate::error::Error;
use crate::ground::Ground;
use crate::linear::Reserve;
use crate::machine::{Event, Frames, Machine, Probe};
use crate::section::Section;

/// The allocator that asks the frame allocator for every page-table page.
#[derive(Debug, Default)]
pub struct PerPage;

impl<M: Machine, F: Frames> PtpAllocator<M, F> for PerPage {
    fn allocate(&self, ground: &Ground<M, F>, _section: &Section<'_, M>) -> Result<Ptp, Error> {
        let frame = ground.frames().allocate(0).ok_or(Error::OutOfMemory)?;
        let data = ground.machine().data(frame);
        // SAFETY: the frame is ours alone, carries no key yet, and its 4096 bytes are writable through this address.
        unsafe { data.write_bytes(0, PAGE_SIZE as usize) };
        let keyed = if ground.is_protected() {
            ground.set_key(frame, 1, Pkey::PAGE_TABLES, &mut Reserve::new())
        } else {
            ground.record_early(frame, 1)
        };
        if let Err(error) = keyed {
            // SAFETY: the frame was allocated above and never used.
            unsafe { ground.frames().release(frame, 0) };
            return Err(error);
        }
        ground.machine().probe().count(Event::PtpAllocated, 1);
        Ok(Ptp::new(frame))
    }

    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp) {
        let frame = ptp.into_frame();
        ground.machine().probe().count(Event::PtpFreed, 1);
        let reset = if ground.is_protected() {
            ground.set_key(frame, 1, Pkey::DEFAULT, &mut Reserve::new())
        } else {
            ground.forget_early(frame)
        };
        // A page whose key could not be reset is never handed out as data, where every store would fault.
        if reset.is_ok() {
            // SAFETY: nothing refers to the page (the token's meaning), and it carries no key any more.
            unsafe { ground.frames().release(frame, 0) };
        }
    }

    fn enable_protection(&self, _ground: &Ground<M, F>) -> Result<(), Error> {
        // Every page handed out is in the early record, which the ground keys itself.
        Ok(())
    }

    fn for_each_keyed_spare(&self, _f: &mut dyn FnMut(PhysAddr)) {}
}

//! What each CPU has for itself: addresses it hands out, and what waits there.
//!
//! It is behind a lock, which its own CPU takes without waiting: others come only to collect what waits, at a purge or when memory
//! is short. A thread may move to another CPU while it holds the lock of the first; it then uses that CPU's things for a moment more.

use alloc::boxed::Box;
use core::mem::take;

use kpkeys_pgtable::{Format, VirtAddr};
use spin::{Mutex, MutexGuard};

use super::addresses::FreeAddresses;
use super::deferred::Deferred;
use super::extent::{Extent, Link};
use super::lazy::Lazy;
use crate::error::Error;

/// The largest area, guard page included, whose addresses come from its CPU's chunk.
pub(super) const MAX_CHUNKED: usize = 16;
/// Pages of addresses that a CPU takes for small areas in one go, if there are as many in one place.
const CHUNK_PAGES: usize = 256;

/// One CPU's things, on cache lines of their own: two of 64 bytes, which CPUs fetch in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct PerCpu<E: Format> {
    own: Mutex<Own<E>>,
}

#[derive(Default)]
pub(super) struct Own<E: Format> {
    /// Addresses for small areas.
    chunk: Link<E>,
    /// The rest of the block that `vm_map_ram` hands out slots of.
    pub(super) block: Slots,
    /// Unmaps that wait for a window.
    pub(super) deferred: Deferred<E>,
    /// What waits for a flush.
    pub(super) lazy: Lazy<E>,
    /// An extent without addresses, so that the commonest loops need no heap.
    spare: Link<E>,
}

/// Slots that were not handed out yet.
pub(super) struct Slots {
    pub(super) next: VirtAddr,
    pub(super) left: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Slots { next: VirtAddr(0), left: 0 }
    }
}

impl<E: Format> PerCpu<E> {
    #[inline(always)]
    pub(super) fn lock(&self) -> MutexGuard<'_, Own<E>> {
        self.own.lock()
    }
}

impl<E: Format> Own<E> {
    /// Addresses for a small area: from the chunk, or from `free`, which the chunk is filled from. `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub(super) fn take_small(
        &mut self,
        pages: usize,
        free: &Mutex<FreeAddresses<E>>,
    ) -> Result<Option<Box<Extent<E>>>, Error> {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.pages < pages)
            && !self.fill_chunk(pages, free)?
        {
            return Ok(None);
        }
        match self.chunk.take() {
            Some(mut chunk) if chunk.pages > pages => {
                let area = self.take_spare();
                let area = area.map(|mut area| {
                    chunk.split_off_first(pages, &mut area);
                    area
                });
                self.chunk = Some(chunk);
                area.map(Some)
            }
            all_of_it => Ok(all_of_it),
        }
    }

    /// An extent without addresses.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    #[inline]
    pub(super) fn take_spare(&mut self) -> Result<Box<Extent<E>>, Error> {
        self.spare.take().map_or_else(Extent::new, Ok)
    }

    /// Keeps an extent whose addresses are another's now.
    #[inline]
    pub(super) fn keep_spare(&mut self, extent: Box<Extent<E>>) {
        self.spare.get_or_insert(extent);
    }

    /// Gives up the chunk, whose addresses were never mapped since they were free.
    pub(super) fn give_up_chunk(&mut self) -> Link<E> {
        take(&mut self.chunk)
    }

    /// Changes a chunk that is too small for one from the lowest free range that is not; false if there is none.
    #[cold]
    fn fill_chunk(&mut self, pages: usize, free: &Mutex<FreeAddresses<E>>) -> Result<bool, Error> {
        let node = self.take_spare()?;
        let mut free = free.lock();
        if let Some(rest) = self.give_up_chunk() {
            free.put(rest);
        }
        match free.take(pages, CHUNK_PAGES, node) {
            Ok(chunk) => self.chunk = Some(chunk),
            Err(node) => self.keep_spare(node),
        }
        Ok(self.chunk.is_some())
    }
}

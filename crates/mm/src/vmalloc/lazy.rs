//! What TLBs may still hold: unmapped addresses, and the frames that were mapped there, wait on the CPU that unmapped them for one flush
//! of them all.

use alloc::boxed::Box;
use core::mem::take;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::{Flush, Format, Machine, PageRange, VirtAddr};
use spin::{Mutex, MutexGuard};

use super::cpu::Own;
use super::extent::{Extent, Extents};
use super::held::HeldPages;
use crate::error::Error;
use crate::frames::WaitingFrames;
use crate::kernel::Kernel;

/// Pages that wait unflushed before a purge, for each doubling of the number of CPUs: 32 MiB.
const LAZY_PAGES: usize = 8192;
/// Pages that may wait on a CPU before it tells the others, so that they do not share a cache line for every unmap.
const UNREPORTED_PAGES: usize = 64;
/// What part of all frames may wait, on all CPUs together, before a purge.
const FRAMES_PART: usize = 8;

/// What waits on a CPU. Neighbours become one, so that a loop of small areas needs one extent.
#[derive(Default)]
pub(super) struct Lazy<E: Format> {
    ranges: Extents<E>,
    /// The frames of areas in `ranges`, never in another CPU's.
    frames: WaitingFrames,
    /// Those that the purge which is going on flushes.
    flushed: WaitingFrames,
    /// Pages of `vm_map_ram`, here no later than their addresses are in anybody's `ranges`.
    held: HeldPages,
    reported: usize,
    unreported: usize,
}

/// How much waits, and how much may.
pub(super) struct Waiting {
    /// Pages of addresses that wait on all CPUs together.
    pages: AtomicUsize,
    /// Above this there is a purge.
    max: usize,
    /// A CPU reports what waits there when it is more than this.
    unreported: usize,
    /// Above as many frames on one CPU there is a purge.
    max_frames: usize,
    /// Taken for a purge: [pages that are held](super::held) are found by their addresses, so no other purge may free these meanwhile.
    purging: Mutex<()>,
}

impl Waiting {
    pub(super) fn new(cpus: usize, memory: usize) -> Self {
        Waiting {
            pages: AtomicUsize::new(0),
            max: (cpus.ilog2() as usize + 1) * LAZY_PAGES,
            unreported: if cpus == 1 { 0 } else { UNREPORTED_PAGES },
            max_frames: memory / FRAMES_PART / cpus,
            purging: Mutex::new(()),
        }
    }
}

impl<E: Format> Own<E> {
    /// Adds addresses to those that wait.
    #[inline]
    fn push_lazy(&mut self, range: Box<Extent<E>>) {
        self.lazy.unreported += range.pages;
        let joined = self.lazy.ranges.last_pushed().is_some_and(|last| last.join(&range));
        if joined { self.keep_spare(range) } else { self.lazy.ranges.push(range) }
    }
}

impl<E: Format> Lazy<E> {
    fn frames(&self) -> usize {
        self.frames.len() + self.held.len()
    }
}

impl<M: Machine> Kernel<M> {
    /// Addresses whose entries are cleared, and the frames that were mapped there: they are free after the next purge.
    #[inline]
    pub(super) fn free_lazily(&self, mut ranges: Extents<M::Format>, frames: WaitingFrames) {
        let waiting = &self.areas().waiting;
        let mut own = self.own();
        self.frames().wait_too(&mut own.lazy.frames, frames);
        while let Some(range) = ranges.pop() {
            own.push_lazy(range);
        }
        let mut purges = own.lazy.frames() > waiting.max_frames;
        if own.lazy.unreported > waiting.unreported {
            let more = take(&mut own.lazy.unreported);
            own.lazy.reported += more;
            drop(own);
            purges |= waiting.pages.fetch_add(more, Relaxed) + more > waiting.max;
        } else {
            drop(own);
        }
        self.purge_if(purges);
    }

    /// Pages whose entries are cleared: their frames are held until the next purge.
    #[inline]
    pub(super) fn let_go_lazily(&self, pages: HeldPages) {
        let purges = {
            let mut own = self.own();
            self.areas().owners.hold_too(&mut own.lazy.held, pages);
            own.lazy.frames() > self.areas().waiting.max_frames
        };
        self.purge_if(purges);
    }

    /// Flushes every unmapped range from all TLBs at once, and only then frees its addresses, and the frames that were mapped there.
    pub fn purge_vmalloc(&self) {
        self.purge(self.areas().waiting.purging.lock());
    }

    /// What `request` returns, asked again after a purge if memory is out: frames that wait for a flush are none to fail for.
    ///
    /// # Errors
    ///
    /// Those of `request`. If memory is still out, all that waited is free.
    #[inline(always)]
    pub(crate) fn purging_if_short<T>(
        &self,
        mut request: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match request() {
            Err(Error::OutOfMemory) => self.purge_and_retry(request),
            result => result,
        }
    }

    #[cold]
    fn purge_and_retry<T>(
        &self,
        mut request: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.purge_vmalloc();
        let result = request();
        if result.is_err() {
            self.purge_vmalloc();
        }
        result
    }

    /// Purges, unless somebody does already, who may be the caller.
    #[inline(always)]
    fn purge_if(&self, purges: bool) {
        if purges && let Some(purging) = self.areas().waiting.purging.try_lock() {
            self.purge(purging);
        }
    }

    #[cold]
    fn purge(&self, _purging: MutexGuard<'_, ()>) {
        self.clear_all_deferred();
        let mut ranges = self.take_lazy();
        // Taken after the ranges, so that no page of theirs is still held when they are free.
        let mut held = self.take_held();
        let ends =
            ranges.iter().map(|range| (range.start, range.end())).chain(held.span::<M::Format>());
        let span = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let Some((first, end)) = span else { return };
        if let Ok(span) =
            PageRange::new(VirtAddr(first), ((end - first) / M::Format::PAGE_SIZE) as usize)
        {
            self.paging().flush(Flush::Kernel(span));
        }
        let frames = self.frames();
        for (number, cpu) in self.areas().cpus.iter().enumerate() {
            // To the CPU they are from, so that none has to fetch what another one hoards.
            let mut flushed = take(&mut cpu.lock().lazy.flushed);
            frames.free_waiting(number, &mut flushed);
        }
        self.areas().owners.let_go(&mut held, |frame| frames.let_go(frames.address(frame)));
        let mut addresses = self.areas().addresses.lock();
        while let Some(range) = ranges.pop() {
            addresses.put(range);
        }
    }

    /// Takes the ranges that wait on every CPU, and sets their frames aside there.
    fn take_lazy(&self) -> Extents<M::Format> {
        let mut ranges = Extents::default();
        for cpu in &self.areas().cpus {
            let (mut taken, reported) = {
                let lazy = &mut cpu.lock().lazy;
                lazy.unreported = 0;
                let frames = take(&mut lazy.frames);
                self.frames().wait_too(&mut lazy.flushed, frames);
                (take(&mut lazy.ranges), take(&mut lazy.reported))
            };
            self.areas().waiting.pages.fetch_sub(reported, Relaxed);
            while let Some(range) = taken.pop() {
                ranges.push(range);
            }
        }
        ranges
    }

    /// Takes the pages that are held on every CPU.
    fn take_held(&self) -> HeldPages {
        let mut held = HeldPages::default();
        for cpu in &self.areas().cpus {
            self.areas().owners.hold_too(&mut held, take(&mut cpu.lock().lazy.held));
        }
        held
    }
}

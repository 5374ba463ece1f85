//! Frames that are no longer mapped but that TLBs may still lead to: they wait for a flush, linked through their metadata.
//!
//! A frame that waits is not out any more, so whoever gives it back a second time meanwhile is refused.

use core::mem::take;
use core::sync::atomic::Ordering::Relaxed;

use kpkeys_pgtable::Format;

use super::buddy::Buddy;
use super::cpu_list::Chain;
use super::free_lists::NONE;
use super::word::Kind;

/// Single frames that wait, the last added first. Dropped, they are lost: only [`Buddy::free_waiting`] knows that they were flushed.
#[derive(Debug)]
pub(crate) struct WaitingFrames {
    first: u32,
    last: u32,
    len: usize,
    /// The lowest of them, which tells whether all are of the kernel's zone.
    lowest: u32,
}

impl Default for WaitingFrames {
    fn default() -> Self {
        WaitingFrames { first: NONE, last: NONE, len: 0, lowest: NONE }
    }
}

impl WaitingFrames {
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<E: Format> Buddy<E> {
    /// Adds a single frame that was handed out. One that is not out is [refused](Self::refused).
    #[inline]
    pub(crate) fn wait(&self, frames: &mut WaitingFrames, frame: u32) {
        if !self.is_out(frame, 0) {
            return self.refuse();
        }
        let meta = self.meta(frame);
        meta.word.become_kind(Kind::Listed);
        meta.link.store(frames.first, Relaxed);
        if frames.len == 0 {
            frames.last = frame;
        }
        frames.first = frame;
        frames.lowest = frames.lowest.min(frame);
        frames.len += 1;
    }

    /// Adds `more`, whatever their number, in one step.
    #[inline]
    pub(crate) fn wait_too(&self, frames: &mut WaitingFrames, more: WaitingFrames) {
        if more.len == 0 {
            return;
        }
        if frames.len == 0 {
            *frames = more;
            return;
        }
        self.meta(more.last).link.store(frames.first, Relaxed);
        frames.first = more.first;
        frames.lowest = frames.lowest.min(more.lowest);
        frames.len += more.len;
    }

    /// Frees frames, which no TLB leads to any more, for the CPU with this number to use again.
    pub(crate) fn free_waiting(&self, cpu: usize, frames: &mut WaitingFrames) {
        let WaitingFrames { first, last, len, lowest } = take(frames);
        if len > 0 && lowest >= self.boundary {
            // As they are: a list of free frames is linked the same way.
            return self.kernel.put_chain(&self.table, cpu, Chain { first, last, len });
        }
        let mut frame = first;
        for _ in 0..len {
            let meta = self.meta(frame);
            let next = meta.link.load(Relaxed);
            meta.word.become_kind(Kind::Block(0));
            self.put(frame, 0);
            frame = next;
        }
    }
}

//! Words of the kernel's that change while it runs, and that nothing but a window changes: they lie with what has settled.
//!
//! Where windows are not gates (`unbatched`, `batched`, `fused-lean`) nothing is promised of ordinary memory, and such words lie in it: a
//! window for each of them would be a cost that the Linux series does not have. [`Place`] is both.

use super::{has_gates, in_window, interrupted};
use crate::arch::layout;
use crate::memory::paging;
use crate::start::image;
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys_pgtable::guarded::Types;

/// A value that is kept twice: where windows alone write it, and in ordinary memory. The mode says which one is meant.
pub struct Place<T: 'static> {
    /// In `.settled`.
    pub guarded: &'static T,
    /// Anywhere else.
    pub ordinary: &'static T,
}

impl<T> Place<T> {
    /// The one that is meant.
    #[inline(always)]
    pub fn get(&self) -> &'static T {
        if has_gates() { self.guarded } else { self.ordinary }
    }
}

/// Stores words of a [`Place`], in this order, each visible with what was stored before it. Where windows are gates, in one.
#[inline]
pub fn store<const N: usize>(words: [(&'static AtomicU64, u64); N]) {
    if !has_gates() {
        words.into_iter().for_each(|(word, value)| word.store(value, Ordering::Release));
        return;
    }
    in_window(|| {
        for (word, value) in words {
            // SAFETY: the word lives for ever, and this is where it can be written while a window is open.
            unsafe { &*writable(word) }.store(value, Ordering::Release);
        }
    });
}

/// Where a word that has settled can be written in a window.
fn writable(word: &'static AtomicU64) -> *const AtomicU64 {
    let word = core::ptr::from_ref(word).cast_mut();
    if paging::types().is_some_and(Types::through_alias) {
        return interrupted::alias_of_settled(word);
    }
    layout::linear(image::phys(word as u64)).cast()
}

//! The backend of a machine without any: every context is entered at no cost, and nothing is enforced.

use crate::backend::{Backend, Saved};
use crate::context::Context;

/// No protection. Guards compile to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null(());

impl Null {
    /// The backend that does nothing.
    pub const fn new() -> Self {
        Null(())
    }
}

// SAFETY: claims no enforcement and touches no state.
unsafe impl Backend for Null {
    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        false
    }

    #[inline(always)]
    fn has_register(&self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn enter<C: Context>(&self) {
        // The map is checked even where nothing enforces it, so that a bad context fails on every machine.
        let _checked = const { crate::encoding::Update::of::<crate::encoding::Pkrs, C>() };
    }

    #[inline(always)]
    unsafe fn enter_before_barrier<C: Context>(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.enter::<C>() };
    }

    #[inline(always)]
    fn is_in<C: Context>(&self) -> bool {
        true
    }

    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        Saved(0)
    }

    #[inline(always)]
    unsafe fn exception_return(&self, _saved: Saved) {}

    #[inline(always)]
    unsafe fn thread_switch(&self, previous: &mut Saved, _next: &mut Saved) {
        *previous = Saved(0);
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        Saved(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Default, PageTables};

    #[test]
    fn nothing_is_written_and_every_context_is_the_one_it_is_in() {
        let null = Null::new();
        assert!(!null.has_register() && !null.write_needs_barrier());
        assert!(null.is_in::<Default>() && null.is_in::<PageTables>());
    }
}

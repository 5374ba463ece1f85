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
    type Entered = ();

    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        false
    }

    #[inline(always)]
    fn enter<C: Context>(&self) {
        // The map is checked even where nothing enforces it, so that a bad context fails on every machine.
        let _checked = const { crate::encoding::Update::of::<crate::encoding::Pkrs, C>() };
    }

    #[inline(always)]
    fn leave(&self, (): ()) {}

    #[inline(always)]
    fn leave_before_barrier(&self, (): ()) {}

    #[inline(always)]
    fn switched((): ()) -> bool {
        false
    }

    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        Saved(0)
    }

    #[inline(always)]
    fn exception_return(&self, _saved: Saved) {}

    #[inline(always)]
    fn thread_switch(&self, previous: &mut Saved, _next: &Saved) {
        *previous = Saved(0);
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        Saved(0)
    }
}

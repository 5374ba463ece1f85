//! Guards, and the window they prove.

use core::marker::PhantomData;

use crate::backend::Backend;
use crate::context::{Context, PageTables};

/// The time this CPU spends in context `C`. Dropping it goes back to the context before.
///
/// A guard belongs to the CPU that made it: it is neither `Send` nor `Sync`, so it cannot be kept in a `static`
/// either. Guards nest and are dropped in reverse order, as scopes make them.
///
/// Two misuses types cannot stop. A guard leaked with `mem::forget` leaves the CPU in `C` until the next exception
/// resets the register for its handler. Guards of *different* contexts dropped out of order leave the CPU in the
/// context that the last one dropped was entered from; of the same context, they close early.
#[must_use = "the context is left as soon as the guard is dropped"]
pub struct Guard<'b, B: Backend, C: Context> {
    backend: &'b B,
    entered: B::Entered,
    context: PhantomData<(C, *mut ())>,
}

impl<'b, B: Backend, C: Context> Guard<'b, B, C> {
    /// Enters context `C` on this CPU.
    #[inline(always)]
    pub fn enter(backend: &'b B) -> Self {
        Guard { backend, entered: backend.enter::<C>(), context: PhantomData }
    }

    /// Whether entering wrote the register: false for a guard nested in one of the same context.
    #[inline(always)]
    pub fn switched(&self) -> bool {
        B::switched(self.entered)
    }

    /// Leaves with the help of a barrier that is due anyway: the register is written, then `barrier` runs and
    /// makes it effective. Nothing is written between the two, so the window ends as early as with its own
    /// barrier.
    ///
    /// `barrier` must synchronise the context of this CPU (arm64: contain an ISB).
    #[inline(always)]
    pub fn leave_with(self, barrier: impl FnOnce()) {
        let (backend, entered) = (self.backend, self.entered);
        core::mem::forget(self);
        backend.leave_before_barrier(entered);
        barrier();
    }
}

impl<B: Backend> Guard<'_, B, PageTables> {
    /// The proof that page tables may be written while this guard lives.
    #[inline(always)]
    pub fn window(&self) -> Window<'_> {
        Window { guard: PhantomData }
    }
}

impl<B: Backend, C: Context> Drop for Guard<'_, B, C> {
    #[inline(always)]
    fn drop(&mut self) {
        self.backend.leave(self.entered);
    }
}

/// The proof that page tables may be written, on this CPU, now.
///
/// It has no size and no data: it exists so that a page-table store outside a window does not compile. It cannot
/// outlive the guard it came from or move to another thread.
#[derive(Clone, Copy, Debug)]
pub struct Window<'g> {
    guard: PhantomData<(&'g (), *mut ())>,
}

impl Window<'_> {
    /// A window where there is no guard to ask: page tables are not protected at all, or a guard of this CPU is
    /// known to be open.
    ///
    /// # Safety
    ///
    /// For as long as the returned value is used, stores to page tables by this CPU must be allowed: because the
    /// tables carry no key (protection is off), or because a [`Guard`] for [`PageTables`] lives on this CPU.
    #[inline(always)]
    pub const unsafe fn assume_open() -> Self {
        Window { guard: PhantomData }
    }
}

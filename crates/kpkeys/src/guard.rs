//! Guards, and the window they prove.

use core::marker::PhantomData;

use crate::backend::Backend;
use crate::context::{Context, Default, PageTables, UserTables};

/// The time this CPU spends in context `C`. Dropping it enters context `Outside`: [`struct@Default`], unless the guard was made
/// [within](Self::within) another.
///
/// Both contexts are types, so what is written at the end is a constant of the code. A guard keeps no value that could be changed meanwhile.
///
/// A guard belongs to the CPU that made it: it is neither `Send` nor `Sync`, so it cannot be kept in a `static`
/// either. A guard leaked with `mem::forget` leaves the CPU in `C` until the next exception resets the register for its handler.
#[must_use = "the context is left as soon as the guard is dropped"]
pub struct Guard<'b, B: Backend, C: Context, Outside: Context = Default> {
    backend: &'b B,
    contexts: PhantomData<(C, Outside, *mut ())>,
}

impl<'b, B: Backend, C: Context> Guard<'b, B, C> {
    /// Enters context `C` on this CPU, which is in [`struct@Default`].
    ///
    /// # Safety
    ///
    /// - No other guard lives on this CPU, but for one that an exception has interrupted, whose handler this is: it would end with this one.
    /// - While the guard lives, the CPU executes only what is meant to have the access of `C`. For [`PageTables`] that is stores to
    ///   tables of the machine whose backend this is, by the protocol of whoever keeps them: a [`Window`] is not told from one of another machine, or of a
    ///   backend that protects nothing.
    /// - If the kernel's windows are [gates](Backend#gates), interrupts stay off while the guard lives.
    #[inline(always)]
    pub unsafe fn enter(backend: &'b B) -> Self {
        debug_assert!(backend.is_in::<Default>(), "a guard within a guard is made with `within`");
        // SAFETY: the caller's promise.
        unsafe { backend.enter::<C>() };
        Guard { backend, contexts: PhantomData }
    }
}

impl<'b, B: Backend, C: Context, Outside: Context> Guard<'b, B, C, Outside> {
    /// Enters another context for a while, and goes back to `C` when the returned guard is dropped. This one cannot be used meanwhile.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Guard::enter), of context `Inner`.
    #[inline(always)]
    pub unsafe fn within<Inner: Context>(&mut self) -> Guard<'_, B, Inner, C> {
        // SAFETY: the caller's promise.
        unsafe { self.backend.enter::<Inner>() };
        Guard { backend: self.backend, contexts: PhantomData }
    }

    /// Leaves with the help of a barrier that is due anyway: the register is written, then `barrier` runs and
    /// makes it effective. Nothing is written between the two, so the window ends as early as with its own
    /// barrier.
    ///
    /// `barrier` must synchronise the context of this CPU (arm64: contain an ISB).
    #[inline(always)]
    pub fn leave_with(self, barrier: impl FnOnce()) {
        let backend = self.backend;
        core::mem::forget(self);
        // SAFETY: whoever made this guard was in `Outside` and goes on there.
        unsafe { backend.enter_before_barrier::<Outside>() };
        barrier();
    }
}

impl<B: Backend, Outside: Context> Guard<'_, B, PageTables, Outside> {
    /// The proof that page tables may be written while this guard lives.
    #[inline(always)]
    pub fn window(&self) -> Window<'_> {
        Window { guard: PhantomData }
    }
}

impl<'b, B: Backend> Guard<'b, B, UserTables> {
    /// [`enter`](Guard::enter)s the context in which tables of address spaces may be written.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Guard::enter).
    #[inline(always)]
    pub unsafe fn enter_user_tables(backend: &'b B) -> Self {
        debug_assert!(backend.is_in::<Default>(), "a guard within a guard is made with `within`");
        // SAFETY: the caller's promise.
        unsafe { backend.enter_user_tables() };
        Guard { backend, contexts: PhantomData }
    }

    /// The proof that tables of address spaces may be written while this guard lives.
    #[inline(always)]
    pub fn window(&self) -> Window<'_> {
        Window { guard: PhantomData }
    }

    /// Goes on in the context of page tables, by one write of the register: what this one opened is closed.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Guard::enter).
    #[inline(always)]
    pub unsafe fn go_on_with_page_tables(self) -> Guard<'b, B, PageTables> {
        let backend = self.backend;
        core::mem::forget(self);
        // SAFETY: the caller's promise.
        unsafe { backend.enter::<PageTables>() };
        Guard { backend, contexts: PhantomData }
    }
}

impl<'b, B: Backend> Guard<'b, B, PageTables> {
    /// The same guard, for whoever stores to tables that its context opens: those of address spaces among them, where they have no key of their own. Nothing
    /// is written.
    #[inline(always)]
    pub fn for_any_tables(self) -> Guard<'b, B, UserTables> {
        let backend = self.backend;
        core::mem::forget(self);
        Guard { backend, contexts: PhantomData }
    }

    /// Goes on in the context of the tables of address spaces, by one write of the register: what this one opened is closed.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Guard::enter).
    #[inline(always)]
    pub unsafe fn go_on_with_user_tables(self) -> Guard<'b, B, UserTables> {
        let backend = self.backend;
        core::mem::forget(self);
        // SAFETY: the caller's promise.
        unsafe { backend.enter_user_tables() };
        Guard { backend, contexts: PhantomData }
    }
}

impl<B: Backend, C: Context, Outside: Context> Drop for Guard<'_, B, C, Outside> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: whoever made this guard was in `Outside` and goes on there.
        unsafe { self.backend.enter::<Outside>() };
    }
}

/// The proof that page tables may be written, on this CPU, now: those that its guard opened.
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

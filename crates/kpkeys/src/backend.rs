//! The contract between the code that needs a context and the CPU feature that provides it.

use crate::context::{Context, PageTables};

/// A protection state kept outside the CPU: in an exception frame or in a suspended thread.
///
/// It is opaque: it can be stored and handed back once, not copied or made from a number. Where it is kept is ordinary memory, which an
/// attacker can write: a kernel whose windows are [gates](Backend#gates) restores none.
#[derive(PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Saved(pub(crate) u64);

impl Saved {
    /// The value, leaving a closed one of this backend in its place.
    #[inline(always)]
    pub fn take<B: Backend>(&mut self, backend: &B) -> Saved {
        core::mem::replace(self, backend.initial())
    }
}

/// What makes a page-table page one that a backend protects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// The leaf that maps it in the linear map carries [`Pkey::PAGE_TABLES`](crate::Pkey::PAGE_TABLES), and is writable in windows.
    Keys,
    /// The leaf that maps it in the linear map is read-only, always. A second mapping of it, its *alias*, can be written in
    /// windows, and not even be read outside of them.
    Alias,
}

/// One way to tell a CPU which context it is in.
///
/// A backend is per CPU in what it does and shared in what it is: `&self` may be used from every CPU that has
/// initialised it, and acts on the CPU that calls.
///
/// # Constants
///
/// What entering a context writes is decided by its type, when the code is compiled, and so is what leaving one writes: it enters the
/// context outside. No value is kept meanwhile that somebody could change. (Keys that contexts do not manage keep what the register
/// itself says of them.)
///
/// # Gates
///
/// A window during which interrupts are off, and which no thread switch falls into, is a *gate*. Where all windows are gates, an
/// exception need not put an open state back from ordinary memory: it closes by [`enter`](Self::enter)`::<Default>()`, and what
/// cannot be masked is resumed from memory that is itself protected. [`exception_entry`](Self::exception_entry),
/// [`exception_return`](Self::exception_return) and [`thread_switch`](Self::thread_switch) are for windows that may be interrupted.
///
/// # Safety
///
/// The implementor promises:
///
/// - *enforcement*: after [`enter`](Self::enter)`::<C>()` returns, data accesses of this CPU to pages that carry a
///   managed key (or, by [`Scheme::Alias`], to aliases of page-table pages) follow `C::ACCESS`, as far as the backend claims to
///   enforce (a mock claims nothing);
/// - *scope*: only the calling CPU's state changes, and keys the context does not manage keep theirs;
/// - *constants*: what entering makes of managed keys depends on the context alone;
/// - *no gadget*: methods that write the register are always inlined.
pub unsafe trait Backend {
    /// Whether a register write takes effect only after a barrier (arm64: ISB, for a system register). For counting; entering issues
    /// it itself.
    fn write_needs_barrier(&self) -> bool;

    /// Whether there is a register that entering writes. For counting.
    #[inline(always)]
    fn has_register(&self) -> bool {
        true
    }

    /// Whether a window costs no more than a handful of ordinary instructions: then it is not worth a lock to save one.
    #[inline(always)]
    fn windows_are_cheap(&self) -> bool {
        false
    }

    /// Whether page-table pages get their key at all. What windows cost alone is measured by a backend that says no, which protects nothing;
    /// every other keeps the default.
    #[inline(always)]
    fn sets_keys(&self) -> bool {
        true
    }

    /// What a page-table page must be like for this backend to protect it. The same for as long as the backend is used.
    #[inline(always)]
    fn scheme(&self) -> Scheme {
        Scheme::Keys
    }

    /// By [`Scheme::Alias`], whether the alias has a root of its own, which windows load: then it lies in the half of the address space that programs
    /// have otherwise. The same for as long as the backend is used.
    #[inline(always)]
    fn has_window_root(&self) -> bool {
        false
    }

    /// Whether the tables of address spaces have a key of their own, [`Pkey::USER_TABLES`](crate::Pkey::USER_TABLES): then windows for them open that one alone. For backends
    /// that have keys to spare; the same for as long as the backend is used. See [`keyed::Separate`](crate::keyed::Separate).
    #[inline(always)]
    fn separates_user_tables(&self) -> bool {
        false
    }

    /// Enters the context in which tables of address spaces may be written: [`UserTables`](crate::context::UserTables) where these have a key of their own, and elsewhere that of all
    /// page tables. It is apart from [`enter`](Self::enter), since a backend of one flag has no such context: that would not compile.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Self::enter).
    #[inline(always)]
    unsafe fn enter_user_tables(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.enter::<PageTables>() };
    }

    /// Enters context `C`, in force when this returns.
    ///
    /// # Safety
    ///
    /// Until another context is entered, this CPU executes only what is meant to have the access of `C`; as for [`Guard`](crate::Guard).
    unsafe fn enter<C: Context>(&self);

    /// Enters context `C`, in force only after the next context synchronisation, which the caller issues: the barrier of a page-table
    /// update that follows anyway.
    ///
    /// # Safety
    ///
    /// As for [`enter`](Self::enter).
    unsafe fn enter_before_barrier<C: Context>(&self);

    /// Whether this CPU is in context `C` now. The register is asked, not memory. True where there is no register.
    fn is_in<C: Context>(&self) -> bool;

    /// First thing on an exception taken from kernel mode: returns the interrupted state and resets to
    /// [`context::Default`](crate::context::Default), so that the handler starts protected.
    fn exception_entry(&self) -> Saved;

    /// Last thing before returning to kernel mode: puts the interrupted state back. The exception return
    /// itself synchronises.
    ///
    /// # Safety
    ///
    /// `saved` must be what [`exception_entry`](Self::exception_entry) of this backend returned for the exception that is returned from.
    unsafe fn exception_return(&self, saved: Saved);

    /// Carries the state across a thread switch: `previous` receives the current one, and that of `next`, which is left closed, becomes
    /// current. The register is written only if the two differ.
    ///
    /// # Safety
    ///
    /// What runs next must be the thread whose state `next` is: from [`initial`](Self::initial), or stored here when it was switched
    /// away from.
    unsafe fn thread_switch(&self, previous: &mut Saved, next: &mut Saved);

    /// The state a new thread starts with: [`context::Default`](crate::context::Default).
    fn initial(&self) -> Saved;
}

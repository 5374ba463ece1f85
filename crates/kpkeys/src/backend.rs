//! The contract between the code that needs a context and the CPU feature that provides it.

use crate::context::Context;

/// A protection state kept outside the CPU: in an exception frame or in a suspended thread.
///
/// It is opaque: it can be stored and handed back, not made from a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Saved(pub(crate) u64);

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
/// # Safety
///
/// The implementor promises:
///
/// - *enforcement*: after [`enter`](Self::enter)`::<C>()` returns, data accesses of this CPU to pages that carry a
///   managed key (or, by [`Scheme::Alias`], to aliases of page-table pages) follow `C::ACCESS`, as far as the backend claims to
///   enforce (a mock claims nothing);
/// - *scope*: only the calling CPU's state changes, and keys the context does not manage keep theirs;
/// - *decision by state*: what [`leave`](Self::leave) does depends only on the value `enter` returned;
/// - *no gadget*: methods that write the register are always inlined.
pub unsafe trait Backend {
    /// What entering changed, to be handed to [`leave`](Self::leave).
    type Entered: Copy;

    /// Whether a register write takes effect only after a barrier (arm64: ISB, for a system register). For counting; entering and leaving issue
    /// it themselves.
    fn write_needs_barrier(&self) -> bool;

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

    /// Enters context `C`. Writes nothing, and issues no barrier, if the CPU is already in it.
    fn enter<C: Context>(&self) -> Self::Entered;

    /// Goes back to the state that `entered` recorded, in force when this returns.
    fn leave(&self, entered: Self::Entered);

    /// Goes back to the state that `entered` recorded, in force only after the next context synchronisation,
    /// which the caller issues: the barrier of a page-table update that follows anyway.
    fn leave_before_barrier(&self, entered: Self::Entered);

    /// Whether entering wrote the register (so that leaving will).
    fn switched(entered: Self::Entered) -> bool;

    /// First thing on an exception taken from kernel mode: returns the interrupted state and resets to
    /// [`context::Default`](crate::context::Default), so that the handler starts protected.
    fn exception_entry(&self) -> Saved;

    /// Last thing before returning to kernel mode: puts the interrupted state back. The exception return
    /// itself synchronises.
    fn exception_return(&self, saved: Saved);

    /// Carries the state across a thread switch: `previous` receives the current one, `next` becomes current.
    /// The register is written only if the two differ.
    fn thread_switch(&self, previous: &mut Saved, next: &Saved);

    /// The state a new thread starts with: [`context::Default`](crate::context::Default).
    fn initial(&self) -> Saved;
}

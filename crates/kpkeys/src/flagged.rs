//! Backends of one flag: page tables behind an alias that a bit of the CPU closes.
//!
//! Page-table pages are read-only in the linear map, and have a second mapping in the kernel's half, the *alias*, with the permissions of
//! user data ([`Scheme::Alias`]). One bit of the CPU's state keeps the kernel out of it: [`pan`](crate::pan) and [`smap`](crate::smap).
//! Or the alias is translated in windows alone, and the bit says whether it is: [`ttbr0`](crate::ttbr0).
//!
//! There is one class of protected pages, not one per key: the only contexts such a backend can enter are those that say of every
//! key but [`Pkey::PAGE_TABLES`] what [`context::Default`](struct@crate::context::Default) says. Another one does not compile. And whoever
//! opens the flag for a purpose of their own opens page tables.

use core::marker::PhantomData;

use crate::backend::{Backend, Saved, Scheme};
use crate::context::Context;
use crate::key::{Access, AccessMap, Pkey};
use crate::keyed::{Register, Value};

/// Which bit it is, and which way around.
pub trait Bit: Copy {
    /// The bit in what the register's read returns, and in what an exception saves.
    const MASK: u64;
    /// The bit's value in windows: 0 or [`MASK`](Self::MASK).
    const OPEN: u64;
    /// Its value outside of them: the other one.
    const CLOSED: u64 = Self::MASK & !Self::OPEN;
    /// Whether exceptions save the bit, their entry has it closed, and their return restores it, without this backend.
    const KEPT_BY_EXCEPTIONS: bool = true;
    /// Whether it says which root is loaded; see [`Backend::has_window_root`].
    const HAS_WINDOW_ROOT: bool = false;
}

/// The backend of a flag.
///
/// The register is a parameter for tests and models on other hosts: its values are [`Bit::OPEN`] and [`Bit::CLOSED`].
#[derive(Clone, Copy, Debug)]
pub struct Flagged<R, B> {
    flag: R,
    bit: PhantomData<B>,
}

/// Whether a context opens page tables.
///
/// # Panics
///
/// If it says anything that one flag cannot say. Used in constants, that is a compile error.
const fn opens<C: Context>() -> bool {
    let mut number = 0;
    while let Some(key) = Pkey::new(number) {
        if number != Pkey::PAGE_TABLES.number() {
            let same = match (C::ACCESS.get(key), AccessMap::PROTECTED.get(key)) {
                (Some(found), Some(default)) => found as u8 == default as u8,
                (None, None) => true,
                _ => false,
            };
            assert!(same, "a flag protects page tables alone: a context cannot change another key");
        }
        number += 1;
    }
    match C::ACCESS.get(Pkey::PAGE_TABLES) {
        Some(Access::ReadWrite) => true,
        Some(Access::ReadOnly) => false,
        _ => {
            panic!("a flag cannot take away reading page tables: the linear map has them read-only")
        }
    }
}

/// What the flag is in a context.
const fn flag_of<C: Context, B: Bit>() -> u64 {
    if opens::<C>() { B::OPEN } else { B::CLOSED }
}

impl<R: Register, B: Bit> Flagged<R, B> {
    /// The backend of a flag that is ready: verified on every CPU that will use it.
    pub const fn new(flag: R) -> Self {
        Flagged { flag, bit: PhantomData }
    }

    /// Closes the alias to this CPU, whatever the flag was.
    #[inline(always)]
    pub fn reset(&self) {
        self.write(B::CLOSED);
    }

    /// What this CPU may do to the pages of a key now. `None` for keys that the backend knows nothing of.
    pub fn access(&self, key: Pkey) -> Option<Access> {
        match key {
            Pkey::DEFAULT => Some(Access::ReadWrite),
            Pkey::PAGE_TABLES if self.is_open() => Some(Access::ReadWrite),
            Pkey::PAGE_TABLES => Some(Access::ReadOnly),
            _ => None,
        }
    }

    /// Whether the flag lets this CPU write page tables now.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.flag.read() & B::MASK == B::OPEN
    }

    /// What to keep of a thread: 0 closed, [`Bit::MASK`] open, so that memory of zeroes is no open window.
    #[inline(always)]
    fn state(&self) -> Saved {
        Saved(if self.is_open() { B::MASK } else { 0 })
    }

    #[inline(always)]
    fn write(&self, value: u64) {
        self.flag.write(Value(value));
        if R::NEEDS_BARRIER {
            self.flag.synchronize();
        }
    }
}

// SAFETY: entering sets or clears the flag as the context says, a constant, and `opens` accepts no context that one flag cannot
// enforce; every method that writes is always inlined. Enforcement is the register's, and that of whoever maps page tables by
// `Scheme::Alias`.
unsafe impl<R: Register, B: Bit> Backend for Flagged<R, B> {
    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        R::NEEDS_BARRIER
    }

    /// A window is two writes of a flag, which are cheap if they synchronise themselves.
    #[inline(always)]
    fn windows_are_cheap(&self) -> bool {
        !R::NEEDS_BARRIER
    }

    #[inline(always)]
    fn scheme(&self) -> Scheme {
        Scheme::Alias
    }

    #[inline(always)]
    fn has_window_root(&self) -> bool {
        B::HAS_WINDOW_ROOT
    }

    #[inline(always)]
    unsafe fn enter<C: Context>(&self) {
        self.write(const { flag_of::<C, B>() });
    }

    #[inline(always)]
    unsafe fn enter_before_barrier<C: Context>(&self) {
        self.flag.write(Value(const { flag_of::<C, B>() }));
    }

    #[inline(always)]
    fn is_in<C: Context>(&self) -> bool {
        self.flag.read() & B::MASK == const { flag_of::<C, B>() }
    }

    /// Nothing, where the CPU or the first instruction of the entry has closed the flag: what was interrupted is where the CPU saved it.
    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        if B::KEPT_BY_EXCEPTIONS {
            return Saved(0);
        }
        let interrupted = self.state();
        if interrupted.0 != 0 {
            self.write(B::CLOSED);
        }
        interrupted
    }

    /// Nothing, where the exception return restores the flag from there.
    #[inline(always)]
    unsafe fn exception_return(&self, Saved(interrupted): Saved) {
        if !B::KEPT_BY_EXCEPTIONS && interrupted & B::MASK != 0 {
            self.flag.write(Value(B::OPEN));
        }
    }

    /// A thread that is preempted left its window when the interrupt was taken, and gets it back by its own exception return: here the flag
    /// is closed on both sides, and nothing is written. One that gives the CPU away inside a window takes the open state along, and gets it
    /// back here when it is resumed.
    #[inline(always)]
    unsafe fn thread_switch(&self, previous: &mut Saved, next: &mut Saved) {
        let current = self.state();
        let Saved(wanted) = next.take(self);
        if current.0 != wanted & B::MASK {
            if wanted & B::MASK == 0 { self.write(B::CLOSED) } else { self.write(B::OPEN) }
        }
        *previous = current;
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        Saved(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_contexts_there_are_can_be_entered() {
        assert!(!const { opens::<crate::context::Default>() });
        assert!(const { opens::<crate::context::PageTables>() });
    }

    #[test]
    #[should_panic(expected = "page tables alone")]
    fn a_context_of_another_key_is_refused() {
        struct Credentials;
        impl Context for Credentials {
            const ACCESS: AccessMap =
                AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::ReadWrite);
        }
        opens::<Credentials>();
    }

    #[test]
    #[should_panic(expected = "cannot take away reading")]
    fn a_context_that_hides_page_tables_is_refused() {
        struct Hidden;
        impl Context for Hidden {
            const ACCESS: AccessMap =
                AccessMap::PROTECTED.with(Pkey::PAGE_TABLES, Access::NoAccess);
        }
        opens::<Hidden>();
    }
}

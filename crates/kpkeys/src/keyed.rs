//! Backends that work by keys: a register that holds every key's access, and its encoding.
//!
//! There are keys to spare, so that the tables of address spaces can have one of their own: that is the third parameter of [`Keyed`], and a
//! constant of the type. A backend without keys has no such parameter.

use core::marker::PhantomData;

use crate::backend::{Backend, Saved};
use crate::context::{self, Context, UserTables};
use crate::encoding::{Encoding, Update};

/// A value on its way to a protection register.
///
/// Only this crate makes one, from a context or from a saved state: that is what keeps a [`Register`] from being a
/// function that sets a caller-chosen value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value(pub(crate) u64);

impl Value {
    /// The bits to write.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The instructions that read and write a CPU's protection register.
///
/// # Safety
///
/// The implementor promises that `read` returns what this CPU last wrote, that both methods act on the calling
/// CPU alone and are always inlined, and that memory accesses are not moved across `write` by the compiler.
pub unsafe trait Register {
    /// Whether a write takes effect only after [`synchronize`](Self::synchronize).
    const NEEDS_BARRIER: bool;

    /// The register's value on this CPU.
    fn read(&self) -> u64;

    /// Writes the register of this CPU.
    fn write(&self, value: Value);

    /// Makes an earlier write take effect before any later access.
    fn synchronize(&self);
}

/// Which keys page tables have.
pub trait Keys: Copy {
    /// Whether the tables of address spaces have one of their own.
    const SEPARATE: bool;
}

/// One key for all page tables, [`Pkey::PAGE_TABLES`](crate::Pkey::PAGE_TABLES).
#[derive(Clone, Copy, Debug)]
pub struct One;

impl Keys for One {
    const SEPARATE: bool = false;
}

/// [`Pkey::USER_TABLES`](crate::Pkey::USER_TABLES) for the tables of address spaces, below their roots, and [`Pkey::PAGE_TABLES`](crate::Pkey::PAGE_TABLES) for all others and what is
/// guarded as they are.
#[derive(Clone, Copy, Debug)]
pub struct Separate;

impl Keys for Separate {
    const SEPARATE: bool = true;
}

/// The backend of a register and its encoding, with one key for all page tables or two.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<R, E, K = One> {
    register: R,
    encoding: PhantomData<(E, K)>,
}

impl<R: Register, E: Encoding> Keyed<R, E> {
    /// The backend of a register that is ready: the CPU feature is on and verified on every CPU that will use it.
    pub const fn new(register: R) -> Self {
        Keyed { register, encoding: PhantomData }
    }

    /// The same, where the tables of address spaces have a key of their own.
    pub fn with_separate_keys(self) -> Keyed<R, E, Separate> {
        Keyed { register: self.register, encoding: PhantomData }
    }
}

impl<R: Register, E: Encoding, K: Keys> Keyed<R, E, K> {
    /// Resets this CPU's register to [`context::Default`], whatever it held.
    #[inline(always)]
    pub fn reset(&self) {
        let default = const { Update::of::<E, context::Default>() };
        self.write_synchronized(Value(default.apply(self.register.read())));
    }

    /// What this CPU's register allows to a key now.
    pub fn access(&self, key: crate::Pkey) -> Option<crate::Access> {
        crate::encoding::decode::<E>(self.register.read(), key)
    }

    #[inline(always)]
    fn write_synchronized(&self, value: Value) {
        self.register.write(value);
        if R::NEEDS_BARRIER {
            self.register.synchronize();
        }
    }
}

// SAFETY: entering writes the context's own update, a constant, which leaves unmanaged keys alone, and orders it before later
// accesses by the register's barrier; every method that writes is always inlined. Enforcement is the register's.
unsafe impl<R: Register, E: Encoding, K: Keys> Backend for Keyed<R, E, K> {
    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        R::NEEDS_BARRIER
    }

    #[inline(always)]
    fn separates_user_tables(&self) -> bool {
        K::SEPARATE
    }

    #[inline(always)]
    unsafe fn enter_user_tables(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.enter::<UserTables>() };
    }

    #[inline(always)]
    unsafe fn enter<C: Context>(&self) {
        // SAFETY: the caller's promise; the barrier follows.
        unsafe { self.enter_before_barrier::<C>() };
        if R::NEEDS_BARRIER {
            self.register.synchronize();
        }
    }

    #[inline(always)]
    unsafe fn enter_before_barrier<C: Context>(&self) {
        let update = const { Update::of::<E, C>() };
        self.register.write(Value(update.apply(self.register.read())));
    }

    #[inline(always)]
    fn is_in<C: Context>(&self) -> bool {
        let update = const { Update::of::<E, C>() };
        let now = self.register.read();
        update.apply(now) == now
    }

    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        let default = const { Update::of::<E, context::Default>() };
        let interrupted = self.register.read();
        let reset = default.apply(interrupted);
        if reset != interrupted {
            self.write_synchronized(Value(reset));
        }
        Saved(interrupted)
    }

    #[inline(always)]
    unsafe fn exception_return(&self, saved: Saved) {
        if self.register.read() != saved.0 {
            self.register.write(Value(saved.0));
        }
    }

    #[inline(always)]
    unsafe fn thread_switch(&self, previous: &mut Saved, next: &mut Saved) {
        let current = self.register.read();
        let Saved(wanted) = next.take(self);
        *previous = Saved(current);
        if current != wanted {
            self.write_synchronized(Value(wanted));
        }
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        let default = const { Update::of::<E, context::Default>() };
        Saved(default.apply(self.register.read()))
    }
}

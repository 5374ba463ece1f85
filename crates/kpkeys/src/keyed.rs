//! Backends that work by keys: a register that holds every key's access, and its encoding.

use core::marker::PhantomData;

use crate::backend::{Backend, Saved};
use crate::context::{self, Context};
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

/// The backend of a register and its encoding.
#[derive(Clone, Copy, Debug)]
pub struct Keyed<R, E> {
    register: R,
    encoding: PhantomData<E>,
}

/// What entering a context did: the value to go back to, if the register was written.
#[derive(Clone, Copy, Debug)]
pub struct Entered {
    previous: Value,
    switched: bool,
}

impl<R: Register, E: Encoding> Keyed<R, E> {
    /// The backend of a register that is ready: the CPU feature is on and verified on every CPU that will use it.
    pub const fn new(register: R) -> Self {
        Keyed { register, encoding: PhantomData }
    }

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

// SAFETY: `enter` writes the value of the context's own update, which leaves unmanaged keys alone, and orders it
// before later accesses by the register's barrier; `leave` looks at nothing but the `Entered` value; every method
// that writes is always inlined. Enforcement is the register's.
unsafe impl<R: Register, E: Encoding> Backend for Keyed<R, E> {
    type Entered = Entered;

    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        R::NEEDS_BARRIER
    }

    #[inline(always)]
    fn enter<C: Context>(&self) -> Entered {
        let update = const { Update::of::<E, C>() };
        let previous = self.register.read();
        let next = update.apply(previous);
        let switched = next != previous;
        if switched {
            self.write_synchronized(Value(next));
        }
        Entered { previous: Value(previous), switched }
    }

    #[inline(always)]
    fn leave(&self, entered: Entered) {
        if entered.switched {
            self.write_synchronized(entered.previous);
        }
    }

    #[inline(always)]
    fn leave_before_barrier(&self, entered: Entered) {
        if entered.switched {
            self.register.write(entered.previous);
        }
    }

    #[inline(always)]
    fn switched(entered: Entered) -> bool {
        entered.switched
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
    fn exception_return(&self, saved: Saved) {
        if self.register.read() != saved.0 {
            self.register.write(Value(saved.0));
        }
    }

    #[inline(always)]
    fn thread_switch(&self, previous: &mut Saved, next: &Saved) {
        let current = self.register.read();
        *previous = Saved(current);
        if current != next.0 {
            self.write_synchronized(Value(next.0));
        }
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        let default = const { Update::of::<E, context::Default>() };
        Saved(default.apply(self.register.read()))
    }
}

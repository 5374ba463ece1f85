//! What the adapter needs from the kernel: a backend, a TLB flush that reaches every CPU, and windows that nothing interrupts.

use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard, Window};

/// The kernel below the tables. [`OneCpu`] is one, complete, for a kernel that uses a single CPU.
///
/// # Safety
///
/// The implementor promises:
///
/// - *flush*: when [`flush_all`](Self::flush_all) returns, no CPU uses a translation, or a path to one, that it had before;
/// - *windows*: an exception or interrupt that can be taken while [`without_interrupts`](Self::without_interrupts) runs its argument starts by
///   [`exception_entry`](Backend::exception_entry) and ends by [`exception_return`](Backend::exception_return), and opens no window of this
///   adapter's; with maskable interrupts off, NMI and machine check are left.
pub unsafe trait Machine {
    /// How windows are opened and closed.
    type Backend: Backend;

    /// The backend of the calling CPU.
    fn backend(&self) -> &Self::Backend;

    /// Invalidates every translation on every CPU, global ones and the caches of table entries too. Never called inside a window.
    ///
    /// The `x86_64` crate's `MapperFlush::flush` is for one page of the calling CPU, and its `flush_all` leaves global translations.
    fn flush_all(&self);

    /// Runs `f` with interrupts off on this CPU, and puts them back as they were. Windows are open only within.
    fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R;
}

/// Opens a window around `f`.
#[inline(always)]
pub(crate) fn in_window<M: Machine, R>(machine: &M, f: impl FnOnce(&Window<'_>) -> R) -> R {
    machine.without_interrupts(|| {
        // SAFETY: the adapter opens no window within a window, and `Machine` keeps handlers out of it; `f` is stores to tables, by this
        // crate or the wrapped one, or what the caller of `batch` answers for.
        let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(machine.backend()) };
        f(&guard.window())
    })
}

#[cfg(target_arch = "x86_64")]
pub use one_cpu::OneCpu;

#[cfg(target_arch = "x86_64")]
mod one_cpu {
    use kpkeys::Backend;
    use x86_64::instructions::{interrupts, tlb};
    use x86_64::registers::control::{Cr4, Cr4Flags};

    use super::Machine;

    /// The machine of a kernel that runs on one CPU.
    #[derive(Clone, Copy, Debug)]
    pub struct OneCpu<B> {
        backend: B,
    }

    impl<B: Backend> OneCpu<B> {
        /// The machine of this CPU.
        ///
        /// # Safety
        ///
        /// - Must be used at privilege level 0, on the CPU that initialised `backend`, and no other CPU uses the tables.
        /// - Handlers of exceptions that can come while interrupts are off start and end as [`Machine`] says.
        pub const unsafe fn new(backend: B) -> Self {
            OneCpu { backend }
        }
    }

    // SAFETY: there is one CPU (contract of `new`): what is flushed here is flushed everywhere. Changing CR4.PGE invalidates all translations,
    // global ones and those of every PCID, and all paging-structure caches (Intel SDM vol. 3A 4.10.4.1); writing CR3 does that for all but global
    // translations where CR4.PGE is clear, so that there are none. Exceptions are the contract of `new`.
    unsafe impl<B: Backend> Machine for OneCpu<B> {
        type Backend = B;

        #[inline(always)]
        fn backend(&self) -> &B {
            &self.backend
        }

        fn flush_all(&self) {
            let cr4 = Cr4::read();
            if !cr4.contains(Cr4Flags::PAGE_GLOBAL) {
                return tlb::flush_all();
            }
            // SAFETY: the bit decides about TLB entries alone, and is put back.
            unsafe {
                Cr4::write(cr4 - Cr4Flags::PAGE_GLOBAL);
                Cr4::write(cr4);
            }
        }

        #[inline(always)]
        fn without_interrupts<R>(&self, f: impl FnOnce() -> R) -> R {
            interrupts::without_interrupts(f)
        }
    }
}

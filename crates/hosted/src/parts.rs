//! Protection taken apart, for measuring: backends that leave out a part of what the mock does.
//!
//! | backend | switches | sets keys | puts unmaps off until a window opens (`fused-lean`) |
//! |---|---|---|---|
//! | [`MockBackend`](crate::boot::MockBackend) | yes | yes | yes |
//! | [`WithoutKeys`] | yes | no | yes |
//! | [`Null`] | no | yes | yes |
//! | [`WithoutDeferral`] | yes | yes | no |
//!
//! Each is a type, so that a machine by one of them is another instance of the same generic code, and the others have no trace of it. They
//! are here and nowhere else: a kernel cannot be built with them.

use std::io;
use std::sync::Arc;

use kpkeys::encoding::Encoding;
use kpkeys::keyed::{Keyed, Separate};
pub use kpkeys::null::Null;
use kpkeys::{Backend, Context, Saved, Scheme};

use crate::arena::Arena;
use crate::register::MockRegister;
use crate::tlb::{NoTlb, Tlb};

/// A backend whose cost is measured.
pub trait Measured: Backend + Sync + Sized {
    /// What its machine keeps of translations.
    type Tlb: Tlb;

    /// The backend, outside of windows on the calling CPU.
    ///
    /// # Errors
    ///
    /// Why this host does not have it.
    fn ready() -> io::Result<Self>;

    /// Memory for its machine, and what is kept of translations to it.
    ///
    /// # Errors
    ///
    /// The host has no memory for the arena.
    fn memory(pages: usize) -> io::Result<(Arc<Arena>, Self::Tlb)>;
}

fn unguarded(pages: usize) -> io::Result<(Arc<Arena>, NoTlb)> {
    Ok((Arc::new(Arena::new(pages)?), NoTlb))
}

impl<E: Encoding + Send + Sync> Measured for Keyed<MockRegister, E> {
    type Tlb = NoTlb;

    fn ready() -> io::Result<Self> {
        let backend = Keyed::new(MockRegister::detect());
        backend.reset();
        Ok(backend)
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, NoTlb)> {
        unguarded(pages)
    }
}

impl<E: Encoding + Send + Sync> Measured for Keyed<MockRegister, E, Separate> {
    type Tlb = NoTlb;

    fn ready() -> io::Result<Self> {
        Keyed::<MockRegister, E>::ready().map(Keyed::with_separate_keys)
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, NoTlb)> {
        unguarded(pages)
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl Measured for crate::pku::SeparatePku {
    type Tlb = crate::pku::HostKeys;

    fn ready() -> io::Result<Self> {
        Ok(crate::pku::ready()?.with_separate_keys())
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, Self::Tlb)> {
        kpkeys::pku::Pku::memory(pages)
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl Measured for kpkeys::pku::Pku {
    type Tlb = crate::pku::HostKeys;

    fn ready() -> io::Result<Self> {
        Ok(crate::pku::ready()?)
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, Self::Tlb)> {
        let arena = Arc::new(Arena::keyed(pages)?);
        Ok((arena.clone(), crate::pku::HostKeys::new(arena)))
    }
}

impl Measured for Null {
    type Tlb = NoTlb;

    fn ready() -> io::Result<Self> {
        Ok(Null::new())
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, NoTlb)> {
        unguarded(pages)
    }
}

/// A backend that does less than the one in it.
#[derive(Clone, Copy, Debug)]
pub struct Less<B, const KEYS: bool, const DEFERRAL: bool>(B);

/// Windows as ever, and no key is set: what `set_memory_pkey()` was by accident when the series was first measured.
pub type WithoutKeys<B> = Less<B, false, true>;

/// Everything, and no unmap waits for a window.
pub type WithoutDeferral<B> = Less<B, true, false>;

impl<B: Measured, const KEYS: bool, const DEFERRAL: bool> Measured for Less<B, KEYS, DEFERRAL> {
    type Tlb = B::Tlb;

    fn ready() -> io::Result<Self> {
        B::ready().map(Less)
    }

    fn memory(pages: usize) -> io::Result<(Arc<Arena>, B::Tlb)> {
        B::memory(pages)
    }
}

// SAFETY: every method that touches the CPU is the inner backend's, inlined, and so is what they promise, but for enforcement: without keys
// nothing is protected, and nothing is claimed to be.
unsafe impl<B: Backend, const KEYS: bool, const DEFERRAL: bool> Backend
    for Less<B, KEYS, DEFERRAL>
{
    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        self.0.write_needs_barrier()
    }

    #[inline(always)]
    fn has_register(&self) -> bool {
        self.0.has_register()
    }

    #[inline(always)]
    fn windows_are_cheap(&self) -> bool {
        !DEFERRAL || self.0.windows_are_cheap()
    }

    #[inline(always)]
    fn sets_keys(&self) -> bool {
        KEYS && self.0.sets_keys()
    }

    #[inline(always)]
    fn scheme(&self) -> Scheme {
        self.0.scheme()
    }

    #[inline(always)]
    unsafe fn enter<C: Context>(&self) {
        // SAFETY: the caller keeps what this wants.
        unsafe { self.0.enter::<C>() };
    }

    #[inline(always)]
    unsafe fn enter_before_barrier<C: Context>(&self) {
        // SAFETY: the caller keeps what this wants.
        unsafe { self.0.enter_before_barrier::<C>() };
    }

    #[inline(always)]
    fn is_in<C: Context>(&self) -> bool {
        self.0.is_in::<C>()
    }

    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        self.0.exception_entry()
    }

    #[inline(always)]
    unsafe fn exception_return(&self, saved: Saved) {
        // SAFETY: the caller keeps what this wants, and what was saved is the inner backend's.
        unsafe { self.0.exception_return(saved) };
    }

    #[inline(always)]
    unsafe fn thread_switch(&self, previous: &mut Saved, next: &mut Saved) {
        // SAFETY: as above.
        unsafe { self.0.thread_switch(previous, next) };
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        self.0.initial()
    }
}

//! Values of one's own that can be read by everybody and written in a window alone: credentials, policies, what a kernel writes rarely.
//!
//! A [`Guarded`] is to such data what a page-table entry's setter is to tables: loads are plain, a store needs the proof that the CPU is in the
//! context that may write it. Which key that is, a type says ([`Key`]); it is never the one of page tables. The pages need
//! that key in the leaves that map them, which whoever keeps the tables sees to.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::backend::Backend;
use crate::context::{Context, Default};
use crate::guard::Guard;
use crate::key::{Access, AccessMap, Pkey};

/// A key for data that is no page table.
///
/// ```
/// use kpkeys::{Pkey, guarded::Key};
///
/// /// The key of credentials.
/// struct Credentials;
/// impl Key for Credentials {
///     const PKEY: Pkey = Pkey::WRITE_RARELY;
/// }
/// ```
pub trait Key {
    /// Its number: one that every context manages, and neither key 0 nor one of page tables.
    const PKEY: Pkey;
}

/// The context in which what carries key `K` may be written: that key alone.
#[derive(Clone, Copy, Debug)]
pub struct Writing<K>(PhantomData<K>);

impl<K: Key> Context for Writing<K> {
    const ACCESS: AccessMap = {
        assert!(
            K::PKEY.number() != Pkey::PAGE_TABLES.number(),
            "the key of page tables is for page tables: take another"
        );
        assert!(
            K::PKEY.number() != Pkey::USER_TABLES.number(),
            "the key of the tables of address spaces is for these: take another"
        );
        assert!(
            K::PKEY.number() != Pkey::DEFAULT.number(),
            "key 0 can always be written: it guards nothing"
        );
        AccessMap::PROTECTED.with(K::PKEY, Access::ReadWrite)
    };
}

/// A value in memory that carries key `K`. It is read as any other, and written in a window.
///
/// `T` is `Copy`, so that nothing in it can be changed through a shared reference, and nothing happens when it is replaced.
#[derive(Debug)]
pub struct Guarded<T: Copy, K: Key> {
    place: NonNull<T>,
    key: PhantomData<K>,
}

// SAFETY: it is the only way to its value (contract of `new`), as `Box` is.
unsafe impl<T: Copy + Send, K: Key> Send for Guarded<T, K> {}
// SAFETY: as above: shared, it gives out `&T`.
unsafe impl<T: Copy + Sync, K: Key> Sync for Guarded<T, K> {}

impl<T: Copy, K: Key> Guarded<T, K> {
    /// Places a value, in a window.
    ///
    /// # Safety
    ///
    /// - `place` is valid for reads and aligned, for as long as the value is used, and for writes while this CPU is in [`Writing<K>`]; nothing else
    ///   is stored there.
    /// - The value is protected from when the memory around it carries the key in *every* mapping of it that can be written, and is worth it only if
    ///   what else lies in its pages carries that key, too.
    /// - `backend` is the calling CPU's, here and in [`set`](Self::set), and both are called where a guard [may be made](Guard::enter).
    pub unsafe fn new<B: Backend>(place: NonNull<T>, backend: &B, value: T) -> Self {
        let mut guarded = Guarded { place, key: PhantomData };
        guarded.set(backend, value);
        guarded
    }

    /// Replaces the value, in a window that has nothing but this store in it.
    #[inline(always)]
    pub fn set<B: Backend>(&mut self, backend: &B, value: T) {
        // SAFETY: the contract of `new`; and what happens in the window is the store.
        let guard: Guard<'_, B, Writing<K>> = unsafe { Guard::enter(backend) };
        self.store(&guard, value);
    }

    /// Replaces the value in a window that is open, with others, or [within](Guard::within) another.
    #[inline(always)]
    pub fn store<B: Backend, Outside: Context>(
        &mut self,
        _window: &Guard<'_, B, Writing<K>, Outside>,
        value: T,
    ) {
        // SAFETY: the place is this value's, and may be written in this context (contract of `new`); nobody has a reference, since this is `&mut`.
        unsafe { self.place.write(value) };
    }
}

impl<T: Copy, K: Key> Deref for Guarded<T, K> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: a value was placed there, and is only replaced by `&mut` (contract of `new`).
        unsafe { self.place.as_ref() }
    }
}

/// [`struct@Default`] closes every key that a [`Key`] can name.
const _: () =
    assert!(matches!(<Default as Context>::ACCESS.get(Pkey::WRITE_RARELY), Some(Access::ReadOnly)));

//! An entry cannot be stored without a window.
//! expect: E0061

use kpkeys::{Backend, Guard, context::PageTables};
use kpkeys_pgtable::table::Slot;
use kpkeys_pgtable::{Entry, store};

pub fn stray<B: Backend>(backend: &B, slot: Slot<'_>) {
    // SAFETY: the only window, and nothing but a store in it.
    let guard: Guard<'_, B, PageTables> = unsafe { Guard::enter(backend) };
    #[cfg(feature = "misuse")]
    store::set(slot, Entry::EMPTY);
    #[cfg(not(feature = "misuse"))]
    store::set(&guard.window(), slot, Entry::EMPTY);
    drop(guard);
}

fn main() {}

//! An entry cannot be stored with the window of a guard that is gone.
//! expect: E0505

use kpkeys::{Backend, Guard, context::PageTables};
use kpkeys_pgtable::table::Slot;
use kpkeys_pgtable::{Entry, store};

pub fn late<B: Backend>(backend: &B, slot: Slot<'_>) {
    // SAFETY: the only window, and nothing but a store in it.
    let guard: Guard<'_, B, PageTables> = unsafe { Guard::enter(backend) };
    let window = guard.window();
    store::set(&window, slot, Entry::EMPTY);
    drop(guard);
    #[cfg(feature = "misuse")]
    store::clear(&window, slot);
}

fn main() {}

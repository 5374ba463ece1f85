//! A guard cannot be copied: its context would be left twice.
//! expect: E0599

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    #[cfg(feature = "misuse")]
    drop(guard.clone());
    drop(guard);
}

//! A guard cannot be copied: its context would be left twice.
//! expect: E0599

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    let guard: Guard<'_, _, PageTables> = Guard::enter(&backend);
    #[cfg(feature = "misuse")]
    drop(guard.clone());
    drop(guard);
}

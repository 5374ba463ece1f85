//! A window cannot be opened without a promise, in `unsafe`, of what happens in it.
//! expect: E0133

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    #[cfg(feature = "misuse")]
    let guard: Guard<'_, _, PageTables> = Guard::enter(&backend);
    // SAFETY: the backend opens nothing, and there are no page tables.
    #[cfg(not(feature = "misuse"))]
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    drop(guard);
}

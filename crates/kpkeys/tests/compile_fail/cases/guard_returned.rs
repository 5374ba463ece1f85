//! A guard cannot leave the scope of the backend it borrows.
//! expect: E0515

use kpkeys::{Guard, context::PageTables, null::Null};

#[cfg(feature = "misuse")]
fn enter() -> Guard<'static, Null, PageTables> {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    unsafe { Guard::enter(&backend) }
}

#[cfg(not(feature = "misuse"))]
fn enter() -> Guard<'static, Null, PageTables> {
    static BACKEND: Null = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    unsafe { Guard::enter(&BACKEND) }
}

fn main() {
    let _guard = enter();
}

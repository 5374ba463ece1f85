//! A window cannot be used once the guard it came from is dropped.
//! expect: E0505

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    let window = guard.window();
    let _ = window;
    drop(guard);
    #[cfg(feature = "misuse")]
    println!("{window:?}");
}

//! While a guard within another lives, the outer one's window is not open and cannot be had.
//! expect: E0502

use kpkeys::{Guard, context, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let mut guard: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(&backend) };
    // SAFETY: as before.
    let closed = unsafe { guard.within::<context::Default>() };
    #[cfg(feature = "misuse")]
    let _ = guard.window();
    drop(closed);
    let _ = guard.window();
}

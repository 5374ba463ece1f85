//! A guard that was left with the help of a barrier is gone.
//! expect: E0382

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    guard.leave_with(|| ());
    #[cfg(feature = "misuse")]
    guard.leave_with(|| ());
}

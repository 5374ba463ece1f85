//! A guard belongs to the CPU that made it: it cannot be sent to another thread.
//! expect: E0277

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    #[cfg(feature = "misuse")]
    std::thread::scope(|scope| {
        scope.spawn(move || drop(guard));
    });
    #[cfg(not(feature = "misuse"))]
    drop(guard);
}

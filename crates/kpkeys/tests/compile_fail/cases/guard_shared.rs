//! A guard cannot be used from another thread by reference either: the window it would give is not open there.
//! expect: E0277

use kpkeys::{Guard, context::PageTables, null::Null};

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    let look = || {
        let _ = guard.window();
    };
    #[cfg(feature = "misuse")]
    std::thread::scope(|scope| {
        scope.spawn(look);
    });
    #[cfg(not(feature = "misuse"))]
    look();
}

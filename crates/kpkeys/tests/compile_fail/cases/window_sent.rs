//! A window proves something of one CPU: it cannot be sent to another thread.
//! expect: E0277

use kpkeys::{Guard, Window, context::PageTables, null::Null};

fn set_entry(_window: &Window<'_>) {}

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
    let window = guard.window();
    let store = move || set_entry(&window);
    #[cfg(feature = "misuse")]
    std::thread::scope(|scope| {
        scope.spawn(store);
    });
    #[cfg(not(feature = "misuse"))]
    store();
}

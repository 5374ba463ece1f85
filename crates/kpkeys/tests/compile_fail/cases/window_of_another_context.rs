//! Only a guard for `PageTables` gives a window.
//! expect: E0599

use kpkeys::{Guard, context, null::Null};

#[cfg(feature = "misuse")]
type Entered = context::Default;
#[cfg(not(feature = "misuse"))]
type Entered = context::PageTables;

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let guard: Guard<'_, _, Entered> = unsafe { Guard::enter(&backend) };
    let _ = guard.window();
}

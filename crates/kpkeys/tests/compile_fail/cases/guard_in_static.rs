//! A guard cannot be kept in a `static`, where it would never be dropped.
//! expect: E0277

use std::sync::Mutex;

use kpkeys::{Guard, context::PageTables, null::Null};

static BACKEND: Null = Null::new();

#[cfg(feature = "misuse")]
static KEPT: Mutex<Option<Guard<'static, Null, PageTables>>> = Mutex::new(None);

fn main() {
    let kept: Mutex<Option<Guard<'static, Null, PageTables>>> = Mutex::new(None);
    // SAFETY: the backend opens nothing, and there are no page tables.
    *kept.lock().unwrap() = Some(unsafe { Guard::enter(&BACKEND) });
}

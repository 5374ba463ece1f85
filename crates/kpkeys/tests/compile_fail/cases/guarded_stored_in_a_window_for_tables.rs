//! A window for page tables does not open data of another key.
//! expect: E0308

use std::ptr::NonNull;

use kpkeys::guarded::{Guarded, Key, Writing};
use kpkeys::{Guard, Pkey, context, null::Null};

struct Credentials;

impl Key for Credentials {
    const PKEY: Pkey = Pkey::WRITE_RARELY;
}

#[cfg(feature = "misuse")]
type Entered = context::PageTables;
#[cfg(not(feature = "misuse"))]
type Entered = Writing<Credentials>;

fn main() {
    let backend = Null::new();
    let mut place = 0u32;
    // SAFETY: the place is this value's, and the backend opens nothing.
    let mut user: Guarded<u32, Credentials> =
        unsafe { Guarded::new(NonNull::from(&mut place), &backend, 1) };
    // SAFETY: as above.
    let guard: Guard<'_, _, Entered> = unsafe { Guard::enter(&backend) };
    user.store(&guard, 2);
    let _: Option<Writing<Credentials>> = None;
    let _: Option<context::PageTables> = None;
}

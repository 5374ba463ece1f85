//! Data of one's own never carries the key of page tables: whoever may write it could write those.
//! expect: E0080 the key of page tables is for page tables

use std::ptr::NonNull;

use kpkeys::guarded::{Guarded, Key};
use kpkeys::{Pkey, null::Null};

struct Credentials;

impl Key for Credentials {
    #[cfg(feature = "misuse")]
    const PKEY: Pkey = Pkey::PAGE_TABLES;
    #[cfg(not(feature = "misuse"))]
    const PKEY: Pkey = Pkey::WRITE_RARELY;
}

fn main() {
    let mut place = 0u32;
    // SAFETY: the place is this value's, and the backend opens nothing.
    let user: Guarded<u32, Credentials> =
        unsafe { Guarded::new(NonNull::from(&mut place), &Null::new(), 1) };
    let _ = *user;
}

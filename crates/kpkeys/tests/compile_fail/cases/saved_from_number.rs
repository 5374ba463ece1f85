//! A saved state cannot be made from a number, so an exception return restores no caller-chosen value.
//! expect: E0423

use kpkeys::{Backend, Saved, null::Null};

#[cfg(feature = "misuse")]
fn forge() -> Saved {
    Saved(0)
}

#[cfg(not(feature = "misuse"))]
fn forge() -> Saved {
    Null::new().exception_entry()
}

fn main() {
    // SAFETY: the backend has no register.
    unsafe { Null::new().exception_return(forge()) };
}

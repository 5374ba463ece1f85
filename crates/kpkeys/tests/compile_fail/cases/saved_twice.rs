//! A saved state is restored once: it can neither be copied nor be used again.
//! expect: E0382

use kpkeys::{Backend, null::Null};

fn main() {
    let backend = Null::new();
    let saved = backend.exception_entry();
    // SAFETY: the backend has no register.
    unsafe { backend.exception_return(saved) };
    #[cfg(feature = "misuse")]
    // SAFETY: as before.
    unsafe {
        backend.exception_return(saved);
    }
}

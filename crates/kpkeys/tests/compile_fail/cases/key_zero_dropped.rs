//! A context cannot take read-write from key 0, through which exceptions save their frames.
//! expect: E0080 key 0 must stay read-write

use kpkeys::{Access, AccessMap, Context, Guard, Pkey, null::Null};

struct Own;

impl Context for Own {
    #[cfg(feature = "misuse")]
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::DEFAULT, Access::ReadOnly);
    #[cfg(not(feature = "misuse"))]
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::DEFAULT, Access::ReadWrite);
}

fn main() {
    let backend = Null::new();
    // SAFETY: the backend opens nothing, and there are no page tables.
    let _guard: Guard<'_, _, Own> = unsafe { Guard::enter(&backend) };
}

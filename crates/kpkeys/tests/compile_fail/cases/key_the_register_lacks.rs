//! A context cannot manage a key that the register has no field for.
//! expect: E0080 the context manages a key that this register does not have

use kpkeys::encoding::{Por, Update};
use kpkeys::{Access, AccessMap, Context, Pkey};

#[cfg(feature = "misuse")]
const NUMBER: u8 = 8;
#[cfg(not(feature = "misuse"))]
const NUMBER: u8 = 7;

struct Own;

impl Context for Own {
    const ACCESS: AccessMap =
        AccessMap::PROTECTED.with(Pkey::new(NUMBER).unwrap(), Access::ReadWrite);
}

fn main() {
    let update = const { Update::of::<Por, Own>() };
    assert_ne!(update.apply(0), 0);
}

//! A context cannot manage a key that the register has no field for.
//! expect: E0080 the context manages a key that this register does not have

use kpkeys::context::PageTables;
use kpkeys::encoding::{Encoding, Por, Update};

/// A register like POR_EL1 with fewer keys.
struct Short;

impl Encoding for Short {
    #[cfg(feature = "misuse")]
    const KEYS: u8 = 2;
    #[cfg(not(feature = "misuse"))]
    const KEYS: u8 = 4;
    const BITS: u32 = Por::BITS;
    const KEY0: u64 = Por::KEY0;
    const READ_WRITE: u64 = Por::READ_WRITE;
    const READ_ONLY: u64 = Por::READ_ONLY;
    const NO_ACCESS: u64 = Por::NO_ACCESS;
}

fn main() {
    let update = const { Update::of::<Short, PageTables>() };
    assert_ne!(update.apply(0), 0);
}

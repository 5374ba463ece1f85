//! A flag, PAN or AC, has one class of protected pages: tables of address spaces cannot have a key of their own.
//! expect: E0599 no method named `with_separate_keys`

use kpkeys::encoding::Pkrs;
use kpkeys::keyed::{Keyed, Register, Value};
use kpkeys::pan::Pan;
use kpkeys::Backend;

pub fn separate<R: Register + Copy>(keyed: Keyed<R, Pkrs>, pan: Pan<R>) -> bool {
    #[cfg(feature = "misuse")]
    let pan = pan.with_separate_keys();
    keyed.with_separate_keys().separates_user_tables() && pan.separates_user_tables()
}

#[derive(Clone, Copy)]
struct Nothing;
// SAFETY: no access is enforced or ordered by it.
unsafe impl Register for Nothing {
    const NEEDS_BARRIER: bool = false;
    fn read(&self) -> u64 {
        0
    }
    fn write(&self, _value: Value) {}
    fn synchronize(&self) {}
}

fn main() {
    assert!(!separate(Keyed::new(Nothing), Pan::new(Nothing)));
}

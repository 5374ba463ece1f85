//! A flag, PAN or AC, has one class of protected pages: a context that changes another key than that of page tables cannot be entered by it.
//! expect: E0080 a flag protects page tables alone

use kpkeys::keyed::{Register, Value};
use kpkeys::pan::Pan;
use kpkeys::{Access, AccessMap, Backend, Context, Pkey, context};

struct Credentials;
impl Context for Credentials {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::ReadWrite);
}

pub fn enter<R: Register>(pan: &Pan<R>) {
    // SAFETY: there are no page tables in this program.
    unsafe { pan.enter::<context::PageTables>() };
    // SAFETY: as before.
    #[cfg(feature = "misuse")]
    unsafe {
        pan.enter::<Credentials>();
    }
}

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
    enter(&Pan::new(Nothing));
    assert!(Credentials::ACCESS.get(Pkey::WRITE_RARELY).is_some());
}

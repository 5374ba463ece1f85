//! Asynchronous errors: machine checks. None comes when it is asked for, but INT goes through the same gate, to the same stack and
//! handler (Intel SDM vol. 3A, 6.3.3 "Software-Generated Interrupts"; vector 18 has no error code).

use super::entry::MACHINE_CHECK;

/// Whether [`raise`] works.
pub fn can_be_raised() -> bool {
    true
}

/// Enters this CPU's machine-check handler.
pub fn raise() {
    // SAFETY: the handler has a stack of its own and knows what to do about an error that the kernel raised.
    unsafe { core::arch::asm!("int {}", const MACHINE_CHECK) };
}

//! No page of the kernel is both writable and executable.

use crate::arch::layout;
use crate::arch::probe::RETURN;
use crate::cpu::fault::{Cause, Fault};
use crate::evidence::probe;
use crate::memory::paging::memories;
use crate::start::image;
use crate::{ensure, kernel_test, protection};
use core::sync::atomic::{AtomicU64, Ordering};

/// A variable that holds the machine code of a function that does nothing.
static RETURN_INSTRUCTION: AtomicU64 = AtomicU64::new(RETURN);
static CONSTANT: u64 = 0x0123_4567_89ab_cdef;

/// Writes back the value that is there.
fn write_back(at: *mut u64) -> Result<(), Fault> {
    let value = probe::load_u64(at)?;
    // SAFETY: the value is the one that is there, and nobody changes text or constants.
    unsafe { probe::store_u64(at, value) }
}

kernel_test! {
    /// Code cannot be written, neither where it runs nor through the linear map.
    fn text_is_read_only() {
        let (text, _) = image::text();
        for at in aliases(text) {
            let cause = write_back(at).map_err(|fault| fault.cause);
            ensure!(cause == Err(Cause::Write), "writing text at {at:p}: {cause:?}");
        }
    }

    /// Constants cannot be written either.
    fn constants_are_read_only() {
        for at in aliases(&raw const CONSTANT as u64) {
            let cause = write_back(at).map_err(|fault| fault.cause);
            ensure!(cause == Err(Cause::Write), "writing a constant at {at:p}: {cause:?}");
        }
    }

    /// Variables cannot be executed, neither where they are nor through the linear map.
    fn data_does_not_execute() {
        let variable = RETURN_INSTRUCTION.as_ptr();
        ensure!(RETURN_INSTRUCTION.load(Ordering::Relaxed) == RETURN, "the variable has changed");
        for at in aliases(variable as u64) {
            // SAFETY: if it runs, it is a lone RET.
            let cause = unsafe { probe::execute(at.cast()) }.map_err(|fault| fault.cause);
            ensure!(cause == Err(Cause::Execute), "running a variable at {at:p}: {cause:?}");
        }
    }

    /// Constants cannot be executed.
    fn constants_do_not_execute() {
        static CONSTANT_RETURN: u64 = RETURN;
        for at in aliases(&raw const CONSTANT_RETURN as u64) {
            // SAFETY: if it runs, it is a lone RET.
            let cause = unsafe { probe::execute(at.cast()) }.map_err(|fault| fault.cause);
            ensure!(cause == Err(Cause::Execute), "running a constant at {at:p}: {cause:?}");
        }
    }

    /// What is set once during start cannot be written afterwards: not where it is, and not through the linear map either if that is
    /// enforced.
    fn what_has_settled_is_read_only() {
        let protects = memories().paging().mode().protects();
        let enforced = protects && protection::selected().enforces();
        let [own, linear] = aliases(image::settled().0);
        for (at, read_only) in [(own, protects), (linear, enforced)] {
            let refused = write_back(at).is_err();
            ensure!(refused == read_only, "writing at {at:p}: refused {refused}, read-only {read_only}");
        }
    }

    /// Nothing is left of the one-to-one map the kernel booted on.
    fn low_addresses_are_unmapped() {
        for address in [0x1000_u64, 0x8000, image::frames().start.0] {
            let cause = probe::load_u64(address as *const u64).map_err(|fault| fault.cause);
            ensure!(cause == Err(Cause::NotMapped), "reading {address:#x}: {cause:x?}");
        }
    }
}

/// The two addresses of a byte of the image.
fn aliases(virt: u64) -> [*mut u64; 2] {
    [virt as *mut u64, layout::linear(image::phys(virt)).cast()]
}

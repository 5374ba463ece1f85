//! Reading and writing system registers by name.

/// Reads a system register.
macro_rules! mrs {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: each caller names a register that exists on this CPU and can be read at EL1 without effect.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags))
        };
        value
    }};
}

/// Writes a system register. An `unsafe` block of the caller says why the value is right.
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags))
    }};
}

pub(super) use {mrs, msr};

/// Makes writes of system registers take effect before the next instruction.
pub fn synchronize() {
    // SAFETY: ISB has no effect but to synchronise the context.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}

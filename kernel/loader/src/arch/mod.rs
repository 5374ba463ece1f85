//! What differs from one kind of machine to the other: how the kernel lies in memory, what it is given, how it is entered.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{MACHINE, start};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{MACHINE, start};

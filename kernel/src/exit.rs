//! How the kernel ends: the one value the outside learns.

use crate::arch;

/// Why the kernel stopped. The number is what the emulator's exit device is given; see
/// [`arch::exit`] for how it becomes an exit status of the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// Everything that was asked for was done and held.
    Success = 0x10,
    /// The kernel worked, but a test or a gate failed.
    Failed = 0x11,
    /// The kernel panicked; the message is the last thing on the console.
    Panicked = 0x12,
    /// The kernel would not start: bad command line, missing CPU feature, too little memory.
    Refused = 0x13,
}

/// Leaves the machine. Not inlined: whoever debugs from outside stops here, with the reason in the first register of arguments.
#[inline(never)]
pub fn exit(why: Exit) -> ! {
    arch::exit::exit(why)
}

/// Stops the boot with a reason the user can act on.
pub fn refuse(reason: core::fmt::Arguments<'_>) -> ! {
    log::error!("boot refused: {reason}");
    exit(Exit::Refused)
}
